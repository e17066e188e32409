"""Children of a fork, told and untold, and what they say."""

import ctypes
import os
import select
import signal
import threading


class _End:
    """In place of a response that is to be settled: it ends the thread that settles it, one with a planted bug too."""

    def settle(self):
        raise SystemExit


def bare_fork():
    """libc's own: none of Python's hooks run.

    A thread that wakes by itself at that instant leaves a lock of CPython's taken in the child. The only ones that do so
    here hold responses longer, of tests before: they are ended.
    """
    for thread in threading.enumerate():
        if thread.name == "quota-renewals":
            thread._invoke_excepthook = lambda *_: None  # pytest's takes it for an error
            thread._target.__self__.drop(_End())
            thread.join()
    return ctypes.PyDLL(None).fork()


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
