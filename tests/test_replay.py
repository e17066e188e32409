"""The replay says what a plan would have done: its figures are those of a ten-line script, in every format."""

import gzip
import io
import json
from collections import Counter
from datetime import datetime

import pytest

from quota import UsagePlan
from quota.__main__ import main
from quota.errors import InvalidValue
from quota.logs import Parser, client_of, open_log
from quota.replay import describe, replay

LINE = '192.0.2.{ip} - {user} [{when}] "GET /p{n} HTTP/1.1" 200 {size} "http://r/{n}" "agent {ip}"'


def traffic(lines, day=17):
    """A log of the real one's shape: many clients, a few busy ones, four days, seconds out of order within a minute."""
    state, made = 1, []
    for n in range(lines):
        state = (state * 48_271) % 2_147_483_647
        minute = n * 4 * 1440 // lines
        ip = state % 7 if state % 3 else state % 250
        when = f"{day + minute // 1440}/May/2015:{minute % 1440 // 60:02d}:{minute % 60:02d}:{state % 60:02d} +0000"
        made.append(LINE.format(ip=ip, user="ada" if state % 5 else "-", when=when, n=n % 9, size=state % 999))
    return made


def test_a_ten_line_script_finds_the_same_figures():
    """10,000 lines through a quota and a throttle, by fractions and counters."""
    lines = traffic(10_000)
    days, levels, latest, allowed, refused = Counter(), {}, 0, 0, Counter()
    for line in lines:
        ip, when = line.split(" ", 1)[0], line.split("[", 1)[1].split("]", 1)[0]
        latest = max(latest, int(datetime.strptime(when, "%d/%b/%Y:%H:%M:%S %z").timestamp()))
        level, at = levels.get(ip, (0, latest))
        level, day = max(0, level - 2 * (latest - at)), (ip, latest // 86_400)
        over = [name for name, full in (("requests/day", days[day] >= 100), ("throttle", level + 1 > 20)) if full]
        refused.update(over)
        if not over:
            allowed, days[day], levels[ip] = allowed + 1, days[day] + 1, (level + 1, latest)
    (report,) = replay(lines, [UsagePlan("p", "100/day, 2/s burst 20")])
    assert (report.allowed, report.by_limit) == (allowed, refused)
    assert report.total == 10_000
    assert report.refused == 10_000 - allowed > 100
    assert sum(a for a, _ in report.days.values()) == allowed
    assert len(report.days) == 4


FORMATS = {
    "combined": traffic(50),
    "common": [line.split(' "http')[0] for line in traffic(50)],
    "json": [
        json.dumps({"timestamp": datetime.strptime(line.split("[")[1].split("]")[0], "%d/%b/%Y:%H:%M:%S %z").isoformat(),
                    "remote_addr": line.split()[0], "uri": "/p"}) for line in traffic(50)
    ],
    "epoch": [
        json.dumps({"ts": datetime.strptime(line.split("[")[1].split("]")[0], "%d/%b/%Y:%H:%M:%S %z").timestamp(),
                    "client_ip": line.split()[0]}) for line in traffic(50)
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_report(name):
    """Combined, common, and JSON lines with ISO instants or epoch seconds."""
    plan = UsagePlan("p", "3/day")
    assert replay(FORMATS[name], [plan])[0].to_dict() == replay(FORMATS["combined"], [plan])[0].to_dict()


def test_malformed_lines_are_counted_and_shown_and_never_fatal():
    """Whatever stands in a line, the rest is replayed."""
    bad = ["nonsense", "{", '{"ts": true, "ip": "x"}', "{}", '{"ts": 1e300}', "[]", "\x00", '1 - - [99/Foo/2015:1] "" 200 1']
    lines = [line for pair in zip(bad, traffic(len(bad)), strict=True) for line in pair] + ["", "\n"]
    (report,) = replay(lines, [UsagePlan("p", "1000/day")])
    assert (report.total, report.malformed) == (len(bad), len(bad))
    assert report.samples[0] == (1, "nonsense")
    assert "malformed" in describe(report)


def test_time_never_runs_backwards():
    """A line out of order counts in the latest minute seen, and is told."""
    later, earlier = traffic(2)[1], traffic(2)[0]
    (report,) = replay([later, earlier], [UsagePlan("p", "1/day")])
    assert (report.out_of_order, len(report.days)) == (1, 1)


@pytest.mark.parametrize(("key", "clients"), [
    ("ip", 2), ("user", 1), ("path", 2), ("header:user-agent", 2), ("header:Referer", 2), ("field:status", 1),
    (r"re:p(\d)", 2), ("re:HTTP", 1),
])  # fmt: skip
def test_clients_are_told_by_any_field(key, clients):
    """ip, user, path, a header, a field, or a regular expression's group."""
    lines = [
        LINE.format(ip=ip, user="ada", when="17/May/2015:10:05:03 +0200", n=ip, size=1) for ip in (1, 2, 1)
    ]
    assert len(replay(lines, [UsagePlan("p", "9/day")], key=key)[0].asked) == clients


@pytest.mark.parametrize("key", ["", "ips", "re:(", "re:", "header:", "ip:"])
def test_a_key_that_names_no_client_is_refused(key):
    """With what is accepted."""
    with pytest.raises(InvalidValue, match="key"):
        client_of(key)


def test_a_line_without_a_client_is_a_call_without_a_key():
    """As the ledger would answer it."""
    (report,) = replay([LINE.format(ip=1, user="-", when="17/May/2015:10:05:03 +0000", n=1, size=1)],
                       [UsagePlan("p", "9/day")], key="user")  # fmt: skip
    assert report.by_reason == {"MISSING_KEY": 1}


def test_gzip_and_standard_input(tmp_path, monkeypatch):
    """A packed file is told by its first bytes; - is standard input, packed or not."""
    text = "\n".join(traffic(20)).encode()
    (tmp_path / "log").write_bytes(gzip.compress(text))
    with open_log(str(tmp_path / "log")) as lines:
        assert len(list(lines)) == 20
    for data in (text, gzip.compress(text)):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        with open_log("-") as lines:
            assert len(list(lines)) == 20


def test_minutes_are_worked_out_once():
    """Two lines of one minute, two zones: the cache never mixes them up."""
    parse = Parser()
    when = ["17/May/2015:10:05:03 +0000", "17/May/2015:10:05:04 +0000", "17/May/2015:10:05:04 +0200"]
    times = [parse(LINE.format(ip=1, user="-", when=w, n=1, size=1))["time"] for w in when]
    assert [times[1] - times[0], times[1] - times[2]] == [1_000_000, 7_200_000_000]


def test_the_command_without_the_extra(tmp_path, capsys, monkeypatch):
    """python -m quota replay: text or JSON; clear errors and exit status 2."""
    monkeypatch.setattr("quota.__main__.find_spec", lambda name: None)
    log = tmp_path / "log"
    log.write_text("\n".join(traffic(30)))
    assert main(["replay", str(log), "--plan", "1/day", "--plan", "9/day"]) == 0
    assert "clients hit hardest" in capsys.readouterr().out
    assert main(["replay", str(log), "--plan", "1/day", "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert report["total"] == 30 == report["allowed"] + report["refused"]
    for wrong in (["replay", "nowhere", "--plan", "1/day"], ["replay", str(log), "--plan", "1/dya"],
                  ["replay", str(log), "--plan", "1/day", "--key", "re:("]):  # fmt: skip
        assert main(wrong) == 2
        assert capsys.readouterr().err.startswith("quota: ")
    assert main(["demo"]) == 0


def test_a_route_s_limits_apply_to_its_requests():
    """Plans with routes are asked for METHOD /path."""
    plan = UsagePlan("p", "1000/day", routes={"GET /p1": "1/day as one"})
    lines = [LINE.format(ip=1, user="-", when="17/May/2015:10:05:03 +0000", n=1, size=1)] * 3
    assert replay(lines, [plan])[0].by_limit == {"one": 2}


def test_progress_is_told():
    """Now and then, with the number of lines read."""
    seen = []
    replay(traffic(10_000), [UsagePlan("p", "9/day")], progress=seen.append)
    assert seen == [4096, 8192]
