"""Random histories that several ledgers live through side by side: whatever one answers and keeps, all must.

Each step is drawn once and taken by every side. What is random by itself (ids, records' own numbers) is told by the
order in which it appears.
"""

from __future__ import annotations

import json
import pickle
import random

from quota import Ledger, ManualClock, QuotaError, Throttle, UsagePlan
from quota.clock import to_datetime
from quota.operations.idempotency import answer_of, id_of
from quota.operations.request import Request
from quota.stores.memory import MemoryStore
from quota.stores.remembered import encode_remembered
from quota.stores.sqlite.records import load

NOON = 1_700_049_600_000_000
SECOND, MINUTE, HOUR, DAY = 10**6, 6 * 10**7, 36 * 10**8, 864 * 10**8

LIMITS = [
    "9/minute, 400/hour", "5/day", "40/10 minute", "7/day overage 2", "30/hour, 3/s burst 6", "90/day, 12/minute burst 9",
    "8/7 minute, 60/hour as long", "25/day by account, 9/hour", "20/hour by account, 5/s burst 9 by account", "2/s burst 5",
    "300/day by account, 600 tokens/minute by account as budget", "200/day overage 3, 50 tokens/day, 4 tokens/s burst 300",
    "2 concurrent, 400/hour", "3 concurrent by account, 40/10 minute, 3/s burst 6", "4 concurrent, 2 concurrent by account as two, 90 tokens/hour",
]  # fmt: skip
ROUTES = [
    {},
    {},
    {"/r": "7/minute as r"},
    {"/r": "3/s burst 3", "/q": "20/hour as q"},
    {"/r": "1 concurrent as r", "/x": "9/hour"},
]
COSTS = [
    None,
    None,
    None,
    None,
    1,
    2,
    7,
    {"requests": 1},
    {"tokens": 5},
    {"requests": 1, "tokens": 7},
    {"requests": 2, "other": 1},
]
ACTUAL = [None, (), (1,), (9,), ({"requests": 1, "tokens": 3},)]
PATHS = [None, None, None, "/r", "/q", "/x", "/c"]
ON = [0, 1, 10_000, SECOND, 20 * SECOND, MINUTE, 61 * SECOND, 10 * MINUTE, HOUR, 7 * HOUR, 25 * HOUR]
BACK = [-1, -SECOND, -61 * SECOND, -290 * SECOND, -400 * SECOND]
KINDS = {
    "consume": 30, "call": 22, "peek": 7, "again": 60, "remembered": 10, "tick": 20, "reserve": 6, "keep": 4, "hold_again": 14, "settle": 14, "stream": 2, "refund": 3, "adjust": 2,
    "change_plan": 4, "change_key": 2, "forget": 1, "look_again": 2,
}  # fmt: skip


class GeneralStore(MemoryStore):
    """The memory store without its fast path: the rule is asked whatever is called."""

    def apply(self, request):
        return super().apply(request)

    def _bind(self, request, key_entry, entry, subject):
        pass


def in_memory(store):
    """(whose, record) of all that a memory store's keys charge, with what its fast path counted."""
    for key in store.list_keys(None, None, None, None, 0):
        key_entry = store.rooms[key.id].key_entry
        if key_entry.record is not None:
            key_entry.room.flush()
        yield f"key {key.id}", key_entry.record
        if key_entry.account is not None and key_entry.account.shared:
            yield f"account {key.account}", key_entry.account.record


def in_sqlite(store):
    """The same of a SQLite store, from its file."""

    def read(db):
        for key in store.list_keys(None, None, None, None, 0):
            key_entry = store._look(db, Request("usage", 0, None, key.id))
            for whose, subject in zip((f"key {key.id}", f"account {key.account}"), key_entry.numbers, strict=False):
                yield whose, load(db, subject).record

    return store._pool.read(lambda db: list(read(db)))


def on_a_server(store):
    """The same of a store on a server, as the rule is given it."""
    for key in store.list_keys(None, None, None, None, 0):
        looking = Request("usage", 0, None, key.id)
        copy = _driven(store, store._look(None, key.id))
        subject = store._decode(copy.entry, looking, store._send(store._ask(copy, looking, 0))).subject
        subject.key.last_used = store.last_used(key.id)  # Redis has it beside the key's stamp
        yield from zip((f"key {key.id}", f"account {key.account}"), subject.records(), strict=False)


def _driven(store, flow):
    try:
        call = next(flow)
        while True:
            call = flow.send(store._send(call))
    except StopIteration as stop:
        return stop.value


