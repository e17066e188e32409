"""What the WSGI and the ASGI middleware both do, request by request, and that they do it alike."""

from __future__ import annotations

import json
from datetime import timedelta
from statistics import median
from time import perf_counter_ns

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quota import InvalidCost, Ledger, Reason, StoreBusy, StoreUnavailable, UsagePlan
from quota.errors import ClockSkew, InvalidValue
from quota.key import mint
from quota.web.sources import UNKNOWN
from web import NOON, Boom, Front, Site, blocks, ledger

KINDS = ("wsgi", "asgi")


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def made():
    return ledger()


def used(made, secret):
    """How many units every quota has counted today, by name."""
    return {record.limit: record.used for record in made.usage(made.peek(secret).key)}


# The walk-through


def test_exactly_the_limit(kind, made):
    """Requests up to the limit reach the application with headers; the next is refused and counts nothing."""
    front = Front(kind, Site(), made[0])
    for number in (2, 1, 0):
        answer = front(headers={"x-api-key": made[1]})
        assert (answer.status, answer.body) == (200, b"hi")
        assert answer["RateLimit"] == f'"requests/day";r={number};t=43200'
        assert answer["RateLimit-Policy"] == '"requests/day";q=3;w=86400'
        assert "Retry-After" not in answer and "Cache-Control" not in answer
    answer = front(headers={"x-api-key": made[1]})
    assert answer.status == 429
    assert answer["Content-Type"] == "application/problem+json"
    assert answer["Cache-Control"] == "no-store"
    assert answer["Retry-After"] == "43200"
    assert json.loads(answer.body)["violated-policies"] == ["requests/day"]
    assert len(front.site.seen) == 3
    assert used(*made) == {"requests/day": 3}


@pytest.mark.parametrize(
    "presented", [None, "", "short", mint(), UNKNOWN], ids=["none", "empty", "short", "minted", "mistyped"]
)
def test_no_usable_key(kind, made, presented):
    """Without a usable key the answer is 403, the same for all, and the application is not asked."""
    front = Front(kind, Site(), made[0])
    answer = front(headers={} if presented is None else {"x-api-key": presented})
    assert answer.whole == front().whole
    assert answer.status == 403
    assert "RateLimit" not in answer
    assert front.site.seen == []


def test_the_application_is_told(kind, made):
    """The application finds the decision, with key and plan, where its standard keeps such things."""
    front = Front(kind, Site(), made[0])
    front(headers={"x-api-key": made[1]})
    assert front.site.decision.allowed
    assert front.site.decision.key.name == "Key123"
    assert front.site.decision.plan.id == "PlanA"


def test_api_gateway_style(kind, made):
    """Opted in, refusals are API Gateway's byte for byte."""
    front = Front(kind, Site(), made[0], style="api_gateway")
    answer = front()
    assert (answer.status, answer.body, answer["x-amzn-ErrorType"]) == (
        403,
        b'{"message":"Forbidden"}',
        "ForbiddenException",
    )
    for _ in range(3):
        front(headers={"x-api-key": made[1]})
    answer = front(headers={"x-api-key": made[1]})
    assert (answer.status, answer.body) == (429, b'{"message":"Limit Exceeded"}')
    assert answer["x-amzn-ErrorType"] == "LimitExceededException"


def test_head(kind, made):
    """HEAD is charged as GET is, and its refusal has GET's headers and no body."""
    front = Front(kind, Site(chunks=()), made[0])
    for _ in range(3):
        assert front("HEAD", headers={"x-api-key": made[1]}).status == 200
    head, full = front("HEAD", headers={"x-api-key": made[1]}), front("GET", headers={"x-api-key": made[1]})
    assert head.body == b""
    assert head.whole[:2] == full.whole[:2]


def test_responses_of_an_api_behind(kind, made):
    """Limits that an API behind this one tells are replaced by ours, and not told twice."""
    fields = (("Content-Type", "text/plain"), ("ratelimit", '"theirs";r=1'), ("X-Other", "1"))
    answer = Front(kind, Site(fields=fields), made[0])(headers={"x-api-key": made[1]})
    assert answer["RateLimit"].startswith('"requests/day"')
    assert answer["X-Other"] == "1"


