"""Logs as they are written: every format tells the same, packed or piped, and no line is fatal."""

import gzip
import io
import json
from datetime import datetime, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quota import UsagePlan
from quota.errors import InvalidValue
from quota.replay import replay
from quota.replay.log_files import open_log
from quota.replay.logs import Parser, field_of
from traffic import LINE, traffic

LINES = traffic(60)
AT = [datetime.strptime(line.split("[")[1].split("]")[0], "%d/%b/%Y:%H:%M:%S %z") for line in LINES]
IPS = [line.split()[0] for line in LINES]
JSON = {
    "ISO 8601": lambda at: at.isoformat(),
    "ISO 8601 with Z": lambda at: at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    "ISO 8601 without zone": lambda at: at.strftime("%Y-%m-%d %H:%M:%S"),
    "an access log's": lambda at: at.strftime("%d/%b/%Y:%H:%M:%S %z"),
    "seconds": lambda at: int(at.timestamp()),
    "seconds with a fraction": lambda at: at.timestamp() + 0.25,
    "seconds in text": lambda at: f"{at.timestamp():.3f}",
    "milliseconds": lambda at: int(at.timestamp() * 1000),
    "microseconds": lambda at: int(at.timestamp() * 10**6),
    "nanoseconds": lambda at: int(at.timestamp()) * 10**9 + 999,
}


def summary(lines, **options):
    data = replay(lines, [UsagePlan("p", "3/day, 10/hour")], **options)[0].to_dict()
    return {name: data[name] for name in data if name not in ("first", "last")}


def test_common_format_gives_the_same_report():
    """Without the two headers of the combined format."""
    assert summary(LINES) == summary([line.split(' "http')[0] for line in LINES])


@pytest.mark.parametrize("form", JSON)
def test_json_lines_give_the_same_report(form):
    """However the instant is written."""
    made = [json.dumps({"timestamp": JSON[form](at), "remote_addr": ip}) for at, ip in zip(AT, IPS, strict=True)]
    assert summary(made) == summary(LINES)


