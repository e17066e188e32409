"""Bugs planted into the outbox: told twice, lost between commit and write, out of order, a secret told; each is caught."""

import json
import sys
import threading

import pytest

from every_store import run_threads
from planting import plant

START = 1_773_144_000_000_000
DAY = 86_400_000_000


def ledger_on(quota, store, plan="10/day, 5/minute", **options):
    """A ledger, a key of it and its secret."""
    ledger = quota.Ledger(store, clock=quota.ManualClock(START))
    ledger.add_plan(quota.UsagePlan("p", plan, **options))
    return ledger, *ledger.issue_key("k", "p", id="k")


def stores_of(quota, folder):
    """A store in memory, and one in a file."""
    sqlite = sys.modules.get(f"{quota.__name__}.stores.sqlite.store")
    if sqlite is None:
        __import__(f"{quota.__name__}.stores.sqlite.store")
        sqlite = sys.modules[f"{quota.__name__}.stores.sqlite.store"]
    memory = sys.modules[f"{quota.__name__}.stores.memory.store"]
    return [memory.MemoryStore(), sqlite.SQLiteStore(folder / f"{quota.__name__}.db", durability="normal")]


def crossings(ledger):
    return [(event.limit, event.percent) for event in ledger.events() if event.kind == "limit.crossed"]


def once(quota, folder):
    """Each share once in a window of an hour or more, by the call that reaches it."""
    for store in stores_of(quota, folder):
        ledger, key, secret = ledger_on(quota, store)
        ledger.refund(ledger.consume(secret, 5))
        ledger.refund(ledger.consume(secret, 4))
        assert crossings(ledger) == []
        ledger._clock.advance(60_000_000)
        assert [ledger.consume(secret, 5) and 5, crossings(ledger)] == [5, []]
        ledger._clock.advance(60_000_000)
        refunded = ledger.consume(secret, 3)
        assert crossings(ledger) == [("requests/day", 80)]
        ledger.refund(refunded)
        ledger.consume(secret, 3)
        ledger._clock.advance(60_000_000)
        ledger.consume(secret, 2)
        assert crossings(ledger) == [("requests/day", 80), ("requests/day", 100)]
        assert [event.cursor for event in ledger.events()] == [1, 2, 3, 4]
        ledger.disable_key(key)
        ledger.disable_key(key)
        ledger.acting("ada").enable_key(key)
        last = ledger.events(after=4)
        assert [(event.kind, event.actor) for event in last] == [("key.disabled", None), ("key.enabled", "ada")]
        ledger.close()


def hidden(quota, folder):
    """Neither a secret nor its digest."""
    for store in stores_of(quota, folder):
        ledger, key, secret = ledger_on(quota, store)
        text = json.dumps([event.to_dict() for event in ledger.events()], default=str)
        assert secret not in text
        assert key.secrets[0].digest.hex() not in text
        ledger.close()


def together(quota, folder):
    """A write that is undone after the event was put down, and one that is not: both or neither, always."""
    *_, store = stores_of(quota, folder)
    ledger, _, secret = ledger_on(quota, store, "10/day")
    steps = sys.modules[f"{quota.__name__}.stores.sqlite.requests"]
    prune = steps.prune

    def fail(*args):
        raise MemoryError

    steps.prune = fail
    with pytest.raises(MemoryError):
        ledger.consume(secret, 8)
    steps.prune = prune
    assert (ledger.status("k")[0].used, crossings(ledger)) == (0, [])
    ledger.consume(secret, 8)
    assert (ledger.status("k")[0].used, crossings(ledger)) == (8, [("requests/day", 80)])
    ledger.close()


class Overtaken:
    """A lock before which, the first time, another thread goes."""

    def __init__(self, lock, other):
        self.lock, self.other = lock, other

    def __enter__(self):
        other, self.other = self.other, None
        if other is not None:
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
        return self.lock.__enter__()

    def __exit__(self, *args):
        return self.lock.__exit__(*args)


