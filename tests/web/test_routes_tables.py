"""Names of routes follow the application's own tables: kinds, hosts, languages, mounts, and routes that come late."""

from __future__ import annotations

import sys
import types
import warnings

import flask
import pytest
from asgiref.wsgi import WsgiToAsgi
from django.conf import settings
from django.conf.urls.i18n import i18n_patterns
from django.core.asgi import get_asgi_application
from django.core.wsgi import WSGIHandler, get_wsgi_application
from django.http import HttpResponse
from django.test import override_settings
from django.urls import URLPattern, clear_url_caches, converters, include, path, register_converter, set_urlconf
from django.urls.resolvers import RoutePattern
from django.utils import translation
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Match, Mount, Route, Router, WebSocketRoute
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.routing import BaseConverter, Map, Rule, ValidationError

import django_site  # noqa: F401 -- sets Django up
import paths
from documents import BLOCK
from quota.asgi import QuotaMiddleware as InFrontOfASGI
from quota.fastapi import QuotaKey
from quota.web.gate import Gate
from quota.web.routes import templates
from quota.wsgi import QuotaMiddleware as InFrontOfWSGI
from web import asgi, environ, ledger, wsgi

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette prefers a later httpx for its test client, and works with this one
    warnings.simplefilter("ignore", DeprecationWarning)
    from starlette.testclient import TestClient


async def page(request):
    return PlainTextResponse("page")


async def feed(socket):
    await socket.accept()
    await socket.close()


def scope(path, kind="http", **more):
    return {"type": kind, "path": path, "root_path": "", "headers": [], **more}


def name(gate, path, request=None, method="GET"):
    """The name that a gate gives, by a scope unless told."""
    return gate.name(method, path, scope(path) if request is None else request)


def gate(app):
    return Gate(on_unavailable="deny", template=templates(app))


def statuses(app, path, secret, count=4, **kwargs):
    return [asgi(app, path=path, headers={"x-api-key": secret}, **kwargs).status for _ in range(count)]


# The kind of request


@pytest.mark.parametrize("first", ["websocket", "page"])
def test_a_websocket_does_not_hide_a_page(first):
    """A WebSocket's pattern in front of a page's, or behind it, names its own requests only, whichever came first."""
    routes = [WebSocketRoute("/chat/{room}", feed), Route("/chat/{name}", page, methods=["GET", "POST"])]
    made, secret = ledger("99/day", routes={"GET /chat/{name}": "2/day as pages", "GET /chat/{room}": "1/day as rooms"})
    app = InFrontOfASGI(Starlette(routes=routes if first == "websocket" else routes[::-1]), made, on_unavailable="deny")
    assert statuses(app, "/chat/1", secret) == [200, 200, 429, 429]
    assert statuses(app, "/chat/1", secret, 2, kind="websocket")[0] == 101
    assert statuses(app, "/chat/1", secret, 2, kind="websocket") == [403, 403]


def test_a_page_for_all_does_not_hide_a_websocket():
    """A page that takes every path leaves a WebSocket's limits alone."""
    made, secret = ledger("99/day", routes={"GET /feed/{id}": "1/day"})
    app = Starlette(routes=[Route("/{rest:path}", page), WebSocketRoute("/feed/{id}", feed)])
    front = InFrontOfASGI(app, made, on_unavailable="deny")
    assert statuses(front, "/feed/1", secret, kind="websocket") == [101, 403, 403, 403]


def test_kinds_in_fastapi():
    """FastAPI's WebSockets and pages on equal paths are told apart, in included routers too, by middleware and dependency."""
    router = APIRouter(prefix="/v1")

    @router.websocket("/x/{a}")
    async def chat(socket: WebSocket, a: str):
        await socket.accept()
        await socket.close()

    router.get("/x/{b}")(lambda b: b)
    app = FastAPI()
    app.include_router(router)
    find = templates(app)
    assert find("GET", "/v1/x/1") == "/v1/x/{b}"
    assert find("GET", "/v1/x/1", scope("/v1/x/1", "websocket")) == "/v1/x/{a}"


