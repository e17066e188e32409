"""Several changes at once, as far as anybody in this process can see."""

from __future__ import annotations

from collections import deque
from itertools import starmap
from operator import call
from typing import Any

Step = tuple[Any, ...]


def at_once(*steps: Step) -> None:
    """Take steps between which no signal handler runs and no thread is switched to.

    A step is a function that is written in C, and its arguments. Python looks for signals and other threads between
    two instructions of its own, and here are none.
    """
    deque(starmap(call, steps), 0)  # keeps none
