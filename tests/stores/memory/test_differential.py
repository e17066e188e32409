"""The memory store with its fast path and without: whatever happens to both, they answer and keep the same."""

import itertools

import pytest

from histories import HOUR, MINUTE, NOON, SECOND, GeneralStore, in_memory, live
from interleavings import plant
from interrupts import interrupts
from quota import Ledger, ManualClock, UsagePlan, operations
from quota.ledger import sync as ledger
from quota.operations import headroom as _headroom
from quota.rule import charge, record
from quota.stores.memory import MemoryStore
from quota.stores.memory import binding as _binding
from quota.stores.memory import one_meter as _one_meter
from quota.stores.memory import retries as _retries
from quota.stores.memory import store as memory
from quota.stores.memory.one_meter import OneMeter

CORE = [charge, ledger, operations, record, _headroom, _binding, _one_meter, _retries, memory]


def fast_and_general(seed):
    stores = [kind(stripes=1 + seed % 3) for kind in (MemoryStore, GeneralStore)]
    return live(seed, *((store, in_memory) for store in stores))


SLOW = pytest.mark.slow


@pytest.mark.parametrize("first", [0, *(pytest.param(first, marks=SLOW) for first in (50, 100, 150))])
def test_the_fast_path_answers_and_keeps_what_the_rule_does(first):
    """Fifty random histories, two hundred at length: answers, usage, and records with the readings of their minutes and hours."""
    assert sum(fast_and_general(seed) for seed in range(first, first + 50)) > 1000


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 10_000, 500))
def test_the_fast_path_at_length(first):
    """Ten thousand histories."""
    for seed in range(first, first + 500):
        fast_and_general(1_000_000 + seed)


PLANTED = {
    "a refused call notes the minute": (OneMeter, "turn", {"self.flush()": "self.flush(); self.key_entry.record.turn_minute(now)"}),
    "a refused call moves the time": (OneMeter, "flush", {"if meter.total != self.total:": "if True:"}),
    "no minute is noted": (OneMeter, "flush", {"record.turn_minute(self.at)": "pass"}),
    "the plainest form counts on beside it": (ledger, "take_named", {"own.close()": "pass"}),
    "a call is counted and not remembered": (_retries, "_take", {", *record.remembering(remembered, now)": ""}),
    "a minute is noted after its first call": (OneMeter, "flush", {"record.turn_minute": "meter.total = self.total; record.turn_minute"}),
}  # fmt: skip


@pytest.mark.spread(3)
@pytest.mark.parametrize("what", PLANTED)
def test_planted_differences_are_found(monkeypatch, what):
    """A fast path that keeps something else than the rule is seen in the histories that every run lives through."""
    plant(monkeypatch, *PLANTED[what])
    with pytest.raises(AssertionError, match="seed"):
        for seed in range(100):
            fast_and_general(seed)


# One by one

NOTHING = {
    "refused": ("5/day", lambda found, secret: found.consume(secret)),
    "too much": ("9/day", lambda found, secret: found.consume(secret, 5)),
    "throttled": ("9/day, 2/day burst 5", lambda found, secret: found.consume(secret)),
    "on a route": ("5/day", lambda found, secret: found.consume(secret, route="any")),
    "peek": ("5/day", lambda found, secret: found.peek(secret)),
    "reserve": ("5/day", lambda found, secret: found.reserve(secret, 1, ttl=HOUR)),
}


def five(kind, limits):
    """A ledger in which a key of these limits was just called five times, its clock, and the key's secret."""
    clock = ManualClock(NOON + 10 * SECOND)
    found = Ledger(kind(), clock=clock)
    found.add_plan(UsagePlan("p", limits))
    secret = found.issue_key("k", "p", id="k").secret
    assert all(found.consume(secret) for _ in range(5))
    return found, clock, secret


def kept(found):
    """The key's record as it would be encoded, but for its own number and version."""
    ((_, record),) = in_memory(found.store)
    return [*record.encode()[:2], *record.encode()[4:]]


@pytest.mark.parametrize(("later", "window"), [
    (55 * SECOND, "10 minute"), (MINUTE, "20 minute"), (HOUR - 11 * SECOND, "hour"), (90 * MINUTE, "2 hour"),
])  # fmt: skip
@pytest.mark.parametrize("what", NOTHING)
def test_what_changes_nothing_takes_nothing_from_a_limit_that_comes(what, later, window):
    """A limit that joins finds all that was used in its window, whoever was refused, or looked, in between."""
    limits, call = NOTHING[what]
    found, clock, secret = five(MemoryStore, limits)
    before = kept(found)
    clock.advance(later)
    assert [bool(call(found, secret)) for _ in range(3)] == [False] * 3
    assert kept(found) == before
    found.replace_plan(UsagePlan("p", f"6/{window}"))
    assert found.consume(secret).limits[0].used == 6


@pytest.mark.parametrize("back", [1, 30 * SECOND, MINUTE])
def test_a_refused_call_does_not_keep_a_minute_that_is_not_over(back):
    """A clock that is stepped back behind it admits in the minute before, whose end is then noted as it was."""
    worlds = [five(kind, "9/day") for kind in (MemoryStore, GeneralStore)]
    for found, clock, secret in worlds:
        clock.set(NOON + MINUTE)
        assert not found.consume(secret, 5)
        clock.advance(-min(back, 50 * SECOND))
        assert found.consume(secret, 2)
        clock.set(NOON + MINUTE + SECOND)
        assert found.consume(secret)
    fast, general = (kept(found) for found, _, _ in worlds)
    assert fast == general


@pytest.mark.parametrize("later", [MINUTE, HOUR])
def test_an_interrupt_in_a_minute_s_first_call_leaves_nothing_that_mints(later):
    """At any instant: the record is as it was, or as the admission leaves it, and so it is after the next call."""
    found, clock, secret = five(GeneralStore, "9/day")
    clock.advance(later)
    untouched, once, twice = [kept(found), *(kept(found) for _ in range(2) if found.consume(secret))]
    for instant in itertools.count(1):
        found, clock, secret = five(MemoryStore, "9/day")
        clock.advance(later)
        if not interrupts(instant, CORE, found.consume, secret):
            break
        after = kept(found)
        assert after in (untouched, once), f"after {instant} calls"
        assert found.consume(secret)
        assert kept(found) == (once if after == untouched else twice), f"after {instant} calls"
    assert instant > 5