def test_kinds_in_flask():
    """A WebSocket rule of Werkzeug's and a page on the same path are told apart by the upgrade that a request asks for."""
    app = flask.Flask("shop")
    app.add_url_rule("/chat/<room>", "room", lambda room: room, websocket=True)
    app.add_url_rule("/chat/<name>", "name", lambda name: name)
    made = gate(app)
    upgrade = environ(headers={"Upgrade": "websocket", "Connection": "Upgrade"})
    for _ in range(2):
        assert name(made, "/chat/1", environ()) == "GET /chat/<name>"
        assert name(made, "/chat/1", upgrade) == "GET /chat/<room>"


# Hosts


def test_hosts_in_starlette():
    """Where an application routes by host, a request is named by what serves its host, the same each time."""
    app = Starlette(routes=[Host("api.example", Router([Route("/x/{a}", page)])), Route("/x/{b}", page)])
    made = gate(app)
    api = scope("/x/1", headers=[(b"host", b"api.example")])
    for _ in range(2):
        assert name(made, "/x/1", api) == "GET /x/{a}"
        assert name(made, "/x/1") == "GET /x/{b}"
    assert name(made, "/none", scope("/none", headers=[(b"host", b"api.example")])) == "GET /none"


def test_hosts_in_flask():
    """Subdomains and hosts of Flask's name a request as they serve it."""
    by_subdomain = flask.Flask("shop", subdomain_matching=True)
    by_subdomain.config["SERVER_NAME"] = "shop.example"
    by_subdomain.add_url_rule("/x/<a>", "a", str, subdomain="api")
    by_subdomain.add_url_rule("/x/<b>", "b", str)
    by_host = flask.Flask("shop", host_matching=True, static_folder=None)
    by_host.add_url_rule("/x/<a>", "a", str, host="api.shop.example")
    by_host.add_url_rule("/x/<b>", "b", str, host="shop.example")
    for app in (by_subdomain, by_host):
        made = gate(app)
        for _ in range(2):
            assert name(made, "/x/1", environ(headers={"Host": "api.shop.example"})) == "GET /x/<a>"
            assert name(made, "/x/1", environ(headers={"Host": "shop.example"})) == "GET /x/<b>"
    made = gate(
        types.SimpleNamespace(url_map=Map([Rule("/x/<a>", endpoint="a", host="api.example")], host_matching=True))
    )
    assert name(made, "/x/1", environ(headers={"Host": "api.example"})) == "GET /x/<a>"
    assert name(made, "/x/1", environ(headers={"Host": "shop.example"})) == name(made, "/x/1", {}) == "GET /x/1"


# Where an application says it is mounted


