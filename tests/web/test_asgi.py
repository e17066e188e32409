"""What is particular to ASGI: WebSockets, lifespan, cancellation, ledgers that wait, and the scope."""

from __future__ import annotations

import asyncio
import threading

import pytest

from quota import AsyncLedger, Ledger, ManualClock, StoreUnavailable, UsagePlan
from quota.asgi import QuotaMiddleware
from quota.stores.memory import MemoryStore
from web import NOON, Boom, Site, Strict, asgi, ledger


def used(made, secret):
    return sum(record.used for record in made.usage(made.peek(secret).key))


class Elsewhere:
    """A store like those on other machines: asked in threads, or awaited; ``gate`` holds its answers back."""

    exact_across_failover = True

    def __init__(self, *, waits):
        self._memory = MemoryStore()
        self._waits = waits
        self.threads = set()
        self.holding = asyncio.Event()
        self.release = None

    def __getattr__(self, name):
        method = getattr(self._memory, name)
        if not self._waits or not callable(method):
            return method

        async def waiting(*args):
            await asyncio.sleep(0)
            answer = method(*args)
            if self.release is not None and name == "apply" and args[0].op == "reserve":
                self.holding.set()
                await self.release.wait()
            return answer

        return waiting

    def apply(self, request):
        self.threads.add(threading.get_ident())
        return self.__getattr__("apply")(request)


def middleware(app=None, limits="3/day", **settings):
    made, secret = ledger(limits)
    return QuotaMiddleware(app or Site().asgi, made, **{"on_unavailable": "deny", **settings}), made, secret


# Ledgers


@pytest.mark.parametrize("charge", ["arrival", "success", "response"])
@pytest.mark.parametrize("ledger_type", [Ledger, AsyncLedger])
def test_ledgers_that_wait(charge, ledger_type):
    """An AsyncLedger is awaited and a Ledger that may block is asked in a thread; both to the same end."""

    async def serve():
        store = Elsewhere(waits=ledger_type is AsyncLedger)
        store.spend = None
        made = ledger_type(store, clock=ManualClock(NOON))
        calls = [made.add_plan(UsagePlan("PlanA", "3/day")), made.issue_key("Key123", "PlanA")]
        if ledger_type is AsyncLedger:
            calls = [await call for call in calls]
        app = QuotaMiddleware(Site(actual=1).asgi, made, on_unavailable="deny", charge=charge)
        statuses = []
        for _ in range(4):
            statuses.append((await Strict(app, headers={"x-api-key": calls[1].secret}).serve()).status)
        return statuses, store.threads - {threading.get_ident()}

    statuses, threads = asyncio.run(serve())
    assert statuses == [200, 200, 200, 429]
    assert bool(threads) == (ledger_type is Ledger)


def test_memory_is_asked_at_once():
    """A Ledger in memory is asked on the spot, as it never waits."""
    app, made, secret = middleware()
    found = []
    consume = made.consume
    made.consume = lambda *args, **kwargs: found.append(threading.get_ident()) or consume(*args, **kwargs)
    asgi(app, headers={"x-api-key": secret})
    assert found == [threading.get_ident()]


# Cancellation and disconnects


async def waiting_app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"a", "more_body": True})
    await receive()
    if (await receive())["type"] == "http.disconnect":
        raise Boom


def test_error_after_a_disconnect():
    """What an application raises because its client has gone is no failure of the response that the client had."""
    app, made, secret = middleware(waiting_app, charge="success")
    with pytest.raises(Boom):
        asgi(app, headers={"x-api-key": secret}, leaves=True)
    assert used(made, secret) == 1


def test_cancelled_in_the_middle():
    """A server that cancels the application of a client that has gone charges what was begun."""
    app, made, secret = middleware(Site().asgi, charge="success")
    with pytest.raises(asyncio.CancelledError):
        asgi(app, headers={"x-api-key": secret}, hang_up=2)
    assert used(made, secret) == 1


def test_cancelled_before_the_response():
    """A request that is cancelled before any response gives back what it held."""

    async def never(scope, receive, send):
        raise asyncio.CancelledError

    app, made, secret = middleware(never, charge="success")
    with pytest.raises(asyncio.CancelledError):
        asgi(app, headers={"x-api-key": secret})
    assert used(made, secret) == 0


