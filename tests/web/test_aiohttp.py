"""``quota.aiohttp``: an aiohttp application on a real server of its own, and a real client."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from quota import AsyncLedger, InvalidValue, Ledger, StoreUnavailable, UsagePlan
from quota.aiohttp import ACTUAL, DECISION, setup
from quota.web import Anonymous, Answer


class Shop:
    """An application, served, and what its handlers saw."""

    def __init__(self, limits="3/day", routes=(), ledger=None, plans=(), **settings):
        self.ledger = Ledger() if ledger is None else ledger
        self.ledger.add_plan(UsagePlan("p", limits, routes=dict(routes)))
        for plan in plans:
            self.ledger.add_plan(plan)
        self.key, self.secret = self.ledger.issue_key("k", "p")
        self.seen, self.settings = [], {"on_unavailable": "deny", **settings}

    def build(self, ledger=None):
        """The application; one is of one loop."""
        app = web.Application()
        setup(app, ledger or self.ledger, **self.settings)
        app.router.add_get("/pets/{number}", self.pet)
        app.router.add_post("/echo", self.echo)
        app.router.add_post("/streams-in/{how}", self.streams_in)
        app.router.add_get("/stream", self.stream)
        app.router.add_get("/status/{status}", self.status)
        app.router.add_get("/seven", self.seven)
        inner = web.Application()
        inner.router.add_get("/list", self.pet)
        app.add_subapp("/inner", inner)
        return app

    async def pet(self, request):
        key = request[DECISION].key
        return web.Response(text=f"{request.match_info.get('number')} for {key and key.name}")

    async def echo(self, request):
        self.seen.append((dict(request.headers), str(request.rel_url), request.query_string, request.raw_headers))
        if request.content_type == "multipart/form-data":
            field = (await request.post())["file"]
            field.file.close()
            return web.Response(text=field.filename)
        return web.Response(body=await request.read())

    async def streams_in(self, request):
        if request.match_info["how"] == "whole":
            parts = [await request.read()]
        elif request.match_info["how"] == "lines":
            parts = [line async for line in request.content]
        else:
            parts = [part async for part in request.content.iter_chunked(7)]
        return web.json_response([b"".join(parts).decode(), request[DECISION].cost])

    async def stream(self, request):
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"a")
        if "break" in request.query:
            raise ZeroDivisionError
        await response.write(b"b")
        return response

    async def status(self, request):
        status = int(request.match_info["status"])
        if status == 404:
            raise web.HTTPNotFound
        if status == 599:
            raise ZeroDivisionError
        return web.Response(status=status)

    async def seven(self, request):
        request[ACTUAL] = 7
        return web.Response(text="seven")

    @property
    def used(self):
        return sum(record.used for record in self.ledger.usage(self.key) if record.limit == "requests/day")

    def ask(self, *requests):
        """The answers to some requests, one after the other: (status, body, headers)."""

        async def run():
            async with TestClient(TestServer(self.build())) as client:
                return [await self.one(client, *request) for request in requests]

        return asyncio.run(run())

    async def one(self, client, url, key=None, method="get", headers=(), **more):
        headers = {**dict(headers), **({"x-api-key": key} if key else {})}
        try:
            async with getattr(client, method)(url, headers=headers, **more) as answer:
                return answer.status, await answer.read(), answer.headers
        except aiohttp.ClientPayloadError:
            return "broken", b"", {}

    def statuses(self, *urls):
        return [status for status, _, _ in self.ask(*[(url, self.secret) for url in urls])]


def test_every_request():
    """Who has a key is served within the limits and sees them, streams too; nobody else is; what nobody serves counts."""
    shop = Shop("4/day")
    answers = shop.ask(
        ("/pets/7",), *[(url, shop.secret) for url in ("/pets/7", "/stream", "/none", "/inner/list", "/pets/8")]
    )
    assert [status for status, _, _ in answers] == [403, 200, 200, 404, 200, 429]
    assert (answers[1][1], answers[2][1]) == (b"7 for k", b"ab")
    assert ['"requests/day";r=' in headers.get("RateLimit", "") for _, _, headers in answers] == [
        False,
        True,
        True,
        True,
        True,
        True,
    ]
    assert answers[5][2]["Content-Type"] == "application/problem+json" and answers[5][2]["Retry-After"]
    assert shop.used == 4


def test_resources_name_the_routes():
    """HEAD as GET, those of an application inside too; a function of the request may name them otherwise."""
    shop = Shop("99/day", {"GET /pets/{number}": "2/day as pets", "GET /inner/list": "1/day as inner"})
    assert [
        status
        for status, *_ in shop.ask(("/pets/1", shop.secret, "head"), ("/pets/2", shop.secret), ("/pets/3", shop.secret))
    ] == [200, 200, 429]
    assert shop.statuses("/inner/list", "/inner/list") == [200, 429]
    shop = Shop("99/day", {"mine": "1/day as mine"}, route=lambda request: request.match_info["number"] and "mine")
    assert shop.statuses("/pets/1", "/pets/2") == [200, 429]


def test_what_is_settled():
    """Failures, errors and streams that break give back what they held, successes keep it."""
    shop = Shop("100/day", charge="success")
    for url, status, total in (
        ("/status/500", 500, 0), ("/status/404", 404, 0), ("/status/599", 500, 0), ("/stream", 200, 1), ("/stream?break", "broken", 1), ("/pets/1", 200, 2),
    ):  # fmt: skip
        assert shop.statuses(url) == [status]
        assert shop.used == total, url
    assert [status.used for status in shop.ledger.status(shop.key)] == [2]
    shop = Shop("100/day", charge="response")
    assert shop.statuses("/seven", "/pets/1", "/status/500") == [200, 200, 500]
    assert shop.used == 8


NO_TEXT = (b"\xff\xfe", b"\xed\xa0\x80", b"\xe9", "é".encode(), b"%ff")


@pytest.mark.parametrize("settings", [{}, {"redact": False}, {"key": lambda request: request.headers.get("X-Api-Key")}])
def test_bytes_that_are_no_text(settings):
    """Wherever a client puts them, the answer is a key's or a refusal, and a handler is given them as they came."""
    shop = Shop("1000/day", **{"key": ["x-api-key", "?api_key"], "trusted_proxies": 1, **settings})

    async def asked(server, target, *lines):
        reader, writer = await asyncio.open_connection(server.host, server.port)
        lines = [b"POST " + target + b" HTTP/1.1", b"connection: close", b"content-length: 0", *lines, b"", b""]
        writer.write(b"\r\n".join(lines))
        status = int((await reader.read()).split()[1])
        writer.close()
        return status

    async def run():
        own, host = b"x-api-key: " + shop.secret.encode(), b"host: h"
        async with TestServer(shop.build()) as server:
            for odd in NO_TEXT:
                for name in (b"x-other", b"x-forwarded-for", b"cookie", b"content-type", b"origin"):
                    assert await asked(server, b"/echo", host, own, name + b": " + odd) == 200
                    assert (name, odd) in shop.seen[-1][3]
                assert await asked(server, b"/echo", own, b"host: " + odd) == 200
                assert await asked(server, b"/echo?a=" + odd, host, own) in {200, 400}
                assert await asked(server, b"/pets/" + odd, host, own) in {400, 404, 405}
                assert await asked(server, b"/echo", host, b"x-api-key: " + odd * 30) == 403
                assert await asked(server, b"/echo?api_key=" + odd * 30, host) in {400, 403}

    asyncio.run(run())


