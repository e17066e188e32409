"""The SQLite store's directory: keys, plans, and which key is on which plan."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from sqlite3 import Connection

from ...errors import PlanConflict, StoreUnavailable, UnknownKey, UnknownPlan
from ...key import ApiKey, Caller, decode_key, encode_key, new_number
from ...operations.request import Entry, Request
from ...plan import UsagePlan, decode_plan, encode_plan
from ...rule.limits import StoreOptions
from ..base import is_new
from ..texts import to_json
from .accounts import Accounts, copy_record, count, member_of, share, touch_plans
from .pool import Pool
from .records import drop, forget_account, last_used_of, number_of, touch
from .reports import Reports
from .schema import NOTHING, STEPS


class KeyRow:
    """A key as it was found: its entry, its subject's number and, where other keys share its account, the account's."""

    __slots__ = ("account", "entry", "number")

    def __init__(self, number: int, entry: Entry, account: int | None) -> None:
        self.number = number
        self.entry = entry
        self.account = account

    def subjects(self) -> tuple[int, ...]:
        return (self.number,) if self.account is None else (self.number, self.account)


class Directory(Accounts, Reports):
    """Keys, plans and accounts, each operation in one transaction."""

    _pool: Pool
    options: StoreOptions

    def __init__(self) -> None:
        self._decoded: dict[str, UsagePlan] = {}

    def _decode_plan(self, body: str) -> UsagePlan:
        """Return a plan, compiled once however many keys are on it."""
        plan = self._decoded.get(body)
        if plan is None:
            if len(self._decoded) > 1000:
                self._decoded.clear()
            plan = self._decoded[body] = decode_plan(json.loads(body))
        return plan

    def _look(self, db: Connection, request: Request) -> KeyRow | None:
        """Find the key that a request names."""
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version != len(STEPS):
            raise StoreUnavailable(
                f"{self._pool.path} was brought to schema version {version} by another quota; {NOTHING}"
            )
        if request.caller is not None:
            return self._caller(db, request.caller)
        if request.digest is None:
            row = db.execute("SELECT number, body FROM keys WHERE id = ?", (request.key_id,)).fetchone()
        else:
            row = db.execute(
                "SELECT number, body FROM digests JOIN keys ON number = key WHERE digest = ?", (request.digest,)
            ).fetchone()  # fmt: skip
        return None if row is None else self._key_entry(db, *row)

    def _caller(self, db: Connection, caller: Caller) -> KeyRow | None:
        """A caller without a key, whose record has a number that its name gives; None where there is no such plan."""
        row = db.execute("SELECT body FROM plans WHERE id = ?", (caller.plan,)).fetchone()
        if row is None:
            return None
        plan = self._decode_plan(row[0])
        return KeyRow(number_of(caller), Entry(caller, {plan.api: plan}), None)

    def _key_entry(self, db: Connection, number: int, body: str) -> KeyRow:
        key = decode_key(json.loads(body))
        account = db.execute("SELECT number FROM accounts WHERE id = ?", (key.account,)).fetchone()
        plans = {plan.api: plan for plan in self._plans(db, number)}
        return KeyRow(number, Entry(key, plans, account is not None), None if account is None else -account[0])

    def _plans(self, db: Connection, number: int) -> list[UsagePlan]:
        rows = db.execute(
            "SELECT plans.body FROM key_plans JOIN plans ON plans.number = key_plans.plan WHERE key = ? "
            "ORDER BY key_plans.api",
            (number,),
        )  # fmt: skip
        return [self._decode_plan(body) for (body,) in rows]

    def put_plan(self, plan: UsagePlan, replace: bool | UsagePlan) -> None:
        self._pool.write(self._put_plan, plan, replace)

    def _put_plan(self, db: Connection, plan: UsagePlan, replace: bool | UsagePlan) -> None:
        row = db.execute("SELECT number, body FROM plans WHERE id = ?", (plan.id,)).fetchone()
        old = None if row is None else self._decode_plan(row[1])
        if not is_new(plan, old, replace):
            return
        # The number is of this plan's life: a plan that comes back has no keys.
        number = new_number() if row is None else row[0]
        if old is not None and old.api != plan.api:
            _move(db, plan, number)
        db.execute(
            "INSERT OR REPLACE INTO plans VALUES (?, ?, ?, ?)", (plan.id, number, plan.api, to_json(encode_plan(plan)))
        )
        touch_plans(db)

    def drop_plan(self, plan_id: str) -> None:
        self._pool.write(self._drop_plan, plan_id)

    def _drop_plan(self, db: Connection, plan_id: str) -> None:
        if not db.execute("DELETE FROM plans WHERE id = ?", (plan_id,)).rowcount:
            raise UnknownPlan(plan_id)
        touch_plans(db)

    def get_plan(self, plan_id: str) -> UsagePlan:
        return self._pool.read(self._get_plan, plan_id)[1]

    def _get_plan(self, db: Connection, plan_id: str) -> tuple[int, UsagePlan]:
        row = db.execute("SELECT number, body FROM plans WHERE id = ?", (plan_id,)).fetchone()
        if row is None:
            raise UnknownPlan(plan_id)
        return row[0], self._decode_plan(row[1])

    def list_plans(self) -> list[UsagePlan]:
        return self._pool.read(
            lambda db: [self._decode_plan(body) for (body,) in db.execute("SELECT body FROM plans ORDER BY id")]
        )

    def add_key(self, key: ApiKey, plan_id: str | None, *more: str) -> None:
        self._pool.write(self._add_key, key, plan_id, *more)

    def add_keys(self, keys: Sequence[tuple[ApiKey, Sequence[str]]]) -> None:
        self._pool.write(self._add_keys, keys)

    def _add_keys(self, db: Connection, keys: Sequence[tuple[ApiKey, Sequence[str]]]) -> None:
        for key, plan_ids in keys:
            self._add_key(db, key, None, *plan_ids)

    def _add_key(self, db: Connection, key: ApiKey, plan_id: str | None, *more: str) -> None:
        if db.execute("SELECT 1 FROM keys WHERE id = ?", (key.id,)).fetchone():
            raise PlanConflict(key.id, "an API key has this id already")
        _check_digests(db, key, None)
        plans = [self._get_plan(db, id_) for id_ in (plan_id, *more) if id_ is not None]
        if member_of(db, key.account) is not None:
            count(db, key.account)
        account = None if key.account == key.id else key.account
        number = db.execute(
            "INSERT INTO keys (id, account, body) VALUES (?, ?, ?)", (key.id, account, to_json(encode_key(key)))
        ).lastrowid  # fmt: skip
        db.executemany("INSERT INTO digests VALUES (?, ?)", [(secret.digest, number) for secret in key.secrets])
        on = [(number, plan.api, of, key.id) for of, plan in plans]
        db.executemany("INSERT OR REPLACE INTO key_plans VALUES (?, ?, ?, ?)", on)

    def change_key(self, key_id: str, change: Callable[[ApiKey], ApiKey]) -> ApiKey:
        return self._pool.write(self._change_key, key_id, change)

    def _change_key(self, db: Connection, key_id: str, change: Callable[[ApiKey], ApiKey]) -> ApiKey:
        number, old = _known(db, key_id)
        key = change(old)
        _check_digests(db, key, number)
        db.executemany("DELETE FROM digests WHERE digest = ?", [(secret.digest,) for secret in old.secrets])
        db.executemany("INSERT INTO digests VALUES (?, ?)", [(secret.digest, number) for secret in key.secrets])
        db.execute("UPDATE keys SET body = ? WHERE number = ?", (to_json(encode_key(key)), number))
        touch(db, number)
        return key

    def drop_key(self, key_id: str) -> None:
        self._pool.write(self._drop_key, key_id)

    def _drop_key(self, db: Connection, key_id: str) -> None:
        number, key = _known(db, key_id)
        for secret in key.secrets:
            db.execute("DELETE FROM digests WHERE digest = ?", (secret.digest,))
        db.execute("DELETE FROM key_plans WHERE key = ?", (number,))
        db.execute("DELETE FROM keys WHERE number = ?", (number,))
        account = db.execute("SELECT number FROM accounts WHERE id = ?", (key.account,)).fetchone()
        told = db.execute("SELECT 1 FROM account_entries WHERE id = ?", (key.account,)).fetchone()
        if key.account == key_id and told is None and member_of(db, key.account) is None:
            if account is not None:
                drop(db, -account[0])
        elif account is None and db.execute("SELECT 1 FROM counts WHERE subject = ?", (number,)).fetchone():
            copy_record(db, number, share(db, key.account))
        drop(db, number)
        if account is not None:
            forget_account(db, -account[0])

    def get_key(self, key_id: str) -> ApiKey:
        return self._pool.read(_known, key_id)[1]

    def list_keys(
        self, after: str | None = None, limit: int | None = None, plan_id: str | None = None, account: str | None = None
    ) -> list[ApiKey]:
        return self._pool.read(self._list_keys, after or "", -1 if limit is None else limit, plan_id, account)

    def _list_keys(
        self, db: Connection, after: str, limit: int, plan_id: str | None, account: str | None
    ) -> list[ApiKey]:
        """In the order of an index, whatever is chosen by: a page costs what it shows."""
        plan = None if plan_id is None else self._get_plan(db, plan_id)[0]
        if account is not None:
            query = "SELECT body FROM keys WHERE coalesce(account, id) = :account AND id > :after"
            if plan is not None:
                query += " AND EXISTS (SELECT 1 FROM key_plans WHERE key = number AND plan = :plan)"
            query += " ORDER BY id"
        elif plan is not None:
            query = (
                "SELECT body FROM key_plans JOIN keys ON number = key WHERE plan = :plan AND key_plans.id > :after "
                "ORDER BY key_plans.id"
            )
        else:
            query = "SELECT body FROM keys WHERE id > :after ORDER BY id"
        found = db.execute(f"{query} LIMIT :most", {"account": account, "after": after, "plan": plan, "most": limit})
        return [decode_key(json.loads(body)) for (body,) in found]

    def last_used(self, key_id: str) -> int:
        return self._pool.read(_last_used, key_id)

    def plans_of(self, key_id: str) -> list[UsagePlan]:
        return self._pool.read(lambda db: self._plans(db, _known(db, key_id)[0]))

    def associate(self, key_id: str, plan_id: str) -> None:
        self._pool.write(self._associate, key_id, plan_id)

    def _associate(self, db: Connection, key_id: str, plan_id: str) -> None:
        number, _ = _known(db, key_id)
        plan_number, plan = self._get_plan(db, plan_id)
        db.execute("INSERT OR REPLACE INTO key_plans VALUES (?, ?, ?, ?)", (number, plan.api, plan_number, key_id))
        touch(db, number)

    def dissociate(self, key_id: str, plan_id: str) -> None:
        self._pool.write(self._dissociate, key_id, plan_id)

    def _dissociate(self, db: Connection, key_id: str, plan_id: str) -> None:
        number, _ = _known(db, key_id)
        plan_number, _ = self._get_plan(db, plan_id)
        if not db.execute("DELETE FROM key_plans WHERE key = ? AND plan = ?", (number, plan_number)).rowcount:
            raise PlanConflict(plan_id, f"key {key_id} is not on this plan")
        touch(db, number)


def _move(db: Connection, plan: UsagePlan, number: int) -> None:
    """Move a plan's keys to its new api. Raises ``PlanConflict`` where one of them has another plan there."""
    taken = db.execute(
        "SELECT keys.id FROM key_plans AS own JOIN key_plans AS other ON other.key = own.key AND other.api = ? "
        "JOIN plans ON plans.number = other.plan JOIN keys ON keys.number = own.key WHERE own.plan = ? LIMIT 1",
        (plan.api, number),
    ).fetchone()
    if taken is not None:
        raise PlanConflict(plan.id, f"key {taken[0]} has another plan for the api {plan.api!r}")
    db.execute("UPDATE OR REPLACE key_plans SET api = ? WHERE plan = ?", (plan.api, number))


def _known(db: Connection, key_id: str) -> tuple[int, ApiKey]:
    row = db.execute("SELECT number, body FROM keys WHERE id = ?", (key_id,)).fetchone()
    if row is None:
        raise UnknownKey(key_id)
    return row[0], decode_key(json.loads(row[1]))


def _last_used(db: Connection, key_id: str) -> int:
    row = db.execute(
        "SELECT last_used, moving FROM keys LEFT JOIN counts ON subject = number WHERE id = ?", (key_id,)
    ).fetchone()  # fmt: skip
    if row is None:
        raise UnknownKey(key_id)
    return last_used_of(row[1]) or int(row[0])


def _check_digests(db: Connection, key: ApiKey, number: int | None) -> None:
    for secret in key.secrets:
        row = db.execute("SELECT key FROM digests WHERE digest = ?", (secret.digest,)).fetchone()
        if row is not None and row[0] != number:
            raise PlanConflict(key.id, "another API key has this secret")
