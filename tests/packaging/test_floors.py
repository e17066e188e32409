"""The lowest versions that pyproject.toml admits work: each is installed from the index, and a small program uses it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import paths
from servers import Postgres, Valkey

ROOT = paths.ROOT
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
TOOLS = {"test", "bench", "mutate", "docs", "audit", "fuzz"}
FRAMEWORKS = {"fastapi", "starlette"}
"""Of the tests' tools, those that the library has something for: what ``test`` admits is what is told of them."""
BESIDE = {"plot": ["cli"]}
"""Extras that are of use only with others."""

CORE = """
import sys
from quota import Ledger, UsagePlan
ledger = Ledger(*sys.argv[1:])
ledger.replace_plan(UsagePlan("p", "2/day, 10/s burst 20", alerts=(50,)))
key, secret = ledger.issue_key("k", plan="p")
assert [bool(ledger.consume(secret)) for _ in range(3)] == [True, True, False]
ledger.replace_plan(UsagePlan("p", "4/day"))
with ledger.reserve(secret, 2, ttl=60_000_000) as held:
    assert held
    held.commit(1)
assert ledger.usage(key)[0].used == 3
_, new = ledger.rotate_key(key)
assert not ledger.consume(secret)
assert ledger.consume(new).limits[0].used == 4
ledger.close()
"""
AWAITED = """
import asyncio, sys
from quota import AsyncLedger, UsagePlan
async def main():
    ledger = AsyncLedger(*sys.argv[1:])
    await ledger.replace_plan(UsagePlan("p", "2/day"))
    key, secret = await ledger.issue_key("a", plan="p")
    assert sorted(map(bool, await asyncio.gather(*[ledger.consume(secret) for _ in range(5)]))) == [False] * 3 + [True] * 2
    assert (await ledger.usage(key))[0].used == 2
    await ledger.aclose()
asyncio.run(main())
"""
CLI = """
import json, subprocess, sys
def quota(*arguments, status=0):
    done = subprocess.run([sys.executable, "-m", "quota", *arguments], capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout
quota("plan", "add", "gold", "20/day, 10/s burst 20")
secret = quota("key", "issue", "Ada", "--plan", "gold", "--id", "ada").split()[0]
assert "allowed" in quota("consume", "ada", "--cost", "15")
assert "requests/day" in quota("consume", "ada", "--cost", "15", status=1)
assert json.loads(quota("usage", "ada", "--json"))
assert "gold" in quota("plan", "list") and "Ada" in quota("key", "list")
assert "Usage" in quota("--help") and "--cost" in quota("consume", "--help")
"""
PLOT = """
import subprocess, sys
subprocess.run([sys.executable, "-m", "quota", "replay", sys.argv[1], "--plan", "100/day", "--plot", "figure.svg"], check=True)
assert "<svg" in open("figure.svg").read()
"""
OPENED = """
from quota import Ledger, UsagePlan
ledger = Ledger()
ledger.add_plan(UsagePlan("p", "99/day", routes={ROUTE: "2/day as pets"}))
key, secret = ledger.issue_key("k", plan="p")
"""
WSGI = """
from wsgiref.util import setup_testing_defaults
def ask(app, secret):
    environ, told = {"PATH_INFO": "/pets/7", "HTTP_X_API_KEY": secret}, []
    setup_testing_defaults(environ)
    b"".join(app(environ, lambda status, headers, *_: told.append(int(status[:3]))))
    return told[0]
assert [ask(app, secret) for secret in ("none", secret, secret, secret)] == [403, 200, 200, 429]
"""
ASGI = """
import asyncio
def ask(app, secret):
    told = []
    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}
    async def send(message):
        told.append(message)
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
             "path": "/pets/7", "raw_path": b"/pets/7", "query_string": b"", "root_path": "",
             "headers": [(b"x-api-key", secret.encode())], "server": ("s", 80), "client": ("c", 1)}
    asyncio.run(app(scope, receive, send))
    return told[0]["status"]
assert [ask(app, secret) for secret in ("none", secret, secret, secret)] == [403, 200, 200, 429]
"""
DJANGO = """
import sys
ROUTE = "GET /pets/<int:number>"
import django
from django.conf import settings
settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="x")
django.setup()
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
from quota import asgi, wsgi
urlpatterns = [path("pets/<int:number>", lambda request, number: HttpResponse("ok"))]
"""
OWN_DJANGO = (
    """
import sys
ROUTE = "GET /pets/<int:number>"
import django
from django.conf import settings
"""
    + OPENED
    + """
settings.configure(
    ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="x", INSTALLED_APPS=["quota.django"],
    QUOTA={"LEDGER": "shop.ledger", "ON_UNAVAILABLE": "deny"}, REST_FRAMEWORK={"UNAUTHENTICATED_USER": None},
    MIDDLEWARE=MIDDLEWARE,
)
sys.modules["shop"] = sys.modules[__name__]
django.setup()
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
"""
)
IN_DJANGO = (
    "MIDDLEWARE = ['quota.django.QuotaMiddleware']"
    + OWN_DJANGO
    + """
urlpatterns = [path("pets/<int:number>", lambda request, number: HttpResponse("ok"))]
"""
)
DRF = (
    "MIDDLEWARE = []"
    + OWN_DJANGO
    + """
from quota.django.drf import QuotaThrottle
from rest_framework.decorators import api_view, authentication_classes, throttle_classes
from rest_framework.response import Response
@api_view(["GET"])
@authentication_classes([])
@throttle_classes([QuotaThrottle])
def pet(request, number):
    return Response({"pet": number})
urlpatterns = [path("pets/<int:number>", pet)]
app = get_wsgi_application()
"""
)
METRICS = """
from prometheus_client import CollectorRegistry
from quota import Ledger, UsagePlan
from quota.metrics import instrument
registry, ledger = CollectorRegistry(), Ledger()
ledger.add_plan(UsagePlan("p", "1/day"))
instrument(ledger, registry)
ledger.consume(ledger.issue_key("k", "p").secret)
assert registry.get_sample_value("quota_units_total", {"plan": "p", "unit": "requests"}) == 1
"""
AWS = """
import io
import json
from cryptography.fernet import Fernet, MultiFernet
from quota import Ledger
from quota.aws import control_plane, rotate_values
keys = [Fernet(Fernet.generate_key()) for _ in range(2)]
ledger = Ledger()
def ask(method, path, query=""):
    app = control_plane(ledger, credentials=None, stages=None, reveal=MultiFernet(keys))
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query, "wsgi.input": io.BytesIO()}
    return json.loads(b"".join(app(environ, lambda *_: None)))
made = ask("POST", "/apikeys")
keys.reverse()
assert rotate_values(ledger, MultiFernet(keys)) == 1
del keys[1]
assert ask("GET", f"/apikeys/{made['id']}", "includeValue=true")["value"] == made["value"]
"""
SERVE = """
import re
import signal
import subprocess
import sys
from urllib.error import HTTPError
from urllib.request import urlopen
from quota import Ledger
with Ledger("sqlite:///served.db") as ledger:
    ledger.issue_key("k")
command = [sys.executable, "-m", "quota", "serve", "usage", "--store", "sqlite:///served.db", "--port", "0"]
with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
    where = re.search(r"http://\\S+", process.stderr.readline())[0]
    try:
        urlopen(f"{where}/usage")
    except HTTPError as error:
        assert error.code == 401
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
"""
FASTAPI = """
ROUTE = "GET /pets/{number}"
from fastapi import Depends, FastAPI
from quota.asgi import QuotaMiddleware
from quota.fastapi import QuotaKey, Refused, refused
"""
PROGRAMS = {
    "attrs": [CORE],
    "cli": [CLI],
    "redis": [CORE, AWAITED],
    "postgres": [CORE, AWAITED],
    "plot": [PLOT],
    "metrics": [METRICS],
    "aws": [AWS],
    "serve": [SERVE],
    "django": [
        DJANGO + OPENED + "app = wsgi.QuotaMiddleware(get_wsgi_application(), ledger, on_unavailable='deny')" + WSGI,
        DJANGO + OPENED + "app = asgi.QuotaMiddleware(get_asgi_application(), ledger, on_unavailable='deny')" + ASGI,
        IN_DJANGO + "app = get_wsgi_application()" + WSGI,
        IN_DJANGO + "app = get_asgi_application()" + ASGI,
    ],
    "drf": [DRF + WSGI],
    "fastapi": [
        FASTAPI + OPENED + """
app = FastAPI()
app.add_middleware(QuotaMiddleware, ledger=ledger, on_unavailable="deny")
app.get("/pets/{number}")(lambda number: "ok")
""" + ASGI,
        FASTAPI + OPENED + """
app = FastAPI(dependencies=[Depends(QuotaKey(ledger, on_unavailable="deny"))])
app.add_exception_handler(Refused, refused)
app.get("/pets/{number}")(lambda number: "ok")
assert "apiKey" in str(app.openapi())
""" + ASGI,
    ],
    "flask": ["""
ROUTE = "GET /pets/<int:number>"
from flask import Flask
from quota.wsgi import QuotaMiddleware
""" + OPENED + """
app = Flask("shop")
app.wsgi_app = QuotaMiddleware(app.wsgi_app, ledger, on_unavailable="deny")
app.get("/pets/<int:number>")(lambda number: f"pet {number}")
""" + WSGI, """
ROUTE = "GET /pets/<int:number>"
from flask import Flask
from quota.flask import Quota
""" + OPENED + """
app = Flask("shop")
Quota(app, ledger, on_unavailable="deny", charge="success")
app.get("/pets/<int:number>")(lambda number: f"pet {number}")
""" + WSGI],
    "aiohttp": ["""
import asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from quota.aiohttp import DECISION, setup
ROUTE = "GET /pets/{number}"
""" + OPENED + """
async def pet(request):
    return web.Response(text=request[DECISION].key.name)
async def main():
    app = web.Application()
    setup(app, ledger, on_unavailable="deny", charge="success", cost_from_body=len)
    app.router.add_post("/pets/{number}", pet)
    app.router.add_get("/pets/{number}", pet)
    async with TestClient(TestServer(app)) as client:
        assert (await client.post("/pets/1", headers={"x-api-key": secret}, data=b"123")).status == 200
        asked = [await client.get("/pets/7", headers={"x-api-key": s}) for s in ("none", secret, secret, secret)]
        assert [answer.status for answer in asked] == [403, 200, 200, 429]
        assert asked[1].headers["RateLimit"].startswith('"requests/day";r=95')
asyncio.run(main())
"""],
    "starlette": ["""
ROUTE = "GET /pets/{number}"
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from quota.asgi import QuotaMiddleware
""" + OPENED + """
app = Starlette(routes=[Route("/pets/{number}", lambda request: PlainTextResponse("ok"))])
app.add_middleware(QuotaMiddleware, ledger=ledger, on_unavailable="deny")
""" + ASGI],
}  # fmt: skip
"""By what is brought to its floor: an extra, a framework, or what the library always needs."""


