"""Routes that an application has, listed as its framework names them, and those of a plan that it has not, said once."""

from __future__ import annotations

import json
import logging
import sys
import types

import django_site  # noqa: F401 -- sets Django up, before what needs it # isort: skip
import flask
import pytest
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.test import Client, override_settings
from django.urls import include, path, re_path
from django.views import View
from fastapi import APIRouter, Depends, FastAPI
from rest_framework.response import Response
from rest_framework.routers import DefaultRouter
from rest_framework.viewsets import ViewSet
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
from werkzeug.middleware.dispatcher import DispatcherMiddleware

import quota.flask
from commands import Quota, validate
from quota import Ledger, UsagePlan
from quota.asgi import QuotaMiddleware as InAsgi
from quota.fastapi import QuotaKey
from quota.web.routes import KnownRoutes, ListedRoute, templates
from quota.web.routes.known import _has
from quota.wsgi import QuotaMiddleware as InWsgi
from web import asgi, wsgi


def page(request, **parts):
    return PlainTextResponse("page")


class Animals(ViewSet):
    def list(self, request):
        return Response([])

    def retrieve(self, request, pk):
        return Response(pk)

    def create(self, request):
        return Response({})


class Shop(View):
    def get(self, request):
        return HttpResponse("shop")

    def post(self, request):
        return HttpResponse("shop")


router = DefaultRouter()
router.register("animals", Animals, basename="animal")
urls = types.ModuleType("quota_known_urls")
urls.urlpatterns = [
    path("pets/<int:number>/", lambda request, number: HttpResponse("pet")), path("shop", Shop.as_view()), path("api/", include(router.urls)),
    re_path(r"^old/", include([re_path(r"^(?P<year>[0-9]{4})$", lambda request, year: HttpResponse(year))])),
]  # fmt: skip
sys.modules["quota_known_urls"] = urls


def flask_app():
    app = flask.Flask("shop", static_folder=None)
    app.get("/pets/<int:number>")(lambda number: "pet")
    app.route("/export", methods=["POST", "PUT"], endpoint="export")(lambda: "export")
    blueprint = flask.Blueprint("admin", "admin", url_prefix="/admin")
    blueprint.get("/users")(lambda: "users")
    app.register_blueprint(blueprint)
    return app


def starlette_app():
    inner = Router([Route("/list", page), Route("/{n}", page, methods=["DELETE"])])
    routes = [
        Route("/pets/{number:int}", page), Route("/any", type("Any", (), {"__init__": lambda self, *_: None})), WebSocketRoute("/chat", page), Mount("/inner", inner),
        Mount("/static", lambda *_: None), Host("api.shop", Router([Route("/host", page)])),
    ]  # fmt: skip
    return Starlette(routes=routes)


def fastapi_app():
    app, users = FastAPI(docs_url=None, redoc_url=None, openapi_url=None), APIRouter(prefix="/users")
    users.get("/{user}")(lambda user: user)
    app.post("/pets/{number}")(lambda number: number)
    app.include_router(users, prefix="/v1")
    app.mount("/shop", starlette_app())
    return app


STARLETTE = [
    "ANY /any",
    "ANY /static/*",
    "DELETE /inner/{n}",
    "GET /chat",
    "GET /host",
    "GET /inner/list",
    "GET /pets/{number}",
]
DJANGO = [
    "ANY /^old/(?P<year>[0-9]{4})$", "ANY /pets/<int:number>/", "GET /api/", "GET /api/(?P<format>\\.[a-z0-9]+/?)", "GET /api/animals/$",
    "GET /api/animals/(?P<pk>[^/.]+)/$", "GET /shop", "POST /api/animals/$", "POST /shop",
]  # fmt: skip
FLASK = ["GET /admin/users", "GET /pets/<int:number>", "POST /export", "PUT /export"]


def listed(app):
    return KnownRoutes(templates(app)).names()


