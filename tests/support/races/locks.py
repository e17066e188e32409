"""Cooperative locks for ``scheduler``: blocking on a held one lets another thread run, so nothing ever hangs."""

from __future__ import annotations

import _thread
import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Protocol

raw_lock = _thread.allocate_lock
OWN = {__file__}  # never preempted, whatever ``files`` says
_kinds = (type(raw_lock()), type(threading.RLock()))


class Running(Protocol):
    """The schedule that runs: whose turn it is, and how to wait for another's."""

    current: int
    aborting: bool

    def wait(self, lock: Lock, patient: bool) -> bool: ...


running: Running | None = None


class Abort(BaseException):
    """Unwinds the threads of a schedule that cannot go on."""


class Lock:
    """A lock that hands the turn to its owner instead of blocking. Outside of a schedule, a plain one for one thread."""

    _reentrant = False

    def __init__(self) -> None:
        self.owner: int | None = None
        self.depth = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        me = running.current if running else -1
        if self.owner is not None and not (self._reentrant and self.owner == me):
            if not blocking or timeout == 0:
                return False
            if running is None:
                raise RuntimeError("a lock is held after its threads have ended")
            if not running.wait(self, timeout >= 0):
                return False
        self.owner = me
        self.depth += 1
        return True

    def release(self) -> None:
        if running is not None and running.aborting:
            self.depth = 1
        elif self.owner is None or (self._reentrant and self.owner != (running.current if running else -1)):
            raise RuntimeError("release of a lock that is not held")
        self.depth -= 1
        if not self.depth:
            self.owner = None

    def locked(self) -> bool:
        return self.owner is not None

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class RLock(Lock):
    """A lock that its owner may take again; what ``threading.Condition`` asks of one is here too."""

    _reentrant = True

    def _is_owned(self) -> bool:
        return self.owner == (running.current if running else -1)

    def _release_save(self) -> int:
        depth, self.depth, self.owner = self.depth, 0, None
        return depth

    def _acquire_restore(self, depth: int) -> None:
        self.acquire()
        self.depth = depth


def preemptible(file: str, prefixes: tuple[str, ...]) -> bool:
    """Whether the code of a file is to be switched away from."""
    return file.startswith(prefixes) and file not in OWN


@contextlib.contextmanager
def cooperative(prefixes: tuple[str, ...]) -> Iterator[None]:
    """Every lock made while this lasts is cooperative, and so are those in the globals of the traced modules."""
    places = [
        (threading, "Lock", Lock), (threading, "RLock", RLock), (threading, "_allocate_lock", Lock),
        (_thread, "allocate_lock", Lock), (_thread, "RLock", RLock),
    ]  # fmt: skip
    originals = {id(getattr(module, name)): new for module, name, new in places}
    for module in list(sys.modules.values()):
        if preemptible(getattr(module, "__file__", None) or "", prefixes):
            for name, value in list(vars(module).items()):
                if isinstance(value, _kinds):
                    places.append((module, name, RLock() if isinstance(value, _kinds[1]) else Lock()))
                elif id(value) in originals:
                    places.append((module, name, originals[id(value)]))
    with contextlib.ExitStack() as undo:
        for module, name, new in places:
            undo.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, new)
        yield
