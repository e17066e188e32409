"""quota on the command line: plans, keys, calls and what went wrong, as people and as programs see it."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timedelta, timezone

import pytest

from commands import Quota, validate
from quota import Ledger, ManualClock, UsagePlan
from quota.cli import main
from quota.errors import ClockSkew, StoreBusy, StoreUnavailable
from quota.key import mint


@pytest.fixture
def quota():
    return Quota()


@pytest.fixture
def shop(quota):
    """A plan, and a key on it whose secret is ``shop.secret``."""
    assert (
        quota("plan", "add", "gold", "10/day, 1000/s burst 50", "--route", "GET /x=2/hour as x", "--cost", "GET /y=4")
        == 0
    )
    assert quota("key", "issue", "Ada's laptop", "--plan", "gold", "--id", "ada", "--meta", "team=engines") == 0
    quota.secret = quota.out.strip()
    return quota


def test_a_plan_is_added_shown_replaced_and_removed(quota):
    """In its whole: limits, routes, costs, alerts, api and name."""
    made = quota.json(
        "plan", "add", "gold", "1000/day, 10/s burst 20", "--name", "Gold", "--api", "pets", "--route", "GET /a=b=5/s burst 5",
        "--cost", "GET /export=20", "--cost", "POST /chat=1 requests, 50 tokens", "--alert", "50",
    )  # fmt: skip
    assert made == {
        "id": "gold", "limits": ["1000/day", "10/second burst 20"], "name": "Gold", "api": "pets",
        "routes": {"GET /a=b": ["5/second burst 5"]},
        "costs": {"GET /export": 20, "POST /chat": {"requests": 1, "tokens": 50}}, "alerts": [50], "metadata": {},
    }  # fmt: skip
    assert quota.json("plan", "show", "gold") == made
    assert quota("plan", "show", "gold") == 0
    for text in ("Gold", "pets", "1000/day", "GET /a=b", "20", "50 tokens", "50 %"):
        assert text in quota.out
    assert quota("plan", "list") == 0
    assert quota.out.splitlines()[1].split()[:2] == ["gold", "1000/day,"]
    assert quota.json("plan", "list") == {"plans": [made]}
    assert quota.json("plan", "replace", "gold", "")["limits"] == []
    assert quota("plan", "list") == 0
    assert "no limits" in quota.out
    assert quota.json("plan", "remove", "gold", "--yes") == {"removed": "gold", "keys": [], "accounts": [], "going": []}
    assert quota.json("plan", "list") == {"plans": []}


def test_plans_round_trip_through_json(quota, tmp_path):
    """What 'plan list --json' prints is what 'plan add --from' reads, elsewhere; from a file or standard input."""
    quota("plan", "add", "a", "9000/month in Europe/Paris offset 2, 3 tokens/15 minute overage 2 by account as t")
    quota(
        "plan",
        "add",
        "b",
        "5/day as five, 1/3/s burst 7",
        "--route",
        "GET /x=3/hour",
        "--cost",
        "GET /x=3 requests, 4 tokens",
    )
    printed = quota.json("plan", "list")
    other = Quota()
    (tmp_path / "plans.json").write_text(json.dumps(printed))
    assert other.json("plan", "add", "--from", tmp_path / "plans.json") == printed
    assert other.json("plan", "list") == printed
    assert other.ledger.list_plans() == quota.ledger.list_plans()
    one = json.dumps(quota.json("plan", "show", "b"))
    assert Quota()("plan", "replace", "--from", "-", data=one) == 0


@pytest.mark.parametrize("text", ['{"plans": [', "[1]", '{"id": "x"}', '{"id": "x", "limits": "1/day", "more": 1}', "7", "[" * 9999,
                                  '{"id": "x", "limits": ["1/dya"]}', '{"id": 7, "limits": []}', "\udcff",
                                  '[{"id": "ok", "limits": []}, {"id": "x", "limits": 5}]'])  # fmt: skip
def test_plans_that_cannot_be_read_change_nothing(quota, tmp_path, text):
    """One line that names the file; none of its plans is added."""
    file = tmp_path / "plans.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert str(file) in quota.fails("plan", "add", "--from", file)
    assert quota.ledger.list_plans() == []


def test_adding_a_different_plan_is_refused_and_replacing_keeps_what_was_used(shop):
    """An equal one changes nothing; --from adds all or none."""
    assert shop("plan", "add", "same", "10/day") == shop("plan", "add", "same", "10/day") == 0
    assert "quota plan replace" in shop.fails("plan", "add", "gold", "11/day")
    two = json.dumps([{"id": "new", "limits": []}, {"id": "gold", "limits": []}])
    shop.fails("plan", "add", "--from", "-", data=two)
    assert [plan.id for plan in shop.ledger.list_plans()] == ["gold", "same"]
    assert shop("consume", "ada", "--cost", "7") == 0
    assert shop("plan", "replace", "gold", "5/day") == 0
    assert shop.json("check", "ada", status=1)["limits"][0]["used"] == 7


def test_the_message_points_at_the_character(quota):
    """Of a plan's text that cannot be meant."""
    assert "character 6 (period): 'dya'" in quota.fails("plan", "add", "p", "1000/dya")
    assert "'mnth'" in quota.fails("plan", "add", "p", "1000/day, 50/mnth")
    assert "character 14" in quota.fails("plan", "add", "p", "1000/day, 50/mnth")