def told(decision):
    """All that a decision tells, but for what is random."""
    return (
        decision.allowed, decision.reason, decision.limits, decision.violated, decision.over, decision.crossed,
        decision.retry_at, decision.at, decision.cost, decision.replayed, decision.key and decision.key.id,
        decision.plan, [[at, sorted(part)] for at, part in plain(decision._details().metered)], decision.headers(), decision.headers("github"), decision.problem(),
        told_again(decision), len(decision._details().tokens), decision._details().tokens == (0, 0),
    )  # fmt: skip


def standing(held):
    """All that a reservation tells, but for its id."""
    return held.held, held.spent, held.expires_at, held.settled, held.api, held.route, held.key


def told_again(decision):
    """What a decision tells after it was pickled, but for what is random."""
    data = pickle.loads(pickle.dumps(decision)).to_dict()
    return {**data, "id": data["id"] == decision.id}


def plain(data):
    """Data as a store reads it back."""
    return json.loads(json.dumps(data))


def apart(sides, path=""):
    """Where the sides first differ, and what is there; nothing when they are equal."""
    first = sides[0]
    if all(side == first for side in sides):
        return ""
    if isinstance(first, dict) and all(isinstance(side, dict) and side.keys() == first.keys() for side in sides):
        parts = {name: [side[name] for side in sides] for name in first}
    elif isinstance(first, (list, tuple)) and all(
        type(side) is type(first) and len(side) == len(first) for side in sides
    ):
        parts = dict(enumerate(zip(*sides, strict=True)))
    else:
        parts = {}
    return next(
        (said for name, part in parts.items() if (said := apart(part, f"{path}[{name!r}]"))), f"{path}: {sides}"
    )


class Side:
    """One ledger of several, and what its caller was given by it.

    ``records``: what gives a store's. ``remembered``: what is remembered by an id is in them, in every store compared.
    """

    def __init__(self, store, records, clock, remembered):
        self.ledger = Ledger(store, clock=clock)
        self.records, self.remembered = records, remembered
        self.secrets, self.decisions, self.held, self.seen = {}, [], [], {}

    def take(self, method, *args, **where):
        """What a step returns, or the kind of error that it raises."""
        try:
            return getattr(self, method)(*args, **where)
        except QuotaError as error:
            return type(error)

    def nothing(self):
        pass

    def call(self, kind, name, nth, cost, **where):
        decision = getattr(self.ledger, kind)(self._presented(name, nth), *([] if cost is None else [cost]), **where)
        return self._kept(decision)

    def reserve(self, name, nth, cost, ttl, **where):
        held = self.ledger.reserve(self._presented(name, nth), cost or 1, ttl=ttl, **where)
        return *told(held.decision), self._holds(held)

    def keep(self, name, nth, cost, ttl, **where):
        decision = self.ledger.consume(
            self._presented(name, nth), *([] if cost is None else [cost]), keep_slot=ttl, **where
        )
        return *self._kept(decision), self._holds(decision.slot)

    def _holds(self, held):
        if held is None:
            return None
        self.held.append(held)
        self._named(held.id), self._named(held.decision.id)
        return standing(held)

    def settle(self, which, actual):
        """One of those that were made last, or any."""
        if not self.held:
            return None
        held = self.held[which % len(self.held) if which % 2 else -1 - which % min(4, len(self.held))]
        return [held.cancel() if actual is None else self._kept(held.commit(*actual)), standing(held)]

    def stream(self, which, units, ttl):
        held = self.held[-1 - which % min(4, len(self.held))] if self.held else None
        if held is not None:
            told(held.extend(ttl) or held.spend(units))
        return held and list(standing(held))

    def refund(self, which, units):
        if not self.decisions:
            return None
        decision = self.decisions[which % len(self.decisions)]
        self._named(decision.id)
        return self.ledger.refund(decision, units)

    def look_again(self, which):
        return told(self.decisions[which % len(self.decisions)]) if self.decisions else None

    def issue(self, name, plan, account, expires_at):
        self.secrets[name] = []
        self.secrets[name] = [self.ledger.issue_key(name, plan, id=name, account=account, expires_at=expires_at).secret]

    def rotate(self, name, overlap):
        self.secrets[name] = [self.ledger.rotate_key(name, overlap).secret, *self.secrets[name]]

    def do(self, method, *args, **where):
        answer = getattr(self.ledger, method)(*args, **where)
        return None if hasattr(answer, "secrets") else answer

    def _presented(self, name, nth):
        known = self.secrets[name] or ["nobody has this secret"]
        return self.ledger.get_key(name) if nth is None else known[nth % len(known)]

    def _kept(self, decision):
        self.decisions.append(decision)
        return told(decision)

    def usage(self):
        """What all keys are told of their usage."""
        keys = [key.id for key in self.ledger.list_keys()]
        return {(key, api): self.take("do", "usage", key, api=api) for key in keys for api in ("", "shop")}

    def counts(self):
        """Every record as it would be encoded."""
        found = self.records(self.ledger.store)
        return {whose: self._encoded(record, whose) for whose, record in found if record is not None and record.at}

    def _encoded(self, record, whose):
        data = plain(record.encode())
        data[3] = whose.startswith("key") and data[3]  # of its last use only a key is told
        data[2] = self._named(data[2])
        if not self.remembered:
            data[8] = None
        for place in (6, 8):
            data[place] = {self._named(id_): value for id_, value in (data[place] or {}).items()}
        for _, hold in sorted(data[6].items()):
            if len(hold) > 6:  # the decision that it is remembered under
                hold[6] = hold[6] and self._named(hold[6])
                hold[8] = [[self._named(handle), spending > 0] for handle, spending in hold[8]]
        remembered = record.requests.each() if self.remembered and record.requests else []
        whole = [earlier._replace(id=id_of(earlier), answer=answer_of(earlier)) for earlier in remembered]
        # What was done with a reservation is remembered under its id, behind a line's end: random, and known by now.
        known = {self._named(one.name[1:]) if one.name.startswith("\n") else one.name: one for one in whole}
        by_time = sorted(known, key=lambda name: (known[name].until, name))
        data[7] = {name: plain(encode_remembered(known[name])) for name in by_time}
        for earlier in data[7].values():
            earlier[2:4] = map(self._named, earlier[2:4])
            earlier[9] = [[at, sorted(part)] for at, part in earlier[9]]  # in no order, as ``told`` says
            earlier[10] = [token and self._named(token) for token in earlier[10]]
            earlier[12:13] = [slot and self._named(slot) for slot in earlier[12:13]]
        return data

    def _named(self, random):
        return self.seen.setdefault(random, f"number {len(self.seen)}")


