"""Types as users see them: at run time (help, signatures, hints), and by mypy over programs and planted misuse."""

import inspect
import json
import pickle
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import paths
import quota
from quota import ApiKey, AsyncLedger, Decision, IssuedKey, Ledger, UsagePlan, UsageRecord
from quota.asgi import QuotaMiddleware as ASGIMiddleware
from quota.fastapi import QuotaKey
from quota.stores.leased import AsyncLeasedStore, LeasedStore
from quota.stores.postgres import AsyncPostgresStore, PostgresStore
from quota.stores.redis import AsyncRedisStore, RedisStore
from quota.wsgi import QuotaMiddleware as WSGIMiddleware

PUBLIC = [getattr(quota, name) for name in quota.__all__] + [ASGIMiddleware, WSGIMiddleware, QuotaKey]


def callables():
    """Every public function and class, and every public method of those."""
    for found in PUBLIC:
        if not callable(found) or typing.get_origin(found):
            continue
        yield found.__qualname__, found
        for name, method in inspect.getmembers(found, inspect.isroutine) if inspect.isclass(found) else ():
            ours = getattr(method, "__module__", None) or ""
            if ours.startswith("quota") and (not name.startswith("_") or name in ("__init__", "__call__")):
                yield f"{found.__qualname__}.{name}", method


CALLABLES = dict(callables())


@pytest.mark.parametrize("name", CALLABLES)
def test_hints_and_signatures_are_right_at_run_time(name):
    """They can be asked for, and nowhere is a method said to return the step that it is made of."""
    found = CALLABLES[name]
    hints = typing.get_type_hints(found)
    assert "Step" not in repr(hints)
    assert "Telling" not in repr(hints)
    if not (inspect.isclass(found) and issubclass(found, (BaseException, typing.Protocol, quota.Reason))):
        assert "Step" not in str(inspect.signature(found))
        assert "Telling" not in str(inspect.signature(found))


def test_what_methods_return():
    """Of the ledgers, by hints, signatures and help."""
    for ledger in (Ledger, AsyncLedger):
        for method, answer in (("consume", Decision), ("add_plan", UsagePlan), ("issue_key", IssuedKey), ("get_key", ApiKey),
                               ("usage", list[UsageRecord]), ("refund", int), ("forget", type(None))):  # fmt: skip
            assert typing.get_type_hints(getattr(ledger, method))["return"] == answer
    assert str(inspect.signature(Ledger.get_key)) == "(self, key: 'ApiKey | str') -> 'ApiKey'"
    assert inspect.iscoroutinefunction(AsyncLedger.get_key)
    told = inspect.getdoc(Ledger.issue_key)
    assert told.startswith("Make an API key")


@pytest.mark.parametrize(
    "store", [RedisStore, PostgresStore, LeasedStore, AsyncRedisStore, AsyncPostgresStore, AsyncLeasedStore]
)
def test_what_operations_of_stores_return(store):
    """By hints and signatures: what their steps return in the end, awaited or not."""
    for method, answer in (("get_key", ApiKey), ("list_plans", list[UsagePlan]), ("add_keys", type(None))):
        operation = getattr(store, method)
        assert typing.get_type_hints(operation)["return"] == answer
        assert "Flow" not in str(inspect.signature(operation))
        assert inspect.iscoroutinefunction(operation) == store.__name__.startswith("Async")


def test_an_issued_key_is_a_tuple_that_hides_its_secret():
    """By index, by name and unpacked; its repr, in a container too, has no secret, and a pickle has."""
    issued = Ledger().issue_key("k")
    key, secret = issued
    assert (issued[0], issued[1], issued.key, issued.secret, len(issued)) == (key, secret, key, secret, 2)
    assert isinstance(issued, tuple)
    for text in (repr(issued), str(issued), f"{issued}", repr([issued]), repr({1: (issued,)})):
        assert secret not in text
    assert pickle.loads(pickle.dumps(issued)) == issued


def test_json_forms():
    """What JSON can hold of each public value, without a secret or a digest in it."""
    ledger = Ledger()
    plan = UsagePlan(
        "p",
        "9/day, 5/s burst 5",
        routes={"r": "1/3/s burst 1"},
        costs={"r": {"requests": 1, "tokens": 2}},
        alerts=(50,),
    )
    ledger.add_plan(plan)
    key, secret = ledger.issue_key("k", plan="p", metadata={"a": "b"})
    ledger.rotate_key(key, overlap=10**9)
    decisions = [
        ledger.consume(secret),
        ledger.consume(secret, {"requests": 9}),
        ledger.consume(None),
        ledger.peek(secret, route="r"),
    ]
    values = [*decisions, *decisions[0].limits, plan, ledger.get_key(key), *ledger.usage(key)]
    for value in values:
        text = json.dumps(value.to_dict())
        assert secret not in text
        assert not [one for one in ledger.get_key(key).secrets if one.digest.hex() in text]
    told = decisions[1].to_dict()
    assert (told["allowed"], told["reason"], told["violated"]) == (False, "THROTTLED", ["throttle"]) or told[
        "reason"
    ] == "COST_TOO_LARGE"
    assert decisions[0].to_dict()["limits"][0]["used"] == 1
    assert UsagePlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert UsagePlan.from_dict({"id": "p", "limits": "5/day"}) == UsagePlan("p", "5/day")
    for wrong in (
        {},
        {"id": "p"},
        {"id": "p", "limits": "5/day", "x": 1},
        None,
        "p",
        {"id": "p", "limits": "5/day", "_route_plans": {}},
    ):
        with pytest.raises(quota.InvalidPlan, match="plan: .* expected a mapping with id and limits"):
            UsagePlan.from_dict(wrong)