def test_no_headers(kind, made):
    """Headers can be left out."""
    answer = Front(kind, Site(), made[0], profile=None)(headers={"x-api-key": made[1]})
    assert answer.whole == (200, [("content-type", "text/plain")], b"hi")


# Where the key is


@pytest.mark.parametrize(
    ("source", "fields", "query", "seen"),
    [
        ("X-API-Key", {"X-Api-Key": "{}"}, "a=1", ("****{}", None, "a=1")),
        ("authorization", {"Authorization": "Bearer {}"}, "", (None, "****{}", "")),
        ("?key", {}, "a=1&key={}&b=2", (None, None, "a=1&key=****{}&b=2")),
        (("x-api-key", "?key"), {}, "key={}", (None, None, "key=****{}")),
    ],
)
def test_sources(kind, made, source, fields, query, seen):
    """The key is found where it was said to be, and the application and the logs see four characters of it."""
    front = Front(kind, Site(), made[0], key=source)
    secret = made[1]
    answer = front(headers={name: value.format(secret) for name, value in fields.items()}, query=query.format(secret))
    assert answer.status == 200
    assert front.visible() == tuple(text and text.format(secret[-4:]) for text in seen)


@pytest.mark.parametrize("header", [True, False])
def test_every_parameter_is_hidden(kind, made, header):
    """A parameter that keys may come in is hidden wherever the key was found: URLs are what servers log."""
    front = Front(kind, Site(), made[0], key=("x-api-key", "?key", "?token"))
    secret, other = made[1], mint()
    front(headers={"x-api-key": secret} if header else {}, query=f"a=1&key={secret}&token={other}&c=3")
    shown = f"****{secret[-4:]}"
    expected = (shown, "a=1&key=****&token=****&c=3") if header else (None, f"a=1&key={shown}&token=****&c=3")
    assert front.visible()[::2] == expected


def test_what_is_shown_stays_one_parameter(kind, made):
    """The last four characters of a key cannot end its parameter and begin another."""
    secret = made[0].import_key("imported-from-elsewhere&b=", "K", "PlanA").secret
    front = Front(kind, Site(), made[0], key="?key")
    assert front(query="key=imported-from-elsewhere%26b%3D").status == 200
    assert front.visible()[2] == "key=****e%26b%3D"
    assert secret not in str(front.site.seen[-1][1])


def test_not_redacted(kind, made):
    """An application that needs the secret can be left it."""
    front = Front(kind, Site(), made[0], key=("x-api-key", "?key"), redact=False)
    front(headers={"x-api-key": made[1]})
    assert front.visible()[0] == made[1]
    front(query=f"key={made[1]}")
    assert front.visible()[2] == f"key={made[1]}"


def test_key_from_a_callable(kind, made):
    """A callable may find the key, or say whose request it is, authenticated already."""
    key = made[0].list_keys()[0]
    for found, status in ((made[1], 200), (key, 200), (None, 403)):
        assert Front(kind, Site(), made[0], key=lambda request, found=found: found)().status == status


def test_doubled_key(kind, made):
    """A key sent twice is one unknown key, not an error, and neither is charged."""
    front = Front(kind, Site(), made[0])
    for other in (made[1], mint(), ""):
        assert front(headers=[("x-api-key", made[1]), ("x-api-key", other)]).status == 403
    assert used(*made) == {"requests/day": 0}


# Costs and routes


def test_costs(kind):
    """A request costs what the plan says of its route, what is fixed, or what a callable says."""
    made, secret = ledger("100/day", costs={"GET /export": 10})
    headers = {"x-api-key": secret}
    front = Front(kind, Site(), made)
    front(path="/export", headers=headers)
    front("HEAD", "/export", headers=headers)
    front(path="/other", headers=headers)
    assert used(made, secret) == {"requests/day": 21}
    Front(kind, Site(), made, cost=5)(path="/export", headers=headers)
    assert used(made, secret) == {"requests/day": 26}
    front = Front(kind, Site(), made, cost=lambda request: None if "export" in str(request) else 3)
    front(path="/export", headers=headers)
    front(path="/other", headers=headers)
    assert used(made, secret) == {"requests/day": 39}


