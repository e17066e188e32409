"""Entries of a record besides its meters: tuples with names, which JSON holds as the list of their fields.

None of them is ever changed: another one takes its place, so copies of a record may share them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from ..clock import DAY_US

_new = tuple.__new__  # what a call of the class ends in, in half the time: a record may hold thousands of these

MeterName = tuple[str, str, str]
"""A meter's api, route and unit."""


class Amount(NamedTuple):
    """Units of one meter: taken, held, leased or given back."""

    api: str
    route: str
    unit: str
    units: int

    @property
    def meter(self) -> MeterName:
        return self.api, self.route, self.unit


Amounts = tuple[Amount, ...]
Groups = tuple[tuple[int, Amounts], ...]
"""Units taken for good, by when."""


class Hold(NamedTuple):
    """A reservation, which is a slot in flight: what was taken at ``taken_at`` and is held. ``still_open``: not lapsed.

    ``until``: when it lapses; of one that has, when it is forgotten, a day later. ``api``, ``route``: of its call.
    ``decision``: the id of the decision that is remembered for its retries, if one is. ``spent``: what was taken for
    good of it, and when. ``also``: other names that plans have for the route; ``above``: the accounts above the key's
    own that it counts on. ``marks``: the last spending of each of the latest handles, so that its retry spends nothing.
    """

    until: int
    id: str
    taken_at: int
    still_open: bool
    takes: Amounts
    api: str = ""
    route: str = ""
    decision: str = ""
    spent: Groups = ()
    marks: tuple[tuple[str, int], ...] = ()
    also: tuple[str, ...] = ()
    above: tuple[str, ...] = ()

    @property
    def expires(self) -> int:
        return self.until if self.still_open else self.until - DAY_US

    @property
    def place(self) -> tuple[str, ...]:
        """The places that it is in flight at: its api, and all names of its route."""
        return self.api, self.route, *self.also

    def held(self) -> dict[str, int]:
        """Return what is held, by unit."""
        return {amount.unit: amount.units for amount in self.takes if not amount.route}

    def gone(self) -> dict[str, int]:
        """Return all that was taken for good, by unit."""
        spent: dict[str, int] = {}
        for amount in [amount for _, part in self.spent for amount in part if not amount.route]:
            spent[amount.unit] = spent.get(amount.unit, 0) + amount.units
        return spent

    def lapsed(self) -> Hold:
        """The hold from its end on."""
        return self._replace(until=self.until + DAY_US, still_open=False)

    def encode(self) -> list[Any]:
        more = [self.decision, self.spent, self.marks, self.also, self.above]
        more = more if any(more) else []
        return [self.expires, self.taken_at, self.still_open, self.takes, self.api, self.route, *more]

    @classmethod
    def decode(cls, id_: str, data: list[Any]) -> Hold:
        expires, taken_at, still, takes, api, route, *more = data
        decision, spent, marks, also, above = more or ("", (), (), (), ())
        return _new(
            cls,
            (
                expires if still else expires + DAY_US, id_, taken_at, still, amounts(takes), api, route, decision,
                tuple([(at, amounts(part)) for at, part in spent]), tuple([(handle, n) for handle, n in marks]),
                tuple(also), tuple(above),
            ),
        )  # fmt: skip


class Refund(NamedTuple):
    """A decision, by its ``name``, whose units were given back: it is remembered ``until`` then."""

    until: int
    name: str


class Lease(NamedTuple):
    """A lease, by its ``number`` under its name: what was taken at ``taken_at``.

    ``until``: when the last window that counts it ends. ``lively``: until when its process is taken to be alive.
    """

    number: int
    until: int
    lively: int
    taken_at: int
    takes: Amounts

    @classmethod
    def decode(cls, data: list[Any]) -> Lease:
        number, until, lively, taken_at, takes = data
        return _new(cls, (number, until, lively, taken_at, amounts(takes)))


class RememberedRequest(NamedTuple):
    """An admission under its request id (``name``), for its retries: see ``operations/idempotency.py``.

    ``id``, ``plan_id``: the decision's; no id where ``answer`` knows it. ``asked``: what a retry must have in common
    with it. ``answer``: the decision, or all that it tells.
    """

    until: int
    name: str
    id: str
    plan_id: str
    asked: tuple[Any, ...]
    answer: Any


class Day(NamedTuple):
    """One quota on one day: units ``used`` that day, ``window_used`` in its window, which is counted from ``since``."""

    api: str
    route: str
    unit: str
    name: str
    day: int
    limit: int
    used: int
    window_used: int
    since: int

    @property
    def meter(self) -> MeterName:
        return self.api, self.route, self.unit


class ThrottleRef(NamedTuple):
    """A throttle that a key was charged under. ``shared``: the account's keys have one bucket together.

    ``apis``: of a plan for several, the name of their meter, which has the bucket; else that has it which has this.
    """

    route: str
    name: str
    shared: bool
    scale: int
    drain: int
    burst: int
    apis: str = ""


class Override(NamedTuple):
    """One subject's own ``value`` of a plan's limit (a throttle's in its text form), until an instant or for good."""

    plan: str
    route: str
    name: str
    value: int | str
    until: int | None

    def holds(self, now: int) -> bool:
        return self.until is None or now < self.until


class PlanDay(NamedTuple):
    """The plan that calls to an api were charged on, from a day on."""

    api: str
    day: int
    plan: str


def amounts(data: Iterable[Iterable[Any]]) -> Amounts:
    """Read amounts from their lists."""
    return tuple([_new(Amount, amount) for amount in data])
