"""What a record keeps by name: against a plain dictionary, on copies of which some are written, and what it costs."""

import random
from sys import getsizeof

import pytest

from interleavings import plant
from quota import Ledger, ManualClock, UsagePlan
from quota.process.atomic import at_once
from quota.rule.entries import Amount, Hold, Refund
from quota.rule.kept import Kept
from quota.rule.meter import Meter, Window, numbers
from quota.rule.record import Record

DAY = 86_400_000_000
NOON = 1_773_144_000_000_000


def live(seed, kept):
    """Change copies at random, write some, and compare with a dictionary; how many entries' time came."""
    pick, now, plain, ripe = random.Random(seed), 0, {}, 0
    for _ in range(300):
        copy, twin = kept.copy(), dict(plain)
        now += pick.choice([0, 0, 1, 5, 40])
        if pick.random() < 0.5:
            twin["early"] = Refund(now + 1 + pick.randrange(90), "early")
            copy.put(twin["early"])
        if pick.random() < 0.5:
            due = sorted(entry for entry in twin.values() if entry.until <= now)
            found = copy.ripe(now)
            assert found == due
            ripe += len(found)
            for entry in found:
                copy.drop(entry.name)
                del twin[entry.name]
        for name in pick.sample("abcdefghijklmnop", pick.randrange(4)):
            if pick.random() < 0.6:
                twin[name] = Refund(now + 1 + pick.randrange(pick.choice([60, 10**6])), name)
                copy.put(twin[name])
            elif name in twin:
                del twin[name]
                copy.drop(name)
            assert copy.get(name) == twin.get(name)
        assert (len(copy), copy.all()) == (len(twin), sorted(twin.values()))
        first = min((entry.until for entry in twin.values()), default=None)
        assert (copy.due is None) == (first is None)
        assert first is None or copy.due <= first
        assert copy.latest >= max((entry.until for entry in twin.values()), default=0)
        if pick.random() < 0.7:
            at_once(*copy.steps())
            kept, plain = copy, twin
        assert (len(kept), kept.all()) == (len(plain), sorted(plain.values())), "what was not written shows"
        assert len(kept.heap) <= 2 * len(plain) + 80, "what is kept no more is kept"
    return ripe


@pytest.mark.parametrize("seed", range(40))
def test_it_keeps_what_a_dictionary_does(seed):
    """Whatever is put, dropped, forgotten in time, and whichever copies are written."""
    assert live(seed, Kept()) > 20


PLANTED = {
    "an entry of another time counts": ("ripe", "if self.get(entry[1]) is entry:", "if True:"),
    "what is dropped stays": ("steps", "self.entries.pop, name, None", "self.entries.get, name, None"),
    "a copy shows what is not written": ("copy", "twin.news, twin.popped = {}, 0", "twin.news, twin.popped = self.news, 0"),
    "a heap grows for ever": ("steps", "> 2 * len(self) + 64", "> 10**9"),
    "half of a heap is looked at": ("ripe", "(2 * place + 1, 2 * place + 2)", "(2 * place + 1,)"),
    "the next time is that of what came": ("ripe", "self.due = min([*times,", "self.due = max([*times,"),
}  # fmt: skip


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bugs_are_found(monkeypatch, bug):
    """Each is seen in one of these lives."""
    method, old, new = PLANTED[bug]
    plant(monkeypatch, Kept, method, {old: new})
    with pytest.raises((AssertionError, KeyError)):
        for seed in range(40):
            live(seed, Kept())


def walked(many, change):
    """The entries of a record of so many holds, remembered requests and refunds that a change compares, hashes or shows."""
    looked = []

    class Entry(Refund):
        __slots__ = ()
        place, still_open = ("", ""), True

        def __lt__(self, other):
            looked.append(self.name)
            return tuple.__lt__(self, other)

    record = Record(1)
    for field in ("holds", "requests", "refunds"):
        setattr(record, field, Kept(Entry(NOON + number, f"{number}") for number in range(many)))
    looked.clear()
    copy = record.copy()
    change(copy)
    at_once(*record.changes(copy))
    return len(looked)


CHANGES = {
    "hold": lambda record: record.hold(Hold(NOON + DAY, "h", NOON, True, ())),
    "release": lambda record: record.release("7"),
    "remember": lambda record: record.remember(Refund(NOON + DAY, "q"), NOON),
    "refund": lambda record: record.remember_refund("r", NOON + DAY, NOON),
    "time": lambda record: record.lapse(NOON - 1),
    "nothing": lambda record: None,
}


@pytest.mark.parametrize("change", CHANGES)
def test_no_change_walks_over_what_is_kept(change):
    """A heap's few comparisons are all, however much is kept."""
    assert walked(10_000, CHANGES[change]) <= walked(10, CHANGES[change]) + 40


def test_numbers_larger_than_eight_bytes_are_kept():
    """Units are counted without end: what no array holds is a tuple."""
    meter = Meter("", "", "requests", 5)
    meter.total = 2**70
    meter.begin_day(6, 0)
    assert meter.readings() == [(5, 0), (6, 2**70)]
    assert Meter.decode(meter.encode(), meter.history()).readings() == meter.readings()
    assert type(numbers((1, 2))) is not tuple


def test_a_day_of_history_takes_at_most_60_bytes():
    """Of a quota that is used every day, its meter's reading included."""
    clock = ManualClock(NOON)
    ledger = Ledger(clock=clock)
    ledger.add_plan(UsagePlan("p", "100/day"))
    key, _ = ledger.issue_key("k", "p", id="k")
    for _ in range(36):
        ledger.consume(key, 7)
        clock.advance(DAY)
    ledger.consume(key, 7)
    (meter,) = ledger.store.rooms["k"].key_entry.record.meters
    grown = getsizeof(meter.days) + getsizeof(meter.rows) + sum(map(getsizeof, meter.rows[1::2]))
    assert grown / 35 <= 60
    assert [day.used for day in ledger.usage(key)] == [7] * 36


def test_what_goes_back_later_leaves_the_days_that_are_over():
    """Used on the day it was taken, and in its window from then on; not in windows that began later."""
    record = Record(1)
    meter = record.metered("", "", "requests", NOON)
    day = NOON // DAY
    meter.windows = (Window("week", (day - 1) * DAY, (day + 6) * DAY, 0, 0, 0, 99, (day - 1) * DAY),)
    for after in range(3):
        meter.total += 10
        meter.begin_day(day + after + 1, day - 30)
    record.at = (day + 3) * DAY
    record.give_back(NOON + DAY, (Amount("", "", "requests", 4),))
    told = [(row.day - day, row.used, row.window_used) for row in record.history()]
    assert told == [(0, 10, 10), (1, 6, 16), (2, 10, 26)]
    assert Record.decode(record.encode()).history() == record.history()