def test_a_message_names_the_route_and_what_is_missing(quota):
    """Of several texts of one command, which; and the end, where something should have followed."""
    said = quota.fails("plan", "add", "p", "1/day", "--route", "GET /x=1/s burst 2", "--route", "GET /y=3/dya")
    assert "routes['GET /y']: limits, character 3 (period): 'dya'" in said
    assert "character 21 (burst): ''" in quota.fails("plan", "add", "p", "1000/day, 10/s burst")
    assert "character 14 (overage): ''" in quota.fails("plan", "add", "p", "5/day overage")


def test_a_bar_is_full_where_nothing_remains(shop):
    """Whatever was granted or taken from what remains."""

    def shown():
        assert shop("check", "ada", "--route", "GET /x") in (0, 1)
        return next(line.split()[4] for line in shop.out.splitlines() if line.startswith("requests/day"))

    assert shop("consume", "ada", "--cost", "5") == 0
    assert shop("set-remaining", "ada", "requests/day", "0") == 0
    assert shown() == "█" * 20
    assert shop("set-remaining", "ada", "requests/day", "15") == 0
    assert shown() == "█" * 6 + "░" * 14


def test_days_that_are_none_are_told(shop):
    """Since behind until is wrong use; days without usage are said to be so."""
    assert "no day is meant" in shop.fails("usage", "ada", "--since", "2026-01-02", "--until", "2026-01-01")
    assert shop("usage", "ada", "--since", "2026-01-02", "--until", "2026-01-02") == 0
    assert "nothing was used on these days" in shop.out


