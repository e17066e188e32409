"""The house's rules, held by its own walls: floors, imports, clocks, lengths, names, start-up.

A rule is a function from a module to what breaks it. Each is run over the library or the tests, and over planted
breaches that it must see and their innocent neighbours that it must not.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from functools import lru_cache
from pathlib import Path

import attrs
import pytest
from benchmarks.core import core

import paths
import quota

ROOT = paths.ROOT
SRC = ROOT / "src" / "quota"

# From the ground up: what a file or a folder of the root may know stands lower, or beside it without a circle.
FLOORS = [
    {"errors", "clock", "process", "networks"},
    {"account", "period", "key", "rule"},
    {"joined", "limit", "limit_text", "plan", "headers"},
    {"decision", "event", "refusals", "status"},
    {"operations"},
    {"stores"},
    {"ledger"},
    {"__init__", "aws", "metrics", "replay", "testing", "web"},
    {"asgi", "wsgi"},
    {"aiohttp", "django", "fastapi", "flask", "cli", "__main__"},
]
# Inside of ``stores``: an engine knows what engines share and never another engine; leases count in memory.
ENGINES = [{"__init__", "base", "texts"}, {"memory", "sqlite", "server"}, {"redis", "postgres", "leased"}]
EMBEDDED = 6
"""The highest floor that attrs alone carries, remote stores' drivers aside."""
DRIVERS = {"redis": {"redis"}, "postgres": {"psycopg", "psycopg_pool"}}
WIDEST = 13
"""The most entries of a folder below the root: about a dozen."""
FACE = {
    "Account", "ApiKey", "AsyncLedger", "AsyncReservation", "Caller", "Clock", "Concurrency", "Decision", "Event", "IssuedKey", "Ledger", "LimitOverride", "LimitStatus", "ManualClock", "Period", "Quota",
    "Reason", "Reservation", "ScheduledPlan", "Throttle", "UsagePlan", "UsageRecord", "UsageTotal", "limited", "system_clock",
}  # fmt: skip
ERRORS = {
    "QuotaError", "InvalidPlan", "InvalidCost", "InvalidSecret", "InvalidValue", "UnknownAccount", "UnknownKey", "UnknownPlan", "PlanConflict", "ClockSkew",
    "StoreBusy", "StoreUnavailable", "RequestMismatch", "ReservationClosed", "NotAllowed",
}  # fmt: skip


@attrs.frozen
class Module:
    """A file of the library or of the tests: ``name`` is dotted, below ``quota`` or ``tests``."""

    name: str
    source: str
    tree: ast.Module = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self):
        object.__setattr__(self, "tree", ast.parse(self.source))

    @property
    def top(self):
        return self.name.partition(".")[0]

    @property
    def floor(self):
        return floor_of(self.name)

    @property
    def package(self):
        """The folder that it is in, as parts."""
        return self.name.split(".")[:-1]

    @property
    def remote(self):
        """The engine that a remote store or its helper speaks to, if it is one."""
        return next((engine for engine in DRIVERS if self.name.startswith(f"stores.{engine}.")), None)


def floor_of(name):
    """The floor of a dotted name; what is no file or folder of the root is a name that the root gives."""
    tops = {name.partition(".")[0], "__init__"}
    return next(floor for top in sorted(tops, reverse=True) for floor, names in enumerate(FLOORS) if top in names)


def engine_of(name):
    """The folder of ``stores`` that a dotted name is in, and its floor there; else it is a name that ``stores`` gives."""
    engine = name.split(".")[1]
    return next(((engine, floor) for floor, names in enumerate(ENGINES) if engine in names), ("__init__", 0))


@lru_cache(maxsize=2)
def modules(folder):
    """Every Python file below a folder."""
    return [
        Module(".".join(path.relative_to(folder).with_suffix("").parts), path.read_text("utf-8"))
        for path in sorted(folder.rglob("*.py"))
    ]


def kept(walk):
    """A walk over a module, done once: many rules ask for it."""
    return lru_cache(maxsize=1_000)(lambda module: [*walk(module)])


