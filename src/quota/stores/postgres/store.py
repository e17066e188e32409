"""Many machines, durable: PostgreSQL by psycopg 3, one call of a server-side function per decision. Exact.

A namespace is a schema: ``directory`` has the keys, plans and accounts and the stamps that tell whether a copy of one
is fresh, ``records`` what plain charges move, ``bodies`` the encoded records, ``remembered`` the remembered requests.
The functions beside them are the store's, made and brought up to date with the tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import parse_qsl, quote, urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict

from ...clock import monotonic
from ...errors import InvalidValue
from ..server.flow import Awaited, Synchronous, own_options
from ..urls import check_url, shown_url
from .lent import AsyncBorrowed, Borrowed
from .pool import AsyncConnections, Connections, checked, follow, follow_async, lost, not_connected
from .requests import PostgresSteps, read_reply
from .wire import Again, Call, exchange

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool, ConnectionPool  # noqa: F401 -- named in texts below

OwnPool = TypeVar("OwnPool")
_DRIVER = (psycopg.Error, OSError)


def _check_most(most: object) -> int:
    if type(most) is not int or not 1 <= most <= 10_000:
        raise InvalidValue("connections", most, "a whole number of connections, at least 1")
    return most


def _check_url(conninfo: str | None, url: str | None) -> str:
    if conninfo is not None and url is not None:
        raise InvalidValue("url", url, "either a connection string or a url")
    text = conninfo if conninfo is not None else url if url is not None else ""
    try:
        conninfo_to_dict(text)
    except (psycopg.ProgrammingError, UnicodeDecodeError):
        # libpq's own words, or the bytes that are no text, would show the part of a password that is not understood.
        accepted = "what libpq accepts: options that it has, and blanks and '%' in a URL written %20 and %25"
        raise InvalidValue("store", shown_url(text), accepted) from None
    return check_url(text, lone=True)


class _Connected(PostgresSteps, Generic[OwnPool]):
    """A PostgreSQL store's connections: its own, or of a pool of the caller's."""

    _own: Any
    _borrowed: Any

    def __init__(
        self,
        conninfo_or_pool: OwnPool | str | None = None,
        *,
        url: str | None = None,
        namespace: str = "quota",
        timeout: float = 5.0,
        connections: int = 10,
        check_clock: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(namespace, timeout, check_clock, options)
        most = _check_most(connections)
        given: Any = conninfo_or_pool
        own = given is None or isinstance(given, str)
        self._connections: Any = self._own(_check_url(given, url), timeout, most) if own else self._borrowed(given)


class PostgresStore(Synchronous, _Connected["ConnectionPool[Any]"]):
    """A ledger on PostgreSQL (13 or later), shared by any number of processes and machines.

    ``conninfo_or_pool``: a connection string or URL of libpq's, or your own ``psycopg_pool.ConnectionPool``, which
    stays yours. ``namespace``: the schema, so that ledgers share a database. ``timeout``: seconds that a call waits for
    a connection, for rows that others write and for the answer. ``connections``: how many the store opens at most, one
    for each call at a time. ``check_clock``: whether to compare each call's instant with the server's, within
    ``max_skew``; by default when the ledger reads the system's clock. Further options as in every store.

    No state is kept in a session, so any pooler will do. What is acknowledged is as durable as the server's
    ``synchronous_commit`` makes it: by default it survives crashes, and across failover where standbys are synchronous.
    """

    _own = Connections
    _borrowed = Borrowed

    def _send(self, call: Call) -> Any:
        for _ in self._attempts():
            try:
                return read_reply(self._exchange(call))
            except Again:
                continue
        raise AssertionError  # pragma: no cover -- attempts end by raising

    def _exchange(self, call: Call) -> bytes:
        deadline = monotonic() + self.timeout
        connections, user = self._connections, object()
        try:
            try:
                link = connections.take(user, deadline)
            except _DRIVER as error:
                raise not_connected(error) from error
            try:
                return follow(checked(link), exchange(link.pgconn, call), deadline, self.timeout)
            except _DRIVER as error:
                raise lost(error) from error
        finally:
            try:
                connections.give(user)
            except BaseException:
                connections.give(user)  # an interrupt came in the middle of that
                raise

    def close(self) -> None:
        """Close the connections that this store opened; a pool of yours stays open."""
        self._connections.close()


class AsyncPostgresStore(Awaited, _Connected["AsyncConnectionPool[Any]"]):
    """``PostgresStore`` over asyncio, for ``AsyncLedger``: the same steps, awaited; no threads.

    ``conninfo_or_pool`` may be your own ``psycopg_pool.AsyncConnectionPool``. Cancelling a call leaves it done or not
    done, never half done; its connection is closed.
    """

    _own = AsyncConnections
    _borrowed = AsyncBorrowed

    async def _send(self, call: Call) -> Any:
        for _ in self._attempts():
            try:
                return read_reply(await self._exchange(call))
            except Again:
                continue
        raise AssertionError  # pragma: no cover -- attempts end by raising

    async def _exchange(self, call: Call) -> bytes:
        deadline = monotonic() + self.timeout
        try:
            link = await self._connections.take(deadline)
        except _DRIVER as error:
            raise not_connected(error) from error
        try:
            return await follow_async(checked(link), exchange(link.pgconn, call), deadline, self.timeout)
        except _DRIVER as error:
            raise lost(error) from error
        finally:
            if not link.done():
                link.end()
            await self._connections.give(link)

    async def close(self) -> None:
        """Close the connections that this store opened; a pool of yours stays open."""
        await self._connections.close()


def open_url(url: str, *, asynchronous: bool = False) -> PostgresStore | AsyncPostgresStore:
    """``postgresql://user@host:5432/database?namespace=quota&timeout=5&max_skew=300``.

    The store takes ``namespace``, ``timeout``, ``connections``, ``check_clock`` and the options of every store; the
    rest is libpq's.
    """
    base, _, query = url.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    own = own_options(options, "connections")
    rest = f"{base}?{urlencode(options, quote_via=quote)}" if options else base
    return (AsyncPostgresStore if asynchronous else PostgresStore)(url=rest, **own)
