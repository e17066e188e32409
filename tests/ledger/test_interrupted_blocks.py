"""Ctrl-C at any instant of a block that reserves: nothing stays held, and what it used is counted or is not."""

import sys
import traceback
from datetime import timedelta

import pytest

from interleavings import plant
from interrupts import Tracer, from_elsewhere
from quota import Ledger, ManualClock, UsagePlan
from quota.ledger.reservations import again
from quota.ledger.reservations.handle import Reservation
from quota.stores.memory import MemoryStore

HOUR = timedelta(hours=1)
NOON = 1_700_049_600_000_000
PACKAGE = Ledger.__module__.partition(".")[0]
MODULES = [sys.modules[name] for name in sorted(sys.modules) if name.startswith(f"{PACKAGE}.")]


def leaves(ledger, secret):
    with ledger.reserve(secret, 10, ttl=HOUR):
        pass


def commits(ledger, secret):
    with ledger.reserve(secret, 10, ttl=HOUR) as held:
        held.commit(5)


def streams(ledger, secret):
    with ledger.reserve(secret, 10, ttl=HOUR) as held:
        held.spend(2)
        held.extend(2 * HOUR)
        held.commit(5)


BLOCKS = [(leaves, {0}), (commits, {0, 5}), (streams, {0, 2, 5})]


def left_by(block, first, stride):
    """What each interrupt of a block left: where it came, what is in flight, what was used."""
    found = []
    for instant in range(first, 100_000, stride):
        ledger = Ledger(MemoryStore(stripes=1), clock=ManualClock(NOON))
        ledger.add_plan(UsagePlan("p", "5 concurrent, 100/day"))
        _, secret = ledger.issue_key("k", "p", id="k")
        try:
            with Tracer(instant, MODULES):
                block(ledger, secret)
        except KeyboardInterrupt as error:
            frames = [frame for frame in traceback.extract_tb(error.__traceback__) if PACKAGE in frame.filename]
            where = [frame.name for frame in frames if frame.filename.startswith(tuple(FILES))][-1]
        else:
            return found
        found.append((where, *from_elsewhere(lambda: tuple(limit.used for limit in ledger.status("k")))))
    raise AssertionError


FILES = [module.__file__ for module in MODULES]


def check(block, used, first=1, stride=1):
    """Nothing is left in flight, but where the interrupt came before the first instruction that leaves the block."""
    found = left_by(block, first, stride)
    assert len(found) > 1000 / stride
    stuck = [where for where, flying, _ in found if flying]
    assert stuck in ([], ["__exit__"])
    assert {units for _, flying, units in found if not flying} <= used


@pytest.mark.parametrize(("block", "used"), BLOCKS)
def test_nothing_stays_held(block, used):
    """Every eleventh instant; others for each block."""
    check(block, used, 1 + len(block.__name__), 11)


@pytest.mark.slow
@pytest.mark.parametrize(("block", "used"), BLOCKS)
def test_nothing_stays_held_at_any_instant(block, used):
    """Each of them."""
    check(block, used)


PLANTED = {
    "what was held is not looked for": (again, "give_back", {".cancel()": ""}),
    "cancelled once only": (Reservation, "__exit__", {"except BaseException:": "except ZeroDivisionError:"}),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bugs_of_interrupted_blocks_are_found(monkeypatch, bug):
    """Each leaves a slot taken."""
    plant(monkeypatch, *PLANTED[bug])
    with pytest.raises(AssertionError, match=r"in \(\[\], "):
        check(leaves, {0}, 5, 11)
