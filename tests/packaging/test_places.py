"""The two commands pass wherever a clone is and whoever runs them: root or not, in a private folder, behind a closed umask."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

import paths
import servers
import unprivileged
from servers import Postgres

ROOT = paths.ROOT
SERVED = [
    "stores/postgres/test_store",
    "stores/sqlite/test_faults",
    "test_readme",
    "packaging/test_vendored",
    "packaging/test_distributions",
    "cli/test_process",
    "web/test_servers",
]
"""What starts servers and interpreters, steps down from root, or reads the repository."""
SMALL = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"'


def test_where_memory_is_short_a_server_keeps_to_the_disk(monkeypatch):
    """Neither its data nor what its processes share is in memory then."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**26))
    server = Postgres()
    try:
        assert not server.root.is_relative_to("/dev/shm")
        with server.connect() as db:
            assert db.execute("SHOW dynamic_shared_memory_type").fetchone() == ("mmap",)
    finally:
        server.stop()


def test_what_others_cannot_reach_is_no_place(tmp_path, monkeypatch):
    """As root, a private TMPDIR is passed over; where nothing is left, the error says what to set."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(private))
    monkeypatch.setattr(unprivileged, "USER", "nobody")
    assert not unprivileged.open_to_all(private)
    assert unprivileged.place() != private
    monkeypatch.setattr(unprivileged, "TEMPORARY", ())
    with pytest.raises(RuntimeError, match="TMPDIR"):
        unprivileged.place()
    monkeypatch.setattr(unprivileged, "USER", None)
    assert unprivileged.place() == private


def test_programs_of_a_closed_folder_are_run(tmp_path):
    """Where root lends them to nobody, the copy runs; else they are where they were."""
    closed = tmp_path / "closed"
    (closed / "bin").mkdir(parents=True)
    program = closed / "bin" / "say"
    program.write_text("#!/bin/sh\nid -un\n")
    program.chmod(0o700)
    closed.chmod(0o700)
    lent = unprivileged.lent.__wrapped__(closed) / "bin" / "say"
    said = subprocess.run([lent], user=unprivileged.USER, cwd="/", capture_output=True, text=True, check=True)
    assert said.stdout.strip() == (unprivileged.USER or pwd.getpwuid(os.geteuid()).pw_name)
    assert (lent == program) == (unprivileged.USER is None)
    assert Path(servers.postgres("postgres")).is_file()


def python_for(user):
    """An interpreter that a user can start, and that makes environments."""
    names = [sys._base_executable, *map(shutil.which, ("python3.13", "python3.12", "python3.11", "python3"))]
    for name in filter(None, [*names, "/usr/bin/python3"]):
        code = "import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))"
        try:
            if not subprocess.run([name, "-c", code], user=user, cwd="/", capture_output=True).returncode:
                return name
        except PermissionError:
            continue
    raise RuntimeError(f"{user} can start no Python of {names}")


def clone(place):
    """The working tree as a clone has it, closed to everybody else."""
    ignored = (ROOT / ".gitignore").read_text("utf-8").split()
    shutil.copytree(ROOT, place, ignore=shutil.ignore_patterns(".git", *(line.rstrip("/") for line in ignored)))
    for path in [place, *place.rglob("*")]:
        path.chmod(path.stat().st_mode & 0o700)


def prefix(user):
    """Of a command: in a mount namespace with a small /dev/shm, where that is permitted, and as the user."""
    small = ["unshare", "-m", "sh", "-c", SMALL, "sh"]
    able = shutil.which("unshare") and not subprocess.run([*small, "true"], capture_output=True).returncode
    become = ["setpriv", f"--reuid={user}", f"--regid={pwd.getpwnam(user).pw_gid}", "--clear-groups"] if user else []
    return [*small * bool(able), *become]


@pytest.mark.slow
@pytest.mark.parametrize("user", [None, *[unprivileged.USER] * bool(unprivileged.USER)], ids=str)
def test_the_two_commands(user):
    """``None``: whoever runs this. No HOME, a private TMPDIR, a blank in the clone's name, a closed umask."""
    home = Path(tempfile.mkdtemp(prefix="quota place ", dir=unprivileged.place(programs=True)))
    try:
        (home / "tmp").mkdir()
        clone(home / "the clone")
        if user:
            for path in [home, *home.rglob("*")]:
                shutil.chown(path, user)
        dropped = ("PYTHON", "PYTEST", "COV", "MAKE", "MFLAGS", "TESTS", "VENV", "QUOTA", "HOME", "VIRTUAL_ENV", "XDG")
        env = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        env |= {"TMPDIR": str(home / "tmp"), "PYTHON": python_for(user)}
        tests = " ".join(f"tests/{name}.py" for name in SERVED)
        for target in (["demo"], ["test", f"TESTS={tests}"], ["check"]):
            done = subprocess.run([*prefix(user), "make", *target], cwd=home / "the clone", env=env, umask=0o077,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
            assert done.returncode == 0, done.stdout[-6_000:]
    finally:
        shutil.rmtree(home)
