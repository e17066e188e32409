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
from pathlib import Path

import attrs
import pytest

import paths
import quota

ROOT = paths.ROOT
SRC = ROOT / "src" / "quota"

# Whatever is not named here stands on floor 3 and is imported by nothing below it.
FLOORS = {
    0: {"atomic", "forks", "errors", "clock", "period", "record", "undo", "moves", "charge"},
    1: {
        "bounds", "limit", "plan", "key", "decision", "store", "leases", "lease_operations", "history", "memos", "operations", "http",
    },
    2: {"__init__", "administration", "ledger", "steps", "reservation", "stores"},
}  # fmt: skip
PURE = {"record", "moves", "charge"}
DRIVERS = {"redis": {"redis"}, "postgres": {"psycopg", "psycopg_pool"}}
FACE = {
    "ApiKey", "AsyncLedger", "AsyncReservation", "Clock", "Decision", "IssuedKey", "Ledger", "LimitStatus", "ManualClock", "Period", "Quota",
    "Reason", "Reservation", "Throttle", "UsagePlan", "UsageRecord", "system_clock",
}  # fmt: skip
ERRORS = {
    "QuotaError", "InvalidPlan", "InvalidCost", "InvalidSecret", "InvalidValue", "UnknownKey", "UnknownPlan", "PlanConflict", "ClockSkew",
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
    def remote(self):
        """The engine that a remote store or its helper speaks to, if it is one."""
        return next((e for e in DRIVERS if self.name.startswith("stores.") and e in self.name), None)


def floor_of(name):
    return next((floor for floor, names in FLOORS.items() if name.partition(".")[0] in names), 3)


def modules(folder):
    """Every Python file below a folder."""
    for path in sorted(folder.rglob("*.py")):
        yield Module(".".join(path.relative_to(folder).with_suffix("").parts), path.read_text("utf-8"))


def imports(module):
    """Each import that is executed, as (node, dotted name, whether relative); relative ones below ``quota``."""
    typing_only = {
        inner
        for node in ast.walk(module.tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(module.tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((node, alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node, node.module, False
        elif isinstance(node, ast.ImportFrom):
            above = module.name.split(".")[: -node.level]
            if len(module.name.split(".")) < node.level:
                yield node, "..", True
            elif node.module:
                yield node, ".".join([*above, node.module]), True
            else:
                yield from ((node, ".".join([*above, alias.name]), True) for alias in node.names)


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
    """A floor imports its own floor or lower ones; stores know neither the ledger nor each other."""
    for node, name, relative in imports(module):
        if not relative:
            continue
        if name == ".." or floor_of(name) > module.floor:
            yield f"{module.name}:{node.lineno} climbs to {name}"
        elif module.top == "stores":
            sibling = name.startswith("stores.") and not name.startswith("stores._")
            if sibling or name.partition(".")[0] in {"ledger", "steps", "reservation"}:
                yield f"{module.name}:{node.lineno} knows {name}"


def names_itself(module):
    """The library never says its own name: the folder works under any other."""
    for node, name, relative in imports(module):
        if not relative and name.partition(".")[0] == "quota":
            yield f"{module.name}:{node.lineno} imports {name}"


def strangers(module):
    """Floors 0 to 2 import the standard library and attrs; a remote store its own driver; nobody imports by text."""
    if module.floor > 2:
        return
    welcome = sys.stdlib_module_names | {"attrs"} | DRIVERS.get(module.remote, set())
    for node, name, relative in imports(module):
        if not relative and name.partition(".")[0] not in welcome:
            yield f"{module.name}:{node.lineno} imports {name}"
        if name.partition(".")[0] == "importlib" and module.name != "store":  # open_store is the one door
            yield f"{module.name}:{node.lineno} imports by text"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Name) and node.id == "__import__":
            yield f"{module.name}:{node.lineno} imports by text"


def reads_clock(module):
    """Wall clocks are read in ``clock``, randomness is drawn in ``key``, and only stores bound their waits."""
    called = {node.func for node in ast.walk(module.tree) if isinstance(node, ast.Call)}
    for node, name in chains(module):
        clock = re.match(r"time\.|datetime\.(datetime\.(now|utcnow|today)|date\.today)$|os\.times$", name)
        dice = re.match(r"(random|secrets|uuid)\.|os\.(urandom|getrandom)$", name)
        if (clock and module.name != "clock") or (dice and module.name != "key"):
            yield f"{module.name}:{node.lineno} uses {name}"
        elif module.floor < 3 and node in called and re.search(r"\.(now|utcnow|today)$", name) and not clock:
            yield f"{module.name}:{node.lineno} calls {name}"
    for node, name, relative in imports(module):
        if name in {"time", "random", "secrets", "uuid"} and module.name != ("clock" if name == "time" else "key"):
            yield f"{module.name}:{node.lineno} imports {name}"
        waits = isinstance(node, ast.ImportFrom) and any(alias.name == "monotonic" for alias in node.names)
        if relative and waits and module.floor < 3 and module.top != "stores":
            yield f"{module.name}:{node.lineno} may wait by the clock"


def asks_server(module):
    """SQL and Lua read no clock and draw nothing, but that remote stores may compare clocks, and say so."""
    if module.top != "stores":
        return
    docstrings = {n.value for n in ast.walk(module.tree) if isinstance(n, ast.Expr)}
    argued = "server's" in module.source and module.remote is not None
    clock = r"\b(now|(clock|statement|transaction)_timestamp|julianday|unixepoch|timeofday)\s*\(\s*\)"
    clock += r"|\bcurrent_(time|date|timestamp)\b|\blocaltime(stamp)?\b|\bstrftime\s*\(|'now'|\bos\.(time|clock)\b|call\(\s*.TIME.\s*\)"
    dice = r"\b(random|randomblob|gen_random_uuid|gen_random_bytes)\s*\(|math\.random"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
            if re.search(dice, node.value, re.IGNORECASE) or (
                re.search(clock, node.value, re.IGNORECASE) and not argued
            ):
                yield f"{module.name}:{node.lineno} asks its server"


def impure(module):
    """The rule is integers and functions: nothing divided, no floats, and no import that could wait, look or remember."""
    if module.name not in PURE:
        return
    for node, name, relative in imports(module):
        if not relative and name not in {"__future__", "attrs", "collections.abc", "itertools", "typing"}:
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
    "charge": (440, "the rule, all of it in one place"),
    "period": (330, "one argument: the zone's clock, the windows on it, and their text"),
    "testing.model": (660, "an independent model says everything again, and in its own words"),
}
"""Files that argue for more than 320 lines: name -> (lines, why)."""


def long_files(module):
    """Files are read in one sitting: about 300 lines."""
    lines, most = len(module.source.splitlines()), LONG_FILES.get(module.name, (320,))[0]
    if lines > most:
        yield f"{module.name}: {lines} lines, {most} allowed"


def unsure(module):
    """Tests neither sleep nor skip nor try again."""
    for node, name in chains(module):
        if re.match(
            r"(pytest\.(skip|xfail|importorskip|mark\.(skip|skipif|xfail|flaky))|unittest\.skip\w*|self\.skipTest)$",
            name,
        ):
            yield f"{module.name}:{node.lineno} gives up: {name}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and re.match(r"(\w+\.)*sleep$", ast.unparse(node.func)):
            if [ast.unparse(argument) for argument in node.args] != ["0"]:  # sleep(0) only lets others run
                yield f"{module.name}:{node.lineno} sleeps"


def unsaid(module):
    """Every test says in its docstring what it holds."""
    for node in ast.walk(module.tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_"):
            if ast.get_docstring(node) is None:
                yield f"{module.name}.{node.name}"


LIBRARY = [climbs, names_itself, strangers, reads_clock, asks_server, impure, shows_secret, long_functions, long_files]
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
    (climbs, "charge", "from .plan import Quota"),
    (climbs, "plan", "def f():\n    from .ledger import Ledger"),
    (climbs, "ledger", "from . import testing"),
    (climbs, "__init__", "from .cli import main"),
    (climbs, "stores.memory", "from ..ledger import Ledger"),
    (climbs, "stores.memory", "from ..steps import Steps"),
    (climbs, "stores.leased", "from .redis import RedisStore"),
    (climbs, "stores.leased", "from . import redis"),
    (climbs, "stores._remote", "from .redis import RedisStore"),
    (climbs, "plan", "from .. import other"),
    (names_itself, "plan", "from quota.period import Period"),
    (names_itself, "cli.main", "import quota"),
    (strangers, "plan", "import whenever"),
    (strangers, "http", "def f():\n    from starlette import requests"),
    (strangers, "ledger", "import redis"),
    (strangers, "stores.redis", "import psycopg"),
    (strangers, "stores.memory", "from redis import Redis"),
    (strangers, "ledger", "from importlib import import_module"),
    (strangers, "decision", "__import__('quota.ledger.sync')"),
    (reads_clock, "charge", "import time"),
    (reads_clock, "ledger", "from time import time_ns"),
    (reads_clock, "http", "import time as t\nt.time()"),
    (reads_clock, "plan", "from datetime import datetime\ndatetime.now()"),
    (reads_clock, "plan", "import datetime as dt\nwhen = dt.datetime.utcnow"),
    (reads_clock, "plan", "from datetime import date as day\nday.today()"),
    (reads_clock, "plan", "def f(kind):\n    return kind.now(None)"),
    (reads_clock, "charge", "from .clock import monotonic"),
    (reads_clock, "decision", "import os\nos.urandom(8)"),
    (reads_clock, "steps", "from uuid import uuid4"),
    (reads_clock, "key", "from time import time"),
    (reads_clock, "clock", "import secrets"),
    (reads_clock, "cli.main", "import random"),
    (asks_server, "stores.sqlite", "SQL = \"select strftime('%s')\""),
    (asks_server, "stores.postgres", "SQL = 'select now()'"),
    (asks_server, "stores.redis", "LUA = \"redis.call('TIME')\""),
    (asks_server, "stores.sqlite", "# the server's time\nSQL = 'select current_timestamp'"),
    (asks_server, "stores.redis", "# the server's dice\nLUA = 'return math.random()'"),
    (impure, "charge", "from datetime import datetime"),
    (impure, "charge", "import threading"),
    (impure, "record", "half = 1 / 2"),
    (impure, "record", "def f(x):\n    x /= 2"),
    (impure, "charge", "rate = 0.5"),
    (impure, "charge", "def f(x):\n    return float(x)"),
    (shows_secret, "ledger", "def f(secret, other):\n    return secret == other"),
    (shows_secret, "ledger", "def f(key, presented):\n    return presented in key.secrets"),
    (shows_secret, "ledger", "def f(issued, given):\n    return given != issued.secret"),
    (shows_secret, "stores.memory", "def f(keys, secret):\n    return keys[secret]"),
    (shows_secret, "stores.memory", "def f(keys, secret):\n    return keys.get(secret)"),
    (long_functions, "plan", "def f():\n" + "    pass\n" * 70),
    (long_functions, "plan", "class C:\n    async def f(self):\n" + "        pass\n" * 70),
    (long_files, "plan", "x = 1\n" * 321),
    (unsure, "test_x", "import time\ntime.sleep(1)"),
    (unsure, "test_x", "from asyncio import sleep\nasync def f():\n    await sleep(0.1)"),
    (unsure, "test_x", "import pytest\n@pytest.mark.skipif(True, reason='')\ndef f(): ..."),
    (unsure, "test_x", "from pytest import importorskip\nimportorskip('redis')"),
    (unsure, "test_x", "import pytest\npytestmark = [pytest.mark.flaky]"),
    (unsaid, "test_x", "def test_a():\n    assert f()"),
    (unsaid, "test_x", "class TestA:\n    async def test_a(self): ..."),
]
INNOCENT = [
    (climbs, "stores.redis", "from ..charge import weigh\nfrom ._remote import Copies\nfrom ..store import Request"),
    (climbs, "errors", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .decision import Decision"),
    (climbs, "cli.main", "from ..ledger import Ledger\nfrom .. import Quota\nfrom .table import show"),
    (names_itself, "testing", '"""from quota.testing import machine"""'),
    (strangers, "stores.redis", "import redis.asyncio\nimport attrs"),
    (strangers, "cli.main", "import typer"),
    (strangers, "store", "from importlib import import_module"),
    (reads_clock, "period", "from datetime import date, datetime, time\nnoon = time(12)\ndatetime.combine(date(1, 1, 1), noon)"),
    (reads_clock, "clock", "import time\ntime.time_ns()"),
    (reads_clock, "key", "import os\nos.urandom(8)"),
    (reads_clock, "stores.redis", "from ..clock import monotonic"),
    (reads_clock, "charge", "def f(request):\n    return request.now + 1"),
    (asks_server, "stores.redis", "# the server's clock is compared with ours\nLUA = \"redis.call('TIME')\""),
    (asks_server, "stores.sqlite", "SQL = 'select used, now from records where expires < ?'"),
    (impure, "charge", "def f(a, b):\n    return -(-a // b)"),
    (impure, "plan", "from fractions import Fraction\nhalf = Fraction(1) / 2"),
    (shows_secret, "ledger", "def f(store, secret):\n    return store.find(digest(secret))"),
    (shows_secret, "http", "def f(secret):\n    return secret is None or secret == UNKNOWN"),
    (long_functions, "plan", "def f():\n" + "    pass\n" * 69),
    (long_files, "plan", "x = 1\n" * 320),
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


def test_every_rule_is_planted():
    """No rule is run that was not shown to see something and to let something be."""
    assert {*LIBRARY, *TESTS} == {rule for rule, _, _ in PLANTED} == {rule for rule, _, _ in INNOCENT}


def test_properties_are_held_by_tests_that_exist():
    """Every test that the table of properties names is there; and it names one for each property."""
    rows = re.findall(
        r"^\| (?!property|---)(.+?) \| (.+) \|$", (ROOT / "tests" / "README.md").read_text(), re.MULTILINE
    )
    assert len(rows) == 31
    for held, tests in rows:
        names = re.findall(r"`(\w+\.py)::(\w+)`", tests)
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
    """The coverage that must be whole is measured on floors 0 to 2, but for what needs a server or a file."""
    report = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["coverage"]["report"]
    here = {module.name for module in modules(SRC) if module.floor < 3 and module.top != "stores"}
    expected = {*here, "stores.__init__", "stores._lane", "stores.memory"}
    assert sorted(f"*/quota/{name.replace('.', '/')}.py" for name in expected) == sorted(report["include"])


def fresh(code, cache):
    """What a new interpreter prints, that has this library and attrs, compiled before, and no site."""
    places = [str(SRC.parent), str(Path(attrs.__file__).parents[1])]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE", "COV_"))}
    command = [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {places!r}\n{code}"]
    env = kept | {"PYTHONPYCACHEPREFIX": str(cache)}
    return json.loads(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)


AT_ONCE = {"datetime", "decimal", "fractions", "hashlib", "ipaddress", "math", "numbers", "urllib", "zlib"}
"""What ``import quota`` may load beyond what ``import attrs`` does: the modules that floors 0 to 2 use at once."""


def test_start_up_loads(tmp_path):
    """``import quota`` loads attrs, what it uses at once, and of itself no more than an embedded ledger needs."""
    code = "import attrs, json; had = set(sys.modules); import quota; print(json.dumps(sorted(set(sys.modules) - had)))"
    loaded = fresh(code, tmp_path)
    ours = {name.partition(".")[2] for name in loaded if name.startswith("quota.")}
    assert ours <= {module.name for module in modules(SRC) if module.floor < 3} - {"http"} | {"stores"}
    assert not ours & {name for name in ours if name.startswith("stores.")} - {"stores._lane", "stores.memory"}
    others = {name.partition(".")[0] for name in loaded} - {"quota"}
    assert {name for name in others if not name.startswith("_")} <= AT_ONCE
    assert others <= sys.stdlib_module_names


def test_start_up_takes(tmp_path):
    """``import quota`` takes at most twice the processor time of ``import attrs``."""
    code = "from time import process_time_ns as t; a = t(); import {}; print(t() - a)"
    rounds = [[fresh(code.format(name), tmp_path) for name in ("attrs", "quota")] for _ in range(21)]
    first, *warm = rounds  # the first compiles
    attrs_ns, quota_ns = (min(column) for column in zip(*warm, strict=True))
    assert quota_ns <= 2 * attrs_ns, f"{quota_ns / attrs_ns:.2f} times import attrs; first: {first}"
