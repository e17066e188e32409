"""Texts that stores keep and send: JSON, events, and the SQL or Lua that lies beside a store's modules."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from ..event import Draft, Event, event

to_json: Callable[[object], str] = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
"""Write JSON in the fewest characters."""


def text_beside(package: str | None, name: str) -> str:
    """Read a text file that lies beside a store's modules: SQL or Lua, in a wheel and in a copied folder alike."""
    return files(str(package)).joinpath(name).read_text("utf-8")


def encode_draft(draft: Draft) -> str:
    """Return a draft as a text, its number apart."""
    return to_json(draft.plain())


def decode_event(cursor: int, text: str | bytes) -> Event:
    """Read what ``encode_draft`` wrote."""
    plain: list[Any] = json.loads(text)
    return event(cursor, plain)
