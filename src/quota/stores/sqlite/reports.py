"""The SQLite store's lists of keys and reports of what each used, a page at a time, each page as of one moment."""

from __future__ import annotations

import json
from sqlite3 import Connection
from typing import Any

from ...operations.report import KeyUsage, ReportDays, used_of
from ...plan import UsagePlan
from ...rule.limits import StoreOptions
from ...rule.record import Record
from ..texts import to_json
from .pool import Pool
from .records import unpack

_ROWS = (
    "SELECT coalesce(account, id), id, moving, records.body FROM keys LEFT JOIN counts ON counts.subject = keys.number "
    "LEFT JOIN records ON records.subject = keys.number WHERE "
)
_BY_ID = (_ROWS + "id > :id ORDER BY id LIMIT :most",)
_BY_ACCOUNT = (
    _ROWS + "coalesce(account, id) = :account AND id > :id ORDER BY id LIMIT :most",
    _ROWS + "coalesce(account, id) > :account ORDER BY coalesce(account, id), id LIMIT :most",
)


class Reports:
    """Of what all keys used."""

    _pool: Pool
    options: StoreOptions

    def report(self, days: ReportDays, after: tuple[str, str], most: int, by_account: bool) -> list[KeyUsage]:
        return self._pool.read(self._report, days, after, most, _BY_ACCOUNT if by_account else _BY_ID)

    def _report(
        self, db: Connection, days: ReportDays, after: tuple[str, str], most: int, queries: tuple[str, ...]
    ) -> list[KeyUsage]:
        found: list[KeyUsage] = []
        for query in queries:
            asked = {"account": after[0], "id": after[1], "most": most - len(found)}
            for account, id_, moving, body in db.execute(query, asked):
                record = None
                if body is not None:
                    record = Record.decode(json.loads(body))
                    unpack(record, moving)
                found.append(KeyUsage(account, id_, used_of(record, days, self.options.retention)))
        return found


_OWNED = "coalesce(account, id) = :account"
_ON_PLAN = (
    "SELECT keys.id, number, body FROM key_plans JOIN keys ON number = key "
    "WHERE plan = :plan AND key_plans.api = json_extract(:apis, '$[0]') AND key_plans.id > :after AND NOT EXISTS ("
    "SELECT 1 FROM scheduled JOIN plans ON plans.number = scheduled.plan, json_each(:apis) AS its "
    "WHERE scheduled.key = key_plans.key AND scheduled.at <= :now "
    "AND instr(char(10) || plans.api || char(10), char(10) || its.value || char(10))) "
    "UNION ALL SELECT keys.id, number, body FROM scheduled JOIN keys ON number = key "
    "WHERE plan = :plan AND at <= :now AND scheduled.id > :after"
)
"""Those on a plan at an instant: no other one has come in its place, or it has come itself."""


def listed(
    db: Connection, after: str, limit: int, plan: tuple[int, UsagePlan] | None, account: str | None, now: int
) -> list[Any]:
    """Return the numbers and bodies of keys, and whether they go to another plan; ``plan`` with its number.

    In the order of an index, whatever is chosen by: a page costs what it shows.
    """
    if plan is None:
        query = "SELECT id, number, body FROM keys WHERE id > :after"
        query += "" if account is None else f" AND {_OWNED}"
    elif account is None:
        query = _ON_PLAN
    else:
        query = f"SELECT * FROM ({_ON_PLAN}) WHERE number IN (SELECT number FROM keys WHERE {_OWNED})"  # noqa: S608 -- ours
    number, apis = (plan[0], to_json(plan[1].apis)) if plan else (None, "[]")
    where = {"account": account, "after": after, "plan": number, "apis": apis, "now": now, "most": limit}
    shown = f"SELECT number, body, EXISTS (SELECT 1 FROM scheduled WHERE key = number) FROM ({query})"  # noqa: S608
    return db.execute(f"{shown} ORDER BY id LIMIT :most", where).fetchall()
