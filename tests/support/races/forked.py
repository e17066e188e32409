"""Children of a fork, told and untold, and what they say."""

import ctypes
import os
import select
import signal
import threading
from contextlib import suppress
from pathlib import Path


class _End:
    """In place of a response that is to be settled: it ends the thread that settles it, one with a planted bug too."""

    def settle(self):
        raise SystemExit


def bare_fork():
    """libc's own: none of Python's hooks run.

    A thread that wakes by itself at that instant leaves a lock of CPython's taken in the child. The only ones that do so
    here hold responses longer, of tests before: they are ended. One that has just handed the interpreter over to this one
    is let go to rest.
    """
    for thread in threading.enumerate():
        if thread.name == "quota-renewals":
            thread._invoke_excepthook = lambda *_: None  # pytest's takes it for an error
            thread._target.__self__.drop(_End())
            thread.join()
    for _ in range(100):
        if _others_rest():
            break
    return ctypes.PyDLL(None).fork()


def _others_rest():
    """Whether each other thread sleeps in the kernel, by Linux' own word. To ask lets them run."""
    for task in Path("/proc/self/task").glob("*"):
        with suppress(OSError):  # it has ended
            if task.name != str(threading.get_native_id()) and ") S " not in (task / "stat").read_text():
                return False
    return True


FORKS = {"os.fork": os.fork, "a fork that Python is not told of": bare_fork}


def in_child(fork, work, seconds=20):
    """What ``work()`` says in a forked child, as text; "hangs" where it does not come back."""
    reader, writer = os.pipe()
    child = fork()
    if not child:
        try:
            os.write(writer, str(work()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    told = select.select([reader], [], [], seconds)[0]
    if not told:
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    answer = os.read(reader, 1000).decode() if told else "hangs"
    os.close(reader)
    return answer
