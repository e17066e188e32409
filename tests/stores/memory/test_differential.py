"""The memory store with its fast path and without: whatever happens to both, they answer and keep the same."""

import itertools

import pytest

from histories import HOUR, MINUTE, NOON, SECOND, GeneralStore, apart, in_memory, live, plain, standing, told
from interleavings import plant
from interrupts import interrupts
from quota import Decision, Ledger, ManualClock, UsagePlan, operations
from quota.ledger import sync as ledger
from quota.operations import headroom as _headroom
from quota.rule import charge, record
from quota.stores.memory import MemoryStore
from quota.stores.memory import binding as _binding
from quota.stores.memory import holding as _holding
from quota.stores.memory import one_meter as _one_meter
from quota.stores.memory import retries as _retries
from quota.stores.memory import store as memory
from quota.stores.memory.one_meter import OneMeter

CORE = [charge, ledger, operations, record, _headroom, _binding, _holding, _one_meter, _retries, memory]


def fast_and_general(seed):
    stores = [kind(stripes=1 + seed % 3) for kind in (MemoryStore, GeneralStore)]
    return live(seed, *((store, in_memory) for store in stores))


SLOW = pytest.mark.slow


@pytest.mark.parametrize("first", [0, *(pytest.param(first, marks=SLOW) for first in range(20, 200, 20))])
def test_the_fast_path_answers_and_keeps_what_the_rule_does(first):
    """Twenty random histories, two hundred at length: answers, usage, and records with the readings of their minutes and hours."""
    assert sum(fast_and_general(seed) for seed in range(first, first + 20)) > 400


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 10_000, 500))
def test_the_fast_path_at_length(first):
    """Ten thousand histories."""
    for seed in range(first, first + 500):
        fast_and_general(1_000_000 + seed)


PLANTED = {
    "a refused call notes the minute": (OneMeter, "turn", {"self.flush()": "self.flush(); self.key_entry.record.turn_minute(now)"}),
    "a refused call moves the time": (OneMeter, "flush", {"if meter.total != self.total:": "if True:"}),
    "no minute is noted": (OneMeter, "flush", {"record.turn_minute(self.at)": "pass"}),
    "the plainest form counts on beside it": (_retries, "_take", {"own.close()": "pass"}),
    "the plainest form counts and does not remember": (_retries, "_alone", {", *record.remembering(remembered, now)": ""}),
    "the plainest form counts and does not remember one more": (_retries, "_alone", {"entries[kept[1]] = remembered": "pass"}),
    "the plainest form remembers and does not count": (_retries, "_alone", {"    own.total = total\n": ""}),
    "the plainest form counts over its room": (_retries, "_alone", {"total > own.soft": "total > own.soft + 1"}),
    "the plainest form counts behind its time": (_retries, "_alone", {"not own.at <= now < own.until": "not now < own.until"}),
    "a call is counted and not remembered": (_retries, "_take", {", *room.own.remembering(remembered, now)": ""}),
    "a call goes on while a slot is kept": (_headroom.SeveralMeters, "_free", {"if used >= most and any(amounts):": "if False:"}),
    "a reservation that lapses is not seen": (record.Record, "quiet", {"or now < self.holds.due": "or True"}),
    "a slot is not kept by a call that goes by the headroom": (ledger.Ledger, "consume", {"False if keep_slot is None else None": "False"}),
    "a minute is noted after its first call": (OneMeter, "flush", {"record.turn_minute": "meter.total = self.total; record.turn_minute"}),
}  # fmt: skip


@pytest.mark.spread(3)
@pytest.mark.parametrize("what", PLANTED)
def test_planted_differences_are_found(monkeypatch, what):
    """A fast path that keeps something else than the rule is seen in the histories that every run lives through."""
    plant(monkeypatch, *PLANTED[what])
    with pytest.raises(AssertionError, match="seed"):
        for seed in range(100):
            fast_and_general(seed)


