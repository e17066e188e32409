"""Connections of the PostgreSQL store: its own few, and waiting on one until a deadline."""

from __future__ import annotations

import asyncio
import os
import re
import select
import threading
from collections import deque
from collections.abc import Generator
from contextlib import suppress
from functools import partial
from math import ceil
from typing import Any

import psycopg
from psycopg import pq

from ...clock import monotonic
from ...errors import StoreUnavailable
from ...process.home import Home
from ...process.lines import Line
from ..server.flow import NOTHING, UNKNOWN, none_came
from ..server.loops import Turn, Turns, heeded
from .wire import READ, WRITE

_UTF8 = {b"utf8", b"unicode"}
"""All that PostgreSQL takes for its UTF8; it looks at letters and digits alone, in any case."""


def _session(timeout: float) -> dict[str, Any]:
    return {"autocommit": True, "client_encoding": "UTF8", "connect_timeout": max(1, ceil(timeout))}


def not_connected(error: Exception) -> Exception:
    """Return why there is no connection to send on; nothing was sent."""
    text = " ".join(str(error).split())
    return StoreUnavailable(f"{type(error).__name__}: {text}; {NOTHING}")


def lost(error: Exception) -> StoreUnavailable:
    """A connection that broke once something was sent."""
    text = " ".join(str(error).split())
    return StoreUnavailable(f"{text}; {UNKNOWN}")


def late(timeout: float) -> StoreUnavailable:
    """A server that said nothing within the timeout."""
    return StoreUnavailable(f"the server did not answer within {timeout} s; {UNKNOWN}")


class Select:
    """``select.poll`` of one file, where there is none: eventlet takes it away, as it would block all green threads."""

    def register(self, fd: int, events: int) -> None:
        self._fd, self._events = fd, events

    modify = register

    def poll(self, milliseconds: float) -> list[tuple[int, int]]:
        """The events that came, if any."""
        mine = [self._fd]
        wanted = mine if self._events & READ else [], mine if self._events & WRITE else []
        readable, writable, _ = select.select(*wanted, [], milliseconds / 1000)
        event = (READ if readable else 0) | (WRITE if writable else 0)
        return [(self._fd, event)] if event else []


class Link:
    """A connection, and what waiting on it needs. ``turn``: whose it is."""

    __slots__ = ("age", "connection", "fd", "pgconn", "pid", "poll", "turn")

    def __init__(self, connection: Any, age: int = 0) -> None:
        self.connection = connection
        self.age = age
        self.pid = os.getpid()
        self.pgconn = connection.pgconn
        self.fd = self.pgconn.socket
        self.turn: Turn | None = None
        self.poll: Any = select.poll() if hasattr(select, "poll") else Select()
        self.poll.register(self.fd, READ)

    def good(self) -> bool:
        """Tell whether an idle connection can be used: one that has anything to read was ended, or is about to be."""
        pgconn = self.pgconn
        ready = pgconn.status == pq.ConnStatus.OK and pgconn.transaction_status == pq.TransactionStatus.IDLE
        return ready and not self.poll.poll(0)

    def done(self) -> bool:
        """Tell whether the server is done with a call, failed or not, so that the connection is good for another."""
        return bool(self.pgconn.transaction_status == pq.TransactionStatus.IDLE)

    def end(self) -> None:
        """Hang up at once, whatever is under way; a forked child would do so for its parent, which goes on."""
        if self.pid == os.getpid():
            self.pgconn.finish()


def checked(link: Link) -> Link:
    """A connection whose texts are UTF-8, as the store writes them."""
    encoding = link.pgconn.parameter_status(b"client_encoding")
    # A pooler may tell the client's own spelling of it.
    if encoding != b"UTF8" and re.sub(rb"[^a-z0-9]", b"", (encoding or b"").lower()) not in _UTF8:
        said = (encoding or b"unknown").decode()
        raise StoreUnavailable(
            f"the connection's client_encoding is {said}, the store needs UTF8; {NOTHING}", reached=True
        )
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


class Room:
    """Room for one connection, and which call uses it. ``ends``: that it is closed once that call is done."""

    __slots__ = ("ends", "link", "user")

    def __init__(self) -> None:
        self.link: Link | None = None
        self.user: object = None
        self.ends = False


