"""Connections to Redis: pools of each process and event loop, and which node of a Cluster to ask."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from copy import copy
from typing import Any

import redis.asyncio
from redis.exceptions import AskError, MovedError, NoScriptError, TryAgainError

from ...clock import monotonic
from ...errors import StoreBusy
from .wire import failure

Address = tuple[str, int]

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


class Unreached(Exception):
    """A node of a Cluster could not be asked, and nothing was sent. ``failure``: what the caller is told in the end."""

    def __init__(self, address: Address, failure: Exception) -> None:
        super().__init__(address)
        self.address = address
        self.failure = failure


class Route:
    """The node of a Cluster that serves a namespace, all in one slot. Any node says where to ask instead."""

    def __init__(self, client: Any) -> None:
        self._nodes = client.nodes_manager
        self._home: Address | None = None
        self._turn = 0

    def address(self) -> Address:
        """The node to ask first."""
        if self._home is None:
            nodes = list((self._nodes.nodes_cache or self._nodes.startup_nodes).values())
            node = nodes[self._turn % len(nodes)]
            return node.host, int(node.port)
        return self._home

    def told(self, error: AskError, asked: Address) -> Address:
        """Where a node says that the slot is, or is about to be; without a host: its own."""
        host, port = self._nodes.remap_host_port(error.host or asked[0], error.port)
        if isinstance(error, MovedError):
            self._home = host, port
        return host, port

    def lost(self, address: Address) -> None:
        """A node broke off or cannot be reached: ask another one next time."""
        if address == self.address():
            self._home = None
            self._turn += 1


def failed(error: Exception, sent: bool, route: Route | None, address: Address | None) -> Exception:
    """Return what becomes of a call whose connection broke, or that had none."""
    told = failure(error, sent)
    if route is None or address is None or isinstance(told, StoreBusy):
        return told
    route.lost(address)
    return told if sent else Unreached(address, told)


class Resend:
    """A call that is sent again after answers which say that nothing ran, until its time is over.

    ``by_text``: with the script's text. ``at``: another node than the usual one, for this time (``ASKING``).
    """

    __slots__ = ("_deadline", "_patience", "_unreached", "at", "by_text")

    def __init__(self, timeout: float) -> None:
        self._deadline = monotonic() + timeout
        self._patience = 0.0
        self._unreached: set[Address] = set()
        self.at: Address | None = None
        self.by_text = False

    def after(self, error: Exception, route: Route | None, asked: Address | None) -> float:
        """Seconds to wait before it is sent again. Raises what the caller is told where it is not."""
        if isinstance(error, NoScriptError) and not self.by_text:
            self.by_text = True
            return 0.0
        self.at = None
        if route is not None and asked is not None:
            if isinstance(error, AskError):
                told = route.told(error, asked)
                self.at = None if isinstance(error, MovedError) else told
            elif isinstance(error, Unreached):
                self._unreached.add(error.address)
        elif not isinstance(error, TryAgainError):
            raise failure(error, sent=True) from error
        followed = isinstance(error, (AskError, TryAgainError, Unreached))
        lost = route is not None and (self.at or route.address()) in self._unreached
        if not followed or lost or monotonic() >= self._deadline:
            if isinstance(error, Unreached):
                raise error.failure from error.__cause__
            raise failure(error, sent=True) from error
        wait, self._patience = self._patience, min(2 * self._patience + 0.001, 0.03)
        return wait


class Pools:
    """The pools of a synchronous store: the client's own in the process that made it, others like them in a forked one.

    A process's number is compared, since not every fork tells Python; a pool whose lock a thread of the parent's held
    would never be free.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._pid = os.getpid()
        self._found: dict[tuple[int, Address | None], Any] = {}
        self._made: list[Any] = []

    def get(self, address: Address | None) -> Any:
        """The pool of a node; ``None``: of the only one."""
        number = os.getpid()
        if address is None and number == self._pid:
            return self._client.connection_pool
        found = self._found.get((number, address))
        return found or self._found.setdefault((number, address), self._pool(address, own=number == self._pid))

    def _pool(self, address: Address | None, *, own: bool) -> Any:
        if address is None:
            return self._make(self._client.connection_pool)
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
        idle = [pool for (process, _), pool in list(self._found.items()) if process == number and pool in self._made]
        for pool in [self._client.connection_pool, *idle] if own and number == self._pid else idle:
            # Those in use are their calls': closed under a thread that uses it, the driver fails in ways of its own.
            pool.disconnect(inuse_connections=False)


class LoopPools:
    """All that a store has open in one event loop of one process.

    Closed as the loop ends its asynchronous generators.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, over: Callable[[], object]) -> None:
        self.loop, self.pid = loop, os.getpid()
        self.pools: dict[Address | None, Any] = {}
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
        pools = list(self.pools.values())
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

    async def get(self, address: Address | None) -> Any:
        """The running loop's pool of a node; ``None``: of the only one."""
        loop = asyncio.get_running_loop()
        own = self._loops.get(loop)
        if own is None or own.pid != os.getpid():
            own = await self._settle(loop)
        return own.pools.get(address) or own.pools.setdefault(address, self._make(address))

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
