"""API keys of the control plane, by boto3: fields, orders, texts of errors, patches, imports."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from functools import partial

import pytest
from cryptography.fernet import Fernet, MultiFernet

from control import bare, client, plane, refused, served
from every_store import run_threads
from quota import Ledger, ManualClock
from quota.aws import rotate_values
from quota.aws.control import keys

VALUE = "abcdef1234ghijklmnop-8901234567"
pytestmark = pytest.mark.usefixtures("empty")
NO_KEY = (404, "NotFoundException", "Invalid API Key identifier specified")


def test_a_key_is_made_with_what_was_given(aws, ledger):
    """And its value, which the ledger knows as a secret; its dates are instants."""
    made = bare(aws.create_api_key(
        name="acme", description="d", enabled=True, value=VALUE, customerId="c-1", tags={"a": "b"},
        stageKeys=[{"restApiId": "r1", "stageName": "prod"}],
    ))  # fmt: skip
    assert re.fullmatch("[a-z0-9]{10}", made["id"])
    now = datetime.now(timezone.utc)
    assert abs((made.pop("createdDate") - now).total_seconds()) < 60
    assert abs((made.pop("lastUpdatedDate") - now).total_seconds()) < 60
    assert made == {
        "id": made["id"], "value": VALUE, "name": "acme", "description": "d", "enabled": True, "customerId": "c-1",
        "stageKeys": ["r1/prod"], "tags": {"a": "b"},
    }  # fmt: skip
    assert ledger.peek(VALUE).reason.value == "NO_PLAN"


def test_a_key_of_nothing(aws):
    """Disabled, with a value of forty letters and digits; what was not given, or is empty, is left out."""
    for given in ({}, {"name": "", "description": "", "value": "", "customerId": "", "tags": {}}):
        made = bare(aws.create_api_key(**given))
        assert set(made) == {"id", "value", "enabled", "createdDate", "lastUpdatedDate", "stageKeys"}
        assert re.fullmatch("[A-Za-z0-9]{40}", made["value"])
        assert (made["enabled"], made["stageKeys"]) == (False, [])
        assert made["id"] != made["value"]


@pytest.mark.parametrize(("given", "answer"), [
    ({"value": "x" * 19}, (400, "BadRequestException", "API Key value should be at least 20 characters")),
    ({"value": "x" * 129}, (400, "BadRequestException", "API Key value exceeds maximum size of 128 characters")),
    ({"name": "n" * 1025}, (400, "BadRequestException", "Invalid API Key name, can be at most 1024 characters.")),
    ({"description": "d" * 125_001}, (400, "BadRequestException", "Invalid API Key description specified.")),
    ({"value": "é" * 20}, None), ({"value": "with blanks in it and more"}, None), ({"tags": {"aws:x": "y"}}, None), ({"tags": {"": "y"}}, None),
    ({"tags": {"k" * 129: "y"}}, None), ({"tags": {"k": "v" * 257}}, None), ({"tags": {f"k{at}": "" for at in range(51)}}, None),
    ({"stageKeys": [{"restApiId": "r1"}]}, None),
])  # fmt: skip
def test_what_a_key_cannot_be_is_refused(aws, ledger, given, answer):
    """In API Gateway's words where they are known; nothing is made."""
    told = refused(aws.create_api_key, **given)
    assert told == answer if answer else told[:2] == (400, "BadRequestException")
    assert ledger.list_keys() == []


def test_what_is_as_long_as_can_be_is_kept(aws):
    """Names of 1,024 and descriptions of 125,000 characters, line breaks and all, fifty tags."""
    given = {
        "name": "n" * 1024,
        "description": "é\n😀 \u2028" * 25_000,
        "tags": {f"k{at}": "v" * 256 for at in range(50)},
    }
    made = aws.create_api_key(**given)
    there = aws.get_api_key(apiKey=made["id"])
    for field, value in given.items():
        assert made[field] == there[field] == value


def test_a_value_that_is_taken(aws):
    """409, and the first one stays."""
    aws.create_api_key(value=VALUE)
    assert refused(aws.create_api_key, value=VALUE) == (409, "ConflictException", "API Key already exists")