@pytest.mark.parametrize("arguments", [
    ("plan", "add"), ("plan", "add", "p"), ("plan", "add", "p", "1/day", "--from", "-"), ("plan", "add", "p", "1/day", "--route", "x"),
    ("plan", "add", "p", "1/day", "--cost", "GET /=x"), ("plan", "add", "p", "1/day", "--alert", "0"), ("plan", "add", "", "1/day"),
    ("plan", "add", "p", "1/day", "--route", "a=1/s", "--route", "a=2/s"), ("plan", "show", "nowhere"), ("plan", "remove", "nowhere"),
    ("plan", "add", "p", "1/day", "--cost", "GET /=1, 2"), ("plan", "add", "--from", "/nowhere/plans.json"),
    ("key", "issue"), ("key", "issue", ""), ("key", "issue", "x", "--plan", "nowhere"), ("key", "issue", "x", "--expires", "soon"),
    ("key", "issue", "x", "--prefix", "!"), ("key", "issue", "x", "--meta", "team"), ("key", "show", "nobody"),
    ("key", "rotate", "ada", "--overlap", "1 fortnight"), ("key", "attach", "ada", "nowhere"), ("key", "detach", "ada", "nowhere"),
    ("key", "import"), ("key", "import", "--strict"), ("key", "import", "x", "--csv", "x.csv"), ("key", "list", "--plan", "nowhere"),
    ("consume",), ("consume", "nobody"), ("consume", "ada", "--cost", "0"), ("consume", "ada", "--cost", "-1"),
    ("consume", "ada", "--cost", "1.5"), ("check", "ada", "--cost", "1 requests, 2 requests"), ("check", "ada", "--route", ""),
    ("usage", "ada", "--since", "yesterday"), ("usage", "ada", "--plot", "usage.pdf"), ("usage", "ada", "--plot", "/nowhere/x.svg"),
    ("grant", "ada", "requests/week", "5"), ("grant", "ada", "requests/day", "0"), ("grant", "ada", "requests/day", "many"),
    ("set-remaining", "ada", "requests/day", "-1"), ("nothing",), ("plan", "nothing"), ("--nothing",), ("consume", "ada", "--nothing"),
    ("replay",), ("replay", "/nowhere.log", "--plan", "1/day"), ("replay", "x.log"), ("store", "nothing"),
    ("import-aws",), ("import-aws", "/nowhere"), ("export-aws",), ("key", "issue", "x", "--expires", "99999999w"),
    ("key", "rotate", "ada", "--overlap", "999999999w"), ("key", "issue", "x", "--id", "ada"),
])  # fmt: skip
def test_wrong_use_is_one_line_and_status_2(shop, arguments):
    """Nothing on standard output, nothing changed."""
    before = (shop.ledger.list_plans(), shop.ledger.list_keys())
    shop.fails(*arguments)
    assert (shop.ledger.list_plans(), shop.ledger.list_keys()) == before
    assert shop.ledger.peek(shop.ledger.get_key("ada")).limits[0].used == 1


def test_a_key_is_issued_and_its_secret_is_the_only_output(quota):
    """So that SECRET=$(quota key issue ...) catches it; never again in any listing."""
    assert quota("key", "issue", "Ada") == 0
    secret = quota.out.removesuffix("\n")
    assert quota.ledger.consume(secret).reason.value == "NO_PLAN"
    assert secret not in quota.err
    for arguments in (["key", "list"], ["key", "show", "Ada"], ["key", "list", "--json"], ["key", "show", "Ada", "--json"],
                      ["check", "Ada", "--json"], ["key", "disable", "Ada"], ["store", "check"]):  # fmt: skip
        quota(*arguments)
        assert secret[:-4] not in quota.out + quota.err
        assert quota.ledger.list_keys()[0].secrets[0].digest.hex() not in quota.out
    issued = quota.json(
        "key", "issue", "Bob", "--prefix", "acme", "--account", "team", "--expires", "2036-01-02", "--meta", "a=b=c"
    )
    assert issued["secret"].startswith("acme_")
    assert issued["key"]["account"] == "team"
    assert issued["key"]["expires_at"] == "2036-01-02T00:00:00+00:00"
    assert issued["key"]["metadata"] == {"a": "b=c"}
    assert quota.json("key", "show", "Bob") == issued["key"] | {"last_used": None}


