"""Keys are hidden from applications and logs wherever they may stand, and still found by what counts further in."""

from __future__ import annotations

import asyncio
import warnings
from typing import Annotated
from urllib.parse import parse_qsl

import flask
import pytest
from fastapi import Depends, FastAPI, Header, Query, Request
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import JSONResponse
from starlette.routing import Route

import quota.asgi
import quota.wsgi
from quota import AsyncLedger
from quota.fastapi import QuotaKey, Refused, refused
from quota.key import mint
from quota.web.credentials import Places, Withheld
from quota.web.sources import check_sources, find_key, hide_parameters
from web import Front, Site, Strict, asgi, environ, ledger, wsgi

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette prefers a later httpx for its test client, and works with this one
    from starlette.testclient import TestClient

EVERYWHERE = ("x-api-key", "authorization", "?api_key", "?token")


@pytest.fixture(params=["wsgi", "asgi"])
def kind(request):
    return request.param


@pytest.fixture
def made():
    return ledger("100/day")


def used(made, secret):
    return sum(record.used for record in made.usage(made.peek(secret).key))


# Every place


@pytest.mark.parametrize("name", [b"x_api_key", b"x-api_key", b"x_api-key"])
def test_a_namesake_alone_is_hidden(name):
    """With underscores it is no key here, but CGI further in reads it as one."""
    secret = mint()
    scope = {"type": "http", "headers": [(b"host", b"h"), (name, secret.encode())]}
    places = Places(check_sources(EVERYWHERE[:2]))
    assert places.of_scope(scope, redact=False) is None
    assert places.of_scope(scope, redact=True) is None
    assert scope["headers"] == [(b"host", b"h"), (name, b"****")]


@pytest.mark.parametrize("key", [EVERYWHERE, EVERYWHERE[::-1], ("?token", "authorization", "?api_key", "x-api-key")])
def test_every_place_is_hidden(kind, made, key):
    """Whichever place the key was found in, what the others hold is hidden too."""
    front = Front(kind, Site(), made[0], key=key)
    headers = {"x-api-key": made[1], "authorization": f"Bearer {made[1]}"}
    assert front(headers=headers, query=f"a=1&api_key={made[1]}&token={made[1]}").status == 200
    request = front.site.seen[-1][1]
    assert made[1] not in repr(request)
    assert repr(request).count(f"****{made[1][-4:]}") >= 1
    assert "a=1&api_key=" in front.visible()[2]


@pytest.mark.parametrize(
    ("other", "left"),
    [
        ("Basic dXNlcjpwYXNz", True), ("Digest username=a", True), ("Bearer other-token-of-another-api", False),
        ("bearer  x", False), ("a-secret-without-a-scheme", False), ("Basic x,Bearer y", False), ("", True), (" ", True),
    ],
)  # fmt: skip
def test_other_credentials_are_left(kind, made, other, left):
    """In ``authorization`` only other schemes' credentials are left: they are no keys, and the application may need them."""
    front = Front(kind, Site(), made[0], key=("x-api-key", "authorization"))
    assert front(headers={"x-api-key": made[1], "authorization": other}).status == 200
    assert front.visible()[1] == (other if left else "****")


@pytest.mark.parametrize("written", ["api%5Fkey", "%61pi_key", "api%5fkey", "%61%70%69%5F%6B%65%79"])
def test_encoded_names(kind, made, written):
    """A parameter whose name is percent-encoded is the one that the application would read: found, and hidden."""
    front = Front(kind, Site(), made[0], key="?api_key")
    assert front(query=f"a=1&{written}={made[1]}&b=%20").status == 200
    assert front.visible()[2] == f"a=1&{written}=****{made[1][-4:]}&b=%20"
    assert front(query=f"api_key={made[1]}&{written}={made[1]}").status == 403
    assert used(*made) == 1


NAMES = st.text("api_keytoken%5Ff", max_size=12)