def declared(subject):
    """What pyproject.toml requires for a subject, for this platform."""
    extras = PROJECT["optional-dependencies"]
    wanted = extras.get(subject) or [text for text in [*PROJECT["dependencies"], *extras["test"]]
                                     if Requirement(text).name == subject]  # fmt: skip
    beside = [text for extra in BESIDE.get(subject, ()) for text in extras[extra]]
    found = [Requirement(text) for text in [*wanted, *beside, *PROJECT["dependencies"]]]
    return [need for need in found if need.marker is None or need.marker.evaluate({"extra": ""})]


def lowest(need):
    """A requirement of the lowest version that another admits."""
    (floor,) = (specifier.version for specifier in need.specifier if specifier.operator in (">=", "=="))
    extras = f"[{','.join(sorted(need.extras))}]" if need.extras else ""
    return f"{need.name}{extras}=={floor}"


@cache
def oldest_python():
    """The lowest Python that is supported, where it is found: later ones have no wheels of the oldest versions."""
    version = re.fullmatch(r">=([\d.]+)", PROJECT["requires-python"])[1]
    root = (
        subprocess.run(["pyenv", "root"], capture_output=True, text=True).stdout.strip()
        if shutil.which("pyenv")
        else ""
    )
    candidates = [shutil.which(f"python{version}"), *Path(root or "/nowhere").glob(f"versions/{version}.*/bin/python")]
    for candidate in filter(None, candidates):
        said = subprocess.run(
            [candidate, "-c", "import sys; print(*sys.version_info[:2], sep='.')"], capture_output=True, text=True
        )
        if said.stdout.strip() == version:
            return str(candidate)
    return sys.executable


