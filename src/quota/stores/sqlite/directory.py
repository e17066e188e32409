"""The SQLite store's directory: keys, plans, and which key is on which plan."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from sqlite3 import Connection
from typing import Any

from ...account import Account, Holder
from ...errors import PlanConflict, StoreUnavailable, UnknownAccount, UnknownKey, UnknownPlan
from ...event import By, key_added, key_changed, key_removed, plan_changed
from ...key import ApiKey, Caller, decode_key, encode_key, new_number
from ...operations.request import Entry, Request, Scheduled, Upper, by_api
from ...plan import UsagePlan
from ...rule.apis import together
from ...rule.limits import StoreOptions
from ...rule.record import Record
from ...rule.subject import Subject
from ..associations import associated, check_apart, deprived, dissociated, moved, placed, told
from ..base import check_expected, is_new
from ..texts import to_json
from .accounts import (
    Accounts,
    copy_record,
    count,
    known_account,
    line_numbers,
    member_of,
    move_plan,
    off_plans,
    share,
    touch_plans,
)
from .pool import Pool
from .records import drop, forget_account, last_used_of, latest, number_of, touch
from .reports import Reports, keep_days, listed
from .schema import NOTHING, STEPS


class KeyRow:
    """A key or an account as it was found: its entry, its subject's number, and those of the accounts that count it."""

    __slots__ = ("entry", "numbers")

    def __init__(self, entry: Entry, *numbers: int) -> None:
        self.entry = entry
        self.numbers = numbers

    @property
    def number(self) -> int:
        """Its own subject's; 0 of an account that has no count."""
        return self.numbers[0]

    def subject(self, records: Sequence[Record]) -> Subject:
        """Return the subject of its records, in the order of their numbers."""
        key, *others = records
        shared = self.entry.shared
        return Subject(key, others[0] if shared else None, *others[shared:])


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
            plan = self._decoded[body] = UsagePlan(**json.loads(body))
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
        if request.account is not None:
            return self._account_entry(db, request.account)
        if request.digest is None:
            row = db.execute("SELECT number, body FROM keys WHERE id = ?", (request.key_id,)).fetchone()
        else:
            row = db.execute(
                "SELECT number, body FROM digests JOIN keys ON number = key WHERE digest = ?", (request.digest,)
            ).fetchone()  # fmt: skip
        return None if row is None else self._key_entry(db, row[0], row[1], request.above)

    def _caller(self, db: Connection, caller: Caller) -> KeyRow | None:
        """A caller without a key, whose record has a number that its name gives; None where there is no such plan."""
        row = db.execute("SELECT body FROM plans WHERE id = ?", (caller.plan,)).fetchone()
        if row is None:
            return None
        plan = self._decode_plan(row[0])
        return KeyRow(Entry(caller, by_api([plan])), number_of(caller))

    def _key_entry(self, db: Connection, number: int, body: str, above: tuple[str, ...] | None) -> KeyRow:
        key = decode_key(json.loads(body))
        (_, account), *line = line_numbers(db, key.account, above)
        counting = [(key.account, account), *line] if account is not None else line
        uppers = tuple([Upper(id_, *self._plans(db, -(number or 0))) for id_, number in counting])
        plans, later = self._plans(db, number)
        entry = Entry(key, plans, account is not None, later, uppers)
        return KeyRow(entry, number, *[-number for _, number in counting])  # type: ignore[operator] # whoever is above has a count

    def _account_entry(self, db: Connection, account_id: str) -> KeyRow | None:
        try:
            account = known_account(db, account_id)
        except UnknownAccount:
            return None
        (_, own), *line = line_numbers(db, account_id, None)
        uppers = tuple([Upper(id_, *self._plans(db, -(number or 0))) for id_, number in line])
        plans, later = self._plans(db, -(own or 0))
        entry = Entry(account, plans, scheduled=later, uppers=uppers)
        return KeyRow(entry, -(own or 0), *[-number for _, number in line])  # type: ignore[operator] # as above

    def _plans(self, db: Connection, subject: int) -> tuple[dict[str, UsagePlan], tuple[Scheduled, ...]]:
        """Return the plans that a key or an account is on by api, and those that it goes to."""
        rows = db.execute(
            "SELECT plans.body FROM key_plans JOIN plans ON plans.number = key_plans.plan WHERE key = ?", (subject,)
        )  # fmt: skip
        return by_api([self._decode_plan(body) for (body,) in rows]), self._scheduled(db, subject)

    def _scheduled(self, db: Connection, number: int) -> tuple[Scheduled, ...]:
        rows = db.execute(
            "SELECT plans.body, at FROM scheduled JOIN plans ON plans.number = scheduled.plan WHERE key = ?", (number,)
        )  # fmt: skip
        return tuple([(self._decode_plan(body), at) for body, at in rows])

    def _told(self, db: Connection, subject: int, who: Holder) -> Holder:
        return told(who, self._scheduled(db, subject))

    def _associations(
        self, db: Connection, subject: int, who: ApiKey | Account, change: Callable[..., Entry], now: int
    ) -> tuple[Entry, Entry, int]:
        """Change the plans of a key or an account by a pure step: what they were, what they are, and when."""
        plans, goes = self._plans(db, subject)
        entry = Entry(who, plans, scheduled=goes)
        counts = line_numbers(db, who.id if isinstance(who, Account) else who.account, None)
        now = max([now, latest(db, subject), *[latest(db, -number) for _, number in counts if number is not None]])
        new = change(entry, now=now)
        named = (*new.plans.values(), *(goes for goes, _ in new.scheduled))
        numbers = {plan.id: self._get_plan(db, plan.id)[0] for plan in named}
        off_plans(db, subject)
        on = [(subject, api, numbers[plan.id], who.id) for api, plan in new.plans.items()]
        db.executemany("INSERT INTO key_plans VALUES (?, ?, ?, ?)", on)
        later = [(subject, numbers[plan.id], at, who.id) for plan, at in new.scheduled]
        db.executemany("INSERT INTO scheduled VALUES (?, ?, ?, ?)", later)
        touch(db, subject)
        return entry, new, now

    def _settle_plan(self, db: Connection, plan: int, change: Callable[..., Entry], now: int) -> None:
        """Change the plans of the keys and accounts that go to a plan, or from it to another one, by a pure step."""
        rows = db.execute(
            "SELECT DISTINCT key, id FROM scheduled WHERE plan = ? "
            "OR key IN (SELECT key FROM key_plans WHERE plan = ?)", (plan, plan),
        ).fetchall()  # fmt: skip
        for subject, id_ in rows:
            who = _known(db, id_)[1] if subject > 0 else known_account(db, id_)
            self._associations(db, subject, who, change, now)

    def put_plan(self, plan: UsagePlan, replace: bool | UsagePlan, now: int, by: By | None = None) -> None:
        self._pool.write(self._put_plan, plan, replace, now, by)

    def _put_plan(self, db: Connection, plan: UsagePlan, replace: bool | UsagePlan, now: int, by: By | None) -> None:
        row = db.execute("SELECT number, body FROM plans WHERE id = ?", (plan.id,)).fetchone()
        old = None if row is None else self._decode_plan(row[1])
        if not is_new(plan, old, replace):
            return
        # The number is of this plan's life: a plan that comes back has no keys.
        number = new_number() if row is None else row[0]
        if old is not None and old.apis != plan.apis:
            self._settle_plan(db, number, partial(moved, old=old, new=plan), now)
            move_plan(db, plan, number)
        row = plan.id, number, together(plan.apis), to_json(plan.to_dict())
        db.execute("INSERT OR REPLACE INTO plans VALUES (?, ?, ?, ?)", row)
        touch_plans(db)
        self._tell_of(db, plan_changed(old, plan, by))

    def drop_plan(self, plan_id: str, now: int, by: By | None = None, expected: UsagePlan | None = None) -> None:
        self._pool.write(self._drop_plan, plan_id, now, by, expected)

    def _drop_plan(self, db: Connection, plan_id: str, now: int, by: By | None, expected: UsagePlan | None) -> None:
        number, plan = self._get_plan(db, plan_id)
        check_expected(plan, expected)
        self._settle_plan(db, number, partial(deprived, plan=plan), now)
        db.execute("DELETE FROM plans WHERE id = ?", (plan_id,))
        touch_plans(db)
        self._tell_of(db, plan_changed(plan, None, by))

    def change_plans(self, changes: Sequence[tuple[UsagePlan | None, UsagePlan | None]], by: By) -> None:
        """Make each plan another one, if it is as told, or none; all of these changes or none of them."""
        self._pool.write(self._change_all, changes, by)

    def _change_all(self, db: Connection, changes: Sequence[tuple[UsagePlan | None, UsagePlan | None]], by: By) -> None:
        for old, new in changes:
            if new is not None:
                self._put_plan(db, new, old or False, by[1], by)
            elif old is not None:
                self._drop_plan(db, old.id, by[1], by, old)

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

    def add_keys(self, keys: Sequence[tuple[ApiKey, Sequence[str]]], by: By | None = None) -> None:
        self._pool.write(self._add_keys, keys, by)

    def _add_keys(self, db: Connection, keys: Sequence[tuple[ApiKey, Sequence[str]]], by: By | None) -> None:
        for key, plan_ids in keys:
            self._add_key(db, key, plan_ids, by)

    def _add_key(self, db: Connection, key: ApiKey, plan_ids: Sequence[str], by: By | None) -> None:
        if db.execute("SELECT 1 FROM keys WHERE id = ?", (key.id,)).fetchone():
            raise PlanConflict(key.id, "an API key has this id already")
        _check_digests(db, key, None)
        plans = [self._get_plan(db, id_) for id_ in plan_ids]
        if member_of(db, key.account) is not None:
            count(db, key.account)
        account = None if key.account == key.id else key.account
        number = db.execute(
            "INSERT INTO keys (id, account, body) VALUES (?, ?, ?)", (key.id, account, to_json(encode_key(key)))
        ).lastrowid  # fmt: skip
        db.executemany("INSERT INTO digests VALUES (?, ?)", [(secret.digest, number) for secret in key.secrets])
        check_apart(key.id, [plan for _, plan in plans])
        on = [(number, api, of, key.id) for of, plan in plans for api in plan.apis]
        db.executemany("INSERT OR REPLACE INTO key_plans VALUES (?, ?, ?, ?)", on)
        self._tell_of(db, key_added(key, [plan for _, plan in plans], by))

    def change_key(self, key_id: str, change: Callable[[ApiKey], ApiKey], by: By | None = None) -> ApiKey:
        return self._pool.write(self._change_key, key_id, change, by)

    def _change_key(self, db: Connection, key_id: str, change: Callable[[ApiKey], ApiKey], by: By | None) -> ApiKey:
        number, old = _known(db, key_id)
        key = change(old)
        _check_digests(db, key, number)
        db.executemany("DELETE FROM digests WHERE digest = ?", [(secret.digest,) for secret in old.secrets])
        db.executemany("INSERT INTO digests VALUES (?, ?)", [(secret.digest, number) for secret in key.secrets])
        db.execute("UPDATE keys SET body = ? WHERE number = ?", (to_json(encode_key(key)), number))
        touch(db, number)
        self._tell_of(db, key_changed(old, key, by))
        return self._told(db, number, key)

    def drop_key(self, key_id: str, by: By | None = None) -> None:
        self._pool.write(self._drop_key, key_id, by)

    def _drop_key(self, db: Connection, key_id: str, by: By | None) -> None:
        number, key = _known(db, key_id)
        for secret in key.secrets:
            db.execute("DELETE FROM digests WHERE digest = ?", (secret.digest,))
        off_plans(db, number)
        db.execute("DELETE FROM keys WHERE number = ?", (number,))
        account = db.execute("SELECT number FROM accounts WHERE id = ?", (key.account,)).fetchone()
        told = db.execute("SELECT 1 FROM account_entries WHERE id = ?", (key.account,)).fetchone()
        if key.account == key_id and told is None and member_of(db, key.account) is None:
            if account is not None:
                drop(db, -account[0])
        elif account is None and db.execute("SELECT 1 FROM counts WHERE subject = ?", (number,)).fetchone():
            copy_record(db, number, share(db, key.account))
        keep_days(db, number, key, by, self.options)
        if account is not None:
            forget_account(db, -account[0])
        self._tell_of(db, key_removed(key, by))

    def get_key(self, key_id: str) -> ApiKey:
        return self._pool.read(lambda db: self._told(db, *_known(db, key_id)))

    def list_keys(
        self, after: str | None, limit: int | None, plan_id: str | None, account: str | None, now: int
    ) -> list[ApiKey]:
        return self._pool.read(self._list_keys, after or "", -1 if limit is None else limit, plan_id, account, now)

    def _list_keys(
        self, db: Connection, after: str, limit: int, plan_id: str | None, account: str | None, now: int
    ) -> list[ApiKey]:
        plan = None if plan_id is None else self._get_plan(db, plan_id)
        return [self._told(db, number, decode_key(json.loads(body))) if goes else decode_key(json.loads(body))
                for number, body, goes in listed(db, after, limit, plan, account, now)]  # fmt: skip

    def last_used(self, key_id: str) -> int:
        return self._pool.read(_last_used, key_id)

    def associate(self, key_id: str, plan_id: str, at: int | str | None, now: int, by: By | None = None) -> None:
        self._pool.write(self._place_key, partial(associated, at=at), key_id, plan_id, now, by)

    def dissociate(self, key_id: str, plan_id: str, now: int, by: By | None = None) -> None:
        self._pool.write(self._place_key, dissociated, key_id, plan_id, now, by)

    def _place_key(self, db: Connection, change: Callable[..., Entry], key_id: str, *more: Any) -> None:
        self._change_plans(db, change, *_known(db, key_id), *more)

    def _change_plans(
        self, db: Connection, change: Callable[..., Entry], subject: int, who: ApiKey | Account, plan_id: str, now: int,
        by: By | None,
    ) -> None:  # fmt: skip
        _, plan = self._get_plan(db, plan_id)
        old, new, now = self._associations(db, subject, who, partial(change, plan=plan), now)
        self._tell_of(db, placed(old, new, plan, now, by))


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
