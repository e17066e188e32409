"""docs/api.md lists what the public types have, and nothing that they have not."""

import inspect
import re

import attrs
import pytest

import paths
import quota
import quota.aws
import quota.replay
import quota.web
from quota.stores.base import COMMON
from quota.stores.leased import LeasedStore
from quota.stores.memory import MemoryStore
from quota.stores.postgres import PostgresStore
from quota.stores.redis import RedisStore
from quota.stores.sqlite import SQLiteStore
from quota.web.gate import Settings

TEXT = (paths.ROOT / "docs" / "api.md").read_text()
SECTIONS = {part.partition("\n")[0]: part for part in TEXT.split("\n## ")[1:]}


def fields(kind):
    """The public fields of a type: attributes, properties, slots and a named tuple's."""
    if issubclass(kind, tuple):
        return set(kind._fields)
    if attrs.has(kind):
        return {field.name for field in attrs.fields(kind) if not field.name.startswith("_")}
    windows = {name for base in kind.__mro__ for name in getattr(base, "__slots__", ())}
    return {name for name, _ in inspect.getmembers(kind, inspect.isdatadescriptor) if not name.startswith("_")} | {
        name for name in windows if not name.startswith("_")
    }


@pytest.mark.parametrize("name", SECTIONS)
def test_every_field_is_listed(name):
    """By its name, in a table of its type."""
    kind = getattr(quota, name)
    assert set(re.findall(r"^\| `(\w+)` \|", SECTIONS[name], re.MULTILINE)) == fields(kind)
    assert ("`to_dict()`" in SECTIONS[name]) == hasattr(kind, "to_dict")


def test_every_value_has_a_section():
    """All that is exported and is no error, no ledger and no clock."""
    left_out = {
        "AsyncLedger",
        "AsyncReservation",
        "Clock",
        "Ledger",
        "ManualClock",
        "Reason",
        "limited",
        "system_clock",
    }
    values = {name for name in quota.__all__ if name not in left_out and not name.endswith("Error")}
    errors = {
        name
        for name in values
        if isinstance(getattr(quota, name), type) and issubclass(getattr(quota, name), Exception)
    }
    assert set(SECTIONS) == values - errors


MODULES = {
    "quota": quota.__all__,
    "quota.wsgi": ["QuotaMiddleware"], "quota.asgi": ["QuotaMiddleware"], "quota.fastapi": ["QuotaKey", "Refused", "refused"],
    "quota.django": ["QuotaMiddleware", "limited"], "quota.flask": ["Quota", "Refused"],
    "quota.aiohttp": ["setup", "DECISION", "ACTUAL", "RESERVATION"],
    "quota.web": quota.web.__all__, "quota.aws": quota.aws.__all__, "quota.metrics": ["instrument"], "quota.stores": ["open_store"],
    "quota.testing": ["machine"], "quota.replay": quota.replay.__all__, "quota.refusals": ["most_refused"],
    "quota.stores.memory": ["MemoryStore"], "quota.stores.sqlite": ["SQLiteStore"],
    "quota.stores.postgres": ["AsyncPostgresStore", "PostgresStore"], "quota.stores.redis": ["AsyncRedisStore", "RedisStore"],
    "quota.stores.leased": ["AsyncLeasedStore", "LeasedStore"],
}  # fmt: skip
INNER = {
    "account", "clock", "decision", "errors", "event", "headers", "joined", "key", "ledger", "limit", "limit_text", "networks",
    "operations", "period", "plan", "process", "rule", "status", "cli",
}  # fmt: skip
REFERENCE = "\n".join(page.read_text("utf-8") for page in sorted((paths.ROOT / "docs" / "reference").glob("*.md")))


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_in_the_reference(module):
    """By a directive that shows its docstring, as an error, or in the types' page."""
    shown = set(re.findall(r"auto\w+:: (quota[\w.]*)", REFERENCE))
    errors = {name for name in quota.__all__ if getattr(getattr(quota, name), "__module__", "") == "quota.errors"}
    there = {name for name in MODULES[module] if f"{module}.{name}" in shown or name in errors or name in SECTIONS}
    assert set(MODULES[module]) == there


@pytest.mark.parametrize("kind", [quota.Ledger, quota.AsyncLedger, quota.Reservation, quota.AsyncReservation])
def test_every_argument_is_in_the_reference(kind):
    """By its name, with its type and what it means; and no argument that no method of a ledger has."""
    table = (
        (paths.ROOT / "docs" / "reference" / "ledger.md").read_text("utf-8").partition("## What the methods take")[2]
    )
    rows = [row.split(" | ") for row in re.findall(r"^\| (`.*) \|$", table, re.MULTILINE)]
    assert all(len(row) == 3 for row in rows)
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    methods = {name: method for name, method in inspect.getmembers(kind, inspect.isfunction) if name[0] != "_"}
    if kind in {quota.Ledger, quota.AsyncLedger}:
        methods["__init__"] = kind.__init__
    taken = {name for method in methods.values() for name in inspect.signature(method).parameters} - {"self"}
    assert taken <= listed
    assert kind is not quota.Ledger or listed - taken == {"actual"}, "which a reservation's methods take"


def test_every_module_that_is_imported_by_name_is_in_the_reference():
    """In its table; what users import from ``quota`` itself, and the command, have pages of their own."""
    root = {
        path.stem
        for path in (paths.ROOT / "src" / "quota").iterdir()
        if path.name[0] != "_" and path.suffix in {"", ".py"}
    }
    public = {f"quota.{name}" for name in root - INNER}
    table = REFERENCE[REFERENCE.index("| module |") :].partition("\n\n")[0]
    assert public == set(re.findall(r"^\| `(quota\.\w+)` \|", table, re.MULTILINE))
    assert public == {name for name in MODULES if name.count(".") == 1}


def test_every_setting_of_a_middleware_is_listed():
    """In the table of settings, under its name."""
    text = (paths.ROOT / "docs" / "web.md").read_text("utf-8")
    table = text[text.index("\n| setting |") :].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines() if line))) == set(
        Settings.__annotations__
    )


def options_of(store):
    """The options of a store's constructor that have defaults, and those that all stores have."""
    found = {
        name
        for name, one in inspect.signature(store).parameters.items()
        if one.kind is one.KEYWORD_ONLY and name != "url"
    }
    takes_common = any(one.kind is one.VAR_KEYWORD for one in inspect.signature(store).parameters.values())
    return found | (set(COMMON) if takes_common else set())


def test_every_option_of_a_store_is_listed():
    """In the table of options, under the stores that have it, with its default."""
    text = (paths.ROOT / "docs" / "reference" / "stores.md").read_text("utf-8")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `")]
    table = [cells for cells in lines if len(cells) == 8]
    for column, store in enumerate((MemoryStore, SQLiteStore, PostgresStore, RedisStore, LeasedStore), 3):
        assert {cells[0].strip("`") for cells in table if cells[column] == "yes"} == options_of(store), store
        for name, parameter in inspect.signature(store).parameters.items():
            told = next((cells[2].strip("`") for cells in table if cells[0] == f"`{name}`"), None)
            if parameter.default not in (None, inspect.Parameter.empty) and told is not None:
                assert told == str(parameter.default).removesuffix(".0"), name
