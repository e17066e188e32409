"""Calls in flight behind the middlewares: a slot from a response's first byte to its last, whatever becomes of it."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import threading

import pytest

import planting
import quota
from web import Boom, Strict, environ

TEXT = [("Content-Type", "text/plain")]
PATIENCE = 30
"""Seconds that what happens at once may take on a busy machine."""


class Behind:
    """An application behind a middleware of a package: one call at a time, and what is in flight."""

    limits = "1 concurrent, 1000/day as calls, 1000 tokens/day as tokens"

    def __init__(self, package, kind, app, made=None, limits=limits, **settings):
        self.ledger = made or package.Ledger(clock=package.ManualClock(quota.system_clock()))
        self.ledger.add_plan(package.UsagePlan("PlanA", limits))
        self.key, self.secret = self.ledger.issue_key("Key123", "PlanA")
        module = importlib.import_module(f"{package.__name__}.{kind}")
        self.app = module.QuotaMiddleware(app, self.ledger, **{"on_unavailable": "deny", **settings})

    @property
    def headers(self):
        return {"x-api-key": self.secret}

    @property
    def in_flight(self):
        return len(self.ledger.list_reservations(self.key))

    def used(self, name):
        return {limit.name: limit.used for limit in self.ledger.status(self.key)}[name]

    def refused(self):
        """Whether one more call is refused at this moment."""
        return not self.ledger.peek(self.secret)


def opened(site, method="GET"):
    """(body, status, headers) of a request by WSGI, of which nothing is read yet."""
    told = []
    body = site.app(environ(method, headers=site.headers), lambda *start: told.extend(start[:2]) or told.append)
    return body, told


class Watching(Strict):
    """A strict ASGI server that notes what is in flight as each message goes out."""

    def __init__(self, site, **more):
        super().__init__(site.app, headers=site.headers, **more)
        self.site, self.seen = site, []

    async def send(self, message):
        self.seen.append((message["type"].rpartition(".")[2], self.site.in_flight))
        await super().send(message)


def served(site, **more):
    """What was in flight as each message of an ASGI response went out."""
    server = Watching(site, **more)
    try:
        asyncio.run(server.serve())
    except (Boom, OSError, asyncio.CancelledError):
        pass
    return server.seen


# Short histories, each of a package: what is planted below is seen by one of them


def wsgi_holds_for_the_whole_response(package):
    """A body of an unknown length keeps its slot until it has ended; a second call is refused as long."""
    site = Behind(package, "wsgi", lambda request, start: (start("200 OK", TEXT), (part for part in (b"a", b"b")))[1])
    body, _ = opened(site)
    parts = iter(body)
    assert (next(parts), next(parts), site.in_flight, site.refused()) == (b"a", b"b", 1, True)
    refusal, (status, fields) = opened(site)
    assert status == "429 Too Many Requests" and dict(fields)["Retry-After"] == "1"
    assert b"".join(refusal) and site.used("calls") == 1
    assert next(parts, None) is None and site.in_flight == 0
    body.close()
    assert not site.refused()


def wsgi_frees_before_the_last_part(package):
    """Where the end is known, by a list or by Content-Length, the slot is free before the last part goes out."""
    length = [*TEXT, ("content-length", "3")]
    for fields, parts in ((TEXT, [b"a", b"bc"]), (length, (each for each in (b"a", b"bc", b"")))):
        site = Behind(package, "wsgi", lambda request, start, f=fields, p=parts: (start("200 OK", f), p)[1])
        chunks = iter(opened(site)[0])
        assert (next(chunks), site.in_flight, next(chunks), site.in_flight) == (b"a", 1, b"bc", 0)

    def written(request, start):
        start("200 OK", length)(b"abc")
        return [b""]

    assert opened(site := Behind(package, "wsgi", written))[0] and site.in_flight == 0
    site = Behind(package, "wsgi", lambda request, start: (start("200 OK", length), (each for each in (b"", b"")))[1])
    chunks = iter(opened(site, "HEAD")[0])
    assert (site.in_flight, next(chunks), site.in_flight) == (1, b"", 0)


def wsgi_frees_at_every_exit(package):
    """It raises before or in the middle, it is closed half read, or never closed: nothing stays in flight."""

    def late(request, start):
        start("200 OK", TEXT)
        yield b"a"
        raise Boom

    site = Behind(package, "wsgi", lambda request, start: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        opened(site)
    assert site.in_flight == 0
    site = Behind(package, "wsgi", late)
    body, _ = opened(site)
    with pytest.raises(Boom):
        list(body)
    assert site.in_flight == 0
    for charge in ("arrival", "success", "response"):
        site = Behind(package, "wsgi", late, charge=charge)
        body, _ = opened(site)
        next(iter(body))
        body.close()
        assert (site.in_flight, site.used("calls")) == (0, 1)
        body, _ = opened(site)
        freed, apply = threading.Event(), site.ledger.store.apply
        next(iter(body))
        assert site.in_flight == 1
        site.ledger.store.apply = lambda r, a=apply, f=freed: (a(r), f.set() if r.op in ("cancel", "commit") else None)[
            0
        ]
        del body
        assert freed.wait(PATIENCE) and site.in_flight == 0


def wsgi_settles_what_was_spent(package):
    """A stream that is cut costs what it spent, or what it said if that is more; the estimate goes back."""
    for told, cost in ((None, 2), ({"tokens": 1}, 2), ({"tokens": 9}, 9), ("no cost", 2), (0, 2)):

        def stream(request, start, told=told):
            held = request["quota.reservation"]
            request["quota.actual"] = told
            start("200 OK", TEXT)
            while True:
                held.spend({"tokens": 1})
                yield b"x"

        site = Behind(package, "wsgi", stream, charge="response", cost={"tokens": 400})
        body, _ = opened(site)
        parts = iter(body)
        assert (next(parts), next(parts), site.used("tokens"), site.in_flight) == (b"x", b"x", 400, 1)
        body.close()
        assert (site.used("tokens"), site.in_flight) == (cost, 0)


def watched(store, renewed):
    """What a store is asked from now on, in order; ``renewed`` is released for each reservation that is held longer."""
    apply, ops = store.apply, []

    def applied(request):
        answer = apply(request)
        ops.append(request.op)
        if request.op == "extend":
            renewed.release()
        return answer

    store.apply = applied
    return ops


def wsgi_renews(package):
    """A response that lasts is held longer, again and again, by one thread that ends with it; a dead one never is."""
    site = Behind(
        package, "wsgi", lambda request, start: (start("200 OK", TEXT), itertools.repeat(b"a"))[1], ttl=300_000
    )
    renewed = threading.Semaphore(0)
    ops = watched(site.ledger.store, renewed)
    before = set(threading.enumerate())
    body, _ = opened(site)
    (thread,) = set(threading.enumerate()) - before
    for _ in range(3):
        assert next(iter(body)) == b"a" and site.in_flight == 1
        assert renewed.acquire(timeout=PATIENCE)
        site.ledger._clock.advance(200_000)
    assert ops.count("extend") < 7  # no busy work
    body.close()
    assert site.in_flight == 0
    thread.join(PATIENCE)
    assert not thread.is_alive()


async def parts(send, *chunks, fields=(), end=True):
    await send({"type": "http.response.start", "status": 200, "headers": [*fields]})
    for chunk in chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    if end:
        await send({"type": "http.response.body", "body": b""})


def asgi_holds_for_the_whole_response(package):
    """The slot is kept from the first part to the last one, before which it is free; also where the length tells it."""

    async def whole(scope, receive, send):
        await parts(send, b"a", b"b")

    async def long(scope, receive, send):
        await parts(send, b"a", b"bc", fields=[(b"content-length", b"3")])

    assert served(Behind(package, "asgi", whole)) == [("start", 1), ("body", 1), ("body", 1), ("body", 0)]
    assert served(Behind(package, "asgi", long)) == [("start", 1), ("body", 1), ("body", 0), ("body", 0)]
    assert served(Behind(package, "asgi", long), method="HEAD")[0] == ("start", 0)


def asgi_refuses_and_frees(package):
    """While one is in flight another one is refused with 429 and Retry-After: 1; then it is not."""

    async def within(scope, receive, send):
        if site.in_flight == 1 and not answers:
            answers.append(None)
            answers[0] = await Strict(site.app, headers=site.headers).serve()
        await parts(send)

    answers = []
    site = Behind(package, "asgi", within)
    served(site)
    assert (answers[0].status, answers[0]["retry-after"]) == (429, "1")
    assert b"concurren" in answers[0].body and answers[0]["content-type"] == "application/problem+json"
    assert (site.in_flight, site.used("calls"), site.refused()) == (0, 1, False)


def asgi_frees_at_every_exit(package):
    """It raises, its client goes away or breaks the pipe, at any message: nothing stays in flight."""

    async def raising(scope, receive, send):
        await parts(send, b"a", end=False)
        raise Boom

    async def never(scope, receive, send):
        raise Boom

    async def whole(scope, receive, send):
        await parts(send, b"a", b"b")

    for charge in ("arrival", "success", "response"):
        for app, more in [
            (raising, {}), (never, {}), (whole, {}),
            *[(whole, {how: n}) for how in ("hang_up", "broken_pipe") for n in (1, 2, 3)],
        ]:  # fmt: skip
            site = Behind(package, "asgi", app, charge=charge)
            seen = served(site, **more)
            assert [count for _, count in seen[:2]] == [1, 1][: len(seen)]
            assert site.in_flight == 0, (charge, app, more)


def asgi_holds_a_websocket(package):
    """A WebSocket is one call in flight until it is closed, by its client or here."""

    async def talk(scope, receive, send):
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept", "headers": []})
        await send({"type": "websocket.send", "text": "a"})
        if leaves:
            await receive()
        else:
            await send({"type": "websocket.close", "code": 1000})

    for leaves, tail in ((True, []), (False, [("close", 0)])):
        site = Behind(package, "asgi", talk)
        assert served(site, kind="websocket") == [("accept", 1), ("send", 1), *tail]
        assert site.in_flight == 0


def asgi_settles_what_was_spent(package):
    """A stream whose client goes away costs what it spent, and nothing of the estimate; every ledger is awaited."""

    async def stream(scope, receive, send):
        held = scope["state"]["quota_reservation"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await held.spend({"tokens": 1})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})

    site = Behind(package, "asgi", stream, charge="response", cost={"tokens": 400})
    for messages in (2, 6):
        served(site, hang_up=messages)
    assert (site.used("tokens"), site.in_flight) == (6, 0)


def asgi_renews(package):
    """A response that lasts is held longer, again and again; a lapse is told once, and nothing renews what has ended."""

    async def lasting(scope, receive, send):
        await parts(send, b"a", end=False)
        for _ in range(3):
            await asyncio.wait_for(renewed.acquire(), PATIENCE)
            site.ledger._clock.advance(200_000)
            counts.append(site.in_flight)
        await send({"type": "http.response.body", "body": b""})

    renewed, counts = asyncio.Semaphore(0), []
    site = Behind(package, "asgi", lasting, ttl=300_000)
    ops = watched(site.ledger.store, renewed)
    assert served(site)[-1] == ("body", 0)
    assert counts == [1, 1, 1] and ops.count("extend") < 7


HISTORIES = [
    wsgi_holds_for_the_whole_response, wsgi_frees_before_the_last_part, wsgi_frees_at_every_exit,
    wsgi_settles_what_was_spent, wsgi_renews, asgi_holds_for_the_whole_response, asgi_refuses_and_frees,
    asgi_frees_at_every_exit, asgi_holds_a_websocket, asgi_settles_what_was_spent, asgi_renews,
]  # fmt: skip


@pytest.mark.parametrize("history", HISTORIES)
def test_in_flight(history):
    """Each of the short histories, of the package as it is."""
    history(quota)


PLANTED = [
    ("the list's last part goes out first", wsgi_frees_before_the_last_part, "web/responses/plain.py", "or self._parts == 0:", "or False:"),
    ("the length is not looked at", wsgi_frees_before_the_last_part, "web/responses/carried.py", "return self._left <= 0", "return False"),
    ("what is written is not counted", wsgi_frees_before_the_last_part, "web/responses/plain.py", "if this.ends(part):", "if False:"),
    ("HEAD has a body", asgi_holds_for_the_whole_response, "web/responses/carried.py", 'method == "HEAD" or', ""),
    ("the end of a body is not seen", wsgi_holds_for_the_whole_response, "web/responses/plain.py", "except StopIteration:", "except KeyError:"),
    ("no slot is kept", wsgi_holds_for_the_whole_response, "wsgi.py", "keep_slot=keep_slot", "keep_slot=None"),
    ("close() settles nothing", wsgi_frees_at_every_exit, "web/responses/plain.py", "finally:\n            self.settle()", "finally:\n            pass"),
    ("what is dropped is renewed", wsgi_frees_at_every_exit, "web/responses/plain.py", "self._renewals.drop(self)", "pass"),
    ("the estimate is kept", wsgi_settles_what_was_spent, "web/gate.py", "or (held is not None and held.spent)", ""),
    ("the smaller counts", wsgi_settles_what_was_spent, "web/gate.py", "max(told.get(unit, 0)", "min(told.get(unit, 0)"),
    ("no thread holds longer", wsgi_renews, "web/responses/carried.py", "over = exchange.renew()", "over = False"),
    ("the thread stays", wsgi_renews, "web/responses/carried.py", "if not self._since and", "if False and"),
    ("settled after the last part", asgi_holds_for_the_whole_response, "web/responses/awaited.py", "await self._before(message)\n            try:", "try:"),
    ("the client's close frees nothing", asgi_frees_at_every_exit, "web/responses/awaited.py", "finally:\n            await self.settle()", "finally:\n            pass"),
    ("its own close frees late", asgi_holds_a_websocket, "web/responses/awaited.py", '"http.response.pathsend", "websocket.close"', '"http.response.pathsend"'),
    ("no slot is kept", asgi_refuses_and_frees, "asgi.py", "keep_slot=ttl", "keep_slot=None"),
    ("held longer once", asgi_renews, "web/responses/awaited.py", "if not over and not self._over:", "if False:"),
    ("never held longer", asgi_renews, "web/responses/awaited.py", "        self._wait()\n\n    async def run", "        self._timer = self._loop.call_later(9, int)\n\n    async def run"),
    ("the estimate is kept", asgi_settles_what_was_spent, "web/gate.py", "or (held is not None and held.spent)", ""),
]  # fmt: skip


@pytest.mark.spread(3)
@pytest.mark.parametrize("number", range(len(PLANTED)), ids=lambda number: PLANTED[number][0])
def test_the_histories_catch(number, tmp_path, monkeypatch):
    """Each bug, planted into a copy of the package, is seen by its short history."""
    _, history, file, *pieces = PLANTED[number]
    monkeypatch.setitem(globals(), "PATIENCE", 1)
    package, *_ = planting.plant(tmp_path, f"slots{number}", file, *pieces)
    with pytest.raises((AssertionError, LookupError, TimeoutError)):
        history(package)
