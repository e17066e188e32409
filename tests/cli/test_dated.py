"""quota key attach --at, quota override: changes with a date, and for one customer."""

import pytest

from commands import Quota

OF = pytest.mark.parametrize("of", ["key", "account"])


@pytest.fixture
def shop():
    quota = Quota()
    assert quota("plan", "add", "gold", "10/day, 5/s burst 9, 70/day by account as ours") == 0
    assert quota("plan", "add", "silver", "5/day") == 0
    assert quota("plan", "add", "all", "900/day") == 0
    assert quota("account", "add", "acme", "--plan", "all") == 0
    assert quota("key", "issue", "Ada", "--id", "ada", "--plan", "gold", "--account", "team") == 0
    assert quota("key", "issue", "Bob", "--id", "bob", "--plan", "gold", "--account", "team") == 0
    return quota


@OF
@pytest.mark.parametrize("terminal", [False, True])
def test_a_change_of_plan_with_a_date(shop, terminal, of):
    """Told when it is said and by show; said anew it stands, and detach takes it back."""
    who, on = ("ada", "gold") if of == "key" else ("acme", "all")
    assert shop(of, "attach", who, "silver", "--at", "2999-01-01", terminal=terminal) == 0
    assert "goes to: silver at 2999-01-01 00:00:00Z" in shop.out
    assert f"plans: {on}" in shop.out
    assert shop(of, "attach", who, "silver", "--at", "2999-02-01T06:00+06:00", terminal=terminal) == 0
    assert shop(of, "show", who, terminal=terminal) == 0
    assert shop.out.count("goes to") == 1
    assert "goes to: silver at 2999-02-01 00:00:00Z" in shop.out
    assert shop(of, "detach", who, "silver", terminal=terminal) == 0
    assert "goes to" not in shop.out
    assert f"plans: {on}" in shop.out
    assert shop(of, "attach", who, "silver", "--at", "period-end", terminal=terminal) == 0
    assert "00:00:00Z" in shop.out
    assert shop(of, "attach", who, on, terminal=terminal) == 0
    assert "goes to" not in shop.out


@OF
def test_what_is_scheduled_as_json(shop, of):
    """In the key or the account, wherever it is told, and in the limits that status tells."""
    who, on = ("ada", "gold") if of == "key" else ("acme", "all")
    told = shop.json(of, "attach", who, "silver", "--at", "2999-01-01")
    assert (told["plans"], told["scheduled"]) == ([on], [{"plan": "silver", "at": "2999-01-01T00:00:00+00:00"}])
    assert shop.json(of, "show", who)["scheduled"] == told["scheduled"]
    listed = {one["id"]: one["scheduled"] for one in shop.json(of, "list")[f"{of}s"]}
    assert listed == {who: told["scheduled"]} | ({"bob": []} if of == "key" else {"team": []})
    if of == "account":
        assert shop.json("account", "tree")["accounts"][0]["scheduled"] == told["scheduled"]
        assert shop.json("account", "show", "acme")["limits"][0]["scheduled"] == told["scheduled"][0]


@OF
def test_a_date_that_cannot_be_meant(shop, of):
    """One line, and nothing is changed."""
    who = "ada" if of == "key" else "acme"
    for wrong in ("2001-01-01", "month-end", "0d"):
        assert "at: " in shop.fails(of, "attach", who, "silver", "--at", wrong)
    assert shop.json(of, "show", who)["scheduled"] == []


@pytest.mark.parametrize("terminal", [False, True])
def test_a_limit_of_one_s_own(shop, terminal):
    """Units or a throttle, for a key or an account, until a date; taken back."""
    assert shop("override", "Ada", "requests/day", "25", "--until", "2999-01-01", terminal=terminal) == 0
    assert "25" in shop.out
    assert shop.json("override", "ada", "throttle", "50/s burst 60")["limit"] == 60
    assert shop.json("override", "team", "ours", "90")["holder"] == "team"
    assert [limit.limit for limit in shop.ledger.status("ada")] == [25, 60, 90]
    assert [limit.limit for limit in shop.ledger.status("bob")] == [10, 9, 90]
    assert shop("override", "ada", "requests/day", "--clear", terminal=terminal) == 0
    assert shop.json("override", "team", "ours", "--clear")["limit"] == 70


def test_what_no_override_can_be(shop):
    """One line says why; nothing is changed."""
    for wrong, said in [
        (("requests/day",), "--clear"), (("requests/day", "5", "--clear"), "--clear"), (("requests/day", "--clear", "--until", "9d"), "--clear"),
        (("requests/day", "5/day"), "a number of units"), (("requests/day", "5/s"), "units of a quota"), (("throttle", "5"), "a Throttle"),
        (("nothing", "5"), "requests/day"), (("requests/day", "5", "--until", "2001-01-01"), "still to come"),
    ]:  # fmt: skip
        assert said in shop.fails("override", "ada", *wrong)
    assert "nobody" in shop.fails("override", "nobody", "requests/day", "5")
    assert [limit.limit for limit in shop.ledger.status("ada")] == [10, 9, 70]
