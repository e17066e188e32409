"""The replay says what a plan would have done: its figures are those of a plain script, whatever stands in the log."""

import gzip
import json
import subprocess
import sys
from collections import Counter
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quota import Ledger, ManualClock, Period, UsagePlan
from quota.__main__ import main
from quota.clock import DAY_US
from quota.errors import InvalidValue
from quota.replay import replay
from quota.replay.demo import SAMPLE
from quota.replay.log_files import open_log
from quota.replay.log_reading import _MOST_WAITING, Reading
from quota.replay.logs import Parser
from quota.replay.report import describe, plain, share
from quota.replay.run import Routes
from traffic import LINE, figures, traffic


def line(ip=1, when="17/May/2015:10:05:03 +0000", n=1, user="-", size=1):
    return LINE.format(net=0, ip=ip, user=user, when=when, n=n, size=size)


def found(report):
    allowed = Counter({day // DAY_US: count for day, (count, _) in report.days.items() if count})
    hit = {client: refused for client, (_, refused) in report.clients.items() if refused}
    return {"allowed": allowed, "by_limit": report.by_limit, "hit": hit}


@pytest.mark.parametrize("lines", [traffic(4_000), SAMPLE.read_text().splitlines()], ids=["made up", "sample"])
def test_a_plain_script_finds_the_same_figures(lines):
    """Allowed by day, refused by limit and by client: with a quota, with a throttle and with both."""
    for per_day, rate, burst in ((100, 2, 20), (50, 1, 10), (10**9, 1, 5), (40, 10**9, 10**6)):
        (report,) = replay(lines, [UsagePlan("p", f"{per_day}/day, {rate}/s burst {burst}")])
        assert found(report) == figures(lines, per_day, rate, burst)
        assert report.total == report.allowed + report.refused == len(lines) - report.malformed
        assert report.refused == sum(report.by_reason.values()) > 0


def test_ten_thousand_lines_take_less_than_a_second():
    """Of the processor, on the sample month after month; the best of three, as other work may share its caches."""
    months = [
        f"/{month}/{year}:" for year in (2026, 2027) for month in "Jan Feb Mar Apr May Jun Jul Aug Sep Oct".split()
    ]
    sample = SAMPLE.read_text().splitlines()
    lines = [line.replace("/Jan/2026:", month) for month in months for line in sample][:10_000]
    assert len(lines) == 10_000
    taken = []
    for _ in range(3):
        begun = process_time()
        (report,) = replay(lines, [UsagePlan("p", "300/day, 2/s burst 20")])
        taken.append(process_time() - begun)
        assert report.total + report.malformed == 10_000
        assert not report.too_late
    assert min(taken) < 1, taken


def test_plans_side_by_side_are_replayed_each_alone():
    """Several plans in one pass find what each finds by itself."""
    lines = traffic(1_000)
    plans = [UsagePlan(str(n), text) for n, text in enumerate(["5/day", "1/s burst 2", "20/hour, 9/minute"])]
    together = replay(lines, plans)
    assert together == [replay(lines, [plan])[0] for plan in plans]
    assert len({report.refused for report in together}) == 3


@given(st.lists(st.tuples(st.integers(0, 5_000), st.sampled_from("abc")), max_size=60), st.sampled_from(
    ["2/minute", "3/hour, 1/s burst 2", "1/minute as a, 5/hour as b", "4/day, 1/minute burst 2"]), st.sampled_from(
    [0, 1, 60, 5_000]))  # fmt: skip
def test_the_replay_is_the_ledger(events, limits, late):
    """Whatever the log, each decision is what a ledger with that client's key decides at that time."""
    plan = UsagePlan("p", limits)
    lines = [json.dumps({"ts": 1_700_000_000 + at, "ip": who}) for at, who in events]
    watched = []
    (report,) = replay(lines, [plan], late=late, watch=lambda at, who: watched.append((at, who)))
    clock = ManualClock(0)
    ledger, counts = Ledger(clock=clock), {}
    ledger.add_plan(plan)
    keys = {who: ledger.issue_key(who, plan).key for who in "abc"}
    for at, who in watched:
        clock.set(at)
        counts.setdefault(who, [0, 0])[not ledger.consume(keys[who])] += 1
    assert report.clients == counts
    assert [at for at, _ in watched] == sorted(at for at, _ in watched)
    latest = [max(at for at, _ in events[: n + 1]) for n in range(len(events))]
    if all(before - at <= late for before, (at, _) in zip(latest, events, strict=True)):
        assert [((at // 10**6) - 1_700_000_000, who) for at, who in watched] == sorted(
            events, key=lambda event: event[0]
        )
        assert report.too_late == 0
    if late == 0:
        assert [who for _, who in watched] == [who for _, who in events]
        assert [at // 10**6 - 1_700_000_000 for at, _ in watched] == latest
    assert report.too_late <= report.out_of_order == sum(a > b for a, (b, _) in zip(latest, events, strict=True))


def test_lines_that_are_late_are_put_in_order():
    """Within so many seconds; one that is later still counts at the latest time reached, and is told."""
    lines = [line(when=f"17/May/2015:10:05:{second:02d} +0000") for second in (3, 1, 2, 40, 41, 43, 20)]
    plan = UsagePlan("p", "1/s burst 1")
    reports = [replay(lines, [plan], late=late)[0] for late in (0, 2, 60)]
    assert [(report.out_of_order, report.too_late) for report in reports] == [(3, 3), (3, 1), (3, 0)]
    assert [report.refused for report in reports] == [3, 1, 0]
    assert "3 lines were out of order and put in order, 1 too late for that" in describe(reports[1])
    for wrong in (-1, 1.5, True, 10**9):
        with pytest.raises(InvalidValue, match="late"):
            replay([], [plan], late=wrong)


def test_what_waits_to_be_put_in_order_is_bounded(monkeypatch):
    """A log with very many lines a second is put in order as far as the bound allows."""
    monkeypatch.setattr("quota.replay.log_reading._MOST_WAITING", 10)
    seconds = [n % 7 * 2 for n in range(100)]
    lines = [line(when=f"17/May/2015:10:05:{second:02d} +0000") for second in seconds]
    order = []
    (report,) = replay(lines, [UsagePlan("p", "999/day")], watch=lambda at, who: order.append(at))
    assert report.total == 100 == len(order)
    assert order == sorted(order)
    assert report.too_late > 0
    assert "not all could be put in order" in describe(report)


@pytest.mark.parametrize("pace", [300, pytest.param(3000, marks=pytest.mark.slow)])
def test_what_waits_holds_thousands_of_lines_a_second(monkeypatch, pace):
    """A minute of 3,000 a second, every hundredth late by up to 55 s: none is too late, and names are kept once.

    At a tenth of that pace a tenth may wait.
    """
    many = 80 * pace
    monkeypatch.setattr("quota.replay.log_reading._MOST_WAITING", _MOST_WAITING * pace // 3000)
    seconds = [n // pace - (n % 5500 // 100 if n % 100 == 0 else 0) for n in range(many)]
    lines = [
        line(ip=n % 50, when=f"17/May/2015:10:{5 + s // 60:02d}:{s % 60:02d} +0000") for n, s in enumerate(seconds)
    ]
    order = []
    (report,) = replay(lines, [UsagePlan("p", "9/day")], watch=lambda at, _: order.append(at))
    assert (report.total, report.too_late, report.notes) == (many, 0, [])
    assert report.out_of_order > 2000 * pace // 3000
    assert order == sorted(order)
    requests = list(Reading(lines[:5000], Parser()))
    assert len({id(client) for _, client, _ in requests}) == 50


def test_malformed_lines_are_counted_and_shown_and_never_fatal():
    """Whatever stands in a line, the rest is replayed; empty lines are nothing."""
    bad = ["nonsense", "{", '{"ts": true, "ip": "x"}', "{}", '{"ts": 1e300}', "[]", "\x00", "a\x1b[31m" + "b" * 10**6]
    lines = [line for pair in zip(bad, traffic(len(bad)), strict=True) for line in pair] + ["", "\n", "  "]
    (report,) = replay(lines, [UsagePlan("p", "1000/day")])
    assert (report.total, report.malformed) == (len(bad), len(bad))
    assert report.samples == [(1, "nonsense"), (3, "{"), (5, bad[2]), (7, "{}"), (9, bad[4])]
    (shown,) = replay([bad[-1]], [UsagePlan("p", "1000/day")])
    assert len(shown.samples[0][1]) == 160
    assert "line 1: a\\x1b[31mbbb" in describe(shown)


def test_an_empty_log_is_an_empty_report():
    """Of each plan, with no times."""
    for report in replay([], [UsagePlan("p", "1/day"), UsagePlan("q", "2/day")]):
        assert (report.total, report.first, report.to_dict()["last"]) == (0, None, None)
        assert "0 requests of 0 clients" in describe(report)


def test_a_line_without_a_client_is_left_out_and_counted():
    """A plan refuses nobody there: the report says so, with an example."""
    (report,) = replay([line(), line(user="ada")], [UsagePlan("p", "9/day")], key="user")
    assert report.clients == {"ada": [1, 0]}
    assert (report.total, report.nameless, report.by_reason) == (1, 1, {})
    assert "1 requests left out in which user names no client, such as" in describe(report)


def test_a_route_has_limits_and_costs_of_its_own():
    """METHOD /path without its query; HEAD is GET; {name} stands for one segment."""
    plan = UsagePlan("p", "1000/day", routes={"GET /p1": "1/day as one"}, costs={"GET /p2": 600})
    lines = [line(n=1)] * 3 + [line(n=2)] * 2
    assert replay(lines, [plan])[0].by_limit == {"one": 2, "requests/day": 1}
    routes = Routes(UsagePlan("p", "9/day", routes={"GET /pets/{id}": "1/day as a", "GET /pets/all": "1/day as b"}))
    wanted = {"/pets/7": "GET /pets/{id}", "/pets/all": "GET /pets/all", "/pets/7/x": None, "/pets": None}
    assert {path: routes.find("HEAD", path) for path in wanted} == wanted
    assert routes.find("POST", "/pets/7") is None


@pytest.mark.parametrize(("route", "path", "fits"), [
    ("GET /{proxy+}", "/a/b/c", True), ("GET /pets/{proxy+}", "/pets/7/toys", True), ("GET /pets/{proxy+}", "/cats/7", False), ("GET /f/{p:path}", "/f/a/b", True),
    ("GET /f/<path:p>", "/f/a/b", True), ("GET /f/<path:p>/edit", "/f/a/b/edit", True), ("GET /f/<path:p>/edit", "/f/a/b", False), ("GET /f/<int:id>", "/f/7", True),
    ("GET /f/<int:id>", "/f/7/8", False), ("GET /f/<id>", "/f/7", True), ("GET /f/{id:int}", "/f/7/8", False), ("GET /f/{id}", "/f/7/8", False), ("GET /f.{id}", "/fx7", False),
    ("GET /a/{x}/b/{y}", "/a/1/b/2", True), ("GET /a/{x}/b/{y}", "/a/1/2/b/2", False), ("GET /{proxy+}/x+", "/a/b/x+", True), ("GET /[{id}]", "/[7]", True),
])  # fmt: skip
def test_a_route_s_template_is_read_as_its_framework_reads_it(route, path, fits):
    """API Gateway's, Starlette's and Flask's parts of several segments are several, all others one."""
    routes = Routes(UsagePlan("p", "9/day", routes={route: "1/day as a"}))
    assert routes.find("GET", path) == (route if fits else None)


def test_a_template_of_one_segment_comes_before_what_takes_any_path():
    """Whichever is first in the alphabet."""
    routes = Routes(
        UsagePlan(
            "p", "9/day", routes={"GET /{a+}": "1/day as a", "GET /{b}": "1/day as b", "GET /z/{c}": "1/day as c"}
        )
    )
    assert [routes.find("GET", path) for path in ("/x", "/z/1", "/z/1/2")] == ["GET /{b}", "GET /z/{c}", "GET /{a+}"]


def test_a_plan_may_count_what_the_log_measures():
    """bytes sent, or a JSON field of the unit's name; requests besides."""
    plan = UsagePlan("p", "1000 bytes/day, 3/day")
    (report,) = replay([line(size=400), line(size=500), line(size=101), line(size="-"), line(size=1)], [plan])
    assert report.by_limit == {"bytes/day": 1, "requests/day": 1}
    rows = [{"ts": 1_700_000_000, "ip": "a", "tokens": tokens} for tokens in (5, "6", 0, -1, None, "x", 1.5, 2)]
    (report,) = replay(map(json.dumps, rows), [UsagePlan("p", "11 tokens/day")])
    assert (report.allowed, report.by_limit) == (7, {"tokens/day": 1})


def test_days_and_hours_are_utc():
    """Two in the morning in Paris is the day before."""
    (report,) = replay([line(when="17/May/2015:01:30:00 +0200")], [UsagePlan("p", "1/day")])
    data = report.to_dict()
    assert data["days"] == [{"day": "2015-05-16", "allowed": 1, "refused": 0}]
    assert data["hours"] == [{"hour": "2015-05-16T23:00:00+00:00", "allowed": 1, "refused": 0}]


def test_windows_of_a_zone_are_the_zone_s():
    """A plan's day begins at its zone's midnight, not the log's."""
    lines = [line(when=f"17/May/2015:{hour}:30:00 +0000") for hour in ("21", "22")]
    plans = [UsagePlan("a", "1/day"), UsagePlan("b", "1/day in Europe/Paris")]
    assert plans[1].limits[0].period == Period("day", zone="Europe/Paris")
    assert [report.refused for report in replay(lines, plans)] == [1, 0]


def test_the_hardest_hit_come_first():
    """By how often they were refused, then by name; at most so many."""
    lines = [line(ip=ip) for ip in (3, 3, 3, 1, 1, 2, 2, 2, 2, 9)]
    (report,) = replay(lines, [UsagePlan("p", "1/day")])
    assert report.hardest(2) == [("192.0.0.2", 3, 4), ("192.0.0.3", 2, 3)]
    assert (len(report.hardest()), report.clients_refused) == (3, 3)
    text = describe(report, 1)
    assert "3 of       4 refused  192.0.0.2" in text
    assert "192.0.0.3" not in text


def test_progress_and_watch_are_told():
    """The number of lines read, now and then; each request's time and client."""
    seen, watched = [], []
    replay(traffic(10_000), [UsagePlan("p", "9/day")], progress=seen.append, watch=lambda *row: watched.append(row))
    assert seen == [4096, 8192]
    assert len(watched) == 10_000
    assert [at for at, _ in watched] == sorted(at for at, _ in watched)


def test_text_for_terminals_holds_nothing_unprintable():
    """Escapes, line breaks and lone surrogates are written out; a share is never rounded up to all."""
    assert plain("a\x1b\n\ud800é") == "a\\x1b\\n\\ud800é"
    assert plain("x" * 90) == "x" * 77 + "..."
    assert (share(999_999, 1_000_000), share(1, 1), share(0, 0)) == (" (99.9 %)", " (100.0 %)", "")


BARE = "import sys; import quota.__main__ as m; m.find_spec = lambda name: None; sys.exit(m.main(sys.argv[1:]))"
"""The command without the extra, as a process."""


def test_the_command_without_the_extra(tmp_path, capsys, monkeypatch):
    """python -m quota replay: text or JSON, which round-trips."""
    monkeypatch.setattr("quota.__main__.find_spec", lambda name: None)
    assert main(["replay", str(SAMPLE), "--plan", "100/day, 1/s burst 10", "--plan", "9/day", "--top", "1"]) == 0
    text = capsys.readouterr().out
    assert text.count("clients hit hardest") == 2
    assert "143" in text
    assert main(["replay", str(SAMPLE), "--plan", "100/day, 1/s burst 10", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    with open_log(str(SAMPLE)) as lines:
        (report,) = replay(lines, [UsagePlan("plan1", "100/day, 1/s burst 10")])
    assert data == {"log": str(SAMPLE), "reports": [report.to_dict()], "suggestion": None}
    log = tmp_path / "log"
    log.write_text('{"when": 1700000000, "ip": "a"}\n')
    assert main(["replay", str(log), "--plan", "1/day", "--field", "time=when", "--late", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reports"][0]["total"] == 1
    assert main(["demo"]) == 0


def test_several_logs_without_the_extra(tmp_path, capsys, monkeypatch):
    """By time, packed or not; a note is part of the report; one in which nothing is understood is an error."""
    monkeypatch.setattr("quota.__main__.find_spec", lambda name: None)
    (tmp_path / "a.gz").write_bytes(gzip.compress("\n".join(traffic(9)).encode())[:-4])
    (tmp_path / "b").write_text("\n".join(traffic(9)))
    paths = [str(tmp_path / name) for name in "ab"]
    paths[0] += ".gz"
    assert main(["replay", *paths, "--plan", "1/day"]) == 0
    out = capsys.readouterr().out
    assert "18 requests of" in out
    assert f"note: {paths[0]}: the archive is broken" in out
    (tmp_path / "b").write_text('[error] x\n{"when": 1, "who": "ada"}\n')
    assert main(["replay", paths[1], "--plan", "1/day"]) == 2
    assert "none of 2 lines is understood, such as line 1: [error] x" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "said"), [
    (["nowhere.log", "--plan", "1/day"], "nowhere.log"), ([".", "--plan", "1/day"], "directory"),
    ([str(SAMPLE), "--plan", "1/dya"], "character 3"), ([str(SAMPLE), "--plan", "1/day", "--key", "re:("], "re:"),
    ([str(SAMPLE), "--plan", "1/day", "--field", "time"], "NAME=WHERE"), ([str(SAMPLE)], "--plan"),
    ([str(SAMPLE), "--plan", "1/day", "--late", "-1"], "late"), ([str(SAMPLE), "--plan", "1/day", "--top", "-1"], "-1"),
    ([str(SAMPLE), "--plan", "1/day", "--key", "re:x\ud800("], "key"), (["a\0b", "--plan", "1/day"], "log"),
])  # fmt: skip
def test_wrong_use_is_one_line_and_status_2(arguments, said, capsys, monkeypatch):
    """No traceback, nothing on standard output."""
    monkeypatch.setattr("quota.__main__.find_spec", lambda name: None)
    try:
        status = main(["replay", *arguments])
    except SystemExit as wrong:  # argparse's own way
        status = wrong.code
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert said in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("quota")


def test_standard_input_and_a_reader_that_has_seen_enough():
    """- is standard input; a closed pipe ends the command quietly."""
    bare = [sys.executable, "-c", BARE, "replay"]
    done = subprocess.run([*bare, "-", "--plan", "1/day"], input="\n".join(traffic(9)).encode(), capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"9 requests" in done.stdout
    command = [*bare, str(SAMPLE), "--plan", "1/day", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as writer:
        writer.stdout.close()
        assert writer.stderr.read() == b""
    assert writer.returncode == 0


def test_help_has_an_example(capsys, monkeypatch):
    """Of the command as people type it."""
    monkeypatch.setattr("quota.__main__.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as done:
        main(["replay", "--help"])
    assert done.value.code == 0
    assert "example: python -m quota replay access.log" in " ".join(capsys.readouterr().out.split())