def test_the_secret_is_hidden_and_the_body_whole():
    """Wherever the handler looks, by header and by query; what was read for the estimate is read again."""
    shop = Shop("99/day", key=["x-api-key", "?key"], cost_from_body=len)
    form = aiohttp.FormData()
    form.add_field("file", b"content", filename="a.txt")
    found = shop.ask(
        ("/echo", shop.secret, "post", () ), (f"/echo?key={shop.secret}&a=1", None, "post"),
    )  # fmt: skip
    assert [status for status, *_ in found] == [200, 200]
    assert shop.secret not in str(shop.seen) and str(shop.seen).count(f"****{shop.secret[-4:]}") >= 3
    assert shop.used == 2

    async def bodies():
        async with TestClient(TestServer(shop.build())) as client:
            plain = await shop.one(client, "/echo", shop.secret, "post", data=b"12345")
            return plain[1], (await shop.one(client, "/echo", shop.secret, "post", data=form))[1]

    assert asyncio.run(bodies()) == (b"12345", b"a.txt")
    assert shop.used == 8


@pytest.mark.parametrize("redact", [True, False])
@pytest.mark.parametrize("how", ["whole", "lines", "pieces"])
def test_a_body_is_handed_on_whole(how, redact):
    """Its first bytes say what it costs; a handler that streams it reads them again, and what follows as it comes."""
    shop = Shop("1000/day", cost_from_body=len, most_body=10, redact=redact)
    bodies = [b"", b"1234\n67", b"1234567890", b"1234\n67890\n2345" * 20]

    async def slow(body):
        for place in range(0, len(body), 6):
            yield body[place : place + 6]
            await asyncio.sleep(0)

    async def run():
        async with TestClient(TestServer(shop.build())) as client:
            return [
                json.loads((await shop.one(client, f"/streams-in/{how}", shop.secret, "post", data=sent(body)))[1])
                for body in bodies
                for sent in (bytes, slow)
            ]

    wanted = [[body.decode(), min(len(body), 10) or 1] for body in bodies for _ in "12"]
    assert asyncio.run(run()) == wanted