@kept
def imports(module):
    """Each import, lazy and typing-only ones too, as (node, dotted name, whether relative); those below ``quota``."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node, node.module, False
        elif isinstance(node, ast.ImportFrom):
            if len(module.package) < node.level - 1:
                yield node, "..", True
                continue
            above = module.package[: len(module.package) - node.level + 1]
            for alias in node.names:
                yield node, ".".join([*above, *filter(None, [node.module]), alias.name]), True


@kept
def chains(module):
    """Names and attribute chains as (node, dotted name), seen through the imports' aliases."""
    aliases = {}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                aliases[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and not node.level:
            aliases |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    for node in ast.walk(module.tree):
        parts, inner = [], node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name) and (parts or inner.id in aliases):
            yield node, ".".join([aliases.get(inner.id, inner.id), *reversed(parts)])


def climbs(module):
    """A floor imports its own floor or lower ones; an engine knows what engines share, never another one."""
    for node, name, relative in imports(module):
        if not relative:
            continue
        if name == ".." or floor_of(name) > module.floor:
            yield f"{module.name}:{node.lineno} climbs to {name}"
        elif module.top == "stores" and name.startswith("stores."):
            (mine, here), (other, there) = engine_of(module.name), engine_of(name)
            borrowed = mine == "leased" and other == "memory"
            if there > here or (mine != other and other not in ENGINES[0] | {"server"} and not borrowed):
                yield f"{module.name}:{node.lineno} knows {name}"


def underscored(module):
    """What is public is said by ``__all__`` and the documents, not by the names of files."""
    if any(part.startswith("_") and not part.startswith("__") for part in module.name.split(".")):
        yield f"{module.name} begins with an underscore"


def names_itself(module):
    """The library never says its own name: the folder works under any other."""
    for node, name, relative in imports(module):
        if not relative and name.partition(".")[0] == "quota":
            yield f"{module.name}:{node.lineno} imports {name}"


def strangers(module):
    """What is embedded imports the standard library and attrs; a remote store its own driver; nobody imports by text."""
    if module.floor > EMBEDDED:
        return
    welcome = sys.stdlib_module_names | {"attrs", "_sha2", "_sha256"} | DRIVERS.get(module.remote, set())
    for node, name, relative in imports(module):
        if not relative and name.partition(".")[0] not in welcome:
            yield f"{module.name}:{node.lineno} imports {name}"
        if name == "importlib" and module.name != "stores.__init__":  # open_store is the one door
            yield f"{module.name}:{node.lineno} imports by text"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Name) and node.id == "__import__":
            yield f"{module.name}:{node.lineno} imports by text"


WAITING = {"ledger.breaker", "ledger.waiting", "process.lines"}
"""A store that is away is asked again after some seconds, and callers wait for as long as they say: by no wall clock."""


def reads_clock(module):
    """Wall clocks are read in ``clock``, randomness is drawn in ``key``, and only stores bound their waits."""
    called = {node.func for node in ast.walk(module.tree) if isinstance(node, ast.Call)}
    for node, name in chains(module):
        clock = re.match(r"time\.|datetime\.(datetime\.(now|utcnow|today)|date\.today)$|os\.times$", name)
        dice = re.match(r"(random|secrets|uuid)\.|os\.(urandom|getrandom)$", name)
        if (clock and module.name != "clock") or (dice and module.name != "key"):
            yield f"{module.name}:{node.lineno} uses {name}"
        elif module.floor <= EMBEDDED and node in called and re.search(r"\.(now|utcnow|today)$", name) and not clock:
            yield f"{module.name}:{node.lineno} calls {name}"
    for node, name, relative in imports(module):
        if (
            not relative
            and name in {"time", "random", "secrets", "uuid"}
            and module.name != ("clock" if name == "time" else "key")
        ):
            yield f"{module.name}:{node.lineno} imports {name}"
        waits = isinstance(node, ast.ImportFrom) and any(alias.name == "monotonic" for alias in node.names)
        if (
            relative
            and waits
            and module.floor <= EMBEDDED
            and module.top not in {"clock", "stores"}
            and module.name not in WAITING
        ):
            yield f"{module.name}:{node.lineno} may wait by the clock"