@pytest.mark.parametrize("row", [
    {"requestTimeEpoch": 1700000000123, "ip": "192.0.2.1", "httpMethod": "GET", "resourcePath": "/pets", "user": "-"},
    {"time_local": "14/Nov/2023:22:13:20 +0000", "remote_addr": "192.0.2.1", "request": "GET /pets?x=1 HTTP/1.1"},
    {"ts": 1700000000.5, "request": {"remote_ip": "192.0.2.1", "method": "GET", "uri": "/pets?y", "headers": {}}},
    {"@timestamp": "2023-11-14T22:13:20.123Z", "clientip": "192.0.2.1", "verb": "GET", "url": "/pets"},
], ids=["API Gateway", "nginx", "Caddy", "Logstash"])  # fmt: skip
def test_the_logs_of_others_are_understood(row):
    """Who, when and what, found by itself."""
    parse = Parser()
    at, client, parsed = parse(json.dumps(row))
    assert (at // 1_000_000, client, parse.request(parsed)) == (1_700_000_000, "192.0.2.1", ("GET", "/pets"))
    assert Parser("path")(json.dumps(row))[1] == "/pets"
    assert Parser("user")(json.dumps(row))[1] is None


def test_fields_may_be_anywhere():
    """Said by name, inside other objects too; the first of a list."""
    line = json.dumps({"when": {"at": 1_700_000_000}, "who": ["ada", "bob"], "time": "yesterday"})
    parse = Parser("ip", dict(map(field_of, ["time=when.at", "ip=who"])))
    assert parse(line)[:2] == (1_700_000_000_000_000, "ada")
    for wrong in ("", "time", "=x", "time="):
        with pytest.raises(InvalidValue, match="field"):
            field_of(wrong)


TEXT = LINE.format(net=0, ip=7, user="ada lovelace", when="17/May/2015:10:05:03 +0200", n=4, size=31)
LIKE = json.dumps({
    "time": "2015-05-17T08:05:03", "ip": "192.0.0.7", "user": "ada lovelace", "method": "GET", "path": "/p4?q=1",
    "status": 200, "size": 31, "headers": {"Referer": ["http://r/4"]}, "http_user_agent": 'agent \\"7\\" 1.0',
    "http_x": "GET /p4",
})  # fmt: skip


@pytest.mark.parametrize("line", [TEXT, LIKE], ids=["text", "json"])
@pytest.mark.parametrize(("key", "client"), [
    ("ip", "192.0.0.7"), ("user", "ada lovelace"), ("path", "/p4"), ("header:Referer", "http://r/4"),
    ("header:user-agent", 'agent \\"7\\" 1.0'), ("field:status", "200"), ("field:size", "31"), ("field:bytes", "31"),
    (r"re:/p(\d)", "4"), ("re:GET|POST", "GET"), ("re:nobody", None), ("re:(nobody)?", None), ("header:Via", None),
    ("field:nothing", None),
])  # fmt: skip
def test_clients_are_told_by_any_field(line, key, client):
    """ip, user, path, a header, a field, or a regular expression's first group: alike in text and in JSON."""
    assert Parser(key)(line)[:2] == (1_431_849_903_000_000, client)


@pytest.mark.parametrize("key", ["", "ips", "re:(", "re:", "header:", "field:", "ip:", "re:a{99999999999999}", None, 7])
def test_a_key_that_names_no_client_is_refused(key):
    """With what is accepted."""
    with pytest.raises(InvalidValue, match="key"):
        Parser(key)


def test_minutes_are_worked_out_once_and_never_mixed_up():
    """Of one minute, in two zones, and a second that a clock inserted."""
    parse = Parser()
    when = ["17/May/2015:10:05:03 +0000", "17/May/2015:10:05:60 +0000", "17/May/2015:10:05:04 +0200"]
    times = [parse(LINE.format(net=0, ip=1, user="-", when=w, n=1, size=1))[0] // 1_000_000 for w in when]
    assert times == [1_431_857_103, 1_431_857_160, 1_431_849_904]


BAD = [
    "", "x", '1 - - [17/May/2015:10:05:03] "GET /" 200 1', '1 - - [17/Mai/2015:10:05:03 +0000] "GET /" 200 1',
    '1 - - [32/May/2015:10:05:03 +0000] "GET /" 200 1', '1 - - [17/May/2015:24:05:03 +0000] "GET /" 200 1',
    '1 - - [17/May/2015:10:05:61 +0000] "GET /" 200 1', '1 - - [17/May/1960:10:05:03 +0000] "GET /" 200 1',
    '1 - - [31/Dec/9999:10:05:03 +0000] "GET /" 200 1', '1 - - [17/May/2015:10:05:03 +9900] "GET /" 200 1',
    '1 - - [١٧/May/2015:10:05:03 +0000] "GET /" 200 1', '1 - - [17/May/2015:10:05:03 +0000] "GET / 200 1',
    "null", "[]", '"x"', "{}", '{"time": null}', '{"time": NaN}', '{"time": Infinity}', '{"time": -1}', '{"time": 1e400}',
    '{"time": 1' + "0" * 30 + "}", '{"time": [1]}', '{"time": {}}', '{"time": "soon"}', '{"time": true}', "[" * 100_000,
    '{"time": ' + "9" * 5000 + "}", '{"time": "9999-12-31"}',
]  # fmt: skip


@pytest.mark.parametrize("line", BAD, ids=range(len(BAD)))
def test_what_is_no_request_is_a_value_error(line):
    """Whatever is wrong with it."""
    with pytest.raises(ValueError):
        Parser()(line)


@given(st.text() | st.from_regex(r'\S+ - - \[\d\d/May/2015:10:05:03 .{5}\] ".*" 200 \d'),
       st.sampled_from(["ip", "user", "path", "header:referer", "field:size", "re:(.)x"]))  # fmt: skip
@example('{"time": 1, "ip": {"a": 1}, "headers": 7, "request": 5}', "header:referer")
@example('{"time": 1, "path": [], "request": "GET"}', "path")
def test_no_line_is_fatal(line, key):
    """A request, or a ValueError: nothing else."""
    parse = Parser(key)
    try:
        at, client, row = parse(line)
    except ValueError:
        return
    assert type(at) is int
    assert client is None or type(client) is str
    assert all(type(part) is str for part in parse.request(row))
    assert parse.units(row, "bytes") >= 0


TEXT_OF_LINES = "\n".join(LINES).encode()


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("data", [TEXT_OF_LINES, TEXT_OF_LINES + b"\n", b"\xef\xbb\xbf" + TEXT_OF_LINES,
                                  TEXT_OF_LINES.replace(b"\n", b"\r\n")])  # fmt: skip
def test_files_and_standard_input_give_the_same_lines(tmp_path, monkeypatch, pack, data):
    """Packed is told by the first bytes; a byte order mark and Windows' line ends are no part of a line."""
    (tmp_path / "log").write_bytes(pack(data))
    with open_log(str(tmp_path / "log")) as log:
        assert [line for line in log if line] == LINES
        assert log.position == log.size == len(pack(data))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(pack(data))))
    with open_log("-") as log:
        assert log.size is None
        assert [line for line in log if line] == LINES


