"""API Gateway's files: what has a counterpart is built and written back the same, what has none is told."""

from __future__ import annotations

import json
from decimal import Decimal
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import ACME, GOLD, ODD_KEYS, ODD_PLANS, VALUE
from quota import ApiKey, Ledger, ManualClock, UsagePlan
from quota.aws.read import from_aws, parse_json
from quota.aws.write import to_aws, to_text
from quota.errors import InvalidValue
from quota.key import Secret, digest
from quota.wsgi import QuotaMiddleware


def read(*items):
    return parse_json("file", json.dumps({"items": items}))


def there_and_back(plans, keys, plan_keys, api=None):
    """What an export writes of what an import found, its values given back; the notes of both."""
    found = from_aws(read(*plans), read(*keys), {plan: read(*items) for plan, items in plan_keys.items()}, api)
    values = {digest(key["value"]): key["value"] for key in keys if key.get("value")}
    written = to_aws(found.plans, found.keys, values)
    back = [json.loads(to_text(items))["items"] for items in (written.plans, written.keys)]
    links = {plan: json.loads(to_text(items))["items"] for plan, items in written.plan_keys.items() if items}
    return *back, links, found, written


def test_the_documented_example_is_built_and_written_back():
    """A plan with a quota, a throttle and methods of its own, and a key on it."""
    link = {"id": ACME["id"], "type": "API_KEY", "value": VALUE, "name": "acme"}
    plans, keys, links, found, written = there_and_back([GOLD], [ACME], {"n371pt": [link]})
    (plan,), ((key, of),) = found.plans, found.keys
    assert plan == UsagePlan(
        "n371pt", "5000/month offset 3, 100/s burst 200", name="gold", api="a1b2c3d4e5/prod",
        routes={"GET /pets": "10/s burst 20", "GET /": "0.1/s burst 2"},
    )  # fmt: skip
    assert (key.id, key.name, key.enabled, of) == (ACME["id"], "acme", True, ["n371pt"])
    assert key.created_at.isoformat() == ACME["createdDate"]
    assert key.secrets == (Secret.of(VALUE),)
    assert VALUE not in repr(found)
    assert (plans, keys, links) == ([GOLD], [ACME], {"n371pt": [link]})
    assert found.notes == written.notes == []


@pytest.mark.parametrize("api", [None, "", "pets"])
def test_a_round_trip_loses_nothing_and_says_what_has_no_counterpart(api):
    """With the values, every attribute is written back, whatever it is."""
    plans, keys, _, found, _ = there_and_back(ODD_PLANS, ODD_KEYS, {}, api)
    assert keys == ODD_KEYS
    assert plans == ODD_PLANS
    said = "\n".join(found.notes)
    for words in ("plan two: its 2 stages share", "plan any: y/a /p/ANY binds each",
                  "plan any: y/a */* never binds", "plan any: y/a /{proxy+}/GET binds only", "plan any: throttle: the rate 33.333333333333336 a second is kept as 100/3",
                  "plan many: its name", "plan line: its name", "key a1: its name is empty", "key a2: its name is too long"):  # fmt: skip
        assert words in said, words
    assert not any(note.startswith("plan none") for note in found.notes)
    assert api is None or f"x/a, x/b is the api {api!r}" in said
    assert found.plans[[plan.id for plan in found.plans].index("two")].apis == (
        ("x/a", "x/b") if api is None else (api,)
    )


def test_without_the_values_the_loss_is_told():
    """Nothing is dropped in silence."""
    found = from_aws(read(GOLD), read(ACME), {})
    written = to_aws(found.plans, found.keys)
    assert "value" not in written.keys[0]
    assert written.notes == ["1 keys are without a value: secrets are not stored, only their digests are"]


