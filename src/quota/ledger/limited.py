"""A function whose every call is charged first: ``@limited(ledger, key=...)``."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar

from ..errors import InvalidValue
from ..key import ApiKey, Caller
from ..limit import Cost, parse_cost
from ..operations.shape import DEFAULT
from .aio import AsyncLedger
from .holders import check_where
from .requests import Credential, in_memory
from .sync import Ledger

P = ParamSpec("P")
R = TypeVar("R")


class SameSignature(Protocol):
    """A decorator that leaves a function's type as it is."""

    def __call__(self, function: Callable[P, R], /) -> Callable[P, R]: ...


def limited(
    ledger: Ledger | AsyncLedger,
    *,
    key: Credential | Callable[..., Credential],
    cost: Cost | Callable[..., Cost] = DEFAULT,
    api: str = "",
    route: str | None = None,
) -> SameSignature:
    """Charge each call of a function before it runs, sync or async; a refused one raises ``NotAllowed`` and never runs.

    ``key``: a secret, an ``ApiKey`` or a ``Caller``; or a callable that is given the call's arguments and returns one,
    None for nobody. ``cost``: as in ``Ledger.consume``, or a callable alike. ``api``, ``route``: as there.

    An ``AsyncLedger`` is for async functions. A ``Ledger`` is for both: an async function asks it in a thread, unless
    it is in memory. What the call was charged stays charged if the function raises.

    Raises:
        InvalidValue: for what is no such ledger, key, cost or function. A generator function is none: its call runs
            nothing yet; decorate what works for each item, or ask the ledger in it.
    """
    _check_settings(ledger, key, cost, api, route)

    def asked(args: Any, kwargs: Any) -> tuple[Credential, Cost]:
        return key(*args, **kwargs) if callable(key) else key, cost(*args, **kwargs) if callable(cost) else cost

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        _check(function, ledger)
        require: Callable[..., Any] = functools.partial(ledger.require, api=api, route=route)
        if not awaited(function):

            @functools.wraps(function)
            def charged(*args: Any, **kwargs: Any) -> Any:
                require(*asked(args, kwargs))
                return function(*args, **kwargs)

            return charged
        if isinstance(ledger, Ledger):
            require = _at_once(require) if in_memory(ledger.store) else functools.partial(asyncio.to_thread, require)

        @functools.wraps(function)
        async def charged_first(*args: Any, **kwargs: Any) -> Any:
            await require(*asked(args, kwargs))
            return await function(*args, **kwargs)

        return charged_first

    return decorate


def _at_once(require: Callable[..., Any]) -> Callable[..., Any]:
    async def required(*asked: Any) -> Any:
        return require(*asked)

    return required


def awaited(function: object) -> bool:
    """Tell a coroutine function, or an object that is called like one."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004 -- which


def _check_settings(ledger: object, key: object, cost: Any, api: str, route: str | None) -> None:
    if not isinstance(ledger, (Ledger, AsyncLedger)):
        raise InvalidValue("ledger", ledger, "a Ledger or an AsyncLedger")
    if not callable(key) and not (key is None or isinstance(key, (str, ApiKey, Caller))):
        raise InvalidValue("key", type(key), "a secret, an ApiKey, a Caller, or a callable that returns one")
    for name, value in (("key", key), ("cost", cost)):
        if callable(value) and awaited(value):
            raise InvalidValue(name, value, "a callable that is not async")
    if not (callable(cost) or cost is DEFAULT):
        parse_cost(cost)
    if api != "" or route is not None:
        check_where(api, route)


def _check(function: Any, ledger: object) -> None:
    if not callable(function) or isinstance(function, (staticmethod, classmethod)):
        raise InvalidValue("function", function, "a function (below @staticmethod and @classmethod)")
    for one in (function, getattr(function, "__call__", None)):  # noqa: B004 -- which
        if inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one):
            raise InvalidValue("function", function, "no generator function: calling one runs nothing yet")
    if isinstance(ledger, AsyncLedger) and not awaited(function):
        raise InvalidValue(
            "function", function, "an async function, as an AsyncLedger is awaited; a Ledger is for both"
        )