@pytest.mark.parametrize("name", ["key", "route", "cost", "exempt", "success"])
def test_callable_that_raises(kind, made, name):
    """A callable that raises is the application's error, which the server sees; nothing is charged or stays held."""

    def broken(*_):
        raise Boom

    front = Front(kind, Site(), made[0], charge="success", **{name: broken})
    with pytest.raises(Boom):
        front(headers={"x-api-key": made[1]})
    assert used(*made) == {"requests/day": 0}


@pytest.mark.parametrize("cost", [0, -1, 1.5, "3", {}, 2**53])
def test_cost_that_is_none(kind, made, cost):
    """A callable whose cost is none is the application's error too, never a free request."""
    front = Front(kind, Site(), made[0], cost=lambda request: cost)
    with pytest.raises(InvalidCost):
        front(headers={"x-api-key": made[1]})
    assert front.site.seen == []
    assert used(*made) == {"requests/day": 0}


def test_route_limits(kind):
    """A route's own limit refuses that route alone, however it is asked for."""
    made, secret = ledger("100/day", routes={"GET /export": "1/hour as exports"})
    front = Front(kind, Site(), made)
    headers = {"x-api-key": secret}
    statuses = [front(method, path, headers).status for method, path in (
        ("GET", "/export"), ("GET", "/export"), ("HEAD", "/export"), ("POST", "/export"), ("GET", "/"))]  # fmt: skip
    assert statuses == [200, 429, 429, 200, 200]


def test_apis(kind):
    """One ledger stands in front of several APIs, each with its plan."""
    made, secret = ledger("1/day", api="pets")
    assert Front(kind, Site(), made, api="pets")(headers={"x-api-key": secret}).status == 200
    assert Front(kind, Site(), made, api="pets")(headers={"x-api-key": secret}).status == 429
    assert Front(kind, Site(), made)(headers={"x-api-key": secret}).status == 403


# Exempt, shadow, unavailable


def test_exempt(kind, made):
    """What is exempt passes without a key, uncounted and without headers."""
    front = Front(kind, Site(), made[0], exempt=["/health"])
    answer = front(path="/health", headers={"x-api-key": made[1]})
    assert answer.whole == (200, [("content-type", "text/plain")], b"hi")
    assert front.site.decision is None
    assert front.visible()[0] == made[1]
    assert used(*made) == {"requests/day": 0}


def test_exempt_root(kind, made):
    """The root of an application is exempt as "/" where it is mounted, too: its path is empty there."""
    front = Front(kind, Site(), made[0], exempt="/")
    mounted = {"path": "", "SCRIPT_NAME": "/api"} if kind == "wsgi" else {"path": "/api", "root_path": "/api"}
    assert front(**mounted).status == 200


@pytest.mark.parametrize("method", ["GET", "get", "Head"])
def test_methods_in_any_case(kind, method):
    """Flask and Django serve "get" as GET, so it is counted as GET: no limit of a route is got around."""
    made, secret = ledger("9/day", routes={"GET /export": "1/day as exports"})
    front = Front(kind, Site(), made)
    headers = {"x-api-key": secret}
    assert front("GET", "/export", headers).status == 200
    answer = front(method, "/export", headers, **({"check": False} if kind == "wsgi" else {}))
    assert answer.status == 429
    assert bool(answer.body) == (method != "Head")


