"""Quotas, throttles, costs and their text form: what is accepted, what is refused and how it is said."""

import pickle
import re
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quota import InvalidCost, InvalidPlan, Period, Quota, Throttle, UsagePlan
from quota.limit import _MOST_DIGITS, parse_cost
from quota.limit_text import parse_limit, parse_limits
from quota.rule.limits import MAX_UNITS

BAD_NUMBERS = [0, -1, True, False, 1.0, float("nan"), float("inf"), 2**53, 2**63, "1", None, b"1", [1]]
BAD_TEXTS = ["", "a,b", " a", "a ", "/a", "a\n", "\ud800", "x" * 129, 1, b"a"]


@pytest.mark.parametrize("limit", BAD_NUMBERS[1:])
def test_a_quota_s_limit_is_a_whole_number(limit):
    """Negative, bool, float, NaN and what no engine counts exactly are named and refused."""
    with pytest.raises(InvalidPlan) as raised:
        Quota(limit, "day")
    error = raised.value
    assert (error.field, error.accepted) == ("limit", f"a whole number from 0 to {MAX_UNITS}")
    assert error.value is limit
    assert str(error).startswith("limit: ")


@pytest.mark.parametrize("overage", [-1, True, 0.5, MAX_UNITS])
def test_a_quota_s_overage_is_a_whole_number(overage):
    """It may be zero, and the limit with it stays countable."""
    with pytest.raises(InvalidPlan, match="overage"):
        Quota(1, "day", overage=overage)
    assert Quota(MAX_UNITS - 1, "day", overage=1).overage == 1


@pytest.mark.parametrize("unit", ["", "a b", "1a", "x" * 65, "é", "\ud800", None, 1])
def test_a_unit_is_a_short_word(unit):
    """A unit is ASCII: it stands in texts and headers. Quotas, throttles and costs say so alike."""
    for make in (lambda: Quota(1, "day", unit=unit), lambda: Throttle(1, unit=unit)):
        with pytest.raises(InvalidPlan, match="unit"):
            make()
    with pytest.raises(InvalidCost, match="unit"):
        parse_cost({unit: 1})


@pytest.mark.parametrize("by", ["", "team", None, 1])
def test_whose_count_it_is(by):
    """A limit counts by key or by account."""
    for make in (lambda: Quota(1, "day", by=by), lambda: Throttle(1, by=by)):
        with pytest.raises(InvalidPlan, match="by: .*'key' or 'account'"):
            make()


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_a_name_can_be_read_back(name):
    """A name with a comma, spaces around it or a line break could not be read back from the text form."""
    for make in (lambda: Quota(1, "day", name=name), lambda: Throttle(1, name=name)):
        with pytest.raises(InvalidPlan, match="name"):
            make()


def test_names_by_default():
    """A quota is named by its unit and period, a throttle ``throttle``."""
    assert Quota(1, "month in Europe/Paris", unit="tokens").name == "tokens/month in Europe/Paris"
    assert Throttle(1).name == "throttle"


@pytest.mark.parametrize(
    "rate",
    [
        -1,
        True,
        1.5,
        float("nan"),
        "",
        "x",
        "1/0",
        2**53,
        None,
        [],
        "nan",
        Decimal("Infinity"),
        "1e999999999",
        "1e-999999999",
        Decimal("1e999999999"),
        Decimal("1e-999999999"),
        "9" * 5000,
    ],
)
def test_a_rate_is_exact(rate):
    """No floats, nothing below zero or that is no number."""
    with pytest.raises(InvalidPlan) as raised:
        Throttle(rate)
    assert raised.value.field == "rate"
    assert raised.value.accepted.startswith("zero or a positive number")
    assert repr(raised.value.value) in (repr(rate), f"Decimal('{str(rate).upper().replace('E9', 'E+9')}')")


def test_a_rate_of_so_many_digits_is_still_worked_out():
    """One more, and it is refused before a fraction is made of it."""
    for digits, said in ((_MOST_DIGITS, "in 285 years"), (_MOST_DIGITS + 1, "a positive number")):
        with pytest.raises(InvalidPlan, match=said):
            Throttle(Decimal(f"1e-{digits}"))


@pytest.mark.parametrize(("rate", "exact", "burst"), [
    (5, Fraction(5), 5), ("0.5", Fraction(1, 2), 1), ("1/3", Fraction(1, 3), 1), (Decimal("2.5"), Fraction(5, 2), 3),
    ("5e-1", Fraction(1, 2), 1), ("5E1", Fraction(50), 50),
    (Fraction(7, 2), Fraction(7, 2), 4),
])  # fmt: skip
def test_a_burst_by_default_is_one_per_of_rate(rate, exact, burst):
    """The rate is kept exactly, and the bucket holds one ``per`` worth, rounded up."""
    throttle = Throttle(rate)
    assert (throttle.rate, throttle.burst) == (exact, burst)