def test_a_key_on_plans_of_several_apis(quota):
    """All plans are there, and each for an api of its own, or no key is made."""
    quota("plan", "add", "a", "1/day", "--api", "x")
    quota("plan", "add", "b", "1/day", "--api", "y")
    quota("plan", "add", "c", "1/day", "--api", "x")
    assert quota.json("key", "issue", "k", "--plan", "a", "--plan", "b")["key"]["plans"] == ["a", "b"]
    assert "same" in quota.fails("key", "issue", "k2", "--plan", "a", "--plan", "c")
    assert "nowhere" in quota.fails("key", "issue", "k2", "--plan", "a", "--plan", "nowhere")
    assert len(quota.ledger.list_keys()) == 1
    assert quota("consume", "k", "--api", "x") == 0
    assert quota("consume", "k", "--api", "x") == 1
    assert quota("consume", "k", "--api", "y") == 0
    assert quota.json("consume", "k", status=1)["reason"] == "NO_PLAN"
    quota("key", "show", "k")
    assert "a for x, b for y" in quota.out


def test_a_key_is_found_by_id_or_by_a_name_that_only_it_has(quota):
    """Several of a name are told by id; a secret in place of an id is not repeated."""
    for id_ in ("one", "two"):
        quota("key", "issue", "twin", "--id", id_)
    quota("key", "issue", "one", "--id", "three")
    assert quota.json("key", "show", "one")["id"] == "one"
    assert quota.json("key", "show", "three")["name"] == "one"
    assert "one, two" in quota.fails("key", "show", "twin")
    secret = mint()
    said = quota.fails("key", "show", secret)
    assert secret not in said
    assert "secret" in said


def test_a_key_moves_rotates_stops_and_goes(shop):
    """attach, detach, rotate, disable, enable, forget, remove: each binds on the next call."""
    shop("plan", "add", "free", "3/day")
    assert shop("consume", "ada", "--cost", "2") == 0
    assert shop.json("key", "attach", "ada", "free")["plans"] == ["free"]
    assert shop.json("consume", "ada")["limits"][0]["remaining"] == 0
    assert shop("consume", "ada") == 1
    assert shop.json("key", "detach", "ada", "free")["plans"] == []
    assert shop.json("check", "ada", status=1)["reason"] == "NO_PLAN"
    shop("key", "attach", "ada", "gold")
    rotated = shop.json("key", "rotate", "ada", "--overlap", "1h30m")
    assert [secret["expires_at"] is None for secret in rotated["key"]["secrets"]] == [True, False]
    assert shop("consume", "-", data=shop.secret) == shop("consume", "-", data=rotated["secret"] + "\n") == 0
    assert shop("key", "rotate", "ada") == 0
    assert len(shop.out.split()) == 1
    assert shop.json("consume", "-", data=shop.secret, status=1)["reason"] == "UNKNOWN_KEY"
    assert shop.json("key", "disable", "ada")["enabled"] is False
    assert shop.json("check", "ada", status=1)["reason"] == "DISABLED_KEY"
    assert shop("check", "ada") == 1
    assert "quota key enable" in shop.out
    assert shop.json("key", "enable", "ada")["enabled"] is True
    assert shop.json("check", "ada")["limits"][0]["used"] == 6
    assert shop("key", "forget", "ada", "--yes") == 0
    assert shop.json("check", "ada")["limits"][0]["used"] == 1
    assert shop.json("key", "remove", "ada", "--yes") == {"removed": "ada"}
    assert "no API key" in shop.fails("check", "ada")


def test_keys_are_listed_with_their_plans_states_and_hints(shop):
    """All, or those on a plan or of an account."""
    shop("plan", "add", "free", "3/day")
    shop("key", "issue", "Bob", "--plan", "free", "--account", "team", "--id", "bob", "--expires", "1s")
    shop("key", "disable", "bob")
    assert shop("key", "list") == 0
    header, *rows = shop.out.splitlines()
    assert header.split() == ["key", "name", "plans", "state", "expires", "account", "secrets"]
    assert rows[0].split()[:3] == ["ada", "Ada's", "laptop"]
    assert "disabled" in rows[1]
    assert shop.secret[-4:] in rows[0]
    for options, ids in (
        (["--plan", "free"], ["bob"]),
        (["--account", "team"], ["bob"]),
        (["--account", "none"], []),
        ([], ["ada", "bob"]),
    ):
        assert [key["id"] for key in shop.json("key", "list", *options)["keys"]] == ids


