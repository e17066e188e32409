"""What the control plane says on the wire, to clients that are not boto3: statuses, bodies, headers, texts of errors."""

from __future__ import annotations

import io
import json

import pytest

from quota import Ledger
from quota.aws import control_plane


@pytest.fixture
def plane():
    with Ledger() as ledger:
        yield control_plane(ledger, credentials=None, stages=None)


def ask(plane, method, path, data=None, query="", **more):
    """(status, headers, JSON or None) of a request."""
    body = b"" if data is None else data if isinstance(data, bytes) else json.dumps(data).encode()
    seen = {}
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query, "CONTENT_LENGTH": str(len(body)),
               "wsgi.input": io.BytesIO(body), **more}  # fmt: skip
    text = b"".join(plane(environ, lambda status, fields: seen.update(status=int(status[:3]), **dict(fields))))
    return seen.pop("status"), seen, json.loads(text) if text else None


def test_statuses_and_bodies(plane):
    """201 of what is made, 202 and 204 without a body of what is gone or tagged, 200 of all else."""
    _, _, key = ask(plane, "POST", "/apikeys", {"name": "k"})
    _, _, plan = ask(plane, "POST", "/usageplans", {"name": "p", "quota": {"limit": 5, "period": "DAY"}})
    arn = f"/tags/arn:aws-cn:apigateway:cn-north-1::/apikeys/{key['id']}"
    link = f"/usageplans/{plan['id']}/keys"
    found = [ask(plane, *call)[::2] for call in (
        ("POST", link, {"keyId": key["id"], "keyType": "API_KEY"}), ("GET", f"{link}/{key['id']}"), ("GET", link),
        ("PUT", arn, {"tags": {"a": "b"}}), ("GET", arn), ("DELETE", arn, None, "tagKeys=a&tagKeys=x"), ("GET", "/account"),
        ("GET", f"/usageplans/{plan['id']}/usage", None, "startDate=2026-01-01&endDate=2026-01-01"),
        ("PATCH", f"{link}/{key['id']}/usage", {"patchOperations": [{"op": "replace", "path": "/remaining", "value": "3"}]}),
        ("DELETE", f"{link}/{key['id']}"), ("DELETE", f"/usageplans/{plan['id']}"), ("DELETE", f"/apikeys/{key['id']}"),
    )]  # fmt: skip
    assert [status for status, _ in found] == [201, 200, 200, 204, 200, 204, 200, 200, 200, 202, 202, 202]
    assert [at for at, (_, data) in enumerate(found) if data is None] == [3, 5, 9, 10, 11]
    assert set(found[2][1]) == {"item"}
    assert found[4][1] == {"tags": {"a": "b"}}
    assert "UsagePlans" in found[6][1]["features"]
    assert found[7][1]["values"] == {key["id"]: [[0, 5]]}
    assert found[8][1]["values"] == {key["id"]: [[0, 3]]}


def test_instants_and_numbers_are_numbers(plane):
    """Seconds since the epoch, which SDKs of Go and Java take alone; a rate is a double, also of a patch's text."""
    _, _, key = ask(plane, "POST", "/apikeys", {"name": "k"})
    assert type(key["createdDate"]) is type(key["lastUpdatedDate"]) is int
    _, _, plan = ask(plane, "POST", "/usageplans", {"name": "p", "throttle": {"rateLimit": 200, "burstLimit": 3}})
    assert type(plan["throttle"]["rateLimit"]) is float
    operations = [{"op": "replace", "path": f"/throttle/{name}", "value": "7"} for name in ("rateLimit", "burstLimit")]
    _, _, now = ask(plane, "PATCH", f"/usageplans/{plan['id']}", {"patchOperations": operations})
    assert [repr(now["throttle"][name]) for name in ("rateLimit", "burstLimit")] == ["7.0", "7"]


def test_an_error_has_a_code_a_message_and_an_id(plane):
    """In the header and the body that botocore reads."""
    status, fields, data = ask(plane, "GET", "/apikeys/nothing")
    assert (status, fields["x-amzn-ErrorType"]) == (404, "NotFoundException")
    assert data == {"message": "Invalid API Key identifier specified"}
    assert fields["x-amzn-RequestId"] != ask(plane, "GET", "/apikeys")[1]["x-amzn-RequestId"]


