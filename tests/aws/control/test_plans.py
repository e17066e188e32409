"""Usage plans of the control plane, by boto3: patches, stages, the keys that are on them."""

from __future__ import annotations

import json
import re

import pytest

from control import bare, client, plane, refused, served
from every_store import run_threads
from quota import UsagePlan
from quota.aws.control import plans
from quota.aws.control.plane import stages_of
from quota.aws.control.plans import check_rivals

NO_PLAN = (404, "NotFoundException", "Invalid Usage Plan ID specified")
pytestmark = pytest.mark.usefixtures("empty")
NO_KEY = (404, "NotFoundException", "Invalid API Key identifier specified")
STAGE = {"apiId": "r1", "stage": "prod"}
THROTTLE = {"rateLimit": 10.5, "burstLimit": 20}
QUOTA = {"limit": 500, "offset": 2, "period": "MONTH"}


def patch(aws, plan, *operations):
    """The plan after (op, path, value)s."""
    found = [dict(zip(("op", "path", "value"), operation, strict=False)) for operation in operations]
    return bare(aws.update_usage_plan(usagePlanId=plan["id"], patchOperations=found))


def test_a_plan_is_made_with_what_was_given(aws, ledger):
    """And enforced: the ledger has it."""
    stage = {**STAGE, "throttle": {"/pets/GET": {"rateLimit": 2.0, "burstLimit": 3}}}
    given = {
        "name": "gold",
        "description": "d",
        "apiStages": [stage],
        "throttle": THROTTLE,
        "quota": QUOTA,
        "tags": {"a": "b"},
    }
    made = bare(aws.create_usage_plan(**given))
    assert re.fullmatch("[a-z0-9]{6}", made["id"])
    assert made == {"id": made["id"], **given}
    assert bare(aws.get_usage_plan(usagePlanId=made["id"])) == made
    plan = ledger.get_plan(made["id"])
    assert (str(plan), plan.api) == ("500/month offset 2, 10.5/second burst 20", "r1/prod")
    assert {route: list(map(str, limits)) for route, limits in plan.routes.items()} == {
        "GET /pets": ["2/second burst 3"]
    }


def test_a_plan_of_a_name_alone(aws):
    """What was not given is left out, but for its stages; tags are shown by a read, not in a list."""
    made = bare(aws.create_usage_plan(name="n", description="", apiStages=[], tags={}))
    assert made == {"id": made["id"], "name": "n", "apiStages": []}
    assert bare(aws.get_usage_plan(usagePlanId=made["id"])) == {**made, "tags": {}}
    assert aws.get_usage_plans()["items"] == [made]


@pytest.mark.parametrize(("given", "shown"), [
    ({"quota": {"limit": 5, "period": "DAY"}}, {"quota": {"limit": 5, "offset": 0, "period": "DAY"}}), ({"throttle": {"rateLimit": 0, "burstLimit": 0}}, {"throttle": {"rateLimit": 0.0, "burstLimit": 0}}),
    ({"throttle": {"rateLimit": 0.1, "burstLimit": 1}}, None), ({"throttle": {"rateLimit": 3}}, {"throttle": {"rateLimit": 3.0}}), ({"throttle": {"burstLimit": 3}}, None),
    ({"throttle": {"rateLimit": 1.5, "burstLimit": 500}}, None), ({"throttle": {"rateLimit": 33.333333333333336, "burstLimit": 5000}}, None), ({"quota": {"limit": 0, "offset": 6, "period": "WEEK"}}, None),
    ({"name": "n" * 1024}, None), ({"name": "two\nlines"}, None), ({"description": "\u2028" * 125_000}, None), ({"apiStages": [STAGE, {"apiId": "r2", "stage": "prod"}]}, None),
])  # fmt: skip
def test_what_is_given_comes_back(aws, given, shown):
    """From its creation, a read, a list, and beside a patch of something else; by another process too."""
    given = {"name": "n", **given}
    made = aws.create_usage_plan(**given)
    expected = {"apiStages": [], **given, **(shown or {}), "id": made["id"]}
    assert bare(made) == expected
    assert aws.get_usage_plans()["items"] == [expected]
    assert patch(aws, made, ("replace", "/productCode", "pc")) == {**expected, "productCode": "pc", "tags": {}}