def test_every_framework_s_routes():
    """Flask with blueprints, Starlette and FastAPI with routers, mounts and hosts, behind middlewares too."""
    assert listed(flask_app()) == listed(InWsgi(flask_app().wsgi_app, Ledger(), on_unavailable="deny")) == FLASK
    assert listed(starlette_app()) == STARLETTE
    mounted = [name.replace(" /", " /shop/") for name in STARLETTE]
    assert listed(fastapi_app()) == sorted([*mounted, "GET /v1/users/{user}", "POST /pets/{number}"])
    both = DispatcherMiddleware(flask_app(), {"/two": flask_app(), "/x": str})
    assert listed(both) == sorted([*FLASK, *(name.replace(" /", " /two/") for name in FLASK), "ANY /x/*"])


def test_django_s_routes():
    """Those of its URLs and of the REST framework's routers; views that are known to have some methods alone tell them."""
    with override_settings(ROOT_URLCONF="quota_known_urls"):
        found = listed(get_wsgi_application())
        assert [name for name in found if "format" not in name] == [name for name in DJANGO if "format" not in name]
        assert found == listed(get_asgi_application())
        find = templates(get_wsgi_application())
        for url in ("/pets/7/", "/shop", "/api/animals/", "/api/animals/3/", "/old/2024"):
            assert any(name.endswith(f" {find('GET', url)}") for name in found)


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("GET /a", True), ("POST /a", False), ("ANY /a", True), ("GET /b", False), ("GET /a/*", True), ("GET /*", True), ("ANY /x/*", False),
        ("GET /mount/anything", True), ("PUT /mount/*", True), ("GET /mounted", False), ("a", False), ("/a", False), ("PATCH /free", True), ("POST /a/*", False),
    ],
)  # fmt: skip
def test_what_is_there(name, there):
    """By method, by path, by what is below, behind what is mounted and unknown."""
    routes = [ListedRoute(frozenset({"GET"}), "/a"), ListedRoute(frozenset({"GET"}), "/a/b"), ListedRoute(frozenset(), "/mount/", below=True),
              ListedRoute(frozenset(), "/free")]  # fmt: skip
    assert any(_has(route, name) for route in routes) == there


PLAN = {"routes": {"GET /pet/{number}": "2/day as pets", "GET /inner/*": "9/day as inner"}, "costs": {"pets": 2}}


def in_front(kind, ledger):
    """An application behind one of the faces, and how it is asked."""
    if kind == "starlette":
        app = InAsgi(starlette_app(), ledger, on_unavailable="deny")
        return lambda secret: asgi(app, path="/pets/7", headers={"x-api-key": secret}).status
    if kind == "fastapi":
        from starlette.testclient import TestClient

        app = FastAPI()
        app.get("/pets/{number}", dependencies=[Depends(QuotaKey(ledger, on_unavailable="deny"))])(
            lambda number: number
        )
        app.get("/inner/list")(lambda: 1)
        return lambda secret: TestClient(app).get("/pets/7", headers={"x-api-key": secret}).status_code
    if kind == "wsgi":
        app = flask_app()
        app.get("/inner/list", endpoint="inner")(lambda: "1")
        app.wsgi_app = InWsgi(app.wsgi_app, ledger, on_unavailable="deny")
        return lambda secret: wsgi(app, path="/pets/7", headers={"x-api-key": secret}).status
    app = flask_app()
    app.get("/inner/list", endpoint="inner")(lambda: "1")
    quota.flask.Quota(app, ledger, on_unavailable="deny")
    return lambda secret: app.test_client().get("/pets/7", headers={"x-api-key": secret}).status_code


