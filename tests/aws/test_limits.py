"""API Gateway's limits: what was closed stays closed, rates are kept to the nearest, and what cannot be said is refused."""

from __future__ import annotations

import json
from fractions import Fraction

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quota import Ledger, ManualClock
from quota.aws.limits import METHODS
from quota.aws.read import from_aws, parse_json
from quota.aws.write import to_aws, to_text
from quota.errors import InvalidValue
from quota.limit import Throttle
from quota.plan import UsagePlan
from quota.replay import replay

VALUE = "abcdef1234ghijklmnop8901234567"
KEY = {"id": "k", "value": VALUE, "name": "acme", "enabled": True}
WIDE = {"burstLimit": 50, "rateLimit": 20.0}


def plan(stages=None, **fields):
    """A plan over stages ``{name: throttles of methods}``, as the AWS CLI prints it."""
    listed = [
        dict(zip(("apiId", "stage"), name.split("/"), strict=True)) | ({"throttle": methods} if methods else {})
        for name, methods in (stages or {"r1/prod": {}}).items()
    ]
    return {"id": "p", "name": "n", "apiStages": listed, **fields}


def imported(item, **key):
    """What an import makes of a plan with one key on it."""
    text = json.dumps({"items": [item]})
    keys = json.dumps({"items": [{**KEY, **key}]})
    return from_aws(parse_json("plans", text), parse_json("keys", keys), {"p": [KEY]})


def admitted(item, *routes, calls=5):
    """How many of so many calls of each route are let in at one instant."""
    found = imported(item)
    ledger = Ledger(clock=ManualClock(1_700_000_000_000_000))
    ledger.add_plan(UsagePlan(**found.plans[0].to_dict()))
    ledger.store.add_keys([(found.keys[0][0], ["p"])])
    api = found.plans[0].apis[0]
    return [sum(ledger.consume(VALUE, api=api, route=route).allowed for _ in range(calls)) for route in routes]


def written(plans):
    """The first plan as the file of an export has it, and what is told."""
    made = to_aws(plans, [])
    return json.loads(to_text(made.plans))["items"][0], made.notes


@pytest.mark.parametrize("fields", [
    {"throttle": {"burstLimit": 0, "rateLimit": 0.0}}, {"throttle": {"burstLimit": 0, "rateLimit": 10.0}}, {"throttle": {"burstLimit": 20, "rateLimit": 0}},
    {"throttle": {"burstLimit": 0, "rateLimit": 0.016666666666666666}}, {"quota": {"limit": 0, "offset": 0, "period": "DAY"}},
    {"quota": {"limit": 0, "period": "MONTH"}, "throttle": WIDE}, {"quota": {"limit": 0.0, "offset": 2, "period": "week"}},
])  # fmt: skip
def test_a_limit_of_zero_admits_nobody(fields):
    """As in API Gateway, without a note: it is exact, and is written back."""
    assert admitted(plan(**fields), None, "GET /pets") == [0, 0]
    found = imported(plan(**fields))
    assert found.notes == []
    assert not found.plans[0].metadata
    back, told = written(found.plans)
    assert told == []
    if "quota" in fields:
        assert back["quota"] == {"offset": 0, **fields["quota"], "period": fields["quota"]["period"].upper()}
    assert back.get("throttle") == fields.get("throttle")


@pytest.mark.parametrize("method", [*METHODS, "ANY", "*"])
@pytest.mark.parametrize("throttle", [{"burstLimit": 0, "rateLimit": 0.0}, {"burstLimit": 3, "rateLimit": 0}])
def test_a_method_that_is_switched_off_stays_so(method, throttle):
    """In the middleware's names, and nothing else is."""
    closed = METHODS if method in ("ANY", "*") else [method]
    item = plan({"r1/prod": {f"/admin/{method}": throttle, "/pets/GET": WIDE}}, throttle=WIDE)
    routes = [f"{one} /admin" for one in METHODS]
    assert admitted(item, *routes, "GET /pets", "GET /other") == [0 if one in closed else 5 for one in METHODS] + [5, 5]


@pytest.mark.parametrize(
    "place",
    [
        "*/*",
        "/*/GET",
        "/{proxy+}/GET",
        "/pets/{proxy+}/ANY",
        "/a/get",
        "pets/GET",
        "GET",
        f"/{'a' * 1024}/GET",
        "/a\n/GET",
    ],
)
def test_what_is_closed_and_cannot_be_is_refused(place):
    """No route here is called so: what was closed would be open. A throttle that admits somebody is told."""
    with pytest.raises(InvalidValue, match="admits nobody"):
        imported(plan({"r1/prod": {place: {"burstLimit": 0, "rateLimit": 0.0}}}))
    found = imported(plan({"r1/prod": {place: {"burstLimit": 1, "rateLimit": 0.5}}}, throttle=WIDE))
    (warning,) = found.warnings
    assert warning in found.notes
    assert "never binds" in warning or "binds only calls that say" in warning
    back = written(found.plans)[0]
    assert list(back["apiStages"][0]["throttle"]) == [place]


