"""Connections of the PostgreSQL store: its own few or a pool of the caller's, and waiting on one until a deadline."""

from __future__ import annotations

import asyncio
import os
import select
import threading
import weakref
from collections import deque
from collections.abc import Generator
from math import ceil
from typing import Any

import psycopg
from psycopg import pq
from psycopg_pool import PoolTimeout, TooManyRequests

from ..clock import monotonic
from ..errors import StoreBusy, StoreUnavailable
from ..store import check_client
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

    __slots__ = ("age", "connection", "fd", "pgconn", "poll")

    def __init__(self, connection: Any, age: int = 0) -> None:
        self.connection = connection
        self.age = age
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
        """Whether the server is done with a call, failed or not, so that the connection is good for another."""
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


class Place:
    """Room for one connection, and which call uses it. ``ends``: that it is closed once that call is done."""

    __slots__ = ("ends", "link", "user")

    def __init__(self) -> None:
        self.link: Link | None = None
        self.user: object = None
        self.ends = False


class Connections:
    """At most ``most`` connections of the store's own; of those that are open, the first that is free is used next.

    An interrupt may end a call at any instant, and a signal handler call in the middle of another call of its thread.
    So who uses a connection is noted in a single step, and what a call had is found by that, whatever came between.
    """

    def __init__(self, conninfo: str, timeout: float, most: int) -> None:
        self._conninfo, self._timeout, self._most = conninfo, timeout, most
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        """Begin anew; in a forked child too, where what is open is the parent's, which goes on using it."""
        self._places = [Place() for _ in range(self._most)]
        # Python's own Condition may be interrupted as it enters, with its lock taken; the lock itself may not.
        self._lock = threading.RLock()
        self._freed = threading.Condition(self._lock)

    def take(self, user: object, deadline: float) -> Link:
        """A connection for a call, which gives back what it has under the same name, even if this fails."""
        place = self._choose(user, deadline)
        link = place.link
        if link is not None and not link.good():
            link.end()
            link = None
        if link is None:
            link = place.link = self._connect()
        return link

    def _choose(self, user: object, deadline: float) -> Place:
        late = False
        with self._lock:
            while True:
                room = None
                for place in self._places:
                    if place.user is None and (place.link is not None or room is None):
                        room = place
                        if place.link is not None:
                            break
                if room is not None and room.user is None:
                    room.user = user
                    return room
                if late:
                    raise TimeoutError
                # One may be given back as the wait ends.
                late = not self._freed.wait(max(0, deadline - monotonic()))

    def _connect(self) -> Link:
        seconds = max(1, ceil(self._timeout))
        return Link(psycopg.connect(self._conninfo, autocommit=True, client_encoding="utf8", connect_timeout=seconds))

    def give(self, user: object) -> None:
        """Give back what a call has, if anything; twice is fine."""
        with self._lock:
            for place in self._places:
                if place.user is user:
                    if place.link is not None and (place.ends or not place.link.done()):
                        place.link.end()
                        place.link = None
                    place.ends = False
                    place.user = None
            self._freed.notify()  # also for one who was told of a free place and did not come to take it

    def close(self) -> None:
        with self._lock:
            for place in self._places:
                if place.user is None:
                    link, place.link = place.link, None
                    if link is not None:
                        link.end()
                else:
                    place.ends = True


_all: weakref.WeakSet[Connections] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for connections in list(_all):
        connections._begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class AsyncConnections:
    """``Connections`` of asyncio."""

    def __init__(self, conninfo: str, timeout: float, most: int) -> None:
        self._conninfo, self._timeout = conninfo, timeout
        self._free = asyncio.BoundedSemaphore(most)
        self._idle: deque[Link] = deque()
        self._age = 0

    async def take(self, deadline: float) -> Link:
        async with asyncio.timeout(max(0, deadline - monotonic())):
            await self._free.acquire()
        try:
            while self._idle:
                link = self._idle.pop()
                if link.good():
                    return link
                link.end()
            seconds, age = max(1, ceil(self._timeout)), self._age
            connection = await psycopg.AsyncConnection.connect(
                self._conninfo, autocommit=True, client_encoding="utf8", connect_timeout=seconds
            )
            return Link(connection, age)
        except BaseException:
            self._free.release()
            raise

    async def give(self, link: Link) -> None:
        if link.age != self._age:
            link.end()  # closed since
        if not link.connection.closed:
            self._idle.append(link)
        self._free.release()

    async def close(self) -> None:
        self._age += 1
        while self._idle:
            await self._idle.pop().connection.close()


class Borrowed:
    """A pool of the caller's: ``psycopg_pool.ConnectionPool`` or what behaves like one."""

    def __init__(self, pool: Any) -> None:
        check_client(pool, "getconn", "a psycopg_pool.ConnectionPool", awaited=False)
        self._pool = pool
        self._lent: dict[object, Any] = {}

    def take(self, user: object, deadline: float) -> Link:
        self._lent[user] = self._pool.getconn(timeout=max(0.001, deadline - monotonic()))
        return Link(self._lent[user])

    def give(self, user: object) -> None:
        connection = self._lent.get(user)
        if connection is None:
            return
        if connection.pgconn.transaction_status != pq.TransactionStatus.IDLE:
            connection.pgconn.finish()  # whatever is under way
        try:
            self._pool.putconn(connection)
        finally:
            self._lent.pop(user, None)

    def close(self) -> None:
        """The pool is the caller's."""


class AsyncBorrowed:
    """``Borrowed`` of asyncio."""

    def __init__(self, pool: Any) -> None:
        check_client(pool, "getconn", "a psycopg_pool.AsyncConnectionPool", awaited=True)
        self._pool = pool

    async def take(self, deadline: float) -> Link:
        return Link(await self._pool.getconn(timeout=max(0.001, deadline - monotonic())))

    async def give(self, link: Link) -> None:
        await asyncio.shield(self._pool.putconn(link.connection))

    async def close(self) -> None:
        """The pool is the caller's."""
