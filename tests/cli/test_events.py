"""quota events: the outbox as people and as programs see it, and followed as it grows."""

import json
import os
import signal
import subprocess
import sys

import pytest

import paths
from commands import Quota
from quota import Ledger, UsagePlan


@pytest.fixture
def quota():
    return Quota()


def test_the_outbox_is_shown(quota, monkeypatch):
    """By whom, about what, from what to what; pages go on after a cursor."""
    monkeypatch.setenv("QUOTA_ACTOR", "ada")
    assert quota("plan", "add", "gold", "5/day") == 0
    assert quota("key", "issue", "Ada", "--plan", "gold", "--id", "k") == 0
    assert quota("consume", "k", "--cost", "4") == 0
    assert quota("key", "disable", "k") == 0
    found = quota.json("events")["events"]
    assert [event["kind"] for event in found] == ["plan.added", "key.issued", "limit.crossed", "key.disabled"]
    assert [event["kind"] for event in quota.json("events", "--after", "1", "--limit", "2")["events"]] == [
        "key.issued", "limit.crossed",
    ]  # fmt: skip
    assert quota("events") == 0
    header, *rows = quota.out.splitlines()
    assert header.split() == ["cursor", "at", "kind", "by", "about", "what"]
    assert "80 % of requests/day: 4 of 5" in rows[2]
    assert "enabled: True -> False" in rows[3]
    assert quota("events", "--after", "-1") == 2
    assert "after" in quota.err


def test_who_did_it(quota, monkeypatch, tmp_path):
    """Who is named, else who the environment names, else who is logged in; of an import as well."""
    keys = tmp_path / "keys.csv"
    keys.write_text("name,key\nacme,0123456789abcdefghij\n")
    monkeypatch.setattr("quota.cli.common.getuser", lambda: "grace")
    monkeypatch.delenv("QUOTA_ACTOR", raising=False)
    assert quota("plan", "add", "a", "5/day") == 0
    monkeypatch.setenv("QUOTA_ACTOR", "ci")
    assert quota("plan", "add", "b", "5/day") == 0
    assert quota("--actor", "ada", "plan", "add", "c", "5/day") == 0
    assert quota("--actor", "ada", "key", "import", "--csv", str(keys)) == 0
    assert quota("plan", "remove", "c", "--yes") == 0
    assert [(event["kind"], event["actor"]) for event in quota.json("events")["events"]] == [
        ("plan.added", "grace"), ("plan.added", "ci"), ("plan.added", "ada"), ("key.issued", "ada"), ("plan.removed", "ci"),
    ]  # fmt: skip
    assert quota("--actor", "a\nb", "plan", "add", "d", "5/day") == 2
    assert "actor" in quota.err


def test_it_is_followed_until_stopped(tmp_path):
    """Events that come later are lines of their own; Ctrl-C is no error of the program; the actor is who runs it."""
    url = f"sqlite:///{tmp_path / 'usage.db'}"
    with Ledger(url, actor="first") as ledger:
        ledger.add_plan(UsagePlan("p0", "1/day"))
    process = subprocess.Popen(
        [sys.executable, "-m", "quota", "events", "--follow", "--json", "--store", url],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(paths.PACKAGE.parent)},
    )  # fmt: skip
    told = [json.loads(process.stdout.readline())]
    added = [sys.executable, "-m", "quota", "plan", "add", "p1", "1/day", "--store", url]
    environment = {**os.environ, "PYTHONPATH": str(paths.PACKAGE.parent), "QUOTA_ACTOR": "grace"}
    subprocess.run(added, check=True, env=environment, capture_output=True)
    told.append(json.loads(process.stdout.readline()))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert [(event["plan"], event["actor"]) for event in told] == [("p0", "first"), ("p1", "grace")]
    assert (process.returncode, said) == (130, "quota: stopped\n")
