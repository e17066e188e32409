"""uWSGI with four workers that it forks after the application has used its ledger, which Python is not told of."""

import http.client
import os
import re
import subprocess
import sys
import threading
from collections import Counter

import pytest

import paths
from quota import Ledger, UsagePlan
from servers import Postgres, Valkey, free_port

pytestmark = pytest.mark.slow
HERE = paths.TESTS / "support" / "sites"
LIMIT, PATIENCE = 2000, 30


@pytest.fixture(scope="module")
def valkey():
    found = Valkey()
    yield found.url
    found.stop()


@pytest.fixture(scope="module")
def postgres():
    found = Postgres()
    yield found.url
    found.stop()


@pytest.fixture
def sqlite(tmp_path):
    return f"sqlite:///{tmp_path / 'usage.db'}"


@pytest.fixture(params=["valkey", "postgres", "sqlite"])
def url(request, tmp_path):
    found = request.getfixturevalue(request.param)
    return f"{found}?timeout=20" + ("" if request.param == "sqlite" else f"&namespace={tmp_path.name[-40:].lower()}")


@pytest.fixture
def serve():
    """Start uWSGI before a store; a function that gives its port."""
    running = []

    def start(store, secret):
        port = free_port()
        process = subprocess.Popen(
            [sys.executable, "-c", "import pyuwsgi, sys; pyuwsgi.run(sys.argv[1:])", "--http-socket", f"127.0.0.1:{port}",
             "--master", "--processes", "4", "--enable-threads", "--threads", "2", "--need-app", "--die-on-term",
             "--disable-logging", "--listen", "64", "--wsgi-file", str(HERE / "site_uwsgi.py")],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (paths.PACKAGE.parent, HERE))),
                 "QUOTA_STORE": store, "QUOTA_SECRET": secret},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        running.append(process)
        said = []
        for line in process.stdout:
            said.append(line)
            if re.match(r"spawned uWSGI worker 4 ", line):
                break
        else:
            raise RuntimeError("".join(said))
        threading.Thread(target=process.stdout.read, daemon=True).start()
        return port

    yield start
    for process in running:
        process.terminate()
        process.wait(PATIENCE)
        process.stdout.close()


def ask(port, secret, requests, answers):
    for _ in range(requests):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        connection.request("GET", "/", headers={"x-api-key": secret})
        answer = connection.getresponse()
        answers.append((answer.status, answer.read() if answer.status == 200 else b""))
        connection.close()


@pytest.mark.parametrize("leased", ["", "share=0.005", "share=0.2"])
def test_exactly_two_thousand(url, serve, leased):
    """What four workers and their master admit is the limit, to the unit: leases of the master are spent by nobody else."""
    with Ledger(url) as ledger:
        ledger.add_plan(UsagePlan("p", f"{LIMIT}/month", alerts=()))
        key, secret = ledger.issue_key("k", "p")
        port = serve(f"leased+{url}&{leased}" if leased else url, secret)
        answers = []
        clients = [threading.Thread(target=ask, args=(port, secret, 180, answers)) for _ in range(16)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        (row,) = ledger.usage(key)
    statuses = Counter(status for status, _ in answers)
    # What the master took and never spends is burned: at most a process's part of the share.
    burned = LIMIT - 100 - statuses[200]
    assert set(statuses) == {200, 429} and row.used == LIMIT
    assert 0 <= burned <= (float(leased[6:]) * LIMIT if leased else 0)
    assert len({body for status, body in answers if status == 200}) == 4