@given(st.lists(st.tuples(NAMES | st.sampled_from(["api%5Fkey", "api_key", "token"]), st.just(mint())), max_size=5))
def test_what_a_framework_reads_is_hidden(pairs):
    """Whatever a query's names are written like: no value that a framework would give as the key's is left in it."""
    query = "&".join(f"{name}={value}" for name, value in pairs)
    shown = hide_parameters(query, ("api_key=", "token="))
    assert {value for name, value in parse_qsl(shown) if name in ("api_key", "token")} <= {"****"}
    kept = [pair for pair in parse_qsl(query) if pair[0] not in ("api_key", "token")]
    assert [pair for pair in parse_qsl(shown) if pair[0] not in ("api_key", "token")] == kept
    found, source = find_key(lambda name: None, query, ("?api_key",))
    assert bool(found) == bool(source) == any(name == "api_key" for name, _ in parse_qsl(query))


def test_every_url_of_an_environ(made):
    """Every variable in which a server repeats the URL or the header is hidden."""
    app = quota.wsgi.QuotaMiddleware(Site().wsgi, made[0], on_unavailable="deny", key=("x-api-key", "?key"))
    query = f"b=1&k%65y={made[1]}"
    urls = {name: f"/a?{query}" for name in ("RAW_URI", "REQUEST_URI")} | {"REDIRECT_QUERY_STRING": query}
    answer = wsgi(app, headers={"x-api-key": made[1]}, query=query, **urls, REDIRECT_HTTP_X_API_KEY=made[1])
    assert answer.status == 200
    assert made[1] not in repr(answer.environ)
    assert answer.environ["RAW_URI"] == "/a?b=1&k%65y=****"


def test_every_part_of_a_scope(made):
    """A path that keeps its query, headers in a tuple, namesakes with underscores: hidden; the rest as it was."""
    site = Site()
    app = quota.asgi.QuotaMiddleware(site.asgi, made[0], on_unavailable="deny", key=("x-api-key", "?key"))
    secret = made[1].encode()
    headers = (
        (b"a", b"1"),
        (b"x-api-key", secret),
        (b"x_api_key", secret),
        (b"X_API-key".lower(), secret),
        (b"b_c", b"2"),
    )
    raw = b"/a?k%65y=" + secret
    assert asgi(app, headers=[], query=f"key={made[1]}").status == 200
    server = {"headers": headers, "query_string": b"key=" + secret, "raw_path": raw}

    strict = Strict(app)
    strict.scope.update(server)
    assert asyncio.run(strict.serve()).status == 200
    seen = site.seen[-1][1]
    assert made[1] not in repr(seen)
    shown = f"****{made[1][-4:]}".encode()
    stars = [(b"x_api_key", b"****"), (b"x_api-key", b"****")]
    assert seen["headers"] == [(b"a", b"1"), (b"x-api-key", shown), *stars, (b"b_c", b"2")]
    assert (seen["query_string"], seen["raw_path"]) == (b"key=****", b"/a?k%65y=****")


def test_a_header_sent_twice_is_hidden_whole(kind, made):
    """Two lines of the header are one unknown key: in shadow mode the application sees neither."""
    front = Front(kind, Site(), made[0], key=("x-api-key", "authorization"), shadow=True)
    front(headers=[("x-api-key", made[1]), ("a", "1"), ("x-api-key", made[1]), ("authorization", f"Bearer {made[1]}")])
    assert made[1] not in repr(front.site.seen[-1][1])
    assert front.visible()[:2] == (f"****{made[1][-4:]}", "****")


def test_spellings_of_a_long_name():
    """A header of many parts is hidden as it is written."""
    name = "-".join("abcdefgh")
    request = {"headers": [(name.encode(), b"x" * 20)]}
    assert Places(check_sources(name)).of_scope(request, redact=True) == "x" * 20
    assert request["headers"] == [(name.encode(), b"****xxxx")]


def test_left_as_it_came(kind, made):
    """Not redacted, nothing is hidden and nothing is kept beside the request."""
    front = Front(kind, Site(), made[0], key=EVERYWHERE, redact=False)
    front(headers={"x-api-key": made[1], "authorization": f"Bearer {made[1]}"}, query=f"token={made[1]}")
    assert front.visible() == (made[1], f"Bearer {made[1]}", f"token={made[1]}")
    assert Withheld.PLACE not in front.site.seen[-1][1]


