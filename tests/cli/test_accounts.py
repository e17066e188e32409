"""quota account: a company, its teams and their keys, made, shown, moved and removed, at a terminal and piped."""

import re

import pytest

from commands import Quota


@pytest.fixture
def shop():
    """Acme with two teams; two of its keys have used something."""
    quota = Quota()
    for line in (
        ("plan", "add", "company", "1000/day, 50 tokens/day"), ("plan", "add", "team", "600/day"),
        ("plan", "add", "each", "500/day, 100/minute by account as burst"),
        ("account", "add", "acme", "--name", "Acme Ltd", "--plan", "company"),
        ("account", "add", "search", "--parent", "acme", "--plan", "team"),
        ("account", "add", "maps", "--parent", "acme", "--meta", "crm=7"),
        ("account", "add", "idle"),
        ("key", "issue", "Search key", "--id", "s", "--plan", "each", "--account", "search"),
        ("key", "issue", "Maps key", "--id", "m", "--plan", "each", "--account", "maps"),
        ("key", "issue", "search", "--id", "named", "--account", "maps"),
        ("consume", "s", "--cost", "90 requests, 40 tokens"), ("consume", "m", "--cost", "5"),
    ):  # fmt: skip
        assert quota(*line) == 0, quota.err
    return quota


def test_accounts_are_added_and_shown(shop):
    """With what was said of them, those above and where their limits stand; an equal one again changes nothing."""
    told = shop.json("account", "show", "search")
    assert (told["parent"], told["plans"]) == ("acme", ["team"])
    assert [(one["name"], one["used"], one["holder"]) for one in told["limits"]] == [
        ("burst", 90, "search"), ("search: requests/day", 90, "search"), ("acme: requests/day", 95, "acme"),
        ("acme: tokens/day", 40, "acme"),
    ]  # fmt: skip
    assert shop("account", "show", "maps") == 0
    assert [line.strip() for line in shop.out.splitlines()[:6]] == [
        "account maps (maps)", "below: acme", "plans: none", "keys: 2", "accounts right below: 0", "meta crm: 7",
    ]  # fmt: skip
    assert shop.json("account", "add", "acme", "--name", "Acme Ltd")["plans"] == ["company"]
    assert "another account has this id" in shop.fails("account", "add", "acme")
    assert "usage plan" in shop.fails("account", "add", "new", "--plan", "nothing")
    assert "two of these" in shop.fails("account", "add", "new", "--plan", "each", "--plan", "team")
    assert "NAME=VALUE" in shop.fails("account", "add", "new", "--meta", "crm")
    assert [one["id"] for one in shop.json("account", "list")["accounts"]] == ["acme", "idle", "maps", "search"]


def test_accounts_are_listed_by_pages(shop):
    """All, those right below one, and a page."""
    ids = lambda *options: [one["id"] for one in shop.json("account", "list", *options)["accounts"]]  # noqa: E731
    assert ids("--parent", "acme") == ["maps", "search"]
    assert ids("--after", "idle", "--limit", "1") == ["maps"]
    assert shop("account", "list") == 0
    assert [line.split() for line in shop.out.splitlines()[:2]] == [
        ["account", "name", "parent", "plans"], ["acme", "Acme", "Ltd", "company"],
    ]  # fmt: skip
    assert "no account has the id 'x'" in shop.fails("account", "list", "--parent", "x")


TREE = """
account           plans    limit         used     of                        resets
acme (Acme Ltd)   company  requests/day    95  1,000  ██░░░░░░░░░░░░░░░░░░
│                          tokens/day      40     50  ████████████████░░░░
├─ maps                    burst            5    100  █░░░░░░░░░░░░░░░░░░░
└─ search         team     burst           90    100  ██████████████████░░
                           requests/day    90    600  ███░░░░░░░░░░░░░░░░░
idle
"""


def test_the_tree_tells_where_each_stands(shop):
    """Each limit on the account that counts it; with --keys their own; without box characters where there are none."""
    assert shop("account", "tree") == 0
    shown = [re.sub(r" in \d.*", "", line) for line in shop.out.splitlines()]
    assert [line.split() for line in shown] == [line.split() for line in TREE.strip().splitlines()]
    assert shop("account", "tree", encoding="ascii") == 0
    assert "|- maps" in shop.out and "`- search" in shop.out and "|    " in shop.out
    assert shop("account", "tree", "acme", "--keys", terminal=True) == 0
    assert "idle" not in shop.out and "key s (Search key)" in shop.out and "key named (search)" in shop.out
    (acme,) = shop.json("account", "tree", "acme", "--keys")["accounts"]
    assert [(one["id"], one["plans"], [key["id"] for key in one["keys"]]) for one in acme["below"]] == [
        ("maps", [], ["m", "named"]), ("search", ["team"], ["s"]),
    ]  # fmt: skip
    assert [(one["name"], one["used"]) for one in acme["limits"]] == [
        ("acme: requests/day", 95), ("acme: tokens/day", 40),
    ]  # fmt: skip
    assert [(one["name"], one["used"]) for one in acme["below"][1]["keys"][0]["limits"]] == [("requests/day", 90)]
    assert "keys" not in shop.json("account", "tree")["accounts"][0]
    assert "no account has the id" in shop.fails("account", "tree", "nobody")
    empty = Quota()
    assert empty("account", "tree") == 0
    assert empty.out == "there are no accounts; 'quota account add' makes one\n"
    assert empty.json("account", "tree") == {"accounts": []}


