"""docs/start.md, docs/flask.md and docs/howto/ are true: their blocks run in order, and what they show is what comes out."""

import re

import pytest

import paths
from documents import play

DOCS = paths.ROOT / "docs"
PAGES = [DOCS / "start.md", DOCS / "flask.md", *sorted((DOCS / "howto").glob("*.md"))]
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_runs(page):
    """In one namespace a page; a page that has Python shows at least one result."""
    text = page.read_text("utf-8")
    assert play(text, {"__name__": "docs"}) >= ("```python" in text)


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: str(page.relative_to(DOCS)))
def test_every_link_leads_somewhere(page):
    """Links within the repository name files that are there."""
    assert [] == [link for link in LINK.findall(page.read_text("utf-8")) if not (page.parent / link).exists()]
