"""``quota.django``: the middleware, the decorator, the throttle of the REST framework, the command, by Django's own client."""

from __future__ import annotations

import asyncio
import inspect
import io
import json
import logging
import sys
import types
from contextlib import redirect_stderr, redirect_stdout
from getpass import getuser

import django_site  # noqa: F401 -- sets Django up, before what needs it # isort: skip
import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command, execute_from_command_line
from django.core.management.base import CommandError
from django.http import HttpResponse, StreamingHttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import clear_url_caches, include, path
from django.views import View
from rest_framework.decorators import api_view, throttle_classes
from rest_framework.response import Response
from rest_framework.routers import DefaultRouter
from rest_framework.viewsets import ViewSet

import paths
from documents import play
from quota import AsyncLedger, Ledger, UsagePlan
from quota.django import limited
from quota.django.config import ledger as project
from quota.django.drf import QuotaThrottle
from quota.web import Anonymous, Answer

OURS = "quota.django.QuotaMiddleware"
SESSIONS = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
seen = []


def pet(request, number):
    seen.append(request)
    return HttpResponse(f"{number} for {request.quota.key and request.quota.key.name}")


async def apet(request, number):
    seen.append(request)
    await asyncio.sleep(0)
    return HttpResponse(f"{number} for {request.quota.key and request.quota.key.name}")


def tells(request):
    seen.append((request.GET.get("key"), request.headers.get("x-api-key"), request.META["QUERY_STRING"], request.body))
    return HttpResponse("told")


def streams_in(request):
    parts = iter(lambda: request.read(70_000), b"")
    return HttpResponse(f"{sum(map(len, parts))} cost {request.quota.cost}")


def fails(request):
    return HttpResponse("no", status=500)


def raises(request):
    raise ZeroDivisionError


def used_seven(request):
    request.quota_actual = 7
    return HttpResponse("seven")


def stream(request):
    return StreamingHttpResponse(iter(["a", "b", "c"]))


def broken_stream(request):
    def parts():
        yield "a"
        raise ZeroDivisionError

    return StreamingHttpResponse(parts())


async def astream(request):
    async def parts():
        yield "a"
        await asyncio.sleep(0)
        yield "b"

    return StreamingHttpResponse(parts())


async def broken_astream(request):
    async def parts():
        yield "a"
        raise ZeroDivisionError

    return StreamingHttpResponse(parts())


class PetView(View):
    async def get(self, request):
        return HttpResponse("class")


class SyncView(View):
    def get(self, request):
        return HttpResponse("class")


class ByKey(QuotaThrottle):
    settings = {"cost": 2}


@api_view(["GET"])
@throttle_classes([ByKey])
def drf_pets(request):
    return Response({"user": str(request.user)})


class Animals(ViewSet):
    throttle_classes = [QuotaThrottle]

    def list(self, request):
        return Response([])

    def retrieve(self, request, pk):
        return Response(pk)


router = DefaultRouter()
router.register("animals", Animals, basename="animal")

urls = types.ModuleType("quota_test_urls")
urls.urlpatterns = [
    path("pets/<int:number>", pet), path("apets/<int:number>", apet), path("tells", tells), path("streams-in", streams_in), path("fails", fails), path("raises", raises),
    path("seven", used_seven), path("stream", stream), path("broken-stream", broken_stream), path("astream", astream),
    path("broken-astream", broken_astream),
    path("limited/<int:number>", limited(pet)), path("costly/<int:number>", limited(cost=2)(pet)), path("alimited/<int:number>", limited(cost=2)(apet)),
    path("named/<int:number>", limited(route="exports")(pet)), path("settled", limited(charge="success")(fails)), path("raised", limited(charge="success")(raises)),
    path("class", limited(PetView.as_view())), path("sync-class", limited(SyncView.as_view())),
    path("drf", drf_pets), path("api/", include(router.urls)),
]  # fmt: skip
sys.modules["quota_test_urls"] = urls
other = types.ModuleType("quota_other_urls")
other.urlpatterns = [path("shop/<slug:number>", pet)]
sys.modules["quota_other_urls"] = other
shop = types.ModuleType("quota_test_shop")
sys.modules["quota_test_shop"] = shop


def by_host(get_response):
    def middleware(request):
        request.urlconf = "quota_other_urls"
        return get_response(request)

    return middleware


shop.by_host = by_host


