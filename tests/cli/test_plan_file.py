"""quota plan export, sync: all usage plans as a TOML file."""

import json
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands import Quota
from quota import Ledger, PlanConflict, UsagePlan
from quota.cli.plans.file import apply, from_toml, plan_changes, to_toml
from quota.clock import DAY_US, system_clock, to_datetime
from quota.stores.memory import MemoryStore
from quota.stores.sqlite import SQLiteStore
from quota.testing.strategies import FOCUS, plans

FILE = """
[plans.gold]
limits = ["10000/day", "50/s burst 100"]
name = "Gold"
alerts = [50]

[plans.gold.routes]
"GET /export" = ["3/day as exports"]

[plans.gold.costs]
"GET /search" = 20
"GET /tokens" = { requests = 1, tokens = 20 }

[plans."free tier"]
limits = "100/day"
"""


@pytest.fixture
def shop():
    quota = Quota()
    assert quota("plan", "add", "gold", "5000/day, 50/s burst 100") == 0
    assert quota("plan", "add", "old", "7/day") == 0
    assert quota("key", "issue", "Ada", "--id", "ada", "--plan", "gold") == 0
    assert quota("key", "issue", "Bob", "--id", "bob", "--plan", "old") == 0
    return quota


@given(st.data())
def test_a_file_says_all_of_its_plans(data):
    """Round trip: whatever plans are written, the same ones are read; what is written is TOML by the standard library."""
    found = {plan.id: plan for plan in data.draw(st.lists(st.sampled_from(sorted(FOCUS)).flatmap(plans), max_size=4))}
    odd = data.draw(
        st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=8).filter(
            str.isprintable
        )
    )
    found[odd] = UsagePlan(
        odd, "5/day", name=odd, api=odd, routes={odd: "1/s"}, costs={odd: {"tokens": 3}}, metadata={odd: odd}
    )
    text = to_toml(found.values())
    assert {plan.id: plan for plan in from_toml("file", text)} == found
    tomllib.loads(text)


@pytest.mark.parametrize("terminal", [False, True])
def test_what_would_change_is_shown_and_nothing_is_changed(shop, terminal):
    """By plan: what it is, for how many keys, each field from what to what."""
    assert shop("plan", "sync", "-", "--dry-run", "--prune", data=FILE, terminal=terminal) == 0
    words = " ".join(shop.out.split())
    for said in (
        "gold",
        "replace",
        "10000/day",
        "free tier",
        "add",
        "100/day",
        "old",
        "remove",
        "on no plan",
        "nothing was changed: --dry-run",
    ):
        assert said in words, shop.out
    assert [plan.id for plan in shop.ledger.list_plans()] == ["gold", "old"]
    assert shop.ledger.get_plan("gold").limits[0].limit == 5000


def test_a_sync_makes_all_changes_and_a_second_one_none(shop):
    """What the file does not have stays, but with --prune; what was used stays used."""
    key = shop.ledger.get_key("ada")
    assert shop.ledger.consume(key, 3)
    told = shop.json("plan", "sync", "-", data=FILE)
    assert [(one["plan"], one["change"], one["keys"]) for one in told["changes"]] == [
        ("gold", "replace", 1),
        ("free tier", "add", 0),
    ]
    assert told["applied"]
    assert told["changes"][0]["fields"]["alerts"] == [[80, 100], [50]]
    assert shop.ledger.status(key)[0].remaining == 9997
    assert shop.json("plan", "sync", "-", data=FILE)["changes"] == []
    assert shop("plan", "sync", "-", data=FILE) == 0
    assert shop.out.strip() == "nothing to change"
    assert [one["plan"] for one in shop.json("plan", "sync", "-", "--prune", data=FILE)["changes"]] == ["old"]
    assert sorted(plan.id for plan in shop.ledger.list_plans()) == ["free tier", "gold"]


