"""Forked children, those too that Python is not told of: uWSGI's, or a C library's, run none of its at-fork hooks."""

from __future__ import annotations

import mmap
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_WIPE_ON_FORK = 18
"""Linux's MADV_WIPEONFORK, which the standard library does not name."""


def _page() -> Any:
    """Memory that reads 1 here and 0 in a forked child; None where the system has no such thing."""
    if sys.platform != "linux":  # elsewhere the number may mean anything
        return None
    page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):
        page.madvise(_WIPE_ON_FORK)
        page[0] = 1
    return page if page[0] else None


class Home:
    """The process in which something was made. ``pid`` tells where there is no ``page``, which is read in less time."""

    __slots__ = ("_locks", "page", "pid")

    def __init__(self) -> None:
        self.page, self.pid = _page(), os.getpid()
        self._locks: dict[int, Any] = {}

    def here(self) -> bool:
        """Tell whether this is that process still."""
        return self.page[0] == 1 if self.page is not None else os.getpid() == self.pid

    def check(self, leave: Callable[[], None]) -> None:
        """In a forked child, once: ``leave`` what is the parent's and begin anew, before it is used."""
        page = self.page
        if (page is None or page[0] != 1) and not self.here():  # before every call of a store: a call less
            # The child's own lock: one of the parent's may be in the hands of a thread that is not here.
            with self._locks.setdefault(os.getpid(), threading.RLock()):
                if not self.here():
                    leave()
                    self.page, self.pid = _page(), os.getpid()
