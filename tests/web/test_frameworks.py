"""In front of Flask, Django, Starlette and FastAPI, the real ones: templates of routes, idioms, OpenAPI."""

from __future__ import annotations

import warnings

import flask
import httpx
import pytest
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
from starlette.websockets import WebSocketDisconnect
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import BaseConverter

import django_site  # noqa: F401 -- sets Django up
from quota import AsyncLedger, Decision, Ledger
from quota.asgi import QuotaMiddleware as InFrontOfASGI
from quota.errors import InvalidValue
from quota.fastapi import QuotaKey, Refused, refused
from quota.web.routes import templates
from quota.web.sources import UNKNOWN
from quota.wsgi import QuotaMiddleware as InFrontOfWSGI
from web import asgi, ledger, wsgi

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette prefers a later httpx for its test client, and works with this one
    from starlette.testclient import TestClient

# Flask


def flask_app():
    app = flask.Flask("shop")

    @app.get("/pets/<int:number>")
    def pet(number):
        return f"{number} for {flask.request.environ['quota.decision'].key.name}"

    @app.post("/pets/")
    def add():
        return "added", 201

    @app.get("/stream")
    def stream():
        return flask.Response(flask.stream_with_context(iter(["a", "b", "c"])))

    @app.get("/broken")
    def broken():
        raise ZeroDivisionError

    @app.get("/broken-stream")
    def broken_stream():
        def chunks():
            yield "a"
            raise ZeroDivisionError

        return flask.Response(chunks())

    return app


@pytest.mark.parametrize("wrap", [lambda app: app.wsgi_app, lambda app: app, lambda app: ProxyFix(app.wsgi_app)])
def test_flask_templates(wrap):
    """Flask's rules name the routes, whichever way the middleware is put in front; what fits none is named by path."""
    find = templates(wrap(flask_app()))
    assert find("GET", "/pets/7") == "/pets/<int:number>"
    assert find("POST", "/pets/") == "/pets/"
    for method, url in (("GET", "/pets/x"), ("GET", "/none"), ("POST", "/pets/7"), ("POST", "/pets")):
        assert find(method, url) is None


def test_dispatched_templates():
    """Behind Werkzeug's dispatcher each path is named by the application that serves it, below its mount."""
    front = flask.Flask("front")
    front.get("/<path:page>")(str)
    apps = {
        "/shop": flask_app(),
        "/shop/old": InFrontOfWSGI(flask_app(), ledger()[0], on_unavailable="deny"),
        "/x": str,
    }
    find = templates(DispatcherMiddleware(front, apps))
    assert find("GET", "/pets/7") == "/<path:page>"
    assert find("GET", "/shop/pets/7") == "/shop/pets/<int:number>"
    assert find("GET", "/shop/old/pets/7") == "/shop/old/pets/<int:number>"
    assert find("GET", "/shops") == "/<path:page>"
    for url in ("/shop", "/shop/", "/shop/none", "/x/y", "/"):
        assert find("GET", url) is None


def test_flask():
    """Flask behind the middleware: headers, the decision in the environ, limits by rule, errors and streams settle."""
    made, secret = ledger("100/day", routes={"GET /pets/<int:number>": "2/hour as pets"})
    app = flask_app()
    app.wsgi_app = InFrontOfWSGI(app.wsgi_app, made, on_unavailable="deny", charge="success")
    client = app.test_client()
    headers = {"x-api-key": secret}
    assert client.get("/pets/1", headers=headers).text == "1 for Key123"
    assert client.get("/pets/2", headers=headers).headers["RateLimit"].endswith('"pets";r=0;t=3600')
    answer = client.get("/pets/3", headers=headers)
    assert (answer.status_code, answer.json["violated-policies"]) == (429, ["pets"])
    assert client.get("/stream", headers=headers).text == "abc"
    assert client.post("/pets/", headers=headers).status_code == 201
    assert client.get("/broken", headers=headers).status_code == 500
    assert client.get("/nowhere", headers=headers).status_code == 404
    with pytest.raises(ZeroDivisionError):
        client.get("/broken-stream", headers=headers).get_data()
    assert sum(record.used for record in made.usage(made.list_keys()[0]) if record.limit == "requests/day") == 4