def test_values_are_shown_once_and_tags_always(aws):
    """Without reveal= neither a read nor a list shows one."""
    made = aws.create_api_key(name="n")
    there = bare(aws.get_api_key(apiKey=made["id"], includeValue=True))
    assert "value" not in there
    assert there["tags"] == {}
    (item,) = aws.get_api_keys(includeValues=True)["items"]
    assert "value" not in item
    assert "tags" not in item


def test_values_can_be_kept_encrypted(ledger):
    """Under keys that can be rotated; nothing of a value stands in the store, and a rotated secret is not shown."""
    old, new = Fernet(Fernet.generate_key()), Fernet(Fernet.generate_key())
    with served(plane(ledger, reveal=old)) as url:
        aws = client(url)
        key = aws.create_api_key(value=VALUE, name="n", enabled=True)["id"]
        assert "value" not in aws.get_api_key(apiKey=key)
        assert aws.get_api_key(apiKey=key, includeValue=True)["value"] == VALUE
        assert aws.get_api_keys(includeValues=True)["items"][0]["value"] == VALUE
        assert "value" not in aws.get_api_keys()["items"][0]
        plan = aws.create_usage_plan(name="p")["id"]
        link = {"id": key, "type": "API_KEY", "value": VALUE, "name": "n"}
        assert bare(aws.create_usage_plan_key(usagePlanId=plan, keyId=key, keyType="API_KEY")) == link
        assert bare(aws.get_usage_plan_key(usagePlanId=plan, keyId=key)) == link
        assert aws.get_usage_plan_keys(usagePlanId=plan)["items"] == [link]
    assert VALUE not in repr(ledger.get_key(key))
    assert rotate_values(ledger, MultiFernet([new, old])) == 1
    with served(plane(ledger, reveal=new)) as url:
        assert client(url).get_api_key(apiKey=key, includeValue=True)["value"] == VALUE
        ledger.rotate_key(key)
        assert "value" not in client(url).get_api_key(apiKey=key, includeValue=True)
    other = Fernet(Fernet.generate_key())
    with served(plane(ledger, reveal=other)) as url:
        assert "value" not in client(url).get_api_key(apiKey=key, includeValue=True)


def test_unknown_keys(aws):
    """404 by every operation on one."""
    for call in (aws.get_api_key, aws.delete_api_key, aws.update_api_key):
        assert refused(call, apiKey="nothing") == NO_KEY
        assert refused(call, apiKey="n" * 300) == NO_KEY
    assert (
        refused(aws.update_api_key, apiKey="x", patchOperations=[{"op": "replace", "path": "/id", "value": "y"}])
        == NO_KEY
    )


def test_a_key_is_deleted(aws):
    """202 and no body; its links go with it."""
    key, plan = aws.create_api_key(), aws.create_usage_plan(name="p")
    aws.create_usage_plan_key(usagePlanId=plan["id"], keyId=key["id"], keyType="API_KEY")
    answer = aws.delete_api_key(apiKey=key["id"])
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert aws.get_usage_plan_keys(usagePlanId=plan["id"])["items"] == []
    assert refused(aws.delete_api_key, apiKey=key["id"]) == NO_KEY


def test_a_patch(aws):
    """Each path; what is not true is false; tags are shown and no value is; empty texts take a field away."""
    made = aws.create_api_key(name="n", customerId="c", enabled=True, value=VALUE)

    def patch(*operations):
        return bare(aws.update_api_key(apiKey=made["id"], patchOperations=[
            dict(zip(("op", "path", "value"), operation, strict=False)) for operation in operations
        ]))  # fmt: skip

    now = patch(("replace", "/name", "m"), ("replace", "/description", "d"), ("replace", "/customerId", "e"), ("replace", "/enabled", "not-a-boolean"),
                ("add", "/stages", "r1/prod"), ("add", "/labels", "x"))  # fmt: skip
    assert "value" not in now
    assert now["lastUpdatedDate"] >= made["lastUpdatedDate"]
    del now["lastUpdatedDate"]
    assert now == {
        "id": made["id"], "name": "m", "description": "d", "customerId": "e", "enabled": False, "createdDate": made["createdDate"],
        "stageKeys": ["r1/prod"], "tags": {},
    }  # fmt: skip
    assert patch(("replace", "/enabled", "TRUE"), ("remove", "/stages", "r1/prod"))["enabled"] is True
    empty = patch(
        ("replace", "/name", ""),
        ("replace", "/description", ""),
        (
            "replace",
            "/customerId",
        ),
    )
    assert not {"name", "description", "customerId"} & set(empty)
    assert bare(aws.update_api_key(apiKey=made["id"])) == empty


