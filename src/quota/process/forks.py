"""Locks across a fork: in a child nobody gives back what its parent's other threads held, or ends what they were at."""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from typing import Any

from .atomic import at_once

_PATIENCE = 1.0
"""Seconds that a fork waits for locks: whoever does not give one back may be waiting for the thread that forks."""

_locks: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_numbers = itertools.count()
_taken: dict[int, list[Any]] = {}
"""By the thread that forks: which locks it took for that."""


def across_forks(*locks: Any) -> None:
    """Have these locks taken before each fork, in this order: a child finds them free, and what they guard whole.

    For reentrant locks that are held for moments. A fork goes on without one that is not given back within a second;
    in the child it is free all the same, and what its holder was in the middle of stays as it is.
    """
    for lock in locks:
        _locks[next(_numbers)] = lock


def _before_fork() -> None:
    taken = _taken.setdefault(threading.get_ident(), [])
    patience = _PATIENCE
    for lock in list(_locks.values()):
        taken.append(lock)  # before it is so: an interrupt may come as soon as it is
        if not lock.acquire(timeout=patience):
            taken.pop()
            patience = 0


def _after_fork() -> None:
    taken = _taken.get(threading.get_ident(), [])
    at_once(*((lock.release,) for lock in taken if lock._is_owned()), (taken.clear,))
    _taken.pop(threading.get_ident(), None)


def _after_fork_in_child() -> None:
    _after_fork()
    _taken.clear()
    at_once(*((lock._at_fork_reinit,) for lock in list(_locks.values()) if not lock._is_owned()))


if hasattr(os, "register_at_fork"):  # pragma: no branch -- Windows does not fork
    os.register_at_fork(before=_before_fork)
    for _ in range(2):  # a signal that comes during the fork may end the first one as it begins
        os.register_at_fork(after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