# One by one

NOTHING = {
    "refused": ("5/day", lambda found, secret: found.consume(secret)),
    "too much": ("9/day", lambda found, secret: found.consume(secret, 5)),
    "throttled": ("9/day, 2/day burst 5", lambda found, secret: found.consume(secret)),
    "on a route": ("5/day", lambda found, secret: found.consume(secret, route="any")),
    "peek": ("5/day", lambda found, secret: found.peek(secret)),
    "reserve": ("5/day", lambda found, secret: found.reserve(secret, 1, ttl=HOUR)),
}


def five(kind, limits):
    """A ledger in which a key of these limits was just called five times, its clock, and the key's secret."""
    clock = ManualClock(NOON + 10 * SECOND)
    found = Ledger(kind(), clock=clock)
    found.add_plan(UsagePlan("p", limits))
    secret = found.issue_key("k", "p", id="k").secret
    assert all(found.consume(secret) for _ in range(5))
    return found, clock, secret


def kept(found):
    """The key's record as it would be encoded, but for its own number and version."""
    ((_, record),) = in_memory(found.store)
    return [*record.encode()[:2], *record.encode()[4:]]


@pytest.mark.parametrize(("later", "window"), [
    (55 * SECOND, "10 minute"), (MINUTE, "20 minute"), (HOUR - 11 * SECOND, "hour"), (90 * MINUTE, "2 hour"),
])  # fmt: skip
@pytest.mark.parametrize("what", NOTHING)
def test_what_changes_nothing_takes_nothing_from_a_limit_that_comes(what, later, window):
    """A limit that joins finds all that was used in its window, whoever was refused, or looked, in between."""
    limits, call = NOTHING[what]
    found, clock, secret = five(MemoryStore, limits)
    before = kept(found)
    clock.advance(later)
    assert [bool(call(found, secret)) for _ in range(3)] == [False] * 3
    assert kept(found) == before
    found.replace_plan(UsagePlan("p", f"6/{window}"))
    assert found.consume(secret).limits[0].used == 6


@pytest.mark.parametrize("back", [1, 30 * SECOND, MINUTE])
def test_a_refused_call_does_not_keep_a_minute_that_is_not_over(back):
    """A clock that is stepped back behind it admits in the minute before, whose end is then noted as it was."""
    worlds = [five(kind, "9/day") for kind in (MemoryStore, GeneralStore)]
    for found, clock, secret in worlds:
        clock.set(NOON + MINUTE)
        assert not found.consume(secret, 5)
        clock.advance(-min(back, 50 * SECOND))
        assert found.consume(secret, 2)
        clock.set(NOON + MINUTE + SECOND)
        assert found.consume(secret)
    fast, general = (kept(found) for found, _, _ in worlds)
    assert fast == general


@pytest.mark.parametrize("later", [MINUTE, HOUR])
def test_an_interrupt_in_a_minute_s_first_call_leaves_nothing_that_mints(later):
    """At any instant: the record is as it was, or as the admission leaves it, and so it is after the next call."""
    found, clock, secret = five(GeneralStore, "9/day")
    clock.advance(later)
    untouched, once, twice = [kept(found), *(kept(found) for _ in range(2) if found.consume(secret))]
    for instant in itertools.count(1):
        found, clock, secret = five(MemoryStore, "9/day")
        clock.advance(later)
        if not interrupts(instant, CORE, found.consume, secret):
            break
        after = kept(found)
        assert after in (untouched, once), f"after {instant} calls"
        assert found.consume(secret)
        assert kept(found) == (once if after == untouched else twice), f"after {instant} calls"
    assert instant > 5


# Reservations