async def without_end():
    """A store that waits, its ledger and a secret of it, when a request is begun that never ends, and what makes it."""
    store, started = Elsewhere(waits=True), asyncio.Event()
    made = AsyncLedger(store, clock=ManualClock(NOON))
    await made.add_plan(UsagePlan("PlanA", "3/day"))
    secret = (await made.issue_key("Key123", "PlanA")).secret

    async def forever(scope, receive, send):
        started.set()
        await asyncio.Event().wait()

    app = QuotaMiddleware(forever, made, on_unavailable="deny", charge="success")
    return store, made, secret, started, Strict(app, headers={"x-api-key": secret}).serve


@pytest.mark.parametrize("when", ["holding", "running"])
def test_cancelled_while_the_store_is_at_it(when):
    """A request cancelled while its hold is being made, or being settled, leaves nothing held behind."""

    async def scenario():
        store, made, secret, started, serve = await without_end()
        if when == "holding":
            store.release = asyncio.Event()
        task = asyncio.ensure_future(serve())
        await (store.holding if when == "holding" else started).wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if store.release:
            store.release.set()
        for _ in range(20):
            await asyncio.sleep(0)
        return (await made.peek(secret)).limits[0].remaining

    assert asyncio.run(scenario()) == 2


def test_cancelled_twice():
    """A request cancelled again while it is being settled is settled all the same."""

    async def scenario():
        store, made, secret, started, serve = await without_end()
        task = asyncio.ensure_future(serve())
        await started.wait()
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(20):
            await asyncio.sleep(0)
        return (await made.peek(secret)).limits[0].remaining

    assert asyncio.run(scenario()) == 2


class Failing(asyncio.Event):
    """Lets nobody through but with an error."""

    async def wait(self):
        await super().wait()
        raise StoreUnavailable("gone")


def test_hold_that_fails_after_cancellation():
    """A hold that fails when nobody waits for it any more is nobody's error."""

    async def scenario():
        store = Elsewhere(waits=True)
        made = AsyncLedger(store, clock=ManualClock(NOON))
        await made.add_plan(UsagePlan("PlanA", "3/day"))
        secret = (await made.issue_key("Key123", "PlanA")).secret
        store.release = Failing()
        app = QuotaMiddleware(Site().asgi, made, on_unavailable="deny", charge="success")
        task = asyncio.ensure_future(Strict(app, headers={"x-api-key": secret}).serve())
        await store.holding.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        store.release.set()
        for _ in range(20):
            await asyncio.sleep(0)

    asyncio.run(scenario())


def test_settled_before_the_last_part():
    """Units are settled before the response's last part goes out: a client that has it all may rely on it."""
    app, made, secret = middleware(Site(actual=2).asgi, charge="response")
    at_the_end = []

    async def serve():
        server = Strict(app, headers={"x-api-key": secret})
        send = server.send

        async def sending(message):
            if message["type"] == "http.response.body" and not message.get("more_body"):
                at_the_end.append(used(made, secret))
            await send(message)

        server.send = sending
        await server.serve()

    asyncio.run(serve())
    assert at_the_end == [2]


def test_error_after_the_response():
    """What an application raises after its whole response is not undone."""
    app, made, secret = middleware(Site(raises="after").asgi, charge="success")
    with pytest.raises(Boom):
        asgi(app, headers={"x-api-key": secret})
    assert used(made, secret) == 1