@pytest.fixture
def site():
    """Configure the project: a function of the settings; gives (ledger, key, secret)."""
    seen.clear()
    changed = []

    def start(limits="3/day", middleware=(OURS,), routes=(), costs=(), plans=(), ledger=None, **said):
        made = Ledger() if ledger is None else ledger
        made.add_plan(UsagePlan("p", limits, routes=dict(routes), costs=dict(costs)))
        for plan in plans:
            made.add_plan(plan)
        shop.ledger = made
        given = {"LEDGER": "quota_test_shop.ledger", "ON_UNAVAILABLE": "deny", **said}
        changed.append(override_settings(QUOTA=given, MIDDLEWARE=list(middleware), ROOT_URLCONF="quota_test_urls"))
        changed[-1].enable()
        return made, *made.issue_key("k", "p")

    yield start
    for change in reversed(changed):
        change.disable()


@pytest.fixture(scope="module")
def users():
    call_command("migrate", verbosity=0)
    User.objects.all().delete()
    return [User.objects.create_user(name) for name in ("ada", "bob")]


class Visitor:
    """Django's client, sync or async, asked the same way."""

    def __init__(self, kind, **more):
        self.kind = kind
        self.client = (AsyncClient if kind == "async" else Client)(raise_request_exception=False, **more)

    def get(self, url, key=None, method="get", **more):
        headers = {**({"x-api-key": key} if key else {}), **more.pop("headers", {})}
        answer = getattr(self.client, method)(url, headers=headers, **more)
        if not inspect.isawaitable(answer):
            return answer

        async def whole():
            response = await answer
            if response.streaming:
                response.whole = b"".join([part async for part in response.streaming_content])
            return response

        return asyncio.run(whole())

    def body(self, response):
        if not response.streaming:
            return response.content
        return response.whole if self.kind == "async" else b"".join(response.streaming_content)


@pytest.fixture(params=["sync", "async"])
def visitor(request):
    return Visitor(request.param)


def used(ledger, key, limit="requests/day"):
    return sum(record.used for record in ledger.usage(key) if record.limit == limit)


def test_the_middleware(site, visitor):
    """Who has a key is served within the limits and sees them; nobody else is; the view knows who it was."""
    ledger, key, secret = site()
    assert visitor.get("/pets/7").status_code == 403
    for left in (2, 1, 0):
        answer = visitor.get("/pets/7", secret)
        assert (answer.status_code, answer.content) == (200, b"7 for k")
        assert f'"requests/day";r={left}' in answer.headers["RateLimit"]
    answer = visitor.get("/apets/7", secret)
    assert (answer.status_code, answer.headers["Content-Type"]) == (429, "application/problem+json")
    assert json.loads(answer.content)["violated-policies"] == ["requests/day"]
    assert answer.headers["Retry-After"]
    assert visitor.get("/pets/7", secret, method="head").content == b""
    assert len(seen) == 3
    assert used(ledger, key) == 3


def test_async_views(site, visitor):
    """An async view is served alike, whatever the client is."""
    ledger, key, secret = site()
    assert visitor.get("/apets/7", secret).content == b"7 for k"
    assert visitor.get("/class", secret).status_code == 200
    assert used(ledger, key) == 3


@pytest.mark.parametrize("place", ["header", "query"])
def test_the_secret_is_hidden(site, visitor, place):
    """Wherever the view looks: headers, query, META, scope."""
    ledger, key, secret = site(KEY=["x-api-key", "?key"])
    answer = visitor.get("/tells", secret) if place == "header" else visitor.get(f"/tells?key={secret}&a=1")
    assert answer.status_code == 200
    assert secret not in str(seen) and f"****{secret[-4:]}" in str(seen)
    request = answer.asgi_request if visitor.kind == "async" else answer.wsgi_request
    assert secret not in str(request.META)
    assert secret.encode() not in str(getattr(request, "scope", "")).encode()


def test_routes_by_name(site, visitor):
    """The project's URLs name the routes; a middleware that chooses other tables is heard; so is a function."""
    ledger, key, secret = site("99/day", routes={"GET /pets/<int:number>": "2/day as pets"})
    assert [visitor.get(f"/pets/{n}", secret).status_code for n in range(3)] == [200, 200, 429]
    ledger, key, secret = site(
        "99/day", [f"{shop.__name__}.by_host", OURS], {"GET /shop/<slug:number>": "1/day as shop"}
    )
    visitor = Visitor(visitor.kind)
    assert [visitor.get(f"/shop/{n}", secret).status_code for n in range(2)] == [200, 429]
    assert visitor.get("/none", secret).status_code == 404
    visitor = Visitor(visitor.kind)
    ledger, key, secret = site("99/day", routes={"mine": "1/day as mine"}, ROUTE=lambda request: request.path_info[1:])
    assert [visitor.get("/mine", secret).status_code for n in range(2)] == [404, 429]


