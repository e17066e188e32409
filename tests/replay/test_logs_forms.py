"""Lines as gateways, collectors and load balancers write them: who asked, when and for what, or malformed; never made up."""

import json
from time import process_time

import pytest

from quota import UsagePlan
from quota.replay import replay
from quota.replay.logs import Parser
from quota.replay.report import describe
from quota.replay.run import Routes

AT = 1_775_729_472_000_000
WHEN = "09/Apr/2026:10:11:12 +0000"
PLAIN = f'203.0.113.8 - - [{WHEN}] "GET /pets HTTP/1.1" 200 23 "http://r/" "agent"'
XML = (
    '<request id="7f1d-1"> <ip>203.0.113.8</ip> {who}<requestTime>' + WHEN + "</requestTime>"
    " <httpMethod>GET</httpMethod> <{path}</{tag}> <status>200</status> <protocol>HTTP/1.1</protocol>"
    " <responseLength>23</responseLength> </request>"
)
JSON = {"requestId": "7f1d-1", "ip": "203.0.113.8", "requestTime": WHEN, "httpMethod": "GET", "status": "200",
        "protocol": "HTTP/1.1", "responseLength": "23"}  # fmt: skip
AWS = {
    "REST CLF": f'203.0.113.8 - - [{WHEN}]"GET /pets HTTP/1.1" 200 23 7f1d-1 AbC=',
    "REST CLF of a role": f'203.0.113.8 AIDA7 arn:aws:iam::1:user/x [{WHEN}]"GET /pets HTTP/1.1" 200 23 7f1d-1',
    "REST JSON": json.dumps({**JSON, "caller": "-", "user": "-", "resourcePath": "/pets"}),
    "REST XML": XML.format(who="<caller>-</caller> <user>-</user> ", path="resourcePath>/pets", tag="resourcePath"),
    "REST CSV": f"203.0.113.8,-,-,{WHEN},GET,/pets,HTTP/1.1,200,23,7f1d-1,AbC=",
    "HTTP CLF": f'203.0.113.8 - - [{WHEN}] "GET GET /pets HTTP/1.1" 200 23 7f1d-1',
    "HTTP JSON": json.dumps({**JSON, "routeKey": "GET /pets"}),
    "HTTP XML": XML.format(who="", path="routeKey>GET /pets", tag="routeKey"),
    "HTTP CSV": f"203.0.113.8,{WHEN},GET,GET /pets,HTTP/1.1,200,23,7f1d-1",
    "REST JSON beside the path": json.dumps({"path": "/prod/pets", **JSON, "resourcePath": "/pets"}),
    "the path alone": json.dumps({**JSON, "routeKey": "$default", "path": "/pets"}),
    "any method": json.dumps({**JSON, "routeKey": "ANY /pets"}),
}


@pytest.mark.parametrize("front", ["", "2026-04-09T10:11:00.123Z "], ids=["", "exported"])
@pytest.mark.parametrize("form", AWS)
def test_api_gateway_s_formats(form, front):
    """Of its guide, as they are, and behind the time that an export of CloudWatch puts in front."""
    parse = Parser()
    at, client, row = parse(front + AWS[form])
    assert (at, client) == (AT, "203.0.113.8")
    assert (parse.request(row), parse.units(row, "bytes")) == (("GET", "/pets"), 23)


def test_a_route_s_template_is_its_name():
    """Also where the log has the path itself, so that a plan's routes are found."""
    parse = Parser()
    row = parse(json.dumps({**JSON, "path": "/prod/pets/7", "resourcePath": "/pets/{petId}"}))[2]
    routes = Routes(UsagePlan("p", "9/day", routes={"GET /pets/{petId}": "1/day as a"}))
    assert routes.find(*parse.request(row)) == "GET /pets/{petId}"
    assert parse.request(parse(json.dumps({**JSON, "routeKey": "$default"}))[2]) == ("GET", "$default")


FRONTS = [
    "2026-04-09T10:11:00.123Z ", "2026-04-09T10:11:00.669794202Z stdout F ", "www.shop.example:443 ", "10.0.0.9:80 ",
    "[2001:db8::9]:443 ", "Apr  9 10:11:00 web1 nginx: ", "Apr  9 10:11:00 10.0.0.5 nginx[12]: ", "web-1  | ", "web1 ",
    '<134>1 2026-04-09T10:11:00Z web1 nginx 12 - [x@1 a="b"] ', "\x1b[36mweb-1  |\x1b[0m ", "- ", " \t", "\0" * 9,
    "\ufeff", "www.shop.example ", "192.168.0.9 ",
]  # fmt: skip


