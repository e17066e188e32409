"""What happens to the SQLite store's connections at a fork."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

from ..clock import monotonic
from ._sqlite_turns import Turn

everybody: weakref.WeakSet[Any] = weakref.WeakSet()
"""All ``Handles`` of this process."""

_suspended: dict[int, list[tuple[Any, Turn]]] = {}
"""By the thread that forks: what it brought to rest, and in which turn."""


def _before_fork() -> None:
    """Close everything: with a connection inherited, even one that the child opens itself would hold no locks.

    SQLite keeps a process's locks on a file in that process's memory. A child that finds them there takes them for its
    own, and what it writes is lost when the parent closes the file.
    """
    suspended = _suspended.setdefault(threading.get_ident(), [])
    for handles in list(everybody):
        turn = Turn()
        suspended.append((handles, turn))
        if not handles.suspend(turn, monotonic() + handles.timeout):
            handles.resume(turn)


def _after_fork() -> None:
    for handles, turn in _suspended.pop(threading.get_ident(), ()):
        handles.resume(turn)


def _after_fork_in_child() -> None:
    _suspended.clear()
    for handles in list(everybody):
        handles.begin_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
