"""The proxy for a language model, as its README starts it: over uvicorn, with a model that knows nothing."""

import os
import random
import signal
import time
import tomllib
from contextlib import ExitStack

import httpx
import pytest

import paths
from quota import Ledger, ManualClock, UsagePlan
from served import PATIENCE, Served
from servers import shared_store

HERE = paths.ROOT / "examples" / "llm_proxy"
LONG = 30_000
"""Tokens of an answer that is not read to its end."""


def serve(app, **environment):
    return Served(
        "uvicorn", f"{app}:app", "--app-dir", str(HERE), "--port", "0", ready="Application startup complete",
        workers=1, **environment,
    )  # fmt: skip


@pytest.fixture(params=["sqlite", "valkey"])
def store(request, tmp_path):
    """The URL of a store."""
    with shared_store(request.param, tmp_path) as url:
        yield url


class Proxy:
    """The proxy and its model, running, and two users of one team."""

    def __init__(self, store):
        self.ledger = Ledger(store)
        for name, plan in tomllib.loads((HERE / "plans.toml").read_text())["plans"].items():
            self.ledger.add_plan(UsagePlan(name, **plan))
        self.ledger.add_account("red")
        self.ledger.associate("red", "team")
        self.ada, self.ben = (
            self.ledger.issue_key(name, "user", account="red", id=name).secret for name in ("ada", "ben")
        )
        self.model = serve("model", MODEL_PACE="0")
        self.served = serve("main", QUOTA_STORE=store, MODEL_URL=self.model.url)
        self.client = httpx.Client(base_url=self.served.url, timeout=PATIENCE)

    def close(self):
        self.client.close()
        self.served.stop()
        self.model.stop()
        self.ledger.close()

    def ask(self, tokens, secret=None, **more):
        """The request of one call."""
        body = {"messages": [{"role": "user", "content": "say a word"}], "max_tokens": tokens, **more}
        return (
            "POST",
            "/v1/chat/completions",
            {"json": body, "headers": {"Authorization": f"Bearer {secret or self.ada}"}},
        )

    def call(self, tokens, secret=None, **more):
        method, path, rest = self.ask(tokens, secret, **more)
        return self.client.request(method, path, **rest)

    def stream(self, stack):
        """The lines of a long answer, as they come; it is cut as the stack ends, or the lines are dropped."""
        method, path, rest = self.ask(LONG, stream=True)
        return stack.enter_context(self.client.stream(method, path, **rest)).iter_lines()

    def tokens(self):
        return self.ledger.status("red")[0].used

    def in_flight(self, name="ada"):
        return self.ledger.status(name)[1].used

    def ends(self):
        """Wait until nobody is served any more."""
        until = time.monotonic() + PATIENCE
        while self.in_flight():
            assert time.monotonic() < until


@pytest.fixture
def proxy(store):
    with ExitStack() as stack:
        made = Proxy(store)
        stack.callback(made.close)
        yield made


def words(lines, number):
    """Read so many tokens of a stream; the rest of it."""
    while number:
        number -= "word" in next(lines)
    return lines


@pytest.mark.spread(2, 1)
def test_the_proxy(proxy, store):
    """Whole answers, cut ones, a sixth call, an empty budget, a model that is gone, a proxy that is killed."""
    usage = proxy.call(50).json()["usage"]
    assert proxy.tokens() == usage["total_tokens"] == 53
    whole = proxy.call(50, stream=True).text
    assert (proxy.in_flight(), proxy.tokens()) == (0, 106)  # free before the last byte
    assert whole.count("word ") == 50 and whole.endswith("data: [DONE]\n\n")
    assert proxy.call(0).status_code == 422
    assert proxy.call(1, secret="nobody").status_code == 403
    assert proxy.call(1, messages=[], stream=True).text.count("word ") == 1
    assert (proxy.in_flight(), proxy.tokens()) == (0, 107)

    for _ in range(3):
        read, before = random.randrange(1, 200), proxy.tokens()
        with ExitStack() as stack:
            words(proxy.stream(stack), read)
        proxy.ends()
        assert read <= proxy.tokens() - before < LONG // 2

    with ExitStack() as stack:
        five = [words(proxy.stream(stack), 1) for _ in range(5)]
        sixth = proxy.call(1)
        assert (sixth.status_code, sixth.headers["Retry-After"]) == (429, "1")
        assert sixth.json()["violated-policies"] == ["concurrency"]
        assert proxy.call(1, secret=proxy.ben).status_code == 200
        assert all("word" in next(lines) + next(lines) for lines in five)
    proxy.ends()

    proxy.ledger.set_remaining("red", "tokens/month", 40)
    over = proxy.call(50, secret=proxy.ben)
    assert (over.status_code, over.json()["violated-policies"]) == (429, ["red: tokens/month"])
    proxy.ledger.set_remaining("red", "tokens/month", 10 * LONG)

    before = proxy.tokens()
    with ExitStack() as stack:
        lines = words(proxy.stream(stack), 10)
        os.kill(proxy.served.process.pid, signal.SIGKILL)
        proxy.served.process.wait(PATIENCE)
        (left,) = proxy.ledger.list_reservations("ada")
        with pytest.raises(httpx.RemoteProtocolError):
            words(lines, LONG)
    spent = left.spent["tokens"]
    assert 10 <= spent < LONG
    with Ledger(store, clock=ManualClock(left.expires_at)) as later:
        assert later.status("ada")[1].used == 0
        assert later.status("red")[0].used == before + spent


def test_a_model_that_is_gone_costs_nothing(tmp_path):
    """The proxy says whose fault it is."""
    proxy = Proxy(f"sqlite:///{tmp_path / 'usage.db'}?durability=normal")
    proxy.model.process.kill()
    proxy.model.process.wait(PATIENCE)
    answers = [proxy.call(5, stream=stream) for stream in (False, True)]
    assert [answer.status_code for answer in answers] == [502, 502]
    assert "the model did not answer" in answers[0].json()["error"]["message"]
    assert (proxy.in_flight(), proxy.tokens(), proxy.ledger.status("ada")[0].used) == (0, 0, 0)
    proxy.close()