class Connections:
    """At most ``most`` connections of the store's own; who waits for one is served in order.

    Of those that are open, the first that is free is used next. An interrupt may end a call at any instant, and a
    signal handler call in the middle of another call of its thread. So who uses a connection is noted in a single step,
    and what a call had is found by that, whatever came between.
    """

    def __init__(self, conninfo: str, timeout: float, most: int) -> None:
        self._conninfo, self._timeout, self._most = conninfo, timeout, most
        self._begin()
        self._home = Home()

    def _begin(self) -> None:
        """Begin anew; in a forked child too, where what is open is the parent's, which goes on using it."""
        self._rooms = [Room() for _ in range(self._most)]
        self._broken = False  # whether the last connection was of no use
        self._lock = threading.RLock()
        self._line = Line()

    def take(self, user: object, deadline: float) -> Link:
        """A connection for a call, which gives back what it has under the same name, even if this fails."""
        self._home.check(self._begin)
        room = self._line.take(partial(self._choose, user), deadline)
        if room is None:
            raise none_came(self._broken)
        link = room.link
        if link is not None and not link.good():
            link.end()
            link = None
        if link is None:
            link = room.link = self._connect()
        return link

    def _choose(self, user: object) -> Room | None:
        """Room that no call uses, with an open connection where there is one."""
        with self._lock:
            free = None
            for room in self._rooms:
                if room.user is None and (room.link is not None or free is None):
                    free = room
                    if room.link is not None:
                        break
            if free is not None and free.user is None:
                free.user = user
                return free
        return None

    def _connect(self) -> Link:
        return Link(psycopg.connect(self._conninfo, **_session(self._timeout)))

    def give(self, user: object) -> None:
        """Give back what a call has, if anything; twice is fine."""
        with self._lock:
            for room in self._rooms:
                if room.user is user:
                    self._broken = room.link is None or not room.link.done()
                    if room.link is not None and (room.ends or self._broken):
                        room.link.end()
                        room.link = None
                    room.ends = False
                    room.user = None
        self._line.wake()

    def close(self) -> None:
        self._home.check(self._begin)
        with self._lock:
            for room in self._rooms:
                if room.user is None:
                    link, room.link = room.link, None
                    if link is not None:
                        link.end()
                else:
                    room.ends = True


class AsyncConnections:
    """``Connections`` of asyncio, for tasks of any event loops: an idle connection is no loop's own."""

    def __init__(self, conninfo: str, timeout: float, most: int) -> None:
        self._conninfo, self._timeout, self._most = conninfo, timeout, most
        self._age = 0
        self._begin()
        self._home = Home()

    def _begin(self) -> None:
        self._turns = Turns(self._most)
        self._idle: deque[Link] = deque()
        self._broken = False

    async def take(self, deadline: float) -> Link:
        self._home.check(self._begin)
        turns = self._turns
        turn = await turns.take(max(0, deadline - monotonic()))
        if turn is None:
            raise none_came(self._broken)
        try:
            link = self._sound() or await self._connect()
        except BaseException:
            self._broken = True
            turns.give(turn)
            raise
        link.turn = turn
        return link

    def _sound(self) -> Link | None:
        """An idle connection that can be used, if there is one."""
        with suppress(IndexError):  # another thread's loop was faster
            while self._idle:
                link = self._idle.pop()
                if link.good():
                    return link
                link.end()
        return None

    async def _connect(self) -> Link:
        age = self._age
        opening = psycopg.AsyncConnection.connect(self._conninfo, **_session(self._timeout))
        connection, told_to_end = await heeded(opening)
        link = Link(connection, age)
        if told_to_end:
            link.end()
            raise asyncio.CancelledError
        return link

    async def give(self, link: Link) -> None:
        self._broken = not link.done()
        if link.age != self._age or not self._home.here():
            link.end()  # closed since
        elif not link.connection.closed:
            self._idle.append(link)
        if link.turn is not None:
            self._turns.give(link.turn)

    async def close(self) -> None:
        self._home.check(self._begin)
        self._age += 1
        with suppress(IndexError):
            while self._idle:
                self._idle.pop().end()
