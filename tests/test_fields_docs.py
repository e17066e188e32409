"""The page of fields names each one that there is, and none that there is not."""

import re
from pathlib import Path

import attrs

import quota

PAGE = (Path(__file__).parents[1] / "docs" / "fields.md").read_text("utf-8")
TOLD = {
    name: re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    for name, text in re.findall(r"^## `(\w+)`\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
}


def fields(cls):
    """The public attributes and properties of a class: what is read, not called."""
    own = [field.name for field in attrs.fields(cls)] if attrs.has(cls) else []
    rest = [name for name in dir(cls) if not callable(getattr(cls, name, None))]
    return {name for name in [*own, *rest] if not name.startswith("_")}


def test_every_field_is_told():
    """Of all that calls return, once each."""
    assert set(TOLD) == {"Decision", "LimitStatus", "UsageRecord", "ApiKey", "IssuedKey", "Reservation"}
    for name, told in TOLD.items():
        assert sorted(told) == sorted(fields(getattr(quota, name))), name