def test_shadow(kind, made):
    """In shadow mode everything is decided, counted and reported, and nothing refused."""
    reported = []
    front = Front(kind, Site(), made[0], shadow=True, report=lambda decision, request: reported.append(decision.reason))
    answers = [front(headers={"x-api-key": made[1]}) for _ in range(4)] + [front()]
    assert [answer.status for answer in answers] == [200] * 5
    assert reported == [Reason.OK] * 3 + [Reason.QUOTA_EXCEEDED, Reason.MISSING_KEY]
    assert [decision.allowed for decision, _ in front.site.seen] == [True] * 3 + [False] * 2
    assert answers[3]["RateLimit"] == '"requests/day";r=0;t=43200'
    assert "Retry-After" not in answers[3]


@pytest.mark.parametrize("charge", ["arrival", "success", "response"])
def test_shadow_holds_nothing_it_was_refused(kind, made, charge):
    """In shadow mode a refused hold is not settled, and not an error."""
    front = Front(kind, Site(actual=1), made[0], shadow=True, charge=charge)
    assert [front(headers={"x-api-key": made[1]}).status for _ in range(5)] == [200] * 5
    assert used(*made) == {"requests/day": 3}


@pytest.mark.parametrize("charge", ["arrival", "success"])
@pytest.mark.parametrize("error", [StoreUnavailable("gone"), StoreBusy("busy"), ClockSkew(1, 2)])
@pytest.mark.parametrize(("stated", "status"), [("deny", 503), ("allow", 200)])
def test_unavailable(kind, made, charge, error, stated, status, monkeypatch):
    """When the ledger cannot decide, what was stated holds, and the application can see it."""

    def broken(request):
        raise error

    front = Front(kind, Site(), made[0], on_unavailable=stated, charge=charge, cost={"requests": 1})
    monkeypatch.setattr(made[0].store, "apply", broken)  # asked for a key's first call
    answer = front(headers={"x-api-key": made[1]})
    assert answer.status == status
    if status == 503:
        assert json.loads(answer.body)["type"].endswith("#temporary-reduced-capacity")
        assert answer["Cache-Control"] == "no-store"
    else:
        assert front.site.decision.reason is Reason.STORE_UNAVAILABLE


def test_ledger_that_decides_itself(kind, monkeypatch):
    """A ledger that was told what to do without its store is left to it, holds included."""
    made = Ledger(on_unavailable="allow")
    monkeypatch.setattr(made.store, "apply", lambda request: (_ for _ in ()).throw(StoreUnavailable("gone")))
    front = Front(kind, Site(), made, charge="success")
    assert front(headers={"x-api-key": mint()}).status == 200


def test_ledger_of_the_wrong_kind(kind):
    """A ledger that is none is refused when the middleware is made."""
    with pytest.raises(InvalidValue) as caught:
        Front(kind, Site(), "sqlite:///usage.db")
    assert caught.value.field == "ledger"


# Charging by the response


@pytest.mark.parametrize(("status", "kept"), [(200, 1), (204, 1), (302, 1), (400, 0), (404, 0), (500, 0)])
def test_success_only(kind, made, status, kept):
    """Charging successes, a failure gives back what it held."""
    fields = () if status == 204 else (("Content-Type", "text/plain"),)
    front = Front(
        kind, Site(status=status, fields=fields, chunks=() if status == 204 else (b"hi",)), made[0], charge="success"
    )
    answer = front(headers={"x-api-key": made[1]})
    assert answer.status == status
    assert answer["RateLimit"] == '"requests/day";r=2;t=43200'
    assert used(*made) == {"requests/day": kept}
    assert made[0].peek(made[1]).limits[0].remaining == 2 - kept


@pytest.mark.parametrize("charge", ["success", "response"])
@pytest.mark.parametrize("raises", ["before", "during"])
def test_exceptions_give_back(kind, made, charge, raises):
    """An application that raises, before its response or in the middle of it, is not charged for; the error goes on."""
    front = Front(kind, Site(raises=raises), made[0], charge=charge)
    for _ in range(5):
        with pytest.raises(Boom):
            front(headers={"x-api-key": made[1]})
    assert used(*made) == {"requests/day": 0}


def test_exceptions_on_arrival(kind, made):
    """Charged on arrival, an error of the application is charged as API Gateway charges a failing backend."""
    front = Front(kind, Site(raises="before"), made[0])
    with pytest.raises(Boom):
        front(headers={"x-api-key": made[1]})
    assert used(*made) == {"requests/day": 1}


