"""What the middlewares share: settings, exemptions, names of routes, refusals."""

from __future__ import annotations

import json
import tracemalloc
from datetime import timedelta
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quota import InvalidCost, Reason, StoreUnavailable
from quota.errors import InvalidValue
from quota.key import mint
from quota.web.gate import Gate, merged
from web import ledger


def gate(**settings):
    return Gate(**{"on_unavailable": "deny", **settings})


# Settings


def test_on_unavailable_must_be_stated():
    """There is no default for what happens when the store cannot be asked."""
    with pytest.raises(TypeError, match="on_unavailable"):
        Gate()


def test_unknown_setting():
    """A setting that there is none of is refused."""
    with pytest.raises(TypeError, match="retries"):
        gate(retries=3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("on_unavailable", "raise"), ("on_unavailable", None), ("on_unavailable", True), ("key", ""), ("key", None),
        ("route", "GET /"), ("charge", "never"), ("charge", 1), ("success", None), ("success", 200),
        ("actual", lambda request: 1), ("ttl", 1.5), ("ttl", None), ("exempt", "health"), ("exempt", "/a*b"),
        ("exempt", ["GET  /x"]), ("exempt", ["GET POST /x"]), ("exempt", [3]), ("exempt", None), ("shadow", 1),
        ("style", "aws"), ("style", None), ("profile", "IETF"), ("profile", 0), ("report", "print"), ("redact", None),
        ("api", None), ("api", "a\n"), ("api", "a" * 257), ("ttl", 0), ("ttl", timedelta(-1)), ("ttl", timedelta(367)),
    ],
)  # fmt: skip
def test_setting_invalid(field, value):
    """A setting that cannot be meant is refused by name."""
    with pytest.raises(InvalidValue) as caught:
        gate(**{field: value})
    assert caught.value.field == field


@pytest.mark.parametrize("cost", [0, -1, 1.0, True, "1", {"tokens": 0}])
def test_cost_invalid(cost):
    """A fixed cost is checked when the middleware is made, not at the first request."""
    with pytest.raises(InvalidCost):
        gate(cost=cost)


def test_settings_may_be_callables():
    """Where a value depends on the request, a callable gives it."""
    made = gate(key=lambda r: "k", cost=lambda r: r["cost"], route=lambda r: r["name"], exempt=lambda r: r["free"])
    request = {"cost": 7, "name": "upload", "free": True}
    assert made.key(request) == "k"
    assert made.price(request) == 7
    assert made.name("GET", "/", request) == "upload"
    assert made.passes("GET", "/", request)


async def later(*_):
    """What nobody would await."""


class Later:
    async def __call__(self, *_):
        """The same."""


@pytest.mark.parametrize("name", ["key", "route", "cost", "success", "actual", "exempt", "report"])
@pytest.mark.parametrize("function", [later, partial(later, 1), Later(), Later().__call__])
def test_setting_async(name, function):
    """An async callable is refused: never awaited, one that exempts or calls a status a success would always say yes."""
    with pytest.raises(InvalidValue, match="not async") as caught:
        gate(charge="response", **{name: function})
    assert caught.value.field == name


def test_ttl_is_microseconds():
    """A hold's length is a timedelta or whole microseconds; a minute by default."""
    assert gate().ttl == 60_000_000
    assert gate(ttl=timedelta(seconds=2)).ttl == gate(ttl=2_000_000).ttl


# Exemptions