def test_what_only_we_have_is_told():
    """Of plans and of keys."""
    plan = UsagePlan(
        "p", "1/day, 2/day as b, 3/hour, 4 tokens/day, 1/day by account as c, 6/month in Europe/Paris, 7/week from 2026-01-01T00:00:00Z, "
        "8/month overage 1 as d, 1/3/s burst 1, 2/minute burst 3 as e", api="shop", alerts=(5,), costs={"GET /": {"bytes": 2}},
        routes={"GET /x": "1/day", "nonsense": "1/s"},
    )  # fmt: skip
    key = ApiKey(
        "k", "k2", "team", expires_at=None, metadata={"a": "b"}, secrets=(Secret.of("a" * 20), Secret.of("b" * 20))
    )
    written = to_aws([plan], [(key, ["p"])], {digest("b" * 20): "b" * 20})
    assert written.plans[0]["quota"] == {"limit": 1, "offset": 0, "period": "DAY"}
    assert written.plans[0]["throttle"] == {"rateLimit": 1 / 3, "burstLimit": 1}
    assert written.keys == [
        {"id": "k", "value": "b" * 20, "name": "k2", "enabled": True, "tags": {"a": "b"}, "stageKeys": []}
    ]
    said = "\n".join(written.notes)
    for words in ("'shop' is no stage", "2/day as b", "3/hour", "4 tokens/day", "by account", "Europe/Paris", "from 2026", "overage", "rounded",
                  "2/minute burst 3 as e", "alerts", "costs", "'GET /x'", "'nonsense'", "account 'team'", "older secrets"):  # fmt: skip
        assert words in said, words


def test_a_rate_of_another_unit_is_written_per_second():
    """Exactly where it can be."""
    written = to_aws([UsagePlan("p", "30/minute burst 3")], [])
    assert written.plans[0]["throttle"] == {"rateLimit": 0.5, "burstLimit": 3}
    assert written.notes == []


@pytest.mark.parametrize("date", [1709287200, 1709287200.25, "2024-03-01T10:00:00Z", "2024-03-01T10:00:00"])
def test_dates_of_both_versions_of_the_aws_cli_are_read(date):
    """Seconds since the epoch, or ISO 8601."""
    found = from_aws([], read({**ACME, "createdDate": date}), {})
    assert found.keys[0][0].created_at.isoformat()[:19] == "2024-03-01T10:00:00"


@pytest.mark.parametrize("text", ["", "{", '{"items": 7}', '{"items": [7]}', '{"items": [{}]}', '{"items": [{"id": 7}]}', "7", "[" * 9999,
                                  '{"items": [{"id": "a\\nb"}]}', '{"items": [{"id": ""}]}'])  # fmt: skip
def test_what_is_not_what_the_aws_cli_prints_is_refused(text):
    """Naming the file."""
    with pytest.raises(InvalidValue, match=r"plans\.json"):
        parse_json("plans.json", text)
    assert parse_json("plans.json", '{"item": [{"id": "x", "n": 1.5}]}') == [{"id": "x", "n": Decimal("1.5")}]


@pytest.mark.parametrize("more", [{"position": "aWQ9"}, {"NextToken": "x"}, {"nextToken": "x"}, {"Marker": "x"}, {"NextMarker": "x"}, {"next_token": "x"},
                                  {"IsTruncated": True}, {"ContinuationToken": "x"}])  # fmt: skip
def test_a_page_after_which_more_follows_is_refused(more):
    """Of the AWS CLI with --max-items or --no-paginate, of SDKs: half of the keys would have no plan."""
    (name,) = more
    with pytest.raises(InvalidValue, match=rf"plans\.json: .*more follows \({name}\)"):
        parse_json("plans.json", json.dumps({"items": [{"id": "x"}], **more}))
    last = {name: False if more[name] is True else None, "ResponseMetadata": {"HTTPStatusCode": 200}, "warnings": []}
    assert parse_json("plans.json", json.dumps({**last, "items": [{"id": "x"}]})) == [{"id": "x"}]


