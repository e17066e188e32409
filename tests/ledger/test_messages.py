"""What the errors of limits, costs and plans say, word for word: a message is part of what users are promised."""

from fractions import Fraction

import pytest

from quota import InvalidCost, InvalidPlan, Quota, Throttle, UsagePlan
from quota.limit import parse_cost
from quota.limit_text import parse_limit, parse_limits

WHOLE = "a whole number from 1 to 9007199254740991"
FROM_ZERO = "a whole number from 0 to 9007199254740991"
RATE = "zero or a positive number: an int, a Fraction, a Decimal or a text such as '0.5', below 2^53"
UNIT = "a unit's name such as 'requests', at most 64 ASCII letters, digits, '_', '.' and '-'"
NAME = "text without ',' or line breaks, not beginning or ending in a space or '/'"
LIMITS = "limits such as '1000/day', '50000 tokens/month in Europe/Paris', '10/s burst 20' or '5 concurrent'"
OBJECTS = "Quota, Throttle and Concurrency objects, or a text such as '1000/day, 10/s burst 20, 5 concurrent'"
PERIODS = "one of minute, hour, day, week, month, year, or a throttle such as '10/s burst 20'"
PERIOD = "such as 'day', '15 minute', 'month in Europe/Paris' or 'week offset 2'"
DISTINCT = "limits with distinct names; name one of them with name= or 'as NAME'"
PRINTABLE = "printable text of 1 to {} characters"

SAID = [
    (lambda: Quota(-1, "day"), "limit", -1, FROM_ZERO),
    (lambda: Quota(1, "day", overage=-1), "overage", -1, FROM_ZERO),
    (lambda: Quota(2, "day", overage=2**53 - 2), "limit + overage", 2**53, FROM_ZERO),
    (lambda: Quota(1, "day", unit="a b"), "unit", "a b", UNIT),
    (lambda: Quota(1, "day", by="team"), "by", "team", "'key' or 'account'"),
    (lambda: Quota(1, "day", name="a,b"), "name", "a,b", NAME),
    (lambda: Quota(1, "day", name="x" * 129), "name", "x" * 129, PRINTABLE.format(128)),
    (lambda: Quota(1, 5), "period", 5, PERIOD),
    (lambda: Throttle(0.5), "rate", 0.5, f"{RATE} (floats are not exact)"),
    (lambda: Throttle(True), "rate", True, f"{RATE} (floats are not exact)"),
    (lambda: Throttle("x"), "rate", "x", RATE),
    (lambda: Throttle(2**53), "rate", 2**53, RATE),
    (lambda: Throttle(1, "week"), "per", "week", "'second', 'minute', 'hour' or 'day'"),
    (lambda: Throttle(1, burst=-1), "burst", -1, FROM_ZERO),
    (lambda: Quota(0, "day", overage=1), "overage", 1, "0 where the limit is 0, which admits nobody"),
    (lambda: Throttle(1, unit=""), "unit", "", UNIT),
    (lambda: Throttle(1, by=None), "by", None, "'key' or 'account'"),
    (lambda: Throttle(1, name=" a"), "name", " a", NAME),
    (lambda: Throttle(1, "day", burst=200_000), "burst", 200_000, "at most 104249 at the rate 1/day"),
    (lambda: Throttle("16.666666666666668", burst=10**12), "burst", 10**12, "at most 9007199 at the rate 16.6667/second"),
    (lambda: Throttle(Fraction(1, 10**30)), "rate", Fraction(1, 10**30), "0, or at least one unit in 285 years"),
    (lambda: parse_cost(0), "cost", 0, WHOLE),
    (lambda: parse_cost(-1, "actual", 0), "actual", -1, FROM_ZERO),
    (lambda: parse_cost({"a b": 1}), "cost", "a b", UNIT),
    (lambda: parse_cost({"tokens": -1}, "actual"), "actual['tokens']", -1, FROM_ZERO),
    (lambda: parse_cost({"a": 0}), "cost", {"a": 0}, "1 to 16 units, at least one of them above zero"),
    (lambda: parse_cost({f"a{n}": n for n in range(17)}), "cost", "17 units", "1 to 16 units, at least one of them above zero"),
    (lambda: parse_limit(" x "), "limit", "x", LIMITS),
    (lambda: parse_limits(" "), "limits", " ", f"{LIMITS}, separated by ','; a plan without limits has limits=()"),
    (lambda: parse_limit("5/s overage 3"), "overage", "3", "no overage: a throttle has none"),
    (lambda: parse_limit("5/week burst 3"), "per", "week", "second, minute, hour or day before 'burst'"),
    (lambda: parse_limit("x/s"), "rate", "x", "zero or a positive number such as 10, 0.5 or 1/3"),
    (lambda: parse_limit("5/s burst x"), "burst", "x", "a whole number, at most 9007199254740991"),
    (lambda: parse_limit("5/s burst " + "9" * 17), "burst", "9" * 17, "a whole number, at most 9007199254740991"),
    (lambda: parse_limit("x/day"), "limit", "x", "a whole number, at most 9007199254740991"),
    (lambda: parse_limit("5/day overage x"), "overage", "x", "a whole number, at most 9007199254740991"),
    (lambda: parse_limit("5/day overage \u0665"), "overage", "\u0665", "a whole number, at most 9007199254740991"),
    (lambda: parse_limit("5/s burst 1 burst 2"), "limit", "burst", "each option once"),
    (lambda: parse_limits("5/day, 5/mnth"), "limits, character 10 (period)", "mnth", PERIODS),
    (lambda: parse_limits("5/day, 6/day"), "limits", "requests/day", DISTINCT),
    (lambda: UsagePlan("", ()), "id", "", PRINTABLE.format(256)),
    (lambda: UsagePlan("p", (), name=""), "name", "", PRINTABLE.format(256)),
    (lambda: UsagePlan("p", (), api="\n"), "api", "\n", "printable text of 0 to 256 characters"),
    (lambda: UsagePlan("p", 5), "limits", 5, OBJECTS),
    (lambda: UsagePlan("p", b"5/day"), "limits", b"5/day", OBJECTS),
    (lambda: UsagePlan("p", [5]), "limits", 5, "a Quota, a Throttle, a Concurrency or its text"),
    (lambda: UsagePlan("p", ["5/day", "6/day"]), "limits", "requests/day", DISTINCT),
    (lambda: UsagePlan("p", (), routes=5), "routes", 5, "a mapping from route to limits"),
    (lambda: UsagePlan("p", (), routes={"x" * 1025: ()}), "route", "x" * 1025, PRINTABLE.format(1024)),
    (lambda: UsagePlan("p", "1/week as r x, 1/hour as x", routes={"r": "1/day as x"}), "routes['r']", ["r x", "x", "r x"],
     "limits with names of their own"),
    (lambda: UsagePlan("p", (), routes={"r": "5/mnth"}), "routes['r']: limits, character 3 (period)", "mnth", PERIODS),
    (lambda: UsagePlan("p", (), costs=5), "costs", 5, "a mapping from route to cost"),
    (lambda: UsagePlan("p", (), costs={"r": 0}), "costs['r']", 0, WHOLE),
    (lambda: UsagePlan("p", (), costs={"": 0}), "route", "", PRINTABLE.format(1024)),
    (lambda: UsagePlan("p", (), alerts=5), "alerts", 5, "whole percents from 1 to 1000"),
    (lambda: UsagePlan("p", (), alerts=(0,)), "alerts", 0, "whole percents from 1 to 1000"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "field", "value", "accepted"), SAID)
