"""Methods of the ledgers that tell one part of their answer after another, asking the store in between."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from inspect import signature
from typing import Any, Concatenate, ParamSpec, TypeVar

from ...operations.usage import UsageTotal
from ..administration import Step, Telling

P = ParamSpec("P")
T = TypeVar("T")


def _shown(method: T, steps: Any, answer: Any) -> T:
    """Return the method, which is shown to tell its answer, at run time and by ``help``, and no steps."""
    shown: Any = method
    shown.__annotations__ = {**steps.__annotations__, "return": answer}
    shown.__signature__ = signature(steps).replace(return_annotation=answer)
    return method


def telling(steps: Callable[Concatenate[Any, P], Telling[T]]) -> Callable[Concatenate[Any, P], Iterator[T]]:
    """A method of ``Ledger`` that tells one part of its answer after another; what is wrong is raised at once."""

    @functools.wraps(steps)
    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return tell(steps(self._steps, *args, **kwargs), self)

    def tell(parts: Telling[T], ledger: Any) -> Iterator[T]:
        with suppress(StopIteration):
            told = next(parts)
            while True:
                if isinstance(told, Step):
                    told = parts.send(ledger._ask(told))
                else:
                    yield told
                    told = next(parts)

    return _shown(method, steps, Iterator[UsageTotal])


def telling_awaited(
    steps: Callable[Concatenate[Any, P], Telling[T]],
) -> Callable[Concatenate[Any, P], AsyncIterator[T]]:
    """A method of ``AsyncLedger`` that tells one part of its answer after another."""

    @functools.wraps(steps)
    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        return tell(steps(self._steps, *args, **kwargs), self)

    async def tell(parts: Telling[T], ledger: Any) -> AsyncIterator[T]:
        with suppress(StopIteration):
            told = next(parts)
            while True:
                if isinstance(told, Step):
                    told = parts.send(await ledger._ask(told))
                else:
                    yield told
                    told = next(parts)

    return _shown(method, steps, AsyncIterator[UsageTotal])