@pytest.mark.parametrize(
    ("pattern", "method", "path", "passes"),
    [
        ("/health", "GET", "/health", True),
        ("/health", "POST", "/health", True),
        ("/health", "GET", "/health/", False),
        ("/health", "GET", "/healthy", False),
        ("/health", "GET", "//health", False),
        ("GET /docs", "GET", "/docs", True),
        ("GET /docs", "POST", "/docs", False),
        ("GET /docs", "HEAD", "/docs", True),
        ("HEAD /docs", "HEAD", "/docs", True),
        ("HEAD /docs", "GET", "/docs", False),
        ("GET /docs/*", "HEAD", "/docs/a", True),
        ("POST /docs/*", "HEAD", "/docs/a", False),
        ("/static/*", "GET", "/static/a/b.css", True),
        ("/static/*", "GET", "/static", False),
        ("/static/*", "GET", "/static/../secret", False),
        ("/static/*", "GET", "/static/./x", False),
        ("/static/*", "GET", "/static/..", False),
        ("/.well-known/*", "GET", "/.well-known/x", True),
        ("GET *", "GET", "/anything", True),
        ("GET *", "PUT", "/anything", False),
        ("*", "PUT", "/anything", True),
    ],
)
def test_exempt(pattern, method, path, passes):
    """A path passes as it is written, or by what it begins with; never by climbing out with dots."""
    assert gate(exempt=[pattern]).passes(method, path, {}) is passes
    assert gate(exempt=pattern).passes(method, path, {}) is passes


def test_nothing_is_exempt_by_default():
    """Without exemptions every path is asked about."""
    assert not gate().passes("GET", "/health", {})


# Routes


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/pets", "GET /pets"),
        ("HEAD", "/pets", "GET /pets"),
        ("POST", "/pëts", "POST /pëts"),
        ("GET", "", "GET /"),
        ("GET", "/a\nb", None),
        ("GET", "/\x00", None),
        ("GET", "/" + "a" * 1100, None),
        ("", "/", " /"),
    ],
)
def test_name_of_a_path(method, path, name):
    """A route is METHOD /path, HEAD counts as GET, and what no plan can name has no name."""
    made = gate()
    assert made.name(method, path, {}) == name
    assert made.name(method, path, {}) == name


@pytest.mark.parametrize("name", [None, "", 3, "a\n", "a" * 1025, b"x"])
def test_name_from_a_callable_that_is_none(name):
    """What a callable gives that no plan can name counts as no route, not as an error."""
    assert gate(route=lambda request: name).name("GET", "/", {}) is None


class Table:
    """A framework's routes: which paths have which template. ``kept``: whether names may be kept while it is the same."""

    def __init__(self, kept=True, **templates):
        self.templates, self.kept, self.asked = templates, kept, []

    def __call__(self, method, path, request):
        self.asked.append((method, path))
        return self.templates.get(path.split("/")[1])

    def watched(self):
        yield (lambda: self.templates), dict(self.templates)
        if not self.kept:
            yield None


def test_template_is_asked_once():
    """The framework's router is asked once for a path, with HEAD as GET; otherwise the path names the route."""
    table = Table(pets="/pets/{id}")
    made = gate(template=table)
    for method in ("GET", "GET", "HEAD"):
        assert made.name(method, "/pets/7", {}) == "GET /pets/{id}"
    assert made.name("GET", "/x", {}) == "GET /x"
    assert table.asked == [("GET", "/pets/7"), ("GET", "/x")]


def test_names_follow_the_routes():
    """Whatever becomes of the routes, added, removed or replaced, the next name is theirs; misses are never kept."""
    table = Table(pets="/pets/{id}")
    made = gate(template=table)
    assert [made.name("GET", path, {}) for path in ("/pets/7", "/late/1")] == ["GET /pets/{id}", "GET /late/1"]
    table.templates["late"] = "/late/{n}"
    assert [made.name("GET", path, {}) for path in ("/pets/7", "/late/1")] == ["GET /pets/{id}", "GET /late/{n}"]
    table.templates = {"pets": "/pets/{other}"}
    assert [made.name("GET", path, {}) for path in ("/pets/7", "/late/1")] == ["GET /pets/{other}", "GET /late/1"]


def test_names_that_depend_on_more_are_not_kept():
    """What may be named otherwise the next time, by its host say, is asked for each time."""
    table = Table(kept=False, pets="/pets/{id}")
    made = gate(template=table)
    for _ in range(3):
        assert made.name("GET", "/pets/7", {}) == "GET /pets/{id}"
    assert len(table.asked) == 3