def test_flask_converter_that_needs_its_application():
    """A converter that works only inside a request leaves the route named by its path; the request is served."""
    made, secret = ledger("9/day", costs={"GET /pets/7": 5})
    app = flask.Flask("shop")

    class Known(BaseConverter):
        def to_python(self, value):
            return f"{value} of {flask.current_app.name}"

    app.url_map.converters["known"] = Known
    app.get("/pets/<known:pet>")(lambda pet: pet)
    app.wsgi_app = InFrontOfWSGI(app.wsgi_app, made, on_unavailable="deny")
    assert app.test_client().get("/pets/7", headers={"x-api-key": secret}).text == "7 of shop"
    assert [record.used for record in made.usage(made.list_keys()[0])] == [5]


# Django


def test_django_templates():
    """Django's patterns name the routes, for WSGI and ASGI alike."""
    for app in (get_wsgi_application(), get_asgi_application()):
        find = templates(app)
        assert find("GET", "/pets/7/") == "/pets/<int:number>/"
        assert find("GET", "/old/2024") == "/^old/(?P<year>[0-9]{4})$"
        assert find("GET", "/pets/x/") is None


def test_django_wsgi():
    """Django by WSGI: limits by pattern, streams and errors settle."""
    made, secret = ledger("100/day", routes={"GET /pets/<int:number>/": "1/hour as pets"})
    app = InFrontOfWSGI(get_wsgi_application(), made, on_unavailable="deny", charge="success")
    headers = {"x-api-key": secret}
    answer = wsgi(app, path="/pets/7/", headers=headers)
    assert (answer.status, answer.body) == (200, b"7 for Key123")
    assert wsgi(app, path="/pets/8/", headers=headers).status == 429
    assert wsgi(app, path="/stream", headers=headers, check=False).body == b"ab"
    assert wsgi(app, path="/broken", headers=headers).status == 500
    assert {record.limit: record.used for record in made.usage(made.list_keys()[0])} == {"requests/day": 2, "pets": 1}


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume synchronous iterators:Warning")
def test_django_asgi():
    """Django by ASGI: the same."""
    made, secret = ledger("100/day", routes={"GET /pets/<int:number>/": "1/hour as pets"})
    app = InFrontOfASGI(get_asgi_application(), made, on_unavailable="deny", charge="success")
    headers = {"x-api-key": secret}
    answer = asgi(app, path="/pets/7/", headers=headers, lower=False)
    assert (answer.status, answer.body) == (200, b"7 for Key123")
    assert asgi(app, path="/pets/8/", headers=headers, lower=False).status == 429
    assert asgi(app, path="/stream", headers=headers, lower=False).body == b"ab"
    assert asgi(app, path="/broken", headers=headers, lower=False).status == 500


# Starlette


async def pet(request):
    return PlainTextResponse(f"{request.path_params['number']} for {request.state.quota.key.name}")


async def stream(request):
    return StreamingResponse(iter(["a", "b", "c"]))


async def broken(request):
    raise ZeroDivisionError


async def chat(socket):
    await socket.accept()
    await socket.send_text(socket.state.quota.key.name)
    await socket.close()


ROUTES = [
    Route("/pets/{number:int}", pet),
    Route("/stream", stream),
    Route("/broken", broken),
    Mount("/shops/{shop}", routes=[Route("/pets/{number}", pet)]),
    Mount("/files", app=PlainTextResponse("file")),
    Host("api.example", Router([Route("/hosted", stream)])),
    WebSocketRoute("/chat", chat),
]


@pytest.mark.parametrize(
    ("method", "url", "template"),
    [
        ("GET", "/pets/7", "/pets/{number}"),
        ("POST", "/pets/7", None),
        ("GET", "/pets/x", None),
        ("GET", "/shops/a/pets/7", "/shops/{shop}/pets/{number}"),
        ("GET", "/shops/a/none", "/shops/{shop}/{path}"),
        ("GET", "/files/a/b", "/files/{path}"),
        ("GET", "/chat", None),
        ("GET", "/hosted", None),
    ],
)
def test_starlette_templates(method, url, template):
    """Starlette's paths name the routes, mounts included, in front of the application or inside it."""
    app = Starlette(routes=ROUTES)
    assert templates(app)(method, url) == template
    assert templates(GZipMiddleware(app))(method, url) == template
    upgrade = {"type": "websocket", "path": "/chat", "headers": []}
    assert templates(GZipMiddleware(app))("GET", "/chat", upgrade) == "/chat"


