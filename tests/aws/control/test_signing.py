"""Who may call: Signature Version 4 of real clients, and of whoever is not quite one."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from urllib.parse import urlsplit

import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from control import CREDENTIALS, STAGES, client, plane, refused, served
from quota import InvalidValue, Ledger
from quota.aws import control_plane

((ACCESS_KEY, SECRET),) = CREDENTIALS.items()


@pytest.fixture(scope="module")
def ledger():
    with Ledger() as ledger:
        ledger.issue_key("k", id="abc")
        yield ledger


@pytest.fixture(scope="module")
def url(ledger):
    with served(plane(ledger)) as url:
        yield url


def send(url, method="GET", path="/apikeys", *, body=None, headers=None):
    """(status, code, body) of a bare request."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    assert answer.headers["x-amzn-RequestId"]
    return answer.status, answer.headers.get("x-amzn-ErrorType"), json.loads(text) if text else None


def signed(
    url,
    method="GET",
    path="/apikeys",
    *,
    body=b"",
    secret=SECRET,
    service="apigateway",
    query=False,
    expires=60,
    change=lambda request: None,
):
    """A request as botocore signs it; ``change``d before it is."""
    request = AWSRequest(
        method, url + path, data=body or None, headers={"Content-Type": "application/json"} if body else {}
    )
    change(request)
    credentials = Credentials(ACCESS_KEY, secret)
    kind = (
        SigV4QueryAuth(credentials, service, "eu-west-1", expires)
        if query
        else SigV4Auth(credentials, service, "eu-west-1")
    )
    kind.add_auth(request)
    prepared = request.prepare()
    parts = urlsplit(prepared.url)
    return {
        "method": method,
        "path": parts.path + (f"?{parts.query}" if parts.query else ""),
        "body": body or None,
        "headers": dict(prepared.headers.items()),
    }


def test_signatures_in_header_and_query_hold(url):
    """Of paths and parameters with whatever may stand there."""
    for path in (
        "/apikeys",
        "/apikeys?limit=5&name=a%20b%2Fc%2Bd~",
        "/apikeys?name=%C3%A9&customerId=",
        "/usageplans/x%20y%2Bz~/keys",
        "/tags/arn%3Aaws%3Aapigateway%3Aeu-west-1%3A%3A%2Fapikeys%2Fabc",
    ):
        for query in (False, True):
            assert send(url, **signed(url, path=path, query=query))[0] == 200, path
    assert send(url, **signed(url, "POST", "/apikeys", body=b'{"name": "made"}'))[0] == 201


@pytest.mark.parametrize(("path", "status"), [
    ("/apikeys//abc", 404), ("/apikeys/./abc", 404), ("/x/../apikeys", 404), ("/apikeys/", 404), ("/apikeys?name=a+b", 200), ("/apikeys?name=a%2bb", 200), ("/apikeys?name", 200),
])  # fmt: skip
def test_paths_and_queries_as_a_client_may_have_signed_them(url, path, status):
    """Signatures are of a path in its normal form, and of a query as it stands on the wire: who signed so may ask."""
    for query in (False, True):
        assert send(url, **signed(url, path=path, query=query))[0] == status


def altered(**changes):
    return lambda call: {**call, **changes}


@pytest.mark.parametrize(("how", "status", "code"), [
    (altered(path="/apikeys?limit=1"), 403, "InvalidSignatureException"), (altered(method="DELETE", path="/apikeys/abc"), 403, "InvalidSignatureException"),
    (altered(body=b'{"name": "other"}'), 403, "InvalidSignatureException"), (altered(headers={}), 403, "MissingAuthenticationTokenException"),
    (lambda call: {**call, "headers": {**call["headers"], "X-Amz-Date": "20200101T000000Z"}}, 400, "IncompleteSignatureException"),
    (lambda call: {**call, "headers": {**call["headers"], "Authorization": call["headers"]["Authorization"].replace(ACCESS_KEY, "AKIDOTHER")}}, 403, "UnrecognizedClientException"),
    (lambda call: {**call, "headers": {**call["headers"], "Authorization": call["headers"]["Authorization"].replace("host;", "")}}, 400, "IncompleteSignatureException"),
    (lambda call: {**call, "headers": {**call["headers"], "Authorization": call["headers"]["Authorization"].replace("eu-west-1", "eu-west-2")}}, 403, "InvalidSignatureException"),
    (lambda call: {**call, "headers": {**call["headers"], "Authorization": call["headers"]["Authorization"][:-1] + "x"}}, 400, "IncompleteSignatureException"),
    (lambda call: {**call, "headers": {**call["headers"], "Authorization": "Bearer x"}}, 400, "IncompleteSignatureException"),
    (lambda call: {**call, "headers": {**call["headers"], "Host": "elsewhere.example"}}, 403, "InvalidSignatureException"),
    (lambda call: {**call, "headers": {**call["headers"], "X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"}}, 403, "InvalidSignatureException"),
], ids=range(12))  # fmt: skip
def test_what_was_signed_otherwise_is_refused(url, ledger, how, status, code):
    """Another path, method, body, date, region, host, key; nothing is done."""
    before = ledger.list_keys()
    call = how(signed(url, "POST", "/apikeys", body=b'{"name": "x"}'))
    assert send(url, **call)[:2] == (status, code)
    assert ledger.list_keys() == before


