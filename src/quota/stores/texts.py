"""Texts that stores keep and send: JSON, and the SQL or Lua that lies beside a store's modules."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files

to_json: Callable[[object], str] = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
"""Write JSON in the fewest characters."""


def text_beside(package: str | None, name: str) -> str:
    """Read a text file that lies beside a store's modules: SQL or Lua, in a wheel and in a copied folder alike."""
    return files(str(package)).joinpath(name).read_text("utf-8")