@pytest.mark.parametrize("charge", ["success", "response"])
def test_what_is_settled(site, visitor, charge):
    """Failures and streams that break give back what they held; successes keep it, and what was used is said by the view."""
    ledger, key, secret = site("100/day", CHARGE=charge)
    for url, status, body, total in (
        ("/pets/1", 200, b"1 for k", 1), ("/fails", 500, b"no", 1), ("/stream", 200, b"abc", 2), ("/none", 404, None, 2),
        ("/astream" if visitor.kind == "async" else "/stream", 200, b"ab" if visitor.kind == "async" else b"abc", 3), ("/seven", 200, b"seven", 10 if charge == "response" else 4),
    ):  # fmt: skip
        answer = visitor.get(url, secret)
        assert (answer.status_code, body or visitor.body(answer)) == (status, visitor.body(answer))
        answer.close()
        assert used(ledger, key) == total, url
        assert not [status for status in ledger.status(key) if status.used != total]
    assert visitor.get("/raises", secret).status_code == 500
    for url in ("/broken-stream", "/broken-astream")[: 1 + (visitor.kind == "async")]:
        with pytest.raises(ZeroDivisionError):
            visitor.body(visitor.get(url, secret))
    assert used(ledger, key) == total


def test_a_stream_that_nobody_reads_is_settled(site):
    """Closed by the server before its end, it counts as what it was: a success."""
    ledger, key, secret = site("100/day", CHARGE="success")
    answer = Visitor("sync").get("/stream", secret)
    next(iter(answer.streaming_content))
    answer.close()
    assert used(ledger, key) == 1


def test_users_and_addresses(site, visitor, users):
    """A key comes first, then who is logged in, by number, then the address; each is counted for itself."""
    plans = [UsagePlan("users", "2/day"), UsagePlan("free", "1/day")]
    ledger, key, secret = site(middleware=[*SESSIONS, OURS], plans=plans, USERS="users", ANONYMOUS="free")
    assert [visitor.get("/pets/1").status_code for _ in range(2)] == [200, 429]
    for user in users:
        if visitor.kind == "async":
            asyncio.run(visitor.client.aforce_login(user))
        else:
            visitor.client.force_login(user)
        assert [visitor.get("/apets/1").status_code for _ in range(3)] == [200, 200, 429]
    assert visitor.get("/pets/1", secret).content == b"1 for k"
    assert visitor.get("/pets/1", "none" * 9).status_code == 403
    visitor.client.cookies.clear()
    assert visitor.get("/pets/1").status_code == 429
    ledger, key, secret = site(middleware=[*SESSIONS, OURS], plans=plans, USERS="users")
    assert visitor.get("/pets/1").status_code == 403


def test_users_without_a_middleware_for_them(site, visitor):
    """It is said at once what is missing, in a check and to whoever asks."""
    site(plans=[UsagePlan("users", "2/day")], USERS="users", middleware=[OURS, *SESSIONS])
    assert [error.id for error in run_checks()] == ["quota.E002"]
    site(plans=[UsagePlan("users", "2/day")], USERS="users")
    visitor.client = (AsyncClient if visitor.kind == "async" else Client)()
    with pytest.raises(ImproperlyConfigured, match="USERS.* needs AuthenticationMiddleware"):
        visitor.get("/pets/1")


