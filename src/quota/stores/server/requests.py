"""Decisions of the stores on a server: one call on a fresh lane, else the rule on the records and a checked write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from ...account import Account
from ...clock import DAY_US
from ...decision import Reason
from ...errors import ClockSkew, StoreBusy, StoreUnavailable
from ...key import Caller, new_number, new_token
from ...operations import perform
from ...operations.compiled import compile_headroom
from ...operations.headroom import SeveralMeters
from ...operations.request import LOOKS, Entry, Request, Upper, by_api, terms_of, usable
from ...rule.entries import RememberedRequest
from ...rule.kept import Kept
from ...rule.limits import CompiledThrottle, StoreOptions
from ...rule.record import Record
from ...rule.subject import Subject
from ..remembered import decode_remembered, read_remembered
from .cache import CachedKey, KeyCache
from .directory import Directory
from .flow import Flow, JoinQueue, Pause, operation
from .replies import Decided, Records, Reply, Version, parse_reply

_PATIENT = {Reply.LOST: 1, Reply.OPENED: 8}
"""The number of times that a call may lose a write, or a lane that was just opened, before it takes a turn."""
_PLAIN = ("consume", *LOOKS)
"""All that the server may decide by itself, or what changes nothing."""
_TELLING = tuple(op for op in LOOKS if op != "peek")
"""All that tells where a key stands, or what it did, and is no call of its client's."""
_CHARGES = ("consume", "peek", "reserve")
"""All that a key must be usable for."""
_MOST_CALLERS = 8192
"""Copies of callers, apart from those of keys: however many addresses come by, no key's copy has to go for them."""
_SHORTEST, _LONGEST = 0.000_5, 0.008
"""Seconds between looks at whether another writer's turn is over."""


class Loaded:
    """Records as they were found: what a write must still find, and the subject to decide on.

    ``fields``: those of each record, where a write has to remove what is gone.
    """

    __slots__ = ("fields", "remembered", "subject", "versions")

    def __init__(self, subject: Subject, versions: list[Version]) -> None:
        self.subject = subject
        self.versions = versions
        self.fields: list[set[str]] = []
        self.remembered: RememberedRequest | None = None


class Contention:
    """The way that one call gets past others.

    It says whether it stands in line in its process, whose turn it is, how long it pauses.
    """

    __slots__ = ("patience", "queued", "tries", "turn")

    def __init__(self) -> None:
        self.queued = False
        self.patience = _SHORTEST
        self.tries = _PATIENT
        self.turn = 0

    def failed(self, result: Reply) -> None:
        """Others got in the way: after a while, a turn."""
        self.tries = {**self.tries, result: self.tries[result] - 1}
        if not self.turn and self.tries[result] <= 0:
            self.turn = new_number()