# Requests that were made before


def test_requests_made_earlier_see_it_hidden(made):
    """A middleware outside that has read the headers before finds them hidden when it logs them afterwards."""
    logged = []

    async def log(request, call_next):
        before = request.headers["x-api-key"]
        answer = await call_next(request)
        logged.append((before, request.headers["x-api-key"]))
        return answer

    async def home(request):
        return JSONResponse([request.headers["x-api-key"], str(request.url)])

    app = Starlette(
        routes=[Route("/", home)],
        middleware=[
            Middleware(BaseHTTPMiddleware, dispatch=log),
            Middleware(quota.asgi.QuotaMiddleware, ledger=made[0], on_unavailable="deny"),
        ],
    )
    answer = TestClient(app).get("/", headers={"x-api-key": made[1]})
    shown = f"****{made[1][-4:]}"
    assert answer.json() == [shown, "http://testserver/"]
    assert logged == [(made[1], shown)]


@pytest.mark.parametrize("ledger_type", ["sync", "async"])
def test_what_an_endpoint_sees(made, ledger_type):
    """Behind the dependency an endpoint sees the key hidden in headers, parameters, query and URL, as FastAPI gives them."""
    which = made[0] if ledger_type == "sync" else AsyncLedger(made[0].store, clock=made[0]._clock)
    app = FastAPI(dependencies=[Depends(QuotaKey(which, on_unavailable="deny", key=("x-api-key", "?api_key")))])

    @app.get("/")
    def home(request: Request, x_api_key: Annotated[str, Header()], api_key: Annotated[str, Query()]):
        seen = [request.headers["x-api-key"], request.query_params["api_key"], str(request.url), x_api_key, api_key]
        assert made[1] not in repr([seen, request.scope, request.headers.raw, vars(request)])
        return seen

    shown = f"****{made[1][-4:]}"
    answer = TestClient(app).get(f"/?api_key={made[1]}", headers={"x-api-key": made[1]})
    assert answer.json() == [shown, "****", "http://testserver/?api_key=****", shown, "****"]


# Several that count one request


