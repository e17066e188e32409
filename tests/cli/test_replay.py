"""quota replay, demo and the pictures, as people see them."""

from __future__ import annotations

import gzip
import json
import struct
import xml.etree.ElementTree as ET
from datetime import datetime, timedelta, timezone

import pytest

from commands import Quota, validate
from quota import Ledger, ManualClock, UsagePlan
from quota.cli.charts import daily, traffic
from quota.cli.plot import _figure, plot_reports
from quota.replay import replay
from quota.replay.demo import SAMPLE
from quota.replay.report import to_json
from traffic import traffic as made_up


@pytest.fixture
def quota():
    return Quota()


def test_plans_side_by_side(quota):
    """What if the limit were higher: a row for each, then each in full; JSON is the library's own report."""
    plans = ["100/day, 1/s burst 10", "300/day", "20/day"]
    options = [part for plan in plans for part in ("--plan", plan)]
    assert quota("replay", SAMPLE, *options, "--top", "2") == 0
    table = [line for line in quota.out.splitlines() if line.startswith("plan") and ":" not in line]
    assert [line.split()[0] for line in table] == ["plan", "plan1", "plan2", "plan3"]
    assert "24.2 %" in table[1]
    assert quota.out.count("per hour (UTC)") == 3
    data = quota.json("replay", SAMPLE, *options)
    lines = SAMPLE.read_text().splitlines()
    reports = replay(lines, [UsagePlan(f"plan{n}", text) for n, text in enumerate(plans, 1)])
    assert data == to_json(str(SAMPLE), reports)
    validate("replay", to_json("empty", replay([], [UsagePlan("p", "1/day")])))


def test_a_plan_of_the_store_by_its_id(quota):
    """With its routes and costs; a mistyped id is an unknown plan."""
    quota("plan", "add", "gold", "100000/day", "--route", "GET /pets/{id}=10/day as pets")
    data = quota.json("replay", SAMPLE, "--plan", "gold")
    assert data["reports"][0]["plan"]["id"] == "gold"
    assert set(data["reports"][0]["refused_by_limit"]) == {"pets"}
    assert "'silver'" in quota.fails("replay", SAMPLE, "--plan", "silver")


def test_a_suggestion_alone_and_beside_plans(quota):
    """Of the first plan's periods and rates, else by minute, hour and day."""
    data = quota.json("replay", SAMPLE, "--suggest", "90")
    assert (data["reports"], len(data["suggestion"]["limits"])) == ([], 3)
    assert data["suggestion"]["never_refused"] >= 0.9 * data["suggestion"]["clients"]
    assert quota("replay", SAMPLE, "--suggest", "99.5", "--plan", "1/day, 3/s burst 1") == 0
    assert "never refuse 99.5 % of 27 clients (27):\n  131/day, 3/second burst" in quota.out
    assert quota("replay", SAMPLE, "--suggest", "90") == 0
    assert quota.out.startswith("the smallest limits")
    for wrong in ("0", "101", "many"):
        quota.fails("replay", SAMPLE, "--suggest", wrong)


def test_the_log_may_be_packed_piped_and_out_of_order(quota, tmp_path):
    """gzip and standard input give the same; --late 0 takes it as it is; JSON fields are found by name."""
    lines = "\n".join(made_up(2000)).encode()
    (tmp_path / "log.gz").write_bytes(gzip.compress(lines))
    options = ("--plan", "20/day, 1/s burst 5", "--json")
    assert quota("replay", tmp_path / "log.gz", *options) == 0
    packed = json.loads(quota.out)
    assert quota("replay", "-", *options, data=lines) == 0
    piped = json.loads(quota.out)
    assert packed["reports"] == piped["reports"]
    assert packed["reports"][0]["out_of_order"] > packed["reports"][0]["too_late"] == 0
    assert quota("replay", "-", "--plan", "1/day", "--late", "0", data=lines) == 0
    assert "too late" in quota.out
    row = json.dumps({"when": 1_700_000_000, "who": "a"}).encode()
    data = quota("replay", "-", "--plan", "1/day", "--key", "field:who", "--field", "time=when", "--json", data=row)
    assert data == 0
    assert json.loads(quota.out)["reports"][0]["hardest"] == []


