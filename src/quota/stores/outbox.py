"""Events as the other stores keep them."""

from __future__ import annotations

import json
from typing import Any

from ..event import Draft, Event, event
from .texts import to_json


def encode_draft(draft: Draft) -> str:
    """Return a draft as a text, its number apart."""
    return to_json(draft.plain())


def decode_event(cursor: int, text: str | bytes) -> Event:
    """Read what ``encode_draft`` wrote."""
    plain: list[Any] = json.loads(text)
    return event(cursor, plain)