@pytest.mark.filterwarnings("ignore:Using `httpx`")
@pytest.mark.parametrize("kind", ["starlette", "fastapi", "wsgi", "flask"])
def test_what_is_not_there_is_said_once(kind, caplog):
    """For each plan that decides, by the logger ``quota.web``, with the nearest names; again when the plan's routes change."""
    ledger = Ledger()
    ledger.add_plan(UsagePlan("p", "99/day", **PLAN))
    secret = ledger.issue_key("k", "p").secret
    ask = in_front(kind, ledger)
    for _ in range(3):
        assert ask(secret) == 200
    told = [record.getMessage() for record in caplog.records if record.name == "quota.web"]
    near = "<int:number>" if kind in ("wsgi", "flask") else "{number}"
    assert len(told) == 2
    assert told[0].startswith(
        "plan 'p' limits 'GET /pet/{number}', a route that the application does not have; near it are "
    )
    assert f"'GET /pets/{near}'" in told[0]
    assert told[1].startswith("plan 'p' limits 'pets', a route that the application does not have")
    caplog.clear()
    ledger.replace_plan(UsagePlan("p", "98/day", **PLAN))
    assert ask(secret) == 200
    assert not [record for record in caplog.records if record.name == "quota.web"]
    ledger.replace_plan(UsagePlan("p", "98/day", costs={"POST /nowhere": 2}))
    assert [ask(secret) for _ in range(2)] == [200, 200]
    assert ["'POST /nowhere'" in record.getMessage() for record in caplog.records if record.name == "quota.web"] == [
        True
    ]


def test_django_says_it_too(caplog):
    """By its middleware."""
    module = types.ModuleType("quota_known_shop")
    sys.modules["quota_known_shop"] = module
    module.ledger = Ledger()
    module.ledger.add_plan(
        UsagePlan("p", "99/day", routes={"GET /pets/<number>/": "1/day as pets", "GET /api/*": "9/day as api"})
    )
    secret = module.ledger.issue_key("k", "p").secret
    said = {"LEDGER": "quota_known_shop.ledger", "ON_UNAVAILABLE": "deny"}
    with override_settings(QUOTA=said, MIDDLEWARE=["quota.django.QuotaMiddleware"], ROOT_URLCONF="quota_known_urls"):
        for _ in range(2):
            assert Client().get("/pets/7/", headers={"x-api-key": secret}).status_code == 200
    (told,) = [record.getMessage() for record in caplog.records if record.name == "quota.web"]
    assert "'GET /pets/<number>/'" in told and "'ANY /pets/<int:number>/'" in told


def test_names_of_one_s_own_and_unknown_frameworks_say_nothing(caplog):
    """There is nothing to compare with then."""
    ledger = Ledger()
    ledger.add_plan(UsagePlan("p", "99/day", **PLAN))
    secret = ledger.issue_key("k", "p").secret
    caplog.set_level(logging.WARNING, "quota.web")

    def bare(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]

    for app, settings in ((flask_app().wsgi_app, {"route": lambda environ: "pets"}), (bare, {})):
        assert (
            wsgi(
                InWsgi(app, ledger, on_unavailable="deny", **settings), path="/pets/7", headers={"x-api-key": secret}
            ).status
            == 200
        )
    assert caplog.text == ""


def test_the_command(tmp_path):
    """Names, a plan's lost ones, as text and as JSON; status 1 for those, 2 for what is no application."""
    module = types.ModuleType("quota_known_app")
    module.app, module.make, module.bare = starlette_app(), flask_app, print
    sys.modules["quota_known_app"] = module
    quota = Quota()
    assert quota("routes", "quota_known_app:app") == 0
    assert quota.out.split("\n")[:-1] == STARLETTE
    assert quota("routes", "quota_known_app:make()", "--json") == 0
    assert json.loads(quota.out) == {"routes": FLASK}
    validate("routes", json.loads(quota.out))
    assert quota("plan", "add", "p", "9/day", "--cost", "GET /pets=2", "--cost", "ANY /inner/*=2") == 0
    assert quota("routes", "quota_known_app:app", "--plan", "p") == 1
    assert quota.out.startswith("GET /pets (near it: GET /pets/{number}")
    assert quota("routes", "quota_known_app:app", "--plan", "p", "--json") == 1
    validate("routes", json.loads(quota.out))
    assert quota("plan", "replace", "p", "9/day", "--cost", "GET /chat=2") == 0
    assert quota("routes", "quota_known_app:app", "--plan", "p") == 0
    for wrong, told in (
        ("quota_known_app", "MODULE:APP"), ("quota_known_app:none", "none"), ("quota_none:app", "quota_none"), ("quota_known_app:bare", "no framework"),
    ):  # fmt: skip
        assert quota("routes", wrong) == 2
        assert told in quota.err