def rooted(root, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the newest FastAPI would rather have the server told
        app = FastAPI(root_path=root, **settings)
    app.get("/pets/{n}")(lambda n: n)
    return app


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize(("start", "server"), [("/api", ""), ("", ""), ("/api", "/api"), ("/api", "/else")])
def test_fastapi_root_path(inside, start, server):
    """An application that says where it is mounted is limited, whether its proxy keeps the prefix or not."""
    made, secret = ledger("99/day", routes={"GET /pets/{n}": "2/day as pets"})
    app = rooted("/api")
    if inside:
        app.add_middleware(InFrontOfASGI, ledger=made, on_unavailable="deny", exempt="/docs")
        front = app
    else:
        front = InFrontOfASGI(app, made, on_unavailable="deny", exempt="/docs")
    assert statuses(front, f"{start}/pets/1", secret, root_path=server) == [200, 200, 429, 429]
    assert asgi(front, path=f"{start}/docs", root_path=server).status == 200


def test_fastapi_root_path_of_a_mounted_application():
    """A mounted application's own root path is honoured as it honours it."""
    sub = rooted("/sub")
    app = FastAPI()
    app.mount("/sub", sub)
    assert TestClient(app).get("/sub/pets/1").status_code == 200
    assert name(gate(app), "/sub/pets/1") == "GET /sub/pets/{n}"
    app = FastAPI()
    app.mount("/elsewhere", sub)
    assert TestClient(app).get("/elsewhere/pets/1").status_code == 404
    assert name(gate(app), "/elsewhere/pets/1") == "GET /elsewhere/{path}"


def test_fastapi_root_path_of_a_dependency():
    """The dependency names routes below the root path too."""
    made, secret = ledger("99/day", routes={"GET /pets/{n}": "2/day as pets"})
    app = rooted("/api", dependencies=[Depends(QuotaKey(made, on_unavailable="deny"))])
    client = TestClient(app, headers={"x-api-key": secret})
    assert [client.get(f"/api/pets/{n}").status_code for n in range(4)] == [200, 200, 429, 429]


@override_settings(FORCE_SCRIPT_NAME="/api")
def test_django_script_name():
    """By ASGI Django takes FORCE_SCRIPT_NAME from the path; by WSGI it does not."""
    made, secret = ledger("99/day", routes={"GET /pets/<int:number>/": "2/day as pets"})
    app = InFrontOfASGI(get_asgi_application(), made, on_unavailable="deny")
    assert statuses(app, "/api/pets/1/", secret, lower=False) == [200, 200, 429, 429]
    assert name(gate(get_wsgi_application()), "/pets/1/", environ()) == "GET /pets/<int:number>/"


# Mounts


def test_applications_in_mounts():
    """What is mounted names its routes behind the mount's path, whatever stands before it and whatever framework it is."""
    shop = flask.Flask("shop")
    shop.get("/pets/<int:number>")(str)
    inner = Starlette(routes=[Route("/pets/{number}", page)])
    app = Starlette(
        routes=[
            Mount("/flask", app=WsgiToAsgi(shop)),
            Mount("/zipped", app=GZipMiddleware(inner)),
            Mount("/plain", app=PlainTextResponse("plain")),
            Mount("/deep", routes=[Mount("/er", app=inner)]),
        ]
    )
    made = gate(app)
    for _ in range(2):
        assert name(made, "/flask/pets/7") == "GET /flask/pets/<int:number>"
        assert name(made, "/zipped/pets/7") == "GET /zipped/pets/{number}"
        assert name(made, "/plain/pets/7") == "GET /plain/{path}"
        assert name(made, "/deep/er/pets/7") == "GET /deep/er/pets/{number}"


def test_a_newline_at_the_end_of_a_path():
    """Starlette takes a line feed behind a mounted path for nothing; the inner route that it serves is the one named."""
    app = Starlette(routes=[Mount("/shop", routes=[Route("/{rest:path}", page)])])
    made, secret = ledger("99/day", routes={"GET /shop/{rest}": "2/day"})
    client = TestClient(InFrontOfASGI(app, made, on_unavailable="deny"), headers={"x-api-key": secret})
    assert [client.get("/shop/a%0a").status_code for _ in range(4)] == [200, 200, 429, 429]


@pytest.mark.parametrize("place", ["app", "application", "wsgi_app", "wsgi_application"])
def test_behind_other_middlewares(place):
    """A middleware keeps the application behind it in one of these places; WhiteNoise, in front of Django, in the second."""
    app = get_wsgi_application()
    assert templates(types.SimpleNamespace(**{place: app}))("GET", "/pets/7/") == "/pets/<int:number>/"


def test_a_handler_of_the_project():
    """A project's own subclass of Django's handler is Django."""
    assert templates(type("Handler", (WSGIHandler,), {"__module__": "project.wsgi"})())("GET", "/stream") == "/stream"


# Django's languages and tables


def hello(request, **kwargs):
    return HttpResponse("hello")


def table(**names):
    """A module that is a table of URLs; a new one each time."""
    module = types.ModuleType("table")
    module.__dict__.update(names)
    return module


LANGUAGES = {
    "LANGUAGES": [("en", "English"), ("fr", "French")],
    "LANGUAGE_CODE": "en",
    "MIDDLEWARE": ["django.middleware.locale.LocaleMiddleware"],
}


@pytest.fixture
def clean():
    """The thread as Django finds it."""
    yield
    clear_url_caches()
    set_urlconf(None)
    translation.deactivate()


@pytest.mark.parametrize("prefixed", [True, False])
@pytest.mark.parametrize("front", ["wsgi", "asgi"])
def test_django_languages(clean, prefixed, front):
    """A route is named in the language of its own path, whatever language the thread served before, and leaves it alone."""
    patterns = i18n_patterns(path("pets/<int:number>", hello), prefix_default_language=prefixed)
    limits = {
        "GET /fr/pets/<int:number>": "2/day as fr",
        "GET /en/pets/<int:number>": "2/day as en",
        "GET /pets/<int:number>": "2/day as en2",
    }
    with override_settings(ROOT_URLCONF=table(urlpatterns=patterns), **LANGUAGES):
        made, secret = ledger("99/day", routes=limits)
        middleware = (InFrontOfWSGI if front == "wsgi" else InFrontOfASGI)(
            (get_wsgi_application if front == "wsgi" else get_asgi_application)(), made, on_unavailable="deny"
        )
        serve = wsgi if front == "wsgi" else asgi
        plain = "/en/pets/1" if prefixed else "/pets/1"
        for left in ("en", "fr", "de", None):
            translation.activate(left) if left else translation.deactivate_all()
            made, secret = ledger("99/day", routes=limits)
            middleware._ledger = made
            found = [
                serve(
                    middleware, path=url, headers={"x-api-key": secret}, **({} if front == "wsgi" else {"lower": False})
                ).status
                for url in (plain, "/fr/pets/1") * 4
            ]
            assert found == [200] * 4 + [429] * 4
        translation.activate("de")
        assert name(gate(get_wsgi_application()), "/fr/pets/1", environ()) == "GET /fr/pets/<int:number>"
        assert translation.get_language() == "de"


def test_django_without_languages(clean, monkeypatch):
    """Without prefixes of languages a path activates none: whoever asks for /xx/ makes no process load that language."""
    asked = []
    activate = translation.activate
    monkeypatch.setattr(translation, "activate", lambda language: asked.append(language) or activate(language))
    found = gate(get_wsgi_application())
    for language in ("fr", "de", "ja"):
        assert name(found, f"/{language}/pets/1", environ()) == f"GET /{language}/pets/1"
    assert set(asked) == {settings.LANGUAGE_CODE}
    with override_settings(ROOT_URLCONF=table(urlpatterns=[path("fr/pets/<int:number>", hello)]), USE_I18N=False):
        assert name(gate(get_wsgi_application()), "/fr/pets/1", environ()) == "GET /fr/pets/<int:number>"


def test_django_urlconf_that_the_thread_left(clean):
    """The table of an earlier request's host says nothing: the name is that of ROOT_URLCONF, the first time and later."""
    other = table(urlpatterns=[path("pets/<slug:name>/", hello)])
    made = gate(get_wsgi_application())
    for left in (None, other, None, other):
        set_urlconf(left)
        assert name(made, "/pets/7/", environ()) == "GET /pets/<int:number>/"


# Routes that come late, change, and go


def test_late_routes_in_starlette():
    """A route that is added, replaced or taken away names the very next request, in mounts too."""
    inner, app = Starlette(), Starlette()
    app.mount("/sub", inner)
    made = gate(app)
    assert name(made, "/late/1") == "GET /late/1"
    assert name(made, "/sub/late/1") == "GET /sub/{path}"
    app.add_route("/late/{n}", page)
    inner.add_route("/late/{n}", page)
    for _ in range(2):
        assert name(made, "/late/1") == "GET /late/{n}"
        assert name(made, "/sub/late/1") == "GET /sub/late/{n}"
    app.router.routes.insert(0, Route("/late/{first}", page))
    inner.router.routes[0] = Route("/late/{other}", page)
    assert name(made, "/late/1") == "GET /late/{first}"
    assert name(made, "/sub/late/1") == "GET /sub/late/{other}"
    app.router.routes = []
    assert name(made, "/late/1") == "GET /late/1"


def test_late_routes_in_fastapi():
    """The same of FastAPI's, of the routers that it has included, and of routers included late."""
    app, router, late = FastAPI(), APIRouter(), APIRouter()
    app.include_router(router, prefix="/v1")
    made = gate(app)
    assert name(made, "/late/1") == "GET /late/1"
    app.get("/late/{n}")(lambda n: n)
    assert name(made, "/late/1") == "GET /late/{n}"
    late.get("/late/{n}")(lambda n: n)
    app.include_router(late, prefix="/v2")
    assert name(made, "/v2/late/1") == "GET /v2/late/{n}"
    router.get("/late/{n}")(lambda n: n)
    served = (
        TestClient(app).get("/v1/late/1").status_code == 200
    )  # older FastAPIs take a router as it was when included
    assert name(made, "/v1/late/1") == ("GET /v1/late/{n}" if served else "GET /v1/late/1")


def test_late_routes_in_flask():
    """Of Flask's: a late rule, a late blueprint, and a late rule that goes before the one that served a path."""
    app = flask.Flask("shop")
    app.add_url_rule("/<path:everything>", "everything", str)
    made = gate(app)
    assert name(made, "/late/1", {}) == "GET /<path:everything>"
    app.add_url_rule("/late/<int:n>", "everything")
    assert name(made, "/late/1", {}) == "GET /late/<int:n>"
    blueprint = flask.Blueprint("blue", "blue")
    blueprint.add_url_rule("/<int:n>", "page", str)
    app.register_blueprint(blueprint, url_prefix="/blue")
    assert name(made, "/blue/1", {}) == "GET /blue/<int:n>"
    app.url_map = Map([Rule("/late/<n>", endpoint="x")])
    assert name(made, "/late/1", {}) == "GET /late/<n>"


def test_late_mounts_of_a_dispatcher():
    """Of Werkzeug's dispatcher: an application that is mounted late, and one that is put in another's place."""
    first, second = flask.Flask("first"), flask.Flask("second")
    first.add_url_rule("/pets/<a>", "a", str)
    second.add_url_rule("/pets/<b>", "b", str)
    dispatcher = DispatcherMiddleware(flask.Flask("front"))
    made = gate(dispatcher)
    assert name(made, "/shop/pets/1", {}) == "GET /shop/pets/1"
    for app, expected in ((first, "GET /shop/pets/<a>"), (second, "GET /shop/pets/<b>")):
        dispatcher.mounts["/shop"] = app
        assert name(made, "/shop/pets/1", {}) == expected
    second.add_url_rule("/late/<b>", "late", str)
    assert name(made, "/shop/late/1", {}) == "GET /shop/late/<b>"


def test_late_routes_in_django(clean):
    """Of Django's: another ROOT_URLCONF, a pattern added to the table, and one added to an included table."""
    inner = table(urlpatterns=[])
    root = table(urlpatterns=[path("in/", include((inner.urlpatterns, "inner")))])
    made = gate(get_wsgi_application())
    with override_settings(ROOT_URLCONF=root):
        assert name(made, "/pets/7/", environ()) == "GET /pets/7/"
        assert name(made, "/in/late/1", environ()) == "GET /in/late/1"
        root.urlpatterns.append(path("late/<int:n>", hello))
        inner.urlpatterns.append(path("late/<int:n>", hello))
        for _ in range(2):
            assert name(made, "/late/1", environ()) == "GET /late/<int:n>"
            assert name(made, "/in/late/1", environ()) == "GET /in/late/<int:n>"
    assert name(made, "/pets/7/", environ()) == "GET /pets/<int:number>/"
    assert name(made, "/late/1", environ()) == "GET /late/1"


class Known:
    """A converter whose answer changes with what is known."""

    regex = "[0-9]+"
    known: set = set()

    def to_python(self, value):
        if value not in self.known:
            raise ValidationError
        return value

    def to_url(self, value):
        return value


def test_converters_that_change_their_mind(clean, monkeypatch):
    """Names by a converter of the application's own are asked for each time: what it accepts may change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        register_converter(Known, "known")
    root = table(urlpatterns=[path("pets/<known:pet>", hello), path("pets/<str:name>", hello)])
    with override_settings(ROOT_URLCONF=root):
        made = gate(get_wsgi_application())
        for known, other in (("1", "2"), ("2", "1")):
            monkeypatch.setattr(Known, "known", {known})
            assert name(made, f"/pets/{known}", environ()) == "GET /pets/<known:pet>"
            assert name(made, f"/pets/{other}", environ()) == "GET /pets/<str:name>"
    converters.REGISTERED_CONVERTERS.pop("known")
    app = flask.Flask("shop")
    app.url_map.converters["known"] = type("Pet", (Known, BaseConverter), {})
    app.add_url_rule("/pets/<known:pet>", "pet", str)
    made = gate(app)
    for known, other in (("1", "2"), ("2", "1")):
        monkeypatch.setattr(Known, "known", {known})
        assert name(made, f"/pets/{known}", {}) == "GET /pets/<known:pet>"
        assert name(made, f"/pets/{other}", {}) == f"GET /pets/{other}"  # which Werkzeug does not serve then


class ByVersion(Route):
    """A route of an application's own kind, for one version of its API."""

    def __init__(self, version, *args):
        super().__init__(*args)
        self.version = version

    def matches(self, scope):
        if (b"version", self.version) not in scope["headers"]:
            return Match.NONE, {}
        return super().matches(scope)


def test_routes_of_an_applications_own_kind():
    """Routes that go by more than the path, by a header say, name each request by what serves it."""
    made = gate(Starlette(routes=[ByVersion(b"1", "/x/{a}", page), ByVersion(b"2", "/x/{b}", page)]))
    for version, expected in ((b"1", "GET /x/{a}"), (b"2", "GET /x/{b}"), (b"1", "GET /x/{a}"), (b"3", "GET /x/1")):
        assert name(made, "/x/1", scope("/x/1", headers=[(b"version", version)])) == expected


def test_patterns_of_a_projects_own_kind(clean):
    """Nor are names kept where a pattern of a Django project's own kind may say otherwise the next time."""

    class Sometimes(RoutePattern):
        open = True

        def match(self, path):
            return super().match(path) if Sometimes.open else None

    root = table(
        urlpatterns=[URLPattern(Sometimes("pets/<str:a>", is_endpoint=True), hello), path("pets/<str:b>", hello)]
    )
    with override_settings(ROOT_URLCONF=root):
        made = gate(get_wsgi_application())
        assert name(made, "/pets/1", environ()) == "GET /pets/<str:a>"
        Sometimes.open = False
        assert name(made, "/pets/1", environ()) == "GET /pets/<str:b>"


# What clients spell


@pytest.mark.parametrize(
    ("method", "url", "expected"),
    [
        ("HEAD", "/pets/7", "GET /pets/{n}"),
        ("OPTIONS", "/pets/7", "OPTIONS /pets/7"),
        ("GET", "/pets/7/", "GET /pets/7/"),
        ("GET", "//pets/7", "GET //pets/7"),
        ("GET", "/pets/a b", "GET /pets/{n}"),
        ("GET", "/pets/é", "GET /pets/{n}"),
        ("BREW", "/pets/7", "BREW /pets/7"),
    ],
)
def test_spellings(method, url, expected):
    """HEAD is GET; what the framework does not serve by a route is named by its path."""
    made = gate(Starlette(routes=[Route("/pets/{n}", page)]))
    assert name(made, url, method=method) == expected


class ByHost:
    """A middleware of a project that serves each host from a table of its own."""

    tables: dict = {}

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        request.urlconf = self.tables.get(request.get_host())
        return self.get_response(request)


def test_django_tables_by_host(clean, monkeypatch):
    """A project that serves each host from a table of its own names its routes itself, as the document does."""
    shop = table(urlpatterns=[path("pets/<int:n>", hello)])
    api = table(urlpatterns=[path("pets/<str:name>", hello)])
    monkeypatch.setattr(ByHost, "tables", {"api.shop.example": api})
    text = (paths.ROOT / "docs" / "web.md").read_text("utf-8")
    block = next(block for block in BLOCK.findall(text) if "def route_by_host" in block)
    made, secret = ledger(
        "99/day", routes={"GET /pets/<int:n>": "2/day as shop", "GET /pets/<str:name>": "1/day as api"}
    )
    names = {"InFront": InFrontOfWSGI, "get_wsgi_application": get_wsgi_application, "ledger": made}
    with override_settings(ROOT_URLCONF=shop, MIDDLEWARE=[f"{__name__}.ByHost"]):
        for module, urls in (("shop", None), ("shop.urls", shop), ("shop.api_urls", api)):
            monkeypatch.setitem(sys.modules, module, urls or types.ModuleType(module))
        exec(block, names)
        found = [
            wsgi(names["application"], "HEAD" if turn else "GET", "/pets/1", {"x-api-key": secret, "Host": host}).status
            for turn in range(3)
            for host in ("api.shop.example", "shop.example")
        ]
    assert found == [200, 200, 429, 200, 429, 429]
    assert wsgi(names["application"], path="/none", headers={"x-api-key": secret}).status == 404
