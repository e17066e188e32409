"""The SQLite store's reports: what each key used, a page of keys at a time, each page as of one moment."""

from __future__ import annotations

import json
from sqlite3 import Connection

from ...operations.report import KeyUsage, ReportDays, used_of
from ...rule.limits import StoreOptions
from ...rule.record import Record
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