CLOCKS = (
    r"\b(now|(clock|statement|transaction)_timestamp|julianday|unixepoch|timeofday)\s*\(\s*\)"
    r"|\bcurrent_(time|date|timestamp)\b|\blocaltime(stamp)?\b|\bstrftime\s*\(|'now'|\bos\.(time|clock)\b"
    r"|call\(\s*.TIME.\s*\)"
)
DICE = r"\b(random|randomblob|gen_random_uuid|gen_random_bytes)\s*\(|math\.random"


def asks_server(module):
    """SQL and Lua read no clock and draw nothing, but that remote stores may compare clocks, and say so."""
    if module.top != "stores":
        return
    docstrings = {n.value for n in ast.walk(module.tree) if isinstance(n, ast.Expr)}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
            if re.search(DICE, node.value, re.IGNORECASE) or re.search(CLOCKS, node.value, re.IGNORECASE):
                yield f"{module.name}:{node.lineno} asks its server"


def asking_texts(folder):
    """The same of the files beside the stores: only a remote engine's may read a clock, to compare it, and says so."""
    for path in sorted([*folder.rglob("*.sql"), *folder.rglob("*.lua")]):
        text = path.read_text("utf-8")
        argued = path.parent.name in DRIVERS and "server's" in text
        if re.search(DICE, text, re.IGNORECASE) or (re.search(CLOCKS, text, re.IGNORECASE) and not argued):
            yield path.relative_to(folder).as_posix()


def impure(module):
    """The rule is integers and functions: nothing divided, no floats, and no import that could wait, look or remember."""
    if module.top != "rule":
        return
    for node, name, relative in imports(module):
        if not relative and name not in {
            "__future__",
            "array",
            "attrs",
            "collections.abc",
            "heapq",
            "itertools",
            "operator",
            "typing",
        }:
            yield f"{module.name}:{node.lineno} imports {name}"
    for node in ast.walk(module.tree):
        divides = isinstance(node, (ast.BinOp, ast.AugAssign)) and isinstance(node.op, ast.Div)
        if divides or (isinstance(node, ast.Constant) and type(node.value) is float):
            yield f"{module.name}:{node.lineno} leaves the integers"
        elif isinstance(node, ast.Name) and node.id in {"float", "open", "print", "input"}:
            yield f"{module.name}:{node.lineno} uses {node.id}"


def shows_secret(module):
    """A presented secret is never compared or looked up as it is: only its digest is, or it is with a constant."""
    secret = re.compile(r"(\w+\.)*(secret|presented)$")
    for node in ast.walk(module.tree):
        found = []
        if isinstance(node, ast.Compare) and any(
            isinstance(o, (ast.Eq, ast.NotEq, ast.In, ast.NotIn)) for o in node.ops
        ):
            sides = [node.left, *node.comparators]
            constant = any(isinstance(s, ast.Constant) or (isinstance(s, ast.Name) and s.id.isupper()) for s in sides)
            found = [] if constant else sides
        elif isinstance(node, ast.Subscript):
            found = [node.slice]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            found = node.args[:1] if node.func.attr in {"get", "pop", "setdefault", "index", "hget"} else []
        if any(secret.match(ast.unparse(side)) for side in found):
            yield f"{module.name}:{node.lineno} uses a secret itself"