@pytest.mark.parametrize("arguments", [
    ("--plan", "1/dya"), ("--plan", "1/day", "--key", "ips"), ("--plan", "1/day", "--key", "re:("), ("--plan", "1/day", "--late", "x"),
    ("--plan", "1/day", "--top", "-1"), ("--plan", "1/day", "--plot", "x.pdf"), ("--suggest", "9", "--plot", "x.svg"),
    ("--plan", "1/day", "--field", "time"), ("--plan", "7 bytes/day", "--suggest", "9"), ("--plan", "1/day") * 21, ("--plan", ""),
    ("--plan", "1/day", "--late", "-1"),
])  # fmt: skip
def test_wrong_use_is_told(quota, arguments):
    """In one line."""
    quota.fails("replay", SAMPLE, *arguments)


def test_a_broken_log_is_told(quota, tmp_path):
    """Packed and cut short: the report of what was there, with a note; status 2 where nothing was."""
    packed = gzip.compress(SAMPLE.read_bytes())
    (tmp_path / "log").write_bytes(packed[:-2000])
    data = quota.json("replay", tmp_path / "log", "--plan", "1/day")
    assert 100 < data["reports"][0]["total"] < 589
    assert "cut short" in data["reports"][0]["notes"][0]
    assert quota("replay", tmp_path / "log", "--plan", "1/day") == 0
    assert "note: the archive is broken or cut short" in quota.out
    (tmp_path / "log").write_bytes(packed[:30])
    assert "cut short" in quota.fails("replay", tmp_path / "log", "--plan", "1/day")


NOTHING = {
    "an error log of nginx": b'2026/04/09 10:11:00 [error] 7#7: *1 open() "/x" failed\n',
    "JSON with the fields level, who": b'{"level": "info", "who": "ada"}\n',
    "one request a line": b'{\n  "ts": 1775729472,\n  "ip": "9.9.9.9"\n}\n',
    "the console of uvicorn": b'INFO:     127.0.0.1:5000 - "GET / HTTP/1.1" 200 OK\n',
    "not text": b"\x07\x01\x02\x00\x00binary\n\xff\xfe\n",
    "a zip archive": b"PK\x03\x04....",
    "CSV": b"time,ip,path\n2026-04-09,9.9.9.9,/a\n",
    "XML": b"<?xml version='1.0'?>\n<logs/>\n",
    "cut short": gzip.compress(b"x" * 99)[:12],
}


@pytest.mark.parametrize("said", NOTHING)
@pytest.mark.parametrize(
    "options", [("--plan", "1/day"), ("--plan", "1/day", "--json"), ("--suggest", "90")], ids=" ".join
)
def test_a_log_that_is_not_understood_is_an_error(quota, said, options):
    """It says what the log seems to be; an empty log is none."""
    assert quota("replay", "-", *options, data=NOTHING[said]) == 2
    assert said in quota.err
    assert (quota.out, quota.err.count("\n")) == ("", 1)
    assert quota("replay", "-", *options, data=b"\n") == 0


def test_a_key_that_names_nobody_is_an_error(quota):
    """As a header that text lines do not have; where some name a client, the others are counted and told."""
    for key in ("header:X-Api-Key", "field:key", "re:(nobody)"):
        err = quota.fails("replay", SAMPLE, "--plan", "1/day", "--key", key)
        assert "in none of 589 requests" in err
        assert "headers Referer and User-Agent" in err
    lines = made_up(9)
    lines.append(json.dumps({"time": "2015-05-17T10:05:03Z", "headers": {"x-api-key": "k"}}))
    assert quota("replay", "-", "--plan", "1/day", "--key", "header:X-Api-Key", data="\n".join(lines).encode()) == 0
    assert quota.out.startswith("1 requests of 1 clients")
    assert "9 requests left out in which header:X-Api-Key names no client, such as\n  line 1: 192.0." in quota.out
    assert "MISSING_KEY" not in quota.out