def in_order(quota, folder):
    """Who comes to the outbox first has the lower number, also where another thread goes in between."""
    store, _ = stores_of(quota, folder)
    ledger, _, secret = ledger_on(quota, store, "5/day", alerts=(100,))
    stripe = store._stripe("k")
    other = next(f"k{n}" for n in range(1000) if store._stripe(f"k{n}") is not stripe)
    theirs = ledger.issue_key("k", "p", id=other).secret
    outbox = store._outbox
    outbox._lock = Overtaken(outbox._lock, lambda: ledger.consume(theirs, 5))
    ledger.consume(secret, 5)
    assert [(event.cursor, event.key) for event in ledger.events()[-2:]] == [(4, other), (5, "k")]


def many_writers(quota, folder):
    """Eight writers: each change once, numbers without a gap."""
    for store in stores_of(quota, folder):
        ledger = quota.Ledger(store, clock=quota.ManualClock(START))
        run_threads(
            [lambda n=n: [ledger.add_plan(quota.UsagePlan(f"{n}.{m}", "1/day")) for m in range(5)] for n in range(8)]
        )
        events = ledger.events()
        assert [event.cursor for event in events] == list(range(1, 41))
        assert len({event.plan for event in events}) == 40
        ledger.close()


SCENARIOS = [once, hidden, together, in_order, many_writers]
BUGS = {
    "told twice": ("rule/charge.py", "meter.renew(window, alerted=alerted, limit=limit.limit)", "meter.renew(window, alerted=0, limit=limit.limit)"),
    "a minute's window is told": ("rule/charge.py", "if window.end - window.start >= HOUR_US:", "if True:"),
    "a crossing is lost": ("rule/charge.py", "subject.told += (Crossing(", "subject.told = subject.told or () and (Crossing("),
    "lost between commit and write": (
        "stores/sqlite/requests.py", "            self._tell_of(db, subject.told)\n",
        "            db.execute('COMMIT')\n            db.execute('BEGIN IMMEDIATE')\n            self._tell_of(db, subject.told)\n"),
    "an event without its change": (
        "stores/sqlite/requests.py", "            for one, record in zip(copy.found, subject.records(), strict=True):\n",
        ("            self._tell_of(db, subject.told)\n            db.execute('COMMIT')\n            db.execute('BEGIN IMMEDIATE')\n"
        "            for one, record in zip(copy.found, subject.records(), strict=True):\n")),
    "numbers are drawn before the turn": (
        "stores/memory/outbox.py", "        with self._lock:\n            # Numbers", "        told = list(zip(told, self._numbers))\n        with self._lock:\n            # Numbers",
        "zip(told, self._numbers, strict=False))", "told)", "told[-1].since(", "told[-1][0].since("),
    "what changes nothing is told": ("event.py", "    if old == new:\n        return ()\n    if old.secrets", "    if old.secrets"),
    "the actor is everybody's": ("ledger/requests.py", "view._steps = copy(view._steps)\n", "pass\n"),
    "digests are told": ("event.py", "return value.to_dict() if isinstance(value, _WHOLE) else value",
        "from .key import encode_key\n    return encode_key(value) if isinstance(value, ApiKey) else value.to_dict() if isinstance(value, _WHOLE) else value"),
}  # fmt: skip


def caught_by(quota, folder):
    """The first scenario that fails; None when all is well."""
    for scenario in SCENARIOS:
        try:
            scenario(quota, folder)
        except Exception:
            return scenario.__name__
    return None


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_the_outbox_as_it_is(tmp_path, scenario):
    """Each scenario comes out as it says."""
    import quota

    scenario(quota, tmp_path)


@pytest.mark.parametrize("number", range(len(BUGS)), ids=[*BUGS])
def test_caught(tmp_path, number):
    """One planted bug, seen."""
    package, *_ = plant(tmp_path, f"events{number}", *[*BUGS.values()][number])
    assert caught_by(package, tmp_path)