def installed(folder, *requirements):
    """The Python of a new environment with these."""
    subprocess.run([oldest_python(), "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    done = subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], capture_output=True, text=True)
    assert done.returncode == 0, f"{requirements}: {done.stderr[-2_000:]}"
    return python


def run(python, program, folder, *arguments):
    """Run a program on the library's source; it must say that all went well."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "QUOTA", "COV"))}
    env = kept | {"PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1", "MPLCONFIGDIR": str(folder)}
    script = folder / "program.py"
    script.write_text(program, "utf-8")
    done = subprocess.run([python, script, *arguments], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3_000:]


def test_every_extra_has_a_program():
    """What is declared is tried at its floor; a floor is a single one."""
    extras = PROJECT["optional-dependencies"].keys() - TOOLS
    assert extras | FRAMEWORKS | {"attrs"} == PROGRAMS.keys()
    for subject in PROGRAMS:
        assert declared(subject)
        for need in declared(subject):
            assert "==" in lowest(need)


@pytest.fixture
def arguments(request):
    """What the programs of a subject are told: a server's URL, a log."""
    kind = {"redis": Valkey, "postgres": Postgres}.get(request.param)
    server = kind() if kind else None
    log = str(ROOT / "src" / "quota" / "replay" / "sample.log")
    yield [server.url] if server else [log] * (request.param == "plot")
    if server:
        server.stop()


@pytest.mark.slow
@pytest.mark.parametrize(("subject", "arguments"), [(subject, subject) for subject in PROGRAMS], indirect=["arguments"])
def test_at_its_floor(subject, arguments, tmp_path):
    """The lowest versions together do what the newest do."""
    needs = declared(subject)
    python = installed(tmp_path / "venv", *map(lowest, needs))
    for program in PROGRAMS[subject]:
        run(python, program, tmp_path, *arguments)


@pytest.mark.slow
def test_what_does_not_work_is_noticed(tmp_path):
    """A version below a floor of ours fails here, so that the floor says something."""
    python = installed(tmp_path / "venv", "typer==0.12.3", "click<8.2", "attrs")
    with pytest.raises(AssertionError, match="Type not yet supported"):
        run(python, CLI, tmp_path)
