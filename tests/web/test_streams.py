"""Server-sent events over a real server, cut at random bytes: the ledger says exactly what was made, and frees the rest."""

from __future__ import annotations

import asyncio
import random
import re
import socket
import time
from contextlib import suppress

import pytest

from quota import Ledger, UsagePlan
from served import PATIENCE, Served
from servers import shared_store
from site_streams import EVENTS, PADDING

WHOLE = sum(1 + number % 3 for number in range(EVENTS))
TTL = 10 * 10**6


@pytest.fixture(params=["SQLite", "Valkey"])
def store(request, tmp_path):
    """The URL of a store."""
    with shared_store(request.param, tmp_path) as url:
        yield url


@pytest.fixture
def ledger(store):
    with Ledger(store) as made:
        made.add_plan(UsagePlan("talk", "1 concurrent, 10/year as calls, 100000 tokens/year as tokens"))
        yield made


@pytest.fixture
def serve(store):
    """Start the server; a function of how long it holds what it streams, in microseconds."""
    running = []

    def start(ttl):
        running.append(
            Served(
                "uvicorn", "site_streams:app", "--port", "0", ready="Application startup complete", workers=1,
                QUOTA_STORE=store, QUOTA_TTL=str(ttl),
            )
        )  # fmt: skip
        return running[-1]

    yield start
    for served in running:
        served.stop()


async def read(server, name, secret, most=None, *, reset=False, cut=None):
    """Read so many bytes of a stream, or all of it, then cut it; the tokens of the whole events among them."""
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.setblocking(False)
    await asyncio.get_running_loop().sock_connect(line, ("127.0.0.1", int(server.url.rpartition(":")[2])))
    reader, writer = await asyncio.open_connection(sock=line, limit=8192)
    writer.write(f"GET /talk HTTP/1.0\r\nx-api-key: {secret}\r\nx-stream: {name}\r\n\r\n".encode())
    found = b""
    with suppress(ConnectionError):
        while (most is None or len(found) < most) and (
            part := await reader.read(4096 if most is None else most - len(found))
        ):
            found += part
    if cut is not None:
        await cut()
    if reset:
        writer.transport.abort()
    writer.close()
    return sum(int(tokens) for tokens in re.findall(rb"data: (\d+)\n: x+\n\n", found))


def told(server, count):
    """What each of so many streams made, by its name, once all of them have ended."""
    deadline = time.monotonic() + PATIENCE
    while len(found := dict(re.findall(r"stream (\S+) made (\d+)", server.text))) < count:
        assert time.monotonic() < deadline, server.text
    return {name: int(tokens) for name, tokens in found.items()}


def used(ledger, key):
    return {limit.name: limit.used for limit in ledger.status(key)}


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_streams_cut_at_random_bytes(ledger, serve, count):
    """By a reset or an orderly close, in the middle of an event or before the first: what was made is charged, not one token else."""
    rolls = random.Random(count)
    keys = ledger.issue_keys([f"k{number}" for number in range(count)], "talk")
    server = serve(10 * 10**6)
    gate = asyncio.Semaphore(16)

    async def one(number):
        most = None if number % 10 == 0 else int(EVENTS * PADDING * rolls.random() ** 2)
        async with gate:
            return await read(server, f"s{number}", keys[number].secret, most, reset=number % 2 == 1)

    async def every():
        return await asyncio.gather(*map(one, range(count)))

    received = asyncio.run(every())
    made = told(server, count)
    for number, (key, _) in enumerate(keys):
        tokens = made[f"s{number}"]
        assert used(ledger, key) == {"concurrency": 0, "calls": 1, "tokens": tokens}
        assert received[number] <= tokens
        assert number % 10 or received[number] == tokens == WHOLE
    assert sum(tokens < WHOLE for tokens in made.values()) > count // 4, "few were cut in the middle"


@pytest.mark.spread(2)
def test_a_server_that_is_killed(ledger, serve):
    """What its streams had spent stays charged; the rest of what they held, and their slots, are back at ``ttl``."""
    keys = ledger.issue_keys([f"k{number}" for number in range(4)], "talk")
    server = serve(TTL)

    async def every():
        all_read, left = asyncio.Event(), set(range(4))

        async def cut(number):
            left.discard(number)
            if not left:
                server.process.kill()
                all_read.set()
            await all_read.wait()

        return await asyncio.gather(
            *(
                read(server, f"s{number}", keys[number].secret, 8 * PADDING, cut=lambda n=number: cut(n))
                for number in range(4)
            )
        )

    received = asyncio.run(every())
    server.process.wait(PATIENCE)
    spent = [sum(held.spent.get("tokens", 0) for held in ledger.list_reservations(key)) for key, _ in keys]
    assert [used(ledger, key)["concurrency"] for key, _ in keys] == [1] * 4
    deadline = time.monotonic() + PATIENCE
    for number, (key, secret) in enumerate(keys):
        while ledger.list_reservations(key):
            assert time.monotonic() < deadline
        found = used(ledger, key)
        assert (found["concurrency"], found["calls"]) == (0, 1)
        assert received[number] <= found["tokens"] == spent[number] < WHOLE
        assert ledger.peek(secret)
