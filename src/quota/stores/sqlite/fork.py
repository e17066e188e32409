"""Forks: the SQLite store's connections never cross one."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

from ...clock import monotonic
from ...process.home import Home
from .connections import close_inherited

everybody: weakref.WeakSet[Any] = weakref.WeakSet()
"""All pools of this process."""

_suspended: dict[int, list[Any]] = {}
"""By the thread that forks: what it brought to rest."""

_home = Home()


def at_home() -> None:
    """Begin a call: a fork that Python was not told of closed nothing beforehand, so that comes first here."""
    _home.check(_found_in_child)


def _found_in_child() -> None:
    # All at once: SQLite believes in the parent's locks on a file while any connection to it is open.
    pools = list(everybody)
    left = [close_inherited(each._open, each.path) for each in pools]
    for each, closed in zip(pools, left, strict=True):
        each.begin_child(stranded=not closed)


def _before_fork() -> None:
    """Close everything: with a connection inherited, even one that the child opens itself would hold no locks.

    SQLite keeps a process's locks on a file in that process's memory. A child that finds them there takes them for its
    own, and what it writes is lost when the parent closes the file.
    """
    suspended = _suspended.setdefault(threading.get_ident(), [])
    for pool in list(everybody):
        if pool.turn.mine():
            continue  # a signal handler's fork, in the middle of a call
        suspended.append(pool)
        if not pool.suspend(monotonic() + pool.timeout):
            pool.resume()


def _after_fork() -> None:
    for pool in _suspended.get(threading.get_ident(), ()):
        pool.resume()
    _suspended.pop(threading.get_ident(), None)


def _after_fork_in_child() -> None:
    _suspended.clear()
    _home.check(_begin_children)


def _begin_children() -> None:
    for pool in list(everybody):
        pool.begin_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork)
    for _ in range(2):  # a signal that comes during the fork may end the first one in the middle
        os.register_at_fork(after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