@pytest.mark.parametrize(("fields", "named"), [
    ({"throttle": {"rateLimit": -1.0, "burstLimit": 5}}, "rateLimit"), ({"throttle": {"rateLimit": 1.0, "burstLimit": -5}}, "burstLimit: -5"),
    ({"throttle": {"rateLimit": "10", "burstLimit": 5}}, "rateLimit: '10'"), ({"throttle": {"rateLimit": 1.0, "burstLimit": "5"}}, "burstLimit: '5'"),
    ({"throttle": {"rateLimit": 1.0, "burstLimit": 2.5}}, "burstLimit"), ({"throttle": {"rateLimit": True, "burstLimit": 5}}, "rateLimit: True"),
    ({"throttle": {"rateLimit": None, "burstLimit": 5}}, "rateLimit"), ({"throttle": {"rateLimit": 1.0, "burstLimit": 10**15}}, "burstLimit"),
    ({"throttle": {"rateLimit": 1e300, "burstLimit": 5}}, "rateLimit"), ({"throttle": []}, "throttle"), ({"throttle": False}, "throttle"), ({"throttle": 0}, "throttle"),
    ({"quota": {"limit": 5, "offset": 7, "period": "WEEK"}}, r"quota.offset: 7"),
    ({"quota": {"limit": 5, "offset": 28, "period": "MONTH"}}, "quota.offset"), ({"quota": {"limit": 5, "offset": -1, "period": "MONTH"}}, "quota.offset"),
    ({"quota": {"limit": -5, "period": "DAY"}}, "quota.limit: -5"), ({"quota": {"limit": "5", "period": "DAY"}}, "quota.limit: '5'"),
    ({"quota": {"limit": 5.5, "period": "DAY"}}, "quota.limit"), ({"quota": {"limit": False, "period": "DAY"}}, "quota.limit"), ({"quota": {"period": "DAY"}}, "quota.limit"),
    ({"quota": {"limit": 5}}, "quota.period: None"), ({"quota": {"limit": 5, "period": "HOUR"}}, "quota.period: 'HOUR'"), ({"quota": {"limit": 5, "period": "minute"}}, "quota.period"),
    ({"quota": {"limit": 5, "period": 1}}, "quota.period"), ({"quota": {"limit": 10**17, "period": "DAY"}}, "quota.limit"), ({"quota": False}, "quota"), ({"quota": ""}, "quota"),
    ({"quota": {"limit": 5, "period": "DAY", "offset": "0"}}, "quota.offset"), ({"quota": {"limit": 5, "period": "DAY", "offset": False}}, "quota.offset"),
])  # fmt: skip
def test_what_cannot_be_meant_is_refused_and_never_unlimited(fields, named):
    """The plan, the field, what stands there and what is accepted are named; of a method alike."""
    with pytest.raises(InvalidValue, match=rf"plan p: .*{named}.* is not accepted; expected"):
        imported(plan(**fields))
    if "throttle" in fields:
        with pytest.raises(InvalidValue, match=r"plan p: r1/prod.* is not accepted; expected"):
            imported(plan({"r1/prod": {"/pets/GET": fields["throttle"]}}, throttle=WIDE))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e9999", "1e9999999999999999999", "-1e400"])
@pytest.mark.parametrize("field", ["rateLimit", "burstLimit"])
def test_what_is_no_number_is_refused(number, field):
    """NaN, infinities and what no double holds."""
    text = json.dumps({"items": [plan(throttle={**WIDE, field: "HERE"})]}).replace('"HERE"', number)
    with pytest.raises(InvalidValue, match="plans: .*number"):
        parse_json("plans", text)


