"""The SQLite store's accounts: what was said of them, the tree that they are in, and which of them have a count."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from sqlite3 import Connection

from ...account import Account
from ...errors import PlanConflict, UnknownAccount
from ...event import By, Draft, Event, account_changed
from ...key import new_number
from ...operations.request import Entry
from ...plan import UsagePlan
from ...rule.limits import StoreOptions
from ..accounts import check_empty, check_parent, is_new
from ..associations import change_of
from ..texts import decode_event, encode_draft, to_json
from .pool import Pool
from .records import drop, touch

_LINE = (
    "WITH RECURSIVE line (id, depth) AS (SELECT ?, 0 UNION ALL SELECT e.parent, depth + 1 FROM line "
    "JOIN account_entries AS e ON e.id = line.id WHERE e.parent IS NOT NULL) "
    "SELECT line.id, number FROM line LEFT JOIN accounts ON accounts.id = line.id ORDER BY depth"
)
_BELOW = (
    "WITH RECURSIVE below (id, depth) AS (SELECT ?, 0 UNION ALL SELECT e.id, depth + 1 FROM below "
    "JOIN account_entries AS e ON e.parent = below.id) SELECT max(depth) FROM below"
)


class Accounts:
    """Accounts and the outbox, each operation in one transaction."""

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

    _change_plans: Callable[..., None]
    _told: Callable[[Connection, int, Account], Account]

    def place_account(
        self, account_id: str, plan_id: str, on: bool, at: int | str | None, now: int, by: By | None = None
    ) -> None:
        self._pool.write(self._place_account, change_of(on, at), account_id, plan_id, now, by)

    def _place_account(
        self, db: Connection, change: Callable[..., Entry], account_id: str, plan_id: str, now: int, by: By | None
    ) -> None:
        account = known_account(db, account_id)
        _put(db, account, account.parent)
        count(db, account_id)
        self._change_plans(db, change, _subject(db, account_id), account, plan_id, now, by)
        touch_plans(db)

    def get_account(self, account_id: str) -> Account:
        return self._pool.read(lambda db: self._told(db, _subject(db, account_id), known_account(db, account_id)))

    def list_accounts(
        self, after: str | None = None, limit: int | None = None, parent: str | None = None
    ) -> list[Account]:
        return self._pool.read(self._list_accounts, after or "", -1 if limit is None else limit, parent)

    def _list_accounts(self, db: Connection, after: str, limit: int, parent: str | None) -> list[Account]:
        query = "SELECT id, body FROM account_entries WHERE id > :after"
        if parent is not None:
            known_account(db, parent)
            query += " AND parent = :parent"
        else:
            query += (
                " UNION ALL SELECT DISTINCT account, NULL FROM keys WHERE account > :after "
                "AND account NOT IN (SELECT id FROM account_entries)"
            )
        found = db.execute(f"{query} ORDER BY 1 LIMIT :most", {"after": after, "parent": parent, "most": limit})
        accounts = [_account(id_, body) for id_, body in found]
        dated = dict(db.execute("SELECT id, key FROM scheduled WHERE key < 0").fetchall())
        return [self._told(db, dated[one.id], one) if one.id in dated else one for one in accounts]

    def add_account(self, account: Account, by: By | None = None) -> None:
        self._pool.write(self._add_account, account, by)

    def _add_account(self, db: Connection, account: Account, by: By | None) -> None:
        row = db.execute("SELECT body FROM account_entries WHERE id = ?", (account.id,)).fetchone()
        if is_new(account, row and _account(account.id, row[0])):
            _put(db, account, None)
            self._tell_of(db, account_changed(None, account, by))

    def change_account(self, account_id: str, change: Callable[[Account], Account], by: By | None = None) -> Account:
        return self._pool.write(self._change_account, account_id, change, by)

    def _change_account(
        self, db: Connection, account_id: str, change: Callable[[Account], Account], by: By | None
    ) -> Account:
        old = known_account(db, account_id)
        account = change(old)
        if account != old:
            _put(db, account, old.parent)
            self._tell_of(db, account_changed(old, account, by))
        return self._told(db, _subject(db, account_id), account)

    def drop_account(self, account_id: str, by: By | None = None) -> None:
        self._pool.write(self._drop_account, account_id, by)

    def _drop_account(self, db: Connection, account_id: str, by: By | None) -> None:
        account = known_account(db, account_id)
        keys = db.execute("SELECT id FROM keys WHERE coalesce(account, id) = ? LIMIT 1", (account_id,)).fetchall()
        below = db.execute("SELECT id FROM account_entries WHERE parent = ? LIMIT 1", (account_id,)).fetchall()
        check_empty(account_id, [id_ for (id_,) in keys], [id_ for (id_,) in below])
        subject = _subject(db, account_id)
        db.execute("DELETE FROM accounts WHERE id = ?", (account_id,))
        db.execute("DELETE FROM account_entries WHERE id = ?", (account_id,))
        drop(db, subject)
        off_plans(db, subject)
        touch_plans(db)
        self._tell_of(db, account_changed(account, None, by))


def _account(account_id: str, body: str | None) -> Account:
    return Account(account_id) if body is None else Account(**json.loads(body))


def known_account(db: Connection, account_id: str) -> Account:
    """Return an account: one that was added, or that a key of another id is in. Raises ``UnknownAccount``."""
    row = db.execute("SELECT body FROM account_entries WHERE id = ?", (account_id,)).fetchone()
    if row is None and not db.execute("SELECT 1 FROM keys WHERE account = ?", (account_id,)).fetchone():
        raise UnknownAccount(account_id)
    return _account(account_id, row and row[0])


def _subject(db: Connection, account_id: str) -> int:
    """Return an account's subject; 0, which nobody has, where it has no count."""
    row = db.execute("SELECT -number FROM accounts WHERE id = ?", (account_id,)).fetchone()
    return 0 if row is None else row[0]


