"""The SQLite store's outbox: a table whose numbers are never drawn twice, written in each change's own transaction."""

from __future__ import annotations

from collections.abc import Sequence
from sqlite3 import Connection

from ...event import Draft, Event
from ...rule.limits import StoreOptions
from ..outbox import decode_event, encode_draft
from .pool import Pool


class Outbox:
    """Events in the order of their numbers: one transaction writes at a time, so they are seen in it too."""

    _pool: Pool
    options: StoreOptions

    def _tell_of(self, db: Connection, told: Sequence[Draft]) -> None:
        """Put drafts down, and look over two of the oldest events for each that comes."""
        for draft in told:
            row = draft.at, draft.key, draft.account, encode_draft(draft)
            db.execute("INSERT INTO events (at, key, account, body) VALUES (?, ?, ?, ?)", row)
            db.execute(
                "DELETE FROM events WHERE at < ? AND cursor IN (SELECT cursor FROM events ORDER BY cursor LIMIT 2)",
                (draft.since(self.options.retention),),
            )

    def events(self, after: int, limit: int) -> list[Event]:
        query = "SELECT cursor, body FROM events WHERE cursor > ? ORDER BY cursor LIMIT ?"
        return self._pool.read(lambda db: [decode_event(*row) for row in db.execute(query, (after, limit))])
