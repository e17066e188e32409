"""Connections of the PostgreSQL store: its own few or a pool of the caller's, and waiting on one until a deadline."""

from __future__ import annotations

import asyncio
import os
import select
import threading
from collections import deque
from collections.abc import Generator
from contextlib import suppress
from math import ceil
from typing import Any

import psycopg
from psycopg import pq
from psycopg_pool import PoolTimeout, TooManyRequests

from ..clock import monotonic
from ..errors import StoreBusy, StoreUnavailable
from ._postgres_wire import READ, WRITE
from ._remote_trips import NOTHING, UNKNOWN

_FULL = (PoolTimeout, TooManyRequests)


def not_connected(error: Exception) -> Exception:
    """Why there is no connection to send on; nothing was sent."""
    if isinstance(error, (*_FULL, TimeoutError)):
        return StoreBusy(f"no connection to the server is free; {NOTHING}")
    text = " ".join(str(error).split())
    return StoreUnavailable(f"{type(error).__name__}: {text}; {NOTHING}")


def lost(error: Exception) -> StoreUnavailable:
    """A connection that broke once something was sent."""
    text = " ".join(str(error).split())
    return StoreUnavailable(f"{text}; {UNKNOWN}")


def late(timeout: float) -> StoreUnavailable:
    return StoreUnavailable(f"the server did not answer within {timeout} s; {UNKNOWN}")


class Link:
    """A connection, and what waiting on it needs."""

    __slots__ = ("connection", "fd", "pgconn", "poll")

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.pgconn = connection.pgconn
        self.fd = self.pgconn.socket
        self.poll = select.poll()
        self.poll.register(self.fd, READ)

    def good(self) -> bool:
        """Whether an idle connection can be used: one that has anything to read was ended, or is about to be."""
        pgconn = self.pgconn
        ready = pgconn.status == pq.ConnStatus.OK and pgconn.transaction_status == pq.TransactionStatus.IDLE
        return ready and not self.poll.poll(0)

    def done(self) -> bool:
        """Whether the server is done with a call that failed, so that the connection is good for another."""
        return bool(self.pgconn.transaction_status == pq.TransactionStatus.IDLE)

    def end(self) -> None:
        """Hang up at once, whatever is under way."""
        self.pgconn.finish()


def checked(link: Link) -> Link:
    """A connection whose texts are UTF-8, as the store writes them."""
    encoding = link.pgconn.parameter_status(b"client_encoding")
    if encoding != b"UTF8":
        said = (encoding or b"unknown").decode()
        raise StoreUnavailable(f"the connection's client_encoding is {said}, the store needs UTF8; {NOTHING}")
    return link


def follow(link: Link, steps: Generator[int, int, bytes], deadline: float, timeout: float) -> bytes:
    """Drive an exchange until its deadline."""
    poll = link.poll
    waits_for = READ
    try:
        events = next(steps)
        while True:
            if events != waits_for:
                poll.modify(link.fd, events)
                waits_for = events
            ready = poll.poll(max(0, (deadline - monotonic()) * 1000))
            if not ready:
                raise late(timeout)
            events = steps.send(_heard(ready[0][1]))
    except StopIteration as stop:
        return bytes(stop.value)


def _heard(event: int) -> int:
    """Hang-ups and errors are read, so that the driver finds them."""
    return event & WRITE | (READ if event & ~WRITE else 0)


async def follow_async(link: Link, steps: Generator[int, int, bytes], deadline: float, patience: float) -> bytes:
    """Drive an exchange on the running loop until its deadline; no thread waits."""
    loop = asyncio.get_running_loop()
    fd = link.fd
    try:
        events = next(steps)
        while True:
            ready = loop.create_future()
            if events & READ:
                loop.add_reader(fd, _settle, ready, READ)
            if events & WRITE:
                loop.add_writer(fd, _settle, ready, WRITE)
            alarm = loop.call_later(max(0, deadline - monotonic()), _settle, ready, 0)
            try:
                event = await ready
            finally:
                alarm.cancel()
                if events & READ:
                    loop.remove_reader(fd)
                if events & WRITE:
                    loop.remove_writer(fd)
            if not event:
                raise late(patience)
            events = steps.send(event)
    except StopIteration as stop:
        return bytes(stop.value)


