"""Input that means harm: bounded, refused clearly, and nothing is changed."""

from __future__ import annotations

import io
import json
import socket
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control import client, served
from quota import Ledger, UsagePlan
from quota.aws import control_plane
from quota.errors import StoreBusy


@pytest.fixture
def ledger():
    with Ledger() as ledger:
        yield ledger


def call(ledger, method, path, body=b"", query="", **more):
    """(status, code, data) of a request in this process."""
    seen = {}
    environ = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "CONTENT_LENGTH": str(len(body)) if body else "",
        "wsgi.input": io.BytesIO(body),
        **more,
    }
    chunks = control_plane(ledger, credentials=None, stages=None)(
        environ, lambda status, fields: seen.update(status=status, **dict(fields))
    )
    text = b"".join(chunks)
    assert seen["x-amzn-RequestId"]
    return int(seen["status"][:3]), seen.get("x-amzn-ErrorType"), json.loads(text) if text else None


class Endless:
    """A body that never ends, and how much of it was read."""

    read_so_far = 0

    def read(self, size):
        self.read_so_far += min(size, 1 << 20)
        return b" " * min(size, 1 << 20)


@pytest.mark.parametrize(
    "more",
    [
        {"CONTENT_LENGTH": str(100 << 20)},
        {"CONTENT_LENGTH": "", "wsgi.input_terminated": True},
        {"CONTENT_LENGTH": "9" * 15},
    ],
)
def test_a_body_of_a_hundred_megabytes(ledger, more):
    """Not read, or no further than ten."""
    body = Endless()
    assert call(ledger, "POST", "/apikeys", **{"wsgi.input": body, **more})[:2] == (
        413,
        "RequestEntityTooLargeException",
    )
    assert body.read_so_far <= 10 * (1 << 20) + 1


@pytest.mark.parametrize("body", [b"{", b"[]", b"7", b"null", b"[" * 200_000, b'{"name": 7}', b'{"name": ["x"]}', b'{"enabled": "true"}', b'{"tags": {"a": 1}}', b'{"tags": []}', b"\xff",
                                  b'{"stageKeys": 7}', b'{"value": {}}', b'{"name": NaN}', b"9" * 5000])  # fmt: skip
def test_a_body_that_is_no_json_of_the_kind(ledger, body):
    """400 by the code that SDKs know."""
    assert call(ledger, "POST", "/apikeys", body)[:2] == (400, "SerializationException")
    assert ledger.list_keys() == []


def test_a_body_that_is_shorter_than_it_says(ledger):
    """Nothing is made of half a body."""
    assert call(ledger, "POST", "/apikeys", b'{"name": "x"}', CONTENT_LENGTH="400")[0] == 400
    assert call(ledger, "POST", "/apikeys", b'{"name": "x"}', CONTENT_LENGTH="-1")[0] == 400
    assert ledger.list_keys() == []


def test_a_patch_of_ten_thousand_operations(ledger):
    """Refused as a whole."""
    plan = call(ledger, "POST", "/usageplans", b'{"name": "n"}')[2]
    operations = [{"op": "add", "path": "/apiStages", "value": f"a{at}:s"} for at in range(10_000)]
    status, _, told = call(
        ledger, "PATCH", f"/usageplans/{plan['id']}", json.dumps({"patchOperations": operations}).encode()
    )
    assert (status, told["message"]) == (400, "Too many patch operations: at most 1000")
    some = json.dumps({"patchOperations": operations[:1000]}).encode()
    assert call(ledger, "PATCH", f"/usageplans/{plan['id']}", some)[0] == 200


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "\x1b[31m\x00\r\nX-Evil: 1",
        "\u202e\ud800",
        "'; DROP TABLE keys; --",
        "%00%0a",
        "{{7*7}}",
    ],
)
def test_names_with_markup_and_escapes_come_back_as_they_were(ledger, text):
    """As JSON, which is told to be nothing else; errors repeat none of what a terminal would act on."""
    made = call(
        ledger, "POST", "/apikeys", json.dumps({"name": text, "description": text, "tags": {"t": text}}).encode()
    )[2]
    assert (made["name"], made["description"], made["tags"]) == (text, text, {"t": text})
    told = call(
        ledger,
        "PATCH",
        f"/apikeys/{made['id']}",
        json.dumps({"patchOperations": [{"op": "replace", "path": text}]}).encode(),
    )
    assert told[0] == 400
    assert told[2]["message"].isprintable()


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/", 404), ("GET", "/apikeys/", 404), ("GET", "//apikeys", 404), ("GET", "/restapis", 404), ("HEAD", "/apikeys", 405), ("PUT", "/apikeys", 405), ("TRACE", "/account", 405),
    ("GET", "/apikeys/a/b", 404), ("GET", "/tags/", 404), ("GET", "/apikeys/%2e%2e", 404), ("GET", "/apikeys/\n", 404), ("GET", "/usageplans/\xe9\xff", 404), ("GET", "/account", 200),
    ("POST", "/apikeys?mode", 400), ("GET", "/usageplans/a\nb/keys", 200), ("GET", f"/usageplans/{'x' * 5000}/keys", 200), ("GET", "/usageplans/\x00/usage?startDate=2026-01-01&endDate=2026-01-01", 404),
])  # fmt: skip
def test_paths(ledger, method, path, status):
    """What is there, what is not, and what cannot be."""
    assert call(ledger, method, path.partition("?")[0], query=path.partition("?")[2])[0] == status