def test_starlette():
    """Starlette with the middleware added: limits by path, the decision in the state, streams, errors, WebSockets."""
    made, secret = ledger("100/day", routes={"GET /pets/{number}": "2/hour as pets"}, costs={"GET /chat": 10})
    app = Starlette(
        routes=ROUTES,
        middleware=[
            Middleware(InFrontOfASGI, ledger=made, on_unavailable="deny", charge="success"),
            Middleware(GZipMiddleware),
        ],
    )
    client = TestClient(app, headers={"x-api-key": secret}, raise_server_exceptions=False)
    assert client.get("/pets/1").text == "1 for Key123"
    assert client.head("/pets/2").headers["RateLimit"].endswith('"pets";r=0;t=3600')
    assert client.get("/pets/3").json()["violated-policies"] == ["pets"]
    assert client.get("/stream").text == "abc"
    assert client.get("/broken").status_code == 500
    with client.websocket_connect("/chat") as socket:
        assert socket.receive_text() == "Key123"
    assert {record.limit: record.used for record in made.usage(made.list_keys()[0])} == {"requests/day": 13, "pets": 2}
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/chat", headers={"x-api-key": UNKNOWN}):
        pass


def test_unknown_applications_have_no_templates():
    """A framework that is not known is no error: its routes are named by their paths."""

    class Loop:
        @property
        def app(self):
            return Loop()

    for app in (lambda request, start: [], Loop(), None):
        assert templates(app) is None


# FastAPI


def fastapi_app(made, **settings):
    app = FastAPI()
    app.add_exception_handler(Refused, refused)
    api_key = QuotaKey(made, on_unavailable="deny", **settings)
    router = APIRouter(prefix="/v1")

    @router.get("/pets/{number}")
    async def pet(number: int, decision: Decision = Depends(api_key)):  # noqa: FAST002 -- no local in Annotated
        return {"pet": number, "for": decision.key.name if decision.key else None}

    @router.post("/pets", dependencies=[Depends(api_key)])
    def add():
        return {}

    @router.websocket("/chat")
    async def chat(socket: WebSocket, decision: Decision = Depends(api_key)):  # noqa: FAST002 -- no local in Annotated
        await socket.accept()
        await socket.send_text(decision.key.name)
        await socket.close()

    @app.get("/open")
    def public():
        return {}

    app.include_router(router)
    return app


def test_fastapi_middleware():
    """FastAPI's templates, included routers' too, name the routes."""
    made, secret = ledger("100/day", routes={"GET /v1/pets/{number}": "1/hour as pets"})
    app = fastapi_app(*ledger()[:1])
    app.add_middleware(InFrontOfASGI, ledger=made, on_unavailable="deny", exempt="/openapi.json", redact=False)
    find = templates(app)
    assert find("GET", "/v1/pets/7") == "/v1/pets/{number}"
    assert find("POST", "/v1/pets") == "/v1/pets"
    assert find("GET", "/v1/chat", {"type": "websocket", "path": "/v1/chat", "headers": []}) == "/v1/chat"
    assert find("GET", "/v1/chat") is None
    assert find("GET", "/none") is None
    client = TestClient(app, headers={"x-api-key": secret})
    assert client.get("/open").status_code == 200
    assert client.get("/v1/pets/7").status_code == 403
    assert client.get("/v1/pets/8").json()["violated-policies"] == ["pets"]
    assert client.get("/openapi.json", headers={"x-api-key": ""}).status_code == 200


@pytest.mark.parametrize("ledger_type", [Ledger, AsyncLedger])
def test_fastapi_dependency(ledger_type):
    """The dependency charges the routes that ask for it, gives the decision, sets the headers, answers as a problem."""
    made, secret = ledger("4/day", routes={"POST /v1/pets": "1/hour as adding"}, costs={"GET /v1/pets/{number}": 2})
    if ledger_type is AsyncLedger:
        made = AsyncLedger(made.store, clock=made._clock)
    client = TestClient(fastapi_app(made), headers={"x-api-key": secret})
    answer = client.get("/v1/pets/7")
    assert answer.json() == {"pet": 7, "for": "Key123"}
    assert answer.headers["RateLimit"] == '"requests/day";r=2;t=43200'
    assert client.get("/open").headers.get("RateLimit") is None
    assert client.post("/v1/pets").status_code == 200
    answer = client.post("/v1/pets")
    assert (answer.status_code, answer.json()["violated-policies"]) == (429, ["adding"])
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["retry-after"] == "3600"
    answer = client.get("/v1/pets/7", headers={"x-api-key": UNKNOWN})
    assert (answer.status_code, answer.json()["title"]) == (403, "Forbidden")