def test_a_key_is_imported_from_standard_input_or_a_file(shop, tmp_path):
    """Its secret is nowhere in the arguments, and nowhere in the answer."""
    secret = "a-secret-from-elsewhere"
    made = shop.json("key", "import", "Partner", "--plan", "gold", "--id", "p", data=f"{secret}\r\n")
    assert (made["plans"], made["secrets"][0]["hint"]) == (["gold"], "here")
    assert shop("consume", "-", data=secret) == 0
    (tmp_path / "secret").write_text("another-secret-from-elsewhere")
    assert shop("key", "import", "Other", "--secret-file", tmp_path / "secret", "--expires", "9d") == 0
    assert "another" not in shop.out + shop.err
    assert "another API key has this secret" in shop.fails("key", "import", "Third", data=secret)
    assert "20 to 128" in shop.fails("key", "import", "Third", data="short")
    assert "one line" in shop.fails("key", "import", "Third", data="a\nb\n")
    shop.fails("key", "import", "Third", data=b"\xff\xfe")
    shop.fails("key", "import", "Third", "--secret-file", tmp_path)
    assert len(shop.ledger.list_keys()) == 3


def test_consume_and_check_say_why_and_when(shop):
    """Status 0 or 1; what remains; every limit that refused; when it would be allowed."""
    assert shop("check", "ada", "--cost", "9") == 0
    assert "would be allowed" in shop.out
    assert shop("consume", "ada", "--cost", "9") == 0
    assert "requests/day: 80 % reached" in shop.out
    assert shop("consume", "Ada's laptop", "--route", "GET /y") == 1
    assert "refused: QUOTA_EXCEEDED (requests/day)" in shop.out
    assert "it would be allowed at 20" in shop.out
    refused = shop.json("consume", "ada", "--route", "GET /y", status=1)
    assert refused["cost"] == {"requests": 4}
    assert refused["violated"] == ["requests/day"]
    assert datetime.fromisoformat(refused["retry_at"]).hour == 0
    assert shop.json("check", "ada", "--cost", "11", status=1)["retry_at"] is None
    assert shop("check", "ada", "--cost", "11") == 1
    assert "never be allowed" in shop.out
    assert shop.json("consume", "ada", "--cost", "1 requests, 812 tokens")["cost"] == {"requests": 1, "tokens": 812}
    assert shop.json("consume", "-", data=mint(), status=1)["reason"] == "UNKNOWN_KEY"
    assert shop.json("consume", "-", data="", status=1)["key"] is None


def test_a_request_id_is_charged_once(shop):
    """A retry is the same answer; other parameters are wrong use."""
    first = shop.json("consume", "ada", "--request-id", "r1", "--cost", "3")
    again = shop.json("consume", "ada", "--request-id", "r1", "--cost", "3")
    assert (again["replayed"], again["id"], again["limits"]) == (True, first["id"], first["limits"])
    assert "r1" in shop.fails("consume", "ada", "--request-id", "r1", "--cost", "4")


