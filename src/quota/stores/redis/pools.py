"""Connections to Redis: pools of each process and event loop, each with a line for whoever finds none free."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from copy import copy
from typing import Any

import redis.asyncio

from ...clock import monotonic
from ...process.lines import AwaitedLine, Line
from ..server.flow import none_came
from .wire import Address

_OF_ONE_POOL = ("maint_notifications_pool_handler", "oss_cluster_maint_notifications_handler", "connection_pool")


def like(pool: Any, **changed: Any) -> Any:
    """A pool such as another one, without a connection yet; the other one itself where only its maker can make one."""
    options = {name: value for name, value in pool.connection_kwargs.items() if name not in _OF_ONE_POOL}
    options |= {"connection_class": pool.connection_class, "max_connections": pool.max_connections, **changed}
    options |= {name: getattr(pool, name) for name in ("timeout", "service_name", "is_master") if hasattr(pool, name)}
    sentinel = getattr(pool, "sentinel_manager", None)
    if sentinel is not None:
        options["sentinel_manager"] = fresh = copy(sentinel)
        fresh.sentinels = [type(one)(connection_pool=like(one.connection_pool)) for one in sentinel.sentinels]
    try:
        return type(pool)(**options)
    except TypeError:
        return pool


_FULL = "Too many connections"
"""All that a pool of redis-py 5 says in an error of no type of its own; later ones say it too."""


class FairPool:
    """A pool of redis-py's, whose own kinds refuse when none is free, or let others overtake: threads wait in line.

    Its owner may use it too, and is not in line. ``broken``: whether the last connection was of no use.
    """

    def __init__(self, pool: Any) -> None:
        self.pool, self.broken = pool, False
        self._line = Line()

    def _attempt(self) -> Any:
        """A connection, if one is free; a pool that blocks is not asked before it has one."""
        queue = getattr(self.pool, "pool", None)
        if queue is not None and queue.empty():
            return None
        try:
            return self.pool.get_connection()
        except BaseException as error:
            if str(error) == _FULL:
                return None
            self.broken = True
            raise

    def take(self, timeout: float) -> Any:
        """A connection, waited for behind those who asked before, for so many seconds."""
        found = self._line.take(self._attempt, monotonic() + timeout)
        if found is None:
            raise none_came(self.broken)
        return found

    def give(self, connection: Any) -> None:
        """Give a connection back."""
        self.pool.release(connection)
        self._line.wake()


class AsyncFairPool:
    """``FairPool`` of one event loop's tasks."""

    def __init__(self, pool: Any) -> None:
        self.pool, self.broken = pool, False
        self._line = AwaitedLine()

    async def _attempt(self) -> Any:
        if not self.pool.can_get_connection():
            return None
        try:
            return await self.pool.get_connection()
        except BaseException as error:
            if str(error) == _FULL:
                return None
            self.broken = True
            raise

    async def take(self, timeout: float) -> Any:  # noqa: ASYNC109 -- as the line has it, in order
        """A connection, waited for behind those who asked before, for so many seconds."""
        found = await self._line.take(self._attempt, monotonic() + timeout)
        if found is None:
            raise none_came(self.broken)
        return found

    async def give(self, connection: Any) -> None:
        """Give a connection back."""
        await self.pool.release(connection)
        self._line.wake()


