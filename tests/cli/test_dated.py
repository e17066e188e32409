"""quota key attach --at, quota override: changes with a date, and for one customer."""

import re

import pytest

from commands import Quota
from quota import UsagePlan
from quota.clock import DAY_US, system_clock, to_datetime

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
        (("requests/day", "5/day"), "a number of units"), (("requests/day", "5/s"), "units of a quota"), (("throttle", "5"), "a throttle"),
        (("nothing", "5"), "requests/day"), (("requests/day", "5", "--until", "2001-01-01"), "still to come"),
    ]:  # fmt: skip
        assert said in shop.fails("override", "ada", *wrong)
    assert shop.fails("override", "nobody", "requests/day", "5") == (
        "quota: no API key has the id 'nobody' or that name, and no account that id"
    )
    wanted = "VALUE: '5' is not accepted; expected a throttle such as '5/s burst 10'"
    assert wanted in shop.fails("override", "ada", "throttle", "5")
    wanted = "VALUE: '5/s' is not accepted; expected units of a quota"
    assert wanted in shop.fails("override", "ada", "requests/day", "5/s")
    assert [limit.limit for limit in shop.ledger.status("ada")] == [10, 9, 70]


@pytest.mark.parametrize("terminal", [False, True])
def test_usage_tells_dated_changes_of_the_key_and_of_its_accounts(shop, terminal):
    """The key's, its account's and those of the accounts above; an account's own and those above it."""
    shop.ledger.update_account("team", parent="acme")
    for of, who in (("key", "ada"), ("account", "team"), ("account", "acme")):
        assert shop(of, "attach", who, "silver", "--at", "2999-01-01") == 0
    assert shop("usage", "ada", terminal=terminal) == 0
    lines = [line for line in re.sub(r"\x1b\[\d*m", "", shop.out).splitlines() if "silver" in line]
    assert lines == [
        f"{who}goes to silver at 2999-01-01 00:00:00Z" for who in ("", "account team ", "account acme ")
    ]  # fmt: skip
    assert shop("usage", "bob") == 0
    assert shop.out.count("goes to silver") == 2
    assert shop("usage", "acme") == 0
    assert [line for line in shop.out.splitlines() if "silver" in line] == ["goes to silver at 2999-01-01 00:00:00Z"]


@pytest.mark.parametrize("terminal", [False, True])
def test_usage_tells_until_when_an_override_holds(shop, terminal):
    """Beside the limits, until when or for good; as JSON in each limit."""
    assert shop("override", "ada", "requests/day", "25", "--until", "2999-01-01", terminal=terminal) == 0
    assert "requests/day: 25 in place of its plan's, until 2999-01-01 00:00:00Z" in shop.out
    assert shop("override", "ada", "throttle", "50/s burst 60") == 0
    assert "throttle: 50/second burst 60 in place of its plan's, for good" in shop.out
    assert shop("override", "team", "ours", "90", "--until", "2999-01-01") == 0
    assert shop("usage", "ada", terminal=terminal) == 0
    for said in (
        "requests/day: 25 in place of its plan's, until 2999-01-01 00:00:00Z",
        "throttle: 50/second burst 60 in place of its plan's, for good",
        "ours: 90 in place of its plan's, until 2999-01-01 00:00:00Z",
    ):
        assert said in shop.out
    told = [limit["override"] for limit in shop.json("usage", "ada")["limits"]]
    until = "2999-01-01T00:00:00+00:00"
    own = [{"value": 25, "until": until}, {"value": "50/second burst 60", "until": None}, {"value": 90, "until": until}]
    assert told == own
    assert shop("override", "ada", "requests/day", "--clear") == 0
    assert "in place of" not in shop.out


@pytest.mark.parametrize("terminal", [False, True])
def test_all_overrides_of_one_are_listed(shop, terminal):
    """Of every api and route of its plans, each once; of an account those that are its own."""
    shop.ledger.add_plan(UsagePlan("maps", "7/day", api="maps", routes={"GET /a": "3/day"}))
    shop.ledger.associate("ada", "maps")
    assert shop("override", "ada", terminal=terminal) == 0
    assert "no limits of its own" in shop.out
    assert shop.json("override", "ada") == {"overrides": []}
    shop.ledger.override_limit("ada", "requests/day", 25)
    until = to_datetime(system_clock() + DAY_US)
    shop.ledger.override_limit("ada", "requests/day", 5, until=until, api="maps", route="GET /a")
    shop.ledger.override_limit("team", "ours", 90)
    assert shop("override", "ada", terminal=terminal) == 0
    for said in ("requests/day", "GET /a requests/day", "for good", f"{until:%Y-%m-%d %H:%M:%S}Z", "ours", "team"):
        assert said in shop.out, shop.out
    told = shop.json("override", "ada")["overrides"]
    assert [(one["route"], one["limit"]["name"], one["limit"]["override"]["value"]) for one in told] == [
        (None, "requests/day", 25), (None, "ours", 90), ("GET /a", "GET /a requests/day", 5),
    ]  # fmt: skip
    assert [one["limit"]["name"] for one in shop.json("override", "team")["overrides"]] == ["ours"]
    for more in (("--clear",), ("--until", "9d")):
        assert "LIMIT" in shop.fails("override", "ada", *more)


def test_a_period_s_end_is_said_as_python_says_it_too(shop):
    """--at period_end is --at period-end."""
    told = [shop.json("key", "attach", "ada", "silver", "--at", at)["scheduled"] for at in ("period-end", "period_end")]
    assert told[0] == told[1] != []
    assert "period-end" in shop.fails("key", "attach", "ada", "silver", "--at", "period end")


@pytest.mark.parametrize("terminal", [False, True])
def test_the_usage_of_a_key_that_was_removed(shop, terminal):
    """It is told while it is kept, and that the key was removed; of another id nothing is known."""
    assert shop.ledger.consume(shop.ledger.get_key("ada"), 3)
    shop.ledger.remove_key("ada")
    assert shop("usage", "ada", terminal=terminal) == 0
    assert "ada was removed; its usage is told until the store's retention ends" in shop.out
    assert "requests/day, used by day (UTC)" in shop.out
    told = shop.json("usage", "ada")
    assert (told["removed"], told["limits"], [day["used"] for day in told["days"]]) == ("ada", [], [3])
    assert shop("usage", "ada", "--since", "2001-01-01", "--until", "2001-01-02") == 0
    assert "nothing was used on these days" in shop.out
    assert "nobody" in shop.fails("usage", "nobody")
    shop.ledger.erase("ada")
    assert "ada" in shop.fails("usage", "ada")