@pytest.mark.parametrize("front", FRONTS, ids=range(len(FRONTS)))
@pytest.mark.parametrize("user", ["-", "ada lovelace"])
def test_what_stands_in_front_is_not_the_client(front, user):
    """A time, a host, a container, a colour: the address is who asked. JSON may have the same in front."""
    assert Parser()(front + PLAIN.replace("- -", f"- {user}"))[:2] == (AT, "203.0.113.8")
    assert Parser("user")(front + PLAIN.replace("- -", "- ada"))[1] == "ada"
    assert Parser("header:user-agent")(front + PLAIN)[1] == "agent"
    assert Parser("re:(GET|POST)")(front + PLAIN)[1] == "GET"
    assert Parser()(front + json.dumps(JSON))[:2] == (AT, "203.0.113.8")


@pytest.mark.parametrize(("before", "client"), [
    ("1.2.3.4, 10.0.0.1 - -", "1.2.3.4"), ("1.2.3.4,10.0.0.1 - -", "1.2.3.4"), ("1.2.3.4, 10.0.0.1, 10.0.0.2 - -", "1.2.3.4"),
    ("1.2.3.4, 10.0.0.1 - ada lovelace", "1.2.3.4"), ("web-1 | 1.2.3.4, 10.0.0.1 - -", "1.2.3.4"),
    ("1.2.3.4:4431 - -", "1.2.3.4"), ("[2001:db8::9]:4431 - -", "2001:db8::9"), ("2001:db8::9 - -", "2001:db8::9"),
    ("::1 - -", "::1"), ("client.example.com - -", "client.example.com"), ("client.example - ada lovelace", "client.example"),
    ("web-1 | client.example.com - -", "client.example.com"), ("localhost - -", "localhost"), ("host:7 - -", "host"),
    ("1.2.3.4 www.shop.example - ada", "1.2.3.4"), ("1.2.3.4 ident ada", "1.2.3.4"),
    ("10.0.0.1 - 203.0.113.8 - -", None), ("unknown, 10.0.0.1 - -", None), ("web-1 | localhost - -", None), ("- - -", None),
    ("2026-04-09T10:11:00Z web1 - -", None), ("a b c d e", None), ("@ | \x00 -", None),
])  # fmt: skip
def test_the_client_is_an_address_or_told_to_be_none(before, client):
    """The first of a proxy's list, without its port; a name where it stands alone; none where two have an equal claim."""
    assert Parser()(PLAIN.replace("203.0.113.8 - -", before))[1] == client