def test_a_signature_for_another_service(url):
    """Is told for which one it must be, as API Gateway tells."""
    answer = send(url, **signed(url, service="execute-api"))
    assert answer[:2] == (403, "InvalidSignatureException")
    assert answer[2]["message"] == "Credential should be scoped to correct service: 'apigateway'. "


def test_changes_are_done_by_who_signed_them(ledger):
    """Each access key id is an actor; without credentials it is whoever the ledger says."""
    both = {**CREDENTIALS, "AKIDOTHER": "another secret"}
    with served(plane(ledger.acting("first"), credentials=both)) as url:
        made = client(url).create_api_key(name="one")
        other = client(url, access_key="AKIDOTHER", secret="another secret")
        ops = [{"op": "replace", "path": "/name", "value": "two"}]
        other.update_api_key(apiKey=made["id"], patchOperations=ops)
        other.create_api_key(name="three")
    with served(plane(ledger.acting("first"), credentials=None)) as url:
        client(url, unsigned=True).delete_api_key(apiKey=made["id"])
    assert [(event.kind, event.actor) for event in ledger.events()][-4:] == [
        ("key.issued", "AKIDEXAMPLE"), ("key.updated", "AKIDOTHER"), ("key.issued", "AKIDOTHER"), ("key.removed", "first"),
    ]  # fmt: skip
    with pytest.raises(InvalidValue, match="credentials"):
        plane(ledger, credentials={"a" * 300: "secret"})


def test_a_wrong_secret(url):
    """By boto3, with the code that its users know."""
    told = refused(client(url, secret="wrong").get_api_keys)
    assert told[:2] == (403, "InvalidSignatureException")
    assert told[2].startswith("The request signature we calculated does not match")
    assert refused(client(url, access_key="AKIDOTHER").get_api_keys) == (
        403,
        "UnrecognizedClientException",
        "The security token included in the request is invalid.",
    )
    assert refused(client(url, unsigned=True).get_api_keys)[:2] == (403, "MissingAuthenticationTokenException")


@pytest.mark.parametrize("query", [False, True])
@pytest.mark.parametrize(("off", "good"), [(-290, True), (-310, False), (290, True), (310, False), (-86_400, False)])
def test_the_clock(url, monkeypatch, off, good, query):
    """Five minutes off either way, or as long as a URL says that it lasts."""
    import botocore.auth as auth

    now = datetime.now(timezone.utc) + timedelta(seconds=off)
    for name in ("get_current_datetime", "_get_current_datetime"):
        if hasattr(auth, name):
            monkeypatch.setattr(auth, name, lambda **_: now.replace(tzinfo=None))
    status, code, told = send(url, **signed(url, query=query, expires=300))
    assert (status, code) == ((200, None) if good else (403, "InvalidSignatureException"))
    if not good:  # in the service's words, which say how far a clock is off
        words = ("expired", "now earlier", "-") if off < 0 else ("not yet current", "still later", r"\+")
        text = r"Signature {}: \d{{8}}T\d{{6}}Z is {} than \d{{8}}T\d{{6}}Z \(\d{{8}}T\d{{6}}Z {} 5 min.\)".format(
            *words
        )
        assert re.fullmatch(text, told["message"])


