"""What refuses to run as root runs as nobody, from a copy that nobody can reach, wherever the clone and TMPDIR are.

A clone below root's home, or one that was made behind a umask of 077, is closed to every other user.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

USER = "nobody" if hasattr(os, "geteuid") and os.geteuid() == 0 else None
TEMPORARY = ("/tmp", "/var/tmp")
"""Beside the usual one, which TMPDIR may have put into a private folder."""


def open_to_all(folder: Path) -> bool:
    """Whether every user can go through a folder and those above it, and root can write there."""
    return os.access(folder, os.W_OK) and all(part.stat().st_mode & 0o001 for part in (folder, *folder.parents))


def runs_programs(folder: Path) -> bool:
    return not os.statvfs(folder).f_flag & os.ST_NOEXEC


def place(*first: str, programs: bool = False) -> Path:
    """The first of these folders, then of the temporary ones, that ``USER`` can reach. ``programs``: may run there."""
    for name in (*first, tempfile.gettempdir(), *TEMPORARY):
        folder = Path(name).resolve()
        if folder.is_dir() and (not USER or open_to_all(folder)) and (not programs or runs_programs(folder)):
            return folder
    raise RuntimeError(f"as root, tests run servers as {USER}: none of {tempfile.gettempdir()}, {', '.join(TEMPORARY)} "
                       "is a folder that it can reach; set TMPDIR to one")  # fmt: skip


def made(prefix: str, *first: str, programs: bool = False) -> Path:
    """A new folder of ``USER``'s own, in ``place``."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place(*first, programs=programs)))
    if USER:
        shutil.chown(folder, USER)
    return folder


@cache
def lent(*folders: Path) -> Path:
    """Where ``USER`` finds the first of these neighbours: where it is, or as root in a copy of them all.

    The copy is made once for a process and goes with it.
    """
    if not USER:
        return folders[0]
    home = made("quota-programs-", programs=True)
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    for folder in folders:
        shutil.copytree(folder, home / folder.name, symlinks=True)
    for parent, names, files in os.walk(home):
        for name in (*names, *files):
            shutil.chown(Path(parent, name), USER)
    return home / folders[0].name
