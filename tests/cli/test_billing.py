"""quota report and top, key show's last use: at a terminal, piped, for programs, and left by their readers."""

import csv
import io
import subprocess
import sys
from datetime import date, timedelta

import pytest

from commands import Quota
from quota import Ledger, UsagePlan


@pytest.fixture
def shop():
    """Three keys, two of them of one account, and one that used nothing."""
    quota = Quota()
    quota.ledger.add_plan(UsagePlan("gold", "10/year, 1000 tokens/year"))
    for id_, account, cost in (("ada", "team", 9), ("bob", "team", 2), ("=1+1", None, 5), ("idle", None, 0)):
        key, _ = quota.ledger.issue_key(f"{id_}'s", "gold", id=id_, account=account)
        assert not cost or quota.ledger.consume(key, {"requests": cost, "tokens": 100 * cost})
    return quota


def days(back=1):
    """A span that today is in, whenever a test runs."""
    today = date.today()  # noqa: DTZ011 -- a day more on both sides
    return "--since", today - timedelta(back), "--until", today + timedelta(1)


def test_a_report_as_a_table(shop):
    """Piped in plain columns, at a terminal in a table; nobody who used nothing is in it."""
    assert shop("report", *days()) == 0
    assert [line.split() for line in shop.out.splitlines()] == [
        ["key", "api", "unit", "used"], ["=1+1", "requests", "5"], ["=1+1", "tokens", "500"], ["ada", "requests", "9"],
        ["ada", "tokens", "900"], ["bob", "requests", "2"], ["bob", "tokens", "200"],
    ]  # fmt: skip
    assert shop("report", *days(), "--by", "account", terminal=True) == 0
    assert "team" in shop.out and "1,100" in shop.out and "ada" not in shop.out
    assert shop("report", "--since", "2001-01-01", "--until", "2001-01-31") == 0
    assert shop.out == "nothing was used on these days\n"


def test_a_report_for_programs(shop):
    """CSV whose cells are no formulas, and JSON by its schema."""
    assert shop("report", *days(), "--csv", "--by", "key") == 0
    rows = list(csv.reader(io.StringIO(shop.out)))
    assert rows[:3] == [["key", "api", "unit", "used"], ["'=1+1", "", "requests", "5"], ["'=1+1", "", "tokens", "500"]]
    told = shop.json("report", *days(), "--by", "plan")
    assert told["totals"] == [
        {"id": "gold", "api": "", "unit": "requests", "used": 16}, {"id": "gold", "api": "", "unit": "tokens", "used": 1600},
    ]  # fmt: skip
    assert (told["by"], told["api"]) == ("plan", None)
    assert shop.json("report", "--since", "2001-01-01", "--until", "2001-01-31", "--api", "b")["totals"] == []


def test_a_report_that_cannot_be_meant(shop):
    """One line that says what is wrong."""
    assert "since" in shop.fails("report", "--since", "2026-03-02", "--until", "2026-03-01")
    assert "since" in shop.fails("report", "--since", "March", "--until", "2026-03-01")
    assert "--csv or --json" in shop.fails("report", *days(), "--csv", "--json")
    assert "--most-used" in shop.fails("top", "--unit", "tokens")
    assert "within the program" in shop.fails("top", "--most-refused")


def test_top_tells_who_is_nearest(shop):
    """Each key once, with its fullest limit; those who used nothing, or are on no plan, not at all."""
    shop.ledger.issue_key("nobody", id="nobody")
    told = shop.json("top")
    assert [(one["id"], one["limit"]["name"]) for one in told["nearest"]] == [
        ("ada", "requests/year"), ("=1+1", "requests/year"), ("bob", "requests/year"),
    ]  # fmt: skip
    assert [one["id"] for one in shop.json("top", "--count", "1")["nearest"]] == ["ada"]
    shop.ledger.grant("ada", "requests/year", 90)
    assert shop.json("top", "-n", "1")["nearest"][0]["limit"]["name"] == "tokens/year"
    for terminal in (False, True):
        assert shop("top", terminal=terminal) == 0
        assert shop.out.index("ada") < shop.out.index("bob") and "idle" not in shop.out
    assert Quota()("top") == 0


def test_top_tells_who_used_most(shop):
    """Of one unit, on the days that were asked for; a name where the key is still there."""
    told = shop.json("top", "--most-used", "--unit", "tokens", "-n", "2", *days())
    assert [(one["id"], one["used"], one["name"]) for one in told["most_used"]] == [
        ("ada", 900, "ada's"),
        ("=1+1", 500, "=1+1's"),
    ]
    assert shop("top", "--most-used", *days(), terminal=True) == 0
    assert shop.out.index("ada") < shop.out.index("bob")
    assert shop("top", "--most-used", "--since", "2001-01-01", "--until", "2001-01-02") == 0
    assert "nothing was used" in shop.out


def test_key_show_tells_when_it_was_last_used(shop):
    """To the minute; never, where it was not."""
    assert shop("key", "show", "ada") == 0 and "last used: 2" in shop.out
    assert shop("key", "show", "idle") == 0 and "last used: never" in shop.out
    assert shop.json("key", "show", "ada")["last_used"].endswith(":00+00:00")
    assert shop.json("key", "show", "idle")["last_used"] is None


def test_a_reader_that_leaves_early_ends_a_report(tmp_path):
    """Without a word and without a trace: it has seen enough."""
    with Ledger(f"sqlite:///{tmp_path}/many.db?durability=normal") as ledger:
        ledger.add_plan(UsagePlan("gold", "10/year"))
        for number in range(1300):  # more of them than a pipe holds
            ledger.consume(ledger.issue_key("client", "gold", id=f"{number:060}").key)
    words = [sys.executable, "-m", "quota", "--store", f"sqlite:///{tmp_path}/many.db", "report", *map(str, days())]
    for form in ("--csv", "--json"):
        with subprocess.Popen([*words, form], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as report:
            assert report.stdout.readline()
            report.stdout.close()
            assert (report.wait(), report.stderr.read()) == (0, b"")
