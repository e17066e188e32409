"""Refusals that can be explained afterwards: ``log_refusals(ledger)``.

One structured record for each, by the logger ``quota.decisions``, so many of a key in a minute and then a count of the
rest; and which keys were refused most. A ledger that is not watched pays nothing.
"""

from __future__ import annotations

import functools
import heapq
import logging
import threading
from collections.abc import Callable, Mapping
from inspect import iscoroutinefunction
from typing import Any

from .decision import Decision
from .errors import InvalidValue
from .ledger.aio import AsyncLedger
from .ledger.sync import Ledger

log = logging.getLogger(f"{__package__}.decisions")

_MINUTE = 60_000_000
_MOST_NAMES = 10_000
"""Keys that are told apart; of more, those that were refused least are forgotten."""


class Refusals:
    """Refusals of a ledger since it is watched. ``per_minute``: records of one key in a minute."""

    def __init__(self, per_minute: int) -> None:
        if type(per_minute) is not int or per_minute < 1:
            raise InvalidValue("per_minute", per_minute, "a whole number of records, at least 1")
        self._per_minute = per_minute
        self._lock = threading.RLock()
        self._refused: dict[str, int] = {}
        self._minute = 0
        self._in_minute: dict[str, int] = {}

    def most(self, count: int = 10) -> list[tuple[str, int]]:
        """Return the keys, by id, that were refused most, the most refused first, and how often each was."""
        with self._lock:
            return heapq.nlargest(count, self._refused.items(), key=lambda item: (item[1], item[0]))

    def _seen(self, decision: Decision, named: Mapping[str, Any]) -> None:
        if decision.allowed:
            return
        key = decision.key
        name = "" if key is None else key.id
        left_out: list[tuple[str, int]] = []
        with self._lock:
            if name:
                self._count(name)
            minute = decision._now // _MINUTE
            if minute > self._minute:
                before, self._in_minute, self._minute = self._in_minute, {}, minute
                left_out = [(of, n - self._per_minute) for of, n in before.items() if n > self._per_minute]
            told = self._in_minute[name] = self._in_minute.get(name, 0) + 1
        if not log.isEnabledFor(logging.INFO):
            return
        for of, more in left_out:
            said = {"key": of or None, "left_out": more}
            log.info("%d more refusals of %s in the minute before", more, of or "nobody's key", extra=said)
        if told <= self._per_minute:
            self._tell(decision, named)

    def _count(self, name: str) -> None:
        self._refused[name] = self._refused.get(name, 0) + 1
        if len(self._refused) > _MOST_NAMES:
            self._refused = dict(heapq.nlargest(_MOST_NAMES // 2, self._refused.items(), key=lambda item: item[1]))

    @staticmethod
    def _tell(decision: Decision, named: Mapping[str, Any]) -> None:
        key, reason = decision.key, decision.reason.value
        retry_at = None if decision.retry_at is None else decision.retry_at.isoformat()
        fields = {
            "key": None if key is None else key.id, "account": None if key is None else key.account,
            "api": named.get("api", ""), "route": named.get("route"), "reason": reason,
            "violated": list(decision.violated), "retry_at": retry_at,
        }  # fmt: skip
        log.info("refused %s: %s", fields["key"] or "nobody's key", reason, extra=fields)


def log_refusals(ledger: Ledger | AsyncLedger, *, per_minute: int = 10) -> Refusals:
    """Log what a ledger refuses from now on, by the logger ``quota.decisions`` at level INFO, and count it by key.

    Of ``consume``, ``require``, ``acquire`` and ``reserve``. A record has the fields ``key``, ``account``, ``api``,
    ``route``, ``reason``, ``violated`` and ``retry_at``. ``per_minute``: so many records of one key in a minute; the
    next minute's first one is preceded by how many were left out (``left_out``). Raises ``InvalidValue``.
    """
    if not isinstance(ledger, (Ledger, AsyncLedger)):
        raise InvalidValue("ledger", ledger, "a Ledger or an AsyncLedger")
    refusals = Refusals(per_minute)
    for name in ("consume", "acquire", "reserve"):
        method = getattr(ledger, name)
        vars(ledger)[name] = functools.wraps(method)(_watched(method, refusals._seen))
    return refusals


def _watched(method: Callable[..., Any], seen: Callable[[Decision, Mapping[str, Any]], None]) -> Callable[..., Any]:
    def call(*args: Any, **named: Any) -> Any:
        answer = method(*args, **named)
        seen(getattr(answer, "decision", answer), named)
        return answer

    async def waiting(*args: Any, **named: Any) -> Any:
        answer = await method(*args, **named)
        seen(getattr(answer, "decision", answer), named)
        return answer

    return waiting if iscoroutinefunction(method) else call