@pytest.mark.parametrize("per", ["", "week", "fortnight", None, 1, []])
def test_a_throttle_s_per(per):
    """A rate is per second, minute, hour or day."""
    with pytest.raises(InvalidPlan, match="per: .*'second', 'minute', 'hour' or 'day'"):
        Throttle(1, per)


@pytest.mark.parametrize("burst", BAD_NUMBERS[1:-3])
def test_a_burst_is_a_whole_number(burst):
    """As a quota's limit."""
    with pytest.raises(InvalidPlan, match="burst"):
        Throttle(1, burst=burst)


def test_a_burst_that_cannot_be_counted_exactly():
    """The message says how large it may be at this rate, and that much it may be."""
    with pytest.raises(InvalidPlan, match="at most 104249 at the rate 1/day") as raised:
        Throttle(1, "day", burst=200_000)
    assert raised.value.field == "burst"
    assert Throttle(1, "day", burst=104_249).rate == 1
    with pytest.raises(InvalidPlan, match="rate: .* expected 0, or at least one unit in 285 years"):
        Throttle(Fraction(1, 2**53), "second", burst=1)


@pytest.mark.parametrize(("rate", "per", "burst", "kept"), [
    ("16.666666666666668", "second", 5, Fraction(50, 3)), ("16.666666666666668", "second", 5000, Fraction(50, 3)),
    ("0.016666666666666666", "second", 1, Fraction(1, 60)), ("33.333333333333336", "second", 40, Fraction(100, 3)),
    ("11.574074074074074", "second", 12, Fraction(625, 54)), ("1666.6666666666667", "second", 3000, Fraction(5000, 3)),
    ("0.30000000000000004", "second", 9, Fraction(3, 10)), ("0.1", "second", 10**8, Fraction(1, 10)),
    (Decimal("3.3333333333333333333333333"), "minute", 100, Fraction(10, 3)), ("1000.0000000000000001", "day", 5, Fraction(1000)),
])  # fmt: skip
def test_a_rate_of_many_digits_is_kept_as_the_nearest(rate, per, burst, kept):
    """What was meant by a division in floats is found again; the text form tells it, and reads back as it is."""
    throttle = Throttle(rate, per, burst=burst)
    assert throttle.rate == kept
    assert str(Throttle(kept, per, burst=burst)) == str(throttle)
    assert parse_limit(str(throttle)) == throttle
    if isinstance(rate, str):
        assert parse_limit(f"{rate}/{per} burst {burst}") == throttle


@given(
    st.one_of(st.floats(1e-3, 1e9).map(Fraction), st.fractions(Fraction(1, 10**4), 10**15), st.integers(1, MAX_UNITS)),
    st.sampled_from(["second", "minute", "hour", "day"]), st.one_of(st.integers(1, 10**6), st.integers(1, MAX_UNITS)),
)  # fmt: skip
@example(Fraction(MAX_UNITS), "second", 1)
@example(Fraction(MAX_UNITS - 1, 999_999_999_989), "second", 1)
@example(Fraction(MAX_UNITS, 3), "second", MAX_UNITS)
@example(9_007_199_254_500_001, "second", 4_503_599_627_370_496)
def test_no_rate_is_kept_further_off_than_is_said(rate, per, burst):
    """Within one part in a thousand million, and counted in whole numbers that every engine holds; or refused."""
    try:
        throttle = Throttle(rate, per, burst=burst)
    except InvalidPlan as error:
        most = int(re.match("at most ([0-9]+) at", error.accepted)[1])
        assert 0 < most < burst
        burst = most
        throttle = Throttle(rate, per, burst=most)
    assert abs(throttle.rate - rate) * 10**9 <= rate
    scale, drain = throttle._measure()
    assert scale * burst <= MAX_UNITS
    assert 0 < drain <= MAX_UNITS
    assert throttle == parse_limit(str(throttle)) == Throttle(throttle.rate, per, burst=burst)
    line = UsagePlan("p", throttle).route_plan(None).limits[0]
    assert (line.scale, line.drain, line.burst) == (scale, drain, scale * burst)


UNITS = st.sampled_from(["requests", "tokens", "a.b-c_D9"])
NAMES = st.one_of(st.none(), st.sampled_from(["x", "per day", "burst 3", "by account", "as", "budget é"]))
BY = st.sampled_from(["key", "account"])
PERIODS = st.sampled_from([
    Period("day"), Period("month", zone="Europe/Paris"), Period("week", offset=2), Period("minute", count=15),
    Period("year"),
])  # fmt: skip
QUOTAS = st.builds(Quota, st.integers(1, 10**6), PERIODS, unit=UNITS, by=BY, name=NAMES, overage=st.integers(0, 5))
THROTTLES = st.builds(
    Throttle, st.fractions(Fraction(1, 100), 1000, max_denominator=100),
    st.sampled_from(["second", "minute", "hour", "day"]), burst=st.integers(1, 1000), unit=UNITS, by=BY, name=NAMES,
)  # fmt: skip


