"""``quota.limited``: a function whose every call is charged first, sync and async, with its type as it was."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
import typing
from collections import Counter

import pytest

import quota
from every_store import run_threads
from quota import (
    AsyncLedger,
    Caller,
    InvalidCost,
    InvalidPlan,
    InvalidValue,
    Ledger,
    NotAllowed,
    Reason,
    UsagePlan,
    limited,
)


def plan():
    return UsagePlan("p", "3/day", routes={"export": "3/day as exports"}, costs={"export": 2})


def made(store=None):
    ledger = Ledger(store)
    ledger.add_plan(plan())
    return ledger, *ledger.issue_key("k", "p")


def used(ledger, key):
    return sum(record.used for record in ledger.usage(key) if record.limit == "requests/day")


@pytest.mark.parametrize("given", ["secret", "key", "caller", "callable"])
def test_a_function(given):
    """Three calls run, the fourth raises and does not, whatever the key is; name and signature are the function's."""
    ledger, key, secret = made()
    key = {"secret": secret, "key": key, "caller": Caller("p", "ada"), "callable": lambda who, times=1: who}[given]
    ran = []

    @limited(ledger, key=key)
    def greet(who: str, times: int = 1) -> str:
        """Greet."""
        ran.append(who)
        return f"hello {who}" * times

    assert [greet(secret, 2) for _ in range(3)] == [f"hello {secret}hello {secret}"] * 3
    with pytest.raises(NotAllowed, match="QUOTA_EXCEEDED") as refused:
        greet(secret, times=2)
    assert refused.value.decision.violated == ("requests/day",)
    assert len(ran) == 3
    assert (greet.__name__, greet.__doc__) == ("greet", "Greet.")
    assert str(inspect.signature(greet)) == "(who: 'str', times: 'int' = 1) -> 'str'"


@pytest.mark.parametrize("kind", ["a ledger in memory", "a ledger", "an awaited ledger"])
def test_an_async_function(kind, tmp_path):
    """The same, awaited; a store that blocks is asked in a thread, one in memory at once."""
    url = f"sqlite:///{tmp_path}/u.db" if kind == "a ledger" else None
    threads = []

    async def run():
        ledger = AsyncLedger() if kind == "an awaited ledger" else Ledger(url)
        added = ledger.add_plan(plan())
        issued = ledger.issue_key("k", "p")
        if kind == "an awaited ledger":
            await added
            issued = await issued
        else:
            store = ledger.store
            apply = store.apply
            store.apply = lambda request: (threads.append(threading.current_thread()), apply(request))[1]

        @limited(ledger, key=lambda secret: secret)
        async def greet(secret):
            await asyncio.sleep(0)
            return "hello"

        async def one():
            try:
                return await greet(issued.secret)
            except NotAllowed as error:
                return error.decision.reason

        assert inspect.iscoroutinefunction(greet)
        return Counter(await asyncio.gather(*(one() for _ in range(8))))

    assert asyncio.run(run()) == {"hello": 3, Reason.QUOTA_EXCEEDED: 5}
    assert (threading.main_thread() in threads) == (kind == "a ledger in memory")


def test_route_cost_and_nobody():
    """The route's own cost and limits, a cost of the call's arguments, nobody's key, and another api."""
    ledger, key, secret = made()

    @limited(ledger, key=lambda secret: secret, route="export")
    def export(secret):
        return "all"

    assert export(secret) == "all"
    assert used(ledger, key) == 2
    with pytest.raises(NotAllowed, match="exports"):
        export(secret)
    with pytest.raises(NotAllowed, match="MISSING_KEY"):
        export(None)
    with pytest.raises(NotAllowed, match="NO_PLAN"):
        limited(ledger, key=secret, api="other")(len)("abc")
    sized = limited(ledger, key=secret, cost=lambda text: len(text))(str.upper)
    assert sized("a") == "A"
    assert used(ledger, key) == 3
    with pytest.raises(InvalidCost):
        sized("")


def test_methods_objects_and_what_raises():
    """A method gets itself too; a callable object is served; a call that fails stays charged."""
    ledger, key, secret = made()

    class Client:
        own = None

        @limited(ledger, key=lambda self, n: self.own)
        def divide(self, n):
            return 1 // n

        @staticmethod
        @limited(ledger, key=secret)
        def free():
            return "static"

        async def __call__(self):
            return "called"

    client = Client()
    client.own = secret
    with pytest.raises(ZeroDivisionError):
        client.divide(0)
    assert (client.divide(1), client.free()) == (1, "static")
    assert used(ledger, key) == 3
    called = limited(ledger, key=secret)(functools.partial(client))
    with pytest.raises(NotAllowed):
        asyncio.run(limited(ledger, key=secret)(client)())
    assert callable(called)


def test_bad_input():
    """Each is refused where it is decorated, and the error names it."""
    ledger, key, secret = made()

    async def awaited():
        return secret

    def generator():
        yield 1

    async def generated():
        yield 1

    for wrong, field in (
        (lambda: limited("memory://", key=secret), "ledger"),
        (lambda: limited(ledger, key=5), "key"),
        (lambda: limited(ledger, key=awaited), "key: .* not async"),
        (lambda: limited(ledger, key=secret, cost=awaited), "cost: .* not async"),
        (lambda: limited(ledger, key=secret, api=5), "api"),
        (lambda: limited(ledger, key=secret)(generator), "generator"),
        (lambda: limited(ledger, key=secret)(generated), "generator"),
        (lambda: limited(ledger, key=secret)(staticmethod(len)), "function"),
        (lambda: limited(ledger, key=secret)(classmethod(len)), "function"),
        (lambda: limited(ledger, key=secret)(5), "function"),
        (lambda: limited(AsyncLedger(), key=secret)(len), "an async function"),
    ):
        with pytest.raises(InvalidValue, match=field) as error:
            wrong()
        assert secret not in str(error.value)
    with pytest.raises(InvalidCost):
        limited(ledger, key=secret, cost=0)
    with pytest.raises(InvalidPlan, match="route"):
        limited(ledger, key=secret, route="")


def test_threads_get_exactly_what_there_is():
    """Of forty threads that call at once, three run."""
    ledger, _, secret = made()
    ran = []
    greet = limited(ledger, key=secret)(lambda: ran.append(1))
    start = threading.Barrier(40)

    def one():
        start.wait()
        try:
            greet()
        except NotAllowed:
            pass

    run_threads([one] * 40)
    assert len(ran) == 3


def test_it_is_loaded_by_who_asks_for_it():
    """``quota.limited`` is the function, its hints can be read, and no other name is made up."""
    assert quota.limited is limited
    assert typing.get_type_hints(limited)["api"] is str
    with pytest.raises(AttributeError, match="has no attribute 'unlimited'"):
        quota.unlimited