@pytest.mark.parametrize("read", [1, 2])
def test_disconnect_in_the_middle(kind, made, read):
    """A client that goes away in the middle of a success has had it: it is charged."""
    front = Front(kind, Site(chunks=(b"a", b"b", b"c"), raises="never"), made[0], charge="success")
    if kind == "wsgi":
        front(headers={"x-api-key": made[1]}, read=read)
    else:
        with pytest.raises(OSError, match="gone"):
            front(headers={"x-api-key": made[1]}, broken_pipe=1 + read)
    assert used(*made) == {"requests/day": 1}


@pytest.mark.parametrize(("actual", "counted"), [(7, 7), (0, 0), (250, 250), ({"requests": 2}, 2), (None, 10)])
def test_actual_usage(kind, actual, counted):
    """What the response turns out to have used is charged: less, nothing, more than the limit, or what was held."""
    made, secret = ledger("100/day")
    reported = []
    front = Front(kind, Site(actual=actual), made, charge="response", cost=10,
                  report=lambda decision, request: reported.append(decision))  # fmt: skip
    assert front(headers={"x-api-key": secret})["RateLimit"] == '"requests/day";r=90;t=43200'
    assert used(made, secret) == {"requests/day": counted}
    assert len(reported) == 2
    assert reported[1].limits[0].used == counted


def test_actual_tokens(kind):
    """An LLM proxy holds an estimate of tokens and commits what the answer took; the next sees what is left."""
    made, secret = ledger("1000 tokens/day as tokens, 100/day as calls")
    front = Front(kind, Site(actual={"tokens": 642, "requests": 1}), made, charge="response",
                  cost={"tokens": 800, "requests": 1})  # fmt: skip
    assert front(headers={"x-api-key": secret}).status == 200
    assert used(made, secret) == {"tokens": 642, "calls": 1}
    assert front(headers={"x-api-key": secret}).status == 429


@pytest.mark.parametrize("how", ["said", "called"])
def test_actual_that_cannot_be_committed(kind, how, caplog):
    """A bare number counts requests, and tokens were held: what was held is kept, the response is not free."""
    made, secret = ledger("1000 tokens/day as tokens, 100/day as calls")
    settings = {"actual": lambda request: 642} if how == "called" else {}
    front = Front(kind, Site(actual=642 if how == "said" else None), made, charge="response",
                  cost={"tokens": 800, "requests": 1}, **settings)  # fmt: skip
    assert front(headers={"x-api-key": secret}).status == 200
    assert used(made, secret) == {"tokens": 800, "calls": 1}
    made._clock.advance(timedelta(hours=2))
    assert used(made, secret) == {"tokens": 800, "calls": 1}
    assert "keeping what was held" in caplog.text


def test_actual_from_a_callable(kind):
    """A callable may work out what was used, at the end of the response."""
    made, secret = ledger("100/day")
    front = Front(kind, Site(), made, charge="response", actual=lambda request: 42)
    front(headers={"x-api-key": secret})
    assert used(made, secret) == {"requests/day": 42}


@pytest.mark.parametrize("at", [1, 2])
def test_report_that_raises(kind, at, caplog):
    """Metrics that fail are logged: the request is served all the same, and what it held is settled."""
    made, secret = ledger("3/day")
    calls = []

    def report(decision, request):
        calls.append(decision)
        if len(calls) == at:
            raise ZeroDivisionError

    front = Front(kind, Site(status=404), made, charge="response", report=report)
    assert front(headers={"x-api-key": secret}).status == 404
    front.site.status = 200
    assert front(headers={"x-api-key": secret}).status == 200
    assert used(made, secret) == {"requests/day": 1}
    assert len(calls) == 3
    assert "ZeroDivisionError" in caplog.text