@pytest.mark.parametrize(("rate", "kept"), [
    (1000 / 60, Fraction(1000, 60)), (1 / 60, Fraction(1, 60)), (100 / 3, Fraction(100, 3)), (100_000 / 86_400, Fraction(100_000, 86_400)),
    (10_000 / 6, Fraction(10_000, 6)), (1_000_000 / 86_400, Fraction(1_000_000, 86_400)), (1 / 86_400, Fraction(1, 86_400)), (0.1, Fraction(1, 10)), (1 / 7, Fraction(1, 7)),
    (1000 / 3600, Fraction(1000, 3600)), (1234.5678, Fraction("1234.5678")), (10000.0, Fraction(10000)), (7, Fraction(7)),
])  # fmt: skip
@pytest.mark.parametrize("burst", [1, 20, 5000])
def test_a_rate_of_many_digits_is_kept_to_the_nearest(rate, kept, burst):
    """A thousand a minute is a thousand a minute: told, written back as it was."""
    throttle = {"burstLimit": burst, "rateLimit": rate}
    found = imported(plan({"r1/prod": {"/pets/GET": throttle}}, throttle=throttle))
    for limit in (*found.plans[0].limits, *found.plans[0].routes["GET /pets"]):
        assert (abs(limit.rate - Fraction(repr(rate))) <= abs(kept - Fraction(repr(rate)))) or limit.rate == kept
        assert limit.burst == burst
    if burst == 5000:
        assert found.plans[0].limits == (Throttle(kept, burst=5000),)
    assert all("is kept as" in note for note in found.notes)
    assert found.warnings == []
    assert written(found.plans) == (plan({"r1/prod": {"/pets/GET": throttle}}, throttle=throttle), [])


@given(st.floats(0, 1e6), st.integers(0, 2**31 - 1))
def test_every_rate_is_kept_or_admits_less(rate, burst):
    """To the nearest that can be counted, or where nothing is near to less; never none, and never a refused import."""
    found = imported(plan(throttle={"rateLimit": rate, "burstLimit": burst}))
    (limit,) = found.plans[0].limits
    exact = Fraction(repr(rate))
    assert limit.burst == burst
    assert abs(limit.rate - exact) * 10**9 <= exact if not found.warnings else limit.rate < exact
    assert (limit.rate == exact) == (not found.notes)


@pytest.mark.parametrize("method", METHODS)
def test_any_binds_every_method_and_a_method_s_own_comes_first(method):
    """Each by itself, which is told."""
    item = plan(
        {
            "r1/prod": {
                "/pets/ANY": {"burstLimit": 2, "rateLimit": 0.1},
                "/pets/POST": {"burstLimit": 1, "rateLimit": 0.1},
            }
        },
        throttle=WIDE,
    )
    assert admitted(item, f"{method} /pets", "GET /other") == [1 if method == "POST" else 2, 5]
    found = imported(item)
    (warning,) = found.warnings
    assert "/pets/ANY binds each method by itself" in warning
    assert written(found.plans)[0] == item


@pytest.mark.parametrize("throttle", [{"rateLimit": 10.0}, {"burstLimit": 10}, {}])
def test_a_number_that_is_left_out_is_zero(throttle):
    """As in the service's model: it admits nobody, which is a warning, and is written back as it was."""
    found = imported(plan(throttle=throttle) if throttle else plan({"r1/prod": {"/pets/GET": {}}}, throttle=WIDE))
    assert found.warnings
    assert "is left out" in found.warnings[0]
    assert written(found.plans)[0] == (
        plan(throttle=throttle) if throttle else plan({"r1/prod": {"/pets/GET": {}}}, throttle=WIDE)
    )
    if throttle:
        assert admitted(plan(throttle=throttle), None) == [0]


def test_of_several_stages_the_tightest_throttle_binds():
    """They are counted together, so together they admit no more than either; where a stage has none, the plan's."""
    stages = {
        "r1/prod": {"/pets/GET": {"burstLimit": 3, "rateLimit": 0.1}, "/big/GET": {"burstLimit": 90, "rateLimit": 90.0}, "/shut/PUT": {"burstLimit": 0, "rateLimit": 0.0}},
        "r2/prod": {"/pets/GET": {"burstLimit": 4, "rateLimit": 0.05}},
    }  # fmt: skip
    item = plan(stages, throttle={"burstLimit": 50, "rateLimit": 0.01})
    assert admitted(item, "GET /pets", "GET /big", "PUT /shut", calls=100) == [3, 50, 0]
    found = imported(item)
    assert found.plans[0].routes["GET /pets"] == (Throttle("0.05", burst=3),)
    assert "its 2 stages share the throttles of methods" in found.warnings[0]
    assert written(found.plans)[0] == item
    bare = written([attrs.evolve(found.plans[0], metadata={})])[0]["apiStages"]
    assert [stage["throttle"]["/pets/GET"] for stage in bare] == [{"burstLimit": 3, "rateLimit": 0.05}] * 2


