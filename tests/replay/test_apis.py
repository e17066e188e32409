"""A log of several APIs: each request goes to the one that it names, and is decided as behind its middleware."""

import json
from random import Random

import pytest

from commands import Quota
from quota import Ledger, ManualClock, UsagePlan
from quota.errors import InvalidValue, PlanConflict
from quota.replay import replay
from quota.replay.apis import ApiRules
from quota.replay.log_files import open_logs
from quota.replay.logs import Parser
from quota.wsgi import QuotaMiddleware

COMMON = '10.0.0.1 - - [17/May/2026:10:00:00 +0000] "{} HTTP/1.1" 200 5'
W3C = "#Fields: date time cs-host cs-method cs-uri-stem c-ip"
ALB = (
    'https 2026-05-17T10:00:00.1Z app/x 10.0.0.1:9 10.1.1.1:80 0.0 0.0 0.0 200 200 1 2 "GET https://Maps.Example:443/a HTTP/1.1"'
    ' "curl" - - arn x'
)
FREE, PAID = UsagePlan("free", "4/day", api="r1/prod"), UsagePlan("paid", "9/day", apis=("r1/prod", "r2/prod"))


def api_of(rules, line, name="a.log", **fields):
    """The API of a line by these rules, with what is below its prefix."""
    parser = Parser(fields=fields)
    for one in line.splitlines():
        try:
            _, _, row = parser(one)
        except ValueError:
            continue
        return ApiRules(rules).of(name, parser)(row, one, parser.request(row)[1])
    raise AssertionError(line)


@pytest.mark.parametrize(("rules", "line", "wanted"), [
    (["r1=path:/maps"], COMMON.format("GET /maps/pets?x=1"), ("r1", "/pets")),
    (["r1=path:/maps/"], COMMON.format("GET /maps"), ("r1", "/")),
    (["r1=path:/maps"], COMMON.format("GET /mapsake"), None),
    (["r1=path:/maps/v2", "r2=path:/maps", "r3"], COMMON.format("GET /maps/v1/a"), ("r2", "/v1/a")),
    (["r2=path:/"], COMMON.format("GET /b"), ("r2", "/b")),
    (["r1=path:/maps", "r3"], COMMON.format("GET /b"), ("r3", None)),
    (["r1=host:maps.example"], "Maps.Example:443 " + COMMON.format("GET /a"), ("r1", None)),
    (["r1=host:10.0.0.1"], COMMON.format("GET /a"), None),
    (["r1=host:maps.example"], COMMON.format("GET http://maps.example:80/a"), ("r1", None)),
    (["r1=host:maps.example"], ALB, ("r1", None)),
    (["r1=host:maps.example."], f"{W3C}\n2026-05-17 10:00:00 maps.example GET /a 10.0.0.1", ("r1", None)),
    (["r1=host:maps.example"], '{"ts": 1800000000, "ip": "10.0.0.1", "request": {"host": "maps.example:8443"}}', ("r1", None)),
    (["r1=host:maps.example"], '{"ts": 1800000000, "ip": "10.0.0.1", "headers": {"Host": ["maps.example"]}}', ("r1", None)),
    (["field:apiId/stage"], '{"ts": 1800000000, "ip": "10.0.0.1", "apiId": "r1", "stage": "prod"}', ("r1/prod", None)),
    (["field:x.api", "r9"], '{"ts": 1800000000, "ip": "10.0.0.1", "x": {"api": "r2"}}', ("r2", None)),
    (["field:apiId/stage", "r9"], '{"ts": 1800000000, "ip": "10.0.0.1", "apiId": "r1"}', ("r9", None)),
    (["field:apiId"], COMMON.format("GET /a"), None),
    (["r1/prod=log:a.log"], COMMON.format("GET /a"), ("r1/prod", None)),
    (["r1=log:b*", "r2=log:a*"], COMMON.format("GET /a"), ("r2", None)),
])  # fmt: skip
def test_the_first_rule_that_fits_says_which(rules, line, wanted):
    """By path at whole segments, host without its port, log, or fields; the last one may take all others."""
    assert api_of(rules, line) == wanted


def test_where_a_line_has_its_host_can_be_said():
    """By ``--field``, as of everything else."""
    line = '{"ts": 1800000000, "ip": "10.0.0.1", "site": "maps.example"}'
    assert api_of(["r1=host:maps.example"], line) is None
    assert api_of(["r1=host:maps.example"], line, host="site") == ("r1", None)


@pytest.mark.parametrize(
    "rule", ["", "a=b", "r1=path:maps", "r1=path:", "=path:/a", "field:", "field:a//b", "r1=log:", "a\nb", None, 5]
)
def test_a_rule_that_is_none_is_refused(rule):
    """With what is accepted."""
    with pytest.raises(InvalidValue, match="api"):
        ApiRules([rule])


def traffic(seed, many=400):
    """(second, client, stage) of calls to two stages."""
    random = Random(seed)
    moments = sorted(random.randrange(3 * 86_400) for _ in range(many))
    return [(at, f"c{random.randrange(4)}", random.choice(["r1/prod", "r2/prod"])) for at in moments]


