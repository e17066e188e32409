"""A change of many steps that is interrupted at any instant is made or it is not: no limit, key or account has a part of it.

In memory a request changes copies, which one write makes the truth; a signal handler that raises (a time-out, Ctrl-C)
may come between any two calls.
"""

from __future__ import annotations

import importlib
import itertools
from datetime import timedelta

import pytest

from interleavings import NOON, plant
from interrupts import interrupts
from quota import Ledger, ManualClock, QuotaError, UsagePlan
from quota.clock import to_datetime
from quota.operations.headroom import Told
from quota.stores.memory import MemoryStore, accounts, holding, retries

CORE = [
    importlib.import_module(f"{Ledger.__module__.removesuffix('.ledger.sync')}.{name}")
    for name in (
        "ledger.sync", "ledger.requests", "ledger.administration", "ledger.reservations.handle", "ledger.reservations.settling", "operations", "operations.request",
        "operations.consume", "operations.reservations", "operations.adjustments", "operations.standing", "operations.usage",
        "operations.idempotency", "operations.headroom", "operations.shape", "operations.compiled", "process.atomic", "period", "rule.charge", "rule.entries", "rule.limits", "rule.subject", "rule.record", "rule.replan",
        "rule.kept", "rule.meter", "stores.base", "process.locks", "stores.memory.one_meter", "stores.memory.retries", "stores.memory.entries", "stores.memory.binding", "stores.memory.holding", "stores.memory.store", "stores.memory.accounts", "stores.memory.directory", "stores.accounts",
    )
]  # fmt: skip
HOUR = timedelta(hours=1)
LATER = {
    "at once": timedelta(0),
    "a minute later": timedelta(minutes=1),
    "an hour later": HOUR,
    "days later": 60 * HOUR,
}


class World:
    """Two keys of one account on a plan with limits of every kind, and some use of each.

    ``alone``: one key, on a plan for the fast path, which is open. ``bound``: calls are served by headrooms.
    ``firm``: there are accounts beside those of the keys.
    """

    def __init__(self, later, *, alone=False, bound=False, firm=False):
        self.clock = ManualClock(NOON)
        self.ledger = ledger = Ledger(MemoryStore(stripes=1), clock=self.clock)
        limits = "40/hour, 900/day by account, 50/s burst 50, 90 tokens/day overage 9"
        ledger.add_plan(UsagePlan("p", limits, routes={"/r": "5/day"}, alerts=(20, 50)))
        ledger.add_plan(UsagePlan("q", "70/minute, 1000/month by account, 20/s burst 30 by account"))
        if alone:
            ledger.replace_plan(UsagePlan("p", "40/hour, 50/s burst 50"))
        for id_ in ("k",) if alone else ("k", "l"):
            ledger.issue_key(id_, "p", id=id_, account=None if alone else "a")
        if firm:
            self.team = "group" if alone else "a"
            for id_, parent in (("side", None), ("group", None if alone else "side")):
                ledger.add_account(id_, parent=parent)
            ledger.add_plan(UsagePlan("above", "60/day, 800 tokens/day"))
            ledger.associate("side", "above")
        self.key = ledger.get_key("k")
        for _ in range(3):
            ledger.consume(self.key)
        if not alone:
            ledger.consume(ledger.get_key("l"), {"requests": 2, "tokens": 5})
        ledger.consume(self.key, route="/r")
        ledger.refund(ledger.consume(self.key))
        self.decision = ledger.consume(self.key, {"requests": 2, "tokens": 3}, request_id="old")
        self.held = ledger.reserve(self.key, {"requests": 4, "tokens": 6}, ttl=2 * HOUR, request_id="held")
        ledger.consume(self.key)
        for id_, route in [("k", None), ("k", "/r"), ("l", None)] * 3 * bound:
            said = ledger.consume(ledger.get_key(id_), {"tokens": 1}, route=route)
        assert not bound or type(said) is Told, "no headroom is bound"
        self.clock.advance(later)
        assert bool(ledger.store.rooms["k"].until) == alone, "the fast path is not as told"

    def status(self):
        """All that callers can be told, by what they ask."""
        told = {}
        for id_ in ("k", "l", "m"):
            for takes in ({"requests": 1}, {"tokens": 1}):
                for route in (None, "/r"):
                    told[id_, *takes, route] = attempt(self._look, id_, takes, route)
            told[id_, "usage"] = attempt(lambda id_=id_: [*self.ledger.usage(id_)])
        told["held"] = attempt(lambda: [sorted(held.held.items()) for held in self.ledger.list_reservations("k")])
        told["plans"] = self.ledger.list_plans()
        for account in self.ledger.list_accounts():
            told[account.id] = account, attempt(self.ledger.status, account), self.ledger.list_plans(account)
        told["keys"] = [(key.id, key.scheduled) for key in self.ledger.list_keys()]
        return told

    def _look(self, id_, takes, route):
        decision = self.ledger.peek(self.ledger.get_key(id_), takes, route=route)
        return decision.reason, decision.limits, decision.crossed

    def outcome(self):
        """What is told; what comes of what can be done once; what is told then."""
        told = self.status()
        once = (
            # By another hand: this one may have been kept from noting that the store was done.
            attempt(lambda: self.ledger.reservation(self.held.id).cancel()), attempt(self.ledger.refund, self.decision),
            attempt(lambda: self.ledger.consume(self.key, {"requests": 3, "tokens": 7}, request_id="x").replayed),
            attempt(lambda: [bool(self.ledger.consume(self.key)) for _ in range(12)]),
        )  # fmt: skip
        return told, once, self.status()