def test_where_names_of_routes_are_the_framework_s_that_is_told():
    """A note; a warning where such a route is switched off."""
    item = plan({"r1/prod": {"/pets/{petId}/GET": {"burstLimit": 3, "rateLimit": 0.1}}}, throttle=WIDE)
    found = imported(item)
    assert found.warnings == []
    assert found.notes == ["plan p: these bind where the application names its routes so: GET /pets/{petId}"]
    item = plan({"r1/prod": {"/pets/{petId}/GET": {"burstLimit": 3, "rateLimit": 0.0}}}, throttle=WIDE)
    assert len(imported(item).warnings) == 1


def test_a_rest_is_put_back_only_where_the_plan_is_still_so():
    """What was changed since is written as it is now."""
    throttle = {"burstLimit": 5000, "rateLimit": 100 / 3}
    found = imported(plan({"r1/prod": {"/pets/ANY": throttle}}, throttle=throttle))
    data = found.plans[0].to_dict() | {"limits": "7/s burst 8"}
    data["routes"] = {**data["routes"], "GET /pets": ["3/s burst 4"]}
    back = written([UsagePlan(**data)])[0]
    assert back["throttle"] == {"rateLimit": 7.0, "burstLimit": 8}
    methods = back["apiStages"][0]["throttle"]
    assert methods["/pets/GET"] == {"rateLimit": 3.0, "burstLimit": 4}
    assert set(methods) == {f"/pets/{method}" for method in METHODS}


@pytest.mark.parametrize("enabled", ["false", "true", "", 0, 1, None, [], "False"])
def test_whether_a_key_is_enabled_is_said_by_true_or_false_alone(enabled):
    """Anything else is refused, and names the key."""
    with pytest.raises(InvalidValue, match=r"key k: enabled: .* expected true or false"):
        imported(plan(), enabled=enabled)
    assert [imported(plan(), enabled=said).keys[0][0].enabled for said in (True, False)] == [True, False]


def test_more_stages_than_a_plan_can_govern_are_kept_under_the_plan_s_id():
    """And told; they are written back."""
    stages = {f"a1b2c3d4{at:02}/production": {} for at in range(65)}
    found = imported(plan(stages))
    assert found.plans[0].api == "p"
    assert "it counts 65 stages together, too many or too long to name: consume with api='p'" in found.notes[0]
    assert written(found.plans)[0] == plan(stages)
    few = {f"a1b2c3d4{at:02}/prod": {} for at in range(64)}
    assert imported(plan(few)).plans[0].apis == tuple(few)
    assert written(imported(plan(few)).plans)[0] == plan(few)


@pytest.mark.parametrize("name", ["two\nlines", "n" * 300, "\u2028"])
def test_a_plan_s_name_that_cannot_be_kept_stops_nothing(name):
    """It is told and put aside; the id is the name."""
    found = imported(plan() | {"name": name})
    assert (
        found.plans[0].name,
        json.loads(found.plans[0].metadata.get("aws-json.name", "null")) or found.plans[0].metadata["aws.name"],
    ) == ("p", name)
    assert "named by its id" in found.notes[0]
    assert written(found.plans)[0]["name"] == name
    renamed = UsagePlan(**found.plans[0].to_dict() | {"name": "mine"})
    assert written([renamed])[0]["name"] == "mine"


@pytest.mark.parametrize("stages", [
    {"r1/prod": {"/pets/{id}/ANY": {"burstLimit": 1, "rateLimit": 0.1}}}, {"r1/prod": {"/{proxy+}/GET": {"burstLimit": 1, "rateLimit": 0.1}}},
    {"r1/prod": {"/{proxy+}/ANY": {"burstLimit": 1, "rateLimit": 0.1}}}, {"r1/prod": {"/pets/{id}/GET": {"burstLimit": 1, "rateLimit": 0.1}}, "r2/prod": {}},
])  # fmt: skip
def test_what_was_imported_binds_in_a_replay(stages):
    """One client at once, five times: all of a method, of several stages, of everything below a path."""
    found = imported(plan(stages, throttle=WIDE))
    lines = ['203.0.113.7 - - [09/Apr/2026:10:11:12 +0000] "GET /pets/7 HTTP/1.1" 200 5'] * 5
    (report,) = replay(lines, found.plans)
    assert (report.allowed, report.refused) == (1, 4)