def test_what_cannot_be_meant_is_told_of_what_was_sent(plane):
    """And not of an id that nobody has seen."""
    for quota in ({"period": "DAY"}, {"limit": -1, "period": "DAY"}):
        _, _, data = ask(plane, "POST", "/usageplans", {"name": "p", "quota": quota})
        assert data["message"] == "Usage Plan quota limit must be a non-negative numeric"
    _, _, data = ask(plane, "POST", "/usageplans", {"name": "p", "quota": {"limit": 1, "period": "WEEK", "offset": 7}})
    assert data["message"] == "quota.offset: 7 is not accepted; expected whole days from 0 to 6 for a week"
    _, _, data = ask(plane, "POST", "/apikeys", {"tags": {"a": "b"}, "value": "é" * 20})
    assert data["message"].startswith("Invalid API Key value: ")


def test_another_method_is_told_which_there_are(plane):
    """In the field Allow, and as a text."""
    status, fields, data = ask(plane, "PUT", "/apikeys")
    assert (status, fields["Allow"]) == (405, "GET, POST")
    assert "GET, POST" in data["message"]


def test_a_query_of_an_import_says_csv_and_its_body_is_the_file(plane):
    """Without a Content-Type; another format is none of the enumeration."""
    file = b"name,key\nk,a-key-of-twenty-characters-or-more\n"
    assert ask(plane, "POST", "/apikeys", file, "mode=import&format=csv&failonwarnings=true")[0] == 201
    status, fields, data = ask(plane, "POST", "/apikeys", file, "mode=import&format=xml")
    assert (status, fields["x-amzn-ErrorType"]) == (400, "ValidationException")
    assert data["message"].endswith("Member must satisfy enum value set: [csv]")
    assert ask(plane, "POST", "/apikeys", file, "mode=other&format=csv")[0] == 400


def test_an_update_without_operations_changes_nothing(plane):
    """SDKs send ``{}``, or nothing."""
    _, _, key = ask(plane, "POST", "/apikeys", {"name": "k"})
    for data in ({}, None, {"patchOperations": []}):
        assert ask(plane, "PATCH", f"/apikeys/{key['id']}", data)[2]["lastUpdatedDate"] == key["lastUpdatedDate"]


def test_a_head_request_gets_no_body(plane):
    """Refused as it is: what stood behind the head would be read as the connection's next answer."""
    status, fields, data = ask(plane, "HEAD", "/apikeys")
    assert (status, fields["Allow"], data) == (405, "GET, POST", None)
    assert int(fields["Content-Length"]) > 0


def test_a_patch_without_an_operation(plane):
    """In the words for a field that is not there."""
    _, _, key = ask(plane, "POST", "/apikeys", {"name": "k"})
    operations = [{"op": "replace", "path": "/name", "value": "x"}, {"path": "/name"}]
    status, fields, data = ask(plane, "PATCH", f"/apikeys/{key['id']}", {"patchOperations": operations})
    assert (status, fields["x-amzn-ErrorType"]) == (400, "ValidationException")
    field = "updateApiKeyInput.patchOperations.2.member.op"
    words = (
        f"1 validation error detected: Value null at '{field}' failed to satisfy constraint: Member must not be null"
    )
    assert data["message"] == words


def test_a_patch_without_a_path(plane):
    """Of an operation that has paths: which ones; of one that has none: that it is none."""
    _, _, key = ask(plane, "POST", "/apikeys", {"name": "k"})
    for op, tail in (
        ("replace", "Must be one of: [/description, /enabled, /name, /customerId]"),
        ("move", "Please choose supported operations"),
    ):
        _, _, data = ask(plane, "PATCH", f"/apikeys/{key['id']}", {"patchOperations": [{"op": op}]})
        assert data["message"] == f"Invalid patch path  '' specified for op '{op}'. {tail}"
    operations = [{"op": "add", "path": "/remaining", "value": "1"}]
    _, _, plan = ask(plane, "POST", "/usageplans", {"name": "p", "quota": {"limit": 5, "period": "DAY"}})
    _, _, data = ask(plane, "PATCH", f"/usageplans/{plan['id']}/keys/x/usage", {"patchOperations": operations})
    assert data["message"].endswith("Please choose supported operations")


def test_a_distinct_id_is_given_whether_asked_for_or_not(plane):
    """generateDistinctId is taken and changes nothing: an id is never the value."""
    for more in ({}, {"generateDistinctId": True}, {"generateDistinctId": False}):
        _, _, key = ask(plane, "POST", "/apikeys", {"name": "k", **more})
        assert len(key["id"]) == 10
        assert key["id"] != key["value"]