SECOND = {"time": "2026-04-09T10:11:12Z"}
OTHERS = {
    "Caddy behind a proxy": {"ts": 1775729472.0, "request": {"client_ip": "9.9.9.9", "remote_ip": "10.0.0.1", "method": "GET", "uri": "/a?b"}},
    "Caddy before 2.5": {"ts": 1775729472.0, "request": {"remote_addr": "9.9.9.9:123", "method": "GET", "uri": "/a"}},
    "Traefik": {"ClientHost": "9.9.9.9", "ClientAddr": "9.9.9.9:55", "StartUTC": "2026-04-09T10:11:12.0Z", "RequestMethod": "GET",
                "RequestPath": "/a", "time": "2026-04-09T10:11:12Z"},
    "Envoy": {"start_time": "2026-04-09T10:11:12.000Z", "downstream_remote_address": "9.9.9.9:1234", "method": "GET", "path": "/a"},
    "Google": {"httpRequest": {"requestMethod": "GET", "requestUrl": "https://h/a?b", "remoteIp": "9.9.9.9"}, "timestamp": SECOND["time"]},
    "Azure": {**SECOND, "properties": {"clientIp": "9.9.9.9:44", "httpMethod": "GET", "requestUri": "/a"}},
    "App Service": {**SECOND, "properties": {"CIp": "9.9.9.9", "CsMethod": "GET", "CsUriStem": "/a"}},
    "Elastic's schema": {"@timestamp": SECOND["time"], "client": {"ip": "9.9.9.9"}, "http": {"request": {"method": "GET"}}, "url": {"path": "/a"}},
    "flat names": {"@timestamp": SECOND["time"], "source.ip": "9.9.9.9", "http.request.method": "GET", "url.path": "/a"},
    "Kong": {"started_at": 1775729472000, "client_ip": "9.9.9.9", "request": {"method": "GET", "uri": "/a?b", "size": "1"}},
    "a proxy's list": {**SECOND, "x_forwarded_for": "9.9.9.9, 10.0.0.1", "request": "GET /a HTTP/1.1"},
    "Docker": {"log": PLAIN.replace("203.0.113.8", "9.9.9.9").replace("/pets", "/a") + "\n", "stream": "stdout", "time": "2026-04-09T11:00:00Z"},
    "Docker around JSON": {"log": json.dumps({**SECOND, "ip": "9.9.9.9", "uri": "/a"}) + "\n", "time": "2026-04-09T11:00:00Z"},
    "CloudWatch's event": {"timestamp": 1775730000000, "message": json.dumps({**SECOND, "ip": "9.9.9.9", "uri": "/a"})},
    "journald": {"__REALTIME_TIMESTAMP": "1775730000000000", "MESSAGE": PLAIN.replace("203.0.113.8", "9.9.9.9").replace("/pets", "/a")},
    "nginx's time_iso8601": {"time_iso8601": "2026-04-09T10:11:12+00:00", "remote_addr": "9.9.9.9", "request": "GET /a HTTP/1.1"},
    "day and clock apart": {"date": "2026-04-09", "time": "10:11:12", "ip": "9.9.9.9", "url": "/a"},
    "no address first": {**SECOND, "ip": "-", "remote_addr": "9.9.9.9", "path": "/a"},
    "a duration first": {"time": 0.034, "timestamp": 1775729472, "ip": "9.9.9.9", "path": "/a"},
    "milliseconds first": {"time": 34, "@timestamp": "2026-04-09T10:11:12Z", "ip": "9.9.9.9", "path": "/a"},
    "digits of a date": {"time": 20260409101112, "date": 20260409, "ts": 1775729472000000, "ip": "9.9.9.9", "path": "/a"},
    "no time first": {"time": "-", "timestamp": "0.034", "ts": "1775729472.000", "ip": "9.9.9.9", "path": "/a"},
    "a day first": {"time": "2026-04-09", "ts": 1775729472 * 10**9, "ip": "9.9.9.9", "path": "/a"},
}  # fmt: skip


@pytest.mark.parametrize("form", OTHERS)
def test_the_json_of_others(form):
    """Who, when and what, found by itself, whatever else a line has under likely names."""
    parse = Parser()
    at, client, row = parse(json.dumps(OTHERS[form]))
    assert (at, client, parse.request(row)) == (AT, "9.9.9.9", ("GET", "/a"))


@pytest.mark.parametrize("stamp", [
    20260409101112, 20260409, "20260409", "20260409101112", "2026-04-09", 0.034, 34.5, "-", "0.034", 10**10, 10**13, 10**16, 10**19,
    -1_775_729_472, "yesterday", [], {}, True, "10:11:12",
])  # fmt: skip
def test_what_is_no_plausible_time_is_malformed(stamp):
    """Durations, dates in digits, days without a clock, numbers far off: none is an instant."""
    with pytest.raises(ValueError):
        Parser()(json.dumps({"time": stamp, "ip": "9.9.9.9"}))


def test_times_early_in_1970_are_doubted():
    """Made-up logs have them; elsewhere they are durations, so the report says it."""
    rows = [json.dumps({"time": at, "ip": "a"}) for at in (34, 35)]
    (report,) = replay(rows, [UsagePlan("p", "1/day")])
    assert (report.total, report.refused) == (2, 1)
    assert "--field time=WHERE" in describe(report)
    assert "note" not in describe(replay([PLAIN], [UsagePlan("p", "1/day")])[0])