rates = (
    st.floats(0, 1e5)
    | st.integers(0, 10_000).map(float)
    | st.integers(1, 10**6).map(lambda each: each / 60)
    | st.just(0.0)
)
throttles = st.fixed_dictionaries({"burstLimit": st.integers(0, 10_000), "rateLimit": rates})
places = st.builds(
    "{}/{}".format,
    st.sampled_from(["/pets", "/pets/{id}", "/", "/a/b", "/orders"]),
    st.sampled_from(["GET", "POST", "ANY"]),
)
greedy = st.sampled_from(["/{proxy+}/GET", "*/*"])
some = throttles.filter(lambda throttle: throttle["rateLimit"] > 1e-3 and throttle["burstLimit"])
methods = st.builds(
    lambda one, two: one | two,
    st.dictionaries(places, throttles, max_size=3),
    st.dictionaries(greedy, some, max_size=1),
)
quotas = st.one_of(
    st.fixed_dictionaries({"limit": st.integers(0, 10**9), "offset": st.integers(0, 9), "period": st.just("DAY")}),
    st.fixed_dictionaries({"limit": st.integers(0, 10**9), "offset": st.integers(0, 6), "period": st.just("WEEK")}),
    st.fixed_dictionaries({"limit": st.integers(0, 10**9), "offset": st.integers(0, 27), "period": st.just("MONTH")}),
)
stages = st.dictionaries(
    st.sampled_from([f"r{at}/{name}" for at in range(3) for name in ("dev", "prod")]), methods, max_size=4
)
accounts = st.lists(
    st.tuples(
        stages,
        st.none() | throttles,
        st.none() | quotas,
        st.text(min_size=1, max_size=300),
        st.none() | st.text(min_size=1),
    ),
    max_size=4,
)


@given(accounts)
@example([({}, {"burstLimit": 1, "rateLimit": 2.220446049250313e-16}, None, "n", None)])
@example([({"r0/dev": {"/pets/GET": {"burstLimit": 1, "rateLimit": 1e-300}}}, None, None, "n", None)])
def test_random_accounts_come_back_as_they_were(account):
    """Through the text of a store: every stage, rate, name and what has no counterpart."""
    items = []
    for at, (own, throttle, quota, name, description) in enumerate(account):
        fields = {"throttle": throttle, "quota": quota, "description": description}
        items.append(
            plan(own or None, **{field: given for field, given in fields.items() if given is not None})
            | {"id": f"p{at}", "name": name}
        )
    found = from_aws(parse_json("plans", json.dumps({"items": items})), [], {})
    stored = [UsagePlan(**json.loads(json.dumps(one.to_dict()))) for one in found.plans]
    made = to_aws(stored, [])
    assert json.loads(to_text(made.plans))["items"] == items
    assert made.notes == []


def test_an_offset_of_a_day_moves_nothing_and_is_kept():
    """Days begin at midnight whatever it is; somebody is told. Under another quota it is not shown any more."""
    found = imported(plan(quota={"limit": 5, "offset": 2, "period": "DAY"}))
    assert [str(limit) for limit in found.plans[0].limits] == ["5/day"]
    assert found.warnings == ["plan p: quota: its offset 2 moves no day"]
    (stored,) = found.plans
    assert written([stored])[0]["quota"] == {"limit": 5, "offset": 2, "period": "DAY"}
    other = attrs.evolve(stored, limits="7/month offset 1")
    assert written([other])[0]["quota"] == {"limit": 7, "offset": 1, "period": "MONTH"}


@pytest.mark.parametrize(("fields", "key"), [
    ({"Throttle": {"burstLimit": 1, "rateLimit": 1}}, {}), ({"Quota": {"limit": 1, "period": "DAY"}}, {}), ({"apistages": []}, {}), ({"THROTTLE": None}, {}),
    ({}, {"Enabled": False}), ({}, {"Value": VALUE}), ({}, {"createddate": 7}), ({}, {"Tags": {}}),
])  # fmt: skip
def test_a_field_in_another_spelling_is_refused(fields, key):
    """CloudFormation's capitals would be lost: a limit, a state, or a secret kept as it stands."""
    with pytest.raises(
        InvalidValue, match=r"expected the name '(throttle|quota|apiStages|enabled|value|createdDate|tags)'"
    ) as refused:
        imported(plan(**fields), **key)
    assert VALUE not in str(refused.value)


def test_a_field_of_a_plan_that_nobody_knows_is_a_warning():
    """It may be a limit, as Terraform's names are."""
    found = imported(plan(quota_settings={"limit": 5}, description="d", tags={"a": "b"}, productCode="pc"))
    assert found.warnings == ["plan p: quota_settings has no counterpart"]
    assert found.notes == found.warnings


def test_a_stage_that_stands_there_twice_is_refused():
    """The throttles of one of them would be lost."""
    item = plan({"r1/prod": {"/pets/GET": WIDE}})
    item["apiStages"] *= 2
    with pytest.raises(InvalidValue, match="each stage once"):
        imported(item)
