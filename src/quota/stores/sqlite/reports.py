"""The SQLite store's lists of keys and reports of what each used, a page at a time, each page as of one moment."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from sqlite3 import Connection
from typing import Any

from ...clock import system_clock
from ...event import By, Draft, erased
from ...key import ApiKey
from ...operations.report import KeyRecord, KeyUsage, ReportDays, closed, lives, living_from, page
from ...plan import UsagePlan
from ...rule.limits import StoreOptions
from ...rule.record import Record
from ..texts import to_json
from .connections import wipe
from .pool import Pool
from .records import drop, forget_account, keep, load, unpack

_ROWS = (
    "SELECT coalesce(account, id), id, moving, records.body FROM keys LEFT JOIN counts ON counts.subject = keys.number "
    "LEFT JOIN records ON records.subject = keys.number WHERE "
)
_BY_ID = (_ROWS + "id >= :id ORDER BY id LIMIT :most",)
_BY_ACCOUNT = (
    _ROWS + "coalesce(account, id) = :account AND id >= :id ORDER BY id LIMIT :most",
    _ROWS + "coalesce(account, id) > :account ORDER BY coalesce(account, id), id LIMIT :most",
)
_REMOVED = (
    "SELECT account, id, number, moving, body FROM removed JOIN counts ON counts.subject = number "
    "JOIN records ON records.subject = number WHERE {0} > :after AND {0} < :before ORDER BY {0} LIMIT :most"
)
_LIFE = " || char(10) || printf('%020d', number)"
_REMOVED_BY_ID, _REMOVED_BY_ACCOUNT = (
    _REMOVED.format(f"{first} || char(10) || {then}{_LIFE}") for first, then in (("id", "account"), ("account", "id"))
)
_LAST = chr(0x10FFFF)


class Reports:
    """Of what all keys used."""

    _pool: Pool
    _tell_of: Callable[[Connection, Sequence[Draft]], None]
    options: StoreOptions

    def report(self, days: ReportDays, after: str, most: int, by_account: bool) -> list[KeyUsage]:
        return self._pool.read(self._report, days, after, most, by_account)

    def _report(self, db: Connection, days: ReportDays, after: str, most: int, by_account: bool) -> list[KeyUsage]:
        found: list[KeyRecord] = []
        of, first = living_from(after, by_account)
        for query in _BY_ACCOUNT if by_account else _BY_ID:
            asked = {"account": of, "id": first, "most": most - len(found)}
            for account, id_, moving, body in db.execute(query, asked):
                found.append(KeyRecord(account, id_, "", None if body is None else _record(moving, body)))
        found += _removed(db, by_account, after, _LAST, most)
        return page(found, days, most, by_account, self.options.retention)

    def purge(self, key_ids: Sequence[str], account: str | None, gone: bool, by: By) -> bool:
        found = self._pool.write(self._purge, key_ids, account, gone, by)
        wipe(self._pool)
        return found

    def _purge(self, db: Connection, *what: Any) -> bool:
        told = purge(db, *what)
        self._tell_of(db, told)
        return bool(told)

    def removed(self, key_id: str, now: int) -> list[Record]:
        found = self._pool.read(_removed, False, f"{key_id}\n", f"{key_id}\v", -1)  # noqa: FBT003 -- by id
        return lives(found, now, self.options.retention)


def purge(db: Connection, key_ids: Sequence[str], account: str | None, gone: bool, by: By) -> tuple[Draft, ...]:
    """Leave nothing of removed keys, nor of an account; what is to be told then, if there was anything."""
    lives = db.execute(
        "SELECT number, id FROM removed WHERE account = ? OR id IN (SELECT value FROM json_each(?))",
        (account, to_json(list(key_ids))),
    ).fetchall()
    for number, _ in lives:
        drop(db, number)
        db.execute("DELETE FROM removed WHERE number = ?", (number,))
    alone = db.execute(
        "SELECT -number FROM accounts WHERE id = ? AND id NOT IN (SELECT id FROM account_entries) "
        "AND NOT EXISTS (SELECT 1 FROM keys WHERE coalesce(account, keys.id) = accounts.id)",
        (account,),
    ).fetchall()
    for (subject,) in alone:  # its count outlived its keys
        drop(db, subject)
        forget_account(db, subject)
    ids = list({*key_ids, *(id_ for _, id_ in lives)})
    events = db.execute(
        "DELETE FROM events WHERE key IN (SELECT value FROM json_each(:ids)) OR account = :account "
        "OR json_extract(body, '$[9].parent') = :account OR json_extract(body, '$[10].parent') = :account",
        {"ids": to_json(ids), "account": account},
    ).rowcount
    return erased(by) if gone or lives or alone or events else ()


def _record(moving: Any, body: str) -> Record:
    record = Record.decode(json.loads(body))
    unpack(record, moving)
    return record


def _removed(db: Connection, by_account: bool, after: str, before: str, most: int) -> list[KeyRecord]:
    """Return removed keys whose places are between two."""
    query = _REMOVED_BY_ACCOUNT if by_account else _REMOVED_BY_ID
    rows = db.execute(query, {"after": after, "before": before, "most": most})
    return [KeyRecord(account, id_, f"{number:020}", _record(*row)) for account, id_, number, *row in rows]


def keep_days(db: Connection, number: int, key: ApiKey, by: By | None, options: StoreOptions) -> None:
    """Keep what is told of a key that is removed, and drop the rest."""
    found = load(db, number)
    drop(db, number)
    if found.version is not None:
        found.record, found.body = closed(found.record, by[1] if by else system_clock(), options.retention), None
        keep(db, found, options)
        db.execute("INSERT INTO removed VALUES (?, ?, ?)", (number, key.id, key.account))


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
