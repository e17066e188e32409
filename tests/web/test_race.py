"""The race that framework's own throttles lose: several workers, many clients at once, and exactly what there is."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from quota import Ledger, UsagePlan
from race import CLIENTS, SITES, storm
from servers import Valkey


@pytest.fixture(scope="module")
def valkey():
    server = Valkey()
    yield server
    server.stop()


def run(site, tmp_path, valkey, limit):
    """Twenty clients at once ask for a fifth more than there is."""
    store = f"sqlite:///{tmp_path}/u.db?durability=normal"
    if "Valkey" in site:
        store = f"{valkey.url}?namespace={tmp_path.name.replace('_', '-')}"
    with Ledger(store) as ledger:
        ledger.add_plan(UsagePlan("p", f"{limit}/hour, {10 * limit}/day"))
        key, secret = ledger.issue_key("k", "p")
        served = SITES[site](store)
        try:
            statuses = asyncio.run(storm(served.url, secret, limit + limit // 5, CLIENTS))
        finally:
            served.stop()
        assert Counter(statuses) == {200: limit, 429: limit // 5}, served.text
        assert {status.used for status in ledger.status(key)} == {limit}


@pytest.mark.spread(2)
@pytest.mark.parametrize("site", ["DRF's throttle", "FastAPI on Valkey"])
def test_exactly(site, tmp_path, valkey):
    """A small one by default: four gunicorn workers behind the REST framework, two of uvicorn's on Valkey."""
    run(site, tmp_path, valkey, 100)


@pytest.mark.slow
@pytest.mark.parametrize("site", list(SITES))
def test_exactly_five_hundred_an_hour(site, tmp_path, valkey):
    """DRF's well-known race, whole, behind each framework."""
    run(site, tmp_path, valkey, 500)
