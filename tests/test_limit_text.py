"""The text form of limits: every unit of time alike, words of other limiters answered, and read in linear time."""

import time
from decimal import Decimal

import pytest

from quota import InvalidPlan, Period, Quota, Throttle, UsagePlan
from quota.limit_text import parse_limit, parse_limits
from quota.period import WORDS, parse_period

CALENDAR = {word: unit for word, unit in WORDS.items() if unit != "second"}


@pytest.mark.parametrize(("word", "unit"), WORDS.items())
def test_every_word_for_a_unit_of_time_is_understood_everywhere(word, unit):
    """In a quota, where seconds are a throttle's; in a throttle up to days; in objects as in text."""
    if unit == "second":
        assert parse_limit(f"5/{word}") == Throttle(5)
        for text in (f"5/15 {word}", f"5/{word} in Asia/Tokyo"):
            with pytest.raises(InvalidPlan, match=r"one of minute, .*, or a throttle such as '10/s burst 20'"):
                parse_limit(text)
        with pytest.raises(InvalidPlan, match="or a throttle such as"):
            Quota(5, word)
    else:
        assert parse_limit(f"5/{word}") == Quota(5, word) == Quota(5, unit)
        assert parse_period(f"3 {word} in Asia/Tokyo") == Period(unit, count=3, zone="Asia/Tokyo")
    if unit in ("second", "minute", "hour", "day"):
        assert parse_limit(f"5/{word} burst 3") == Throttle(5, word, burst=3) == Throttle(5, unit, burst=3)
    else:
        with pytest.raises(InvalidPlan, match="second, minute, hour or day before 'burst'"):
            parse_limit(f"5/{word} burst 3")
        with pytest.raises(InvalidPlan, match="'second', 'minute', 'hour' or 'day'"):
            Throttle(5, word, burst=3)


@pytest.mark.parametrize(("text", "told"), [
    ("10 per minute", "'10/minute'"), ("10 per 1 hour", "'10/hour'"), ("100 an hour", "'100/hour'"), ("5 requests per day", "'5 requests/day'"),
    ("2.5 each Second", "'2.5/second'"), ("10/minute;100/hour", "and ',' between limits"), ("10/minute | 100/hour", "and ',' between limits"),
    ("10/minute and 5/day", "and ',' between limits"), ("10/minute\n5/day", "and ',' between limits"), ("10 per fortnight", "limits such as '1000/day'"),
    ("1/day" + " " * 20_000, "at most 16384"),
])  # fmt: skip
def test_what_other_limiters_write_is_answered(text, told):
    """With how it is written here."""
    with pytest.raises(InvalidPlan) as raised:
        UsagePlan("p", text)
    assert told in str(raised.value)


@pytest.mark.parametrize(
    "text", ["5/day as a;b", "5/day as salt and pepper", "5/day as a|b & c", "5/day as 10 per minute"]
)
def test_names_may_have_such_words(text):
    """They are hints in errors alone."""
    assert str(parse_limit(text)) == text


PIECES = [" ", "\t", "\n", ",", "1", "a", "/", ".", ";", "-", "\u2003", "é", "in ", "as ", "offset ", "burst ", "by ", "from ", "overage ",
          "1/day,", "1/day ", "per ", "a per ", "and ", "x ", "1 ", "1/2", "qk_"]  # fmt: skip
AROUND = [("", ""), ("1/day", ""), ("1/day ", "x"), ("1", ""), ("1/", " "), ("1 ", "/day"), ("1/day as ", "x"), ("1/day burst ", ""),
          ("10 per", "minute"), ("1 ", " per day")]  # fmt: skip
READERS = [parse_limits, parse_limit, parse_period, lambda text: Quota(1, text), Throttle, lambda text: UsagePlan("p", text),
           lambda text: Quota(1, "day", name=text), lambda text: UsagePlan("p", (), routes={text: text})]  # fmt: skip


def seconds(texts):
    """How long it takes to read texts, whatever comes of it, and to say what is wrong."""
    began = time.process_time()
    for text in texts:
        for read in READERS:
            try:
                read(text)
            except InvalidPlan as error:
                str(error)
    return time.process_time() - began


@pytest.mark.spread(3)
@pytest.mark.parametrize("piece", PIECES)
def test_text_is_read_in_linear_time(piece):
    """Eight times as much takes less than thirty-two times as long, and nowhere near the sixty-four of a square."""
    short, long = (
        [front + piece * size + back for front, back in AROUND] for size in (4_000 // len(piece), 32_000 // len(piece))
    )
    times = [(seconds(short), seconds(long)) for _ in range(3)]
    assert min(long for _, long in times) < 32 * min(short for short, _ in times) + 0.05


def test_rates_of_very_many_digits_are_refused_at_once():
    """Before a fraction is made of them, which would take minutes."""
    began = time.process_time()
    for rate in (
        "0." + "1" * 10**6,
        "1" * 10**6 + "e-5",
        Decimal("0." + "1" * 10**6),
        "1/" + "3" * 10**6,
        " " * 10**6 + "1",
    ):
        with pytest.raises(InvalidPlan, match="rate"):
            Throttle(rate)
    assert time.process_time() - began < 1
    assert Throttle("0." + "3" * 600).rate.denominator == 3