@pytest.mark.parametrize("text", [
    '{"items": [{"id": "x", "n": 1e9999999999999999999}]}', '{"items": [{"id": "x", "n": -1e99999}]}', '{"items": [{"id": "x", "n": 1.5e400}]}',
    '{"items": [{"id": "x", "n": NaN}]}', '{"items": [{"id": "x", "n": Infinity}]}', f'{{"items": [{{"id": "x", "n": {"9" * 5000}}}]}}',
    '{"items": [{"id": "x", "id": "y"}]}', '{"items": [], "items": []}', "\ufeff\ufeff[]", "\x00[]", '{"items": [{"id": "x"}]} {"items": []}', "[" * 100_000 + "]" * 100_000,
    '{"items":' * 50_000,
])  # fmt: skip
def test_json_that_cannot_be_meant_is_refused(text):
    """Numbers that no double holds, one name twice, depth, rubbish: a clear error that names the file, quickly."""
    with pytest.raises(InvalidValue, match=r"plans\.json: .* is not accepted; expected"):
        parse_json("plans.json", text)


def test_a_byte_order_mark_is_no_part_of_the_json():
    """Windows writes one."""
    assert parse_json("f", '\ufeff[{"id": "x", "n": 1e300}]') == [{"id": "x", "n": Decimal("1e300")}]


@pytest.mark.parametrize("depth", [300, 600, 900, 950, 980, 990])
def test_what_is_deep_is_kept_or_refused(depth):
    """Never a crash: reading, keeping as metadata, and writing."""
    text = f'{{"items": [{{"id": "k", "value": "{VALUE}", "description": {"[" * depth}{"]" * depth}}}]}}'
    try:
        found = from_aws(parse_json("f", text), parse_json("f", text), {})
        to_text(to_aws(found.plans, found.keys).plans)
    except InvalidValue as error:
        assert "too deep" in str(error)


KEY = {"id": "k", "value": VALUE, "enabled": True}


@pytest.mark.parametrize(("plans", "keys", "plan_keys"), [
    ([], [{"id": "k"}], {}), ([], [{**KEY, "value": "short"}], {}), ([], [{**KEY, "createdDate": "soon"}], {}),
    ([], [], {"p": []}), ([{"id": "p"}], [], {"p": [KEY]}), ([], [{**KEY, "createdDate": []}], {}), ([], [{**KEY, "tags": 7}], {}),
    ([{"id": "p", "apiStages": 7}], [], {}), ([{"id": "p", "quota": 7}], [], {}), ([{"id": "p", "throttle": [1]}], [], {}),
    ([{"id": "p", "apiStages": [{"apiId": "a", "stage": "b"}]}, {"id": "q", "apiStages": [{"apiId": "a", "stage": "b"}]}], [KEY],
     {"p": [KEY], "q": [KEY]}), ([{"id": "p", "apiStages": [{"apiId": "a b", "stage": "c"}]}], [], {}), ([], [{**KEY, "value": 7}], {}), ([{"id": "p", "name": 7}], [], {}),
    ([], [{**KEY, "name": 7}], {}),
], ids=range(15))  # fmt: skip
def test_what_cannot_be_built_is_refused(plans, keys, plan_keys):
    """Whole, with what is wrong; values are never repeated."""
    with pytest.raises(InvalidValue) as refused:
        from_aws(read(*plans), read(*keys), {plan: read(*items) for plan, items in plan_keys.items()})
    assert VALUE not in str(refused.value)


def test_a_value_may_come_from_the_plan_s_keys():
    """get-usage-plan-keys always prints it."""
    bare = {"id": "k", "enabled": True}
    found = from_aws(read({"id": "p"}), read(bare), {"p": read(KEY)})
    assert found.keys[0][0].secrets == (Secret.of(VALUE),)


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**53) | st.floats(0, 1e6) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["apiId", "stage", "rateLimit", "limit", "a/GET"]), inner, max_size=3)
    ),
    max_leaves=6,
)
fields = st.sampled_from(
    ["name", "apiStages", "throttle", "quota", "tags", "enabled", "createdDate", "value", "description"]
)


