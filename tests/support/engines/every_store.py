"""Every kind of store by its name, and ledgers on it: for tests that hold whatever the store is."""

from __future__ import annotations

import itertools
import threading

import pytest

from awaited import Awaited
from quota import AsyncLedger, Ledger, StoreUnavailable, UsagePlan
from quota.stores.leased import LeasedStore
from quota.stores.memory import MemoryStore
from quota.stores.postgres import AsyncPostgresStore, PostgresStore
from quota.stores.redis import AsyncRedisStore, RedisStore
from quota.stores.sqlite import SQLiteStore

SYNC = ["memory", "sqlite", "redis", "postgres"]
SERVERS = ["redis", "postgres", "awaited redis", "awaited postgres"]
EXACT = [*SYNC, "awaited sqlite", *SERVERS[2:]]
ALL = [*EXACT, "leased sqlite", "leased redis", "leased postgres"]
_names = itertools.count()


def of_its_own(make):
    """A fixture: a server that one module's tests have for themselves."""

    @pytest.fixture(scope="module")
    def server():
        found = make()
        yield found
        found.stop()

    return server


def namespace() -> str:
    """A namespace that nobody else has on a server that tests share."""
    return f"test{next(_names)}"


class Stores:
    """Stores of one kind, each on a place of its own or beside another; what was opened is closed in the end.

    ``find`` gives what a kind needs: ``tmp_path``, ``valkey``, ``postgres``.
    """

    def __init__(self, kind, find):
        self.kind, self.find, self.engine = kind, find, kind.rpartition(" ")[2]
        self.awaited, self.leased = kind.startswith("awaited"), kind.startswith("leased")
        self.opened, self.ledgers = [], []

    def open(self, beside=None, **options):
        """A store; ``beside`` another, on its place, as another process opens it."""
        store = getattr(self, f"_{self.engine}")(beside.store if beside and self.leased else beside, **options)
        self.opened.append(store)
        return LeasedStore(store) if self.leased else store

    def _memory(self, beside, **options):
        return beside or MemoryStore(**options)

    def _sqlite(self, beside, **options):
        path = beside.path if beside else self.find("tmp_path") / f"{next(_names)}.db"
        return SQLiteStore(path, durability="normal", **options)

    def _redis(self, beside, **options):
        kind, name = AsyncRedisStore if self.awaited else RedisStore, beside.namespace if beside else namespace()
        return kind(url=self.find("valkey").url, namespace=name, **options)

    def _postgres(self, beside, **options):
        kind, name = AsyncPostgresStore if self.awaited else PostgresStore, beside.namespace if beside else namespace()
        return kind(self.find("postgres").url, namespace=name, **options)

    def reopened(self, store):
        """The same place once more, after it was closed."""
        store.close()
        return self.open(store)

    def over(self, store, **options):
        """A ledger over a store, awaited if its kind is."""
        made = Awaited(AsyncLedger(store, **options)) if self.awaited else Ledger(store, **options)
        self.ledgers.append(made)
        return made

    def ledger(self, clock, beside=None, **options):
        """A ledger by this clock on a store of its own; ``beside`` another ledger, on its place."""
        return self.over(self.open(beside and beside.store, **options), clock=clock)

    def with_key(self, clock, limits="10/day", **plan):
        """A ledger on a store of its own, a key and its secret on a plan of these limits."""
        return key_on(self.ledger(clock), limits, **plan)

    def close(self):
        for ledger in self.ledgers:
            ledger.close()
        if not self.awaited:
            for store in self.opened:  # a reservation of a store that was closed opens a connection again
                store.close()


def key_on(ledger, limits="10/day", **plan):
    """The ledger, a key of it and its secret on a plan of these limits."""
    ledger.add_plan(UsagePlan("p", limits, **plan))
    return ledger, *ledger.issue_key("k", "p", id="k")


def ledger_with(store, clock, limits="10/day", **plan):
    """The same on this store."""
    return key_on(Ledger(store, clock=clock), limits, **plan)


def below_accounts(ledger, above):
    """A secret of a key whose account has so many above it, each with a plan of its own."""
    ledger.add_plan(UsagePlan("account", "100000/day"))
    for level in range(above, -1, -1):
        ledger.add_account(f"a{level}", parent=f"a{level + 1}" if level < above else None)
        ledger.associate(f"a{level}", "account")
    plan = ledger.list_plans()[-1 if ledger.list_plans()[0].id == "account" else 0]
    return ledger.issue_key("below", plan, account="a0").secret


def used(ledger, secret, limit=0):
    """What a limit has counted."""
    decision = ledger.peek(secret, 1)
    return decision.limits[limit].used - decision.allowed


def none_or_one_whole_effect(direct, secret, proxy, fault, nth, ledger, again):
    """A reservation whose nth message has a fault took all or nothing; a retry of its id, by ``again``, takes the rest."""
    outcome, units = None, {"requests": 2, "tokens": 3}
    hits, inner = itertools.count(), proxy._fault
    proxy._fault = lambda data: fault if next(hits) == nth else ""
    try:
        outcome = ledger.reserve(secret, units, ttl=60_000_000, request_id="x")
    except StoreUnavailable as error:
        assert "unknown" in str(error) or "nothing was charged" in str(error)
    proxy._fault = inner
    counts = [s.used for s in direct.peek(secret, {"requests": 1, "tokens": 1}).limits]
    assert counts in ([1, 1], [3, 4])
    if outcome is not None:
        assert counts == [3, 4]
    again().reserve(secret, units, ttl=60_000_000, request_id="x").commit()
    assert [s.used for s in direct.peek(secret, {"requests": 1, "tokens": 1}).limits] == [3, 4]


def run_threads(jobs):
    """Run jobs at the same time; what one raises is raised here."""
    raised = []

    def run(job):
        try:
            job()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert raised == []
