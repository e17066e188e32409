"""The usage page in a real browser: make test-browser. Screenshots go to QUOTA_SHOTS, where that names a folder."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from browser import AXE, browsing
from control import served
from quota import Ledger, ManualClock, UsagePlan
from quota.web import usage_page

pytestmark = pytest.mark.browser

SIZES = {"phone": (360, 740), "desktop": (1280, 800)}


@pytest.fixture(scope="module")
def site():
    """(URL, secret) of a key with five weeks of use, one limit exhausted, and a name that is markup."""
    clock = ManualClock(datetime(2026, 2, 20, 12, tzinfo=timezone.utc))
    with Ledger(clock=clock) as ledger:
        limits = "40/day, 5000/month, 20000 tokens/month, 50/s burst 100, 3 concurrent"
        routes = {"POST /v1/organizations/{organization}/completions": "30/day, 1/s"}
        ledger.add_plan(UsagePlan("gold", limits, name="Gold <plan>", routes=routes))
        ledger.add_plan(UsagePlan("team", "900000/month"))
        ledger.add_account("the-department-of-redundancy-department")
        ledger.associate("the-department-of-redundancy-department", "team")
        name, account = "Ada's <script>alert(1)</script> laptop", "the-department-of-redundancy-department"
        key, secret = ledger.issue_key(name, plan="gold", account=account)
        ledger.associate(key, "team", at=datetime(2026, 5, 1, tzinfo=timezone.utc))
        for day in range(35):
            for _ in range(40 if day == 34 else (day * 7) % 40):
                ledger.consume(secret, {"requests": 1, "tokens": 11})
                clock.advance(timedelta(milliseconds=100))
            if day < 34:
                clock.advance(timedelta(days=1))
        with served(usage_page(ledger)) as url:
            yield f"{url}/usage", secret


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browsing(tmp_path_factory.mktemp("profile")) as found:
        yield found


def shoot(page, name):
    if folder := os.environ.get("QUOTA_SHOTS"):
        page.screenshot(Path(folder) / f"{name}.png")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_a_key(page, site, size, scheme):
    """By the form, as a person: nothing is wider than the screen, nothing else is asked for, nothing serious is found."""
    url, secret = site
    width, height = SIZES[size]
    page.send(
        "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=size == "phone"
    )
    page.send(
        "Emulation.setEmulatedMedia", media="screen", features=[{"name": "prefers-color-scheme", "value": scheme}]
    )
    page.go(url)
    check(page, f"form-{size}-{scheme}")
    page.events.clear()
    page.run(
        f"document.querySelector('#key').value = {secret!r}; document.querySelector('#zone').value = 'Europe/Paris'"
    )
    page.run("document.querySelector('form button').click()")
    page.wait("Page.loadEventFired")
    assert page.run("document.querySelector('h1').textContent") == "Usage of Ada's <script>alert(1)</script> laptop"
    assert page.run("document.querySelectorAll('rect.bar').length") > 30
    assert page.run("document.documentElement.outerHTML.includes(" + repr(secret) + ")") is False
    assert page.run("location.href") == url
    check(page, f"usage-{size}-{scheme}")
    asked = {
        event["params"]["request"]["url"] for event in page.events if event.get("method") == "Network.requestWillBeSent"
    }
    assert asked <= {url, url.replace("/usage", "/favicon.ico")}
    assert not [
        event
        for event in page.events
        if event.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown") and "favicon" not in str(event)
    ]


BROKEN = """[...document.querySelectorAll('td.number, thead th, time')].filter(cell => {
    const text = document.createRange()
    text.selectNodeContents(cell.firstChild)
    return text.getClientRects().length > 1
}).map(cell => cell.textContent)"""


def check(page, name):
    """No part is wider than the screen, no number is broken; axe-core finds nothing serious or critical."""
    shoot(page, name)
    assert page.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    assert page.run(BROKEN) == []
    page.run(AXE.read_text("utf-8"))
    found = page.run(
        "axe.run().then(result => result.violations.map(one => [one.impact, one.id, one.nodes.map(node => node.html).slice(0, 3)]))"
    )
    assert [] == [one for one in found if one[0] in ("serious", "critical")], found


def test_in_print_there_is_no_form(page, site):
    """And the bars are there."""
    url, secret = site
    page.send(
        "Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "light"}]
    )
    page.send("Network.setExtraHTTPHeaders", headers={"x-api-key": secret, "Accept": "text/html"})
    page.go(url)
    page.send("Network.setExtraHTTPHeaders", headers={})
    assert page.run("getComputedStyle(document.querySelector('form')).display") == "none"
    assert page.run("document.querySelectorAll('rect.bar').length") > 30
    shoot(page, "print")