def test_callables_are_given_django_s_request(site, visitor):
    """Each of them, and each may be a dotted name."""
    given = []

    def note(name, answer):
        def function(*args):
            given.append((name, args[-1].path_info))
            return answer

        return function

    shop.refuse = lambda decision, request: Answer(418, [("X-Path", request.path_info)], b"tea")
    shop.report = lambda decision, request: given.append(("report", request.path_info))
    shop.body = lambda body: len(body) or None
    ledger, key, secret = site(
        "9/day",
        KEY=note("key", None),
        ANONYMOUS=Anonymous("p", note("by", "ann")),
        COST=note("cost", 2),
        EXEMPT=lambda request: request.path_info == "/fails",
        REFUSE="quota_test_shop.refuse",
        REPORT="quota_test_shop.report",
        COST_FROM_BODY="quota_test_shop.body",
        CHARGE="response",
        ACTUAL=note("actual", 1),
    )
    assert visitor.get("/fails").status_code == 500
    assert visitor.get("/pets/1").status_code == 200
    assert {name for name, _ in given} == {"key", "by", "cost", "actual", "report"}
    assert {url for _, url in given} == {"/pets/1"}
    answer = visitor.get("/tells", method="post", data=b"0123456789", content_type="text/plain")
    assert (answer.status_code, answer.content, answer.headers["X-Path"]) == (418, b"tea", "/tells")
    answer = visitor.get("/tells", method="post", data=b"01234567", content_type="text/plain")
    assert (answer.status_code, seen[-1][-1]) == (200, b"01234567")


def test_a_form_with_files_is_left_to_the_view(site, visitor):
    """It costs what the settings say, and is there whole."""
    ledger, key, secret = site("9/day", COST_FROM_BODY=lambda body: 9)
    file = SimpleUploadedFile("a.txt", b"contents")
    assert visitor.get("/tells", secret, method="post", data={"file": file}).status_code == 200
    assert b"contents" in seen[-1][-1]
    assert used(ledger, key) == 1


@pytest.mark.parametrize("size", [0, 7, 100, 101, 3_000_000])
def test_a_body_is_handed_on_whole(site, visitor, size):
    """Its first bytes say what it costs; a view reads all of it, also more than Django keeps in memory."""
    ledger, key, secret = site("1000/day", COST_FROM_BODY=len, MOST_BODY=100)
    answer = visitor.get("/streams-in", secret, method="post", data=b"x" * size, content_type="application/x")
    assert (answer.status_code, answer.content.decode()) == (200, f"{size} cost {min(size, 100) or 1}")
    if size <= 2_500_000:
        assert visitor.get("/tells", secret, method="post", data=b"x" * size, content_type="application/x").content
        assert seen[-1][-1] == b"x" * size


def test_preflights(site, visitor):
    """By ``PREFLIGHT``: asked for a key, passed on, or answered here."""
    browser = {"Origin": "https://shop.example", "Access-Control-Request-Method": "GET"}
    for said, status in (("ask", 403), ("pass", 200), ("answer", 204)):
        site(PREFLIGHT=said)
        assert visitor.get("/tells", method="options", headers=browser).status_code == status
    assert len(seen) == 1


def test_the_decorator(site, visitor):
    """A view alone: by the project's settings, by its own cost, by a route of its own, settled by its own response."""
    ledger, key, secret = site("5/day", (), {"exports": "1/day as exports"})
    assert visitor.get("/pets/1", secret).status_code == 500  # not limited: there is no decision
    assert visitor.get("/limited/1").status_code == 403
    answer = visitor.get("/limited/1", secret)
    assert (answer.content, '"requests/day";r=4' in answer.headers["RateLimit"]) == (b"1 for k", True)
    assert visitor.get("/alimited/1", secret).content == b"1 for k"
    assert visitor.get("/costly/1", secret).content == b"1 for k"
    assert used(ledger, key) == 5
    assert visitor.get("/costly/1", secret).status_code == 429
    ledger, key, secret = site(
        "99/day", (), {"exports": "1/day as exports", "GET /limited/<int:number>": "1/day as one"}
    )
    assert [visitor.get("/named/1", secret).status_code for _ in range(2)] == [200, 429]
    assert [visitor.get(f"/limited/{n}", secret).status_code for n in range(2)] == [200, 429]
    assert [visitor.get(url, secret).status_code for url in ("/settled", "/raised")] == [500, 500]
    assert used(ledger, key) == 2
    assert visitor.get("/class", secret).content == visitor.get("/sync-class", secret).content == b"class"


def test_settings_that_cannot_be_hashed_are_read_once(site):
    """Guesses of an address are counted whatever the settings are made of."""
    site("9/day", (), FAILED_KEYS="2/minute")
    urls.urlpatterns.append(path("listed", limited(cost={"requests": 2}, key=["x-api-key"])(pet)))
    clear_url_caches()
    try:
        assert [Visitor("sync").get("/listed", "none" * 9).status_code for _ in range(4)] == [403, 403, 429, 429]
    finally:
        urls.urlpatterns.pop()
        clear_url_caches()


