"""Many machines, fast: Redis or Valkey, one script call per decision. Exact on one primary, not across failover.

Every key of a ledger begins with ``{namespace}``, one hash slot of a Cluster. ``stamps`` tells whether a copy of a
directory entry is fresh, ``secrets``, ``keys``, ``accounts`` and ``plans`` are the directory, ``use:`` the records,
``req:`` the remembered requests. A record is a hash: the encoded record, and beside it what plain charges move.
"""

from __future__ import annotations

import asyncio
from typing import Any, Generic, TypeVar

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError, ResponseError

from ...clock import pause
from ...errors import InvalidValue
from ..server.flow import Awaited, Synchronous, own_options
from ..urls import check_client, check_url, join_url, split_url
from .pools import AsyncPools, Pools
from .requests import RedisSteps
from .wire import ASKING, Address, Call, Resend, Route, Unreached, failed

Client = TypeVar("Client")


class _Connected(RedisSteps, Generic[Client]):
    """A Redis store's client and its pools."""

    _driver: Any
    _new_pools: Any

    def __init__(
        self,
        client: Client | None = None,
        *,
        url: str | None = None,
        namespace: str = "quota",
        timeout: float = 5.0,
        check_clock: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(namespace, timeout, check_clock, options)
        driver = self._driver
        self._owned = client is None
        self._closes = 0
        used: Any = client
        if used is None:
            # A driver that sends a script again after a lost reply would charge twice.
            retry = driver.retry.Retry(NoBackoff(), 0)
            waits = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
            used = driver.Redis.from_url(_driver_url(url), retry=retry, **waits)
        wanted = f"a client of {'redis-py' if driver is redis else driver.__name__}"
        check_client(used, "execute_command", wanted, awaited=driver is not redis)
        self.client = used
        self._route = Route(used) if hasattr(used, "nodes_manager") else None
        self._pools = self._new_pools(used)


class RedisStore(Synchronous, _Connected[redis.Redis | redis.RedisCluster]):
    """A ledger on Redis (7 or later) or Valkey, shared by any number of processes and machines.

    ``client``: your own ``redis.Redis`` or ``redis.RedisCluster``; its pool is used, its retries are not, since a
    charge sent again would count twice. Or ``url``. ``namespace``: begins every key, so that ledgers share a server.
    ``timeout``: seconds that a call waits for a free connection, in line, for the server (with a client of yours: its
    own socket timeout) and for its turn under contention. ``check_clock``: whether to compare each call's instant with
    the server's, within ``max_skew``; by default when the ledger reads the system's clock. Further options as in every
    store.

    Exact on one primary. A failover may lose the last charges that the replica had not seen.
    """

    _driver = redis
    _new_pools = Pools

    def _send(self, call: Call) -> Any:
        address = None if self._route is None else self._route.address()
        try:
            return self._exchange(call, address)
        except (ResponseError, Unreached) as error:
            return self._insist(call, error, address)

    def _insist(self, call: Call, error: Exception, address: Address | None) -> Any:
        """Send it again, after answers which say that nothing ran."""
        again = Resend(self.timeout)
        while True:
            pause(again.after(error, self._route, address))
            if self._route is not None:
                address = again.at or self._route.address()
            try:
                return self._exchange(call, address, again)
            except (ResponseError, Unreached) as found:
                error = found

    def _exchange(self, call: Call, address: Address | None, again: Resend | None = None) -> Any:
        sent, closes = False, self._closes
        try:
            pool = self._pools.get(address)
            connection = pool.take(self.timeout)
            try:
                if again is not None and again.at:
                    connection.send_packed_command([ASKING])
                    connection.read_response()
                sent = True
                connection.send_packed_command([call.packed(again is not None and again.by_text)])
                answer = connection.read_response(disable_decoding=True)
            except ResponseError:
                raise
            except BaseException:
                pool.broken = True
                connection.disconnect()
                raise
            else:
                pool.broken = False
                return answer
            finally:
                pool.give(connection)
                if self._closes != closes:
                    pool.pool.disconnect(inuse_connections=False)
        except ResponseError:
            raise
        except (RedisError, RedisClusterException, OSError) as error:
            raise failed(error, sent, self._route, address) from error

    def close(self) -> None:
        """Close the connections that this store opened, each once its call is done; a client of yours stays open."""
        if self._owned:
            self._closes += 1
        self._pools.close(own=self._owned)


class AsyncRedisStore(Awaited, _Connected[redis.asyncio.Redis | redis.asyncio.RedisCluster]):
    """``RedisStore`` over ``redis.asyncio``, for ``AsyncLedger``: the same steps, awaited; no threads.

    Cancelling a call leaves it done or not done, never half done.
    """

    _driver = redis.asyncio
    _new_pools = AsyncPools

    async def _send(self, call: Call) -> Any:
        address = None if self._route is None else self._route.address()
        try:
            return await self._exchange(call, address)
        except (ResponseError, Unreached) as error:
            return await self._insist(call, error, address)

    async def _insist(self, call: Call, error: Exception, address: Address | None) -> Any:
        again = Resend(self.timeout)
        while True:
            await asyncio.sleep(again.after(error, self._route, address))
            if self._route is not None:
                address = again.at or self._route.address()
            try:
                return await self._exchange(call, address, again)
            except (ResponseError, Unreached) as found:
                error = found

    async def _exchange(self, call: Call, address: Address | None, again: Resend | None = None) -> Any:
        sent, closes = False, self._closes
        try:
            pool = await self._pools.get(address)
            connection = await pool.take(self.timeout)
            try:
                if again is not None and again.at:
                    await connection.send_packed_command([ASKING])
                    await connection.read_response()
                sent = True
                await connection.send_packed_command([call.packed(again is not None and again.by_text)])
                answer = await connection.read_response(disable_decoding=True)
            except ResponseError:
                raise
            except BaseException:
                pool.broken = True
                await connection.disconnect(nowait=True)
                raise
            else:
                pool.broken = False
                return answer
            finally:
                if self._closes != closes:
                    await connection.disconnect(nowait=True)
                await pool.give(connection)
        except ResponseError:
            raise
        except (RedisError, RedisClusterException, OSError) as error:
            raise failed(error, sent, self._route, address) from error

    async def close(self) -> None:
        """Close the connections that this store opened, each once its call is done; a client of yours stays open."""
        self._closes += 1
        await self._pools.close()


def _driver_url(url: str | None) -> str:
    """A URL as redis-py has it, which knows no ``valkey://``."""
    scheme, separator, rest = check_url(url or "redis://localhost").partition("://")
    return _AS_REDIS.get(scheme.lower(), scheme) + separator + rest


_AS_REDIS = {"valkey": "redis", "valkeys": "rediss"}


def open_url(url: str, *, asynchronous: bool = False) -> RedisStore | AsyncRedisStore:
    """``redis://host:6379/0?namespace=quota&timeout=5&max_skew=300``; ``rediss`` and ``unix`` as redis-py has them.

    ``valkey`` and ``valkeys`` are ``redis`` and ``rediss`` by other names.

    The store takes ``namespace``, ``timeout``, ``check_clock`` and the options of every store; the rest is redis-py's.
    """
    parts, options = split_url(url)
    own = own_options(options)
    rest = join_url(parts, options)
    try:
        store = (AsyncRedisStore if asynchronous else RedisStore)(url=rest, **own)
        pool = store.client.connection_pool
        pool.connection_class(**pool.connection_kwargs)
    except (TypeError, ValueError) as error:
        if isinstance(error, InvalidValue):
            raise
        raise InvalidValue("store", ", ".join(options), f"options that redis-py has ({error})") from None
    return store