@pytest.mark.parametrize(("op", "path", "tail"), [
    ("replace", "/id", "Must be one of: [/description, /enabled, /name, /customerId]"), ("add", "/name", "Must be one of: [/labels, /stages]"),
    ("copy", "/name", "Please choose supported operations"), ("move", "/name", "Please choose supported operations"), ("test", "/x", "Please choose supported operations"),
    ("replace", "", "Must be one of: [/description, /enabled, /name, /customerId]"),
])  # fmt: skip
def test_a_wrong_path(aws, op, path, tail):
    """In API Gateway's words, and what stood before it in the patch is not done either."""
    key = aws.create_api_key(name="n")["id"]
    operations = [{"op": "replace", "path": "/name", "value": "m"}, {"op": op, "path": path, "value": "v"}]
    message = f"Invalid patch path  '{path}' specified for op '{op}'. {tail}"
    assert refused(aws.update_api_key, apiKey=key, patchOperations=operations) == (400, "BadRequestException", message)
    assert aws.get_api_key(apiKey=key)["name"] == "n"


def test_an_operation_that_there_is_not(aws):
    """A value outside of an enumeration."""
    key = aws.create_api_key()["id"]
    status, code, message = refused(
        aws.update_api_key, apiKey=key, patchOperations=[{"op": "invalid", "path": "/name"}]
    )
    assert (status, code) == (400, "ValidationException")
    assert "Member must satisfy enum value set" in message


def test_too_long_by_a_patch(aws):
    """As when it is made."""
    key = aws.create_api_key()["id"]
    for path, value, words in (
        ("/name", "n" * 1025, "at most 1024"),
        ("/description", "d" * 125_001, "Invalid API Key description"),
    ):
        told = refused(
            aws.update_api_key, apiKey=key, patchOperations=[{"op": "replace", "path": path, "value": value}]
        )
        assert told[0] == 400
        assert words in told[2]


def test_lists_go_from_the_newest_in_pages(aws, ledger):
    """Each once, whatever comes and goes between the pages; a full last page tells no position."""
    ids = [aws.create_api_key(name=f"k{at % 2}")["id"] for at in range(7)][::-1]
    assert [key["id"] for key in aws.get_api_keys()["items"]] == ids
    assert "position" not in aws.get_api_keys(limit=7)
    first = aws.get_api_keys(limit=3)
    assert [key["id"] for key in first["items"]] == ids[:3]
    aws.create_api_key()
    ledger.remove_key(ids[2])
    ledger.remove_key(ids[4])
    second = aws.get_api_keys(limit=3, position=first["position"])
    assert [key["id"] for key in second["items"]] == [ids[3], ids[5], ids[6]]
    assert "position" not in second
    pages = aws.get_paginator("get_api_keys").paginate(PaginationConfig={"PageSize": 2})
    assert [key["id"] for page in pages for key in page["items"]] == [key["id"] for key in aws.get_api_keys()["items"]]
    assert len(aws.get_api_keys(limit=-1)["items"]) == 6
    assert refused(aws.get_api_keys, position="no such thing")[0] == 400


def test_pages_have_25_entries_unless_they_say_otherwise_and_500_at_most(aws, ledger):
    """Of keys that the ledger made, too."""
    for at in range(505):
        ledger.issue_key(f"n{at}")
    assert len(aws.get_api_keys()["items"]) == len(aws.get_api_keys(limit=0)["items"]) == 25
    first = aws.get_api_keys(limit=10_000)
    assert len(first["items"]) == 500
    assert len(aws.get_api_keys(limit=500, position=first["position"])["items"]) == 5


def test_the_order_is_that_of_creation_where_time_stands_still():
    """Also in another process, and where the clock was stepped back."""
    clock = ManualClock(datetime(2026, 1, 15, tzinfo=timezone.utc))
    ledger = Ledger(clock=clock)
    ids = []
    for _ in range(3):
        with served(plane(ledger)) as url:
            aws = client(url)
            ids += [aws.create_api_key()["id"] for _ in range(3)]
            assert [key["id"] for key in aws.get_api_keys()["items"]] == ids[::-1]
        clock.advance(-10_000_000)