def test_lines_longer_than_what_is_read_at_once_are_whole(tmp_path, monkeypatch):
    """Up to a bound, beyond which they are cut: a file without line ends is not kept in memory."""
    monkeypatch.setattr("quota.replay.log_files._CHUNK", 10)
    monkeypatch.setattr("quota.replay.log_files._LONGEST", 300)
    lines = ["a" * 25, "", "é" * 20, "b" * 9, "c" * 10, "d" * 1000, "e"]
    (tmp_path / "log").write_text("\n".join(lines), "utf-8")
    with open_log(str(tmp_path / "log")) as log:
        found = list(log)
    assert (found[:5], found[6]) == (lines[:5], "e")
    assert set(found[5]) == {"d"}
    assert 300 <= len(found[5]) <= 310


@pytest.mark.parametrize("data", [gzip.compress(TEXT_OF_LINES)[:-20], gzip.compress(TEXT_OF_LINES)[:30] + b"\0" * 99,
                                  b"\x1f\x8b\x07"])  # fmt: skip
def test_a_packed_log_that_is_broken_is_told(tmp_path, data):
    """Cut short or overwritten: a note, and what could be read before is kept, as zcat does."""
    (tmp_path / "log").write_bytes(data)
    with open_log(str(tmp_path / "log")) as log:
        lines = list(log)
        assert lines[:-1] == LINES[: len(lines[:-1])]
        assert len(lines) <= len(LINES)
    assert len(log.notes) == 1
    assert "broken or cut short" in log.notes[0]


def test_a_log_that_is_not_there_is_told(tmp_path):
    """Nor a directory, nor a name that none can have."""
    for path in (tmp_path / "none", tmp_path, "a\0b"):
        with pytest.raises(InvalidValue, match="can be read"), open_log(str(path)):
            pass


def test_what_goes_wrong_elsewhere_is_not_the_log_s(tmp_path):
    """An error of the block around an open log stays what it is."""
    (tmp_path / "log").write_bytes(b"x")
    with pytest.raises(BrokenPipeError), open_log(str(tmp_path / "log")):
        raise BrokenPipeError


def test_instants_before_1970_and_the_year_9999_are_malformed():
    """A stray far future would stop the replay's clock there."""
    parse = Parser()
    assert parse('{"time": 0}')[0] == 0
    assert parse('{"time": "9999-12-30T23:59:59Z"}')[0] == int(
        datetime(9999, 12, 30, 23, 59, 59, tzinfo=timezone.utc).timestamp() * 10**6
    )