class Held:
    """A key of an account, and another one, whose reservations are made and settled; what it was told, and who told it."""

    def __init__(self, kind, limits, **more):
        self.clock = ManualClock(NOON + 10 * SECOND)
        self.ledger = Ledger(kind(), clock=self.clock)
        self.ledger.add_plan(UsagePlan("p", limits, **more))
        self.keys = [self.ledger.issue_key(id_, "p", id=id_, account="a").key for id_ in "kl"]
        self.told, self.by = [], []
        for key in self.keys * 3:
            self.ledger.reserve(key, 2, ttl=HOUR, route="/r").cancel()

    def note(self, decision, held=None):
        self.by.append(type(decision))
        self.told += [told(decision), standing(held) if held else None]

    def reserve(self, cost=4, ttl=HOUR, key=0):
        held = self.ledger.reserve(self.keys[key], cost, ttl=ttl, route="/r")
        self.note(held.decision, held)
        return held

    def keep(self, cost=1):
        decision = self.ledger.consume(self.keys[0], cost, keep_slot=HOUR, route="/r")
        self.note(decision, decision.slot)
        return decision.slot

    def commit(self, held, *actual):
        self.note(held.commit(*actual), held)

    def kept(self):
        """What is told, and all records with what is held, in no order where ids say it."""
        seen, found = {}, dict(in_memory(self.ledger.store))
        data = {whose: plain(record.encode()) for whose, record in found.items()}
        for row in data.values():
            row[2] = seen.setdefault(row[2], len(seen))
            row[8] = sorted((row[8] or {}).values())
            row[6] = sorted((row[6] or {}).values(), key=str)
        return self.told, data, [sorted(record.in_flight.items()) for record in found.values()]


def later(world, span):
    world.clock.advance(span)


SLOTS = "3 concurrent by account, 90/day, 70/day by account as ours, 40/s burst 60"
HELD = {
    "all of it": (SLOTS, lambda w: w.commit(w.reserve())),
    "less": (SLOTS, lambda w: w.commit(w.reserve(), 1)),
    "more": (SLOTS, lambda w: w.commit(w.reserve(), 9)),
    "nothing": (SLOTS, lambda w: [w.reserve(), held := w.reserve(), later(w, SECOND), held.cancel()]),
    "a slot alone": (SLOTS, lambda w: [w.keep(3).cancel(), w.commit(w.keep(2)), w.commit(w.keep(), 5)]),
    "the others'": (SLOTS, lambda w: [w.reserve(key=1), w.commit(w.reserve(), 2), w.reserve(), w.reserve()]),
    "no limit on calls in flight": ("90/day", lambda w: [w.commit(w.reserve(), 3), w.keep()]),
    "full": (SLOTS, lambda w: [[w.reserve(key=key) for key in (0, 1, 0)], w.reserve(), w.keep(), w.note(w.ledger.peek(w.keys[1]))]),
    "more than there is": ("9/day, 3 concurrent", lambda w: [w.reserve(10), w.commit(w.reserve(8), 30)]),
    "in the next minute": (SLOTS, lambda w: [held := w.reserve(), later(w, MINUTE), w.commit(held, 1), w.commit(w.reserve(), 1)]),
    "and no more": (SLOTS, lambda w: [held := w.reserve(), later(w, MINUTE), w.commit(held, 1)]),
    "behind another call": (SLOTS, lambda w: [held := w.reserve(), later(w, MINUTE), w.reserve(), w.commit(held, 1)]),
    "in the next hour": (SLOTS, lambda w: [held := w.reserve(ttl=2 * HOUR), later(w, HOUR), w.reserve(), held.cancel()]),
    "behind a window's end": ("9/minute, 3 concurrent", lambda w: [held := w.reserve(), later(w, MINUTE), w.keep(), w.keep(), w.commit(held, 1)]),
    "behind a day's end": ("90/month", lambda w: [held := w.reserve(ttl=24 * HOUR), later(w, 13 * HOUR), w.reserve(), w.reserve(), w.commit(held, 1)]),
    "after a spending": (SLOTS, lambda w: [held := w.reserve(), held.spend(1), w.commit(w.reserve()), w.commit(held, 2)]),
    "after it lapsed": (SLOTS, lambda w: [held := w.reserve(ttl=SECOND), later(w, SECOND), w.keep(), w.keep(), w.commit(held, 1)]),
    "longer": (SLOTS, lambda w: [held := w.reserve(ttl=SECOND), held.extend(HOUR), later(w, SECOND), w.reserve(), w.commit(held, 1)]),
    "for a retry": (SLOTS, lambda w: [held := w.ledger.reserve(w.keys[0], 4, ttl=HOUR, route="/r", request_id="id"), w.reserve(), held.cancel()]),
    "after its route came": (SLOTS, lambda w: [held := w.reserve(), w.ledger.replace_plan(UsagePlan("p", SLOTS, routes={"/r": "50/day"})), *[w.keep() for _ in range(2)], w.commit(held, 1)]),
    "on a route of its own": (SLOTS, lambda w: [w.commit(w.reserve(), 1), w.keep()], {"routes": {"/r": "50/day, 2 concurrent as r"}}),
    "another unit": (SLOTS, lambda w: [w.commit(w.reserve({"requests": 1, "tokens": 5}), {"requests": 1, "tokens": 2}) for _ in range(3)]),
    "refunded": (SLOTS, lambda w: [decision := w.reserve().commit(2), later(w, SECOND), w.told.append(w.ledger.refund(decision))]),
    "across an alert": ("20/day, 3 concurrent", lambda w: [w.commit(w.reserve(5), 11) for _ in range(2)], {"alerts": (50,)}),
}  # fmt: skip
"""Limits, what is called, and more of the plan."""
BY_HEADROOM = (
    "all of it",
    "less",
    "more",
    "nothing",
    "a slot alone",
    "the others'",
    "no limit on calls in flight",
    "in the next minute",
    "behind another call",
    "in the next hour",
    "on a route of its own",
)