def test_usage_shows_this_window_and_the_last_days(quota):
    """Per limit with a bar and when it resets; by day, those without use too; between days; on a route."""
    now = datetime.now(timezone.utc)
    clock = ManualClock(now - timedelta(days=20))
    past = Ledger(quota.store, clock=clock)
    past.add_plan(UsagePlan("p", "100/day, 5000/month", routes={"GET /x": "3/hour as x"}))
    key, _ = past.issue_key("Ada", plan="p", id="ada")
    for day in range(20):
        if day != 10:
            past.consume(key, day + 1)
        clock.advance(timedelta(days=1))
    assert quota("consume", "ada", "--cost", "42") == 0
    data = quota.json("usage", "ada")
    assert data["reason"] == "OK"
    assert data["limits"][0]["used"] == 42
    assert data["limits"][0]["remaining"] == 58
    today = [row for row in data["days"] if row["day"] == now.date().isoformat()]
    assert [row["used"] for row in today] == [42, 42]
    assert len({row["day"] for row in data["days"]}) == 13
    assert len({row["day"] for row in quota.json("usage", "ada", "--since", "2020-01-01")["days"]}) == 20
    day = (now - timedelta(days=5)).date().isoformat()
    assert {row["day"] for row in quota.json("usage", "ada", "--since", day, "--until", day)["days"]} == {day}
    assert len({row["day"] for row in quota.json("usage", "ada", "--until", day)["days"]}) == 15
    assert quota("usage", "ada") == 0
    lines = quota.out.splitlines()
    assert any("requests/day" in line and "42" in line and "█" in line and "(in " in line for line in lines)
    charted = [line for line in lines if line.startswith("  20")]
    assert len(charted) == 2 * 14
    assert max(len(line) for line in charted) <= 80
    assert [status["name"] for status in quota.json("usage", "ada", "--route", "GET /x")["limits"]][-1] == "x"
    quota("key", "disable", "ada")
    assert quota("usage", "ada") == 0
    assert "calls are refused: DISABLED_KEY" in quota.out
    data = quota.json("usage", "ada")
    assert (data["reason"], [limit["used"] for limit in data["limits"]]) == ("DISABLED_KEY", [42, 241])


def test_usage_says_why_calls_are_refused(shop):
    """Disabled, expired, no plan there and on which api there is one, exhausted and until when; what was adjusted."""
    shop("key", "issue", "Eve", "--id", "eve", "--plan", "gold", "--expires", "2020-01-01")
    shop("usage", "eve")
    assert "calls are refused: EXPIRED_KEY\nit expired at 2020-01-01 00:00:00Z" in shop.out
    assert "requests/day     0" in shop.out
    shop("usage", "ada", "--api", "b")
    assert "calls are refused: NO_PLAN\nthe key has no plan for this api, and one for '' (plan gold)" in shop.out
    shop("key", "issue", "Bo", "--id", "bo")
    shop("usage", "bo")
    assert "calls are refused: NO_PLAN\nthe key is on no plan for this api: 'quota key attach'" in shop.out
    shop("set-remaining", "ada", "requests/day", "0")
    shop("usage", "ada")
    assert "calls are refused: QUOTA_EXCEEDED (requests/day)\nthe next call is allowed at 20" in shop.out
    assert "requests/day: 10 were taken away in this window" in shop.out
    (limit, *_) = shop.json("usage", "ada")["limits"]
    assert (limit["extra"], limit["holder"], limit["over"]) == (-10, "ada", 0)
    assert limit["retry_at"] == limit["resets_at"]
    shop("set-remaining", "ada", "requests/day", "25")
    shop("usage", "ada")
    assert "requests/day: 15 more were granted in this window" in shop.out
    assert "refused" not in shop.out
    shop("plan", "replace", "gold", "0/day, 20/hour")
    shop("set-remaining", "ada", "requests/day", "0")
    shop("usage", "ada")
    assert "calls are refused: COST_TOO_LARGE (requests/day)\nno call is ever allowed: one costs more" in shop.out


def test_usage_changes_nothing(shop):
    """Looking is free."""
    for _ in range(20):
        assert shop.json("usage", "ada")["limits"][0]["used"] == 0


def test_grant_and_set_remaining(shop):
    """This window only; on a route too."""
    shop("consume", "ada", "--cost", "8")
    assert shop.json("grant", "ada", "requests/day", "5")["remaining"] == 7
    assert shop.json("set-remaining", "ada", "requests/day", "1")["remaining"] == 1
    assert shop("grant", "ada", "requests/day", "5") == 0
    assert shop.out.splitlines()[1].split()[:4] == ["requests/day", "8", "10", "6"]
    assert shop.json("grant", "ada", "x", "5", "--route", "GET /x")["remaining"] == 7
    assert "requests/day" in shop.fails("grant", "ada", "nothing", "5")


