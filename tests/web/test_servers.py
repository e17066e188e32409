"""Behind real servers: gunicorn and uvicorn with four workers, a real client on loopback, stores that they share."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections import Counter

import httpx
import pytest
import redis
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from quota import AsyncLedger, Ledger, UsagePlan
from quota.asgi import QuotaMiddleware
from quota.stores.redis import RedisStore
from served import PATIENCE, Served
from servers import FaultProxy, Valkey
from web import Site, Strict


def gunicorn(store, charge, workers=4):
    return Served(
        "gunicorn", "site_wsgi:app", "-w", str(workers), "-k", "gthread", "--threads", "8", "--keep-alive", "75", "-b", "127.0.0.1:0",
        "--access-logfile", "-", "--access-logformat", "%(r)s %({http_x_api_key}e)s", "--no-control-socket",
        ready="Booting worker", workers=workers, QUOTA_STORE=store, QUOTA_CHARGE=charge,
    )  # fmt: skip


def uvicorn(store, charge, workers=4):
    return Served(
        "uvicorn", "site_asgi:app", "--workers", str(workers), "--port", "0",
        ready="Application startup complete", workers=workers, QUOTA_STORE=store, QUOTA_CHARGE=charge,
    )  # fmt: skip


@pytest.fixture(scope="module")
def valkey():
    server = Valkey()
    yield server
    server.stop()


@pytest.fixture(params=["gunicorn on SQLite", "uvicorn on Valkey"])
def stage(request, tmp_path):
    """How to start a server, and the URL of the store that it is to share."""
    if request.param == "gunicorn on SQLite":
        return gunicorn, f"sqlite:///{tmp_path / 'usage.db'}?durability=normal"
    server = request.getfixturevalue("valkey")
    return uvicorn, f"{server.url}?namespace={tmp_path.name.replace('_', '-')}"


@pytest.fixture
def ledger(stage):
    with Ledger(stage[1]) as made:
        yield made


@pytest.fixture
def serve(stage, ledger):
    """Start the server, once the ledger's tables are there; a function of when to charge and how many workers."""
    running = []

    def start(charge, workers=4):
        ledger.list_keys()
        running.append(stage[0](stage[1], charge, workers))
        return running[-1]

    yield start
    for served in running:
        served.stop()


def used(ledger, key):
    return sum(record.used for record in ledger.usage(key))


def settles_at(ledger, key, expected):
    """Whether the usage comes to be what is expected, and stays so: the server settles in its own time."""
    deadline = time.monotonic() + PATIENCE
    while (found := used(ledger, key)) != expected:
        assert time.monotonic() < deadline, f"{found} used, not {expected}"
    return used(ledger, key) == expected


async def storm(url, secret, requests, clients):
    """So many requests from so many concurrent clients, each with a connection of its own."""
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(
        base_url=url, limits=limits, timeout=PATIENCE, headers={"x-api-key": secret}
    ) as client:
        left = iter(range(requests))

        async def one():
            return [(await client.get("/pets")) for _ in left]

        batches = await asyncio.gather(*(one() for _ in range(clients)))
    return [answer for batch in batches for answer in batch]


@pytest.mark.spread(6, 5)  # gunicorn's workers race in test_race.py
@pytest.mark.parametrize(
    ("charge", "limit"),
    [
        pytest.param("arrival", 1_000, marks=pytest.mark.slow),
        pytest.param("success", 1_000, marks=pytest.mark.slow),
        ("success", 150),
    ],
)
def test_exactly_the_limit(ledger, serve, charge, limit):
    """Four workers and sixty-four clients at once against a limit of 1,000 get exactly 1,000 successes."""
    ledger.add_plan(UsagePlan("PlanA", f"{limit}/month"))
    key, secret = ledger.issue_key("Key123", "PlanA")
    server = serve(charge)
    answers = asyncio.run(storm(server.url, secret, limit + 200, 64))
    assert Counter(answer.status_code for answer in answers) == {200: limit, 429: 200}
    assert all(answer.headers["retry-after"] for answer in answers if answer.status_code == 429)
    assert used(ledger, key) == limit
    if charge == "arrival":
        left = sorted(int(re.search(r"r=(\d+)", a.headers["ratelimit"])[1]) for a in answers if a.status_code == 200)
        assert left == list(range(limit))