class History:
    """The steps that a seed draws, as (a method of ``Side``, its arguments, its options)."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.names = ["a", "b"]
        self.called = self.holding = None
        self.times = set()
        self.clock = ManualClock(NOON + seed % 86_399 * SECOND)

    def _begin(self):
        """The plans and keys that there are at first."""
        for id_, more in (("p", {}), ("q", {}), ("s", {"api": "shop", "costs": {"/c": 2}})):
            yield "do", ("replace_plan", self._plan(id_, **more)), {}
        account = self.random.choice([None, None, "x"])
        for name in self.names:
            yield "issue", (name, "p", account, None), {}
            yield "do", ("associate", name, "s"), {}

    def steps(self, many):
        """What there is at first, and then so many steps."""
        yield from self._begin()
        for _ in range(many):
            kind = self.random.choices(list(KINDS), KINDS.values())[0]
            self.times.add(self.clock())
            step = getattr(self, f"_{kind}")(self.random, self.random.choice(self.names))
            self.called = step if kind in ("consume", "call", "peek") else self.called
            self.holding = step if kind in ("reserve", "keep") else self.holding
            yield step

    def _plan(self, id_, **more):
        pick = self.random
        return UsagePlan(
            id_, pick.choice(LIMITS), routes=pick.choice(ROUTES), alerts=pick.choice([(), (), (50, 90)]), **more
        )

    def _where(self):
        return {"api": self.random.choice(["", "", "", "shop"]), "route": self.random.choice(PATHS)}

    def _consume(self, pick, name):
        return "call", ("consume", name, pick.choice([None, 0, 0, 0, 1]), pick.choice([None, None, None, 1, 2, 4])), {}

    def _call(self, pick, name, kind="consume"):
        return "call", (kind, name, pick.choice([None, 0, 0, 1]), pick.choice(COSTS)), self._where()

    def _again(self, pick, name):
        """What was called last, or a look at it, or the same of another key: what the rule need not be asked any more."""
        method, (kind, who, *rest), where = self.called or self._call(pick, name)
        kind, who = pick.choice([kind] * 6 + ["consume", "peek"]), pick.choice([who] * 4 + [name])
        return method, (kind, who, *rest), where

    def _peek(self, pick, name):
        return self._call(pick, name, "peek")

    def _remembered(self, pick, name):
        method, args, where = self._call(pick, name, pick.choice(["consume", "consume", "peek"]))
        return method, args, {**where, "request_id": f"id{pick.randrange(4)}"}

    def _tick(self, pick, name):
        span = pick.choice(BACK if pick.random() < 0.2 else ON)
        if pick.random() < 0.3:
            length = pick.choice([MINUTE, MINUTE, HOUR, DAY])
            span = pick.choice([0, length, length]) - self.clock() % length + pick.choice([-1, 0, 1])
        if self.clock() + span < NOON + 30 * DAY and not self._forgotten(span):
            self.clock.advance(span)
        return "nothing", (), {}

    def _forgotten(self, span):
        """Whether the clock would go back to when an id was remembered still: when what is over goes, is a store's affair."""
        now = self.clock()
        return any(now + span < at + DAY <= max(self.times) for at in self.times)

    def _reserve(self, pick, name):
        ttl, again = pick.choice([SECOND, MINUTE, HOUR, DAY]), pick.choice([None, None, "held"])
        return "reserve", (name, 0, pick.choice(COSTS), ttl), {**self._where(), "request_id": again}

    def _keep(self, pick, name):
        again = pick.choice([None, None, None, "kept"])
        args = name, 0, pick.choice(COSTS), pick.choice([SECOND, MINUTE, HOUR])
        return "keep", args, {**self._where(), "request_id": again}

    def _hold_again(self, pick, name):
        """Hold as was held last: what the rule need not be asked any more."""
        return self.holding or self._reserve(pick, name)

    def _stream(self, pick, name):
        units = pick.choice([{"requests": 1}, {"tokens": 2}, {"requests": 2, "tokens": 1}])
        return "stream", (pick.randrange(999), units, pick.choice([SECOND, MINUTE, HOUR])), {}

    def _settle(self, pick, name):
        return "settle", (pick.randrange(999), pick.choice(ACTUAL)), {}

    def _refund(self, pick, name):
        return "refund", (pick.randrange(999), pick.choice([None, None, 1])), {}

    def _look_again(self, pick, name):
        return "look_again", (pick.randrange(999),), {}

    def _adjust(self, pick, name):
        limit = pick.choice(["requests/day", "requests/hour", "requests/minute", "r"])
        return "do", (pick.choice(["grant", "set_remaining"]), name, limit, pick.randrange(1, 9)), self._where()

    def _forget(self, pick, name):
        return "do", ("forget", name), {}

    def _change_plan(self, pick, name):
        change = pick.choice(["replace"] * 6 + ["associate"] * 4 + ["dissociate", "remove"])
        if change == "replace":
            id_ = pick.choice("ppqs")
            return "do", ("replace_plan", self._plan(id_, api="shop" if id_ == "s" else "")), {}
        return "do", ("remove_plan", "q") if change == "remove" else (change, name, pick.choice("pq")), {}

    def _change_key(self, pick, name):
        change = pick.choice(["disable_key"] + ["enable_key"] * 3 + ["rotate"] * 2 + ["join"] * 2 + ["remove_key"])
        if change == "rotate":
            return "rotate", (name, pick.choice([0, MINUTE, DAY])), {}
        if change == "join":
            self.names.append(f"k{len(self.names)}")
            account, expires_at = (
                pick.choice([*self.names, "x"]),
                pick.choice([None, None, to_datetime(NOON + 2 * DAY)]),
            )
            return "issue", (self.names[-1], pick.choice("pq"), account, expires_at), {}
        return "do", (change, name), {}