class Decisions(Directory):
    """Requests on records. An engine says how its calls are written; its replies are those of ``parse_reply``."""

    def _spend(
        self, lane: SeveralMeters, request: Request, takes: Mapping[str, int], amounts: list[int], id_: str | None
    ) -> Any:
        """The call that has the server decide."""
        raise NotImplementedError

    def _ask(self, copy: CachedKey, request: Request, turn: int) -> Any:
        """The call that brings the records; ``turn``: of a writer that lost more than once, else 0."""
        raise NotImplementedError

    def _decode(self, entry: Entry, request: Request, reply: Sequence[Any]) -> Loaded:
        """The records, and the remembered request of the request, if there is one."""
        raise NotImplementedError

    def _write(self, copy: CachedKey, request: Request, found: Loaded, versions: list[int]) -> Any:
        """The call that writes records back if they are as they were found."""
        raise NotImplementedError

    def _tag(self, copy: CachedKey, lane: SeveralMeters, subject: Subject, versions: Sequence[Any]) -> Any:
        """Return what a lane keeps for the engine; equal for equal lanes."""
        raise NotImplementedError

    def _release(self, copy: CachedKey, turn: int) -> Any:
        """The call that ends a turn in which nothing was written; a write ends its turn by itself."""
        raise NotImplementedError

    def __init__(self, namespace: str, timeout: float, check_clock: bool | None, options: Mapping[str, Any]) -> None:
        super().__init__(namespace, timeout, check_clock, options)
        self._callers = KeyCache(_MOST_CALLERS)

    def _look_for_caller(self, caller: Caller) -> Flow[CachedKey | None]:
        """The plan that a caller names, to count the caller under; None when there is none."""
        text, stamp = yield from self._read(("plans", caller.plan), ("stamps", "*"))
        if text is None:
            return None
        plan = self._decode_plan(text)[1]
        return CachedKey(Entry(caller, by_api([plan])), (stamp, stamp))

    def _look_for(self, request: Request) -> Flow[CachedKey | None]:
        """Find whom a request is about."""
        if request.account is not None:
            return (yield from self._look_for_account(request.account))
        if request.caller is not None:
            return (yield from self._look_for_caller(request.caller))
        return (yield from self._look(request.digest, request.key_id or ""))

    @operation
    def apply(self, request: Request) -> Flow[Any]:  # noqa: C901 -- each round begins at the copy, wherever it failed
        if not self._looked:
            yield from self._look_around()
        ref, copies = request.ref, self._copies if request.caller is None else self._callers
        known = request.account is None  # others are seldom asked about
        kept = known and request.op not in _TELLING  # a report asks once about every key there is
        copy = copies.get(ref) if known else None
        way = Contention()
        for _ in self._attempts():
            if copy is None:
                copy = yield from self._look_for(request)
                if copy is not None and kept:
                    copies.put(ref, copy)
            if copy is not None and known and request.above not in (None, copy.entry.above):
                # It was charged below other accounts than those of now.
                copy = yield from self._look(request.digest, request.key_id or "", request.above)
            if copy is None:
                return perform(request, None, None, self.options)
            if not way.queued and (way.turn or request.op not in _PLAIN):
                yield JoinQueue(refs(copy.entry)[-1], self.timeout)
                way.queued = True
            result = yield from self._attempt(copy, request, way.turn)
            if not isinstance(result, Reply):
                return result
            if result is Reply.STALE:
                copies.drop(ref)
                copy = None
            elif result is Reply.WAIT:
                yield Pause(way.patience)
                way.patience = min(2 * way.patience, _LONGEST)
            else:
                way.failed(result)

    def _attempt(self, copy: CachedKey, request: Request, turn: int) -> Flow[Any]:
        """One trip, or two where the rule decides here: the answer, or the ``Reply`` that says why there is none."""
        lane = None if turn else copy.lane(request)
        amounts = None
        if lane is not None:
            takes = lane.route_plan.cost if request.takes is None else request.takes
            amounts = lane.shape.amounts(takes)
            if amounts is not None:
                id_ = None if request.request_id is None else new_token()
                reply = parse_reply((yield self._spend(lane, request, takes, amounts, id_)))
                if isinstance(reply, Decided):
                    allowed, now, readings = reply
                    return lane.conclude(allowed, takes, now, readings, id_ if allowed else None)
        if amounts is None:
            reply = parse_reply((yield self._ask(copy, request, turn)))
        if isinstance(reply, Records):
            return (yield from self._decide(copy, request, reply.rows, turn))
        if isinstance(reply, Reply):
            return reply
        raise ClockSkew(request.now, reply.now, server=True)  # Skewed: what a lane decided is answered above

    def _decide(self, copy: CachedKey, request: Request, reply: Sequence[Any], turn: int) -> Flow[Any]:
        """Decide on the records by the rule and write back, or open a lane for the next try."""
        if request.op in _CHARGES and not turn and usable(request, copy.entry) is not Reason.OK:
            # Undecoded: a disabled key is refused about as soon as one that nobody has.
            return perform(request, copy.entry, None, self.options)
        found = self._decode(copy.entry, request, reply)
        old = copy.lane(request)
        # What a bucket that outlasts all else may get under a changed plan must be written before a lane pours it.
        late = old is None and _drained(copy.entry) > self.options.retention * DAY_US
        versions = [version.number for version in found.versions]
        lane = None if turn or late else self._open(copy, request, found.subject, versions)
        if lane is not None and found.remembered is None and (old is None or old.tag != lane.tag):  # noqa: SIM102
            if lane.shape.amounts(lane.route_plan.cost if request.takes is None else request.takes) is not None:
                return Reply.OPENED
        try:
            result = perform(request, copy.entry, found.subject, self.options)
        finally:
            if turn and not found.subject.changed:
                with suppress(StoreBusy, StoreUnavailable):  # it ends by itself then
                    yield self._release(copy, turn)
        if not found.subject.changed:
            return result
        fresh = [new_number() for _ in found.versions]
        done = yield self._write(copy, request, found, fresh)
        if done != 1:
            return Reply.LOST
        self._open(copy, request, found.subject, fresh)
        return result

    def _open(
        self, copy: CachedKey, request: Request, subject: Subject, versions: Sequence[Any]
    ) -> SeveralMeters | None:
        """Open the lane of calls like this one, where it can serve."""
        if request.op != "consume" or not all(versions):
            return None
        lane = compile_headroom(request, copy.entry, subject)
        if lane is not None:
            lane.tag = self._tag(copy, lane, subject, versions)
            plan = copy.plans_at(max([request.now, *[record.at for record in subject.records()]]))[request.api]
            copy.lanes[plan.route_plan(request.route, request.api)] = lane
        return lane

    def _recall(self, found: Loaded, request: Request, answer: str, data: list[Any]) -> None:
        """Put a remembered request with its record; ``answer``: what the server answered where a lane admitted."""
        if answer:
            _, now, *readings = map(int, answer.split())
            earlier = read_remembered(str(request.request_id), now, readings, data, self.options)
        else:
            earlier = decode_remembered(str(request.request_id), data)
        found.remembered = earlier
        if earlier.answer.tokens[0] == found.subject.key.token:
            found.subject.key.requests = Kept((earlier,))


