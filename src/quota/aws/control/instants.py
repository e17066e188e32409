"""Instants as API Gateway and its signatures write them."""

from __future__ import annotations

import re
from datetime import date, datetime, timezone

from ...clock import to_datetime, to_us


def parse_basic(text: str) -> datetime | None:
    """Return the instant of ``20260131T235959Z``; None for anything else."""
    try:
        found = datetime.strptime(text, "%Y%m%dT%H%M%SZ")  # noqa: DTZ007 -- Z is what it ends in
    except ValueError:
        return None
    return found.replace(tzinfo=timezone.utc) if re.fullmatch(r"[0-9]{8}T[0-9]{6}Z", text) else None


def write_basic(us: int) -> str:
    """Return microseconds since the epoch as ``20260131T235959Z``."""
    return f"{to_datetime(us):%Y%m%dT%H%M%SZ}"


def epoch_seconds(written: object) -> int:
    """Return whole seconds since the epoch of an attribute as it is kept: ISO 8601, or seconds already."""
    if isinstance(written, str):
        try:
            instant = datetime.fromisoformat(written)
        except ValueError:
            return 0
        return to_us(instant if instant.tzinfo else instant.replace(tzinfo=timezone.utc)) // 1_000_000
    return int(written) if isinstance(written, (int, float)) else 0


def parse_day(text: str) -> date | None:
    """Return the date of ``2026-01-31``; None for anything else."""
    try:
        return date.fromisoformat(text) if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text) else None
    except ValueError:
        return None