def layers(kind, site, *fronts):
    """Middlewares, the first outermost: (ledger, settings) each."""
    app = getattr(site, kind)
    for made, settings in reversed(fronts):
        app = getattr(quota, kind).QuotaMiddleware(app, made, **{"on_unavailable": "deny", **settings})
    return app


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ({}, {}), ({"key": EVERYWHERE}, {}), ({}, {"key": EVERYWHERE}), ({"redact": False}, {}), ({}, {"redact": False}),
        ({"key": "?api_key"}, {}), ({"key": ("?api_key", "x-api-key")}, {"key": "?api_key"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("count", [2, 3])
def test_two_middlewares(kind, outer, inner, count):
    """Two or three middlewares are so many plans: each finds the key that those before it have hidden, and charges."""
    both = [ledger("100/day", api=f"api{n}") for n in range(count)]
    secret = both[0][1]
    for made, _ in both[1:]:
        made.import_key(secret, "the same", "PlanA")
    site = Site()
    settings = [outer, *[inner] * (count - 1)]
    fronts = [(made, {"api": f"api{n}", **s}) for n, ((made, _), s) in enumerate(zip(both, settings, strict=True))]
    app = layers(kind, site, *fronts)
    answer = (wsgi if kind == "wsgi" else asgi)(app, headers={"x-api-key": secret}, query=f"api_key={secret}")
    assert answer.status == 200
    for n, (made, _) in enumerate(both):
        assert sum(record.used for record in made.usage(made.peek(secret, api=f"api{n}").key, api=f"api{n}")) == 1
    if outer.get("key") == EVERYWHERE or inner.get("key") == EVERYWHERE:
        assert secret not in repr(site.seen[-1][1])


def test_a_key_set_between_two_middlewares(kind, made):
    """An application between them that presents another key is asked for that one."""
    other = made[0].issue_key("other", "PlanA").secret
    site = Site()
    inner = getattr(quota, kind).QuotaMiddleware(getattr(site, kind), made[0], on_unavailable="deny")

    def replacing_wsgi(request, start):
        request["HTTP_X_API_KEY"] = other
        return inner(request, start)

    async def replacing_asgi(scope, receive, send):
        await inner({**scope, "headers": [(b"x-api-key", other.encode())]}, receive, send)

    app = getattr(quota, kind).QuotaMiddleware(
        replacing_wsgi if kind == "wsgi" else replacing_asgi, made[0], on_unavailable="deny"
    )
    assert (wsgi if kind == "wsgi" else asgi)(app, headers={"x-api-key": made[1]}).status == 200
    assert (used(*made), used(made[0], other)) == (1, 1)


def test_nobody_can_send_what_was_hidden(kind, made):
    """The stars that a middleware writes are no key, and no request brings along what another one had hidden."""
    front = Front(kind, Site(), made[0])
    front(headers={"x-api-key": made[1]})
    assert front(headers={"x-api-key": f"****{made[1][-4:]}", "quota.withheld": made[1]}).status == 403


def keys_of_fastapi(made, **settings):
    """An application charged 1 by every route and 5 more by one."""
    app = FastAPI(dependencies=[Depends(QuotaKey(made, on_unavailable="deny", **settings))])
    app.add_exception_handler(Refused, refused)
    more = QuotaKey(made, on_unavailable="deny", cost=5, **settings)
    app.get("/export", dependencies=[Depends(more)])(lambda: "ok")
    app.get("/twice")(lambda a=Depends(more, use_cache=False), b=Depends(more, use_cache=False): "ok")
    app.get("/once", dependencies=[Depends(more), Depends(more)])(lambda: "ok")
    return app


@pytest.mark.parametrize("presented", ["header", "query", "both"])
@pytest.mark.parametrize("redact", [True, False])
@pytest.mark.parametrize(("path", "cost"), [("/export", 6), ("/twice", 11), ("/once", 6)])
def test_two_dependencies(made, path, cost, redact, presented):
    """Two dependencies, of a router and of a route, or one twice, charge as often as FastAPI asks them."""
    app = keys_of_fastapi(made[0], key=("x-api-key", "?api_key"), redact=redact)
    headers = {} if presented == "query" else {"x-api-key": made[1]}
    query = "" if presented == "header" else f"?api_key={made[1]}"
    assert TestClient(app).get(path + query, headers=headers).status_code == 200
    assert used(*made) == cost
    assert TestClient(app).get(path).status_code == 403


def test_a_middleware_and_a_dependency(made):
    """Both may count a request."""
    app = keys_of_fastapi(made[0])
    app.add_middleware(quota.asgi.QuotaMiddleware, ledger=made[0], on_unavailable="deny", cost=10)
    assert TestClient(app).get("/export", headers={"x-api-key": made[1]}).status_code == 200
    assert used(*made) == 16


def test_flask_sees_it_hidden(made):
    """Flask's own request objects show what the middleware left."""
    app = flask.Flask("shop")
    app.get("/")(lambda: [flask.request.headers["X-Api-Key"], flask.request.args["key"], flask.request.url])
    app.wsgi_app = quota.wsgi.QuotaMiddleware(app.wsgi_app, made[0], on_unavailable="deny", key=("x-api-key", "?key"))
    answer = app.test_client().get(f"/?k%65y={made[1]}", headers={"x-api-key": made[1]})
    assert answer.json == [f"****{made[1][-4:]}", "****", "http://localhost/?key=****"]


def test_what_is_withheld_shows_nothing():
    """A dump of a request's variables does not show the key that is kept for middlewares further in."""
    request = environ(headers={"x-api-key": "s" * 20})
    assert Places(("x-api-key",)).of_environ(request, redact=True) == "s" * 20
    assert "s" * 20 not in repr(request) + str(request[Withheld.PLACE])
