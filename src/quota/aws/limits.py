"""API Gateway's quotas and throttles, read into ours: exact, or told, or refused. None admits more than it did there.

A method's throttle becomes the limits of routes, ``METHOD /path``, as frameworks name them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import attrs

from ..errors import InvalidPlan, InvalidValue
from ..limit import Quota, Throttle
from ..period import Period
from ..rule.limits import MAX_UNITS

PERIODS = {"DAY": "day", "WEEK": "week", "MONTH": "month"}
METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
"""All that ``ANY`` stands for."""

OFFSET = "quota.offset"
"""The attribute that keeps a quota's offset where it moves nothing here: a day's."""

_EVERY = ("ANY", "*")
_METHOD = re.compile(r"[A-Z]+")
_PATH = re.compile(r"/[^*]*")
_LONGEST_ROUTE = 1024
_LONGEST_EXPONENT = 400
_US = 1_000_000
_NUMBERS = ("rateLimit", "burstLimit")

Item = Mapping[str, Any]


@attrs.define
class Told:
    """All that is told of one plan or key: notes, and among them warnings of what does not bind as it did."""

    of: str
    notes: list[str]
    warnings: list[str]

    def note(self, what: str) -> None:
        """Tell what has no counterpart, or another form here."""
        self.notes.append(f"{self.of}: {what}")

    def warn(self, what: str) -> None:
        """Tell what somebody should look at before calls are let in."""
        self.note(what)
        self.warnings.append(self.notes[-1])


def read_quota(quota: Any, told: Told) -> list[Quota]:
    """A plan's quota, if it has one."""
    if quota is None or quota == {}:
        return []
    field = f"{told.of}: quota"
    given = _mapping(field, quota)
    limit = _whole(f"{field}.limit", given.get("limit"))
    period = given.get("period")
    if not isinstance(period, str) or period.upper() not in PERIODS:
        raise InvalidValue(f"{field}.period", period, "DAY, WEEK or MONTH")
    offset = 0 if given.get("offset") is None else _whole(f"{field}.offset", given["offset"])
    every = PERIODS[period.upper()]
    if every == "day" and offset:
        told.warn(f"quota: its offset {offset} moves no day")
        offset = 0
    try:
        return [Quota(limit, Period(every, offset=offset))]
    except InvalidPlan as error:
        raise InvalidValue(f"{field}.{error.field}", error.value, error.accepted) from None


def read_throttle(field: str, throttle: Any, told: Told) -> Throttle:
    """A throttle; of a rate that cannot be counted exactly the nearest, or where that is far off the next below.

    A number that is left out is 0, as in the service's model, and admits nobody.
    """
    given = _mapping(f"{told.of}: {field}", throttle)
    rate = _rate(f"{told.of}: {field}.rateLimit", given.get("rateLimit", 0))
    burst = _whole(f"{told.of}: {field}.burstLimit", given.get("burstLimit", 0))
    for name in _NUMBERS:
        if name not in given:
            told.warn(f"{field}: {name} is left out, which is 0 in the service's model: it admits nobody")
    try:
        limit = Throttle(rate, burst=burst)
    except InvalidPlan as error:
        most = MAX_UNITS // max(1, burst * _US)
        if not most:
            raise InvalidValue(f"{told.of}: {field}.{error.field}Limit", error.value, error.accepted) from None
        limit = Throttle(Fraction(int(rate * most), most), burst=burst)
        told.warn(
            f"{field}: the rate {given['rateLimit']} a second is lowered to {limit.rate or 'nothing: it admits nobody'}"
        )
    else:
        if limit.rate != rate:
            told.note(f"{field}: the rate {given['rateLimit']} a second is kept as {limit.rate}")
    return limit


def _mapping(field: str, given: Any) -> Item:
    if not isinstance(given, Mapping):
        raise InvalidValue(field, given, "an object, as the AWS CLI prints it")
    return given


def whole(number: Any) -> Any:
    """A number of the JSON as an int, where it is one."""
    short = isinstance(number, Decimal) and number.is_finite() and abs(number.adjusted()) < _LONGEST_EXPONENT
    return int(number) if short and number == number.to_integral_value() else number


def _whole(field: str, given: Any) -> int:
    number = int(given) if type(given) is float and given.is_integer() else whole(given)
    if type(number) is not int or not 0 <= number <= MAX_UNITS:
        raise InvalidValue(field, given, f"a whole number from 0 to {MAX_UNITS}")
    return number