def test_filters(aws):
    """The start of a name, in its own case; a customer."""
    for name, customer in (("test", "c1"), ("test2", "c2"), ("Test3", "c1")):
        aws.create_api_key(name=name, customerId=customer)
    aws.create_api_key()
    names = lambda **given: [key.get("name") for key in aws.get_api_keys(**given)["items"]]  # noqa: E731
    assert names(nameQuery="test") == ["test2", "test"]
    assert names(nameQuery="Test3") == ["Test3"]
    assert names(nameQuery="est") == []
    assert names(customerId="c1") == ["Test3", "test"]


CSV = b"""Name, key, description, Enabled, usageplanIds
MyFirstApiKey, apikey1234abcdefghij0123456789, An imported key, TRUE, "PLAN1,PLAN2"
MySecondApiKey, anotherkey1234abcdefghij012345, , tRuE, 'PLAN1'
Third,"thirdkey1234abcdefghij0123456789",,false, 'PLAN2, PLAN1'
"""


def test_an_import(aws, ledger):
    """As in the service's own sample; a row again replaces what its key has; enabled is the default."""
    plans = [aws.create_usage_plan(name="a")["id"], aws.create_usage_plan(name="b")["id"]]
    csv = CSV.replace(b"PLAN1", plans[0].encode()).replace(b"PLAN2", plans[1].encode())
    made = aws.import_api_keys(body=csv, format="csv")
    assert made["ResponseMetadata"]["HTTPStatusCode"] == 201
    assert made["warnings"] == []
    keys = [aws.get_api_key(apiKey=key) for key in made["ids"]]
    assert [(key["name"], key.get("description"), key["enabled"]) for key in keys] == [
        ("MyFirstApiKey", "An imported key", True), ("MySecondApiKey", None, True), ("Third", None, False),
    ]  # fmt: skip
    assert [len(aws.get_usage_plan_keys(usagePlanId=plan)["items"]) for plan in plans] == [3, 2]
    again = aws.import_api_keys(
        body=b"name,key\nRenamed,apikey1234abcdefghij0123456789", format="csv", failOnWarnings=False
    )
    assert again["ids"] == made["ids"][:1]
    assert aws.get_api_key(apiKey=again["ids"][0])["name"] == "Renamed"
    assert len(ledger.list_keys()) == 3


def test_an_import_without_a_last_line_end(aws, ledger):
    """A body is as long as its Content-Length says: nothing is suspected of being cut short, and a bad row is told."""
    told = aws.import_api_keys(body=b"Name,Key\nlast," + b"v" * 20, format="csv", failOnWarnings=True)
    assert told["warnings"] == []
    assert [key.id for key in ledger.list_keys()] == told["ids"]
    told = aws.import_api_keys(body=b"Name,Key\ngood," + b"g" * 20 + b"\nbad,short", format="csv")
    assert [len(told["ids"]), len(told["warnings"])] == [1, 1]
    assert told["warnings"][0].startswith("line 3 is left out")


def test_an_import_with_warnings(aws, ledger):
    """All or nothing where it is asked; else the good rows, and what is wrong with the others; never a value."""
    csv = b"name,key,usageplanids\ngood,goodkey1234abcdefghij0123456789,\nbad,short,\nlost,lostkey1234abcdefghij0123456789,nowhere\n"
    told = refused(aws.import_api_keys, body=csv, format="csv", failOnWarnings=True)
    assert told[:2] == (400, "BadRequestException")
    assert ledger.list_keys() == []
    made = aws.import_api_keys(body=csv, format="csv")
    assert (len(made["ids"]), len(made["warnings"])) == (2, 2)
    assert not any("key1234" in text or "short" in text for text in [*made["warnings"], told[2]])


@pytest.mark.parametrize("overtake", ["same value", "key gone", "plan gone"])
def test_an_import_that_somebody_overtakes(aws, ledger, monkeypatch, overtake):
    """Is told so, as a conflict, and changes nothing."""
    plan = aws.create_usage_plan(name="n")["id"]
    there = aws.create_api_key(value=VALUE, name="before")["id"]
    other = "b" * 20
    made = keys.make_key
    with served(plane(ledger)) as url:
        beside = client(url)
        acts = {
            "same value": lambda: beside.create_api_key(value=other), "key gone": lambda: beside.delete_api_key(apiKey=there),
            "plan gone": lambda: beside.delete_usage_plan(usagePlanId=plan),
        }  # fmt: skip

        def make_key_too_late(*given):
            key = made(*given)
            acts.pop(overtake, dict)()
            return key

        monkeypatch.setattr(keys, "make_key", make_key_too_late)
        csv = f"name,key,usageplanids\nafter,{VALUE},\nnew,{other},{plan}\n".encode()
        told = refused(aws.import_api_keys, body=csv, format="csv")
    assert told == (409, "ConflictException", keys.OVERTAKEN)
    names = {"same value": ["", "before"], "key gone": [], "plan gone": ["before"]}[overtake]
    assert sorted(keys.name_of(key) for key in ledger.list_keys()) == names