@pytest.mark.parametrize(
    "plans", [(FREE,), (PAID,), (FREE, UsagePlan("search", "7/day, 1/minute burst 2", api="r2/prod"))]
)
def test_a_replay_is_what_the_middlewares_of_the_stages_decide(plans):
    """Overlapping tiers: the log of the calls gives the very figures of the middlewares that served them."""
    clock = ManualClock(1_800_000_000_000_000)
    ledger = Ledger(clock=clock)
    for plan in plans:
        ledger.add_plan(plan)
    secrets = {}
    for who in ("c0", "c1", "c2", "c3"):
        key, secrets[who] = ledger.issue_key(who)
        for plan in plans:
            ledger.associate(key, plan)

    def site(environ, start_response):
        start_response("200 OK", [])
        return [b""]

    sites = {api: QuotaMiddleware(site, ledger, api=api, on_unavailable="deny") for api in ("r1/prod", "r2/prod")}
    lines, clients, apis = [], {}, {}
    for at, who, api in traffic(len(plans)):
        clock.set(1_800_000_000_000_000 + at * 1_000_000)
        said = []
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "HTTP_X_API_KEY": secrets[who]}
        b"".join(sites[api](environ, lambda status, headers, *_: said.append(status[:3])))  # noqa: B023
        for counts in (clients.setdefault(who, [0, 0]), apis.setdefault(api, [0, 0])):
            counts[said[0] != "200"] += 1
        api_id, stage = api.split("/")
        lines.append(json.dumps({"ts": 1_800_000_000 + at, "user": who, "apiId": api_id, "stage": stage}))
    (report,) = replay(lines, [plans], key="user", apis=["field:apiId/stage"], late=0)
    assert (report.clients, report.apis) == (clients, apis)
    assert report.by_reason["NO_PLAN"] == (apis["r2/prod"][1] if plans == (FREE,) else 0)
    assert {name.partition(": ")[0] for name in report.by_limit} == (
        {"free", "search"} if len(plans) > 1 else {"requests/day"}
    )


def test_what_no_rule_names_is_left_out_and_told():
    """Plans of no api count whatever is named; routes are looked for below the prefix too."""
    lines = [COMMON.format(f"GET {path}") for path in ("/maps/pets/1", "/pets/2", "/maps/pets/3", "/else", "/maps")]
    plan = UsagePlan("p", "3/day", routes={"GET /pets/{id}": "1/day as pets"})
    (report, alone) = replay(lines, [plan, FREE], apis=["r1/prod=path:/maps", "r2/prod=path:/pets"])
    assert (report.total, report.elsewhere, report.allowed) == (4, 1, 2)
    assert dict(report.by_limit) == {"pets": 2}
    assert (alone.apis, alone.by_reason["NO_PLAN"]) == ({"r1/prod": [3, 0], "r2/prod": [0, 1]}, 1)
    watched = []
    replay(lines, [FREE], apis=["r1/prod=path:/maps", "r2/prod=path:/pets"], watch=lambda *seen: watched.append(seen))
    assert len(watched) == 3
    with pytest.raises(PlanConflict, match="'r1/prod', as 'free'"):
        replay(lines, [(FREE, PAID)], apis=["r1/prod"])
    with pytest.raises(InvalidValue, match="several plans"):
        replay(lines, [(FREE, UsagePlan("b", "1/day", api="b"))])


def test_from_the_command_line(tmp_path):
    """A log for each stage, plans of the store side by side and together; what is wrong is one line."""
    quota = Quota()
    for name, times in (("r1.log", 6), ("r2.log", 3)):
        (tmp_path / name).write_text((COMMON.format("GET /a") + "\n") * times)
    quota("plan", "add", "free", "4/day", "--api", "r1/prod")
    quota("plan", "add", "search", "2/day", "--api", "r2/prod")
    logs = [tmp_path / "r1.log", tmp_path / "r2.log"]
    rules = ["--api", "r1/prod=log:r1.log", "--api", "r2/prod=log:r2.log"]
    data = quota.json("replay", *logs, "--plan", "free", "--plan", "free+search", "--plan", "5/day", *rules)
    assert [(one["plan"]["id"], one["allowed"]) for one in data["reports"]] == [
        ("free", 4),
        ("free+search", 6),
        ("plan3", 5),
    ]
    assert data["reports"][1]["apis"][1] == {"api": "r2/prod", "allowed": 2, "refused": 1}
    assert data["reports"][1]["refused_by_limit"] == {"free: requests/day": 2, "search: requests/day": 1}
    assert quota("replay", *logs, "--plan", "free+search", *rules) == 0
    assert "free: 4/day; search: 2/day\n  allowed 6" in quota.out
    assert "\n  r1/prod: allowed 4, refused 2\n" in quota.out
    assert "a log that is given" in quota.fails("replay", logs[0], "--plan", "free", "--api", "r1=log:zz")
    assert "to none of the APIs" in quota.fails("replay", logs[0], "--plan", "free", "--api", "r1/prod=path:/x")
    assert "'gold'" in quota.fails("replay", logs[0], "--plan", "free+gold", "--api", "r1/prod")
    assert "one plan's limits" in quota.fails("replay", *logs, "--plan", "free+search", "--suggest", "9", *rules)
    assert quota("replay", *logs, "--plan", "5/day", "--api", "r1/prod=log:r1.log") == 0
    assert "3 requests left out that are to none of the APIs that are named" in quota.out
    with open_logs([str(one) for one in logs]) as opened:
        assert replay(opened, [FREE], apis=rules[1::2])[0].allowed == 4
