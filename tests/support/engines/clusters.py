"""A Cluster of three Valkeys that moves a slot from one to another, as ``redis-cli --cluster reshard`` does."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import redis
from redis.crc import key_slot

from servers import Valkey, free_port


def until(holds, seconds=30.0):
    """Wait for something to be so."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError("it never was so")
        threading.Event().wait(0.01)


class Cluster:
    """Three primaries; slots in equal shares. ``options``: of each server's command line."""

    def __init__(self, *options: str) -> None:
        self.nodes = [
            Valkey("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--cluster-node-timeout", "2000",
                   *options)
            for _ in range(3)
        ]  # fmt: skip
        self.clients = [node.client(decode_responses=True) for node in self.nodes]
        self.ids = [client.execute_command("CLUSTER MYID") for client in self.clients]
        for number, client in enumerate(self.clients):
            first, last = number * 5462, min(number * 5462 + 5461, 16383)
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            for node in self.nodes[:number]:
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, node.options[7])
        until(lambda: all(self._agree(client) for client in self.clients))

    def _agree(self, client: redis.Redis) -> bool:
        info = client.execute_command("CLUSTER INFO")
        return info["cluster_state"] == "ok" and info["cluster_known_nodes"] == "3"

    def client(self, **options) -> redis.RedisCluster:
        return redis.RedisCluster("127.0.0.1", self.nodes[0].port, **options)

    def owner(self, slot: int) -> int:
        """The number of the node that serves a slot, by its own word."""
        for number, client in enumerate(self.clients):
            for first, last, (_, _, found, *_), *_ in client.execute_command("CLUSTER SLOTS", NEVER_DECODE=True):
                if int(first) <= slot <= int(last) and found.decode() == self.ids[number]:
                    return number
        raise LookupError(slot)

    def begin(self, slot: int, to: int) -> int:
        """A slot begins to move; the node that it moves from."""
        source = self.owner(slot)
        self.clients[to].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", self.ids[source])
        self.clients[source].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", self.ids[to])
        return source

    def keys(self, slot: int, node: int, count: int = 1000) -> list[str]:
        return self.clients[node].execute_command("CLUSTER", "GETKEYSINSLOT", slot, count)

    def carry(self, source: int, to: int, keys: list[str]) -> None:
        """Take keys to the node that their slot moves to."""
        self.clients[source].execute_command(
            "MIGRATE", "127.0.0.1", self.nodes[to].port, "", 0, 5000, "REPLACE", "KEYS", *keys
        )

    def end(self, slot: int, to: int) -> None:
        """The slot has moved."""
        for number in (to, *(other for other in range(3) if other != to)):
            self.clients[number].execute_command("CLUSTER", "SETSLOT", slot, "NODE", self.ids[to])

    def move(self, slot: int, to: int, at_once: int = 5, pause: float = 0.0) -> None:
        """Move a slot under way, so many keys at a time."""
        source = self.begin(slot, to)
        while keys := self.keys(slot, source, at_once):
            self.carry(source, to, keys)
            threading.Event().wait(pause)
        self.end(slot, to)

    def stop(self) -> None:
        for client in self.clients:
            with suppress(redis.RedisError):
                client.close()
        for node in self.nodes:
            node.stop()


def slot_of(namespace: str) -> int:
    return key_slot(f"{{{namespace}}}".encode()[1:-1])