@pytest.mark.parametrize(("given", "answer"), [
    ({"apiStages": [{"apiId": "r1", "stage": "nope"}]}, (404, "NotFoundException", "API Stage not found: r1:nope")),
    ({"apiStages": [{"apiId": "nope", "stage": "prod"}]}, (404, "NotFoundException", "Invalid API identifier specified 000000000000:nope")),
    ({"apiStages": [{"apiId": "r1"}]}, (400, "BadRequestException", "Invalid API Stage {api: %s, stage: %s} specified for usageplan %s")),
    ({"apiStages": [{"apiId": "", "stage": ""}]}, (400, "BadRequestException", "Invalid API Stage {api: %s, stage: %s} specified for usageplan %s")),
    ({"apiStages": [{**STAGE, "throttle": {"/pets/GET": THROTTLE}}]}, (400, "BadRequestException", "Can not define fine grain throttling if usage plan throttle is not defined.")),
    ({"quota": {"limit": 5}}, None), ({"quota": {"period": "DAY"}}, None), ({"quota": {"limit": -5, "period": "DAY"}}, None), ({"quota": {"limit": 5, "period": "HOUR"}}, (400, "ValidationException", "1 validation error detected: Value 'HOUR' at 'createUsagePlanInput.quota.period' failed to satisfy constraint: Member must satisfy enum value set: [DAY, WEEK, MONTH]")),
    ({"quota": {"limit": 5, "period": "day"}}, (400, "ValidationException", "1 validation error detected: Value 'day' at 'createUsagePlanInput.quota.period' failed to satisfy constraint: Member must satisfy enum value set: [DAY, WEEK, MONTH]")),
    ({"throttle": {"rateLimit": -1, "burstLimit": 1}}, None), ({"throttle": {"rateLimit": 1, "burstLimit": -1}}, None),
    ({"apiStages": [STAGE, STAGE]}, None), ({"tags": {"aws:a": "b"}}, None), ({"name": ""}, None), ({"description": "\n" * 600_000}, None), ({"throttle": {"rateLimit": 1e300, "burstLimit": 1}}, None),
])  # fmt: skip
def test_what_a_plan_cannot_be_is_refused(aws, ledger, given, answer):
    """In API Gateway's words where they are known; nothing is made."""
    told = refused(aws.create_usage_plan, **{"name": "n", **given})
    assert told == answer if answer else told[:2] == (400, "BadRequestException")
    assert ledger.list_plans() == []


def test_unknown_plans(aws):
    """404 by every operation on one, but for the list of its keys, which is empty."""
    for call in (aws.get_usage_plan, aws.delete_usage_plan, aws.update_usage_plan):
        assert refused(call, usagePlanId="nothing") == NO_PLAN
    assert aws.get_usage_plan_keys(usagePlanId="nothing")["items"] == []
    key = aws.create_api_key()["id"]
    assert refused(aws.create_usage_plan_key, usagePlanId="nothing", keyId=key, keyType="API_KEY") == NO_PLAN
    assert refused(aws.get_usage_plan_key, usagePlanId="nothing", keyId=key) == NO_PLAN
    assert refused(aws.get_usage, usagePlanId="nothing", startDate="2026-01-01", endDate="2026-01-01") == NO_PLAN