def test_accounts_are_moved_changed_and_removed(shop):
    """What the tree does not allow is one line, and changes nothing."""
    told = shop.json("account", "update", "search", "--parent", "idle", "--name", "Search team", "--meta", "a=b")
    assert (told["parent"], told["name"], told["metadata"], told["plans"]) == (
        "idle",
        "Search team",
        {"a": "b"},
        ["team"],
    )
    assert shop("consume", "s") == 0
    assert shop.json("account", "tree", "acme")["accounts"][0]["limits"][0]["used"] == 95
    told = shop.json("account", "update", "search", "--no-parent", "--no-meta")
    assert (told["parent"], told["name"], told["metadata"]) == (None, "Search team", {})
    assert "not both" in shop.fails("account", "update", "search", "--no-parent", "--parent", "acme")
    assert "not both" in shop.fails("account", "update", "search", "--no-meta", "--meta", "a=b")
    assert "not below 'acme'" in shop.fails("account", "update", "acme", "--parent", "maps")
    assert "'maps' is below it" in shop.fails("account", "remove", "acme")
    assert "is a key of it" in shop.fails("account", "remove", "maps")
    assert "no account has the id 's'" in shop.fails("account", "remove", "s")
    assert shop.json("account", "remove", "idle") == {"removed": "idle"}
    assert shop("account", "remove", "search", terminal=True, data="n\n") == 130
    for key in ("m", "named"):
        assert shop("key", "remove", key) == 0
    assert shop("account", "remove", "maps", "--yes", terminal=True) == 0
    assert "removed account maps (maps)" in shop.out


def test_keys_and_accounts_are_erased(shop):
    """Asked for at a terminal; a removed key too; an id of nothing, of an account, or of one with others below is one line."""
    assert shop("key", "erase", "m", terminal=True, data="n\n") == 130
    assert "erase key m (Maps key), its usage by day and its events, for good?" in shop.err
    assert shop("key", "erase", "m", terminal=True, data="y\n") == 0
    assert shop.out.endswith("erased key m (Maps key)\n")
    assert "no API key has the id 'm'" in shop.fails("key", "erase", "m")
    assert shop("key", "remove", "s") == 0
    assert shop.json("key", "erase", "s") == {"erased": "s"}
    assert "no API key has the id 'idle'" in shop.fails("key", "erase", "idle")
    assert "'maps' is below it" in shop.fails("account", "erase", "acme")
    assert shop("account", "erase", "maps", terminal=True, data="n\n") == 130
    assert "erase account maps (maps), its 1 key, their usage by day and its events, for good?" in shop.err
    for account in ("maps", "search", "acme"):
        assert shop.json("account", "erase", account) == {"erased": account}
    assert "no account has the id 'acme'" in shop.fails("account", "erase", "acme")
    assert {one["kind"] for one in shop.json("events")["events"]} == {"plan.added", "account.added", "erased"}
    assert [one["id"] for one in shop.json("account", "list")["accounts"]] == ["idle"]


def test_accounts_go_on_plans_and_off_them(shop):
    """At once; a plan that is removed says whom it limited."""
    assert shop.json("account", "attach", "maps", "team")["plans"] == ["team"]
    assert shop("plan", "show", "team") == 0
    assert "accounts: 2" in shop.out
    assert "not on this plan" in shop.fails("account", "detach", "maps", "company")
    assert shop.json("account", "detach", "maps", "team")["plans"] == []
    assert shop("plan", "remove", "team", terminal=True, data="n\n") == 130
    assert "1 account on it will be limited by it no more" in shop.err
    assert shop.json("plan", "remove", "team")["accounts"] == ["search"]
    assert shop.json("account", "show", "search")["plans"] == []


def test_what_is_of_a_key_is_of_an_account(shop):
    """usage, grant, set-remaining, override, reservation list, account forget: by the account's id."""
    told = shop.json("usage", "acme")
    assert (told["account"]["id"], [(one["limit"], one["used"]) for one in told["days"]]) == (
        "acme", [("acme: requests/day", 95), ("acme: tokens/day", 40)],
    )  # fmt: skip
    assert shop("usage", "acme") == 0
    assert shop.out.startswith("acme (Acme Ltd) on company\n") and "acme: requests/day, used by day" in shop.out
    assert shop.json("grant", "acme", "requests/day", "5")["remaining"] == 910
    assert shop.json("set-remaining", "acme", "requests/day", "10")["remaining"] == 10
    assert shop.json("override", "acme", "tokens/day", "60")["limit"] == 60
    assert shop.json("reservation", "list", "acme") == {"reservations": []}
    assert "the key named has this id or name too" in shop.fails("usage", "search")
    assert shop("key", "update", "named", "--name", "another") == 0
    assert shop.json("usage", "search")["account"]["id"] == "search"
    assert shop("account", "forget", "acme") == 0
    assert shop.out.startswith("forgot the counts of acme (Acme Ltd)\n")
    assert shop.json("account", "show", "search")["limits"][2]["used"] == 0
    assert shop.json("account", "show", "search")["limits"][1]["used"] == 90
    assert "no account has the id 'm'" in shop.fails("account", "forget", "m")