def test_names_are_kept_by_the_kind_of_request():
    """A WebSocket's name is not that of a page on the same path, for a scope and for an environ."""
    made = gate(template=Table(chat="/chat/{room}"))
    upgrade = {"HTTP_UPGRADE": "WebSocket", "HTTP_CONNECTION": "keep-alive, Upgrade"}
    for request in ({"type": "http"}, {"type": "websocket"}, {}, upgrade, {"HTTP_UPGRADE": "h2c"}):
        assert made.name("GET", "/chat/1", request) == "GET /chat/{room}"
    kept, _ = made.names._state
    assert [place[0] for place in kept] == ["http", "websocket", False, True]


@pytest.mark.parametrize(
    "flood",
    [
        lambda number: ("GET", f"/pets/{number}"),
        lambda number: ("GET", f"/pets/{number}" + "x" * 50_000),
        lambda number: (f"M{number}" + "X" * 50_000, "/pets/x"),
        lambda number: (f"M{number}", "/pets/x"),
        lambda number: ("GET", f"/none/{number}" + "x" * 50_000),
    ],
)
def test_names_are_bounded(flood):
    """Paths and methods that nobody has seen before do not fill the memory: requests without a key come this far."""
    table = Table(pets="/pets/{id}")
    made = gate(template=table)
    made.name("GET", "/pets/0", {})
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(10_000):
            made.name(*flood(number), {})
            table.asked.clear()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(made.names._state[0]) <= 4096
    assert grown < 3_000_000


def test_template_that_raises(caplog):
    """A router that cannot be asked from outside, its converters wanting a request, is no error: the path names the route."""

    class Broken(Table):
        def __call__(self, method, path, request):
            raise RuntimeError("working outside of application context")

    assert gate(template=Broken()).name("GET", "/pets/7", {}) == "GET /pets/7"
    assert "working outside of application context" in caplog.text


# Refusals


def refused():
    """One decision for each way to be refused."""
    made, secret = ledger("2/day as daily, 1/s burst 1")
    made.consume(secret)
    throttled = made.consume(secret)
    made._clock.advance(1_000_000)
    made.consume(secret)
    made._clock.advance(1_000_000)
    return made.consume(mint()), throttled, made.consume(secret), gate().undecided(StoreUnavailable("down"))


def test_problem_answers():
    """Refusals are problem details that no cache keeps, with the limits and when to retry."""
    unknown, throttled, exceeded, unavailable = refused()
    answer = gate().refusal(exceeded, "GET")
    assert (answer.status, answer.reason) == (429, "429 Too Many Requests")
    assert dict(answer.headers) == {
        "Content-Type": "application/problem+json",
        "Cache-Control": "no-store",
        "RateLimit-Policy": '"daily";q=2;w=86400, "throttle";q=1;w=1',
        "RateLimit": '"daily";r=0;t=43198, "throttle";r=1;t=0',
        "Retry-After": "43198",
        "Content-Length": str(len(answer.body)),
    }
    assert json.loads(answer.body) == exceeded.problem()
    for decision in (unknown, throttled, unavailable):
        assert json.loads(gate().refusal(decision, "GET").body)["status"] == decision.status
    assert dict(gate().refusal(unknown, "GET").headers).keys() == {"Content-Type", "Cache-Control", "Content-Length"}


def test_api_gateway_answers():
    """The opt-in style writes API Gateway's bodies byte for byte, with their error types and nothing else."""
    made = gate(style="api_gateway")
    expected = [
        (403, b'{"message":"Forbidden"}', "ForbiddenException"),
        (429, b'{"message":"Too Many Requests"}', "TooManyRequestsException"),
        (429, b'{"message":"Limit Exceeded"}', "LimitExceededException"),
        (503, b'{"message":"Service Unavailable"}', "ServiceUnavailableException"),
    ]
    for decision, (status, body, kind) in zip(refused(), expected, strict=True):
        answer = made.refusal(decision, "GET")
        assert (answer.status, answer.body) == (status, body)
        assert dict(answer.headers) == {
            "Content-Type": "application/json",
            "x-amzn-ErrorType": kind,
            "Content-Length": str(len(body)),
        }