@given(st.one_of(QUOTAS, THROTTLES))
def test_the_text_form_is_the_limit(limit):
    """``str()`` of a limit reads back as an equal limit, and so does a pickle."""
    assert parse_limit(str(limit)) == limit
    assert pickle.loads(pickle.dumps(limit)) == limit


@pytest.mark.parametrize(("text", "limit"), [
    ("1000/day", Quota(1000, "day")),
    ("90000 tokens/minute", Quota(90_000, "minute", unit="tokens")),
    ("10/s", Throttle(10)),
    ("10/s burst 20", Throttle(10, burst=20)),
    ("0.5/min burst 3 by account as slow", Throttle("0.5", "minute", burst=3, by="account", name="slow")),
    ("1/3/s burst 2", Throttle(Fraction(1, 3), burst=2)),
    ("1/3 requests/s burst 2", Throttle(Fraction(1, 3), burst=2)),
    ("  5 / 2 week  overage 3  as x y", Quota(5, "2 week", overage=3, name="x y")),
    ("5/day as by account", Quota(5, "day", name="by account")),
    ("5/day as x by account", Quota(5, "day", name="x by account")),
    ("5/day by account as a", Quota(5, "day", by="account", name="a")),
])  # fmt: skip
def test_texts(text, limit):
    """What people write, and what it means."""
    assert parse_limit(text) == limit


@pytest.mark.parametrize(("limit", "text"), [
    (Quota(5, "day", overage=3), "5/day overage 3"),
    (Quota(5, "day", unit="tokens", by="account", name="n"), "5 tokens/day by account as n"),
    (Throttle(3, "minute"), "3/minute burst 3"),
    (Throttle("0.5", burst=3, unit="tokens"), "0.5 tokens/second burst 3"),
    (Throttle(Fraction(1, 2**18), burst=1), "0.000003814697265625/second burst 1"),
    (Throttle(Fraction(1, 2**19), burst=1), "1/524288/second burst 1"),
])  # fmt: skip
def test_a_limit_s_text(limit, text):
    """Only what is not so by default; a rate is decimal up to eighteen digits, else a fraction: exact either way."""
    assert str(limit) == text
    assert parse_limit(text) == limit


@pytest.mark.parametrize(("text", "column", "field"), [
    ("5/day, 100/mnth", 12, "period"),
    ("5/day,-1/day", 7, "limit"),
    ("5/day, x", 8, "limit"),
    ("5/day, 7/s overage 3", 20, "overage"),
    ("5/week burst 3", 3, "per"),
    ("5/day, 1e3/s", 8, "rate"),
    ("5/day overage -1", 15, "overage"),
    ("5/day burst 1 burst 2", 7, "limit"),
    ("5/day, ", 7, "limit"), ("5/day, 10/ , 3/s", 11, "period"),
    ("5/day, 5 a b/day", 8, "limit"), ("5/day, 6/day as six, x", 22, "limit"),
    ("5/day,  3/70000000000000000/s", 9, "rate"),
    ("5/day by team", 10, "by"),
    ("5/day as /x", 10, "name"),
])  # fmt: skip
def test_a_message_points_at_the_character(text, column, field):
    """Where it went wrong, which part of the text form that is, and what would be accepted."""
    with pytest.raises(InvalidPlan) as raised:
        parse_limits(text)
    assert raised.value.field == f"limits, character {column} ({field})"
    assert raised.value.accepted


def test_no_text_is_no_plan_without_limits():
    """Nothing in the text form is a slip; a plan without limits says so."""
    with pytest.raises(InvalidPlan, match=r"limits=\(\)"):
        parse_limits(" ")


def test_limits_of_one_text_have_names_of_their_own():
    """Two counts under one name could not be told apart."""
    with pytest.raises(InvalidPlan, match="distinct names"):
        parse_limits("5/day, 6/day")
    assert len(parse_limits("5/day, 6/day as six")) == 2


@pytest.mark.parametrize("cost", [*BAD_NUMBERS, {}, {"requests": 0}, {"requests": -1}, {"requests": True}, {"requests": 1.0},
                                  {f"u{n}": 1 for n in range(17)}])  # fmt: skip
def test_a_cost_takes_something(cost):
    """A negative cost would refund, a bool is a slip, nothing at all is no call."""
    with pytest.raises(InvalidCost):
        parse_cost(cost)


def test_what_was_used_may_be_nothing():
    """A commit may say that nothing was used; a cost is a copy that cannot be changed afterwards."""
    assert parse_cost(0, "actual", 0) == {"requests": 0}
    given_cost = {"requests": 1, "tokens": 0}
    cost = parse_cost(given_cost)
    given_cost["tokens"] = 5
    assert cost == {"requests": 1, "tokens": 0}
    with pytest.raises(TypeError):
        cost["tokens"] = 1
