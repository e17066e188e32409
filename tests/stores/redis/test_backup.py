"""Backup and restore of a server, as docs/howto/backup.md says it."""

import shutil

import pytest

from quota import Ledger, ManualClock, UsagePlan
from servers import Valkey

NOON = 1_700_049_600_000_000


@pytest.fixture
def server():
    """A server of its own, with an append-only file."""
    own = Valkey(durable=True)
    yield own
    own.stop()


def test_what_is_restored_is_the_snapshot(server, tmp_path):
    """And not what the append-only file has: it is put aside, and begun anew once the snapshot is loaded."""
    with Ledger(server.url, clock=ManualClock(NOON)) as ledger:
        ledger.add_plan(UsagePlan("p", "10/day"))
        key, secret = ledger.issue_key("k", plan="p")
        assert ledger.consume(secret, 4)
        with server.client() as client:
            client.save()
        shutil.copy(server.folder / "dump.rdb", tmp_path)
        assert ledger.consume(secret, 3)
        ledger.issue_key("later", plan="p")
    server.kill()
    shutil.rmtree(server.folder / "appendonlydir")
    shutil.copy(tmp_path / "dump.rdb", server.folder)
    durable, server.options = server.options, (*server.options, "--appendonly", "no")
    server.start()
    with server.client() as client:
        client.config_set("appendonly", "yes")
    with Ledger(server.url, clock=ManualClock(NOON)) as ledger:
        assert [found.id for found in ledger.list_keys()] == [key.id]
        assert (ledger.consume(secret, 5).allowed, ledger.consume(secret, 2).allowed) == (True, False)
    with server.client() as client:
        told = client.info("persistence")
        while told["aof_rewrite_in_progress"] or told["aof_rewrite_scheduled"]:
            told = client.info("persistence")
    server.kill()
    server.options = durable
    server.start()
    with Ledger(server.url, clock=ManualClock(NOON)) as ledger:
        assert ledger.peek(secret).limits[0].used == 10