def attempt(call, *args):
    """What a call returns, or the kind of error that it raises."""
    try:
        return call(*args)
    except QuotaError as error:
        return type(error)


ACCOUNTS = {
    "an account is added": lambda w: w.ledger.add_account("new", parent="group"),
    "an account goes below others": lambda w: w.ledger.update_account(w.team, parent="side"),
    "an account of nobody moves": lambda w: w.ledger.update_account("group", name="Group", parent=None),
    "an account goes on a plan": lambda w: w.ledger.associate(w.ledger.get_account(w.team), "above"),
    "an account leaves its plan": lambda w: w.ledger.dissociate("side", "above"),
    "an account is removed": lambda w: w.ledger.remove_account("group"),
    "an account has more": lambda w: w.ledger.grant("side", "requests/day", 5),
}
CHANGES = {
    **ACCOUNTS,
    "consume": lambda w: w.ledger.consume(w.key, {"requests": 3, "tokens": 30}),
    "consume on a route": lambda w: w.ledger.consume(w.key, route="/r"),
    "consume by an id": lambda w: w.ledger.consume(w.key, {"requests": 3, "tokens": 7}, request_id="x"),
    "replay": lambda w: w.ledger.consume(w.key, {"requests": 2, "tokens": 3}, request_id="old"),
    "refused": lambda w: w.ledger.consume(w.key, 41),
    "reserve": lambda w: w.ledger.reserve(w.key, {"requests": 3, "tokens": 7}, ttl=HOUR),
    "commit more": lambda w: w.held.commit({"requests": 1, "tokens": 9}),
    "cancel": lambda w: w.held.cancel(),
    "refund": lambda w: w.ledger.refund(w.decision),
    "refund a part": lambda w: w.ledger.refund(w.decision, 1),
    "grant": lambda w: w.ledger.grant("k", "requests/day", 5),
    "set_remaining": lambda w: w.ledger.set_remaining("k", "requests/day", 5),
    "forget": lambda w: w.ledger.forget("k"),
    "associate": lambda w: w.ledger.associate("k", "q"),
    "associate later": lambda w: w.ledger.associate("k", "q", at=to_datetime(w.clock() + 1)),
    "override": lambda w: w.ledger.override_limit("k", "requests/hour", 45),
    "override taken back": lambda w: w.ledger.override_limit("k", "requests/hour", None),
    "dissociate": lambda w: w.ledger.dissociate("k", "p"),
    "replace_plan": lambda w: w.ledger.replace_plan(UsagePlan("p", "50/hour, 10/day")),
    "remove_plan": lambda w: w.ledger.remove_plan("p"),
    "disable": lambda w: w.ledger.disable_key("k"),
    "rotate": lambda w: w.ledger.rotate_key("k"),
    "remove": lambda w: w.ledger.remove_key("k"),
    "a third key": lambda w: w.ledger.import_key("a-foreign-secret-of-many", "m", plan="p", id="m", account="a"),
    "a key joins one": lambda w: w.ledger.import_key("a-foreign-secret-of-many", "m", plan="p", id="m", account="l"),
    "moved and then charged": lambda w: (w.ledger.associate("k", "q"), w.ledger.consume(w.key, 2)),
}  # fmt: skip


