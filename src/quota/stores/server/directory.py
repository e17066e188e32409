"""The directory of the stores on a server: keys, plans and accounts as texts, changed if they are as they were read."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from typing import Any

from ...clock import Clock, ManualClock, monotonic, system_clock
from ...errors import InvalidValue, PlanConflict, StoreBusy
from ...event import By, key_changed, key_removed, plan_changed
from ...key import ApiKey, decode_key, new_number
from ...operations.request import Upper
from ...plan import UsagePlan
from ...rule.limits import StoreOptions
from ..associations import deprived, moved
from ..base import check_expected, is_new, make_options
from ..texts import to_json
from .accounts import Accounts, is_told
from .adding import ALL, NOBODY, TOLD, lists_of, put_account
from .cache import CachedKey, KeyCache
from .changes import (
    Above,
    ClearRecord,
    DropText,
    KeyLookup,
    MoveRecord,
    Mutation,
    Place,
    Precondition,
    PutText,
    UnindexKey,
)
from .flow import Flow, Queues, operation
from .reports import Reports


class Directory(Accounts, Reports):
    """Keys, plans and accounts. An engine says how a key is looked up, and how places are read and changed.

    ``_lock``: what those who stand in line for a record wait on.
    """

    _lock: Callable[[], Any]

    def __init__(self, namespace: str, timeout: float, check_clock: bool | None, options: Mapping[str, Any]) -> None:
        if type(timeout) not in (int, float) or not 0 < timeout < 10**6:
            raise InvalidValue("timeout", timeout, "seconds, above 0 and below 1000000")
        self.namespace = namespace
        self.timeout = timeout
        self.check_clock = check_clock
        self._lapse_here = False
        self.options: StoreOptions = make_options(**options)
        self._copies = KeyCache()
        self._decoded: dict[str, tuple[str, UsagePlan]] = {}
        self._queues: Queues[Any] = Queues(type(self)._lock)
        self._looked = False

    def _look_around(self) -> Flow[None]:
        """Once per store, before its first call on a record or the directory."""
        raise NotImplementedError

    def _look_up(self, digest: bytes | None, key_id: str, above: Above = None) -> Flow[KeyLookup | None]:
        """Everything about the key of a digest or an id; None when there is none. ``above``: these accounts above."""
        raise NotImplementedError

    def _read(self, *places: Place) -> Flow[list[str | None]]:
        """Places as they stand together."""
        raise NotImplementedError

    def _values(self, part: str) -> Flow[list[str]]:
        """All texts of a part."""
        raise NotImplementedError

    def _list(self, name: str, after: str, most: int | None, part: str = "keys") -> Flow[list[str]]:
        """The texts of keys or accounts on a list, in the order of their ids, beyond one."""
        raise NotImplementedError

    def _change(self, checks: list[Precondition], writes: Sequence[Mutation]) -> Flow[bool]:
        """Change all that is told if all places are as they were read."""
        raise NotImplementedError

    def use_clock(self, clock: Clock) -> None:
        """Told by a ledger: a system clock is compared with the server's, by which holds lapse unless it is manual."""
        self._lapse_here = not isinstance(clock, ManualClock)
        if self.check_clock is None:
            self.check_clock = clock is system_clock

    def _look(self, digest: bytes | None, key_id: str, above: tuple[str, ...] | None = None) -> Flow[CachedKey | None]:
        found = yield from self._look_up(digest, key_id, above)
        if found is None:
            return None
        key_entry, texts = json.loads(found.key_entry), iter(found.plans)
        entry = self._entry(key_entry, texts)
        accounts = [json.loads(text) for text in found.accounts]
        uppers = [(account, Upper(account["id"], *self._on(account.get("plans", ()), texts))) for account in accounts]
        own = [upper for account, upper in uppers[:1] if account["shared"] and account["id"] == entry.key.account]
        line = (*own, *(upper for _, upper in uppers if upper.id != entry.key.account))
        return CachedKey(entry._replace(shared=bool(own), uppers=line), (found.stamp, found.plans_stamp))

    def _decode_plan(self, text: str) -> tuple[str, UsagePlan]:
        """A plan, compiled once however many keys are on it."""
        found = self._decoded.get(text)
        if found is None:
            data = json.loads(text)
            if len(self._decoded) > 1000:
                self._decoded.clear()
            found = self._decoded[text] = data["generation"], UsagePlan(**data["plan"])
        return found

    def _attempts(self) -> Generator[int, None, None]:
        """One attempt after another until the timeout."""
        deadline = monotonic() + self.timeout
        attempt = 0
        while attempt < 2 or monotonic() <= deadline:
            yield attempt
            attempt += 1
        raise StoreBusy(f"{self.namespace} was contended for {self.timeout} s; nothing was changed")

    @operation
    def put_plan(self, plan: UsagePlan, replace: bool | UsagePlan, now: int, by: By | None = None) -> Flow[None]:
        for _ in self._attempts():
            places = ("plans", plan.id), ("stamps", "*"), ("stamps", "**")
            text, stamp, key_entries_stamp = yield from self._read(*places)
            generation, old = (str(new_number()), None) if text is None else self._decode_plan(text)
            if not is_new(plan, old, replace):
                return
            checks, writes = [Precondition("stamps", "*", stamp)], list[Mutation]()
            if old is not None and old.apis != plan.apis:
                change = partial(moved, old=old, new=plan)
                writes += yield from self._for_all_on(generation, change, now, checks, looks=True)
                checks.append(Precondition("stamps", "**", key_entries_stamp))
            new = to_json({"generation": generation, "plan": plan.to_dict()})
            writes += [PutText("plans", plan.id, new), PutText("stamps", "*", str(new_number()))]
            writes += self._told(plan_changed(old, plan, by))
            if (yield from self._change(checks, writes)):
                return

    @operation
    def drop_plan(self, plan_id: str, now: int, by: By | None = None, expected: UsagePlan | None = None) -> Flow[None]:
        for _ in self._attempts():
            text, stamp, key_entries_stamp = yield from self._there("plans", plan_id, ("stamps", "*"), ("stamps", "**"))
            generation, plan = self._decode_plan(text)
            check_expected(plan, expected)
            checks = [Precondition("stamps", "*", stamp), Precondition("stamps", "**", key_entries_stamp)]
            writes = yield from self._for_all_on(generation, partial(deprived, plan=plan), now, checks)
            writes += [DropText("plans", plan_id), PutText("stamps", "*", str(new_number()))]
            writes += self._told(plan_changed(plan, None, by))
            if (yield from self._change(checks, writes)):
                return

    @operation
    def get_plan(self, plan_id: str) -> Flow[UsagePlan]:
        (text,) = yield from self._there("plans", plan_id)
        return self._decode_plan(text)[1]

    @operation
    def list_plans(self) -> Flow[list[UsagePlan]]:
        plans = [self._decode_plan(text)[1] for text in (yield from self._values("plans"))]
        return sorted(plans, key=lambda plan: plan.id)

    @operation
    def change_key(self, key_id: str, change: Callable[[ApiKey], ApiKey], by: By | None = None) -> Flow[ApiKey]:
        for _ in self._attempts():
            text, stamp = yield from self._there("keys", key_id, ("stamps", f"k:{key_id}"))
            key_entry = json.loads(text)
            old = decode_key(key_entry["key"])
            new = change(old)
            had, has = ({secret.digest.hex() for secret in key.secrets} for key in (old, new))
            fresh = [("secrets", digest) for digest in sorted(has - had)]
            if fresh and any((yield from self._read(*fresh))):
                raise PlanConflict(key_id, "another API key has this secret")
            writes = [self._key_entry(new, key_entry["plans"]), *self._stamp(key_id)]
            writes += [PutText(*secret, key_id) for secret in fresh]
            writes += [DropText("secrets", digest) for digest in sorted(had - has)]
            writes += self._told(key_changed(old, new, by))
            checks = [Precondition("stamps", f"k:{key_id}", stamp)]
            checks += [Precondition(*secret, None) for secret in fresh]
            if (yield from self._change(checks, writes)):
                return (yield from self._shown(new, key_entry))
        raise AssertionError  # pragma: no cover -- attempts end by raising

    @operation
    def drop_key(self, key_id: str, by: By | None = None) -> Flow[None]:
        own = f"k:{key_id}"
        for _ in self._attempts():
            text, stamp = yield from self._there("keys", key_id, ("stamps", f"k:{key_id}"))
            key = decode_key(json.loads(text)["key"])
            account_text, version = yield from self._read(("accounts", key.account), ("use", own))
            account = json.loads(account_text or NOBODY)
            account["members"] -= 1
            account["others"] -= key.account != key_id
            joint = f"a:{key.account}"
            writes: list[Mutation] = [
                DropText("keys", key_id), DropText("stamps", f"k:{key_id}"), DropText("last_used", key_id),
                *(UnindexKey(name, key_id) for name in lists_of(key, json.loads(text)["plans"])),
                PutText("stamps", "**", str(new_number())),
                *(DropText("secrets", secret.digest.hex()) for secret in key.secrets),
                *self._told(key_removed(key, by)),
            ]  # fmt: skip
            if version is not None:
                writes += yield from self._keep_days(key, by[1] if by else system_clock())
            moved = not account["shared"] and version is not None
            if account["members"] or account.get("account"):
                writes.append(put_account(key.account, {**account, "shared": account["shared"] or moved, "sole": ""}))
                writes.append(MoveRecord(own, joint) if moved else ClearRecord(own))
            elif key.account == key_id:
                writes += [DropText("accounts", key.account), ClearRecord(own), ClearRecord(joint)]
            else:
                writes += [DropText("accounts", key.account), MoveRecord(own, joint) if moved else ClearRecord(own)]
            if not is_told(account):
                writes.append(UnindexKey(TOLD, key.account))
            checks = [
                Precondition("stamps", f"k:{key_id}", stamp), Precondition("accounts", key.account, account_text),
                Precondition("use", own, version),
            ]  # fmt: skip
            if (yield from self._change(checks, writes)):
                return

    @operation
    def get_key(self, key_id: str) -> Flow[ApiKey]:
        (text,) = yield from self._there("keys", key_id)
        key_entry = json.loads(text)
        return (yield from self._shown(decode_key(key_entry["key"]), key_entry))

    @operation
    def list_keys(
        self, after: str | None, limit: int | None, plan_id: str | None, account: str | None, now: int
    ) -> Flow[list[ApiKey]]:
        plan = None
        if plan_id is not None:
            (text,) = yield from self._there("plans", plan_id)
            plan = self._decode_plan(text)
        name = f"a\n{account}" if account is not None else f"p\n{plan[0]}" if plan else ALL
        found: list[ApiKey] = []
        after = after or ""
        while True:
            # Not all on the list may be on the plan: as many again, until there are enough.
            texts = yield from self._list(name, after, limit)
            for key_entry in map(json.loads, texts):
                after = key_entry["key"]["id"]
                if plan is None or (yield from self._is_on(key_entry, *plan, now)):
                    found.append((yield from self._shown(decode_key(key_entry["key"]), key_entry)))
            if limit is None or len(found) >= limit or len(texts) < limit:
                return found[:limit]

    @operation
    def last_used(self, key_id: str) -> Flow[int]:
        _, minute = yield from self._there("keys", key_id, ("last_used", key_id))
        return int(minute or 0)
