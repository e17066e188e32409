"""Pools of the caller's, as the PostgreSQL store's connections."""

from __future__ import annotations

import asyncio
from typing import Any

from psycopg import pq
from psycopg_pool.base import BasePool

from ...clock import monotonic
from ...errors import StoreUnavailable
from ...process.home import Home
from ..server.flow import NOTHING
from ..server.loops import heeded
from ..urls import check_client
from .pool import Link


class Lent:
    """A pool of the caller's, used in the process that opened it: a fork of that has the very same connections."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._home: Home | None = None
        self._note()

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


class AsyncBorrowed(Lent):
    """``Borrowed`` of asyncio."""

    def __init__(self, pool: Any) -> None:
        check_client(pool, "getconn", "a psycopg_pool.AsyncConnectionPool", awaited=True)
        super().__init__(pool)

    async def take(self, deadline: float) -> Link:
        self._check()
        connection, told_to_end = await heeded(self._pool.getconn(timeout=max(0.001, deadline - monotonic())))
        link = Link(connection)
        if told_to_end:
            await self.give(link)
            raise asyncio.CancelledError
        return link

    async def give(self, link: Link) -> None:
        await asyncio.shield(self._pool.putconn(link.connection))

    async def close(self) -> None:
        """The pool is the caller's."""
