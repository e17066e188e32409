"""The control plane over every store, through crashes, and as Terraform calls it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from cryptography.fernet import Fernet

from control import bare, client, plane, refused, served
from every_store import Stores
from quota import Ledger, PlanConflict

SERVE = """
import sys
from control import plane
from quota import Ledger
from waitress.server import create_server
server = create_server(plane(Ledger(sys.argv[1])), host="127.0.0.1", port=0)
print(server.effective_port, flush=True)
server.run()
"""


def walk(ledger):
    """One of each operation, and what the ledger has in the end."""
    with served(plane(ledger, reveal=Fernet(Fernet.generate_key()))) as url:
        aws = client(url)
        plan = aws.create_usage_plan(
            name="n" * 1000,
            description="d\n" * 9000,
            quota={"limit": 3, "period": "MONTH"},
            throttle={"rateLimit": 0.5, "burstLimit": 9},
        )["id"]
        for path, value in (("/throttle/rateLimit", "1.5"), ("/quota/limit", "2"), ("/productCode", "pc")):
            aws.update_usage_plan(usagePlanId=plan, patchOperations=[{"op": "replace", "path": path, "value": value}])
        aws.update_usage_plan(
            usagePlanId=plan, patchOperations=[{"op": "add", "path": "/apiStages", "value": "r1:prod"}]
        )
        keys = [aws.create_api_key(name=name, enabled=True)["id"] for name in ("a", "b")]
        for key in keys:
            aws.create_usage_plan_key(usagePlanId=plan, keyId=key, keyType="API_KEY")
        rival = aws.create_usage_plan(name="rival", apiStages=[{"apiId": "r1", "stage": "prod"}])["id"]
        with pytest.raises(PlanConflict):  # as another process asks, which has looked before
            ledger.store.associate(keys[0], rival, "if_free", ledger._steps._now())
        assert [one["id"] for one in aws.get_usage_plans(keyId=keys[0])["items"]] == [plan]
        ledger.store.associate(keys[0], plan, "if_free", ledger._steps._now())  # where it is already
        value = aws.get_api_key(apiKey=keys[0], includeValue=True)["value"]
        assert [ledger.consume(value, api="r1/prod").allowed for _ in range(3)] == [True, True, False]
        today = ledger.usage(keys[0], api="r1/prod")[-1].day.isoformat()
        assert aws.get_usage(usagePlanId=plan, startDate=today, endDate=today)["items"] == {
            keys[0]: [[2, 0]],
            keys[1]: [[0, 2]],
        }
        aws.update_usage(
            usagePlanId=plan, keyId=keys[0], patchOperations=[{"op": "replace", "path": "/remaining", "value": "1"}]
        )
        assert ledger.consume(value, api="r1/prod")
        aws.tag_resource(resourceArn=f"arn:aws:apigateway:x::/usageplans/{plan}", tags={"a": "b"})
        aws.update_api_key(apiKey=keys[1], patchOperations=[{"op": "replace", "path": "/name", "value": "c"}])
        assert [key["name"] for key in aws.get_usage_plan_keys(usagePlanId=plan)["items"]] == ["c", "a"]
        found = bare(aws.get_usage_plan(usagePlanId=plan))
        aws.delete_usage_plan_key(usagePlanId=plan, keyId=keys[1])
        aws.delete_api_key(apiKey=keys[1])
        return {**found, "id": ""}, [key["name"] for key in aws.get_api_keys()["items"]]


@pytest.fixture
def stores(request):
    made = [Stores(kind, request.getfixturevalue) for kind in ("memory", "sqlite", "redis", "postgres", "leased redis")]
    yield made
    for one in made:
        one.close()


def test_it_is_the_same_over_every_store(stores):
    """In memory, in a file, on Redis, on PostgreSQL, and where units are leased."""
    found = [walk(one.over(one.open())) for one in stores]
    assert all(one == found[0] for one in found)
    assert found[0][1] == ["a"]


def test_kill_9_between_pages(tmp_path):
    """Another process goes on where the first one was killed: each key once, none left out."""
    store = f"sqlite:///{tmp_path / 'usage.db'}"
    paths = os.pathsep.join(path for path in sys.path if path)

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, store],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths},
        )
        return process, client(f"http://127.0.0.1:{process.stdout.readline().strip()}")

    process, aws = start()
    ids = [aws.create_api_key(name=f"k{at}")["id"] for at in range(9)][::-1]
    seen, position = [], {}
    while True:
        page = aws.get_api_keys(limit=2, **position)
        seen += [key["id"] for key in page["items"]]
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        if "position" not in page:
            break
        position = {"position": page["position"]}
        process, aws = start()
        aws.create_api_key(name="newer")
    assert seen == ids


def test_the_calls_of_terraform_in_their_order():
    """A plan with stages and a product code, a key, a link; read after each write; changed; destroyed."""
    with Ledger() as ledger, served(plane(ledger, reveal=Fernet(Fernet.generate_key()))) as url:
        tf = client(url)
        stage = {"apiId": "r1", "stage": "prod", "throttle": {"/pets/GET": {"rateLimit": 10.0, "burstLimit": 20}}}
        plan = tf.create_usage_plan(
            name="gold", apiStages=[stage], quota={"limit": 5000, "offset": 0, "period": "MONTH"}, throttle={"rateLimit": 100.0, "burstLimit": 200},
        )["id"]  # fmt: skip

        def patched(*operations):
            tf.update_usage_plan(
                usagePlanId=plan,
                patchOperations=[dict(zip(("op", "path", "value"), one, strict=True)) for one in operations],
            )
            return bare(tf.get_usage_plan(usagePlanId=plan))

        assert patched(("add", "/productCode", "pc"))["productCode"] == "pc"
        key = tf.create_api_key(name="acme", description="Managed by Terraform", enabled=True, value="")
        there = tf.get_api_key(apiKey=key["id"], includeValue=True)
        assert there["value"] == key["value"]
        tf.create_usage_plan_key(usagePlanId=plan, keyId=key["id"], keyType="API_KEY")
        assert tf.get_usage_plan_key(usagePlanId=plan, keyId=key["id"])["value"] == key["value"]

        now = patched(
            ("replace", "/name", "platinum"), ("replace", "/description", ""), ("remove", "/apiStages", "r1:prod"), ("add", "/apiStages", "r1:prod"),
            ("replace", "/apiStages/r1:prod/throttle//pets/GET/rateLimit", "11.000000"), ("replace", "/apiStages/r1:prod/throttle//pets/GET/burstLimit", "21"),
            ("add", "/apiStages", "r1:test"), ("replace", "/throttle/rateLimit", "101.000000"), ("replace", "/throttle/burstLimit", "201"), ("replace", "/quota/limit", "6000"),
            ("replace", "/quota/offset", "2"), ("replace", "/quota/period", "WEEK"),
        )  # fmt: skip
        assert now == {
            "id": plan, "name": "platinum", "productCode": "pc", "tags": {}, "quota": {"limit": 6000, "offset": 2, "period": "WEEK"}, "throttle": {"rateLimit": 101.0, "burstLimit": 201},
            "apiStages": [{"apiId": "r1", "stage": "prod", "throttle": {"/pets/GET": {"rateLimit": 11.0, "burstLimit": 21}}}, {"apiId": "r1", "stage": "test"}],
        }  # fmt: skip
        tf.update_api_key(
            apiKey=key["id"],
            patchOperations=[
                {"op": "replace", "path": "/description", "value": "d"},
                {"op": "replace", "path": "/customerId", "value": "c"},
            ],
        )
        tf.tag_resource(resourceArn=f"arn:aws:apigateway:eu-west-1::/apikeys/{key['id']}", tags={"team": "x"})
        again = tf.get_api_key(apiKey=key["id"], includeValue=True)
        assert (again["createdDate"], again["customerId"], again["tags"]) == (there["createdDate"], "c", {"team": "x"})

        tf.delete_usage_plan_key(usagePlanId=plan, keyId=key["id"])
        assert refused(tf.get_usage_plan_key, usagePlanId=plan, keyId=key["id"])[0] == 404
        tf.delete_api_key(apiKey=key["id"])
        patched(("remove", "/apiStages", "r1:prod"), ("remove", "/apiStages", "r1:test"))
        tf.delete_usage_plan(usagePlanId=plan)
        assert ledger.list_plans() == ledger.list_keys() == []
