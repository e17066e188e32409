"""The instants at which tests interrupt are those at which this Python looks for signals, whatever its version."""

from __future__ import annotations

import importlib.util
import itertools
import threading
import traceback

import pytest

from interrupts import Tracer, in_the_middle, interrupts

SOURCE = """
def act(done, options):
    done.append(1)
    done.append(*[2])
    dict(name=3)
    dict(**options)
    for _ in options:
        done
    leaf()
    for _ in yielding(): done
    done + done
    return done

def leaf():
    pass

def yielding():
    yield 1
    yield 2

def held(lock):
    with lock:
        leaf()

def let_go(lock):
    lock.acquire()
    try:
        leaf()
    finally:
        release(lock)

def release(lock):
    lock.release()
"""


@pytest.fixture
def module(tmp_path):
    """Code of a file of its own."""
    file = tmp_path / "acting.py"
    file.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("acting", file)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def lines(module):
    """The lines at which a call of ``act`` was interrupted, by its instants in turn."""
    for instant in itertools.count(1):
        try:
            with Tracer(instant, [module]):
                module.act([], {"a": 1})
        except KeyboardInterrupt as error:
            places = [place for place in traceback.extract_tb(error.__traceback__) if place.filename == module.__file__]
            yield SOURCE.splitlines()[places[-1].lineno - 1].strip()
        else:
            return


def test_every_instant_is_reached(module):
    """Calls of every shape, loops, functions that are entered and that go on; nothing where no signal is looked for."""
    assert dict.fromkeys(lines(module)).keys() == {
        "def act(done, options):", "done.append(1)", "done.append(*[2])", "dict(name=3)", "dict(**options)",
        "for _ in options:", "leaf()", "def leaf():", "for _ in yielding(): done", "def yielding():", "yield 1",
        "yield 2",
    }  # fmt: skip


def test_another_thread_is_not_interrupted(module):
    """Only the calls of the thread that was asked for are counted."""
    done = []

    def beside():
        other = threading.Thread(target=module.act, args=(done, {}))
        other.start()
        other.join()

    assert not interrupts(1, [module], beside)
    assert done == [1, 2]


def left_locked(module, name):
    """Whether a call that is interrupted at some instant leaves its lock taken."""
    for instant in itertools.count(1):
        lock = threading.Lock()
        if not interrupts(instant, [module], getattr(module, name), lock):
            return False
        if lock.locked():
            return True
    raise AssertionError


def test_a_planted_lock_that_stays_taken_is_found(module):
    """What lets go in a function of its own can be interrupted as that begins; what ``with`` lets go of cannot."""
    assert left_locked(module, "let_go")
    assert not left_locked(module, "held")


def test_a_handler_runs_at_each_instant(module):
    """As often as there are instants, and the call goes on behind it."""
    told = []
    assert in_the_middle([module], list, lambda done: module.act(done, {"a": 1}), told.append) == len(told) > 10
    assert all(done == [1, 2] for done in told)
