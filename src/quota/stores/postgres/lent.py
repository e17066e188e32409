"""Pools of the caller's, as the PostgreSQL store's connections."""

from __future__ import annotations

import asyncio
from typing import Any

from psycopg import pq
from psycopg_pool import PoolTimeout, TooManyRequests
from psycopg_pool.base import BasePool

from ...clock import monotonic
from ...errors import StoreUnavailable
from ...process.home import Home
from ..server.flow import NOTHING, none_came
from ..server.loops import heeded
from ..urls import check_client
from .pool import Link


class Lent:
    """A pool of the caller's, used in the process that opened it: a fork of that has the very same connections.

    A pool says of a server that is away only that none of its connections is free.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._home: Home | None = None
        self._broken = False  # whether the last of its connections that came back was of no use any more
        self._troubles = self._count_troubles()
        self._note()

    def _count_troubles(self) -> int:
        """Count the connections that the pool could not open, or found closed."""
        told: dict[str, int] = getattr(self._pool, "get_stats", dict)()
        return told.get("connections_errors", 0) + told.get("connections_lost", 0)

    def _none_came(self) -> Exception:
        """Return what it means that the pool gave none in time: all are in use, or the server is away."""
        before, self._troubles = self._troubles, self._count_troubles()
        # One without a bound waits for nothing but the server.
        self._broken = self._broken or self._troubles > before or getattr(self._pool, "max_size", None) == 0
        return none_came(self._broken)

    def _note(self) -> None:
        """A pool may be opened after it was made; one of another make may know of forks itself."""
        if self._home is None and isinstance(self._pool, BasePool) and not self._pool.closed:
            self._home = Home()

    def _check(self) -> None:
        self._note()
        if self._home is not None and not self._home.here():
            raise StoreUnavailable(
                f"the pool was opened before this process was forked: open one in each process; {NOTHING}"
            )


class Borrowed(Lent):
    """A pool of the caller's: ``psycopg_pool.ConnectionPool`` or what behaves like one."""

    def __init__(self, pool: Any) -> None:
        check_client(pool, "getconn", "a psycopg_pool.ConnectionPool", awaited=False)
        super().__init__(pool)
        self._lent: dict[object, Any] = {}

    def take(self, user: object, deadline: float) -> Link:
        self._check()
        try:
            self._lent[user] = self._pool.getconn(timeout=max(0.001, deadline - monotonic()))
        except (PoolTimeout, TooManyRequests) as error:
            raise self._none_came() from error
        return Link(self._lent[user])

    def give(self, user: object) -> None:
        connection = self._lent.get(user)
        if connection is None:
            return
        self._broken = connection.pgconn.transaction_status != pq.TransactionStatus.IDLE
        if self._broken:
            connection.pgconn.finish()  # whatever is under way
        try:
            self._pool.putconn(connection)
        finally:
            self._lent.pop(user, None)

    def close(self) -> None:
        """The pool is the caller's."""


class AsyncBorrowed(Lent):
    """``Borrowed`` of asyncio."""

    def __init__(self, pool: Any) -> None:
        check_client(pool, "getconn", "a psycopg_pool.AsyncConnectionPool", awaited=True)
        super().__init__(pool)

    async def take(self, deadline: float) -> Link:
        self._check()
        try:
            connection, told_to_end = await heeded(self._pool.getconn(timeout=max(0.001, deadline - monotonic())))
        except (PoolTimeout, TooManyRequests) as error:
            raise self._none_came() from error
        link = Link(connection)
        if told_to_end:
            await self.give(link)
            raise asyncio.CancelledError
        return link

    async def give(self, link: Link) -> None:
        self._broken = not link.done()
        await asyncio.shield(self._pool.putconn(link.connection))

    async def close(self) -> None:
        """The pool is the caller's."""
