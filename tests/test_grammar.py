"""docs/reference/limits.md has the grammar of limits: what ``str()`` writes is of it, and what is not of it is refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from lark import Lark
from lark.exceptions import LarkError

import paths
from quota import Concurrency, InvalidPlan, Period, Quota, Throttle, UsagePlan
from quota.limit_text import parse_limits

PAGE = (paths.ROOT / "docs" / "reference" / "limits.md").read_text("utf-8")
GRAMMAR = re.search(r"```text\n(limits:.*?)```", PAGE, re.DOTALL)[1]
LARK = Lark(GRAMMAR, start="limits")
TABLE = [text for row in re.findall(r"^\| (`.+?`) \|", PAGE, re.MULTILINE) for text in re.findall(r"`([^`]+)`", row)]


def of_it(text):
    """Whether the grammar has the text."""
    try:
        LARK.parse(text)
    except LarkError:
        return False
    return True


units = st.sampled_from(["requests", "tokens", "a.b-c_1"])
by = st.sampled_from(["key", "account"])
names = st.none() | st.sampled_from(["basic", "by hand", "as is", "x burst", "10/s"])
periods = st.builds(Period, st.sampled_from(["minute", "hour", "day", "week", "month", "year"]), count=st.integers(1, 1000),
                    zone=st.sampled_from(["UTC", "Europe/Paris", "America/Argentina/Buenos_Aires", "Etc/GMT+5"]))  # fmt: skip
shifted = st.builds(Period, st.sampled_from(["week", "month"]), offset=st.integers(0, 6))
anchored = st.builds(
    Period,
    st.sampled_from(["hour", "month"]),
    anchor=st.datetimes(timezones=st.timezones()).filter(lambda at: 1900 < at.year < 2100),
)
quotas = st.builds(
    Quota, st.integers(1, 2**40), periods | shifted, unit=units, by=by, name=names, overage=st.integers(0, 9)
)


@st.composite
def throttles(draw):
    """Of those that can be counted exactly: of a slow rate a large burst cannot."""
    rate = draw(st.fractions(0, 1000, max_denominator=1000))
    per = draw(st.sampled_from(["second", "minute", "hour", "day"]))
    try:
        return Throttle(rate, per, burst=draw(st.integers(0, 1000)), unit=draw(units), by=draw(by), name=draw(names))
    except InvalidPlan:
        return reject()


slots = st.builds(Concurrency, st.integers(0, 1000), by=by, name=names)


@given(st.lists(quotas | throttles() | slots, min_size=1, max_size=4, unique_by=lambda limit: limit.name))
def test_what_is_written_is_of_the_grammar(limits):
    """And is read as what it was."""
    text = ", ".join(map(str, limits))
    assert of_it(text), text
    assert parse_limits(text) == tuple(limits)


@pytest.mark.parametrize("text", TABLE)
def test_the_table_is_of_the_grammar(text):
    """Each example of the page."""
    assert of_it(text)
    assert UsagePlan("p", text).limits


@pytest.mark.parametrize("text", ["", "5", "5/", "/day", "5/fortnight", "5/day,", "5/day burst", "5/day in", "5/day by team", "5/day as", "5 per day", "5//day",
                                  "5/day overage x", "1/2/3/s", "5/week offset", "5/day; 6/hour", "five/day", "5/day from noon", "5.5.5/s", "-5/day"])  # fmt: skip
def test_what_is_not_of_the_grammar_is_refused(text):
    """By both."""
    assert not of_it(text)
    with pytest.raises(InvalidPlan):
        parse_limits(text)