def test_fastapi_dependency_of_websockets():
    """A WebSocket may depend on a key too; refused, it is closed as a policy violation."""
    made, secret = ledger("1/day")
    client = TestClient(fastapi_app(made), headers={"x-api-key": secret})
    with client.websocket_connect("/v1/chat") as socket:
        assert socket.receive_text() == "Key123"
    with pytest.raises(WebSocketDisconnect) as caught, client.websocket_connect("/v1/chat"):
        pass
    assert caught.value.code == 1008


def test_fastapi_dependency_without_handler():
    """Without its handler a refusal is still the right status with the right headers."""
    made, secret = ledger("1/day")
    app = fastapi_app(made)
    del app.exception_handlers[Refused]
    client = TestClient(app, headers={"x-api-key": secret})
    client.get("/v1/pets/7")
    answer = client.get("/v1/pets/7")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "43200")
    assert answer.json()["detail"].startswith("Over requests/day")


def test_fastapi_dependency_without_handler_keeps_settings():
    """Without its handler a refusal keeps to the profile and the style, and no cache keeps it."""
    for settings, expected in (
        ({"profile": None}, {"cache-control": "no-store"}),
        ({"profile": "github"}, {"cache-control": "no-store", "x-ratelimit-remaining": "0", "retry-after": "43200"}),
        ({"style": "api_gateway"}, {"x-amzn-errortype": "LimitExceededException"}),
    ):
        made, secret = ledger("1/day")
        app = fastapi_app(made, **settings)
        del app.exception_handlers[Refused]
        client = TestClient(app, headers={"x-api-key": secret})
        client.get("/v1/pets/7")
        answer = client.get("/v1/pets/7")
        assert (answer.status_code, answer.headers["content-type"]) == (429, "application/json")
        fields = ("cache-control", "retry-after", "ratelimit", "x-ratelimit-remaining", "x-amzn-errortype")
        assert {name: answer.headers[name] for name in fields if name in answer.headers} == expected


def test_fastapi_dependency_in_shadow():
    """In shadow mode the dependency gives the refusal to the route and refuses nobody."""
    client = TestClient(fastapi_app(ledger()[0], shadow=True))
    assert client.get("/v1/pets/7").json() == {"pet": 7, "for": None}


@pytest.mark.parametrize(
    ("key", "scheme"),
    [
        ("X-API-Key", {"type": "apiKey", "in": "header", "name": "x-api-key"}),
        (["?api_key", "x-api-key"], {"type": "apiKey", "in": "query", "name": "api_key"}),
        ("authorization", {"type": "http", "scheme": "bearer"}),
        (lambda scope: None, {"type": "apiKey", "in": "header", "name": "x-api-key"}),
    ],
)
def test_openapi(key, scheme):
    """OpenAPI shows how the key is presented, and which routes ask for it."""
    schema = fastapi_app(ledger()[0], key=key).openapi()
    assert schema["components"]["securitySchemes"] == {"QuotaKey": scheme}
    assert schema["paths"]["/v1/pets/{number}"]["get"]["security"] == [{"QuotaKey": []}]
    assert schema["paths"]["/v1/pets"]["post"]["security"] == [{"QuotaKey": []}]
    assert "security" not in schema["paths"]["/open"]["get"]


@pytest.mark.parametrize("name", ["charge", "success", "actual", "ttl", "exempt"])
def test_fastapi_dependency_settings(name):
    """What only the middleware can honour is refused."""
    with pytest.raises(InvalidValue) as caught:
        QuotaKey(ledger()[0], on_unavailable="deny", **{name: "success"})
    assert caught.value.field == name


def test_fastapi_dependency_in_two_applications():
    """One dependency serves several applications, each with its own routes."""
    made, secret = ledger("9/day", costs={"GET /a": 3, "GET /b": 5})
    api_key = QuotaKey(made, on_unavailable="deny")
    for name in "ab":
        app = FastAPI()
        app.get(f"/{name}")(lambda decision=Depends(api_key): decision.cost)
        assert TestClient(app, headers={"x-api-key": secret}).get(f"/{name}").json() == {"a": 3, "b": 5}[name]


def test_real_client_reads_the_headers():
    """httpx through its WSGI and ASGI transports gets the same headers."""
    made, secret = ledger("9/day")
    app = flask_app()
    app.wsgi_app = InFrontOfWSGI(app.wsgi_app, made, on_unavailable="deny")
    with httpx.Client(transport=httpx.WSGITransport(app=app), base_url="http://shop") as client:
        first = client.get("/stream", headers={"x-api-key": secret})
    assert first.headers["ratelimit-policy"] == '"requests/day";q=9;w=86400'
    assert first.headers["ratelimit"] == '"requests/day";r=8;t=43200'