def test_the_store_is_migrated_and_checked(shop):
    """A store in memory needs neither; what it cannot do is told."""
    assert shop.json("store", "migrate") == {"migrated": True, "version": None}
    assert shop.json("store", "check") == {"ok": True, "problems": [], "plans": 1, "keys": 1}
    assert shop("store", "check") == 0
    assert "all is well" in shop.out
    for command in (("store", "prune"), ("store", "backup", "x.db")):
        assert "MemoryStore has no" in shop.fails(*command)


def test_a_store_with_problems_is_told(shop, tmp_path, monkeypatch):
    """Whatever the engine finds; a backup never replaces a file."""
    monkeypatch.setattr(type(shop.store), "check", lambda self: ["page 3 is torn"], raising=False)
    assert shop("store", "check") == 3
    assert "page 3 is torn" in shop.out
    assert shop.json("store", "check", status=3)["problems"] == ["page 3 is torn"]
    monkeypatch.setattr(type(shop.store), "prune", lambda self: 1234, raising=False)
    assert shop.json("store", "prune") == {"pruned": 1234}
    shop("store", "prune")
    assert "1,234" in shop.out
    monkeypatch.setattr(type(shop.store), "backup", lambda self, file: file.write_bytes(b"abc"), raising=False)
    assert shop.json("store", "backup", tmp_path / "b") == {"backup": str(tmp_path / "b"), "bytes": 3}
    assert "never replaces" in shop.fails("store", "backup", tmp_path / "b")
    assert shop("store", "backup", tmp_path / "c") == 0


@pytest.mark.parametrize(
    "error", [StoreUnavailable("the disk is gone"), StoreBusy("busy for 5 s"), ClockSkew(1, 10**15)]
)
def test_a_store_that_cannot_be_used_is_status_3(shop, monkeypatch, error):
    """One line."""

    def fail(*arguments):
        raise error

    monkeypatch.setattr(type(shop.store), "apply", fail)
    assert str(error) in shop.fails("consume", "ada", status=3)


def test_a_bug_is_one_line_too(shop, monkeypatch, capsys):
    """Unless its traceback is asked for."""
    monkeypatch.setattr(type(shop.store), "list_plans", lambda self: 1 / 0)
    monkeypatch.setattr("quota.cli.common.Ledger", lambda url, **options: shop.ledger)
    monkeypatch.setenv("QUOTA_STORE", "memory://")
    assert main(["plan", "list"]) == 70
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "quota: ZeroDivisionError: division by zero (a bug: QUOTA_DEBUG=1 shows where)\n"
    monkeypatch.setenv("QUOTA_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["plan", "list"])


def test_the_store_is_told_by_option_or_environment(capsys, monkeypatch, tmp_path):
    """Before or behind the command; a SQLite file that is not there is made by what adds something, and by nothing else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QUOTA_STORE", raising=False)
    for arguments in (["--store", "nonsense://", "plan", "list"], ["plan", "list", "--store", "nonsense://"]):
        assert main(arguments) == 2
        assert "nonsense" in capsys.readouterr().err
    monkeypatch.setenv("QUOTA_STORE", "memory://")
    assert main(["plan", "list"]) == 0
    monkeypatch.setenv("QUOTA_STORE", "")
    assert main(["plan", "list"]) == 3
    assert "no store quota.db yet" in capsys.readouterr().err
    assert main(["plan", "list", "--store", f"sqlite:///{tmp_path}/other.db"]) == 3
    assert "other.db" in capsys.readouterr().err
    assert main(["plan", "list", "--store", "usage.db"]) == 2
    assert "sqlite:///usage.db" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_changes_nothing_makes_no_store(capsys, monkeypatch, tmp_path):
    """A key on a plan that cannot be there yet; a CSV file that is refused."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys.csv").write_text("name,key\nn,short\n")
    (tmp_path / "plans.csv").write_text("name,key,usageplanids\nn,a-secret-from-elsewhere,gold\n")
    store = ["--store", "sqlite:///new.db"]
    for arguments, status in (
        (["issue", "x", "--plan", "gold"], 3), (["import", "--csv", "keys.csv", "--strict"], 3),
        (["import", "--csv", "plans.csv", "--strict"], 3), (["import", "--csv", "plans.csv"], 3),
    ):  # fmt: skip
        assert main(["key", *arguments, *store]) == status
        assert capsys.readouterr().err.splitlines()[-1].startswith("quota: ")
        assert not (tmp_path / "new.db").exists()
    assert main(["key", "issue", "x", *store]) == 0