def test_response_by_an_extension():
    """A response that ends without a body message, as sendfile extensions do, is settled when the application ends."""

    async def sendfile(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.pathsend", "path": "/x"})

    app, made, secret = middleware(sendfile, charge="success")

    async def serve():
        server = Strict(app, headers={"x-api-key": secret})
        server._http_response_pathsend = lambda message: setattr(server, "state", "ended")
        await server.serve()

    asyncio.run(serve())
    assert used(made, secret) == 1


# WebSockets


async def echo(scope, receive, send):
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept", "headers": [(b"x-other", b"1")]})
    await send({"type": "websocket.send", "text": scope["state"]["quota"].key.name})
    assert (await receive())["type"] == "websocket.disconnect"


@pytest.mark.parametrize("charge", ["arrival", "success", "response"])
def test_websocket_upgrade(charge):
    """A WebSocket upgrade is charged as a request and its acceptance carries the headers."""
    app, made, secret = middleware(echo, charge=charge)
    answer = asgi(app, kind="websocket", headers={"x-api-key": secret})
    assert (answer.status, answer.body) == (101, b"Key123")
    assert answer["ratelimit"] == '"requests/day";r=2;t=43200'
    assert answer["x-other"] == "1"
    assert used(made, secret) == 1


def test_websocket_refused():
    """A refused upgrade is answered as a request is, where the server can; else it is closed with a policy violation."""
    app, made, secret = middleware(echo, "1/day")
    asgi(app, kind="websocket", headers={"x-api-key": secret})
    answer = asgi(app, kind="websocket", headers={"x-api-key": secret}, extensions=["websocket.http.response"])
    assert answer.status == 429
    assert answer["retry-after"] == "43200"
    assert b"quota-exceeded" in answer.body
    answer = asgi(app, kind="websocket", headers={"x-api-key": secret})
    assert answer.messages == [{"type": "websocket.close", "code": 1008, "reason": "429 Too Many Requests"}]
    assert used(made, secret) == 1


def test_websocket_that_the_application_refuses():
    """Charging successes, an upgrade that the application itself refuses is not charged."""

    async def closed(scope, receive, send):
        await receive()
        await send({"type": "websocket.close", "code": 1000})

    app, made, secret = middleware(closed, charge="success")
    asgi(app, kind="websocket", headers={"x-api-key": secret})
    assert used(made, secret) == 0


def test_websocket_refused_with_a_response():
    """Charging successes, an upgrade that the application answers with an error is not charged."""

    async def denied(scope, receive, send):
        await receive()
        await send({"type": "websocket.http.response.start", "status": 404, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b""})

    app, made, secret = middleware(denied, charge="success")
    assert (
        asgi(app, kind="websocket", headers={"x-api-key": secret}, extensions=["websocket.http.response"]).status == 404
    )
    assert used(made, secret) == 0


def test_websocket_route():
    """A WebSocket's route is named as GET, so that a plan can price it."""
    made, secret = ledger("9/day", costs={"GET /chat": 4})
    app = QuotaMiddleware(echo, made, on_unavailable="deny")
    asgi(app, kind="websocket", path="/chat", headers={"x-api-key": secret})
    assert used(made, secret) == 4


# The scope


def test_lifespan_passes():
    """Anything but requests and WebSockets passes untouched."""
    seen = []

    async def app(scope, receive, send):
        seen.append((scope, receive, send))

    front, _, _ = middleware(app)
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}}
    asyncio.run(front(scope, "receive", "send"))
    assert seen == [({"type": "lifespan", "asgi": {"version": "3.0"}}, "receive", "send")]


def test_state_is_kept():
    """The lifespan's state stays beside the decision, and a server without state is given one."""
    site = Site()
    app, _, secret = middleware(site.asgi)
    asgi(app, headers={"x-api-key": secret}, state={"pool": 1})
    assert site.seen[-1][1]["state"] == {"pool": 1, "quota": site.decision}


@pytest.mark.parametrize(
    ("root", "path", "name"),
    [
        ("", "/pets", "GET /pets"),
        ("/api", "/api/pets", "GET /pets"),
        ("/api", "/pets", "GET /pets"),
        ("/api", "/apis", "GET /apis"),
        ("/api", "/api", "GET /"),
    ],
)
def test_mounted(root, path, name):
    """A route is named below where the application is mounted, whether the server repeats the root in the path or not."""
    made, secret = ledger("9/day", costs={name: 5})
    app = QuotaMiddleware(Site().asgi, made, on_unavailable="deny")
    asgi(app, path=path, root_path=root, headers={"x-api-key": secret})
    assert used(made, secret) == 5


def test_scope_without_query():
    """A scope of WebSockets need not have a query or a state."""
    app, _, secret = middleware(key=("?key", "x-api-key"))

    async def serve():
        server = Strict(app, headers={"x-api-key": secret})
        del server.scope["query_string"], server.scope["state"]
        return await server.serve()

    assert asyncio.run(serve()).status == 200


def test_concurrent_requests():
    """Sixty-four requests at once against a limit of ten get exactly ten successes, however charged."""
    for charge in ("arrival", "success", "response"):

        async def serve(charge=charge):
            made = AsyncLedger(Elsewhere(waits=True), clock=ManualClock(NOON))
            await made.add_plan(UsagePlan("PlanA", "10/day"))
            secret = (await made.issue_key("Key123", "PlanA")).secret
            app = QuotaMiddleware(Site().asgi, made, on_unavailable="deny", charge=charge)
            return await asyncio.gather(*(Strict(app, headers={"x-api-key": secret}).serve() for _ in range(64)))

        statuses = [answer.status for answer in asyncio.run(serve())]
        assert (statuses.count(200), statuses.count(429)) == (10, 54)
