"""Waiting until a call is admitted, over a server whose answers come in any order."""

import asyncio
import itertools
import threading
import time

import pytest

from every_store import namespace
from quota import AsyncLedger, Ledger, Reason, UsagePlan
from quota.ledger import waiting
from quota.ledger.waiting import queues_of
from quota.stores import open_store
from quota.stores.postgres import AsyncPostgresStore
from quota.stores.redis import AsyncRedisStore


@pytest.fixture(params=["valkey", "postgres", "sqlite"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/quota.db"
    found = request.getfixturevalue(request.param).url
    return f"{found}{'&' if '?' in found else '?'}namespace={namespace()}"


def made(url, limits):
    """A ledger by the system's clock, and a secret on a plan of these limits."""
    ledger = Ledger(open_store(url))
    ledger.add_plan(UsagePlan("p", limits))
    return ledger, ledger.issue_key("k", "p").secret


def arrived(ledger):
    """How many calls stand in either line."""
    lines = [waiting._ARRIVALS.get(ledger.store), queues_of(ledger)]
    return sum(len(line) for queues in lines if queues is not None for line in list(queues._found.values()))


def in_order(url, count=8):
    """The order in which threads are served that came one after another, where the first has its answer last."""
    ledger, secret = made(url, "20/s burst 1")
    ledger.consume(secret)
    apply, here, asked, served = ledger.store.apply, threading.Event(), [], []

    def slow(request):
        answer = apply(request)
        asked.append(request)
        if len(asked) == 1:
            here.wait(60)
        return answer

    ledger.store.apply = slow

    def wait(number):
        assert ledger.acquire(secret, timeout=60)
        served.append(number)

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(count)]
    for number, thread in enumerate(threads):
        thread.start()
        while arrived(ledger) <= number and (number or not asked):
            pass
    here.set()
    for thread in threads:
        thread.join(60)
    ledger.close()
    return served, arrived(ledger)


def test_eight_threads_are_served_in_order(url):
    """First come, first served, though answers of the first questions come in another order; nobody is left in a line."""
    assert in_order(url) == (list(range(8)), 0)


async def tasks_in_order(store, count=200):
    """The same by tasks, where the first questions are answered the later the earlier they were asked."""
    ledger, served, asked = AsyncLedger(store), [], []
    await ledger.add_plan(UsagePlan("p", "400/s burst 1"))
    secret = (await ledger.issue_key("k", "p")).secret
    await ledger.consume(secret)
    apply = ledger.store.apply

    async def slow(request):
        asked.append(request)
        turns = count - len(asked)
        answer = await apply(request)
        for _ in range(turns):
            await asyncio.sleep(0)
        return answer

    ledger.store.apply = slow

    async def wait(number):
        assert await ledger.acquire(secret, timeout=120)
        served.append(number)

    await asyncio.gather(*map(wait, range(count)))
    await ledger.aclose()
    return served, arrived(ledger)


@pytest.mark.parametrize("kind", ["valkey", "postgres"])
def test_two_hundred_tasks_are_served_in_order(kind, request):
    """First come, first served."""
    server = request.getfixturevalue(kind)
    store = {"valkey": AsyncRedisStore, "postgres": AsyncPostgresStore}[kind](url=server.url, namespace=namespace())
    assert asyncio.run(tasks_in_order(store)) == (list(range(200)), 0)


def test_planted_order_of_answers(monkeypatch, request):
    """A first line that lets everybody through is seen."""
    names = itertools.count()
    monkeypatch.setattr(waiting, "_presented", lambda who: next(names))
    store = AsyncRedisStore(url=request.getfixturevalue("valkey").url, namespace=namespace())
    assert asyncio.run(tasks_in_order(store)) != (list(range(200)), 0)


def test_neither_too_early_nor_past_the_deadline(monkeypatch, url):
    """Admitted a twentieth of a second later, not before; refused at once where that is too late, or never to be."""
    ledger, secret = made(url, "20/s burst 1")
    began = time.monotonic()
    assert ledger.consume(secret) and ledger.acquire(secret, timeout=60)
    assert 0.049 <= time.monotonic() - began < 5
    ledger.replace_plan(UsagePlan("p", "1/hour burst 1"))
    ops = []
    for op in ("consume", "peek"):
        ask = getattr(Ledger, op)
        monkeypatch.setattr(Ledger, op, lambda *args, op=op, ask=ask, **where: ops.append(op) or ask(*args, **where))
    assert ledger.acquire(secret, timeout=100).reason is Reason.THROTTLED
    assert ledger.acquire(secret, 2, timeout=100).reason is Reason.COST_TOO_LARGE
    assert ledger.acquire("a secret that nobody has", timeout=100).reason is Reason.UNKNOWN_KEY
    assert (ops, arrived(ledger)) == (["consume"] * 3, 0)
    ledger.close()