def off_plans(db: Connection, subject: int) -> None:
    """Take a key or an account, by its subject, off all plans, and have it go to none."""
    for table in ("key_plans", "scheduled"):
        db.execute(f"DELETE FROM {table} WHERE key = ?", (subject,))  # noqa: S608 -- names from the line above


def line_of(db: Connection, account_id: str) -> list[Account]:
    """Return an account and those above, the nearest first."""
    line = [known_account(db, account_id)]
    while line[-1].parent is not None:
        line.append(known_account(db, line[-1].parent))
    return line


def line_numbers(db: Connection, account_id: str, above: tuple[str, ...] | None) -> list[tuple[str, int | None]]:
    """Return an account and those above (or these, as far as they are there), each with the number of its count."""
    line = db.execute(_LINE, (account_id,)).fetchall()
    if above is None:
        return line
    rows = [db.execute("SELECT id, number FROM accounts WHERE id = ?", (id_,)).fetchone() for id_ in above]
    return [line[0], *(row for row in rows if row is not None)]


def _put(db: Connection, account: Account, old_parent: str | None) -> None:
    """Write what is said of an account, if its parent may be above it."""
    if account.parent is not None and account.parent != old_parent:
        line = line_of(db, account.parent)
        (below,) = db.execute(_BELOW, (account.id,)).fetchone()
        check_parent(account, [above.id for above in line], below)
        count(db, account.parent)
        if db.execute("SELECT 1 FROM account_entries WHERE id = ?", (account.parent,)).fetchone() is None:
            _put(db, line[0], None)
    body = to_json(account.said())
    db.execute("INSERT OR REPLACE INTO account_entries VALUES (?, ?, ?)", (account.id, account.parent, body))
    if account.parent != old_parent:
        touch_plans(db)


def touch_plans(db: Connection) -> None:
    """Make every process's copies stale."""
    db.execute("UPDATE ledger SET plans = ?", (new_number(),))


def count(db: Connection, account: str) -> None:
    """Give an account a count, if it has none: what its only key used is in it, and stays the key's own."""
    if db.execute("SELECT 1 FROM accounts WHERE id = ?", (account,)).fetchone() is None:
        member, subject = member_of(db, account), share(db, account)
        if member is not None:
            copy_record(db, member, subject)
            touch(db, member)


def member_of(db: Connection, account: str) -> int | None:
    """Return the number of a key of an account; where it is not shared, of its only one."""
    row = db.execute(
        "SELECT number FROM keys WHERE id = ? AND account IS NULL UNION ALL SELECT number FROM keys WHERE account = ?",
        (account, account),
    ).fetchone()  # fmt: skip
    return None if row is None else row[0]


def share(db: Connection, account: str) -> int:
    """Give an account a count of its own. Return its subject."""
    return -(db.execute("INSERT INTO accounts (id) VALUES (?)", (account,)).lastrowid or 0)


def copy_record(db: Connection, subject: int, other: int) -> None:
    """Let one subject's record, if it has one, be another's too."""
    db.execute("INSERT INTO counts SELECT ?, ?, moving FROM counts WHERE subject = ?", (other, new_number(), subject))
    db.execute("INSERT INTO records SELECT ?, dead_at, body FROM records WHERE subject = ?", (other, subject))


def move_plan(db: Connection, plan: UsagePlan, number: int) -> None:
    """Move a plan's keys and accounts to its new apis. Raises ``PlanConflict`` where one has another plan there."""
    taken = db.execute(
        "SELECT own.key, own.id, other.api FROM key_plans AS own JOIN key_plans AS other USING (key) "
        "JOIN plans ON plans.number = other.plan WHERE own.plan = ? AND other.plan <> own.plan "
        "AND other.api IN (SELECT value FROM json_each(?)) LIMIT 1", (number, to_json(plan.apis)),
    ).fetchone()  # fmt: skip
    if taken is not None:
        kind = "key" if taken[0] > 0 else "account"
        raise PlanConflict(plan.id, f"{kind} {taken[1]} has another plan for the api {taken[2]!r}")
    rows = db.execute("DELETE FROM key_plans WHERE plan = ? RETURNING key, id", (number,)).fetchall()
    new = [(subject, api, number, id_) for subject, id_ in dict.fromkeys(rows) for api in plan.apis]
    db.executemany("INSERT OR REPLACE INTO key_plans VALUES (?, ?, ?, ?)", new)
