"""A control plane on a loopback address, asked by boto3; its ledger is emptied before each test that uses ``empty``."""

import pytest

from control import client, plane, served
from quota import Ledger


@pytest.fixture(scope="module")
def ledger():
    with Ledger() as ledger:
        yield ledger


@pytest.fixture(scope="module")
def aws(ledger):
    with served(plane(ledger)) as url:
        yield client(url)


@pytest.fixture
def empty(ledger):
    for key in ledger.list_keys():
        ledger.remove_key(key)
    for plan in ledger.list_plans():
        ledger.remove_plan(plan)