def test_the_decorator_behind_the_middleware(site, visitor):
    """Both charge, by the same key, which the middleware hid."""
    ledger, key, secret = site("9/day")
    assert visitor.get("/costly/1", secret).content == b"1 for k"
    assert used(ledger, key) == 3


def test_the_throttle(site, users):
    """Of the REST framework: by key, by its user, by address; its own answers and ``Retry-After``, and no key is 403."""
    plans = [UsagePlan("users", "3/day"), UsagePlan("free", "2/day")]
    ledger, key, secret = site("4/day", SESSIONS, plans=plans, USERS="users", ANONYMOUS="free")
    visitor = Visitor("sync")
    assert [visitor.get("/drf", secret).status_code for _ in range(3)] == [200, 200, 429]
    answer = visitor.get("/drf", secret)
    assert (answer.json()["detail"][:22], int(answer.headers["Retry-After"]) > 0) == ("Request was throttled.", True)
    assert [visitor.get("/drf").status_code for _ in range(2)] == [200, 429]
    visitor.client.force_login(users[0])
    assert [visitor.get(f"/api/animals/{n}/").status_code for n in range(4)] == [200, 200, 200, 429]
    answer = visitor.get("/drf", "none" * 9)
    assert (answer.status_code, "API key" in answer.json()["detail"]) == (403, True), answer.json()
    site("4/day", (), UNAUTHORIZED=401, CHARGE="response")
    answer = visitor.get("/drf")
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, 'ApiKey in="header", name="x-api-key"')


def test_drf_routes(site):
    """The router's names are the routes'."""
    ledger, key, secret = site("9/day", (), {"GET /api/animals/$": "1/day as lists"})
    assert [Visitor("sync").get("/api/animals/", secret).status_code for _ in range(2)] == [200, 429]
    assert Visitor("sync").get("/api/animals/1/", secret).status_code == 200


def test_the_document_is_true(site):
    """docs/django.md: its settings are good, its views are served, what it shows comes out."""
    ledger, key, secret = site("9/day")
    names = {"secret": secret, "__name__": "docs"}

    class Shop:
        def get(self, url, **more):
            urls.urlpatterns.append(path("export", names["export"]))
            try:
                with override_settings(MIDDLEWARE=[]):
                    clear_url_caches()
                    return Client().get(url, **more)
            finally:
                urls.urlpatterns.pop()
                clear_url_caches()

    names["client"] = Shop()
    assert play((paths.ROOT / "docs" / "django.md").read_text("utf-8"), names) == 3
    with override_settings(QUOTA=names["QUOTA"] | {"LEDGER": "memory://"}, MIDDLEWARE=names["MIDDLEWARE"]):
        assert run_checks() == []
    assert names["REST_FRAMEWORK"]["DEFAULT_THROTTLE_CLASSES"] == [f"{QuotaThrottle.__module__}.QuotaThrottle"]


class Away:
    """A ledger's store that is not there."""

    def __init__(self, ledger):
        from quota import StoreUnavailable

        def apply(request):
            raise StoreUnavailable("gone")

        ledger.store.apply = apply


@pytest.mark.parametrize(("said", "status"), [("deny", 503), ("allow", 200)])
def test_a_store_that_is_away(site, visitor, said, status, tmp_path, caplog):
    """Is answered as the settings say, in all three."""
    ledger, key, secret = site(ledger=Ledger(f"sqlite:///{tmp_path}/u.db"), ON_UNAVAILABLE=said)
    Away(ledger)
    caplog.set_level(logging.CRITICAL, "django")
    assert visitor.get("/tells", secret).status_code == status
    assert Visitor("sync").get("/drf", secret).status_code == status


def test_an_awaited_ledger(site):
    """It serves ASGI; where nothing can be awaited that is said."""
    made = AsyncLedger()

    async def prepare():
        await made.add_plan(UsagePlan("p", "2/day"))
        return (await made.issue_key("k", "p")).secret

    secret = asyncio.run(prepare())
    site()
    shop.ledger = made
    with override_settings(QUOTA={**settings.QUOTA, "CHARGE": "success"}):
        visitor = Visitor("async")
        assert [visitor.get("/apets/1", secret).status_code for _ in range(3)] == [200, 200, 429]
        with pytest.raises(ImproperlyConfigured, match="AsyncLedger"):
            Client().get("/pets/1")


