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


class Hold(NamedTuple):
    """A reservation: what was taken at ``taken_at``, until it ``expires``. ``still_open``: it has not lapsed."""

    expires: int
    taken_at: int
    still_open: bool
    takes: Amounts

    @classmethod
    def decode(cls, data: list[Any]) -> Hold:
        expires, taken_at, still, takes = data
        return _new(cls, (expires, taken_at, still, amounts(takes)))


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
    """An admission under its ``request_id``, for its retries: see ``operations/idempotency.py``.

    ``prints``: what a retry must have in common with it. ``groups``: what was taken for good, by instant.
    """

    until: int
    prints: list[Any]
    id: str
    hold_id: str
    plan_id: str
    takes: list[tuple[str, int]]
    now: int
    standings: list[list[Any]]
    crossed: list[tuple[str, int]]
    groups: list[tuple[int, Amounts]]
    tokens: tuple[int, int]

    @classmethod
    def decode(cls, data: Iterable[Any]) -> RememberedRequest:
        memo = cls._make(data)
        groups = [(at, amounts(takes)) for at, takes in memo.groups]
        return memo._replace(groups=groups, tokens=(memo.tokens[0], memo.tokens[1]))


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

    def without(self, units: int, taken_at: int) -> Day:
        """The day as though units had not been taken."""
        day = taken_at // DAY_US
        of_day, of_window = self.day == day, self.since <= taken_at and self.day >= day
        if not of_day and not of_window:
            return self
        return self._replace(used=self.used - units * of_day, window_used=self.window_used - units * of_window)


class ThrottleRef(NamedTuple):
    """A throttle that a key was charged under. ``shared``: the account's keys have one bucket together."""

    route: str
    name: str
    shared: bool
    scale: int
    drain: int
    burst: int


class Override(NamedTuple):
    """One subject's own ``value`` of a plan's limit (a throttle's in its text form), until an instant or for good."""

    plan: str
    route: str
    name: str
    value: int | str
    until: int | None

    def holds(self, now: int) -> bool:
        return self.until is None or now < self.until


def amounts(data: Iterable[Iterable[Any]]) -> Amounts:
    """Read amounts from their lists."""
    return tuple([_new(Amount, amount) for amount in data])
