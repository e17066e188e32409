"""The SQLite store's lists of keys, in the order of an index whatever is chosen by: a page costs what it shows."""

from __future__ import annotations

from sqlite3 import Connection
from typing import Any

from ...plan import UsagePlan

_OWNED = "coalesce(account, id) = :account"
_ON_PLAN = (
    "SELECT keys.id, number, body FROM key_plans JOIN keys ON number = key "
    "WHERE plan = :plan AND key_plans.id > :after AND NOT EXISTS ("
    "SELECT 1 FROM scheduled JOIN plans ON plans.number = scheduled.plan "
    "WHERE scheduled.key = key_plans.key AND scheduled.at <= :now AND plans.api = :api) "
    "UNION ALL SELECT keys.id, number, body FROM scheduled JOIN keys ON number = key "
    "WHERE plan = :plan AND at <= :now AND scheduled.id > :after"
)
"""Those on a plan at an instant: no other one has come in its place, or it has come itself."""


def listed(
    db: Connection, after: str, limit: int, plan: tuple[int, UsagePlan] | None, account: str | None, now: int
) -> list[Any]:
    """Return the numbers and bodies of keys, and whether they go to another plan; ``plan`` with its number."""
    if plan is None:
        query = "SELECT id, number, body FROM keys WHERE id > :after"
        query += "" if account is None else f" AND {_OWNED}"
    elif account is None:
        query = _ON_PLAN
    else:
        query = f"SELECT * FROM ({_ON_PLAN}) WHERE number IN (SELECT number FROM keys WHERE {_OWNED})"  # noqa: S608 -- ours
    number, api = (plan[0], plan[1].api) if plan else (None, None)
    where = {"account": account, "after": after, "plan": number, "api": api, "now": now, "most": limit}
    shown = f"SELECT number, body, EXISTS (SELECT 1 FROM scheduled WHERE key = number) FROM ({query})"  # noqa: S608
    return db.execute(f"{shown} ORDER BY id LIMIT :most", where).fetchall()