@given(st.dictionaries(fields, anything), st.dictionaries(fields, anything))
def test_whatever_stands_there_is_built_or_refused(plan, key):
    """Nothing but an InvalidValue."""
    try:
        found = from_aws(read({**plan, "id": "p"}), read({**key, "id": "k", "value": VALUE}), {})
    except InvalidValue:
        return
    to_aws(found.plans, found.keys)


def stage(name):
    api, at = name.split("/")
    return {"apiId": api, "stage": at}


def test_overlapping_tiers_are_served_behind_the_middleware():
    """Free on r1, paid on r1 and r2: each key as API Gateway would serve it, whatever stage it comes to."""
    tiers = [
        {"id": "free", "name": "free", "apiStages": [stage("r1/prod")], "quota": {"limit": 2, "offset": 0, "period": "DAY"}},
        {"id": "paid", "name": "paid", "apiStages": [stage("r1/prod"), stage("r2/prod")], "quota": {"limit": 3, "offset": 0, "period": "DAY"}},
    ]  # fmt: skip
    keys = [{**KEY, "id": id_, "value": f"{id_}-secret-of-twenty-characters"} for id_ in ("poor", "rich")]
    found = from_aws(tiers, keys, {"free": [{"id": "poor"}], "paid": [{"id": "rich"}]})
    ledger = Ledger(clock=ManualClock(1_700_000_000_000_000))
    for plan in found.plans:
        ledger.add_plan(plan)
    for key, of in found.keys:
        ledger.store.add_keys([(key, of)])

    def site(environ, start_response):
        start_response("200 OK", [])
        return [b"here"]

    sites = {api: QuotaMiddleware(site, ledger, api=api, on_unavailable="deny") for api in ("r1/prod", "r2/prod")}

    def call(id_, api):
        said = []
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "HTTP_X_API_KEY": f"{id_}-secret-of-twenty-characters"}
        b"".join(sites[api](environ, lambda status, headers, *_: said.append(status[:3])))
        return said[0]

    assert [call("poor", api) for api in ("r1/prod", "r2/prod", "r1/prod", "r1/prod")] == ["200", "403", "200", "429"]
    assert [call("rich", api) for api in ("r1/prod", "r2/prod", "r1/prod", "r2/prod")] == ["200", "200", "200", "429"]
    assert json.loads(to_text(to_aws(ledger.list_plans(), []).plans))["items"] == tiers


def test_forty_sets_of_plans_with_stages_in_common_come_back_as_they_were():
    """Stages keep their order; keys that API Gateway would not have on two plans for one stage are refused."""
    random = Random(40)
    names = [f"r{api}/{at}" for api in range(3) for at in ("prod", "test")]
    refused = 0
    for _ in range(40):
        items = [
            {"id": f"p{number}", "name": f"plan {number}", "apiStages": [stage(name) for name in random.sample(names, random.randrange(4))],
             "quota": {"limit": random.randrange(1, 999), "offset": 0, "period": random.choice(["DAY", "WEEK", "MONTH"])}}
            for number in range(random.randrange(1, 5))
        ]  # fmt: skip
        on = random.sample(items, random.randrange(len(items) + 1))
        stages = [tuple(of.items()) for item in on for of in item["apiStages"]]
        key = {**KEY, "value": "k-secret-of-twenty-characters"}
        plan_keys = {item["id"]: [{"id": KEY["id"]}] for item in on}
        if len(set(stages)) < len(stages):
            refused += 1
            with pytest.raises(InvalidValue, match="a key has one plan for each"):
                from_aws(items, [key], plan_keys)
            continue
        found = from_aws(items, [key], plan_keys)
        ledger = Ledger()
        for plan in found.plans:
            ledger.add_plan(UsagePlan.from_dict(json.loads(json.dumps(plan.to_dict()))))
        ledger.store.add_keys([found.keys[0]])
        assert json.loads(to_text(to_aws(ledger.list_plans(), []).plans))["items"] == items
        assert {plan.id for plan in ledger.list_plans(KEY["id"])} == {*plan_keys}
    assert 3 < refused < 37