def test_what_is_said(call, field, value, accepted):
    """The field, the value and what is accepted."""
    with pytest.raises((InvalidPlan, InvalidCost)) as raised:
        call()
    error = raised.value
    assert (error.field, error.value, error.accepted) == (field, value, accepted)


@pytest.mark.parametrize("make", [
    lambda: Quota(2**53 - 1, "day"), lambda: Quota(1, "day", overage=2**53 - 2), lambda: Throttle(2**53 - 1, burst=1),
    lambda: Throttle(10**6, burst=2**53 - 1), lambda: Quota(1, "day", unit="u" * 64),
    lambda: Quota(1, "day", name="n" * 128), lambda: UsagePlan("p" * 256, (), name="n" * 256, api="a" * 256),
    lambda: UsagePlan("p", (), routes={"r" * 1024: "1/s"}, alerts=(1, 1000)), lambda: parse_limit("9007199254740991/day"),
    lambda: parse_cost({f"u{n}": 1 for n in range(16)}), lambda: parse_cost({"a": 0}, "actual", 0),
])  # fmt: skip
def test_the_last_that_is_accepted(make):
    """One more would be refused; this much is not."""
    assert make()


@pytest.mark.parametrize(("rate", "text"), [
    ("0.5", "0.5"), ("0.05", "0.05"), ("12.345", "12.345"), ("10", "10"), ("1/3", "1/3"), ("7/11", "7/11"), ("1/1024", "0.0009765625"),
    (Fraction(1, 10**9), "0.000000001"),
])  # fmt: skip
def test_a_rate_is_shown_as_people_write_it(rate, text):
    """In decimals where that is exact, else as a fraction."""
    throttle = Throttle(rate, burst=1)
    assert str(throttle) == f"{text}/second burst 1"
    assert parse_limit(str(throttle)) == throttle
