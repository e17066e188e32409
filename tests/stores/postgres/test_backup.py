"""Backup and restore of the schema, by the commands of docs/howto/backup.md."""

import re
import shlex
import subprocess

import paths
import unprivileged
from quota import Ledger, ManualClock, UsagePlan
from servers import postgres

NOON = 1_700_049_600_000_000
PAGE = (paths.ROOT / "docs" / "howto" / "backup.md").read_text("utf-8")


def test_what_is_restored_is_the_copy(server, admin):
    """Dumped while the ledger is open, restored over what came after: counts, keys and plans are those of the copy."""
    folder = unprivileged.made("quota-backup-")
    commands = re.findall(r"^pg_.*$", PAGE, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["pg_dump", "pg_restore"]

    def run(line):
        program, *arguments = shlex.split(line, comments=True)
        told = [
            argument.replace("$DATABASE", server.url).replace("=quota", "=saved").replace("usage.dump", f"{folder}/usage.dump")
            for argument in arguments
        ]  # fmt: skip
        done = subprocess.run(
            [postgres(program), *told], user=unprivileged.USER, cwd=folder, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")

    url = f"{server.url}?namespace=saved"
    with Ledger(url, clock=ManualClock(NOON)) as ledger:
        ledger.add_plan(UsagePlan("p", "10/day"))
        key, secret = ledger.issue_key("k", plan="p")
        assert ledger.consume(secret, 4)
        run(commands[0])
        assert ledger.consume(secret, 3)
        ledger.replace_plan(UsagePlan("p", "7/day"))
        ledger.issue_key("later", plan="p")
    run(commands[1])
    with Ledger(url, clock=ManualClock(NOON)) as ledger:
        assert [found.id for found in ledger.list_keys()] == [key.id]
        assert (ledger.consume(secret, 6).allowed, ledger.consume(secret).allowed) == (True, False)
        assert list(ledger.store.check()) == []
    admin.execute("drop schema saved cascade")