def test_a_driver_that_is_missing_is_told(capsys, monkeypatch):
    """With how to get it."""
    monkeypatch.setitem(sys.modules, "redis", None)
    for name in [name for name in sys.modules if name.startswith("quota.stores.redis")]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["plan", "list", "--store", "redis://127.0.0.1:1/0"]) == 3
    assert "pip install redis" in capsys.readouterr().err


def test_the_version_and_help(quota):
    """quota alone, or a group alone, shows its help and status 2; --help is status 0."""
    import quota as library

    assert quota("--version") == 0
    assert quota.out == f"quota {library.__version__}\n"
    assert quota("--help") == 0
    assert "Exit status: 0 done or allowed, 1 refused, 2 wrong use, 3" in " ".join(quota.out.split())
    assert quota() == 2
    assert "set-remaining" in quota.out + quota.err
    assert quota("key") == 2
    assert "rotate" in quota.out + quota.err


def test_names_are_shown_as_they_are(shop):
    """What looks like markup is not, and a narrow encoding is escaped rather than refused."""
    shop("key", "issue", "[bold]é[/bold] :smile:", "--id", "odd")
    assert shop("key", "show", "odd") == 0
    assert "[bold]é[/bold] :smile:" in shop.out
    assert shop("key", "list", encoding="ascii") == 0
    assert "[bold]\\xe9[/bold]" in shop.out
    assert shop("usage", "ada", encoding="ascii") == 0
    assert "...................." in shop.out


def test_tables_have_colours_on_a_terminal_and_none_when_piped(shop, monkeypatch):
    """And none where NO_COLOR says so."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    shop("consume", "ada", "--cost", "9")
    assert "\x1b[" not in shop.out
    assert shop("check", "ada", "--cost", "5", terminal=True) == 1
    assert "\x1b[" in shop.out
    monkeypatch.setenv("NO_COLOR", "1")
    shop("check", "ada", "--cost", "5", terminal=True)
    assert "\x1b[3" not in shop.out


def test_removing_asks_at_a_terminal(shop):
    """No is no, and nothing is removed; elsewhere nobody can answer, and it is done."""
    for command in (("key", "remove", "ada"), ("plan", "remove", "gold"), ("key", "forget", "ada")):
        assert shop(*command, data="n\n", terminal=True) == 130
        assert shop("key", "show", "ada") == 0
    assert shop.json("key", "show", "ada")["plans"] == ["gold"]
    assert shop("plan", "remove", "gold", data="y\n", terminal=True) == 0
    assert shop("key", "remove", "ada") == 0


def test_every_command_s_json_has_a_schema():
    """Published for each, and a wrong document does not pass."""
    from commands import COMMANDS, SCHEMAS

    assert {" ".join(command) for command in COMMANDS} - {"demo", "serve"} == set(SCHEMAS["commands"])
    for command in SCHEMAS["commands"]:
        with pytest.raises(Exception, match="."):
            validate(command, {"nonsense": 1})