def interrupt(change, later, first=1, stride=1, **options):
    """Interrupt a change at each instant in turn; which was the last. What is left of it must be all or nothing."""
    options["firm"] = change in ACCOUNTS.values()
    done, untouched = World(later, **options), World(later, **options)
    attempt(change, done)
    outcomes = [done.outcome(), untouched.outcome()]
    if change is CHANGES["moved and then charged"]:  # two changes
        world = World(later, **options)
        world.ledger.associate("k", "q")
        outcomes.append(world.outcome())
    for instant in itertools.count(first, stride):
        world = World(later, **options)
        if not interrupts(instant, CORE, attempt, change, world):
            return instant - stride
        assert world.outcome() in outcomes, f"after {instant} calls"
    raise AssertionError


@pytest.mark.spread(4)
@pytest.mark.parametrize("name", CHANGES)
def test_all_or_nothing(name):
    """Of what callers can be told afterwards, nothing is half done; what can be done once was done or can be.

    Every fortieth instant; where changes pass the same code, not the same ones. At length, every one.
    """
    assert interrupt(CHANGES[name], LATER["at once"], 1 + len(name) % 40, 40) > 5


@pytest.mark.spread(4, 1)
@pytest.mark.parametrize("name", CHANGES)
def test_all_or_nothing_on_the_fast_path(name):
    """The same of a key that is alone, with the fast path open, every twentieth: it is never left open on what has changed."""
    assert interrupt(CHANGES[name], LATER["at once"], 1 + len(name) % 20, 20, alone=True) > 1


@pytest.mark.spread(4, 2)
@pytest.mark.parametrize("name", CHANGES)
def test_all_or_nothing_behind_headrooms(name):
    """The same of keys of one account whose calls are served by headrooms: none goes on with what has changed."""
    assert interrupt(CHANGES[name], LATER["at once"], 1 + len(name) % 40, 40, bound=True) > 1


@pytest.mark.spread(3)
@pytest.mark.parametrize("later", ["at once", "a minute later"])
@pytest.mark.parametrize("name", ["consume", "consume on a route", "refused", "peek"])
def test_all_or_nothing_by_a_headroom(name, later):
    """Every instant of calls that a headroom serves; the first one of a minute notes the minute with what it takes."""
    assert interrupt(SERVED[name], LATER[later], bound=True) > 5


SERVED = {
    **CHANGES,
    "consume": lambda w: w.ledger.consume(w.key, {"requests": 1, "tokens": 1}),
    "peek": lambda w: w.ledger.peek(w.key, {"requests": 1, "tokens": 1}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shared", "alone", "bound"])
@pytest.mark.parametrize("later", LATER)
@pytest.mark.parametrize("name", CHANGES)
def test_all_or_nothing_at_any_instant(name, later, kind):
    """Every instant; also where windows, days and holds end before the change."""
    interrupt(CHANGES[name], LATER[later], **({} if kind == "shared" else {kind: True}))


PLANTED = {  # what is planted, the changes that show it, how many instants apart it is looked for
    "records one after the other": ((MemoryStore, "_keep", {"steps += record.changes(copy)": "self._outbox.at_once(record.changes(copy), ())"}), ["commit more", "consume", "refund"], 17),
    "what is kept by name goes first": ((MemoryStore, "_keep", {"steps += record": "self._outbox.at_once(copy.written(), ()); steps += record"}), ["cancel", "refund"], 17),
    "step by step": ((MemoryStore, "_keep", {"self._outbox.at_once(steps, subject.told)": "[step[0](*step[1:]) for step in steps]"}), ["cancel", "refund"], 17),
    "counted, then held": ((holding, "_held", {"now), *[": "now)); at_once(*["}), ["reserve"], 3),
    "an account moved step by step": ((accounts, "change_account", {"store._outbox.at_once(_placed(store, entry, account), account_changed(old, account, by))": "[step[0](*step[1:]) for step in _placed(store, entry, account)]"}), ["an account goes below others"], 3),
    "counted, then remembered": ((retries, "_take", {"now), *room.own.remembering": "now)); at_once(*room.own.remembering"}), ["consume by an id"], 3),
}  # fmt: skip


@pytest.mark.spread(5)
@pytest.mark.parametrize(("what", "name"), [(what, name) for what, (_, names, _) in PLANTED.items() for name in names])
def test_planted_halves_are_found(monkeypatch, what, name):
    """A store that writes in two goes, or in many, is seen."""
    plant(monkeypatch, *PLANTED[what][0])
    with pytest.raises(AssertionError, match=r"after \d+ calls"):
        interrupt(CHANGES[name], LATER["at once"], stride=PLANTED[what][2])
