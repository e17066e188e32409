"""The command line on a SQLite file: what only this store has."""

import json

import pytest

from quota.cli import main
from quota.stores.sqlite.schema import STEPS


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "usage.db")


@pytest.mark.parametrize("prefix", ["", "leased+"])
def test_the_command_line_works_on_a_file(path, tmp_path, capsys, prefix):
    """migrate, check, prune and backup; everything else as on any store, behind leases too."""
    url = f"{prefix}sqlite:///{path}"

    def json_of(*arguments):
        assert main([*arguments, "--store", url, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    assert json_of("store", "migrate") == {"migrated": True, "version": len(STEPS)}
    assert json_of("plan", "add", "p", "2/day")["id"] == "p"
    issued = json_of("key", "issue", "Ann", "--plan", "p")
    (tmp_path / "secret").write_text(issued["secret"])
    assert json_of("store", "check") == {"ok": True, "problems": [], "plans": 1, "keys": 1}
    assert json_of("store", "prune") == {"pruned": 0}
    copy = tmp_path / "copy.db"
    assert json_of("store", "backup", str(copy)) == {"backup": str(copy), "bytes": copy.stat().st_size}
    assert main(["store", "backup", str(copy), "--store", url]) == 2