def test_held_while_it_runs(kind):
    """While a response is under way its units are held: others cannot take them."""
    made, secret = ledger("1/day")
    inside = []
    site = Site()
    front = Front(kind, site, made, charge="success")
    original = site._chunks

    def chunks():
        inside.append(made.peek(secret).allowed)
        yield from original()

    site._chunks, site.raises = chunks, "never"
    if kind == "asgi":
        app = front.app.app

        async def during(scope, receive, send):
            inside.append(made.peek(secret).allowed)
            await app(scope, receive, send)

        front.app.app = during
    front(headers={"x-api-key": secret})
    assert inside == [False]


def test_commit_that_fails_is_logged(kind, made, caplog, monkeypatch):
    """A store that goes away before the commit is logged; the response has gone out and stays a success."""
    front = Front(kind, Site(), made[0], charge="success")
    apply = made[0].store.apply

    def broken(request):
        if request.op == "commit":
            raise StoreUnavailable("gone")
        return apply(request)

    monkeypatch.setattr(made[0].store, "apply", broken)
    assert front(headers={"x-api-key": made[1]}).status == 200
    assert "could not be settled" in caplog.text


def test_late_commit(kind, made):
    """A response that ends after its hold has lapsed is charged all the same."""
    made, secret = ledger("3/day")
    site = Site()
    front = Front(kind, site, made, charge="success", ttl=1)
    site.seen = type("Late", (list,), {"append": lambda self, item: made._clock.advance(5)})()
    front(headers={"x-api-key": secret})
    assert used(made, secret) == {"requests/day": 1}


# Hostile input

texts = st.text(st.characters(max_codepoint=255), max_size=60)
hostile = st.one_of(
    texts,
    st.sampled_from(["\x00", "a" * 1_000_000, "é" * 40, "\xff" * 30, "Bearer " + "\x00" * 40, "Bearer", ", ," * 20]),
)


@given(
    st.sampled_from(KINDS),
    st.lists(st.tuples(st.sampled_from(["x-api-key", "authorization", "x-other"]), hostile), max_size=4),
    st.text(st.characters(max_codepoint=255, exclude_categories=["Cs"]), max_size=40),
    st.sampled_from(["GET", "HEAD", "OPTIONS", "POST", "BREW", "x" * 2000]),
    texts,
)
def test_hostile_requests(kind, headers, path, method, query):
    """No header, path, method or query raises anything, none of it passes, and nothing is counted."""
    made, secret = ledger()
    front = Front(kind, Site(), made, key=("x-api-key", "authorization", "?key"))
    answer = front(method, "/" + path, headers, "key=" + query, **({"check": False} if kind == "wsgi" else {}))
    assert answer.status == 403
    assert front.site.seen == []
    assert used(made, secret) == {"requests/day": 0}


@pytest.mark.parametrize("value", ["a" * 1_000_000, "\x00" * 30, "é" * 30, "qk_" + "é" * 34])
def test_huge_and_strange_keys(kind, made, value):
    """A megabyte, NUL bytes and other alphabets are keys that nobody has."""
    front = Front(kind, Site(), made[0], key=("x-api-key", "?key"))
    assert front(headers={"x-api-key": value}, **({"check": False} if kind == "wsgi" else {})).status == 403
    assert front(query="key=" + value, **({"check": False} if kind == "wsgi" else {})).status == 403


def test_eight_thousand_unknown_keys(made):
    """Eight thousand distinct unknown keys on as many paths leave nothing behind in memory."""
    middleware = Front("wsgi", Site(), made[0]).app
    keys = [mint() for _ in range(8_000)]

    def attack(keys):
        for key in keys:
            request = {"REQUEST_METHOD": "GET", "PATH_INFO": "/" + key, "HTTP_X_API_KEY": key, "QUERY_STRING": ""}
            middleware(request, lambda status, fields: None)

    attack(keys[:6_000])  # what is remembered of the last ones is full
    before = blocks()
    attack(keys[6_000:])
    assert blocks() - before < 1_000  # something that is kept of each would be 2,000
    assert used(*made) == {"requests/day": 0}