class Pools:
    """The pools of a synchronous store: the client's own in the process that made it, others like them in a forked one.

    A process's number is compared, since not every fork tells Python; a pool whose lock a thread of the parent's held
    would never be free.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._pid = os.getpid()
        self._found: dict[tuple[int, Address | None], FairPool] = {}
        self._made: list[Any] = []

    def get(self, address: Address | None) -> FairPool:
        """The pool of a node; ``None``: of the only one."""
        number = os.getpid()
        found = self._found.get((number, address))
        if found is None:
            pool = self._pool(address, own=number == self._pid)
            found = self._found.setdefault((number, address), FairPool(pool))
        return found

    def _pool(self, address: Address | None, *, own: bool) -> Any:
        if address is None:
            pool = self._client.connection_pool
            return pool if own else self._make(pool)
        node = self._client.get_node(*address)
        if node is None:
            host, port = address
            return self._make(self._of(self._client.get_nodes()[0]), host=host, port=port)
        return self._of(node) if own else self._make(self._of(node))

    def _of(self, node: Any) -> Any:
        return (node.redis_connection or self._client.get_redis_connection(node)).connection_pool

    def _make(self, pool: Any, **changed: Any) -> Any:
        made = like(pool, **changed)
        self._made.append(made)
        return made

    def close(self, *, own: bool) -> None:
        """Close what is idle: what was made here and, where it is the store's ``own``, the client's."""
        number = os.getpid()
        pools = [fair.pool for (process, _), fair in list(self._found.items()) if process == number]
        idle = [pool for pool in pools if pool in self._made]
        for pool in [self._client.connection_pool, *idle] if own and number == self._pid else idle:
            # Those in use are their calls': closed under a thread that uses it, the driver fails in ways of its own.
            pool.disconnect(inuse_connections=False)


class LoopPools:
    """All that a store has open in one event loop of one process.

    Closed as the loop ends its asynchronous generators.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, over: Callable[[], object]) -> None:
        self.loop, self.pid = loop, os.getpid()
        self.pools: dict[Address | None, AsyncFairPool] = {}
        self._over = over
        self._keeper = self._until_the_loop_ends()
        self._closing: asyncio.Task[None] | None = None

    async def settle(self) -> None:
        await anext(self._keeper)

    async def _until_the_loop_ends(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._over()
            await self.close()
            await asyncio.sleep(0)  # a transport ends one turn of the loop after it is closed

    def _all_pools(self) -> list[Any]:
        pools = [fair.pool for fair in self.pools.values()]
        sentinels = [one for pool in pools for one in getattr(getattr(pool, "sentinel_manager", None), "sentinels", ())]
        return pools + [one.connection_pool for one in sentinels]

    def _connections(self) -> list[Any]:
        return [one for pool in self._all_pools() for one in list(getattr(pool, "_available_connections", ()))]

    async def close(self) -> None:
        """Close what is idle."""
        # In one step: the pool's own way waits in between, while others take what is being closed.
        for connection in self._connections():
            await connection.disconnect(nowait=True)
        for pool in self._all_pools():
            await pool.disconnect(inuse_connections=False)

    def close_from_elsewhere(self) -> None:
        """Close what is idle, from another loop than this one."""
        if self.loop.is_closed():
            self.drop()
            return
        with suppress(RuntimeError):  # it was closed just now
            self.loop.call_soon_threadsafe(self._begin_to_close)

    def _begin_to_close(self) -> None:
        self._closing = self.loop.create_task(self.close())

    def drop(self) -> None:
        """Let go of connections whose loop is closed and can do nothing for them any more."""
        for connection in self._connections():
            writer = getattr(connection, "_writer", None)
            if writer is None:
                continue
            connection._writer = connection._reader = None
            with suppress(Exception):
                writer.transport.abort()  # asks the loop, which raises
            with suppress(Exception):
                writer.transport._call_connection_lost(None)  # closes the socket of asyncio's own
        self.pools.clear()


class AsyncPools:
    """The pools of an asynchronous store: each event loop that it is used in has its own."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._inherited: list[LoopPools] = []
        self._loops: dict[asyncio.AbstractEventLoop, LoopPools] = {}

    async def get(self, address: Address | None) -> AsyncFairPool:
        """The running loop's pool of a node; ``None``: of the only one."""
        loop = asyncio.get_running_loop()
        own = self._loops.get(loop)
        if own is None or own.pid != os.getpid():
            own = await self._settle(loop)
        return own.pools.get(address) or own.pools.setdefault(address, AsyncFairPool(self._make(address)))

    async def _settle(self, loop: asyncio.AbstractEventLoop) -> LoopPools:
        """Have pools in an event loop that the store is used in for the first time."""
        for other, old in list(self._loops.items()):
            if other.is_closed() or other is loop:
                self._loops.pop(other, None)
                if old.pid == os.getpid():
                    old.drop()
                else:
                    self._inherited.append(old)  # the parent's, never to be closed here
        own = self._loops[loop] = LoopPools(loop, lambda: self._loops.pop(loop, None))
        await own.settle()
        return own

    def _make(self, address: Address | None) -> Any:
        if address is None:
            return like(self._client.connection_pool)
        node = next(iter(self._client.nodes_manager.startup_nodes.values()))
        options = {**node.connection_kwargs, "host": address[0], "port": address[1]}
        kind = redis.asyncio.ConnectionPool(node.connection_class, node.max_connections)
        return like(kind, **options)

    async def close(self) -> None:
        """Close what is idle, in whatever loop."""
        here = asyncio.get_running_loop()
        for loop, own in list(self._loops.items()):
            if own.pid != os.getpid():
                continue
            if loop is here:
                await own.close()
            else:
                own.close_from_elsewhere()