def long_functions(module):
    """Functions fit a screen: 70 lines."""
    for node in ast.walk(module.tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno - node.lineno >= 70:
            yield f"{module.name}.{node.name}: {node.end_lineno - node.lineno + 1} lines"


LONG_FILES = {
    "key": (340, "keys, secrets and callers, and how a secret is made and told from a wrong one"),
    "ledger.sync": (360, "a ledger's methods, of which the fast path stands in line"),
    "decision": (335, "an answer and all that it tells, each worked out when it is asked for"),
    "plan": (340, "a plan and its compiled form, and a subject's own limits in it"),
    "rule.charge": (350, "the rule: every kind of limit in one walk"),
    "stores.leased.flow": (345, "the steps of one class, which call each other"),
    "stores.leased.holder": (360, "a lease, a refusal that is remembered, and who holds both"),
    "period": (330, "one argument: the zone's clock, the windows on it, and their text"),
    "operations.headroom": (360, "one compiled form, and the decision that is made by it"),
    "stores.sqlite.directory": (345, "keys and their plans, each operation in one transaction"),
    "stores.redis.requests": (330, "the calls of one class, which share what a hash holds"),
    "aws.read": (330, "one item of the service after another, by the same notes"),
    "rule.record": (345, "a record and its encoded form, which change together"),
    "testing.model": (800, "an independent model says everything again, and in its own words"),
}
"""Files that argue for more than 320 lines: name -> (lines, why)."""


def long_files(module):
    """Files are read in one sitting: about 300 lines."""
    lines, most = len(module.source.splitlines()), LONG_FILES.get(module.name, (320,))[0]
    if lines > most:
        yield f"{module.name}: {lines} lines, {most} allowed"


def unsure(module):
    """Tests neither sleep nor skip nor try again."""
    for node, name in chains(module) if re.search("skip|xfail|flaky", module.source) else ():
        if re.match(
            r"(pytest\.(skip|xfail|importorskip|mark\.(skip|skipif|xfail|flaky))|unittest\.skip\w*|self\.skipTest)$",
            name,
        ):
            yield f"{module.name}:{node.lineno} gives up: {name}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "sleep":
            if [ast.unparse(argument) for argument in node.args] != ["0"]:  # sleep(0) only lets others run
                yield f"{module.name}:{node.lineno} sleeps"


def unsaid(module):
    """Every test says in its docstring what it holds."""
    for node in ast.walk(module.tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_"):
            if ast.get_docstring(node) is None:
                yield f"{module.name}.{node.name}"


def circles(files):
    """The files that import each other in a circle, typing-only and lazy imports counted."""
    names = {module.name for module in files}

    def found(name):
        parts = name.split(".")
        options = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
        options = [option for name in options for option in (name, f"{name}.__init__")]
        return next((option for option in options if option in names), "__init__")

    knows = {m.name: {found(name) for _, name, relative in imports(m) if relative} - {m.name} for m in files}
    while free := {name for name, others in knows.items() if not others & knows.keys()}:
        knows = {name: others for name, others in knows.items() if name not in free}
    yield from sorted(name for name in knows if any(name in others for others in knows.values()))


def wide_folders(folder):
    """The folders below one that have more entries than a reader takes in at once."""
    for path in sorted(folder.rglob("*/")):
        entries = [entry for entry in path.iterdir() if entry.name != "__pycache__"]
        if path.name != "__pycache__" and len(entries) > WIDEST:
            yield f"{path.relative_to(folder)} has {len(entries)} entries"


LIBRARY = [
    climbs, underscored, names_itself, strangers, reads_clock, asks_server, impure, shows_secret, long_functions, long_files,
]  # fmt: skip
TESTS = [unsure, unsaid]


@pytest.mark.parametrize("rule", LIBRARY, ids=lambda rule: rule.__name__)
def test_library(rule):
    """No module of the library breaks the rule."""
    assert [] == [breach for module in modules(SRC) for breach in rule(module)]


@pytest.mark.parametrize("rule", TESTS, ids=lambda rule: rule.__name__)
def test_tests(rule):
    """No module of the tests breaks the rule."""
    assert [] == [breach for module in modules(ROOT / "tests") for breach in rule(module)]


PLANTED = [
    (climbs, "rule.charge", "from ..plan import Quota"),
    (climbs, "plan", "def f():\n    from .ledger import Ledger"),
    (climbs, "errors", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .decision import Decision"),
    (climbs, "ledger.sync", "from .. import testing"),
    (climbs, "ledger.sync", "from .. import Quota"),
    (climbs, "__init__", "from .cli import main"),
    (climbs, "stores.memory.store", "from ...ledger import Ledger"),
    (climbs, "stores.memory.store", "from ..sqlite.schema import STEPS"),
    (climbs, "stores.leased.store", "from ..redis import RedisStore"),
    (climbs, "stores.leased.store", "from .. import redis"),
    (climbs, "stores.server.flow", "from ..redis import RedisStore"),
    (climbs, "stores.redis.store", "from ..memory import MemoryStore"),
    (climbs, "stores.base", "from .memory import MemoryStore"),
    (climbs, "plan", "from .. import other"),
    (underscored, "stores.redis._wire", ""),
    (underscored, "_stores.redis", ""),
    (names_itself, "plan", "from quota.period import Period"),
    (names_itself, "cli.main", "import quota"),
    (strangers, "plan", "import whenever"),
    (strangers, "headers", "def f():\n    from starlette import requests"),
    (strangers, "ledger.sync", "import redis"),
    (strangers, "stores.redis.store", "import psycopg"),
    (strangers, "stores.memory.store", "from redis import Redis"),
    (strangers, "ledger.sync", "from importlib import import_module"),
    (strangers, "decision", "__import__('quota.ledger.sync')"),
    (reads_clock, "rule.charge", "import time"),
    (reads_clock, "ledger.sync", "from time import time_ns"),
    (reads_clock, "headers", "import time as t\nt.time()"),
    (reads_clock, "plan", "from datetime import datetime\ndatetime.now()"),
    (reads_clock, "plan", "import datetime as dt\nwhen = dt.datetime.utcnow"),
    (reads_clock, "plan", "from datetime import date as day\nday.today()"),
    (reads_clock, "plan", "def f(kind):\n    return kind.now(None)"),
    (reads_clock, "rule.charge", "from ..clock import monotonic"),
    (reads_clock, "decision", "import os\nos.urandom(8)"),
    (reads_clock, "ledger.requests", "from uuid import uuid4"),
    (reads_clock, "key", "from time import time"),
    (reads_clock, "clock", "import secrets"),
    (reads_clock, "cli.main", "import random"),
    (asks_server, "stores.sqlite.store", "SQL = \"select strftime('%s')\""),
    (asks_server, "stores.postgres.store", "SQL = 'select now()'"),
    (asks_server, "stores.redis.store", "LUA = \"redis.call('TIME')\""),
    (asks_server, "stores.sqlite.store", "SQL = 'select current_timestamp'"),
    (asks_server, "stores.redis.store", "LUA = 'return math.random()'"),
    (impure, "rule.charge", "from datetime import datetime"),
    (impure, "rule.charge", "import threading"),
    (impure, "rule.record", "half = 1 / 2"),
    (impure, "rule.record", "def f(x):\n    x /= 2"),
    (impure, "rule.charge", "rate = 0.5"),
    (impure, "rule.charge", "def f(x):\n    return float(x)"),
    (shows_secret, "ledger.sync", "def f(secret, other):\n    return secret == other"),
    (shows_secret, "ledger.sync", "def f(key, presented):\n    return presented in key.secrets"),
    (shows_secret, "ledger.sync", "def f(issued, given):\n    return given != issued.secret"),
    (shows_secret, "stores.memory.store", "def f(keys, secret):\n    return keys[secret]"),
    (shows_secret, "stores.memory.store", "def f(keys, secret):\n    return keys.get(secret)"),
    (long_functions, "plan", "def f():\n" + "    pass\n" * 70),
    (long_functions, "plan", "class C:\n    async def f(self):\n" + "        pass\n" * 70),
    (long_files, "networks", "x = 1\n" * 321),
    (unsure, "test_x", "import time\ntime.sleep(1)"),
    (unsure, "test_x", "from asyncio import sleep\nasync def f():\n    await sleep(0.1)"),
    (unsure, "test_x", "import pytest\n@pytest.mark.skipif(True, reason='')\ndef f(): ..."),
    (unsure, "test_x", "from pytest import importorskip\nimportorskip('redis')"),
    (unsure, "test_x", "import pytest\npytestmark = [pytest.mark.flaky]"),
    (unsaid, "test_x", "def test_a():\n    assert f()"),
    (unsaid, "test_x", "class TestA:\n    async def test_a(self): ..."),
]
INNOCENT = [
    (climbs, "stores.redis.store", "from ...rule.charge import evaluate\nfrom ..server.flow import Flow\nfrom .. import open_store"),
    (climbs, "stores.leased.lane", "from ..memory.locks import Exclusive\nfrom ..base import check_store"),
    (climbs, "decision", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .headers import Row"),
    (climbs, "cli.main", "from ..ledger import Ledger\nfrom .. import Quota\nfrom .table import show"),
    (underscored, "stores.__init__", ""),
    (underscored, "__main__", ""),
    (names_itself, "testing", '"""from quota.testing import machine"""'),
    (strangers, "stores.redis.store", "import redis.asyncio\nimport attrs"),
    (strangers, "cli.main", "import typer"),
    (strangers, "stores.__init__", "from importlib import import_module"),
    (reads_clock, "period", "from datetime import date, datetime, time\nnoon = time(12)\ndatetime.combine(date(1, 1, 1), noon)"),
    (reads_clock, "clock", "import time\ntime.time_ns()"),
    (reads_clock, "key", "import os\nos.urandom(8)"),
    (reads_clock, "stores.redis.store", "from ...clock import monotonic"),
    (reads_clock, "rule.charge", "def f(request):\n    return request.now + 1"),
    (asks_server, "stores.sqlite.store", "SQL = 'select used, now from records where expires < ?'"),
    (impure, "rule.charge", "def f(a, b):\n    return -(-a // b)"),
    (impure, "plan", "from fractions import Fraction\nhalf = Fraction(1) / 2"),
    (shows_secret, "ledger.sync", "def f(store, secret):\n    return store.find(digest(secret))"),
    (shows_secret, "headers", "def f(secret):\n    return secret is None or secret == UNKNOWN"),
    (long_functions, "plan", "def f():\n" + "    pass\n" * 69),
    (long_files, "networks", "x = 1\n" * 320),
    (unsure, "test_x", "import asyncio\nasync def f():\n    await asyncio.sleep(0)"),
    (unsaid, "test_x", "def test_a():\n    'It holds.'"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "name", "source"), PLANTED)
def test_planted(rule, name, source):
    """The rule sees the breach."""
    assert list(rule(Module(name, source)))


@pytest.mark.parametrize(("rule", "name", "source"), INNOCENT)
def test_innocent(rule, name, source):
    """The rule lets its neighbour be."""
    assert [] == list(rule(Module(name, source)))


def test_no_circle():
    """No file of the library knows itself by way of others; a circle of three is seen, beside what only leads to it."""
    assert [] == list(circles(modules(SRC)))
    ring = {
        "a": "from .b import x",
        "b": "def f():\n    from . import c",
        "c": "from .a import y",
        "d": "from .a import y",
    }
    assert list(circles([Module(name, source) for name, source in ring.items()])) == ["a", "b", "c"]


def test_no_text_asks_its_server(tmp_path):
    """SQL and Lua read no clock and draw nothing, but that a remote engine's compares clocks; breaches are seen."""
    assert [] == list(asking_texts(SRC))
    for name, text in {
        "sqlite/clock.sql": "-- the server's time\nselect current_timestamp", "redis/dice.lua": "-- the server's\nreturn math.random()",
        "redis/silent.lua": "return redis.call('TIME')", "redis/told.lua": "-- the server's clock\nreturn redis.call('TIME')",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert list(asking_texts(tmp_path)) == ["redis/dice.lua", "redis/silent.lua", "sqlite/clock.sql"]


def test_no_wide_folder(tmp_path):
    """A folder below the root is taken in at once; a wider one is seen."""
    assert [] == list(wide_folders(SRC))
    (tmp_path / "wide").mkdir()
    for number in range(WIDEST):
        (tmp_path / "wide" / f"{number}.py").touch()
    assert [] == list(wide_folders(tmp_path))
    (tmp_path / "wide" / "one_more.sql").touch()
    assert ["wide has 14 entries"] == list(wide_folders(tmp_path))


def test_every_file_stands_on_a_floor():
    """What the root has is named in ``FLOORS`` and what ``stores`` has in ``ENGINES``, and nothing else is."""
    tops = {module.top for module in modules(SRC)}
    assert tops == set().union(*FLOORS)
    assert {engine_of(m.name)[0] for m in modules(SRC) if m.top == "stores"} == set().union(*ENGINES)


def test_every_rule_is_planted():
    """No rule is run that was not shown to see something and to let something be."""
    assert {*LIBRARY, *TESTS} == {rule for rule, _, _ in PLANTED} == {rule for rule, _, _ in INNOCENT}


def test_properties_are_held_by_tests_that_exist():
    """Every test that the table of properties names is there; and it names one for each property."""
    rows = re.findall(
        r"^\| (?!property|---)(.+?) \| (.+) \|$", (ROOT / "tests" / "README.md").read_text(), re.MULTILINE
    )
    assert len(rows) == 41
    for held, tests in rows:
        names = re.findall(r"`([\w/]+\.py)::(\w+)`", tests)
        assert names, held
        for file, name in names:
            assert re.search(
                rf"^(def {name}\(|class {name}\b|{name} = )", (ROOT / "tests" / file).read_text(), re.MULTILINE
            ), name


def test_face():
    """``from quota import *`` gives the contract's names, sorted, and each is there."""
    assert sorted(FACE | ERRORS) == quota.__all__
    assert [] == [name for name in quota.__all__ if not hasattr(quota, name)]
    for name in ERRORS:
        assert issubclass(getattr(quota, name), quota.QuotaError)


def test_version():
    """The version is a literal, so that a copied folder has it; the changelog knows it."""
    tree = next(module for module in modules(SRC) if module.name == "__init__").tree
    (value,) = [n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "__version__"]
    assert value.value == quota.__version__
    assert quota.__version__ in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_covered():
    """The coverage that must be whole is measured on what is embedded, with the memory store."""
    report = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["coverage"]["report"]
    folders = {f"*/quota/{top}/*" for top in ("ledger", "operations", "process", "rule")}
    files = {f"*/quota/{m.name}.py" for m in modules(SRC) if m.floor <= EMBEDDED and "." not in m.name}
    expected = folders | files | {"*/quota/__init__.py", "*/quota/stores/*.py", "*/quota/stores/memory/*"}
    assert expected == set(report["include"])


def fresh(code, cache):
    """What a new interpreter prints, that has this library and attrs, compiled before, and no site."""
    places = [str(SRC.parent), str(Path(attrs.__file__).parents[1])]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE", "COV_"))}
    command = [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {places!r}\n{code}"]
    env = kept | {"PYTHONPYCACHEPREFIX": str(cache)}
    return json.loads(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)


AT_ONCE = {"array", "bisect", "datetime", "decimal", "fractions", "hashlib", "math", "numbers", "zlib"}
"""What ``import quota`` may load beyond what ``import attrs`` does: the modules that the embedded floors use at once."""


def test_start_up_loads(tmp_path):
    """``import quota`` loads attrs, what it uses at once, and of itself no more than an embedded ledger needs."""
    code = "import attrs, json; had = set(sys.modules); import quota; print(json.dumps(sorted(set(sys.modules) - had)))"
    loaded = fresh(code, tmp_path)
    ours = {name.partition(".")[2] for name in loaded if name.startswith("quota.")}
    assert not {name for name in ours if floor_of(name) > EMBEDDED}
    assert not ours & {"headers", "web", "aws", "stores.sqlite", "stores.redis", "stores.postgres", "stores.leased"}
    others = {name.partition(".")[0] for name in loaded} - {"quota"}
    assert {name for name in others if not name.startswith("_")} <= AT_ONCE
    assert others <= sys.stdlib_module_names


def test_the_core_is_as_small_as_it_is_told_to_be():
    """What ``Ledger()`` in memory loads: the README's number is the budget, and no more than 50 lines too large."""
    lines = sum(core().values())
    told = int(re.search(r"at most ([\d,]+) lines", (ROOT / "README.md").read_text("utf-8"))[1].replace(",", ""))
    assert told - 50 < lines <= told


def test_start_up_takes(tmp_path):
    """``import quota`` takes at most twice the processor time of ``import attrs``."""
    code = "from time import process_time_ns as t; a = t(); import {}; print(t() - a)"
    rounds = [[fresh(code.format(name), tmp_path) for name in ("attrs", "quota")] for _ in range(21)]
    first, *warm = rounds  # the first compiles
    attrs_ns, quota_ns = (min(column) for column in zip(*warm, strict=True))
    assert quota_ns <= 2 * attrs_ns, f"{quota_ns / attrs_ns:.2f} times import attrs; first: {first}"