def _settle(ready: asyncio.Future[int], event: int) -> None:
    if not ready.done():
        ready.set_result(event)


class Connections:
    """At most ``most`` connections of the store's own; the one that was used last is used next."""

    def __init__(self, conninfo: str, timeout: float, most: int) -> None:
        self._conninfo, self._timeout, self._most = conninfo, timeout, most
        self._idle: deque[Link] = deque()
        self._process = os.getpid()
        self._begin()

    def _begin(self) -> None:
        self._idle.clear()
        self._open = self._waiting = 0
        self._freed = threading.Condition()

    def take(self, deadline: float) -> Link:
        if self._process != os.getpid():
            self._begin()  # what is idle is the parent's, which goes on using it
            self._process = os.getpid()
        while True:
            try:
                link = self._idle.pop()
            except IndexError:
                break
            if link.good():
                return link
            link.end()
            self._closed()
        return self._wait(deadline) or self._connect()

    def _wait(self, deadline: float) -> Link | None:
        """One that is given back, or None where a new one may be opened."""
        with self._freed:
            self._waiting += 1
            try:
                while True:
                    with suppress(IndexError):
                        return self._idle.pop()
                    if self._open < self._most:
                        self._open += 1
                        return None
                    if not self._freed.wait(max(0, deadline - monotonic())):
                        raise TimeoutError
            finally:
                self._waiting -= 1

    def _connect(self) -> Link:
        try:
            seconds = max(1, ceil(self._timeout))
            return Link(
                psycopg.connect(self._conninfo, autocommit=True, client_encoding="utf8", connect_timeout=seconds)
            )
        except BaseException:
            self._closed()
            raise

    def _closed(self) -> None:
        with self._freed:
            self._open -= 1
            self._freed.notify()

    def give(self, link: Link) -> None:
        if link.connection.closed:
            self._closed()
            return
        self._idle.append(link)
        if self._waiting:
            with self._freed:
                self._freed.notify()

    def close(self) -> None:
        while self._idle:
            self._idle.pop().connection.close()
            self._closed()


class AsyncConnections:
    """``Connections`` of asyncio."""

    def __init__(self, conninfo: str, timeout: float, most: int) -> None:
        self._conninfo, self._timeout = conninfo, timeout
        self._free = asyncio.BoundedSemaphore(most)
        self._idle: deque[Link] = deque()

    async def take(self, deadline: float) -> Link:
        async with asyncio.timeout(max(0, deadline - monotonic())):
            await self._free.acquire()
        try:
            while self._idle:
                link = self._idle.pop()
                if link.good():
                    return link
                link.end()
            seconds = max(1, ceil(self._timeout))
            return Link(
                await psycopg.AsyncConnection.connect(
                    self._conninfo, autocommit=True, client_encoding="utf8", connect_timeout=seconds
                )
            )
        except BaseException:
            self._free.release()
            raise

    async def give(self, link: Link) -> None:
        if not link.connection.closed:
            self._idle.append(link)
        self._free.release()

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().connection.close()


class Borrowed:
    """A pool of the caller's: ``psycopg_pool.ConnectionPool`` or what behaves like one."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def take(self, deadline: float) -> Link:
        return Link(self._pool.getconn(timeout=max(0.001, deadline - monotonic())))

    def give(self, link: Link) -> None:
        self._pool.putconn(link.connection)

    def close(self) -> None:
        """The pool is the caller's."""


class AsyncBorrowed:
    """``Borrowed`` of asyncio."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    async def take(self, deadline: float) -> Link:
        return Link(await self._pool.getconn(timeout=max(0.001, deadline - monotonic())))

    async def give(self, link: Link) -> None:
        await asyncio.shield(self._pool.putconn(link.connection))

    async def close(self) -> None:
        """The pool is the caller's."""