def test_without_credentials_this_machine_alone(ledger):
    """By its loopback address and name, not for a proxy's clients, nor for a page in a browser that found a way here."""
    with served(control_plane(ledger, credentials=None, stages=STAGES)) as url:
        assert client(url, unsigned=True).get_api_keys()["items"]
        assert client(url).get_api_keys()["items"]
        for headers in (
            {"X-Forwarded-For": "203.0.113.9"},
            {"Forwarded": "for=203.0.113.9"},
            {"Host": "rebound.example"},
            {"Origin": "https://evil.example"},
            {"Host": "10.0.0.1"},
        ):
            assert send(url, headers=headers)[:2] == (403, "AccessDeniedException"), headers
        for host in ("localhost", "127.0.0.1:80", "[::1]:8080", "127.9.9.9"):
            assert send(url, headers={"Host": host})[0] == 200


@pytest.mark.parametrize("address", ["192.0.2.1", "", "::ffff:192.0.2.1", "nonsense"])
def test_without_credentials_nobody_else(ledger, address):
    """Whatever the Host says."""
    app, seen = control_plane(ledger, credentials=None, stages=None), []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/apikeys", "HTTP_HOST": "localhost", "REMOTE_ADDR": address}
    app(environ, lambda status, fields: seen.append(status))
    app({**environ, "REMOTE_ADDR": "::ffff:127.0.0.1"}, lambda status, fields: seen.append(status))
    assert seen == ["403 Forbidden", "200 OK"]


@pytest.mark.parametrize("given", [
    {"credentials": {}}, {"credentials": {"AK": ""}}, {"credentials": {"A/K": "s"}}, {"credentials": "AK"}, {"credentials": {"AK": 7}}, {"stages": {"r1": "prod"}}, {"stages": ["r1"]},
    {"stages": {"r1": [""]}}, {"reveal": "a key"}, {"ledger": None},
])  # fmt: skip
def test_what_a_control_plane_cannot_be_made_of(ledger, given):
    """Named, and no secret in the error."""
    fine = {"ledger": ledger, "credentials": {"AK": "sesame-sesame"}, "stages": {}}
    with pytest.raises(InvalidValue) as told:
        control_plane(**{**fine, **given})
    assert "sesame" not in str(told.value)
    assert "sesame" not in repr(control_plane(**fine))


def test_the_aws_command_line(url, ledger):
    """Unedited: a key and a plan made, patched in shorthand, listed page by page, its usage told."""
    environment = {
        "PATH": os.environ["PATH"], "HOME": "/nonexistent", "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "eu-west-1", "AWS_MAX_ATTEMPTS": "1",
    }  # fmt: skip

    def aws(*arguments):
        command = [sys.executable, "-m", "awscli", "--endpoint-url", url, "apigateway", *arguments, "--output", "json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return json.loads(done.stdout) if done.stdout.strip() else None

    plan = aws(
        "create-usage-plan",
        "--name",
        "cli",
        "--throttle",
        "burstLimit=20,rateLimit=10",
        "--quota",
        "limit=500,offset=0,period=MONTH",
    )
    assert plan["throttle"] == {"burstLimit": 20, "rateLimit": 10.0}
    key = aws("create-api-key", "--name", "cli key", "--enabled", "--tags", "a=b")
    aws("create-usage-plan-key", "--usage-plan-id", plan["id"], "--key-id", key["id"], "--key-type", "API_KEY")
    now = aws(
        "update-usage-plan",
        "--usage-plan-id",
        plan["id"],
        "--patch-operations",
        'op="replace",path="/quota/limit",value="7"',
        'op="add",path="/apiStages",value="r1:prod"',
    )
    assert (now["quota"]["limit"], now["apiStages"]) == (7, [{"apiId": "r1", "stage": "prod"}])
    assert "cli key" in [item["name"] for item in aws("get-api-keys", "--page-size", "1")["items"]]
    assert aws("get-usage", "--usage-plan-id", plan["id"], "--start-date", "2026-01-01", "--end-date", "2026-01-01")[
        "items"
    ] == {key["id"]: [[0, 7]]}
    assert aws(
        "update-usage",
        "--usage-plan-id",
        plan["id"],
        "--key-id",
        key["id"],
        "--patch-operations",
        'op="replace",path="/remaining",value="3"',
    )["items"][key["id"]] == [[0, 3]]