def test_several_logs_as_one(quota, tmp_path):
    """Rotated and packed, in the shell's order: the figures of the whole; a suggestion alone tells notes too."""
    lines = SAMPLE.read_text().splitlines()
    (tmp_path / "access.log").write_text("\n".join(lines[400:]))
    (tmp_path / "access.log.1").write_text("\n".join(lines[200:400]))
    (tmp_path / "access.log.2.gz").write_bytes(gzip.compress("\n".join(lines[:200]).encode()))
    logs = sorted(tmp_path.glob("access.log*"))
    whole = quota.json("replay", SAMPLE, "--plan", "20/day, 1/s burst 5")["reports"][0]
    data = quota.json("replay", *logs, "--plan", "20/day, 1/s burst 5")
    assert data["log"] == ", ".join(map(str, logs))
    for name in set(whole) - {"malformed_samples"}:
        assert data["reports"][0][name] == whole[name], name
    assert quota("replay", *logs, "--suggest", "90") == 0
    assert "2 malformed lines left out, such as" in quota.out
    assert "each log once" in quota.fails("replay", logs[0], logs[0], "--plan", "1/day")


def test_what_stands_in_a_log_cannot_touch_the_terminal(quota):
    """Escapes of a client's name or of a malformed line are written out."""
    rows = [
        json.dumps({"ts": 1_700_000_000, "ip": "\x1b[2Jevil\u202e"}),
        "bad \x1b]0;title\x07",
        *[json.dumps({"ts": 1, "ip": "\ud800"})] * 2,
    ]
    assert quota("replay", "-", "--plan", "1/day as a, 1/hour as b", data="\n".join(rows * 2).encode()) == 0
    assert "\\x1b[2Jevil\\u202e" in quota.out
    assert "\x1b" not in quota.out
    assert "\\ud800" in quota.out


def test_long_logs_are_charted_by_day_and_longer():
    """Up to three days by hour, then by day, then by more days, so that a chart is never longer than a screen or two."""
    hour, day = 3_600_000_000, 86_400_000_000
    for hours, unit in ((24, "hour"), (73, "day"), (24 * 200, "4 days"), (24 * 2000, "33 days")):
        table = {n * hour: [n % 3, n % 2] for n in range(hours)}
        lines = [str(line) for line in traffic(table)]
        assert lines[0].startswith(f"per {unit} (UTC)")
        assert len(lines) <= 73
        assert sum(int(line.split()[2 if unit == "hour" else 1].replace(",", "")) for line in lines[1:]) == sum(
            a for a, _ in table.values()
        )
    assert list(traffic({})) == []
    gap = [str(line) for line in traffic({0: [1, 0], 2 * hour: [0, 1]})]
    assert [line.split()[2:4] for line in gap[1:]] == [["1", "0"], ["0", "0"], ["0", "1"]]
    assert day == 24 * hour


def test_something_is_never_drawn_as_nothing():
    """One of a million has a mark; none has none."""
    first = datetime(2026, 1, 1).date()
    lines = [str(line) for line in daily([(first, 1), (first + timedelta(days=2), 10**6)])]
    assert [len(line.split()) for line in lines] == [3, 2, 3]
    assert lines[0].split()[2] in "▏#"
    chart = [str(line) for line in traffic({0: [10**6, 1]})]
    assert "▒" in chart[1]


def svg_texts(path):
    """Every text of a picture whose letters are text."""
    return ET.parse(path).getroot()


