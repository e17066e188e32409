"""Limits: quotas, throttles and calls in flight, what a call costs, and the text form they are written in.

1000/day, 50000/month in Europe/Paris, 10/s burst 20, 90000 tokens/minute by account as budget, 5 concurrent
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from math import gcd
from types import MappingProxyType
from typing import ClassVar

import attrs

from .errors import InvalidCost, InvalidPlan, check_text
from .period import WORDS, Period, parse_period
from .rule.limits import MAX_UNITS

Cost = int | Mapping[str, int]
"""Units of one call: a positive integer counts ``requests``; a mapping says how many of each unit."""

REQUESTS = "requests"
IN_FLIGHT = "concurrent-requests"
"""The unit that concurrency limits are told in; no call costs any of it."""
_PER_US = {"second": 1_000_000, "minute": 60_000_000, "hour": 3_600_000_000, "day": 86_400_000_000}
_NAME = r"[^\s,/](?:[^,\n\r\t]*[^\s,])?\Z"
_UNIT = r"[A-Za-z_][A-Za-z0-9_.-]{0,63}\Z"
UNITS_OF_A_COST = 16
_MOST_DIGITS = 50
_PRECISION = 10**9  # a rate is kept within one part in so many of what was asked for


def whole(field: str, value: object, least: int = 1, error: type[InvalidPlan | InvalidCost] = InvalidPlan) -> int:
    """A whole number of units in range, or the error that says so."""
    if type(value) is not int or not least <= value <= MAX_UNITS:
        raise error(field, value, f"a whole number from {least} to {MAX_UNITS}")
    return value


def parse_cost(cost: object, field: str = "cost", least: int = 1) -> Mapping[str, int]:
    """The units of a call, by unit. ``least=0`` admits that nothing was used (a commit).

    Raises:
        InvalidCost: for anything but whole numbers in range, or when no unit is taken at all.
    """
    # An int is no mapping, and whether something is one takes long to find out.
    if type(cost) is int or not isinstance(cost, Mapping):  # pragma: no mutate
        return {REQUESTS: whole(field, cost, least, InvalidCost)}
    accepted = f"1 to {UNITS_OF_A_COST} units, at least one of them above zero"
    if len(cost) > UNITS_OF_A_COST:
        raise InvalidCost(field, f"{len(cost)} units", accepted)
    for unit, units in cost.items():
        _check_unit(field, unit, InvalidCost)
        whole(f"{field}[{unit!r}]", units, 0, InvalidCost)
    if least and not any(cost.values()):
        raise InvalidCost(field, dict(cost), accepted)
    return MappingProxyType(dict(cost))


def _check_unit(field: str, unit: object, error: type[InvalidPlan | InvalidCost] = InvalidPlan) -> str:
    if not isinstance(unit, str) or not re.match(_UNIT, unit):
        raise error(field, unit, "a unit's name such as 'requests', at most 64 ASCII letters, digits, '_', '.' and '-'")
    return unit


def _check_by(by: object) -> None:
    if by not in ("key", "account"):
        raise InvalidPlan("by", by, "'key' or 'account'")


def _check_name(name: object, default: str) -> str:
    if name is None:
        return default
    check_text("name", name, error=InvalidPlan, longest=128)
    if not re.match(_NAME, str(name)):
        raise InvalidPlan("name", name, "text without ',' or line breaks, not beginning or ending in a space or '/'")
    return str(name)


def _to_period(period: Period | str) -> Period:
    return period if isinstance(period, Period) else parse_period(period)


def _suffix(limit: Limit, default: str) -> str:
    by = " by account" if limit.by == "account" else ""
    return by + (f" as {limit.name}" if limit.name != default else "")


@attrs.frozen
class Quota:
    """At most ``limit`` units per calendar window of ``period``, all of them at any moment of it.

    ``period`` is a ``Period`` or its text (``"day"``, ``"month in Europe/Paris"``). ``unit`` is what is counted.
    ``by="account"`` counts the account's keys together. ``overage`` more units are admitted beyond the limit and shown
    in ``Decision.over``. ``name`` is what the count is kept under; by default the unit and the period. A limit of 0
    admits nobody.

    Raises:
        InvalidPlan: naming the field that cannot be meant.
    """

    limit: int = attrs.field()
    period: Period = attrs.field(converter=_to_period)
    unit: str = attrs.field(default=REQUESTS, kw_only=True)
    by: str = attrs.field(default="key", kw_only=True)
    name: str = attrs.field(default=None, kw_only=True)
    overage: int = attrs.field(default=0, kw_only=True)

    def __attrs_post_init__(self) -> None:
        whole("limit", self.limit, 0)
        _check_unit("unit", self.unit)
        _check_by(self.by)
        whole("overage", self.overage, 0)
        if self.overage and not self.limit:
            raise InvalidPlan("overage", self.overage, "0 where the limit is 0, which admits nobody")
        whole("limit + overage", self.limit + self.overage, 0)
        object.__setattr__(self, "name", _check_name(self.name, self._default_name))

    @property
    def _default_name(self) -> str:
        return f"{self.unit}/{self.period}"

    def __str__(self) -> str:
        unit = "" if self.unit == REQUESTS else f" {self.unit}"
        overage = f" overage {self.overage}" if self.overage else ""
        return f"{self.limit}{unit}/{self.period}{overage}{_suffix(self, self._default_name)}"


def _to_per(per: str) -> str:
    return WORDS.get(per, per) if isinstance(per, str) else per


def _to_rate(rate: Fraction | Decimal | int | str) -> Fraction:
    accepted = "zero or a positive number: an int, a Fraction, a Decimal or a text such as '0.5', below 2^53"
    if isinstance(rate, (bool, float)):
        raise InvalidPlan("rate", rate, accepted + " (floats are not exact)")
    try:
        if isinstance(rate, str) and "e" in rate.lower():
            rate = Decimal(rate)
        # A fraction of a thousand million digits is never made; what would be one is refused below.
        long = isinstance(rate, (str, Decimal)) and len(str(rate)) > 20 * _MOST_DIGITS
        long = long or (isinstance(rate, Decimal) and rate.is_finite() and abs(rate.adjusted()) > _MOST_DIGITS)
        exact = Fraction(-1 if long else rate)
    except (TypeError, ValueError, ArithmeticError):
        raise InvalidPlan("rate", rate, accepted) from None
    if not 0 <= exact <= MAX_UNITS:
        raise InvalidPlan("rate", rate, accepted)
    return Fraction(exact)


@attrs.frozen
class Throttle:
    """A token bucket: ``rate`` units each ``per`` (second, minute, hour, day), at most ``burst`` of them at once.

    ``rate`` is exact: an int, a Fraction, a Decimal or a text (``Throttle("0.5")`` is one unit each two seconds). One
    of too many digits to be counted exactly is kept as the nearest that can be, at most a thousand-millionth of it
    away, and told: ``Throttle("16.666666666666668", burst=5).rate`` is ``Fraction(50, 3)``, as its ``str()`` says.
    ``burst`` is by default the rate, rounded up: one ``per`` worth. Over any interval t at most burst + rate x t units
    are admitted (API Gateway's throttling uses the same algorithm). A rate or a burst of 0 admits nobody.

    Raises:
        InvalidPlan: naming the field that cannot be meant.
    """

    rate: Fraction = attrs.field(converter=_to_rate)
    per: str = attrs.field(default="second", converter=_to_per)
    burst: int = attrs.field(default=None, kw_only=True)
    unit: str = attrs.field(default=REQUESTS, kw_only=True)
    by: str = attrs.field(default="key", kw_only=True)
    name: str = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if type(self.per) is not str or self.per not in _PER_US:
            raise InvalidPlan("per", self.per, "'second', 'minute', 'hour' or 'day'")
        if self.burst is None:
            object.__setattr__(self, "burst", -(-self.rate.numerator // self.rate.denominator))
        whole("burst", self.burst, 0)
        _check_unit("unit", self.unit)
        _check_by(self.by)
        scale, drain = self._measure()
        if self._room * scale > MAX_UNITS or drain > MAX_UNITS:
            object.__setattr__(self, "rate", self._nearest())
        object.__setattr__(self, "name", _check_name(self.name, "throttle"))

    def _nearest(self) -> Fraction:
        """The rate nearest to this one at which a bucket of this burst counts exactly.

        Of all fractions with denominators up to n, one lies within 1/n of any number's own size, unless the number is
        below them all (Dirichlet): so whatever is refused here, the burst that is told instead is not.
        """
        exact = self.rate / _PER_US[self.per]  # units each microsecond: drain over scale
        widest = min(MAX_UNITS // self.burst, int((MAX_UNITS - 1) / max(exact, Fraction(1))))
        kept = exact.limit_denominator(widest)
        if kept * _PER_US[self.per] > MAX_UNITS:  # the nearest may be beyond the largest rate: then the one before
            kept -= Fraction(1, kept.denominator)
        if abs(kept - exact) * _PRECISION > exact:
            most = max(MAX_UNITS // self._measure()[0], min(int(MAX_UNITS * exact), MAX_UNITS // _PRECISION))
            if not most:
                raise InvalidPlan("rate", self.rate, "0, or at least one unit in 285 years")
            raise InvalidPlan("burst", self.burst, f"at most {most} at the rate {float(self.rate):g}/{self.per}")
        return kept * _PER_US[self.per]

    @property
    def _room(self) -> int:
        """Return how many units the bucket holds."""
        return self.burst if self.rate else 0

    def _measure(self) -> tuple[int, int]:
        """(scale, drain): units count ``scale`` each and ``drain`` of that goes every microsecond, exactly.

        Where nobody is admitted, a unit goes in 285 years, the slowest there is: what other plans left in the bucket
        is still there when they come back.
        """
        if not self._room:
            return MAX_UNITS, 1
        scale, drain = self.rate.denominator * _PER_US[self.per], self.rate.numerator
        shared = gcd(scale, drain)
        return scale // shared, drain // shared

    def __str__(self) -> str:
        unit = "" if self.unit == REQUESTS else f" {self.unit}"
        return f"{_decimal(self.rate)}{unit}/{self.per} burst {self.burst}{_suffix(self, 'throttle')}"


def _decimal(rate: Fraction) -> str:
    """Decimal where that is exact, else a fraction."""
    for digits in range(19):
        if (rate * 10**digits).denominator == 1:
            text = f"{(rate * 10**digits).numerator:0{digits + 1}d}"
            return f"{text[:-digits]}.{text[-digits:]}" if digits else text
    return str(rate)


@attrs.frozen
class Concurrency:
    """At most ``limit`` calls in flight: reservations of a key that are open at once, over all processes.

    ``by="account"`` counts the account's keys together. A call needs a free slot; one that is reserved, or that keeps
    its slot (``consume(keep_slot=)``), has it until it is closed or its ``ttl`` is over. A route's own counts the
    reservations on that route, beside the plan's. ``name`` tells two of one plan apart. A limit of 0 admits nobody.

    Raises:
        InvalidPlan: naming the field that cannot be meant.
    """

    unit: ClassVar[str] = IN_FLIGHT

    limit: int = attrs.field()
    by: str = attrs.field(default="key", kw_only=True)
    name: str = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        whole("limit", self.limit, 0)
        _check_by(self.by)
        object.__setattr__(self, "name", _check_name(self.name, "concurrency"))

    def __str__(self) -> str:
        return f"{self.limit} concurrent{_suffix(self, 'concurrency')}"


Limit = Quota | Throttle | Concurrency


def check_distinct(field: str, limits: Sequence[Limit]) -> None:
    """Limits that are kept side by side have names of their own."""
    seen: set[str] = set()
    for limit in limits:
        if limit.name in seen:
            raise InvalidPlan(field, limit.name, "limits with distinct names; name one of them with name= or 'as NAME'")
        seen.add(limit.name)
