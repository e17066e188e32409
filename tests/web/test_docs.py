"""docs/web.md is true: its blocks run in order, what they show is what comes out, and each application is served."""

from __future__ import annotations

import re
import warnings

import pytest

import django_site  # noqa: F401 -- sets Django up
import paths
from documents import BLOCK, play
from quota import Ledger, UsagePlan
from quota.web.gate import Settings
from web import wsgi

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette prefers a later httpx for its test client, and works with this one
    from starlette.testclient import TestClient

ROOT = paths.ROOT
TEXT = (ROOT / "docs" / "web.md").read_text("utf-8")
SECTION = re.compile(r"^## In front of a web application$.*?(?=^## )", re.MULTILINE | re.DOTALL)
README = SECTION.search((ROOT / "README.md").read_text("utf-8"))[0]


def up_to(words, text=TEXT, names=()):
    """The names that the document's blocks define, up to and with the first one that has these words."""
    blocks = BLOCK.findall(text)
    last = next(index for index, block in enumerate(blocks) if words in block)
    names = {"__name__": "docs", **dict(names)}
    play("\n".join(f"```python\n{block}```" for block in [blocks[0], *blocks[last : last + 1]]), names)
    return names


def test_the_document_is_true():
    """Every block runs, and each result that it shows is the result."""
    assert play(TEXT, {"__name__": "docs"}) >= 15


@pytest.mark.parametrize(("words", "path"), [("def pet(request):", "/pets/7"), ("decision: Annotated", "/pets/7")])
def test_asgi_in_five_lines(words, path):
    """The applications of the document serve who has a key, tell the limits, and nobody else."""
    names = up_to(words)
    client = TestClient(names["app"])
    assert client.get(path).status_code == 403
    answer = client.get(path, headers={"x-api-key": names["secret"]})
    assert "ACME" in answer.text
    assert answer.headers["RateLimit"].startswith('"requests/day";r=999')


def test_fastapi_middleware_in_five_lines():
    """FastAPI's own pages are exempt, and what is behind the middleware needs a key."""
    names = up_to('exempt=["/docs"')
    client = TestClient(names["app"])
    assert client.get("/docs").status_code == 200
    assert client.get("/none").status_code == 403
    assert client.get("/none", headers={"x-api-key": names["secret"]}).status_code == 404


def test_django_in_five_lines():
    """Django's project is served to who has a key."""
    names = up_to("get_wsgi_application")
    assert wsgi(names["application"], path="/pets/7/").status == 403
    answer = wsgi(names["application"], path="/pets/7/", headers={"x-api-key": names["secret"]})
    assert answer.body == b"7 for ACME"
    assert "RateLimit" in answer


@pytest.mark.parametrize("words", ["Flask(", "get_wsgi_application", "Starlette(", "exempt=", "dependencies="])
def test_the_readme_in_five_lines(words):
    """Each of the README's applications, at most five lines, is served to who has a key and to nobody else."""
    names = up_to(words, README, {"Ledger": Ledger, "UsagePlan": UsagePlan})
    block = next(block for block in BLOCK.findall(README) if words in block)
    assert len([line for line in block.splitlines() if line]) <= 5
    headers, app = {"x-api-key": names["secret"]}, names.get("app")
    if "fastapi" in block or "Flask" in block:
        app.get("/pets/7/")(lambda: "7 for ACME")
    if "asgi" in block or "fastapi" in block:
        client = TestClient(app)
        answers = [client.get("/pets/7/"), client.get("/pets/7/", headers=headers)]
        assert [answer.status_code for answer in answers] == [403, 404 if "starlette" in block else 200]
        assert answers[1].headers["RateLimit"].startswith('"requests/day";r=999')
    else:
        served = app or names["application"]
        answers = [wsgi(served, path="/pets/7/"), wsgi(served, path="/pets/7/", headers=headers)]
        assert answers[0].status == 403
        assert answers[1].body == b"7 for ACME"
        assert answers[1]["RateLimit"].startswith('"requests/day";r=999')


def test_every_setting_is_documented():
    """The document's table and the docstring tell every setting, and no other."""
    rows = {line.split("`")[1] for line in TEXT.splitlines() if line.startswith("| `")}
    assert rows == set(Settings.__annotations__)
    assert all(f"``{name}``" in Settings.__doc__ for name in rows)