def _rate(field: str, given: Any) -> Fraction:
    number = Decimal(repr(given)) if type(given) is float else given
    fits = type(number) is int or (
        type(number) is Decimal and number.is_finite() and abs(number.adjusted()) < _LONGEST_EXPONENT
    )
    if not fits or not 0 <= number <= MAX_UNITS:
        raise InvalidValue(field, given, f"a number from 0 to {MAX_UNITS}")
    return Fraction(number)


def closed(throttle: Throttle) -> bool:
    """True of a throttle that admits nobody."""
    return not throttle.rate or not throttle.burst


def read_routes(stages: Mapping[str, Any], general: Throttle | None, told: Told) -> dict[str, Throttle]:
    """The limits of a plan's routes, from the throttles of the methods of its stages.

    A plan counts its stages together, so of several the tightest binds; where a stage has none, that is the plan's.
    """
    read = [_read_stage(name, methods, told) for name, methods in stages.items()]
    routes: dict[str, Throttle] = {}
    for route in dict.fromkeys(route for own in read for route in own):
        bind = [limit for limit in (own.get(route, general) for own in read) if limit is not None]
        routes[route] = Throttle(min(limit.rate for limit in bind), burst=min(limit.burst for limit in bind))
    if routes and len(stages) > 1:
        told.warn(f"its {len(stages)} stages share the throttles of methods, the tightest of each: {_listed(routes)}")
    named = {route: limit for route, limit in routes.items() if "{" in route and "+}" not in route}
    if named:
        tell = told.warn if any(map(closed, named.values())) else told.note
        tell(f"these bind where the application names its routes so: {_listed(named)}")
    return routes


def _listed(routes: Mapping[str, Throttle]) -> str:
    names = sorted(routes)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if names[8:] else "")


def _read_stage(name: str, methods: Any, told: Told) -> dict[str, Throttle]:
    """One stage's throttles by route; a method's own before those of ``ANY``."""
    own: dict[str, Throttle] = {}
    of_any: dict[str, Throttle] = {}
    for place, given in _mapping(f"{told.of}: {name}: throttle", {} if methods is None else methods).items():
        throttle = read_throttle(f"{name} {place}", given, told)
        path, _, method = place.rpartition("/")
        routes = list(_routes(method, path))
        greedy = "+}" in path
        if closed(throttle) and (not routes or greedy):
            accepted = "one whose method and path a route can have, as /pets/GET: what is closed must not open"
            raise InvalidValue(f"{told.of}: {name} {place}", "a throttle that admits nobody", accepted)
        if not routes:
            told.warn(f"{name} {place} never binds: no route is named so")
        elif greedy:
            told.warn(f"{name} {place} binds only calls that say the route {routes[0]!r}: no framework names it so")
        elif method in _EVERY and not closed(throttle):
            told.warn(f"{name} {place} binds each method by itself, with a rate and a burst of its own")
        (of_any if method in _EVERY else own).update(dict.fromkeys(routes, throttle))
    return {**of_any, **own}


def _routes(method: str, path: str) -> Iterator[str]:
    """The routes that a method's throttle binds."""
    if _PATH.fullmatch(path) and path.isprintable() and (method in _EVERY or _METHOD.fullmatch(method)):
        for one in METHODS if method in _EVERY else [method]:
            if len(one) + 1 + len(path) <= _LONGEST_ROUTE:
                yield f"{one} {path}"


def in_short(limit: Throttle) -> bool:
    """True where the rate is a decimal that a double of a JSON holds, written and read again."""
    return Fraction(repr(float(limit.rate))) == limit.rate


def is_as(limit: Throttle, given: Item) -> bool:
    """True where an export writes what an import read, without being told of it."""
    complete = all(name in given for name in _NUMBERS)
    return complete and in_short(limit) and float(limit.rate) == float(given["rateLimit"])


def is_plain(stages: Sequence[Any], routes: Mapping[str, Throttle]) -> bool:
    """True where the throttles of methods can be written back as they were from the routes alone."""
    places = [
        (*place.rpartition("/"), given) for stage in stages for place, given in (stage.get("throttle") or {}).items()
    ]
    if len(stages) != 1:
        return not places
    return all(
        method not in _EVERY and (limit := routes.get(f"{method} {path}")) is not None and is_as(limit, given)
        for path, _, method, given in places
    )
