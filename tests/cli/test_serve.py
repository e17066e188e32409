"""quota serve, as a process of its own: what it serves, what it refuses to, how it stops."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest
from cryptography.fernet import Fernet

from commands import Quota
from control import CREDENTIALS, client, refused
from quota import Ledger, UsagePlan


@contextmanager
def serving(*arguments):
    """(process, URL) of a server that says it serves."""
    command = [sys.executable, "-m", "quota", "serve", *map(str, arguments), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        try:
            line = process.stderr.readline()
            yield process, re.search(r"on (http://\S+) without TLS", line)[1]
        finally:
            process.kill()


def get(url, path, headers=None):
    """(status, body) of a bare request."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
    connection.request("GET", path, headers=headers or {})
    answer = connection.getresponse()
    found = answer.status, answer.read().decode()
    connection.close()
    return found


@pytest.fixture
def store(tmp_path):
    url = f"sqlite:///{tmp_path / 'usage.db'}"
    with Ledger(url) as ledger:
        ledger.add_plan(UsagePlan("free", "5/day"))
        secret = ledger.issue_key("Ada", plan="free").secret
        ledger.consume(secret)
    return url, secret


def test_both_on_one_port(store, tmp_path):
    """The page at its path, API Gateway's API beside it, with credentials, stages and values of files."""
    url, secret = store
    files = {
        "credentials": json.dumps(CREDENTIALS),
        "stages": '{"r1": ["prod"]}',
        "reveal": f"{Fernet.generate_key().decode()}\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    options = [part for name in files for part in (f"--{name}", tmp_path / name)]
    with serving("both", "--store", url, *options) as (process, where):
        assert json.loads(get(where, "/usage", {"x-api-key": secret})[1])["key"]["name"] == "Ada"
        assert get(where, "/apikeys")[0] == 403
        aws = client(where)
        key = aws.create_api_key(name="k")
        assert aws.get_api_key(apiKey=key["id"], includeValue=True)["value"] == key["value"]
        assert refused(aws.create_usage_plan, name="n", apiStages=[{"apiId": "r9", "stage": "prod"}])[0] == 404
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert "stopped" in process.stderr.read()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_in_flight_is_answered(store, number):
    """And a connection that only stands open holds nothing up."""
    url, secret = store
    with serving("usage", "--store", url) as (process, where):
        host, _, port = where.removeprefix("http://").partition(":")
        idle = socket.create_connection((host, int(port)))
        busy = http.client.HTTPConnection(host, int(port))
        busy.request("GET", "/usage", headers={"x-api-key": secret})
        assert busy.getresponse().read()
        busy.request("GET", "/usage", headers={"x-api-key": secret})
        process.send_signal(number)
        assert process.wait(20) == 0
        try:
            assert json.loads(busy.getresponse().read())["plans"]
        except (http.client.RemoteDisconnected, ConnectionResetError):
            pass  # the signal came before the request was read
        idle.close()
        busy.close()


FORM = "application/x-www-form-urlencoded"


def test_slow_clients_and_long_bodies_hold_nobody_up(store):
    """Two hundred that sent half a request, and a hundred megabytes: refused at their length, and others are served."""
    url, secret = store
    with serving("both", "--store", url) as (_, where):
        host, _, port = where.removeprefix("http://").partition(":")
        begun = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n{"
        slow = [socket.create_connection((host, int(port))) for _ in range(200)]
        for at, connection in enumerate(slow):
            connection.sendall(begun % ((b"/usage", b"/apikeys")[at % 2], FORM.encode(), 4000))
        connection.sendall(b"x")  # one that goes on, byte by byte
        for path in ("/usage", "/apikeys"):
            with socket.create_connection((host, int(port)), timeout=20) as long:
                long.sendall(begun % (path.encode(), FORM.encode(), 100 << 20))
                assert long.recv(100).split()[1] == b"413"
        assert json.loads(get(where, "/usage", {"x-api-key": secret})[1])["key"]["name"] == "Ada"
        assert [key["name"] for key in client(where, unsigned=True).get_api_keys()["items"]] == ["Ada"]
        for connection in slow:
            connection.close()


def test_without_credentials_for_this_machine_alone(store):
    """By IPv4 and IPv6; a page in front of it, too."""
    with serving("aws", "--store", store[0]) as (_, where):
        assert client(where, unsigned=True).get_api_keys()["items"][0]["name"] == "Ada"
        assert get(where, "/apikeys", {"X-Forwarded-For": "203.0.113.9"})[0] == 403
        assert get(where, "/usage")[0] == 404


def test_what_cannot_be_served(tmp_path):
    """In one line, and nothing listens."""
    quota = Quota()
    bad = tmp_path / "bad"
    bad.write_text("no json")
    short = tmp_path / "short"
    short.write_text('{"AK": ""}')
    assert "without --credentials" in quota.fails("serve", "aws", "--host", "0.0.0.0")
    assert "without --credentials" in quota.fails("serve", "both", "--host", "::")
    quota.fails("serve", "aws", "--credentials", bad)
    quota.fails("serve", "aws", "--credentials", short)
    quota.fails("serve", "aws", "--stages", bad)
    quota.fails("serve", "aws", "--reveal", bad)
    quota.fails("serve", "nothing")
    quota.fails("serve", "usage", "--host", "no.such.host.invalid")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        quota("plan", "add", "p", "1/day")
        assert "in use" in quota.fails("serve", "usage", "--port", taken.getsockname()[1])