def size_of(path):
    """Width and height of a PNG."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def test_replays_are_drawn(quota, tmp_path):
    """A panel for each plan; the same picture is the same file; hatches and dashes, not colour alone."""
    for plans, name in ((1, "one"), (2, "two")):
        options = ["--plan", "100/day, 1/s burst 10", "--plan", "300/day"][: 2 * plans]
        for suffix in ("svg", "png"):
            assert quota("replay", SAMPLE, *options, "--plot", tmp_path / f"{name}.{suffix}") == 0
            assert "drawn: " in quota.out
    assert size_of(tmp_path / "two.png")[1] > size_of(tmp_path / "one.png")[1]
    assert svg_texts(tmp_path / "two.svg").tag.endswith("svg")
    first = (tmp_path / "two.svg").read_text()
    assert "#e69f00" in first
    assert "pattern" in first
    reports = replay(
        SAMPLE.read_text().splitlines(), [UsagePlan("plan1", "100/day, 1/s burst 10"), UsagePlan("plan2", "300/day")]
    )
    plot_reports(tmp_path / "again.svg", "sample.log", reports)
    assert (tmp_path / "again.svg").read_text() == first
    assert quota.json("replay", SAMPLE, "--plan", "1/day", "--plot", tmp_path / "x.svg")["reports"]


def test_odd_replays_are_drawn(tmp_path):
    """An empty log, a year, a name with dollars."""
    for name, lines in (
        ("empty", []),
        ("year", [json.dumps({"ts": 1_700_000_000 + n * 86_400, "ip": "a"}) for n in range(400)]),
    ):
        plot_reports(tmp_path / f"{name}.png", "a $log$.gz", replay(lines, [UsagePlan("p", "1/day as $x$")]))
        assert size_of(tmp_path / f"{name}.png")[0] == 1350


def test_usage_is_drawn(quota, tmp_path):
    """A panel for each quota against its limit; a key without usage, without a plan, without quotas."""
    clock = ManualClock(datetime.now(timezone.utc) - timedelta(days=30))
    past = Ledger(quota.store, clock=clock)
    past.add_plan(UsagePlan("p", "100/day, 900/month"))
    past.add_plan(UsagePlan("t", "100/s"))
    key, _ = past.issue_key("Ada $x$", plan="p", id="ada")
    past.issue_key("Bob", id="bob")
    past.issue_key("Eve", plan="t", id="eve")
    for day in range(30):
        past.consume(key, day + 1)
        clock.advance(timedelta(days=1))
    sizes = []
    for who in ("ada", "bob", "eve"):
        assert quota("usage", who, "--plot", tmp_path / f"{who}.png") == 0
        assert quota("usage", who, "--plot", tmp_path / f"{who}.SVG") == 0
        sizes.append(size_of(tmp_path / f"{who}.png"))
    assert sizes[0][1] > sizes[1][1] == sizes[2][1]
    assert "drawn" in quota.out
    assert quota.json("usage", "ada", "--plot", tmp_path / "x.svg")["days"]
    (tmp_path / "d.svg").mkdir()
    quota.fails("usage", "ada", "--plot", tmp_path / "d.svg")


def test_pictures_hold_long_and_foreign_names(quota, tmp_path):
    """A title is cut before the picture's edge; a letter that no font has is no warning; several plans are told apart."""
    figure, _ = _figure(1, "Used by day (UTC): " + "W" * 300)
    assert figure._suptitle.get_window_extent().x1 <= figure.bbox.x1
    assert "..." in figure._suptitle.get_text()
    quota("plan", "add", "p", "10/day")
    quota("key", "issue", "名前", "--plan", "p", "--id", "n")
    quota("consume", "n")
    assert quota("usage", "n", "--plot", tmp_path / "n.png") == 0
    assert quota.err == ""


def test_without_matplotlib_it_is_said_how_to_get_it(quota, monkeypatch):
    """Before anything is read."""
    monkeypatch.setattr("quota.cli.plot.find_spec", lambda name: None)
    assert "pip install matplotlib" in quota.fails("replay", "/nowhere", "--plan", "1/day", "--plot", "x.svg")


def test_the_progress_bar_is_for_long_logs_at_a_terminal(quota, tmp_path, monkeypatch):
    """On standard error, gone when done; not for short logs, not when piped."""
    monkeypatch.setattr("quota.cli.replaying._LONG", 100_000)
    monkeypatch.setenv("TERM", "xterm")
    (tmp_path / "log").write_text("\n".join(made_up(2_000)))
    for logs in ([tmp_path / "log"], [tmp_path / "log", SAMPLE]):
        assert quota("replay", *logs, "--plan", "1/day", terminal=True) == 0
        assert "lines" in quota.err
    assert quota("replay", SAMPLE, "--plan", "1/day", terminal=True) == 0
    assert quota.err == ""
    assert quota("replay", tmp_path / "log", "--plan", "1/day") == 0
    assert quota.err == ""


def test_the_demo_at_a_terminal_and_piped(quota):
    """The mission's rows, then the sample."""
    for terminal in (False, True):
        assert quota("demo", terminal=terminal) == 0
        assert "429 QUOTA_EXCEEDED" in quota.out
        assert "589 requests" in quota.out