def test_callables_people_guesses_and_preflights():
    """Callables are given aiohttp's request; addresses, guesses and preflights go as elsewhere."""
    given = []
    shop = Shop(
        key=lambda request: request.query.get("k"),
        report=lambda decision, request: given.append(request.path),
        refuse=lambda d, request: Answer(418, [], request.path.encode()),
    )
    assert [answer[:2] for answer in shop.ask((f"/pets/1?k={shop.secret}",), ("/pets/2",))] == [
        (200, b"1 for k"),
        (418, b"/pets/2"),
    ]
    assert given == ["/pets/1", "/pets/2"]
    shop = Shop(plans=[UsagePlan("free", "1/day")], anonymous=Anonymous("free", by=lambda request: request.path))
    assert [status for status, *_ in shop.ask(("/pets/1",), ("/pets/1",), ("/pets/2",))] == [200, 429, 200]
    shop = Shop(
        plans=[UsagePlan("free", "1/day")], anonymous=Anonymous("free"), failed_keys="1/minute", exempt="/seven"
    )
    found = shop.ask(("/pets/1",), ("/pets/1",), ("/pets/1", "none" * 9), ("/pets/1", "none" * 9), ("/seven",))
    assert [status for status, *_ in found] == [200, 429, 403, 429, 200]
    browser = {"Origin": "https://shop.example", "Access-Control-Request-Method": "GET"}
    for said, status in (("ask", 403), ("pass", 405), ("answer", 204)):
        assert Shop(preflight=said).ask(("/pets/1", None, "options", browser))[0][0] == status


@pytest.mark.parametrize(("said", "status"), [("deny", 503), ("allow", 200)])
def test_a_store_that_is_away(said, status, tmp_path):
    """Is answered as the settings say."""
    shop = Shop(ledger=Ledger(f"sqlite:///{tmp_path}/u.db"), on_unavailable=said)

    def away(request):
        raise StoreUnavailable("gone")

    shop.ledger.store.apply = away
    assert shop.statuses("/status/200", "/status/200") == [status, status]


@pytest.mark.parametrize("kind", ["awaited", "in threads"])
def test_exactly_what_there_is(kind, tmp_path):
    """Forty requests at once against a limit of thirty, awaited or in threads."""
    url = f"sqlite:///{tmp_path}/u.db"
    shop = Shop("30/day", ledger=Ledger(url))
    shop.settings["charge"] = "success"

    async def run():
        app = shop.build(AsyncLedger(url) if kind == "awaited" else None)
        async with TestClient(TestServer(app)) as client:
            return await asyncio.gather(*[shop.one(client, f"/pets/{n}", shop.secret) for n in range(40)])

    assert sorted(status for status, *_ in asyncio.run(run())) == [200] * 30 + [429] * 10
    assert shop.used == 30


def test_bad_settings():
    """Each is refused at once, and named."""
    for wrong, field in (
        (lambda: setup(None, Ledger(), on_unavailable="deny"), "app"), (lambda: setup(web.Application(), "memory://", on_unavailable="deny"), "ledger"),
        (lambda: setup(web.Application(), Ledger(), on_unavailable="maybe"), "on_unavailable"),
    ):  # fmt: skip
        with pytest.raises(InvalidValue, match=f"^{field}: "):
            wrong()