def test_a_patch_in_any_order(aws):
    """What it comes to is checked, not what stands between; numbers are numbers."""
    plan = aws.create_usage_plan(name="n")
    now = patch(aws, plan, ("replace", "/throttle/burstLimit", "20"), ("add", "/quota/period", "WEEK"), ("replace", "/throttle/rateLimit", "10"),
                ("replace", "/quota/limit", "7"), ("replace", "/quota/offset", "3"), ("replace", "/name", "m"), ("replace", "/description", "d"), ("add", "/productCode", "pc"),
                ("add", "/apiStages", "r1:prod"))  # fmt: skip
    assert now == {
        "id": plan["id"], "name": "m", "description": "d", "productCode": "pc", "throttle": {"rateLimit": 10.0, "burstLimit": 20},
        "quota": {"limit": 7, "offset": 3, "period": "WEEK"}, "apiStages": [STAGE], "tags": {},
    }  # fmt: skip
    now = patch(
        aws,
        plan,
        ("remove", "/throttle", ""),
        ("remove", "/quota"),
        ("remove", "/productCode"),
        ("remove", "/apiStages", "r1:prod"),
        ("replace", "/description", ""),
    )
    assert now == {"id": plan["id"], "name": "m", "apiStages": [], "tags": {}}
    assert patch(aws, plan, ("remove", "/throttle"), ("remove", "/quota"), ("remove", "/productCode")) == now
    assert bare(aws.update_usage_plan(usagePlanId=plan["id"])) == now


def test_throttles_of_methods(aws, ledger):
    """Their paths keep a slash, or have it as ~1; a whole stage by JSON; each taken away by itself."""
    plan = aws.create_usage_plan(name="n", apiStages=[STAGE], throttle=THROTTLE)
    s = "/apiStages/r1:prod/throttle"
    methods = lambda now: now["apiStages"][0].get("throttle")  # noqa: E731
    now = patch(
        aws, plan, ("replace", f"{s}//pets/GET/rateLimit", "1.5"), ("replace", f"{s}//pets/GET/burstLimit", "3")
    )
    assert methods(now) == {"/pets/GET": {"rateLimit": 1.5, "burstLimit": 3}}
    now = patch(aws, plan, ("add", f"{s}/~1pets~1{{id}}/PUT/burstLimit", "4"), ("add", f"{s}/~1pets~1{{id}}/PUT/rateLimit", "4"), ("replace", f"{s}///GET/rateLimit", "5"),
                ("replace", f"{s}///GET/burstLimit", "5"))  # fmt: skip
    assert set(methods(now)) == {"/pets/GET", "/pets/{id}/PUT", "//GET"}
    assert {"GET /pets", "PUT /pets/{id}", "GET /"} == set(ledger.get_plan(plan["id"]).routes)
    now = patch(aws, plan, ("remove", f"{s}//pets/GET", ""))
    assert set(methods(now)) == {"/pets/{id}/PUT", "//GET"}
    whole = {"/a/POST": {"rateLimit": 1, "burstLimit": "2"}}
    assert methods(patch(aws, plan, ("replace", s, json.dumps(whole)))) == {
        "/a/POST": {"rateLimit": 1.0, "burstLimit": 2}
    }
    told = refused(
        aws.update_usage_plan, usagePlanId=plan["id"], patchOperations=[{"op": "remove", "path": "/throttle"}]
    )
    assert told == (
        400,
        "BadRequestException",
        "Can not define fine grain throttling if usage plan throttle is not defined.",
    )
    assert methods(patch(aws, plan, ("remove", s, ""))) is None
    again = patch(
        aws,
        plan,
        ("replace", f"{s}//pets/GET/rateLimit", "1"),
        ("replace", f"{s}//pets/GET/burstLimit", "1"),
        ("remove", "/apiStages", "r1:prod"),
        ("add", "/apiStages", "r1:prod"),
    )
    assert methods(again) is None


REMOVES = "[/apiStages, /quota, /throttle, /productCode, /apiStages/<apidId:stageName>/throttle/<resourcePath>/<httpMethod>, /apiStages/<apidId:stageName>/throttle]"