RIGHT = """
from datetime import timedelta
from quota import *
from quota.stores.leased import LeasedStore
from quota.stores.redis import AsyncRedisStore, RedisStore
from quota.stores.postgres import AsyncPostgresStore, PostgresStore
from quota.flask import Quota as Extension
from quota.web import client_address, usage_page
import ipaddress
import psycopg_pool
import redis
import redis.asyncio
ledger = Ledger("memory://")
ledger.add_plan(UsagePlan("p", [Quota(5, "day"), "1/s"], routes={"r": "2/day as few"}, costs={"r": 1, "s": {"tokens": 2}}, alerts=[50]))
ledger.add_plan(UsagePlan("q", Throttle("0.5", "minute", burst=3)))
key, secret = ledger.issue_key("k", plan="p")
name: str = key.name
text: str = secret
decision: Decision = ledger.consume(secret, {"tokens": 1}, route="r")
if not decision:
    print(decision.status, decision.headers(), decision.problem(), decision.to_dict())
with ledger.reserve(secret, 3, ttl=timedelta(minutes=1)) as held:
    done: Decision = held.commit(1)
async def main() -> None:
    async with AsyncLedger("memory://") as awaited:
        issued = await awaited.issue_key("k")
        found: Decision = await awaited.consume(issued.secret)
        held: AsyncReservation = await awaited.reserve(issued[1], 1, ttl=1)
        await held.cancel()
        again: ApiKey = await AsyncRedisStore().get_key(issued.key.id)
usage_page(ledger, trusted_proxies=["10.0.0.0/8", ipaddress.ip_network("fd00::/8")])
address: str | None = client_address({}, 1)
extension = Extension(None, "sqlite:///usage.db", on_unavailable="deny", everywhere=False, key=lambda request: ledger.get_key("ada"))
@extension.limited(cost=5, on_unavailable="allow")
def view() -> str:
    return "pets"
ApiKey("k", "k", "k", metadata={"a": "b"})
RedisStore(redis.Redis())
RedisStore(redis.RedisCluster("a"))
AsyncRedisStore(redis.asyncio.Redis())
PostgresStore(psycopg_pool.ConnectionPool("postgresql://"))
AsyncPostgresStore(psycopg_pool.AsyncConnectionPool("postgresql://"))
PostgresStore("postgresql://")
LeasedStore(RedisStore())
Ledger(PostgresStore())
AsyncLedger(AsyncRedisStore())
plans: list[UsagePlan] = LeasedStore("redis://").list_plans()
@limited(ledger, key=secret, cost={"tokens": 2}, route="r")
def add(a: int, b: int = 0) -> int:
    return a + b
def whose(shop: object, n: int) -> ApiKey:
    return key
class Shop:
    @limited(ledger, key=whose)
    async def pets(self, n: int) -> list[str]:
        return ["cat"] * n
async def visit() -> None:
    total: int = add(1, b=2)
    names: list[str] = await Shop().pets(total)
"""
WRONG = {
    "limits": "UsagePlan('p', 5)", "a limit": "UsagePlan('p', [5])", "routes": "UsagePlan('p', (), routes=5)", "route's limits": "UsagePlan('p', (), routes={'r': 5})",
    "costs": "UsagePlan('p', (), costs={'r': 'x'})", "alerts": "UsagePlan('p', (), alerts=80)", "period": "Quota(5, 5)", "limit": "Quota('5', 'day')",
    "rate": "Throttle(0.5)", "a store": "Ledger(5)", "an awaited store": "AsyncLedger(5)", "a secret": "ledger.consume(5)", "a cost": "ledger.consume('s', 1.5)",
    "a name": "n: int = ledger.issue_key('k').key.name", "a secret's type": "n: int = ledger.issue_key('k')[1]", "a key's type": "key, secret = ledger.issue_key('k'); key.nonsense",
    "three": "a, b, c = ledger.issue_key('k')", "not awaited": "async def f(a: AsyncLedger) -> Decision: return a.consume('s')", "a plan": "ledger.add_plan('5/day')",
    "overlap": "ledger.rotate_key('k', '1h')", "an unknown argument": "ledger.consume('s', apy='x')", "on_unavailable": "Ledger(on_unavailable='maybe')",
    "a store's argument": "from quota.stores.redis import RedisStore; RedisStore().get_key(5)", "a store not awaited": "from quota.stores.redis import AsyncRedisStore; AsyncRedisStore().get_key('k').name",
    "a limited function's argument": "limited(ledger, key='s')(len)(5)", "what it gives": "n: str = limited(ledger, key='s')(len)('')", "a key of a function": "limited(ledger, key=5)",
    "a page's ledger": "from quota.web import usage_page; usage_page(5)", "stages": "from quota.aws import control_plane; control_plane(ledger, credentials=None, stages=5)",
    "credentials": "from quota.aws import control_plane; control_plane(ledger, credentials='AK', stages=None)", "a zone of nobody": "from quota.web import usage_page; usage_page(ledger, zone='UTC')",
    "no key": "limited(ledger)", "metadata": "ApiKey('k', 'k', 'k', metadata=5)", "an account's metadata": "Account('a', metadata=5)",
    "a leased store": "from quota.stores.leased import LeasedStore; LeasedStore(5)", "an awaited one": "from quota.stores.leased import AsyncLeasedStore; AsyncLeasedStore(5)",
    "a client": "from quota.stores.redis import RedisStore; RedisStore(5)", "a client that is not awaited": "import redis; from quota.stores.redis import AsyncRedisStore; AsyncRedisStore(redis.Redis())",
    "a pool": "from quota.stores.postgres import PostgresStore; PostgresStore(5)", "an awaited pool": "from quota.stores.postgres import AsyncPostgresStore; AsyncPostgresStore(5)",
    "proxies": "from quota.web import usage_page; usage_page(ledger, trusted_proxies=1.5)", "networks of proxies": "from quota.web import client_address; client_address({}, [1.5])",
    "a setting's callable": "from quota.wsgi import QuotaMiddleware; QuotaMiddleware(lambda e, s: [], ledger, on_unavailable='deny', key=lambda environ: 5)",
    "an extension's setting": "from quota.flask import Quota; Quota(None, ledger, on_unavialable='deny')", "a view's": "from quota.flask import Quota; Quota(None, ledger).limited(csot=5)",
    "a Django view's": "from quota.django import limited as only; only(csot=5)", "a name that is not there": "from quota import nonsense",
}  # fmt: skip


