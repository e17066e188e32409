"""The directory of the stores on a server: keys, plans and accounts as texts, changed if they are as they were read."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, cast

from ...clock import Clock, ManualClock, monotonic, system_clock
from ...errors import InvalidValue, PlanConflict, StoreBusy, UnknownKey, UnknownPlan
from ...key import ApiKey, decode_key, new_number
from ...operations.request import Entry
from ...plan import UsagePlan, decode_plan, encode_plan
from ...rule.limits import StoreOptions
from ..base import is_new, make_options
from ..texts import to_json
from .accounts import Accounts, is_told
from .adding import ALL, NOBODY, TOLD, Adding, lists_of, put_account
from .cache import CachedKey, KeyCache
from .changes import (
    ClearRecord,
    DropText,
    IndexKey,
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


class Directory(Accounts, Adding, Reports):
    """Keys, plans and accounts. An engine says how a key is looked up, and how places are read and changed.

    ``_lock``: what those who stand in line for a record wait on.
    """

    _lock: Callable[[], Any]

    def __init__(self, namespace: str, timeout: float, check_clock: bool | None, options: Mapping[str, Any]) -> None:
        if type(timeout) not in (int, float) or not 0 < timeout < 10**6:
            raise InvalidValue("timeout", timeout, "seconds, above zero")
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

    def _look_up(self, digest: bytes | None, key_id: str) -> Flow[KeyLookup | None]:
        """Everything about the key of a digest or an id; None when there is none."""
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

    def _look(self, digest: bytes | None, key_id: str) -> Flow[CachedKey | None]:
        found = yield from self._look_up(digest, key_id)
        if found is None:
            return None
        key_entry = json.loads(found.key_entry)
        plans = {}
        for (_, generation), text in zip(key_entry["plans"], found.plans, strict=True):
            if text is not None:
                current, plan = self._decode_plan(text)
                if current == generation:
                    plans[plan.api] = plan
        shared = json.loads(found.account)["shared"] if found.account else False
        return CachedKey(Entry(decode_key(key_entry["key"]), plans, shared), (found.stamp, found.plans_stamp))

    def _decode_plan(self, text: str) -> tuple[str, UsagePlan]:
        """A plan, compiled once however many keys are on it."""
        found = self._decoded.get(text)
        if found is None:
            data = json.loads(text)
            if len(self._decoded) > 1000:
                self._decoded.clear()
            found = self._decoded[text] = data["generation"], decode_plan(data["plan"])
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
    def put_plan(self, plan: UsagePlan, replace: bool | UsagePlan) -> Flow[None]:
        for _ in self._attempts():
            text, stamp, key_entries_stamp = yield from self._read(
                ("plans", plan.id), ("stamps", "*"), ("stamps", "**")
            )
            generation, old = (str(new_number()), None) if text is None else self._decode_plan(text)
            if not is_new(plan, old, replace):
                return
            checks = [Precondition("stamps", "*", stamp)]
            if old is not None and old.api != plan.api:
                yield from self._check_move(plan, generation)
                checks.append(Precondition("stamps", "**", key_entries_stamp))
            new = to_json({"generation": generation, "plan": encode_plan(plan)})
            if (yield from self._change(checks, [
                PutText("plans", plan.id, new), PutText("stamps", "*", str(new_number())),
            ])):  # fmt: skip
                return

    def _check_move(self, plan: UsagePlan, generation: str) -> Flow[None]:
        """A plan that changes its api takes its keys along, unless one of them has another plan there."""
        key_entries = [json.loads(text) for text in (yield from self._values("keys"))]
        there = {}
        for text in (yield from self._values("plans")):
            current, other = self._decode_plan(text)
            if other.api == plan.api:
                there[other.id] = current
        for key_entry in key_entries:
            pairs = [tuple(pair) for pair in key_entry["plans"]]
            if (plan.id, generation) in pairs and any(there.get(id_) == current for id_, current in pairs):
                raise PlanConflict(plan.id, f"key {key_entry['key']['id']} has another plan for the api {plan.api!r}")

    @operation
    def drop_plan(self, plan_id: str) -> Flow[None]:
        for _ in self._attempts():
            text, stamp = yield from self._read(("plans", plan_id), ("stamps", "*"))
            if text is None:
                raise UnknownPlan(plan_id)
            if (yield from self._change([Precondition("stamps", "*", stamp)], [
                DropText("plans", plan_id), PutText("stamps", "*", str(new_number())),
            ])):  # fmt: skip
                return

    @operation
    def get_plan(self, plan_id: str) -> Flow[UsagePlan]:
        (text,) = yield from self._read(("plans", plan_id))
        if text is None:
            raise UnknownPlan(plan_id)
        return self._decode_plan(text)[1]

    @operation
    def list_plans(self) -> Flow[list[UsagePlan]]:
        plans = [self._decode_plan(text)[1] for text in (yield from self._values("plans"))]
        return sorted(plans, key=lambda plan: plan.id)

    @operation
    def add_key(self, key: ApiKey, plan_id: str | None, *more: str) -> Flow[None]:
        return self._add([(key, [id_ for id_ in (plan_id, *more) if id_ is not None])])

    @operation
    def add_keys(self, keys: Sequence[tuple[ApiKey, Sequence[str]]]) -> Flow[None]:
        return self._add(keys)

    @operation
    def change_key(self, key_id: str, change: Callable[[ApiKey], ApiKey]) -> Flow[ApiKey]:
        for _ in self._attempts():
            text, stamp = yield from self._read(("keys", key_id), ("stamps", f"k:{key_id}"))
            if text is None:
                raise UnknownKey(key_id)
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
            checks = [Precondition("stamps", f"k:{key_id}", stamp)]
            checks += [Precondition(*secret, None) for secret in fresh]
            if (yield from self._change(checks, writes)):
                return new
        raise AssertionError  # pragma: no cover -- attempts end by raising

    @operation
    def drop_key(self, key_id: str) -> Flow[None]:
        own = f"k:{key_id}"
        for _ in self._attempts():
            text, stamp = yield from self._read(("keys", key_id), ("stamps", f"k:{key_id}"))
            if text is None:
                raise UnknownKey(key_id)
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
            ]  # fmt: skip
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
        (text,) = yield from self._read(("keys", key_id))
        if text is None:
            raise UnknownKey(key_id)
        return decode_key(json.loads(text)["key"])

    @operation
    def list_keys(
        self, after: str | None = None, limit: int | None = None, plan_id: str | None = None, account: str | None = None
    ) -> Flow[list[ApiKey]]:
        generation = None
        if plan_id is not None:
            (text,) = yield from self._read(("plans", plan_id))
            if text is None:
                raise UnknownPlan(plan_id)
            generation = self._decode_plan(text)[0]
        both = generation is not None and account is not None
        name = ALL if account is None and generation is None else f"p\n{generation}"
        name = name if account is None else f"a\n{account}"
        texts = yield from self._list(name, after or "", None if both else limit)
        key_entries = [json.loads(text) for text in texts]
        if both:
            key_entries = [key_entry for key_entry in key_entries if [plan_id, generation] in key_entry["plans"]][
                :limit
            ]
        return [decode_key(key_entry["key"]) for key_entry in key_entries]

    @operation
    def last_used(self, key_id: str) -> Flow[int]:
        key, minute = yield from self._read(("keys", key_id), ("last_used", key_id))
        if key is None:
            raise UnknownKey(key_id)
        return int(minute or 0)

    def _known(self, key_id: str) -> Flow[CachedKey]:
        copy = yield from self._look(None, key_id)
        if copy is None:
            raise UnknownKey(key_id)
        return copy

    @operation
    def plans_of(self, key_id: str) -> Flow[list[UsagePlan]]:
        plans = (yield from self._known(key_id)).entry.plans
        return [plans[api] for api in sorted(plans)]

    def _place(self, key_id: str, plan_id: str, on: bool) -> Flow[None]:
        for _ in self._attempts():
            copy = yield from self._known(key_id)
            plan_text, key_entry_text = yield from self._read(("plans", plan_id), ("keys", key_id))
            if plan_text is None:
                raise UnknownPlan(plan_id)
            generation, plan = self._decode_plan(plan_text)
            plans = dict(copy.entry.plans)
            if not on and (plan.api not in plans or plans[plan.api].id != plan_id):
                raise PlanConflict(plan_id, f"key {key_id} is not on this plan")
            rest = [kept.id for api, kept in plans.items() if api != plan.api]
            texts = (yield from self._read(*(("plans", id_) for id_ in rest))) if rest else []
            pairs = [(id_, self._decode_plan(text)[0]) for id_, text in zip(rest, texts, strict=True) if text]
            if on:
                pairs.append((plan_id, generation))
            stamp, plans_stamp = copy.stamps
            checks = [Precondition("stamps", f"k:{key_id}", stamp), Precondition("stamps", "*", plans_stamp or None)]
            key = cast("ApiKey", copy.entry.key)
            old, new = lists_of(key, json.loads(key_entry_text or '{"plans": []}')["plans"]), lists_of(key, pairs)
            writes = [
                self._key_entry(key, pairs),
                *self._stamp(key_id),
                *(UnindexKey(name, key_id) for name in old - new),
            ]
            writes += [IndexKey(name, key_id) for name in new - old]
            if (yield from self._change(checks, writes)):
                return

    @operation
    def associate(self, key_id: str, plan_id: str) -> Flow[None]:
        return self._place(key_id, plan_id, on=True)

    @operation
    def dissociate(self, key_id: str, plan_id: str) -> Flow[None]:
        return self._place(key_id, plan_id, on=False)
