"""docs/api.md lists what the public types have, and nothing that they have not."""

import inspect
import re

import attrs
import pytest

import paths
import quota

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