def held_alike(name):
    """What the fast path and the rule came to, and which kinds of decision told it."""
    limits, call, *more = HELD[name]
    worlds = [Held(kind, limits, **(more[0] if more else {})) for kind in (MemoryStore, GeneralStore)]
    for world in worlds:
        call(world)
    fast, general = (world.kept() for world in worlds)
    return apart([plain(fast[1:]), plain(general[1:])]) or apart([fast[0], general[0]]), worlds[0].by


@pytest.mark.parametrize("name", HELD)
def test_what_is_held_and_settled_is_as_the_rule_has_it(name):
    """In every record, its readings of minutes and hours, and in what is told; the plain cases are not asked of the rule."""
    difference, by = held_alike(name)
    assert not difference
    assert name not in BY_HEADROOM or Decision not in by


HELD_PLANTED = {
    "a slot is kept of one record": (_holding, "_held", {"for record in records for step": "for record in records[:1] for step"}),
    "a commit is a use": (_holding, "_settled", {", admitted=False": ""}),
    "a cancel pours": (_holding, "_settled", {"found if commits else found[: len(room.cells)]": "found"}),
    "what is given back stays in the minute": (_holding, "_settled", {"*_unread(record, backs, hold.taken_at, now), ": ""}),
    "what is given back stays in a window": (_holding, "_settled", {"if any(_turned(meter, hold.taken_at) for meter in backs):": "if False:"}),
    "spending is forgotten at the end": (_holding, "_counts", {"or hold.spent ": ""}),
    "a plan's new route gives back too": (_holding, "_counts", {"{amount.meter[:2] for amount in hold.takes} == places": "True"}),
}  # fmt: skip


@pytest.mark.parametrize("what", HELD_PLANTED)
def test_planted_differences_of_what_is_held_are_found(monkeypatch, what):
    """One of these scenes ends otherwise than by the rule."""
    plant(monkeypatch, *HELD_PLANTED[what])
    assert any(held_alike(name)[0] for name in HELD)
