"""People without a key, guesses, costs from bodies and answers of one's own: alike in front of WSGI, ASGI and FastAPI."""

import asyncio
import io
import json
import warnings
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI
from fastapi import Request as FastRequest
from fastapi.responses import PlainTextResponse
from hypothesis import given
from hypothesis import strategies as st

from interleavings import plant
from quota import AsyncLedger, Caller, Decision, InvalidValue, Reason, UsagePlan
from quota.asgi import QuotaMiddleware as InAsgi
from quota.fastapi import QuotaKey, Refused, refused
from quota.key import mint
from quota.stores.memory import MemoryStore
from quota.web import Anonymous, Answer
from quota.web.bodies import Body, Rest, read_input
from quota.web.gate import Gate
from quota.web.guesses import Guesses
from quota.wsgi import QuotaMiddleware as InWsgi
from web import Site, blocks, environ, ledger

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette prefers a later httpx for its test client, and works with this one
    from starlette.testclient import TestClient

KINDS = ("wsgi", "asgi", "fastapi")
ADDRESS = "203.0.113.7"


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


class Shop:
    """An application that answers with the body it received, behind one of the three; ``seen``: its decisions."""

    def __init__(self, kind, made, **settings):
        self.seen, settings = [], {"on_unavailable": "deny", **settings}
        self.kind = kind
        if kind == "wsgi":
            self.app = InWsgi(self.wsgi, made, **settings)
        elif kind == "asgi":
            self.app = InAsgi(self.asgi, made, **settings)
        else:
            self.app = FastAPI()
            self.app.add_exception_handler(Refused, refused)

            async def page(request: FastRequest, decision: Annotated[Decision, Depends(QuotaKey(made, **settings))]):
                self.seen.append(decision)
                return PlainTextResponse(await request.body())

            self.app.api_route("/", methods=["GET", "POST"])(page)

    def wsgi(self, request, start_response):
        self.seen.append(request["quota.decision"])
        source, parts = request["wsgi.input"], []
        while part := source.read(7):
            parts.append(part)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return parts

    async def asgi(self, scope, receive, send):
        self.seen.append(scope["state"]["quota"])
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    def __call__(self, key=None, peer=ADDRESS, forwarded=None, body=b"", method="GET"):
        """(status, headers in lower case, body) as the client of a server sees them."""
        fields = {
            name: value for name, value in (("x-api-key", key), ("x-forwarded-for", forwarded)) if value is not None
        }
        if self.kind == "wsgi":
            made = environ(method, headers=fields, **{"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))})
            made["REMOTE_ADDR"], told = peer or "", []
            parts = self.app(made, lambda status, headers, error=None: told.append((status, headers)))
            whole = b"".join(parts)
            return int(told[0][0][:3]), {name.lower(): value for name, value in told[0][1]}, whole
        client = TestClient(self.app, client=(peer, 1) if peer else None)
        answer = client.request(method, "/", headers=fields, content=body)
        return answer.status_code, dict(answer.headers), answer.content


def shop(kind, limits="3/day", **settings):
    """A shop, its ledger with a plan for whoever has no key (two a day), and a secret."""
    made, secret = ledger(limits)
    made.add_plan(UsagePlan("free", "2/day"))
    return Shop(kind, made, **settings), made, secret


# Without a key


def test_who_has_no_key_is_counted_by_address(kind):
    """Two a day for each address, with headers that tell it; a key is counted apart, a wrong one is refused."""
    site, _, secret = shop(kind, anonymous=Anonymous("free"))
    answers = [site() for _ in range(3)]
    assert [status for status, _, _ in answers] == [200, 200, 429]
    assert answers[1][1]["ratelimit"] == '"requests/day";r=0;t=43200' if kind != "fastapi" else True
    assert json.loads(answers[2][2])["violated-policies"] == ["requests/day"]
    assert site(peer="203.0.113.8")[0] == 200
    assert site(key=secret)[0] == 200
    assert site(key=mint(), peer="203.0.113.9")[0] == 403
    assert [decision.key and decision.key.name for decision in site.seen] == [None, None, None, "Key123"]
    assert {decision.plan.id for decision in site.seen} == {"free", "PlanA"}


def test_an_address_of_ipv6_is_its_network(kind):
    """The whole of a subscriber's network counts as one; forwarded addresses are those of trusted proxies."""
    site, _, _ = shop(kind, anonymous=Anonymous("free"), trusted_proxies=1)
    statuses = [site(forwarded=f"192.0.2.{n}, [2001:db8:1:2::{n}]:443")[0] for n in range(1, 4)]
    assert statuses == [200, 200, 429]
    assert site(forwarded="192.0.2.1, 2001:db8:1:3::1")[0] == 200


def test_there_is_never_one_bucket_for_all(kind, caplog):
    """Where no address is known (a proxy that tells none, garbage) the answer is as to any request without a key."""
    site, _, _ = shop(kind, anonymous=Anonymous("free"), trusted_proxies=1)
    plain = shop(kind)[0]()
    for forwarded in (None, "", "unknown", "192.0.2.1, garbage"):
        assert site(forwarded=forwarded)[::2] == plain[::2]
    assert plain[0] == 403 and site.seen == []
    assert "without a known address" in caplog.text


def test_counted_by_a_name_of_one_s_own(kind):
    """``by`` names whoever asks; None is nobody."""
    names = iter(["ann", "ann", "bob", "ann", None])
    site, _, _ = shop(kind, anonymous=Anonymous("free", by=lambda request: next(names)))
    assert [site()[0] for _ in range(5)] == [200, 200, 200, 429, 403]


def test_counted_under_a_plan_of_one_s_own(kind):
    """``by`` may give a caller of another plan; a plan that is not there admits nobody."""
    callers = iter([Caller("wide", "ann"), Caller("wide", "ann"), Caller("wide", "ann"), Caller("none", "ann"), "ann"])
    site, made, _ = shop(kind, anonymous=Anonymous("free", by=lambda request: next(callers)))
    made.add_plan(UsagePlan("wide", "3/day"))
    assert [site()[0] for _ in range(5)] == [200, 200, 200, 403, 200]


@pytest.mark.parametrize("charge", ["success", "response"])
@pytest.mark.parametrize("kind", KINDS[:2])
def test_what_is_held_for_a_caller_is_settled(kind, charge):
    """A failure gives back what it held, a success keeps it: of an address as of a key."""
    made, _ = ledger()
    made.add_plan(UsagePlan("free", "2/day"))
    site = Site(status=500)
    app = (InWsgi if kind == "wsgi" else InAsgi)(
        getattr(site, kind), made, on_unavailable="deny", anonymous=Anonymous("free"), charge=charge
    )
    from web import asgi, wsgi

    serve = wsgi if kind == "wsgi" else asgi
    more = {"REMOTE_ADDR": ADDRESS} if kind == "wsgi" else {"client": (ADDRESS, 1)}
    assert [serve(app, **more).status for _ in range(4)] == [500] * 4
    site.status = 200
    assert [serve(app, **more).status for _ in range(3)] == [200, 200, 429]


def test_an_awaited_ledger_counts_callers():
    """By an ``AsyncLedger`` as by a ``Ledger``."""
    made = AsyncLedger(clock=ledger()[0]._clock)
    asyncio.run(made.add_plan(UsagePlan("free", "2/day")))
    site = Shop("asgi", made, anonymous=Anonymous("free"))
    assert [site()[0] for _ in range(3)] == [200, 200, 429]


def test_a_flood_of_addresses_takes_no_more_memory():
    """With ten times as many addresses as are counted one by one, memory is what it was; the valid key is served."""
    made, secret = ledger("1000000/day")
    made.store._most_callers = 16
    made.add_plan(UsagePlan("free", "2/day"))
    site = Shop("wsgi", made, anonymous=Anonymous("free"), failed_keys="5/minute", trusted_proxies=1)
    site._guesses = site.app.gate._guesses
    site._guesses._ledger.store._most_callers = 16

    def flood(first, last):
        for number in range(first, last):
            site(forwarded=f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}")
            site(forwarded=f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", key=f"{number:030}")
        site.seen.clear()

    flood(0, 5_500)  # what is remembered of the last ones is full
    before = blocks()
    flood(5_500, 6_500)
    assert blocks() - before < 1_000  # something that is kept of each would be 2,000
    assert site(key=secret, forwarded=ADDRESS)[0] == 200


@pytest.mark.parametrize(
    ("addresses", "most"), [(9_000, 1024), pytest.param(1_000_000, 65_536, marks=pytest.mark.slow)]
)
def test_any_number_of_addresses(addresses, most):
    """Of those that come once, each is served within its limit or its shared one; nothing stays of them, the key is served."""
    made, secret = ledger("9/day", store=MemoryStore(most_callers=most))
    made.add_plan(UsagePlan("free", "1000000/day"))
    app = InWsgi(
        lambda request, start: (start("200 OK", []), [b""])[1], made, on_unavailable="deny", anonymous=Anonymous("free")
    )
    asked, statuses = environ(), set()

    def flood(numbers):
        for number in numbers:
            asked["REMOTE_ADDR"] = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
            app(dict(asked), lambda status, headers, error=None: statuses.add(status[:3]))

    for number in range(addresses - 100_000):  # the middleware takes its time
        made.consume(Caller("free", f"a {number}"))
    flood(range(max(0, addresses - 100_000), addresses - 4_000))  # what is remembered of the last ones is full
    before = blocks()
    flood(range(addresses - 4_000, addresses))
    assert statuses == {"200"}
    assert blocks() - before < 2_000  # one block for each would be 4,000, and a record is several
    asked["HTTP_X_API_KEY"] = secret
    flood([1])
    assert made.peek(secret).limits[0].used == 2


def test_networks_of_a_key_bind(kind):
    """A key is good from its networks alone, by the address that a trusted proxy tells; refused as no key at all."""
    site, made, secret = shop(kind, trusted_proxies=1)
    made.update_key(made.list_keys()[0], networks=["203.0.113.0/24"])
    assert [site(key=secret, forwarded=f"203.0.113.9, {address}")[0] for address in (ADDRESS, "192.0.2.1")] == [
        200,
        403,
    ]
    assert site(key=secret) == site(key=mint())
    assert site(key=secret, forwarded=ADDRESS)[0] == 200


# Guesses


def test_guesses_of_an_address_are_counted_and_a_valid_key_is_never_refused_for_them(kind):
    """Three wrong keys a minute, then 429 with no look at the plan; the same address with a key is served throughout."""
    site, made, secret = shop(kind, "100/day", failed_keys="3/minute")
    for number in range(8):
        status, headers, body = site(key=mint())
        assert status == (403 if number < 3 else 429)
        assert site(key=secret)[0] == 200
    assert json.loads(body)["violated-policies"] == ["failed keys"]
    assert headers["retry-after"] == "60"
    assert site(key=mint(), peer="203.0.113.8")[0] == 403
    assert site()[0] == 403
    made._clock.advance(60_000_000)
    assert site(key=mint())[0] == 403


def test_guesses_from_no_known_address_are_counted_together(kind):
    """Whoever forges a header so that its address is not known guesses no more than others; a valid key is served."""
    site, made, secret = shop(kind, "100/day", failed_keys="3/minute", trusted_proxies=1)
    forged = ["garbage", "", None, "unknown", "192.0.2.1, [::"]
    assert [site(key=mint(), forwarded=told)[0] for told in forged] == [403, 403, 403, 429, 429]
    assert site(key=mint(), forwarded=ADDRESS)[0] == 403
    assert [site(key=secret, forwarded=told)[0] for told in forged] == [200] * 5


def test_what_is_no_guess_is_not_counted(kind):
    """A disabled key, one that is used up, and no key at all are refused as ever; a report tells the guesses."""
    told = []
    site, made, secret = shop(
        kind, "1/day", failed_keys="1/day", report=lambda decision, request: told.append(decision)
    )
    assert [site(key=secret)[0] for _ in range(4)] == [200, 429, 429, 429]
    made.disable_key(made.list_keys()[0])
    assert [site(key=secret)[0] for _ in range(3)] == [403] * 3
    assert [site()[0] for _ in range(3)] == [403] * 3
    assert [site(key=mint())[0] for _ in range(2)] == [403, 429]
    last = told[-1]
    assert (last.reason, last.violated, last.key, last.plan) == (Reason.THROTTLED, ("failed keys",), None, None)


@pytest.mark.parametrize(
    ("owner", "name", "old", "new"),
    [
        (Gate, "judged", "decision.reason is not Reason.UNKNOWN_KEY", "False"),
        (Gate, "judged", "if refused is None else refused", ""),
        (Guesses, "count", "Caller(FAILED, address)", 'Caller(FAILED, "all")'),
    ],
)
def test_planted_guesses(monkeypatch, owner, name, old, new):
    """Counting every refusal, serving no other answer, one bucket for all: each is seen."""

    def well():
        try:
            test_what_is_no_guess_is_not_counted("wsgi")
            test_guesses_of_an_address_are_counted_and_a_valid_key_is_never_refused_for_them("wsgi")
        except Exception:
            return False
        return True

    assert well()
    plant(monkeypatch, owner, name, {old: new})
    assert not well()


# Costs from bodies


def by_length(body):
    return len(body)


@given(
    body=st.binary(min_size=1, max_size=200), most=st.integers(1, 250), sizes=st.lists(st.integers(1, 50), min_size=1, max_size=5),
    known=st.booleans(),
)  # fmt: skip
def test_a_wsgi_input_is_handed_on_whole(body, most, sizes, known):
    """Whatever was read of it, and however the application reads it: with a length, or one that ends by itself."""

    class Reluctant(io.BytesIO):
        def read(self, size=-1):
            assert not known or 0 <= size <= len(body) - self.tell(), "it would wait for ever"
            return super().read(min(size, 3) if size > 0 else size)

    made = {
        "wsgi.input": Reluctant(body),
        **({"CONTENT_LENGTH": str(len(body))} if known else {"wsgi.input_terminated": True}),
    }
    assert read_input(made, most) == body[:most]
    found, place = [], 0
    while part := made["wsgi.input"].read(sizes[place % len(sizes)]):
        found.append(part)
        place += 1
    assert b"".join(found) == body
    made = {"wsgi.input": io.BytesIO(body + b"more"), "CONTENT_LENGTH": str(len(body))}
    read_input(made, most)
    assert list(made["wsgi.input"]) == io.BytesIO(body).readlines()


@given(chunks=st.lists(st.binary(max_size=20), min_size=1, max_size=10), most=st.integers(1, 100), leaves=st.booleans())
def test_an_asgi_body_is_received_whole(chunks, most, leaves):
    """The application receives the same messages, in order, one that the client is gone included."""
    sent = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if leaves:
        sent.append({"type": "http.disconnect"})
    else:
        sent[-1] = {"type": "http.request", "body": chunks[-1]}
    waiting = list(sent)

    async def receive():
        return waiting.pop(0)

    async def play():
        body = Body(receive, most)
        assert await body.read() == b"".join(chunks)[:most]
        assert [await body.receive() for _ in sent] == sent

    asyncio.run(play())


def test_the_body_says_what_a_request_costs(kind):
    """Its first bytes are given where it is longer; the application gets it whole; none costs what the plan says."""
    site, _, secret = shop(kind, "100/day", cost_from_body=by_length, most_body=50)
    for body, cost in ((b"x" * 7, 7), (b"x" * 50, 50), (b"x" * 20_000, 50)):
        status, _, returned = site(key=secret, body=body, method="POST")
        if status == 200:
            assert returned == body
            assert site.seen[-1].cost == cost
    assert status == 429
    assert site(key=secret, method="POST")[0] == 200
    assert site.seen[-1].cost == 1


def test_a_body_is_read_for_who_has_a_key(kind):
    """Nobody's body is read who presents none; None leaves the cost to the other settings."""
    read = []
    site, _, secret = shop(kind, "100/day", cost_from_body=lambda body: read.append(body), cost=5)
    assert site(body=b"abc", method="POST")[0] == 403
    assert read == []
    assert site(key=secret, body=b"abc", method="POST")[2] == b"abc"
    assert (read, site.seen[-1].cost) == ([b"abc"], 5)


def test_a_body_that_is_read_already_costs_what_the_plan_says():
    """What was read as a stream, as a form is, is there no more: nothing fails."""
    made, secret = ledger("100/day")
    app = FastAPI()

    async def form(request: FastRequest):
        return [chunk async for chunk in request.stream()]

    counted = Depends(QuotaKey(made, on_unavailable="deny", cost_from_body=by_length))

    @app.post("/")
    async def page(read: Annotated[list, Depends(form)], decision: Annotated[Decision, counted]):
        return {"read": len(b"".join(read)), "cost": decision.cost}

    answer = TestClient(app).post("/", content=b"name=ann", headers={"x-api-key": secret})
    assert answer.json() == {"read": 8, "cost": 1}


def test_planted_readings(monkeypatch):
    """A rest that is read past its length, and a first part that is lost, are seen."""
    plant(monkeypatch, Rest, "readinto", {"min(len(buffer), self._left)": "len(buffer)"})
    with pytest.raises(AssertionError, match="wait for ever"):
        test_a_wsgi_input_is_handed_on_whole.hypothesis.inner_test(b"x" * 30, 5, [7], known=True)
    monkeypatch.undo()
    plant(monkeypatch, Body, "receive", {"if self._messages": "if self._messages.clear() or self._messages"})
    with pytest.raises(IndexError):
        test_an_asgi_body_is_received_whole.hypothesis.inner_test([b"a"], 5, leaves=False)


# Answers of one's own


def test_an_answer_of_one_s_own(kind):
    """``refuse`` sees every refusal with its request; None leaves the usual answer."""

    def refuse(decision, request):
        if decision.status == 403:
            return None
        return Answer(503, [("Content-Type", "text/html"), ("Content-Length", "1")], b"<p>Later.")

    site, _, secret = shop(kind, "1/day", refuse=refuse)
    assert site(key=secret)[0] == 200
    status, headers, body = site(key=secret)
    assert (status, headers["content-type"], headers["content-length"], body) == (503, "text/html", "9", b"<p>Later.")
    assert site()[0] == 403 and json.loads(site()[2])["title"] == "Forbidden"


def test_a_refuse_that_returns_something_else_is_an_error(kind):
    """Nothing else is sent to a client by mistake."""
    site, _, _ = shop(kind, refuse=lambda decision, request: "no")
    with pytest.raises(InvalidValue, match="an Answer"):
        site()


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("x-api-key", 'ApiKey in="header", name="x-api-key"'),
        ("authorization", "Bearer"),
        (("authorization", "?key"), 'Bearer, ApiKey in="query", name="key"'),
        (lambda request: None, "ApiKey"),
    ],
)
def test_unauthorized(kind, key, told):
    """401 with a challenge, the same for no key, a wrong one and a disabled one; 429 stays what it is."""
    site, _, _ = shop(kind, key=key, unauthorized=401)
    status, headers, body = site()
    assert (status, headers["www-authenticate"]) == (401, told)
    problem = json.loads(body)
    assert (problem["status"], problem["title"]) == (401, "Unauthorized")
    assert headers["content-length"] == str(len(body))
    assert site(key=mint()) == site()


def test_unauthorized_as_api_gateway_writes_it(kind):
    """Its word for 401."""
    site, _, _ = shop(kind, style="api_gateway", unauthorized=401)
    status, headers, body = site()
    assert (status, headers["x-amzn-errortype"], body) == (401, "UnauthorizedException", b'{"message":"Unauthorized"}')


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("anonymous", "free"), ("anonymous", True), ("trusted_proxies", -1), ("trusted_proxies", "everybody"),
        ("failed_keys", 20), ("failed_keys", "1/s, 2/day"), ("failed_keys", ""), ("failed_keys", "5 tokens/day"), ("failed_keys", "20 a minute"),
        ("cost_from_body", 1), ("cost_from_body", Body.read), ("most_body", 0), ("most_body", 1.5), ("refuse", "no"),
        ("refuse", Body.read), ("unauthorized", 402), ("unauthorized", True),
    ],
)  # fmt: skip
def test_setting_invalid(field, value):
    """A setting that cannot be meant is refused when the middleware is made."""
    with pytest.raises(InvalidValue) as error:
        Gate(**{"on_unavailable": "deny", field: value})
    assert error.value.field == field