@pytest.mark.spread(2)
def test_a_client_that_has_all_is_not_refused_for_it(ledger, serve):
    """One call at once: who reads each answer to its end and asks again at once is never told that a call is in flight."""
    ledger.add_plan(UsagePlan("PlanA", "1 concurrent, 1000/day"))
    key, secret = ledger.issue_key("Key123", "PlanA")
    server = serve("arrival", 2)
    with httpx.Client(base_url=server.url, timeout=PATIENCE, headers={"x-api-key": secret}) as client:
        for method, url in (("GET", "/pets"), ("GET", "/stream"), ("HEAD", "/pets"), ("GET", "/missing")):
            statuses = [client.request(method, url).status_code for _ in range(20)]
            assert set(statuses) <= {200, 404}, (method, url, statuses)
        with client.stream("GET", "/endless") as answer:
            parts = answer.iter_raw()
            assert next(parts)
            assert client.get("/pets").status_code == 429
    deadline = time.monotonic() + PATIENCE
    while ledger.list_reservations(key):  # the client of an endless answer went away
        assert time.monotonic() < deadline


@pytest.mark.spread(2, 1)
def test_everything_settles(ledger, serve):
    """Streams, errors before and during the response, HEAD, and clients that go away: successes count, failures do not."""
    ledger.add_plan(UsagePlan("PlanA", "100/month"))
    key, secret = ledger.issue_key("Key123", "PlanA")
    server = serve("success", 1)
    once = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(base_url=server.url, headers={"x-api-key": secret}, timeout=PATIENCE, limits=once) as client:
        assert client.get("/stream").text == "x" * 50_000
        assert settles_at(ledger, key, 1)
        head = client.head("/pets")
        assert (head.status_code, head.content) == (200, b"")
        assert '"requests/month";r=98' in head.headers["ratelimit"]
        assert settles_at(ledger, key, 2)
        for path, status in (("/broken", 500), ("/missing", 404)):
            assert client.get(path).status_code == status
        assert settles_at(ledger, key, 2)
        with pytest.raises(httpx.TransportError):
            client.get("/broken-stream")
        assert settles_at(ledger, key, 2)
        with client.stream("GET", "/endless") as answer:
            assert next(answer.iter_bytes())
        assert settles_at(ledger, key, 3)
        assert client.get("/").headers.get("ratelimit") is None
        assert client.head("/pets", headers={"x-api-key": "none"}).headers["content-type"] == "application/problem+json"


@pytest.mark.spread(2)
def test_the_response_says_what_it_used(ledger, serve):
    """What the application says it used is what is charged."""
    ledger.add_plan(UsagePlan("PlanA", "100/month"))
    key, secret = ledger.issue_key("Key123", "PlanA")
    server = serve("response", 1)
    assert httpx.get(f"{server.url}/tokens", headers={"x-api-key": secret}).text == "seven"
    assert settles_at(ledger, key, 7)


@pytest.mark.spread(2, 1)
def test_unread_bodies(ledger, serve):
    """After a refusal whose body nobody read the connection goes on: what follows is a request, not the rest of the body."""
    ledger.add_plan(UsagePlan("PlanA", "100/month"))
    _, secret = ledger.issue_key("Key123", "PlanA")
    server = serve("arrival", 1)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), PATIENCE) as raw:
        answers = b""
        for request, status in (
            ("POST /pets HTTP/1.1\r\nHost: shop\r\nContent-Length: 20000\r\n\r\n" + "GET /" * 4_000, 403),
            ("POST /pets HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nGET /\r\n0\r\n\r\n", 403),
            ("HEAD /pets HTTP/1.1\r\nHost: shop\r\n\r\n", 403),
            (f"GET /pets HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nx-api-key: {secret}\r\n\r\n", 200),
        ):
            raw.sendall(request.encode())
            answer = raw.recv(1)
            while b"\r\n" not in answer:
                answer += raw.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 %d" % status), answer[:100]
            length = 0 if request.startswith("HEAD") else 113 if status == 403 else 4
            while not re.search(rb"\r\n\r\n[^\r]{%d}\Z" % length, answer):
                answer += raw.recv(65_536)
            answers += answer
    assert answers.count(b"HTTP/1.1 ") == 4