@pytest.mark.parametrize(("row", "request_"), [
    ({"request": "POST /a HTTP/1.1", "request_uri": "/a"}, ("POST", "/a")), ({"method": "post", "path": "/a"}, ("POST", "/a")),
    ({"url": "https://h:8443/a?b"}, ("GET", "/a")), ({"url": "https://h"}, ("GET", "/")), ({"request": "put http://h/a HTTP/1.1"}, ("PUT", "/a")),
    ({"verb": "PATCH", "request": "/a"}, ("PATCH", "/a")), ({"request": "GET"}, ("GET", "")), ({"path": "-"}, ("GET", "")),
    ({"routeKey": "$default", "rawPath": "/a"}, ("GET", "/a")), ({"routeKey": "POST /a/{id}", "rawPath": "/a/7"}, ("POST", "/a/{id}")),
    ({"request_method": "-", "request": "DELETE /a HTTP/2.0"}, ("DELETE", "/a")), ({"path": "pets"}, ("GET", "pets")), ({}, ("GET", "")),
])  # fmt: skip
def test_methods_and_paths(row, request_):
    """From whichever field says them, in capitals, without scheme, host and query."""
    parse = Parser()
    assert parse.request(parse(json.dumps({**SECOND, **row}))[2]) == request_


def test_methods_and_paths_of_text():
    """Alike; a request that was none has no path."""
    parse = Parser("path")
    asked = {
        "post http://h/a?b HTTP/1.1": ("POST", "/a"),
        "-": ("GET", ""),
        "": ("GET", ""),
        "OPTIONS * HTTP/1.1": ("OPTIONS", "*"),
    }
    for said, request in asked.items():
        client, row = parse(PLAIN.replace("GET /pets HTTP/1.1", said))[1:]
        assert (parse.request(row), client) == (request, request[1] or None)


W3C = """#Software: Microsoft Internet Information Services 10.0
#Fields: date time c-ip cs-username cs-method cs-uri-stem cs-uri-query sc-status sc-bytes cs(User-Agent)
2026-04-09 10:11:12 9.9.9.9 - GET /a q=1 200 23 curl/8
2026-04-09 10:11:13 9.9.9.9 - GET /a - 200 23 "curl 8"
2026-04-09 10:11:14 9.9.9.9 - GET
#Fields: c-ip\tdate\ttime\tcs-method\tcs-uri-stem\tsc-bytes
9.9.9.8\t2026-04-09\t10:11:15\tGET\t/a b\t7
"""


def test_columns_that_a_log_names():
    """W3C and CloudFront: a comment names them, in times of UTC; a line that is short is malformed."""
    (report,) = replay(W3C.splitlines(), [UsagePlan("p", "40 bytes/day")])
    assert report.clients == {"9.9.9.9": [1, 1], "9.9.9.8": [1, 0]}
    assert (report.first, report.last, report.malformed) == (AT, AT + 3_000_000, 1)
    (report,) = replay(W3C.splitlines(), [UsagePlan("p", "9/day")], key="header:User-Agent")
    assert (set(report.clients), report.nameless) == ({"curl/8", "curl 8"}, 1)
    (report,) = replay(W3C.splitlines()[2:5], [UsagePlan("p", "9/day")])
    assert report.malformed == 3


@pytest.mark.parametrize("front", ["http ", "h2 ", "grpcs ", ""], ids=["http", "h2", "grpc", "classic"])
def test_load_balancers_of_aws(front):
    """Both kinds; the client's port is another each time."""
    line = (
        f"{front}2026-04-09T10:11:12.000000Z app/my-lb/50dc 9.9.9.9:2817 10.0.0.1:80 0.000 0.001 -1 200 200 34 366"
        ' "GET http://www.example.com:80/a?q HTTP/1.1" "curl/7.46.0" - - arn:x "Root=1" "-"'
    )
    parse = Parser()
    at, client, row = parse(line)
    assert (at, client, parse.request(row), parse.units(row, "bytes")) == (AT, "9.9.9.9", ("GET", "/a"), 366)


ROW = json.dumps({"ts": 1775729472, "ip": "a"})
BROKEN = '{"ts": 1775729472, "ip": nobody}'


@pytest.mark.parametrize(("lines", "total", "malformed"), [
    ([ROW * 3], 3, 0), ([f"[{ROW}, {ROW}]"], 2, 0), (["[", f"{ROW},", f"  {ROW}", "]"], 2, 0), ([f"{ROW},"], 1, 0),
    ([f"{ROW} {ROW}"], 2, 0), ([ROW + BROKEN + ROW], 2, 1), ([f'{{"records": [{ROW}, {ROW}]}}'], 2, 0),
    ([f'{{"messageType": "DATA", "logEvents": [{{"id": "1", "message": {json.dumps(ROW)}}}]}}'], 1, 0),
    ([f"[{ROW}, 7, null]"], 1, 2), (["[]"], 0, 1), ([f"{ROW} tail"], 1, 1), ([ROW + "[" * 100_000], 1, 1), (["{" * 10], 0, 1),
    (["# a comment", "", " "], 0, 0), ([ROW + '{"x": 1e9999999999999999999}'], 1, 1),
])  # fmt: skip
def test_several_requests_on_a_line(lines, total, malformed):
    """As Firehose, an array and a trailing comma have them; one that is broken is counted, the others are replayed."""
    (report,) = replay(lines, [UsagePlan("p", "9/day")])
    assert (report.total, report.malformed) == (total, malformed)