@pytest.mark.parametrize(("operation", "status", "message"), [
    (("remove", "/apiStages"), 400, "Invalid API Stage specified"), (("remove", "/apiStages", "r1"), 400, "Invalid API Stage specified"),
    (("remove", "/apiStages", "r9:prod"), 404, "Invalid API Stage {api: r9, stage: prod} specified for usageplan PLAN"),
    (("add", "/apiStages", "r1:nope"), 404, "API Stage not found: r1:nope"), (("add", "/apiStages", "nope:prod"), 404, "Invalid API identifier specified 000000000000:nope"),
    (("remove", "/name"), 400, f"Invalid patch path  '/name' specified for op 'remove'. Must be one of: {REMOVES}"),
    (("copy", "/name", "x"), 400, "Invalid patch path  '/name' specified for op 'copy'. Please choose supported operations"),
    (("replace", "/id", "x"), 400, None), (("add", "/name", "x"), 400, None), (("replace", "/quota/limit", "many"), 400, None), (("replace", "/quota/limit", "5"), 400, None),
    (("replace", "/quota/period", "DAY"), 400, None), (("replace", "/throttle/rateLimit", "NaN"), 400, None), (("replace", "/throttle/burstLimit", "1.5"), 400, None),
    (("replace", "/name", ""), 400, None), (("replace", "/apiStages/r9:prod/throttle//pets/GET/rateLimit", "1"), 404, None),
    (("replace", "/apiStages/r1:test/throttle//pets/GET/nonsense", "1"), 400, None), (("replace", "/apiStages/r1:test/throttle", "no json"), 400, None),
    (("replace", "/apiStages/r1:test/throttle", '{"/a/GET": 7}'), 400, None), (("replace", "/apiStages/r1:test/throttle", "[" * 100_000), 400, None),
    (("replace", "/apiStages/r1:test/throttle", '{"/a/GET": {"rateLimit": [1]}}'), 400, None), (("replace", "/apiStages/r1:test/throttle", '{"/a/GET": {"rateLimit": 1e400}}'), 400, None),
])  # fmt: skip
def test_a_patch_that_cannot_be_done_changes_nothing(aws, operation, status, message):
    """Nor what stood before it."""
    plan = bare(aws.create_usage_plan(name="n", apiStages=[{"apiId": "r1", "stage": "test"}]))
    operations = [("replace", "/description", "d"), operation]
    with pytest.raises(aws.exceptions.ClientError) as told:
        patch(aws, plan, *operations)
    answer = told.value.response
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == status
    assert message is None or answer["Error"]["Message"] == message.replace("PLAN", plan["id"])
    assert bare(aws.get_usage_plan(usagePlanId=plan["id"])) == {**plan, "tags": {}}


