"""Connections of the PostgreSQL store: its own few or a pool of the caller's, and waiting on one until a deadline."""

from __future__ import annotations

import asyncio
import os
import select
import threading
from collections import deque
from collections.abc import Generator
from math import ceil
from typing import Any

import psycopg
from psycopg_pool import PoolTimeout, TooManyRequests

from ..clock import monotonic
from ..errors import StoreBusy, StoreUnavailable
from ._postgres_wire import READ, WRITE, idle
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


def checked(connection: Any) -> Any:
    """A connection whose texts are UTF-8, as the store writes them."""
    encoding = connection.pgconn.parameter_status(b"client_encoding")
    if encoding != b"UTF8":
        said = (encoding or b"unknown").decode()
        raise StoreUnavailable(f"the connection's client_encoding is {said}, the store needs UTF8; {NOTHING}")
    return connection


def follow(connection: Any, steps: Generator[int, int, bytes], deadline: float, timeout: float) -> bytes:
    """Drive an exchange until its deadline."""
    poll = select.poll()
    fd = connection.pgconn.socket
    try:
        events = next(steps)
        poll.register(fd, events)
        while True:
            ready = poll.poll(max(0, (deadline - monotonic()) * 1000))
            if not ready:
                raise late(timeout)
            wanted = steps.send(_heard(ready[0][1]))
            if wanted != events:
                events = wanted
                poll.modify(fd, events)
    except StopIteration as stop:
        return bytes(stop.value)


def _heard(event: int) -> int:
    """Hang-ups and errors are read, so that the driver finds them."""
    return event & WRITE | (READ if event & ~WRITE else 0)


async def follow_async(connection: Any, steps: Generator[int, int, bytes], deadline: float, patience: float) -> bytes:
    """Drive an exchange on the running loop until its deadline; no thread waits."""
    loop = asyncio.get_running_loop()
    fd = connection.pgconn.socket
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
        self._conninfo, self._timeout = conninfo, timeout
        self._free = threading.BoundedSemaphore(most)
        self._idle: deque[Any] = deque()
        self._process = os.getpid()

    def _take_idle(self) -> Any:
        if self._process != os.getpid():
            self._idle.clear()  # they are the parent's, which goes on using them
            self._process = os.getpid()
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            if idle(connection):
                return connection
            connection.close()
        return None

    def take(self, deadline: float) -> Any:
        if not self._free.acquire(timeout=max(0, deadline - monotonic())):
            raise TimeoutError
        try:
            connection = self._take_idle()
            if connection is None:
                seconds = max(1, ceil(self._timeout))
                connection = psycopg.connect(
                    self._conninfo, autocommit=True, client_encoding="utf8", connect_timeout=seconds
                )
        except BaseException:
            self._free.release()
            raise
        return connection

    def give(self, connection: Any) -> None:
        if not connection.closed:
            self._idle.append(connection)
        self._free.release()

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


class AsyncConnections:
    """``Connections`` of asyncio."""

    def __init__(self, conninfo: str, timeout: float, most: int) -> None:
        self._conninfo, self._timeout = conninfo, timeout
        self._free = asyncio.BoundedSemaphore(most)
        self._idle: deque[Any] = deque()

    async def take(self, deadline: float) -> Any:
        if self._free.locked():
            await asyncio.wait_for(self._free.acquire(), max(0, deadline - monotonic()))
        else:
            await self._free.acquire()
        try:
            while self._idle:
                connection = self._idle.pop()
                if idle(connection):
                    return connection
                connection.pgconn.finish()
            seconds = max(1, ceil(self._timeout))
            return await psycopg.AsyncConnection.connect(
                self._conninfo, autocommit=True, client_encoding="utf8", connect_timeout=seconds
            )
        except BaseException:
            self._free.release()
            raise

    async def give(self, connection: Any) -> None:
        if not connection.closed:
            self._idle.append(connection)
        self._free.release()

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().close()


class Borrowed:
    """A pool of the caller's: ``psycopg_pool.ConnectionPool`` or what behaves like one."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def take(self, deadline: float) -> Any:
        return self._pool.getconn(timeout=max(0.001, deadline - monotonic()))

    def give(self, connection: Any) -> None:
        self._pool.putconn(connection)

    def close(self) -> None:
        """The pool is the caller's."""


class AsyncBorrowed:
    """``Borrowed`` of asyncio."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    async def take(self, deadline: float) -> Any:
        return await self._pool.getconn(timeout=max(0.001, deadline - monotonic()))

    async def give(self, connection: Any) -> None:
        await self._pool.putconn(connection)

    async def close(self) -> None:
        """The pool is the caller's."""
