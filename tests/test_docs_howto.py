"""The site's pages are true: their blocks run in order, what they show is what comes out, and their links lead somewhere."""

import logging
import re
import sys
import types

import pytest
import redis
import redis.asyncio
from psycopg_pool import AsyncConnectionPool, ConnectionPool

import paths
from documents import play
from quota import AsyncLedger, Ledger
from quota.stores.memory import MemoryStore

DOCS = paths.ROOT / "docs"
PAGES = [
    DOCS / "index.md",
    DOCS / "start.md",
    DOCS / "aws.md",
    DOCS / "usage-page.md",
    DOCS / "flask.md",
    *(page for folder in ("howto", "reference", "explanation") for page in sorted((DOCS / folder).glob("*.md"))),
]
ROOT_PAGES = ["README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "tests/README.md"]
LINKING = [
    *sorted(DOCS.rglob("*.md")),
    *sorted((paths.ROOT / "examples").rglob("*.md")),
    *(paths.ROOT / page for page in ROOT_PAGES),
]
LINK = re.compile(r"\]\(([^)#:\s]*)(#[^)]*)?\)")


def anchors(page):
    """The headings of a page, as its links name them."""
    for heading in re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE):
        yield "#" + re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.fixture
def own_logs():
    """What frameworks do to everybody's loggers, they do to a page's alone."""
    root, before = logging.root, (logging.root.level, logging.root.handlers[:])
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    for name in [name for name in root.manager.loggerDict if name.startswith("quota")]:
        logging.getLogger(name).disabled = False


@pytest.mark.usefixtures("own_logs")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_runs(page, monkeypatch):
    """In one namespace a page; a page that has Python shows at least one result."""
    text = page.read_text("utf-8")
    module = types.ModuleType("docs")  # frameworks look a function's module up
    monkeypatch.setitem(sys.modules, "docs", module)
    assert play(text, vars(module)) >= ("```python" in text)


@pytest.mark.parametrize("page", ["sqlite", "redis", "postgres", "leases"])
def test_every_way_to_open_a_store_is_one(page, monkeypatch, tmp_path):
    """The blocks of a store's page, with what is called yours: nothing is asked before the first call."""
    monkeypatch.chdir(tmp_path)
    yours = {
        "your_client": redis.Redis(), "your_async_client": redis.asyncio.Redis(), "your_store": MemoryStore(),
        "your_pool": ConnectionPool(open=False), "your_async_pool": AsyncConnectionPool(open=False),
    }  # fmt: skip
    text = (DOCS / f"{page}.md").read_text("utf-8")
    assert play(text, yours) == 0
    assert isinstance(yours["ledger"], (Ledger, AsyncLedger))
    assert list(tmp_path.iterdir()) == []


def astray(page):
    """The links of a page within the repository that name a file or a heading that is not there."""
    for file, anchor in LINK.findall(
        re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    ):
        target = (page.parent / file) if file else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            yield file + anchor


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(paths.ROOT)))
def test_every_link_leads_somewhere(page):
    """To a file that is there, and to a heading of it."""
    assert list(astray(page)) == []


def test_planted_links_are_seen(tmp_path):
    """To no file, to no heading of one, to no heading of the page itself."""
    (tmp_path / "other.md").write_text("# What `it` is, (truly)\n")
    (tmp_path / "page.md").write_text(
        "# Here\n[a](gone.md) [b](other.md#gone) [c](#gone) [d](other.md#what-it-is-truly) [e](#here) [f](https://x.example)"
    )
    assert list(astray(tmp_path / "page.md")) == ["gone.md", "other.md#gone", "#gone"]


def test_every_page_is_in_the_site_s_contents():
    """Or nobody finds it."""
    named = set(re.findall(r"^([\w/-]+)$", (DOCS / "index.md").read_text("utf-8"), re.MULTILINE))
    assert {str(page.relative_to(DOCS).with_suffix("")) for page in DOCS.rglob("*.md")} - {"index"} == named