BAD = [
    ({"LEDGER": "nowhere://x"}, "LEDGER.*nowhere"), ({"LEDGER": "quota_test_shop.none"}, "LEDGER.*none"), ({"LEDGER": 5}, "LEDGER.* is int"),
    ({"LEGDER": 1}, "LEGDER.* is no setting; LEDGER is"), ({"ON_UNAVAILABLE": "maybe"}, "on_unavailable: 'maybe'"), ({"COST": 0}, "cost"),
    ({"ROUTE": "quota_test_shop.nothing"}, "ROUTE.*nothing"), ({"USERS": 5}, "users"), ({"ANONYMOUS": 5}, "anonymous"), ({"KEY": "shop.nothing"}, "KEY"),
    ({"LEDGER": "redis://u:s3cret@h:x/0"}, "LEDGER"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "told"), BAD, ids=lambda value: str(value)[:30])
def test_bad_settings(site, said, told):
    """A check tells each, and so does the first request; never a password."""
    site(**said)
    (error,) = run_checks()
    assert error.id == "quota.E001"
    with pytest.raises(ImproperlyConfigured, match=told) as raised:
        Client().get("/pets/1")
    assert "s3cret" not in str(raised.value) + error.msg


@pytest.mark.parametrize(("own", "told"), [
    ({"cost": 0}, "cost: 0"), ({"ttl": 0}, "ttl: 0"), ({"route": ""}, "route: ''"), ({"anonymous": ""}, "plan: ''"), ({"users": 5}, "users: 5"),
    ({"price": 1}, "unexpected keyword argument 'price'"), ({"charge": "success", "actual": len}, "actual: "),
])  # fmt: skip
def test_bad_settings_of_a_view(own, told):
    """Each is told where the view is decorated, not by every request to it."""
    with pytest.raises(ImproperlyConfigured, match=told):
        limited(**own)
    assert limited(actual=len, users="free", anonymous="free", route="exports")
    if "actual" not in own:
        with pytest.raises(ImproperlyConfigured, match=told):
            type("Wrong", (QuotaThrottle,), {"settings": own})


def test_no_settings(site):
    """None at all, and none for the one that must be said."""
    site()
    with override_settings(QUOTA={"LEDGER": "memory://"}), pytest.raises(ImproperlyConfigured, match="ON_UNAVAILABLE"):
        Client().get("/pets/1")
    with override_settings(QUOTA=None), pytest.raises(ImproperlyConfigured, match="QUOTA is not set"):
        Client().get("/pets/1")
    assert run_checks() == []


def test_the_command(site, tmp_path, caplog, monkeypatch):
    """``manage.py quota`` works on the project's ledger, with quota's own exit status; from programs too."""
    site(LEDGER=f"sqlite:///{tmp_path}/u.db")
    out, err = io.StringIO(), io.StringIO()

    def run(*arguments):
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as done:
            execute_from_command_line(["manage.py", "quota", *arguments])
        return done.value.code

    assert run("plan", "add", "gold", "5/day") == 0
    assert run("key", "issue", "ada", "--plan", "gold") == 0
    assert run("consume", "nobody") == 2
    assert "no API key has the id 'nobody'" in err.getvalue()
    assert run("--store", f"sqlite:///{tmp_path}/other.db", "plan", "list") == 3
    with redirect_stdout(out):
        call_command("quota", "key", "list")
    assert "ada" in out.getvalue()
    assert run("--actor", "grace", "key", "disable", "ada") == 0
    assert [(event.kind, event.actor) for event in project().events()][1:] == [
        ("key.issued", getuser()),
        ("key.disabled", "grace"),
    ]
    with pytest.raises(CommandError, match="exit status 2"), redirect_stderr(err):
        call_command("quota", "key", "show", "none")
    caplog.set_level(logging.INFO, "quota.decisions")
    monkeypatch.setattr("quota.refusals._refused", {})
    with redirect_stdout(out):
        call_command("quota", "top", "--most-refused")
        assert "refused no key" in out.getvalue()
        assert not project().consume(project().list_keys()[0])
        call_command("quota", "top", "--most-refused")
        assert out.getvalue().splitlines()[-1].split() == [project().list_keys()[0].id, "ada", "1"]
        call_command("quota", "top", "--most-refused", "--json")
        assert '"refused": 1' in out.getvalue()
    site(LEDGER="nowhere://x")
    assert run("plan", "list") == 2
    assert "QUOTA['LEDGER']" in err.getvalue()