def test_a_plan_with_stages_is_not_deleted(aws):
    """Until they are removed; its keys are on no plan then."""
    plan = aws.create_usage_plan(name="n", apiStages=[STAGE])
    key = aws.create_api_key(enabled=True)
    aws.create_usage_plan_key(usagePlanId=plan["id"], keyId=key["id"], keyType="API_KEY")
    words = f"Cannot delete Usage Plan {plan['id']} because there are API Stages associated with it, including r1:prod"
    assert refused(aws.delete_usage_plan, usagePlanId=plan["id"]) == (400, "BadRequestException", words)
    patch(aws, plan, ("remove", "/apiStages", "r1:prod"))
    assert aws.delete_usage_plan(usagePlanId=plan["id"])["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert refused(aws.delete_usage_plan, usagePlanId=plan["id"]) == NO_PLAN
    assert aws.get_usage_plans(keyId=key["id"])["items"] == []


def test_an_offset_of_a_day_is_kept(aws):
    """As moto's tests give it; by creating a plan and by a patch, and until the quota goes."""
    quota = {"limit": 5, "offset": 2, "period": "DAY"}
    assert aws.create_usage_plan(name="n", quota=quota)["quota"] == quota
    plan = aws.create_usage_plan(name="n")
    given = [("add", f"/quota/{name}", str(value)) for name, value in quota.items()]
    assert patch(aws, plan, *given)["quota"] == aws.get_usage_plan(usagePlanId=plan["id"])["quota"] == quota
    assert patch(aws, plan, ("replace", "/quota/offset", "0"))["quota"] == {**quota, "offset": 0}
    assert patch(aws, plan, *given)["quota"] == quota
    assert patch(aws, plan, ("replace", "/quota/period", "WEEK"))["quota"] == {**quota, "period": "WEEK"}
    assert "quota" not in patch(aws, plan, ("replace", "/quota/period", "DAY"), ("remove", "/quota"))
    again = patch(aws, plan, ("replace", "/quota/period", "DAY"), ("replace", "/quota/limit", "1"))
    assert again["quota"] == {"limit": 1, "offset": 0, "period": "DAY"}


def test_keys_of_a_plan(aws):
    """Attached, found, listed from the newest, detached; without their values, which are shown once."""
    plan = aws.create_usage_plan(name="n")["id"]
    keys = [aws.create_api_key(**({"name": name} if name else {}))["id"] for name in ("a", "ab", "Ab", "")]
    for key, name in zip(keys, ("a", "ab", "Ab", None), strict=True):
        made = bare(aws.create_usage_plan_key(usagePlanId=plan, keyId=key, keyType="API_KEY"))
        assert made == {"id": key, "type": "API_KEY", **({"name": name} if name else {})}
        assert bare(aws.get_usage_plan_key(usagePlanId=plan, keyId=key)) == made
    names = lambda **given: [key.get("name") for key in aws.get_usage_plan_keys(usagePlanId=plan, **given)["items"]]  # noqa: E731
    assert names() == [None, "Ab", "ab", "a"]
    assert names(nameQuery="a") == ["ab", "a"]
    first = aws.get_usage_plan_keys(usagePlanId=plan, limit=3)
    assert [
        key["id"] for key in aws.get_usage_plan_keys(usagePlanId=plan, limit=3, position=first["position"])["items"]
    ] == keys[:1]
    assert bare(aws.create_usage_plan_key(usagePlanId=plan, keyId=keys[0], keyType="API_KEY"))["id"] == keys[0]
    assert len(names()) == 4
    assert aws.delete_usage_plan_key(usagePlanId=plan, keyId=keys[0])["ResponseMetadata"]["HTTPStatusCode"] == 202
    for call in (aws.delete_usage_plan_key, aws.get_usage_plan_key):
        assert refused(call, usagePlanId=plan, keyId=keys[0]) == NO_PLAN
        assert refused(call, usagePlanId=plan, keyId="nothing") == NO_KEY
    for there in (plan, "nothing"):
        assert refused(aws.create_usage_plan_key, usagePlanId=there, keyId="nothing", keyType="API_KEY") == NO_KEY
    assert refused(aws.create_usage_plan_key, usagePlanId=plan, keyId=keys[0], keyType="TOKEN")[:2] == (
        400,
        "BadRequestException",
    )
    assert [one["id"] for one in aws.get_usage_plans(keyId=keys[1])["items"]] == [plan]
    assert refused(aws.get_usage_plans, keyId="nothing") == NO_KEY


def test_a_key_has_one_plan_for_a_stage(aws):
    """By attaching it, and by adding a stage to a plan it is on; plans without stages never meet."""
    plans = [
        aws.create_usage_plan(name=str(at), apiStages=stages)["id"]
        for at, stages in enumerate(([STAGE], [STAGE, {"apiId": "r2", "stage": "prod"}], [], []))
    ]
    key = aws.create_api_key()["id"]
    for plan in (plans[0], plans[2], plans[3]):
        aws.create_usage_plan_key(usagePlanId=plan, keyId=key, keyType="API_KEY")
    told = refused(aws.create_usage_plan_key, usagePlanId=plans[1], keyId=key, keyType="API_KEY")
    assert told[:2] == (409, "ConflictException")
    assert "r1:prod" in told[2]
    told = refused(
        aws.update_usage_plan,
        usagePlanId=plans[2],
        patchOperations=[{"op": "add", "path": "/apiStages", "value": "r1:prod"}],
    )
    assert told[:2] == (409, "ConflictException")
    assert {plan["id"] for plan in aws.get_usage_plans(keyId=key)["items"]} == {plans[0], plans[2], plans[3]}
    assert aws.get_usage_plan(usagePlanId=plans[2])["apiStages"] == []


def test_two_processes_attach_a_key_at_once(aws, ledger, monkeypatch):
    """To plans with a stage in common: one of them is told that it is refused, and the key stays where the other put it.

    The second one has looked for rivals before the first one attaches.
    """
    one, two = (aws.create_usage_plan(name=name, apiStages=[STAGE])["id"] for name in ("a", "b"))
    key = aws.create_api_key()["id"]
    first = [lambda: aws.create_usage_plan_key(usagePlanId=one, keyId=key, keyType="API_KEY")]

    def check_then_be_overtaken(*given):
        check_rivals(*given)
        while first:
            first.pop()()

    monkeypatch.setattr(plans, "check_rivals", check_then_be_overtaken)
    with served(plane(ledger)) as url:
        told = refused(client(url).create_usage_plan_key, usagePlanId=two, keyId=key, keyType="API_KEY")
    words = f"API Key {key} cannot reference multiple Usage Plans with the same API Stage: {one} has r1:prod"
    assert told == (409, "ConflictException", words)
    assert [plan["id"] for plan in aws.get_usage_plans(keyId=key)["items"]] == [one]


@pytest.mark.parametrize(
    ("overtaken", "status"), [(("add", "/apiStages", "r1:prod"), 400), (("replace", "/name", "m"), 202)]
)
def test_a_plan_that_is_changed_while_it_is_deleted(aws, ledger, monkeypatch, overtaken, status):
    """By another process, after it was looked for stages: with one now it stays; a name keeps nobody from deleting it."""
    plan = aws.create_usage_plan(name="n")
    coming = [overtaken]

    def look_then_be_overtaken(one):
        found = stages_of(one)
        if coming:
            patch(aws, plan, coming.pop())
        return found

    monkeypatch.setattr(plans, "stages_of", look_then_be_overtaken)
    with served(plane(ledger)) as url:
        delete = client(url).delete_usage_plan
        if status == 400:
            assert refused(delete, usagePlanId=plan["id"])[:2] == (400, "BadRequestException")
            assert aws.get_usage_plan(usagePlanId=plan["id"])["apiStages"] == [STAGE]
        else:
            assert delete(usagePlanId=plan["id"])["ResponseMetadata"]["HTTPStatusCode"] == 202
            assert refused(aws.get_usage_plan, usagePlanId=plan["id"]) == NO_PLAN


def test_lists_of_plans_go_from_the_newest_in_pages(aws):
    """Each once."""
    ids = [aws.create_usage_plan(name="n")["id"] for _ in range(5)][::-1]
    pages = aws.get_paginator("get_usage_plans").paginate(PaginationConfig={"PageSize": 2})
    assert [plan["id"] for page in pages for plan in page["items"]] == ids


def test_a_key_is_attached_elsewhere_while_a_stage_is_added(aws, ledger, monkeypatch):
    """By another process, behind the look for rivals: the stage is refused in the same words."""
    one, two = aws.create_usage_plan(name="a")["id"], aws.create_usage_plan(name="b", apiStages=[STAGE])["id"]
    key = aws.create_api_key()["id"]
    aws.create_usage_plan_key(usagePlanId=one, keyId=key, keyType="API_KEY")
    coming = [lambda: ledger.associate(key, two)]

    def check_then_be_overtaken(*given):
        check_rivals(*given)
        while coming:
            coming.pop()()

    monkeypatch.setattr(plans, "check_rivals", check_then_be_overtaken)
    add = [{"op": "add", "path": "/apiStages", "value": "r1:prod"}]
    told = refused(aws.update_usage_plan, usagePlanId=one, patchOperations=add)
    words = f"API Key {key} cannot reference multiple Usage Plans with the same API Stage: {two} has r1:prod"
    assert told == (409, "ConflictException", words)
    assert aws.get_usage_plan(usagePlanId=one)["apiStages"] == []


def test_two_clients_patch_a_plan_at_once(aws, ledger):
    """Neither change is lost, nor is a tag."""
    plan = aws.create_usage_plan(name="n")
    with served(plane(ledger)) as url:
        other = client(url)
        arn = f"arn:aws:apigateway:eu-west-1::/usageplans/{plan['id']}"
        works = [
            lambda at: patch(aws, plan, ("replace", "/description", f"d{at}")), lambda at: patch(other, plan, ("replace", "/productCode", f"p{at}")),
            lambda at: other.tag_resource(resourceArn=arn, tags={f"t{at}": "x"}), lambda at: patch(aws, plan, ("replace", "/quota/limit", str(at)), ("replace", "/quota/period", "DAY")),
        ]  # fmt: skip
        run_threads([lambda work=work: [work(at) for at in range(15)] for work in works])
    now = aws.get_usage_plan(usagePlanId=plan["id"])
    assert (now["description"], now["productCode"], now["quota"]["limit"], len(now["tags"])) == ("d14", "p14", 14, 15)


def test_what_only_the_ledger_can_say_of_a_plan_stays(aws, ledger):
    """Its name and tags can be changed; its limits are not, which is told."""
    plan = UsagePlan("p", "5/hour, 100 tokens/day, 7/day", api="shop", costs={"GET /x": 2})
    ledger.add_plan(plan)
    assert patch(aws, {"id": "p"}, ("replace", "/name", "m"), ("replace", "/description", "d"))["description"] == "d"
    aws.tag_resource(resourceArn="arn:aws:apigateway:eu-west-1::/usageplans/p", tags={"a": "b"})
    now = ledger.get_plan("p")
    assert (now.name, now.limits, now.api, now.costs) == ("m", plan.limits, "shop", plan.costs)
    told = refused(
        aws.update_usage_plan,
        usagePlanId="p",
        patchOperations=[{"op": "replace", "path": "/quota/limit", "value": "8"}],
    )
    assert told[:2] == (400, "BadRequestException")
    assert "change it in the ledger" in told[2]
    assert ledger.get_plan("p") == now


def test_tags(aws):
    """Of keys and plans: merged, taken away, never by anything else; others' ARNs are not found."""
    ids = {
        "apikeys": aws.create_api_key(tags={"a": "1"})["id"],
        "usageplans": aws.create_usage_plan(name="n", tags={"a": "1"})["id"],
    }
    for kind, id_ in ids.items():
        arn = f"arn:aws-us-gov:apigateway:us-gov-west-1::/{kind}/{id_}"
        assert (
            aws.tag_resource(resourceArn=arn, tags={"b": "2", "a": "é \n<b>"})["ResponseMetadata"]["HTTPStatusCode"]
            == 204
        )
        assert aws.get_tags(resourceArn=arn)["tags"] == {"a": "é \n<b>", "b": "2"}
        assert (
            aws.untag_resource(resourceArn=arn, tagKeys=["a", "nothing"])["ResponseMetadata"]["HTTPStatusCode"] == 204
        )
        assert aws.get_tags(resourceArn=arn)["tags"] == {"b": "2"}
        assert refused(aws.tag_resource, resourceArn=arn, tags={"AWS:x": "y"})[:2] == (400, "BadRequestException")
        assert refused(aws.tag_resource, resourceArn=arn, tags={f"k{at}": "" for at in range(50)})[:2] == (
            400,
            "BadRequestException",
        )
        missing = arn.replace(id_, "nothing")
        for call in (
            aws.get_tags,
            lambda resourceArn: aws.tag_resource(resourceArn=resourceArn, tags={}),
            lambda resourceArn: aws.untag_resource(resourceArn=resourceArn, tagKeys=["a"]),
        ):
            assert refused(call, resourceArn=missing) == (NO_KEY if kind == "apikeys" else NO_PLAN)
    assert aws.get_usage_plans()["items"][0]["tags"] == {"b": "2"}
    assert refused(aws.get_tags, resourceArn="arn:aws:apigateway:eu-west-1::/restapis/x")[0] == 404
    assert refused(aws.get_tags, resourceArn="nonsense")[0] == 400