@pytest.mark.parametrize("more", [
    '"x": 1e9999999999999999999', '"time": 1e9999999999999999999', '"ts": 1e-9999999999999999999', f'"x": {"[" * 100_000}',
    f'"x": {"9" * 5000}', '"x": ' + '{"x":' * 100_000,
])  # fmt: skip
def test_numbers_and_nesting_without_end_are_malformed(more):
    """Never a crash, in a line of its own and in one of several."""
    line = f'{{"time": "2026-04-09T10:11:12Z", "ip": "a", {more}}}'
    (report,) = replay([line, ROW + line, ROW], [UsagePlan("p", "9/day")])
    assert (report.total, report.malformed) == (2, 2)


@pytest.mark.parametrize("line", [
    ROW + '{"a}' * 200_000, ROW + '{"a}{a' * 150_000, "1.2.3.4 " * 100_000 + PLAIN, "[" * 900_000, "\x1b[1" * 300_000, "<request " + "<a>" * 300_000,
    "1," * 400_000, '{"log": "[' + '\\"' * 400_000 + '"}', "1.2.3.4 - - " + f"[{WHEN}] " * 30_000,
], ids=range(9))  # fmt: skip
def test_hostile_lines_take_no_longer_than_they_are_long(line):
    """A megabyte of whatever makes parsers look again and again is a malformed line, soon."""
    begun = process_time()
    (report,) = replay([line, PLAIN], [UsagePlan("p", "9/day")])
    assert process_time() - begun < 2
    assert report.malformed
    assert "203.0.113.8" in report.clients


@pytest.mark.parametrize(("size", "units"), [
    ("18446744073709551615", 0), ("9" * 5000, 0), ("-1", 0), (str(2**53), 0), (str(2**53 - 1), 2**53 - 1), ("100", 100), ("0", 0),
])  # fmt: skip
def test_sizes_that_cannot_be_count_nothing_and_are_told(size, units):
    """Of text and of JSON: -1 written unsigned, thousands of digits, less than none. Other lines and limits are as ever."""
    lines = [PLAIN.replace(" 23 ", f" {size} "), json.dumps({**SECOND, "ip": "b", "size": size})]
    if len(size) < 4000:
        lines.append(json.dumps({**SECOND, "ip": "c", "size": int(size)}))
    (report,) = replay([*lines, PLAIN], [UsagePlan("p", f"{2**53 - 1} bytes/day, 2/day")])
    assert (report.total, report.malformed) == (len(lines) + 1, 0)
    assert report.refused == (units == 2**53 - 1)
    told = [note for note in report.notes if note.startswith(f"{len(lines)} lines have no whole number")]
    assert bool(told) == (units == 0 != int(size[:20]))


@pytest.mark.parametrize(("value", "units"), [
    (100.0, 100), ("100.0", 100), (1e2, 100), ("100", 100), (7, 7), (None, 0), ("-", 0), ("", 0), (1.5, None), (-1, None), ("12kB", None),
    (True, None), ({}, None), ([], None), (1e99, None), (1e-99, None), (2**53, None),
])  # fmt: skip
def test_units_of_json(value, units):
    """Whole numbers, written as floats too; what is none is told, what is not there is not."""
    parse = Parser()
    row = parse(json.dumps({**SECOND, "tokens": value}))[2]
    assert (parse.units(row, "tokens"), parse.uncountable["tokens"]) == (units or 0, units is None)


def test_a_unit_that_a_log_never_has_is_told():
    """A limit of it can refuse nobody, which is no finding; one of a plan beside it has no such note."""
    plans = [UsagePlan("p", "100 tokens/minute"), UsagePlan("q", "9/day"), UsagePlan("r", "9 bytes/day")]
    p, q, r = replay([PLAIN], plans)
    assert "no line has a number of tokens" in p.notes[0]
    assert "--field tokens=WHERE" in describe(p)
    assert (q.notes, r.notes, r.refused) == ([], [], 1)