IMPORTS = f"from quota import {', '.join(sorted(quota.__all__))}"


def mypy(folder):
    """What mypy says of the programs in a folder, strictly, as (file, line)s."""
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--ignore-missing-imports",
        "--cache-dir",
        str(paths.ROOT / ".mypy_cache" / "programs"),  # one for all of them: the library is read once
    ]
    command += sorted(path.name for path in folder.glob("*.py"))
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return {tuple(line.split(":")[:2]): line for line in done.stdout.splitlines() if ": error:" in line}


UNASKED = {"reportUnusedImport", "reportUnusedExpression", "reportUnusedVariable", "reportUnusedClass", "reportUnusedFunction",
           "reportMissingTypeStubs", "reportUnknownMemberType", "reportPrivateUsage"}  # fmt: skip
"""Matters of a program's own, or of libraries that have no types."""


UNTYPED = "\n# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false\n"
"""What comes of libraries without types is not asked about in the examples, which use such."""


def pyright(folder):
    """The same of pyright."""
    settings = {"typeCheckingMode": "strict", **dict.fromkeys(sorted(UNASKED), False)}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = ["node", str(PYRIGHT), "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {
        (Path(one["file"]).name, str(one["range"]["start"]["line"] + 1)): one["message"]
        for one in found
        if one["severity"] == "error"
    }


PYRIGHT = Path(sys.prefix) / "pyright" / "index.js"
CHECKERS = [mypy, *([pyright] if PYRIGHT.exists() else [])]
"""pyright, where ``make`` had it of npm's and node is there: CI runs both."""


def programs():
    """The README's programs that stand by themselves, each as a user copies it, and the examples."""
    readme = (paths.ROOT / "README.md").read_text()
    blocks = [part.partition("```")[0] for part in readme.split("```python\n")[1:]]
    alone = [block for block in blocks if re.search("^from quota import .*Ledger", block, re.MULTILINE)]
    assert len(alone) >= 2
    yield from ((f"program{number}.py", program) for number, program in enumerate(alone))
    examples = sorted((paths.ROOT / "examples").rglob("*.py"))
    assert examples
    for number, path in enumerate(examples):
        yield f"{path.parent.name}{number}_{path.name}", path.read_text("utf-8") + UNTYPED


@pytest.mark.parametrize("checker", CHECKERS, ids=lambda checker: checker.__name__)
def test_what_is_wrong_is_found_and_nothing_else(checker, tmp_path):
    """Strictly: each planted misuse by its line, and not a word of programs that are right, the README's and examples."""
    (tmp_path / "right.py").write_text(RIGHT.replace("from quota import *", IMPORTS))
    lines = [IMPORTS, "ledger = Ledger()", *WRONG.values()]
    (tmp_path / "wrong.py").write_text("\n".join(lines))
    for name, program in programs():
        (tmp_path / name).write_text(program)
    told = checker(tmp_path)
    assert {place: message for place, message in told.items() if place[0] != "wrong.py"} == {}
    found = {int(line) for file, line in told if file == "wrong.py"}
    assert not [what for number, what in enumerate(WRONG, 3) if number not in found], told