def live(seed, *sides, steps=150, remembered=True):
    """Live through a history: (a store, what gives its records) of each side. How many calls were admitted.

    Half of the histories are compared after every step, the others now and then: to look at a fast path is to disturb it.
    """
    history = History(seed)
    found = [Side(*side, history.clock, remembered) for side in sides]
    admitted, last = 0, {}
    for number, (method, args, where) in enumerate(history.steps(steps)):
        answers = [side.take(method, *args, **where) for side in found]
        admitted += isinstance(answers[0], tuple) and answers[0][0]
        said = f"seed {seed}, step {number}, {method}{args}{where}"
        looked = [side.counts() for side in found] if seed % 2 or history.random.random() < 0.05 else []
        told_so = [side.usage() for side in found] if history.random.random() < 0.05 else []
        for both in filter(None, (answers, looked, told_so)):
            assert not (difference := apart(both)), f"{said}: {difference}"
        if seed % 2 and changes_nothing(args, answers[0]) and not throttled(found[0].ledger):
            assert not (difference := apart([last, looked[0]])), f"{said} changed {difference}"
        last = looked and looked[0]
    return admitted


def changes_nothing(args, answer):
    """Whether a step was a look, was refused, or raised."""
    return isinstance(answer, type) or (isinstance(answer, tuple) and (not answer[0] or args[0] == "peek"))


def throttled(ledger):
    """Whether a plan has a throttle: a refusal that finds a key's throttles changed keeps what became of their levels."""
    limits = [plan.limits + sum(plan.routes.values(), ()) for plan in ledger.list_plans()]
    return any(isinstance(limit, Throttle) for limit in sum(limits, ()))