@given(st.sampled_from(["/apikeys", "/usageplans", "/usageplans/p/keys"]), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["API_KEY", "k", "r1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["name", "apiStages", "apiId", "stage", "throttle", "rateLimit", "burstLimit", "quota", "limit", "offset", "period", "keyId", "keyType", "tags", "value", "stageKeys", "/a/GET"]), inner, max_size=4),
    max_leaves=12))  # fmt: skip
def test_whatever_is_posted_is_made_or_refused(path, data):
    """Never an error of ours."""
    with Ledger() as ledger:
        ledger.add_plan(UsagePlan("p", "1/day"))
        ledger.issue_key("k", id="k")
        status = call(ledger, "POST", path, json.dumps(data).encode())[0]
        assert status in (201, 400, 404)


@given(st.lists(st.fixed_dictionaries({}, optional={
    "op": st.sampled_from(["add", "replace", "remove", "copy", "x"]), "value": st.none() | st.sampled_from(["1", "0", "r:s", "DAY", "{}", '{"/a/GET":{"rateLimit":1}}']) | st.text(max_size=4),
    "path": st.sampled_from(["/name", "/apiStages", "/quota", "/quota/limit", "/quota/period", "/quota/offset", "/throttle", "/throttle/rateLimit", "/throttle/burstLimit", "/apiStages/r:s/throttle",
                             "/apiStages/r:s/throttle//a/GET", "/apiStages/r:s/throttle//a/GET/rateLimit", "/apiStages/r:s/throttle/", "/apiStages/r:s/throttle/~1~0/burstLimit"]),
}), max_size=8))  # fmt: skip
def test_whatever_is_patched_is_done_or_changes_nothing(operations):
    """A plan's answer is what the next read tells; a refusal leaves what was."""
    with Ledger() as ledger:
        plan = call(
            ledger,
            "POST",
            "/usageplans",
            b'{"name": "n", "apiStages": [{"apiId": "r", "stage": "s"}], "throttle": {"rateLimit": 1, "burstLimit": 1}}',
        )[2]
        path = f"/usageplans/{plan['id']}"
        before = call(ledger, "GET", path)[2]
        status, _, after = call(ledger, "PATCH", path, json.dumps({"patchOperations": operations}).encode())
        assert status in (200, 400, 404)
        assert call(ledger, "GET", path)[2] == (after if status == 200 else before)


def test_a_store_that_cannot_be_asked(ledger, monkeypatch):
    """503, and what is wrong with it is for the log alone."""

    def busy(*_):
        raise StoreBusy("at secret.example:6379")

    monkeypatch.setattr(type(ledger.store), "list_keys", busy)
    status, code, told = call(ledger, "GET", "/apikeys")
    assert (status, code) == (503, "ServiceUnavailableException")
    assert "secret.example" not in told["message"]


def test_an_error_of_ours_shows_nothing(ledger, monkeypatch, caplog):
    """500 with the request's id, by which it is found in the log."""
    monkeypatch.setattr(type(ledger.store), "list_keys", lambda *_: 1 / 0)
    assert call(ledger, "GET", "/apikeys")[2] == {"message": "Internal server error"}
    assert "ZeroDivisionError" in caplog.text


def test_slow_clients_hold_nobody_up(ledger):
    """Twenty that sent half a request are waited for by the server alone."""
    with served(control_plane(ledger, credentials=None, stages=None)) as url:
        parts = urlsplit(url)
        slow = [socket.create_connection((parts.hostname, parts.port)) for _ in range(20)]
        for connection in slow:
            connection.sendall(b"POST /apikeys HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n{")
        assert client(url).create_api_key(name="quick")["name"] == "quick"
        for connection in slow:
            connection.close()
    assert len(ledger.list_keys()) == 1
