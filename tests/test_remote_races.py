"""What the stores on a server keep in the process, while threads and signals come between any two of its steps."""

from __future__ import annotations

import pytest

from interleavings import files, plant
from quota.stores._remote import Copies
from scheduler import Found, explore

# Copies of directory entries


def crowded():
    """No room for a second copy."""
    copies = Copies(most=1)
    copies.put("first", "1")
    return copies


def makes_room(preemptions=1):
    def check(copies, results):
        assert results == [None, None]
        assert len(copies._found) <= 2

    def threads(copies):
        return [lambda: copies.put("a", "2"), lambda: copies.put("b", "3")]

    return explore(crowded, threads, check, files=files("stores/_remote"), preemptions=preemptions)


@pytest.mark.parametrize("preemptions", [1, 2])
def test_threads_that_make_room_for_their_copies_never_fail(preemptions):
    """Each drops the oldest while the other one does."""
    assert makes_room(preemptions).preempted > 5


def test_planted_copies_that_another_thread_forgot(monkeypatch):
    """Who takes an oldest copy for granted is found."""
    plant(monkeypatch, Copies, "drop", {"self._found.pop(ref, None)": "del self._found[ref]"})
    with pytest.raises(Found, match="KeyError"):
        makes_room()