def dead_by(entry: Entry, record: Record, options: StoreOptions) -> int:
    """Return when nothing in a record matters any more.

    That is reckoned as though it were charged until its day ends, as it may be without the rule being asked.
    """
    options = terms_of(entry.key, options)
    dead_at, _ = record.dead_after(options.retention, options.late)
    day_end = record.at - record.at % DAY_US + DAY_US
    return max(dead_at, day_end + max(options.retention * DAY_US, options.request_ttl, _drained(entry)))


def _drained(entry: Entry) -> int:
    """Return how long the fullest bucket of a key's plans takes to be empty."""
    places: list[Entry | Upper] = [entry, *entry.uppers]
    limits = [
        limit
        for on in places
        for plan in (*on.plans.values(), *(plan for plan, _ in on.scheduled))
        for route in ("", *plan.routes)
        for limit in plan.route_plan(route).limits
    ]
    return max((-(-limit.burst // limit.drain) for limit in limits if isinstance(limit, CompiledThrottle)), default=0)


def refs(entry: Entry) -> list[str]:
    """The names of the records that calls of a key or an account charge: its own, and those of accounts above."""
    own = f"a:{entry.key.id}" if type(entry.key) is Account else f"k:{entry.key.id}"
    return [own, *(f"a:{upper.id}" for upper in entry.uppers)]


def subject_of(entry: Entry, records: Sequence[Record]) -> Subject:
    """Return the subject of an entry's records, in the order of ``refs``."""
    key, *others = records
    return Subject(key, others[0] if entry.shared else None, *others[entry.shared :])


def new_record(floor: int = 0) -> Record:
    """The record of a subject that has none."""
    return Record(new_number(), floor)