def test_every_unusable_key_is_answered_alike(kind, made):
    """Missing, unknown, disabled, expired, removed, rotated away or without a plan: one answer, in every style."""
    made, _ = made
    disabled, removed, rotated = (made.issue_key(name, "PlanA") for name in ("disabled", "removed", "rotated"))
    made.disable_key(disabled.key)
    made.remove_key(removed.key)
    made.rotate_key(rotated.key)
    expired = made.issue_key("expired", "PlanA", expires_at=NOON + timedelta(seconds=1))
    made._clock.advance(timedelta(seconds=2))
    unusable = [
        UNKNOWN,
        mint(),
        "a key of another sort",
        disabled.secret,
        removed.secret,
        rotated.secret,
        expired.secret,
    ]
    unusable.append(made.issue_key("no plan").secret)
    for settings in ({}, {"style": "api_gateway"}, {"profile": "github"}, {"charge": "success"}):
        front = Front(kind, Site(), made, **settings)
        missing = front().whole
        assert missing[0] == 403
        assert [front(headers={"x-api-key": secret}).whole for secret in unusable] == [missing] * len(unusable)


def test_no_timing_tell(made):
    """Unknown and disabled keys take about equally long to refuse: nobody outside the process can see what is less."""
    middleware = Front("wsgi", Site(), made[0]).app
    off = made[0].issue_key("off", "PlanA")
    made[0].disable_key(off.key)

    def refuse(secret):
        request = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "HTTP_X_API_KEY": secret, "QUERY_STRING": ""}
        start = perf_counter_ns()
        middleware(request, lambda status, fields: None)
        return perf_counter_ns() - start

    times = [(refuse(mint()), refuse(off.secret)) for _ in range(1_000)]
    unknown, disabled = (median(column) for column in zip(*times, strict=True))
    assert abs(unknown - disabled) < min(unknown, disabled) / 2  # some microseconds


# Alike


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["GET", "HEAD", "POST", "OPTIONS"]),
            st.sampled_from(["/", "/export", "/health", "/é", "/a b"]),
            st.integers(0, 3),
            st.sampled_from([200, 404, 500]),
            st.integers(0, 40_000_000_000),
        ),
        max_size=12,
    ),
    st.sampled_from(["arrival", "success", "response"]),
    st.sampled_from(["problem", "api_gateway"]),
    st.sampled_from(["ietf", "github", "draft03", None]),
)
def test_both_answer_alike(requests, charge, style, profile):
    """WSGI and ASGI give equal statuses, headers and bodies to the same requests at the same instants."""
    plan = {"limits": "4/day, 5 exports/hour, 1/s burst 3", "routes": {"GET /export": "2/hour as export"}}
    fronts = []
    for kind in KINDS:
        made, secret = ledger(**plan)
        off = made.issue_key("off", "PlanA")
        made.disable_key(off.key)
        front = Front(kind, Site(), made, charge=charge, style=style, profile=profile, exempt="/health")
        fronts.append((front, made, [secret, off.secret, UNKNOWN, ""]))
    for method, path, who, status, wait in requests:
        answers = []
        for front, made, secrets in fronts:
            made._clock.advance(wait)
            front.site.status = status
            front.site.chunks = () if method == "HEAD" else (b"a", b"bc")
            spelled = path.encode().decode("latin-1") if front.kind == "wsgi" else path
            answers.append(front(method, spelled, {"x-api-key": secrets[who]} if secrets[who] else {}).whole)
        assert answers[0] == answers[1]


def test_plans_bind_at_once(kind, made):
    """A raised limit lets the very next request through, and a disabled key is refused at once."""
    front = Front(kind, Site(), made[0])
    for _ in range(3):
        front(headers={"x-api-key": made[1]})
    assert front(headers={"x-api-key": made[1]}).status == 429
    made[0].replace_plan(UsagePlan("PlanA", "4/day"))
    assert front(headers={"x-api-key": made[1]}).status == 200
    made[0].disable_key(made[0].list_keys()[0])
    assert front(headers={"x-api-key": made[1]}).status == 403
