"""Refusals that can be explained afterwards: one record each by the logger ``quota.decisions``, while it is enabled.

Of ``consume``, ``require``, ``acquire`` and ``reserve`` of every ledger of the process, at level INFO. A record has the
fields ``key``, ``account``, ``api``, ``route``, ``reason``, ``violated`` and ``retry_at``; never a secret. Of one key
``PER_MINUTE`` records are written in a minute; the next minute's first one is preceded by how many were left out
(``left_out``). An admission pays nothing for it; a refusal while the logger is off, one look.
"""

from __future__ import annotations

import heapq
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from .decision import Decision
from .errors import InvalidValue
from .key import ApiKey
from .process.forks import across_forks

log = logging.getLogger(f"{__package__}.decisions")

PER_MINUTE = 10
"""Records of one key in a minute."""
_MOST_NAMES = 10_000
"""Keys that are told apart; of more, those that were refused least are forgotten."""

_lock = threading.RLock()
across_forks(_lock)
_refused: dict[str, int] = {}
_in_minute: dict[str, int] = {}
_minute: list[int] = [0]
_waiting: ContextVar[bool] = ContextVar("waiting", default=False)


def most_refused(count: int = 10) -> list[tuple[str, int]]:
    """Return the keys, by id, that this process refused most, the most refused first, and how often each was.

    Counted since it began, while the logger ``quota.decisions`` is enabled for INFO. At most 10,000 keys are told
    apart. Raises ``InvalidValue``.
    """
    if type(count) is not int or count < 1:
        raise InvalidValue("count", count, "a whole number, at least 1")
    with _lock:
        return heapq.nlargest(count, _refused.items(), key=lambda item: (item[1], item[0]))


@contextmanager
def trying() -> Iterator[None]:
    """A call that waits is one call, however often it is tried: what is refused on the way is not told."""
    token = _waiting.set(True)
    try:
        yield
    finally:
        _waiting.reset(token)


def tell(decision: Decision, api: str, route: str | None) -> None:
    """Count a refusal and, where its key was not told too often in this minute, log it."""
    if _waiting.get():
        return
    room = getattr(decision, "_room", None)  # its key is there before the whole answer is worked out
    key = decision.key if room is None else getattr(room, "key", None)
    name = key.id if isinstance(key, ApiKey) else ""
    left_out: list[tuple[str, int]] = []
    with _lock:
        if name:
            _count(name)
        minute = decision._now // 60_000_000
        if minute not in (_minute[0], _minute[0] - 1):  # a thread may be late by the end of a minute
            left_out = [(of, n - PER_MINUTE) for of, n in _in_minute.items() if n > PER_MINUTE]
            _in_minute.clear()
            _minute[0] = minute
        told = _in_minute[name] = _in_minute.get(name, 0) + 1
    for of, more in left_out:
        said = {"key": of or None, "left_out": more}
        log.info("%d more refusals of %s in the minute before", more, of or "nobody's key", extra=said)
    if told <= PER_MINUTE:
        retry_at, reason = decision.retry_at, decision.reason.value
        fields = {
            "key": name or None, "account": key.account if isinstance(key, ApiKey) else None, "api": api,
            "route": route, "reason": reason, "violated": list(decision.violated),
            "retry_at": None if retry_at is None else retry_at.isoformat(),
        }  # fmt: skip
        log.info("refused %s: %s", name or "nobody's key", reason, extra=fields)


def _count(name: str) -> None:
    _refused[name] = _refused.get(name, 0) + 1
    if len(_refused) > _MOST_NAMES:
        kept = heapq.nlargest(_MOST_NAMES // 2, _refused.items(), key=lambda item: item[1])
        _refused.clear()
        _refused.update(kept)
