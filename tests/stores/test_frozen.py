"""Frozen time beside a server whose clock goes on: the difference is told, and the way out of it works."""

import asyncio

import pytest
from freezegun import freeze_time

from every_store import namespace
from quota import AsyncLedger, ClockSkew, Ledger, UsagePlan


@pytest.fixture(params=["valkey", "postgres"])
def url(request):
    """The URL of a store whose server has a clock of its own."""
    return f"{request.getfixturevalue(request.param).url}?namespace={namespace()}"


def test_a_server_s_clock_goes_on_under_frozen_time(url):
    """The difference is told with the way out of it, which works: as the README says."""

    def uses(url):
        with Ledger(url) as ledger:
            ledger.replace_plan(UsagePlan("p", "1/day"))
            secret = ledger.issue_key("k", plan="p").secret
            return [bool(ledger.consume(secret)) for _ in range(2)]

    async def uses_awaited(url):
        async with AsyncLedger(url) as ledger:
            key, _ = await ledger.issue_key("k", plan="p")
            return [bool(await ledger.consume(key)) for _ in range(2)]

    for moment, side in (("2001-03-10 12:00", "behind"), ("2041-03-10 12:00", "ahead of")):
        with freeze_time(moment, real_asyncio=True):
            with pytest.raises(ClockSkew, match=rf"{side} the store's server \(20.* check_clock=false"):
                uses(url)
            apart = f"{url}&check_clock=false"
            assert uses(apart) == [True, False]
            assert asyncio.run(uses_awaited(apart)) == [True, False]