@pytest.mark.spread(2)
def test_hostile_bytes(ledger, serve):
    """Strange bytes on the wire get an answer of some kind, and the server goes on serving."""
    ledger.add_plan(UsagePlan("PlanA", "100/month"))
    _, secret = ledger.issue_key("Key123", "PlanA")
    server = serve("arrival", 1)
    host, port = server.url.removeprefix("http://").split(":")
    key = b"x-api-key: " + secret.encode() + b"\r\n"
    for headers in (
        b"x-api-key: " + b"a" * 1_000_000 + b"\r\n", b"x-api-key: \x00\x01\r\n", "x-api-key: é😀\r\n".encode(), key + key,
        b"x-api-key:\r\n", b"x-api-key: " + b"a" * 5_000 + b"\r\n",
    ):  # fmt: skip
        with socket.create_connection((host, int(port)), PATIENCE) as raw:
            answer = b""
            try:
                raw.sendall(b"GET /pets HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n" + headers + b"\r\n")
                while part := raw.recv(65_536):
                    answer += part
            except ConnectionError:
                continue
        assert re.match(rb"HTTP/1.1 4\d\d ", answer), answer[:200]
    assert httpx.get(f"{server.url}/pets", headers={"x-api-key": secret}).status_code == 200
    assert "Traceback" not in server.text


@pytest.mark.spread(2, 1)
def test_logs_do_not_tell(ledger, serve):
    """The server's own access log shows four characters of a key, in header or query, however its name is written.

    Preflights included, which are asked for their key like any request.
    """
    ledger.add_plan(UsagePlan("PlanA", "100/month"))
    _, secret = ledger.issue_key("Key123", "PlanA")
    server = serve("arrival", 1)
    httpx.get(f"{server.url}/pets", headers={"x-api-key": secret})
    assert httpx.get(f"{server.url}/pets?key={secret}").status_code == 200
    assert httpx.get(f"{server.url}/pets?key={secret}", headers={"x-api-key": secret}).status_code == 200
    asks = {"Origin": "https://a.example", "Access-Control-Request-Method": "GET"}
    assert httpx.options(f"{server.url}/pets?key={secret}", headers=asks).status_code < 500
    assert httpx.options(f"{server.url}/pets", headers=asks).status_code == 403
    assert httpx.get(f"{server.url}/pets?k%65y={secret}").status_code == 200
    assert httpx.get(f"{server.url}/pets?a=1&%6bey={secret}", headers={"x-api-key": secret}).status_code == 200
    server.stop()
    assert "GET /pets" in server.text
    assert "OPTIONS /pets?key=****" in server.text
    assert f"****{secret[-4:]}" in server.text
    assert secret not in server.text


@pytest.mark.parametrize("way", ["a Ledger", "an AsyncLedger on a store that blocks", "an AsyncLedger"])
def test_the_event_loop_goes_on(valkey, request, way):
    """While a store on a slow line is asked, the event loop serves others, whichever ledger was given."""
    proxy = FaultProxy(valkey.port)
    store = RedisStore(redis.Redis(port=proxy.port), namespace=f"loop-{way[:4].strip()}-{len(way)}")
    with Ledger(store) as ledger:
        ledger.add_plan(UsagePlan("PlanA", "9/month"))
        secret = ledger.issue_key("Key123", "PlanA").secret

        async def serve():
            made = ledger if way == "a Ledger" else AsyncLedger(store)
            if way == "an AsyncLedger":
                made = AsyncLedger(f"redis://127.0.0.1:{proxy.port}/0?namespace={store.namespace}")
            app = QuotaMiddleware(Site().asgi, made, on_unavailable="deny")
            await Strict(app, headers={"x-api-key": secret}).serve()
            proxy.set("delay", delay=0.3)
            asked = asyncio.ensure_future(Strict(app, headers={"x-api-key": secret}).serve())
            turns = 0
            while not asked.done():
                await asyncio.sleep(0)
                turns += 1
            proxy.set("")
            if way == "an AsyncLedger":
                await made.aclose()
            return asked.result().status, turns

        status, turns = asyncio.run(serve())
        store.client.close()
    proxy.close()
    assert status == 200
    assert turns > 20


def test_websockets(valkey, request):
    """WebSocket upgrades are charged; a refused one is answered with 429 and when to retry, by a real server."""
    store = f"{valkey.url}?namespace={request.node.name}"
    with Ledger(store) as ledger:
        ledger.add_plan(UsagePlan("PlanA", "1/month"))
        secret = ledger.issue_key("Key123", "PlanA").secret
        server = uvicorn(store, "arrival", 1)
        try:
            url = server.url.replace("http", "ws") + "/chat"
            with connect(url, additional_headers={"x-api-key": secret}) as chat:
                assert chat.recv() == "Key123"
            with pytest.raises(InvalidStatus) as caught, connect(url, additional_headers={"x-api-key": secret}):
                pass
        finally:
            server.stop()
    assert caught.value.response.status_code == 429
    assert int(caught.value.response.headers["retry-after"]) > 0
    assert b"quota-exceeded" in caught.value.response.body
