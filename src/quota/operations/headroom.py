"""The compiled form: what calls of one kind may count of one key before anything else can happen.

The rule decides on records, step by step. A *headroom* is what it leaves for the plain case: meters to count on up to a
limit and buckets to pour into, good while the records' versions stand and nothing is due. A store drives it, in Python
(``SeveralMeters.take``) or by index in a script of its engine's; what a headroom cannot decide, the rule does.

A signal handler may raise where Python looks for signals: where a call returns, a function begins, a jump goes back. So
all is worked out first; what is then written is written between two such places, and no call is ever half counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from ..decision import Decision, Details, Reason, _http, _lazy, reason_of
from ..key import KeyOrCaller
from ..limit import REQUESTS
from ..plan import UsagePlan
from ..process.atomic import Step, at_once
from ..rule.charge import evaluate, metered
from ..rule.limits import Outcome, Place, Reading, RoutePlan, Stands
from ..rule.record import HOUR_US, MINUTE_US, Record, minute_of
from ..status import LimitStatus, statuses
from .shape import Shape


class Told(Decision):
    """A decision by a headroom: the whole answer is worked out when something of it is asked for.

    ``_room``: the headroom. ``_amounts``: what was asked for, in the order of its units, or as a mapping; a number is
    of requests. ``_found``: what its meters and buckets read after it. ``_dry``: nothing was taken, whatever it says.
    """

    __slots__ = ("_amounts", "_dry", "_found", "_level", "_room")

    __init__ = object.__init__

    _amounts: Any
    _found: Any
    _level: int
    _room: Headroom
    _dry: bool

    def __getattr__(self, name: str) -> Any:
        if name != "_full":
            raise AttributeError(name)
        with _lazy:  # another thread, or a signal handler, may be first
            full = self._work_out()
            try:
                return object.__getattribute__(self, "_full")
            except AttributeError:
                self._full = full
        return full

    def _work_out(self) -> Details:
        return self._room.details(self)

    @property
    def plan(self) -> UsagePlan | None:
        """See ``Decision.plan``."""
        return self._room.shape.plan.told if self.allowed else super().plan

    @property
    def limits(self) -> tuple[LimitStatus, ...]:
        """See ``Decision.limits``."""
        return statuses(self._room.read(self), self._now, self._room.key) if self.allowed else super().limits

    def headers(self, profile: str = "ietf") -> dict[str, str]:
        """See ``Decision.headers``."""
        short = self.allowed and profile == "ietf"
        return _http.told(self._room.read(self), self._now) if short else super().headers(profile)

    def _rows(self) -> list[Any]:
        return _http.rows_of(self._room.read(self), self._now) if self.allowed else super()._rows()


class Headroom:
    """All that decisions read of a compiled form; nothing of that ever changes: another window is another headroom.

    ``places``: where each limit stands, beside ``bases``: what it read when its window began. ``tokens``: the records'
    own numbers. ``until``: an instant that it is good until at most, 0 while it serves no call.
    """

    __slots__ = ("shape", "until")

    key: KeyOrCaller
    shape: Shape
    until: int
    places: tuple[Place, ...]
    bases: Sequence[int]
    tokens: tuple[int, ...]

    def takes(self, decision: Told) -> Mapping[str, int]:
        """Return what a decision was asked for, by unit."""
        amounts = decision._amounts
        if type(amounts) is list:
            return {unit: units for unit, units in zip(self.shape.units, amounts, strict=True) if units}
        return amounts  # type: ignore[no-any-return] # a mapping

    def read(self, decision: Told) -> Stands:
        """Return where limits stand after a decision."""
        return self.places, self.bases, decision._found

    def details(self, decision: Told) -> Details:
        """Work out the whole answer."""
        takes, now, shape = self.takes(decision), decision._now, self.shape
        taken = decision.allowed and not hasattr(decision, "_dry")
        places, bases, found = self.read(decision)
        readings = [
            Reading(limit, found[index] - base, extra, end or now)
            for (limit, index, extra, end), base in zip(places, bases, strict=True)
        ]
        outcome = evaluate(readings, {} if decision.allowed else takes, now)
        groups = ((now, metered(shape.route_plan, takes)),) if taken else ()
        tokens, above = (self.tokens, shape.plan.above) if taken else ((0, 0), ())
        return Details(
            reason_of(outcome), None, self.key, shape.plan, takes, outcome, groups, tokens,
            route=shape.route_plan.told, above=above,
        )  # fmt: skip


class _Nobody(Headroom):
    """The headroom of secrets that no key has: none."""

    __slots__ = ()

    def details(self, decision: Told) -> Details:
        outcome = Outcome(allowed=False, now=decision._now, states=())
        return Details(Reason.UNKNOWN_KEY, None, None, None, {REQUESTS: decision._amounts}, outcome)


NOBODY = _Nobody()


class SeveralMeters(Headroom):
    """Room of one key on one route plan: on any number of meters and buckets, of its own record and its account's.

    ``cells``: (meter, unit's place, soft limit, hard limit). Up to the soft one nothing happens but counting, above
    the hard one a quota refuses, in between the rule is asked. ``pours``: (bucket, unit's place, drain, scale, burst).
    A meter is an object here; for a script of an engine's, (record, meter) by index, and a bucket is (record, meter,
    bucket). ``slots``: (record, apis, route, limit) of calls in flight, the last first; they are read last.
    ``end``: when something is due, reservations aside. ``began``, ``until``: the minute that it was last asked in, 0
    before. ``own``, ``last``: the key's record, and the next one or the same; ``above``: any beyond, of accounts above,
    each with its version. ``tag``: what a store keeps with it.
    """

    __slots__ = (
        "above", "bases", "began", "cells", "end", "key", "last", "last_version", "own", "own_version", "places",
        "pours", "slots", "tag", "tokens",
    )  # fmt: skip

    cells: tuple[tuple[Any, ...], ...]
    pours: tuple[tuple[Any, ...], ...]
    slots: Sequence[tuple[Record, str, str, int]]
    end: int
    own: Record
    last: Record
    above: tuple[tuple[Record, int], ...]
    tag: Any

    @property
    def route_plan(self) -> RoutePlan:
        """The limits that its calls go through."""
        return self.shape.route_plan

    def bind(self, records: Sequence[Record]) -> None:
        """Bind it to the records that its meters are of, as they are now."""
        self.own, self.last = records[0], records[1] if len(records) > 1 else records[0]
        self.above = tuple([(record, record.version) for record in records[2:]])
        self.own_version, self.last_version = self.own.version, self.last.version
        self.began = self.until = 0

    def good(self, now: int) -> bool:
        """Tell whether all stands as when this was bound and nothing is due; then go on into the minute of ``now``."""
        own, last = self.own, self.last
        if own.version != self.own_version or last.version != self.last_version or not self.shape.live:
            return False
        if not (own.quiet(now) and last.quiet(now) and self._good_above(now)):
            return False
        if self.until <= now < self.end:
            began = now - now % MINUTE_US
            self.began, self.until = began, self.shape.share("minute", min(began + MINUTE_US, self.end))
        return bool(own.at <= now < self.until and last.at <= now)

    def _good_above(self, now: int) -> bool:
        """Tell whether the records of accounts above stand as well."""
        for record, version in self.above:
            if record.version != version or record.at > now or not (record.holds is None or record.quiet(now)):
                return False
        return True

    def take(  # noqa: C901, PLR0912 -- in line: a call more is a floor's quarter
        self, decision: Told, amounts: list[int], now: int, dry: bool
    ) -> bool | None:
        """Take all or nothing, and fill the decision in. None: nothing was done, ask the rule.

        The caller sees to it that nobody else counts on these records. ``dry`` answers the same and changes nothing.
        """
        own, last, above = self.own, self.last, self.above
        if not (
            own.at <= now < self.until
            and own.version == self.own_version
            and (own.holds is None or own.quiet(now))
            and self.shape.live
            and (last is own or (last.version == self.last_version and last.at <= now and last.quiet(now)))
            and (not above or self._good_above(now))
        ) and not self.good(now):
            return None
        found: list[int] = []
        allowed: bool | None = True
        cells, pours = self.cells, self.pours
        for cell, unit, soft, hard in cells:
            units = amounts[unit]
            total = cell.total + units
            found.append(total)
            if total > soft and units:
                allowed = False if total > hard else allowed and None
        for bucket, unit, drain, scale, burst in pours:
            units = amounts[unit]
            level = bucket.level - drain * (now - bucket.at)
            filled = (level if level > 0 else 0) + units * scale  # noqa: FURB136 -- a call
            found.append(filled)
            if filled > burst and units:
                allowed = False
        if allowed is None or (self.slots and not self._free(found, amounts)):
            return None
        decision._room, decision._now = self, now  # in pairs: of four a tuple would be made
        decision._amounts = amounts
        decision._found = found
        decision.allowed = allowed
        if dry:
            decision._dry = True
        if dry or not allowed:
            return allowed
        width, filled_ones, high = len(cells), len(pours), len(above)
        few = width <= 4 and filled_ones <= 2 and (not high or not self._behind())
        if not few or own.last_used != self.began or last.at < self.began:
            at_once(*self.steps(found, now))
            return True
        # Stores and forward jumps alone: no signal is looked for in between.
        cells[0][0].total = found[0]
        if width > 1:
            cells[1][0].total = found[1]
            if width > 2:
                cells[2][0].total = found[2]
                if width > 3:
                    cells[3][0].total = found[3]
        if filled_ones:
            bucket = pours[0][0]
            bucket.level = found[width]
            bucket.at = now
            if filled_ones > 1:
                bucket = pours[1][0]
                bucket.level = found[width + 1]
                bucket.at = now
        own.at = last.at = now
        if high:
            above[0][0].at = now
            if high > 1:
                above[1][0].at = now
        return True

    def _free(self, found: list[int], amounts: list[int]) -> bool:
        """Read how many calls are in flight; where there are as many as may be, the rule finds when one lapses."""
        for record, apis, route, most in self.slots:
            used = record.in_use(apis, route)
            found.append(used)
            if used >= most and any(amounts):
                return False
        return True

    def _behind(self) -> bool:
        """Tell whether an account above begins a minute, or there are too many to be written by stores alone."""
        above, began = self.above, self.began
        high = len(above)
        return above[0][0].at < began or (high > 1 and (above[1][0].at < began or high > 2))

    def read(self, decision: Told) -> Stands:
        """See ``Headroom.read``; what was refused left all as it was."""
        found, amounts = decision._found, decision._amounts
        if not decision.allowed and type(amounts) is list:
            asked = [amounts[cell[1]] for cell in self.cells] + [amounts[pour[1]] * pour[3] for pour in self.pours]
            found = [after - more for after, more in zip_longest(found, asked, fillvalue=0)]
        return self.places, self.bases, found

    def records(self) -> list[Record]:
        """Return the records that it is bound to."""
        own, last = self.own, self.last
        return [own, *([] if last is own else [last]), *[record for record, _ in self.above]]

    def steps(self, found: Sequence[int], now: int, *, admitted: bool = True) -> list[Step]:
        """Return a commit of any size; the first of a minute notes what all meters of a record read when that began.

        ``found``: of the meters, and of the buckets where these are told.
        """
        minute, own = minute_of(now), self.own
        steps: list[Step] = [(setattr, cell[0], "total", total) for cell, total in zip(self.cells, found, strict=False)]
        for (bucket, *_), level in zip(self.pours, found[len(self.cells) :], strict=False):
            steps += (setattr, bucket, "level", level), (setattr, bucket, "at", now)
        for record in self.records():
            if record.at < minute:
                steps += [(setattr, meter, "minute", meter.total) for meter in record.meters]
                if record.at < now - now % HOUR_US:
                    steps += [(setattr, meter, "hour", meter.total) for meter in record.meters]
            steps.append((setattr, record, "at", now))
        if admitted and own.last_used != minute:
            steps.append((setattr, own, "last_used", minute))
        return steps

    def conclude(
        self, allowed: bool, takes: Mapping[str, int], now: int, found: Sequence[int], id_: str | None = None
    ) -> Decision:
        """Return the decision that an engine made by the numbers; ``id_`` where it is remembered under one."""
        decision: Told = Told()
        decision.allowed = allowed
        decision._room, decision._now, decision._amounts, decision._found = self, now, takes, found
        if id_ is not None:
            decision._details().id = id_
        return decision