@pytest.mark.parametrize("style", ["problem", "api_gateway"])
def test_head_has_no_body(style):
    """HEAD is answered with the headers of GET and no body."""
    for decision in refused():
        head, full = (gate(style=style).refusal(decision, method) for method in ("HEAD", "GET"))
        assert head == full._replace(body=b"")


def test_profile_of_answers():
    """The profile of headers holds for admissions and refusals alike; None is none."""
    exceeded = refused()[2]
    assert "X-RateLimit-Limit" in dict(gate(profile="github").refusal(exceeded, "GET").headers)
    assert "Retry-After" not in dict(gate(profile=None).refusal(exceeded, "GET").headers)
    made, secret = ledger()
    assert gate(profile=None).shown(made.consume(secret)) == {}
    assert gate(profile="draft03").shown(made.consume(secret))["RateLimit-Remaining"] == "1"


def test_shown_in_shadow():
    """A refusal that is only reported does not tell the client to wait."""
    assert "Retry-After" not in gate(shadow=True).shown(refused()[2])


def test_undecided(caplog):
    """Where the ledger cannot decide, what was stated holds, and a log tells."""
    for stated, allowed in (("deny", False), ("allow", True)):
        decision = gate(on_unavailable=stated).undecided(StoreUnavailable("no route to host"))
        assert (decision.allowed, decision.reason) == (allowed, Reason.STORE_UNAVAILABLE)
    assert caplog.text.count("no route to host") == 2


# What becomes of a hold


@pytest.mark.parametrize(
    ("status", "commits"),
    [(200, True), (204, True), (304, True), (101, True), (400, False), (500, False), (None, False)],
)
def test_success_keeps(status, commits):
    """What was held for a success is kept, what was held for a failure goes back."""
    assert gate(charge="success").kept(status, {}, 5) == (commits, None)


def test_success_is_a_matter_of_opinion():
    """Which statuses are charged can be stated."""
    made = gate(charge="success", success=lambda status: status == 201)
    assert made.kept(201, {}, None)[0]
    assert not made.kept(200, {}, None)[0]


@pytest.mark.parametrize("status", [200, 500, None])
@pytest.mark.parametrize("actual", [0, 7, {"tokens": 3}])
def test_response_charges_what_was_used(status, actual):
    """What the application says was used is charged, however the response ended."""
    assert gate(charge="response").kept(status, {}, actual) == (True, actual)
    assert gate(charge="response", actual=lambda request: actual).kept(status, {}, None) == (True, actual)


def test_response_that_says_nothing():
    """Without a word of what was used, a success is charged what was held and a failure nothing."""
    assert gate(charge="response").kept(200, {}, None) == (True, None)
    assert gate(charge="response").kept(500, {}, None) == (False, None)


@pytest.mark.parametrize("actual", [-1, 1.5, "7", {"tokens": -1}, True])
def test_response_that_makes_no_sense(actual, caplog):
    """Nonsense about what was used keeps what was held, and a log tells."""
    assert gate(charge="response").kept(500, {}, actual) == (True, None)
    assert "what was used cannot be known" in caplog.text


def test_actual_that_raises(caplog):
    """An ``actual`` that raises keeps what was held, and a log tells."""
    assert gate(charge="response", actual=lambda request: request["no"]).kept(200, {}, None) == (True, None)
    assert "KeyError" in caplog.text


# Headers


@given(
    st.dictionaries(st.sampled_from(["RateLimit", "Retry-After"]), st.text()),
    st.lists(st.tuples(st.sampled_from(["ratelimit", "Vary", "RATELIMIT"]), st.text())),
)
def test_merged(own, fields):
    """Our headers replace those of the same name in any case, and nothing else is lost or moved."""
    found = merged(own, fields)
    names = {name.lower() for name in own}
    assert found == [pair for pair in fields if pair[0].lower() not in names] + list(own.items())
