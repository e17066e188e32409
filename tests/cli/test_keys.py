"""quota key issue --csv, list by pages, update: what an operator does with many keys, and with one."""

import csv
import os
import stat

import pytest

from commands import Quota


@pytest.fixture
def shop():
    quota = Quota()
    assert quota("plan", "add", "gold", "10/day") == 0
    return quota


def test_names_in_names_and_secrets_out(shop, tmp_path):
    """A key for each name, on the plan, in a file that its owner alone can read; its secrets work and are shown nowhere."""
    names = [f"user {number}" for number in range(300)] + ['Zoë, "the first"', "ключ"]
    with (tmp_path / "names.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerows([["team", "Name"], *(["x", name] for name in names), []])
    out = tmp_path / "secrets.csv"
    assert (
        shop(
            "key",
            "issue",
            "--csv",
            tmp_path / "names.csv",
            "--out",
            out,
            "--plan",
            "gold",
            "--account",
            "team",
            "--prefix",
            "shop",
        )
        == 0
    )
    assert "issued 302 keys" in shop.out and str(out) in "".join(shop.out.split())
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    header, *made = csv.reader(out.read_text("utf-8").splitlines())
    assert header == ["Name", "Key", "Id"]
    assert [row[0] for row in made] == names
    assert not any(secret in shop.out + shop.err for _, secret, _ in made)
    for name, secret, id_ in made[::100]:
        decision = shop.ledger.peek(secret)
        assert (decision.key.id, decision.key.name, decision.key.account, decision.plan.id) == (
            id_,
            name,
            "team",
            "gold",
        )
        assert secret.startswith("shop_")
    told = shop.json("key", "issue", "--csv", "-", "--out", tmp_path / "more.csv", data="name\nA\n")
    assert [one["name"] for one in told["issued"]] == ["A"]
    again = Quota()
    assert again("key", "import", "--csv", out) == 0, "the file is what an import reads"


@pytest.mark.parametrize(("text", "said"), [
    ("", "Name"), ("User\na\n", "Name"), ("Name,name\na,b\n", "Name"), ("Name\n", "no names"), ("Name\na\n\tb\x07\n", "name 2"),
    ("Name\n" + "x\n" * 10_001, "10000"),
])  # fmt: skip
def test_names_that_cannot_be_read_make_nothing(shop, tmp_path, text, said):
    """No key, no file; the message shows no cell."""
    message = shop.fails("key", "issue", "--csv", "-", "--out", tmp_path / "out.csv", "--plan", "gold", data=text)
    assert said in message
    assert not (tmp_path / "out.csv").exists() and shop.ledger.list_keys() == []


def test_a_key_without_a_plan_is_said_to_be_refused(shop):
    """Beside its secret, with what to do; and of one on a plan nothing is said."""
    assert shop("key", "issue", "a", "--plan", "gold") == 0
    assert "no plan" not in shop.err
    assert shop("key", "issue", "b", "--id", "b2") == 0
    assert "it is on no plan, so its calls are refused; put it on one: quota key attach b2 PLAN" in shop.err
    assert len(shop.out.split()) == 1
    assert shop.fails("key", "show", "c") == "quota: no API key has the id 'c' or that name"


def test_a_file_is_never_replaced_and_no_key_is_left_behind(shop, tmp_path, monkeypatch):
    """A file that is there stays as it is; a plan that is not there, a disk that is full: no file and no key."""
    out = tmp_path / "out.csv"
    out.write_text("somebody's secrets")
    issue = ("key", "issue", "--csv", "-", "--out")
    assert "is there already" in shop.fails(*issue, out, data="Name\na\n")
    assert out.read_text() == "somebody's secrets"
    new = tmp_path / "new.csv"
    assert "nowhere" in shop.fails(*issue, new, "--plan", "nowhere", data="Name\na\n")
    assert "No such file" in shop.fails(*issue, tmp_path / "no" / "folder.csv", data="Name\na\n")
    assert "go with them" in shop.fails(*issue, new, "--id", "x", data="Name\na\n")
    assert "a key has a name" in shop.fails("key", "issue")
    assert "one plan" in shop.fails(*issue, new, "--plan", "gold", "--plan", "gold", data="Name\na\n")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "removed again" in shop.fails(*issue, new, data="Name\na\n", status=74)
    assert not new.exists() and shop.ledger.list_keys() == []


def test_keys_are_listed_by_pages(shop):
    """--limit and --after, with --plan and --account or not."""
    for number in range(7):
        shop.ledger.issue_key(
            f"n{number}", "gold" if number % 2 else None, id=f"k{number}", account="even" if number in (0, 2) else None
        )
    ids = lambda *options: [key["id"] for key in shop.json("key", "list", *options)["keys"]]  # noqa: E731
    assert ids("--limit", "3") == ["k0", "k1", "k2"]
    assert ids("--limit", "3", "--after", "k2") == ["k3", "k4", "k5"]
    assert ids("--plan", "gold", "--after", "k1") == ["k3", "k5"]
    assert ids("--account", "even", "--limit", "1", "--after", "k0") == ["k2"]
    assert "limit" in shop.fails("key", "list", "--limit", "0")


def test_a_key_is_updated(shop):
    """What is given takes the place of what there was, the rest stays; --address and --scope ask as a program would."""
    assert (
        shop(
            "key",
            "issue",
            "Ada",
            "--plan",
            "gold",
            "--id",
            "ada",
            "--network",
            "203.0.113.0/24",
            "--scope",
            "read",
            "--meta",
            "a=b",
        )
        == 0
    )
    made = shop.json("key", "show", "ada")
    assert (made["networks"], made["scopes"]) == (["203.0.113.0/24"], ["read"])
    assert shop("check", "ada", "--address", "203.0.113.7", "--scope", "read") == 0
    assert shop("check", "ada") == 1 and "--address" in shop.out
    assert shop("consume", "ada", "--address", "203.0.113.7", "--scope", "write") == 1
    assert "SCOPE_NOT_ALLOWED" in shop.out
    changed = shop.json(
        "key", "update", "ada", "--name", "Ada L.", "--network", "10.0.0.0/8", "--network", "::1", "--expires", "30d"
    )
    assert (changed["name"], changed["networks"], changed["scopes"], changed["metadata"]) == (
        "Ada L.",
        ["10.0.0.0/8", "::1/128"],
        ["read"],
        {"a": "b"},
    )
    assert changed["expires_at"] is not None
    changed = shop.json("key", "update", "ada", "--any-network", "--no-scope", "--no-meta", "--expires", "never")
    assert (changed["networks"], changed["scopes"], changed["metadata"], changed["expires_at"]) == ([], [], {}, None)
    assert shop("key", "update", "ada", "--scope", "x", "--network", "192.0.2.1") == 0
    assert "network: 192.0.2.1/32" in shop.out and "scope: x" in shop.out
    assert "not both" in shop.fails("key", "update", "ada", "--scope", "x", "--no-scope")
    assert "10.0.0.0/8 for the network" in shop.fails("key", "update", "ada", "--network", "10.0.0.1/8")