@pytest.mark.parametrize("terminal", [False, True])
def test_what_is_exported_is_what_is_synced(shop, terminal):
    """On another store the same plans; on this one nothing to change."""
    assert shop("plan", "sync", "-", "--yes", data=FILE) == 0
    assert shop("plan", "export", terminal=terminal) == 0
    text = shop.out
    assert shop("plan", "sync", "-", "--prune", data=text) == 0
    assert "nothing to change" in shop.out
    other = Quota()
    assert other("plan", "sync", "-", data=text) == 0
    assert other.ledger.list_plans() == shop.ledger.list_plans()
    assert shop.json("plan", "export")["plans"] == [plan.to_dict() for plan in shop.ledger.list_plans()]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[plans.gold\n", "TOML"), ("[gold]\nlimits = '5/day'\n", "[plans.ID]"), ("[plans.gold]\nname = 'x'\n", "a table with limits"),
        ("[plans.gold]\nlimits = '5/fortnight'\n", "plan gold: "), ("[plans.gold]\nlimits = '5/day'\nlimit = 3\n", "plan gold"),
        ("[plans.gold]\nlimits = 5\n", "plan gold: limits"), ("plans = 3\n", "[plans.ID]"),
        ("[plans.new]\nlimits = '5/day'\n[plans.gold]\nlimits = '5/day'\ncosts = {x = 9}\n", "plan gold: costs"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_meant(shop, text, said):
    """One line that names the plan and the field; nothing is changed."""
    assert said in shop.fails("plan", "sync", "-", data=text)
    assert [plan.id for plan in shop.ledger.list_plans()] == ["gold", "old"]


def test_a_change_that_would_put_a_key_on_two_plans_of_an_api_is_refused(shop):
    """Before anything is changed, in a dry run too; it says which key."""
    shop.ledger.add_plan(UsagePlan("b", "5/day", api="b"))
    shop.ledger.associate("ada", "b")
    text = "[plans.new]\nlimits = '5/day'\n[plans.b]\nlimits = '5/day'\n"
    for more in ((), ("--dry-run",)):
        assert shop("plan", "sync", "-", *more, data=text) == 2
        assert "key ada has another plan for the api ''" in shop.err
    assert [plan.id for plan in shop.ledger.list_plans()] == ["b", "gold", "old"]


def test_a_plan_for_several_apis(shop):
    """Said by options or in a file, shown, and told where a key's usage is; a plan that would meet another is refused."""
    assert shop("plan", "add", "wide", "9/day", "--api", "maps", "--api", "search") == 0
    assert shop("plan", "show", "wide") == 0
    assert "api: maps, search" in shop.out
    assert shop("plan", "list", "--json") == 0
    assert [plan.get("apis") for plan in json.loads(shop.out)["plans"]] == [None, None, ["maps", "search"]]
    assert shop("key", "attach", "ada", "wide") == 0
    assert shop("usage", "ada", "--api", "search") == 0
    assert "on gold, wide for maps and search" in shop.out
    assert shop("usage", "ada", "--api", "other") == 0
    assert "'maps' (plan wide), 'search' (plan wide)" in shop.out
    assert shop("plan", "export") == 0
    text = shop.out
    assert 'apis = ["maps", "search"]' in text
    assert shop("plan", "sync", "-", data=text) == 0
    assert "nothing to change" in shop.out
    assert shop("plan", "sync", "-", "--yes", data="[plans.old]\nlimits = '7/day'\napis = ['search', 'more']\n") == 0
    assert shop("plan", "sync", "-", data="[plans.gold]\nlimits = '7/day'\napis = ['', 'search']\n") == 2
    assert "'gold': key ada has another plan for the api 'search'" in shop.err


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_all_or_nothing(kind, tmp_path):
    """Somebody was faster with the last plan: in a SQLite file nothing is changed; elsewhere it is said, and goes on."""
    ledger = Ledger(MemoryStore() if kind == "memory" else SQLiteStore(tmp_path / "q.db"))
    with ledger:
        for plan in (UsagePlan("p", "5/day"), UsagePlan("q", "6/day")):
            ledger.add_plan(plan)
        wanted = [UsagePlan("a", "1/day"), UsagePlan("p", "50/day"), UsagePlan("q", "60/day")]
        changes = plan_changes(ledger, wanted, prune=True)
        ledger.replace_plan(UsagePlan("q", "7/day"))
        with pytest.raises(Exception, match="changed meanwhile") as raised:
            apply(ledger, changes)
        if kind == "sqlite":
            assert raised.type is PlanConflict
            assert [str(plan) for plan in ledger.list_plans()] == ["5/day", "7/day"]
        else:
            assert "2 of 3 changes are made" in str(raised.value)
        apply(ledger, plan_changes(ledger, wanted, prune=True))
        assert ledger.list_plans() == wanted


def test_accounts_and_dated_changes_are_counted_and_named(shop):
    """Whose plan it is, and who goes to it at a date: keys by their number, accounts and dates by name."""
    shop.ledger.add_account("acme")
    shop.ledger.associate(shop.ledger.get_account("acme"), "gold")
    shop.ledger.add_account("team")
    at = to_datetime(system_clock() + 40 * DAY_US).replace(microsecond=0)
    shop.ledger.associate("bob", "gold", at=at)
    shop.ledger.associate(shop.ledger.get_account("team"), "gold", at=at)
    (change,) = shop.json("plan", "sync", "-", "--dry-run", data="[plans.gold]\nlimits = '5/day'\n")["changes"]
    assert (change["keys"], change["accounts"]) == (1, ["acme"])
    later = at.isoformat()
    assert change["going"] == [{"key": "bob", "at": later}, {"account": "team", "at": later}]
    for terminal in (False, True):
        assert shop("plan", "sync", "-", "--dry-run", data="[plans.gold]\nlimits = '5/day'\n", terminal=terminal) == 0
        words = " ".join(shop.out.split())
        for said in ("acme", f"key bob at {later[:10]}", f"account team at {later[:10]}"):
            assert said in words, shop.out


@pytest.mark.parametrize("who", ["key", "account"])
def test_a_plan_that_something_goes_to_at_a_date_is_not_pruned(shop, who):
    """It is said in a dry run too, and nothing is changed, not even what else the file says."""
    shop.ledger.add_account("acme")
    at = to_datetime(system_clock() + 40 * DAY_US)
    shop.ledger.add_plan(UsagePlan("next", "9/day"))
    holder = "ada" if who == "key" else shop.ledger.get_account("acme")
    shop.ledger.associate(holder, "next", at=at)
    before = shop.ledger.list_plans()
    for more in (("--dry-run",), ()):
        assert shop("plan", "sync", "-", "--prune", *more, data=FILE) == 2
        told = f"'next': {who} {'ada' if who == 'key' else 'acme'} goes to it at {at:%Y-%m-%d %H:%M:%S}Z"
        assert told in shop.err, shop.err
    assert shop.ledger.list_plans() == before
    shop.ledger.dissociate(holder, "next")
    assert shop("plan", "sync", "-", "--prune", data=FILE) == 0
    assert [plan.id for plan in shop.ledger.list_plans()] == ["free tier", "gold"]


@pytest.mark.parametrize("who", ["key", "account"])
def test_what_the_store_would_refuse_is_told_beforehand(shop, who):
    """Of accounts as of keys, of plans that are gone to as of those of now, and in the order of the changes."""
    shop.ledger.add_account("acme")
    holder = "ada" if who == "key" else shop.ledger.get_account("acme")
    for plan in (UsagePlan("b", "5/day", api="b"), UsagePlan("c", "5/day", api="c"), UsagePlan("d", "5/day", api="d")):
        shop.ledger.add_plan(plan)
    for id_ in ("b", "c"):
        shop.ledger.associate(holder, id_)
    shop.ledger.associate(holder, "d", at=to_datetime(system_clock() + 40 * DAY_US))
    named = f"{who} {'ada' if who == 'key' else 'acme'}"
    for data, said in (
        ("[plans.b]\nlimits = '5/day'\napi = 'c'\n", f"'b': {named} has another plan for the api 'c'"),
        ("[plans.d]\nlimits = '5/day'\napis = ['b', 'c']\n", f"'d': {named} has several plans for its apis"),
        # What is left of both is one plan for each api, and on the way there are two.
        ("[plans.b]\nlimits = '5/day'\napi = 'c'\n[plans.c]\nlimits = '5/day'\napi = 'b'\n", f"'b': {named} has another"),
    ):  # fmt: skip
        for more in (("--dry-run",), ()):
            assert shop("plan", "sync", "-", *more, data=data) == 2, shop.out
            assert said in shop.err
    assert [plan.apis for plan in shop.ledger.list_plans()] == [("b",), ("c",), ("d",), ("",), ("",)]


def test_who_goes_to_a_plan_is_told_before_it_is_removed(shop):
    """By show, and by remove, whose answer as JSON names them."""
    shop.ledger.add_plan(UsagePlan("next", "9/day"))
    shop.ledger.associate("ada", "next", at=to_datetime(system_clock() + 40 * DAY_US))
    assert shop("plan", "show", "next") == 0
    assert "going to it: key ada at " in shop.out
    assert shop.json("plan", "remove", "next")["going"][0]["key"] == "ada"
    assert shop.ledger.get_key("ada").scheduled == ()
    shop.ledger.add_plan(UsagePlan("next", "9/day"))
    shop.ledger.associate("ada", "next", at=to_datetime(system_clock() + 40 * DAY_US))
    assert shop("plan", "remove", "next") == 0
    assert "removed plan next; dropped with it: key ada at " in shop.out
