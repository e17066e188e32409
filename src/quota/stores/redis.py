"""Many machines, fast: Redis or Valkey, one script call per decision. Exact on one primary, not across failover.

Every key of a ledger begins with ``{namespace}``, one hash slot of a Cluster. ``stamps`` tells whether a copy of a
directory entry is fresh, ``secrets``, ``keys``, ``accounts`` and ``plans`` are the directory, ``use:`` the records,
``req:`` the remembered requests. A record is a hash: the encoded record, and beside it what plain charges move.
"""

from __future__ import annotations

import asyncio
from typing import Any

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.exceptions import AskError, MovedError, NoScriptError, RedisClusterException, RedisError, ResponseError
from redis.retry import Retry

from ..errors import InvalidValue
from ..store import check_url, join_url, split_url
from ._redis_steps import RedisSteps
from ._redis_wire import Call, failure
from ._remote_trips import awaited, own_options, synchronous


def _driver_options(timeout: float, retry: Any) -> dict[str, Any]:
    # A driver that sends a script again after a lost reply would charge twice.
    return {"retry": retry, "socket_timeout": timeout, "socket_connect_timeout": timeout}


class RedisStore(RedisSteps):
    """A ledger on Redis (7 or later) or Valkey, shared by any number of processes and machines.

    ``client``: your own ``redis.Redis`` or ``redis.RedisCluster``; its pool is used, its retries are not, since a
    charge sent again would count twice. Or ``url``. ``namespace``: begins every key, so that ledgers share a server.
    ``timeout``: seconds that a call waits for the server (with a client of yours: its own socket timeout) and for its
    turn under contention. ``check_clock``: whether to compare each call's instant with the server's, within
    ``max_skew``; by default when the ledger reads the system's clock. Further options as in every store.

    Exact on one primary. A failover may lose the last charges that the replica had not seen.
    """

    def __init__(
        self,
        client: Any = None,
        *,
        url: str | None = None,
        namespace: str = "quota",
        timeout: float = 5.0,
        check_clock: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(namespace, timeout, check_clock, options)
        self._owned = client is None
        self._closes = 0
        if client is None:
            retry = Retry(NoBackoff(), 0)
            client = redis.Redis.from_url(_driver_url(url), **_driver_options(timeout, retry))
        self.client = client

    def _pool(self) -> Any:
        nodes = getattr(self.client, "get_node_from_key", None)
        if nodes is None:
            return self.client.connection_pool
        node = nodes(self._stamps)
        return (node.redis_connection or self.client.get_redis_connection(node)).connection_pool

    def _send(self, call: Call) -> Any:
        try:
            return self._exchange(call, by_text=False)
        except NoScriptError:
            return self._send_again(call, by_text=True)
        except (MovedError, AskError) as error:
            if not hasattr(self.client, "nodes_manager"):
                raise failure(error, sent=True) from error
            self.client.nodes_manager.initialize()
            return self._send_again(call, by_text=False)
        except ResponseError as error:
            raise failure(error, sent=True) from error

    def _send_again(self, call: Call, *, by_text: bool) -> Any:
        """The second and last time, after an answer which says that nothing ran."""
        try:
            return self._exchange(call, by_text=by_text)
        except NoScriptError:
            return self._exchange(call, by_text=True)
        except ResponseError as error:
            raise failure(error, sent=True) from error

    def _exchange(self, call: Call, *, by_text: bool) -> Any:
        sent, closes = False, self._closes
        try:
            pool = self._pool()
            connection = pool.get_connection()
            try:
                sent = True
                connection.send_packed_command([call.packed(by_text)])
                return connection.read_response(disable_decoding=True)
            except ResponseError:
                raise
            except BaseException:
                connection.disconnect()
                raise
            finally:
                pool.release(connection)
                if self._closes != closes:
                    pool.disconnect(inuse_connections=False)
        except ResponseError:
            raise
        except (RedisError, RedisClusterException, OSError) as error:
            raise failure(error, sent) from error

    apply = synchronous(RedisSteps._apply)
    put_plan = synchronous(RedisSteps._put_plan)
    drop_plan = synchronous(RedisSteps._drop_plan)
    get_plan = synchronous(RedisSteps._get_plan)
    list_plans = synchronous(RedisSteps._list_plans)
    add_key = synchronous(RedisSteps._add_key)
    change_key = synchronous(RedisSteps._change_key)
    drop_key = synchronous(RedisSteps._drop_key)
    get_key = synchronous(RedisSteps._get_key)
    list_keys = synchronous(RedisSteps._list_keys)
    plans_of = synchronous(RedisSteps._plans_of)
    associate = synchronous(RedisSteps._associate)
    dissociate = synchronous(RedisSteps._dissociate)

    def close(self) -> None:
        """Close the connections that this store opened, each once its call is done; a client of yours stays open."""
        if self._owned:
            self._closes += 1
            # Those in use are their calls': closed under a thread that uses it, the driver fails in ways of its own.
            self.client.connection_pool.disconnect(inuse_connections=False)


class _NodePool:
    """The connections that an asynchronous Cluster client keeps to one of its nodes, as a pool."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self._give_back = getattr(node, "release", node._free.append)

    async def get_connection(self) -> Any:
        connection = self._node.acquire_connection()
        dirty = getattr(connection, "can_read", None) or connection.can_read_destructive  # before redis-py 8
        try:
            await connection.connect()
            if await dirty():
                await connection.disconnect()
                await connection.connect()
        except BaseException:
            self._give_back(connection)
            raise
        return connection

    async def release(self, connection: Any) -> None:
        self._give_back(connection)


class AsyncRedisStore(RedisSteps):
    """``RedisStore`` over ``redis.asyncio``, for ``AsyncLedger``: the same steps, awaited; no threads.

    Cancelling a call leaves it done or not done, never half done.
    """

    blocking = False
    _lock = asyncio.Lock

    def __init__(
        self,
        client: Any = None,
        *,
        url: str | None = None,
        namespace: str = "quota",
        timeout: float = 5.0,
        check_clock: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(namespace, timeout, check_clock, options)
        self._owned = client is None
        self._closes = 0
        if client is None:
            retry = redis.asyncio.retry.Retry(NoBackoff(), 0)
            client = redis.asyncio.Redis.from_url(_driver_url(url), **_driver_options(timeout, retry))
        self.client = client

    async def _pool(self) -> Any:
        if not hasattr(self.client, "get_node_from_key"):
            return self.client.connection_pool
        await self.client.initialize()
        return _NodePool(self.client.get_node_from_key(self._stamps))

    async def _send(self, call: Call) -> Any:
        try:
            return await self._exchange(call, by_text=False)
        except NoScriptError:
            return await self._send_again(call, by_text=True)
        except (MovedError, AskError) as error:
            if not hasattr(self.client, "nodes_manager"):
                raise failure(error, sent=True) from error
            await self.client.nodes_manager.initialize()
            return await self._send_again(call, by_text=False)
        except ResponseError as error:
            raise failure(error, sent=True) from error

    async def _send_again(self, call: Call, *, by_text: bool) -> Any:
        try:
            return await self._exchange(call, by_text=by_text)
        except NoScriptError:
            return await self._exchange(call, by_text=True)
        except ResponseError as error:
            raise failure(error, sent=True) from error

    async def _exchange(self, call: Call, *, by_text: bool) -> Any:
        sent, closes = False, self._closes
        try:
            pool = await self._pool()
            connection = await pool.get_connection()
            try:
                sent = True
                await connection.send_packed_command([call.packed(by_text)])
                return await connection.read_response(disable_decoding=True)
            except ResponseError:
                raise
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
            finally:
                if self._closes != closes:
                    await connection.disconnect(nowait=True)
                await pool.release(connection)
        except ResponseError:
            raise
        except (RedisError, RedisClusterException, OSError) as error:
            raise failure(error, sent) from error

    apply = awaited(RedisSteps._apply)
    put_plan = awaited(RedisSteps._put_plan)
    drop_plan = awaited(RedisSteps._drop_plan)
    get_plan = awaited(RedisSteps._get_plan)
    list_plans = awaited(RedisSteps._list_plans)
    add_key = awaited(RedisSteps._add_key)
    change_key = awaited(RedisSteps._change_key)
    drop_key = awaited(RedisSteps._drop_key)
    get_key = awaited(RedisSteps._get_key)
    list_keys = awaited(RedisSteps._list_keys)
    plans_of = awaited(RedisSteps._plans_of)
    associate = awaited(RedisSteps._associate)
    dissociate = awaited(RedisSteps._dissociate)

    async def close(self) -> None:
        """Close the connections that this store opened, each once its call is done; a client of yours stays open."""
        if self._owned:
            self._closes += 1
            pool = self.client.connection_pool
            # In one step: the pool's own way waits in between, while others take what is being closed.
            for connection in list(getattr(pool, "_available_connections", ())):
                await connection.disconnect(nowait=True)
            await pool.disconnect(inuse_connections=False)


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
