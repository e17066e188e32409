"""Standard output as commands find it: closed, full, left by its reader, or unable to show what a log holds."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

UNWRITTEN = 74
"""Exit status: the answer could not be written."""


def answer(command: Callable[[], int]) -> int:
    """Run a command that prints, and return its exit status: of a reader that left early, nobody need know."""
    if not _ready():
        print("quota: standard output is closed", file=sys.stderr)
        return UNWRITTEN
    status = 0
    try:
        status = command()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as head does
        _drop()
    except OSError as error:
        if error.filename is not None:
            raise
        _drop()
        if status != UNWRITTEN:  # else the command has said so, and what comes of it
            print(f"quota: standard output: {error.strerror or error}", file=sys.stderr)
        return UNWRITTEN
    return status


def _ready() -> bool:
    """Tell whether there is a standard output.

    Where another stream is closed, nothing is read from it or shown there.
    """
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115 -- it stands in for the program's life
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 -- as above
    stdout: Any = sys.stdout
    if hasattr(stdout, "reconfigure"):
        stdout.reconfigure(errors="backslashreplace")  # a log or a name holds any character, a terminal may not
    return stdout is not None


def _drop() -> None:
    """Send what is still to be written nowhere, so that the interpreter's own last flush does not fail too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
