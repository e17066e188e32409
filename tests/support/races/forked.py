"""Children of a fork, told and untold, and what they say."""

import ctypes
import os
import select
import signal

FORKS = {"os.fork": os.fork, "a fork that Python is not told of": lambda: ctypes.PyDLL(None).fork()}


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
