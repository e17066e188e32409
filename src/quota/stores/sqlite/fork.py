"""What happens to the SQLite store's connections at a fork."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

from ...clock import monotonic
from ...process.home import Home
from .connections import close_inherited

everybody: weakref.WeakSet[Any] = weakref.WeakSet()
"""All ``Handles`` of this process."""

_suspended: dict[int, list[Any]] = {}
"""By the thread that forks: what it brought to rest."""

_home = Home()


def at_home() -> None:
    """Before each call: a fork that Python was not told of closed nothing beforehand, so that comes first here."""
    _home.check(_found_in_child)


def _found_in_child() -> None:
    # All at once: SQLite believes in the parent's locks on a file while any connection to it is open.
    handles = list(everybody)
    left = [close_inherited(each._kept, each.path) for each in handles]
    for each, closed in zip(handles, left, strict=True):
        each.begin_child(stranded=not closed)


def _before_fork() -> None:
    """Close everything: with a connection inherited, even one that the child opens itself would hold no locks.

    SQLite keeps a process's locks on a file in that process's memory. A child that finds them there takes them for its
    own, and what it writes is lost when the parent closes the file.
    """
    suspended = _suspended.setdefault(threading.get_ident(), [])
    for handles in list(everybody):
        if handles.has_turn():
            continue  # a signal handler's fork, in the middle of a call
        suspended.append(handles)
        if not handles.suspend(monotonic() + handles.timeout):
            handles.resume()


def _after_fork() -> None:
    for handles in _suspended.pop(threading.get_ident(), ()):
        handles.resume()


def _after_fork_in_child() -> None:
    _suspended.clear()
    _home.check(lambda: None)
    for handles in list(everybody):
        handles.begin_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