def test_an_import_that_is_taken_back_takes_back_nothing_of_others(aws, ledger, monkeypatch):
    """A key that another process patched since keeps the patch, one that it deleted stays away; all else is as before."""
    values = ["a" * 20, "b" * 20, "c" * 20]
    ids = [aws.create_api_key(value=value, name="before")["id"] for value in values]
    real = ledger.store.add_keys

    def add_keys(*given, **named):
        monkeypatch.undo()
        with served(plane(ledger)) as url:
            other = client(url)
            patched = [{"op": "replace", "path": "/description", "value": "theirs"}]
            other.update_api_key(apiKey=ids[0], patchOperations=patched)
            other.delete_api_key(apiKey=ids[2])
            other.create_api_key(value="d" * 20, name="theirs")
        real(*given, **named)

    monkeypatch.setattr(ledger.store, "add_keys", add_keys)
    csv = "name,key\n" + "".join(f"after,{value}\n" for value in [*values, "d" * 20])
    assert refused(aws.import_api_keys, body=csv.encode(), format="csv") == (409, "ConflictException", keys.OVERTAKEN)
    found = [(key["name"], key.get("description")) for key in aws.get_api_keys()["items"]]
    assert found == [("theirs", None), ("before", None), ("before", "theirs")]


def test_two_imports_of_the_same_values_at_once(aws, ledger, monkeypatch):
    """On a server each key is a step: the one that comes between keeps what it was told of, the other is a conflict."""
    rows = [f"{value * 20}\n" for value in "abc"]
    real, told, added = ledger.store.add_keys, [], []

    def add_keys(*given, **named):
        added.append(1)
        if len(added) == 3:
            monkeypatch.undo()
            with served(plane(ledger)) as url:
                theirs = "name,key\n" + "".join(f"theirs,{row}" for row in rows)
                told.append(client(url).import_api_keys(body=theirs.encode(), format="csv")["ids"])
        real(*given, **named)

    monkeypatch.setattr(ledger.store, "add_keys", add_keys)
    mine = "name,key\n" + "".join(f"mine,{row}" for row in ["x" * 20 + "\n", *rows])
    assert refused(aws.import_api_keys, body=mine.encode(), format="csv") == (409, "ConflictException", keys.OVERTAKEN)
    found = aws.get_api_keys()["items"]
    assert sorted(key["id"] for key in found) == sorted(told[0])
    assert {key["name"] for key in found} == {"theirs"}


@pytest.mark.parametrize(("csv", "message"), [
    (b"name,description\nx,y\n", "Missing required column 'Key'"), (b"key\nabc\n", "Missing required column 'Name'"), (b"", None), (b"\xff\xfe", None), (b'name,key\n"x', None),
    (b'{"name": "x"}', None),
])  # fmt: skip
def test_a_file_that_is_no_table_of_keys(aws, ledger, csv, message):
    """400, and nothing is made."""
    told = refused(aws.import_api_keys, body=csv, format="csv")
    assert told[0] == 400
    assert message in (None, told[2])
    assert ledger.list_keys() == []


def test_two_clients_patch_a_key_at_once(aws, ledger):
    """Neither change is lost, whatever their order."""
    key = aws.create_api_key(name="n")["id"]
    with served(plane(ledger)) as url:
        clients = [aws, client(url)]

        def patch(which, path):
            for at in range(20):
                clients[which].update_api_key(
                    apiKey=key, patchOperations=[{"op": "replace", "path": path, "value": f"{path}{at}"}]
                )

        run_threads([partial(patch, *pair) for pair in enumerate(("/name", "/description"))])
    there = aws.get_api_key(apiKey=key)
    assert (there["name"], there["description"]) == ("/name19", "/description19")
