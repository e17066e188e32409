"""The directory of the stores on a server: keys, plans and accounts as texts in named parts, changed by checking them.

A *place* is (part, name). The parts ``stamps``, ``secrets``, ``keys``, ``accounts`` and ``plans`` hold texts; in the
part ``use`` are the records, and what is read of one is its version. An engine says how places are read and written.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any

from ...clock import Clock, monotonic, system_clock
from ...errors import InvalidValue, PlanConflict, StoreBusy, UnknownKey, UnknownPlan
from ...key import ApiKey, decode_key, encode_key, new_number
from ...operations.request import Entry
from ...plan import UsagePlan, decode_plan, encode_plan
from ...rule.limits import Terms
from ..base import make_terms
from .cache import Copies, Copy
from .flow import Lines, Trip, to_json

_NOBODY = '{"members": 0, "shared": false, "sole": ""}'

Place = tuple[str, str]
Check = tuple[str, str, str | None]
"""(part, name, the text that must still be there)"""
Write = tuple[str, ...]
"""put (part, name, text), del (part, name); of records: clear (name), copy (name, to), move (name, to)"""
Glance = tuple[str, str, str, str | None, list[str | None]]
"""A key's stamp, the plans' stamp, its seat, its account, its plans: as they stand together."""


def _account(id_: str, members: int, *, shared: bool, sole: str = "") -> Write:
    """``sole``: the only member there ever was; when a second one joins, what it used becomes the account's."""
    account = {"members": members, "shared": shared, "sole": "" if shared else sole}
    return "put", "accounts", id_, to_json(account)


class Directory:
    """Keys, plans and accounts. Each operation is a generator that yields calls and is sent their replies.

    ``blocking``: an ``AsyncLedger`` asks in threads. ``_lock``: what those who stand in line for a record wait on.
    """

    blocking = True
    _lock: Callable[[], Any] = threading.RLock

    def __init__(self, namespace: str, timeout: float, check_clock: bool | None, options: Mapping[str, Any]) -> None:
        if type(timeout) not in (int, float) or not 0 < timeout < 10**6:
            raise InvalidValue("timeout", timeout, "seconds, above zero")
        self.namespace = namespace
        self.timeout = timeout
        self.check_clock = check_clock
        self.terms: Terms = make_terms(**options)
        self._copies = Copies()
        self._decoded: dict[str, tuple[str, UsagePlan]] = {}
        self._lines: Lines[Any] = Lines(type(self)._lock)
        self._looked = False

    def _look_around(self) -> Trip[None]:
        """Once per store, before its first call on a record or the directory."""
        raise NotImplementedError

    def _glance(self, digest: bytes | None, key_id: str) -> Trip[Glance | None]:
        """Everything about the key of a digest or an id; None when there is none."""
        raise NotImplementedError

    def _read(self, *places: Place) -> Trip[list[str | None]]:
        """Places as they stand together."""
        raise NotImplementedError

    def _values(self, part: str) -> Trip[list[str]]:
        """All texts of a part."""
        raise NotImplementedError

    def _change(self, checks: list[Check], writes: list[Write]) -> Trip[bool]:
        """Do all writes if all places are as they were read."""
        raise NotImplementedError

    def use_clock(self, clock: Clock) -> None:
        """Told by a ledger: a system clock is compared with the server's unless ``check_clock`` says otherwise."""
        if self.check_clock is None:
            self.check_clock = clock is system_clock

    def _look(self, digest: bytes | None, key_id: str) -> Trip[Copy | None]:
        found = yield from self._glance(digest, key_id)
        if found is None:
            return None
        stamp, plans_stamp, seat_text, account_text, plan_texts = found
        seat = json.loads(seat_text)
        plans = {}
        for (_, generation), text in zip(seat["plans"], plan_texts, strict=True):
            if text is not None:
                current, plan = self._decode_plan(text)
                if current == generation:
                    plans[plan.api] = plan
        shared = json.loads(account_text)["shared"] if account_text else False
        return Copy(Entry(decode_key(seat["key"]), plans, shared), (stamp, plans_stamp))

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

    def _put_plan(self, plan: UsagePlan, replace: bool) -> Trip[None]:
        for _ in self._attempts():
            text, stamp, seats_stamp = yield from self._read(("plans", plan.id), ("stamps", "*"), ("stamps", "**"))
            generation = str(new_number())
            checks = [("stamps", "*", stamp)]
            if text is not None:
                generation, old = self._decode_plan(text)
                if old == plan:
                    return
                if not replace:
                    raise PlanConflict(plan.id, "a different plan has this id; replace_plan() replaces it")
                if old.api != plan.api:
                    yield from self._check_move(plan, generation)
                    checks.append(("stamps", "**", seats_stamp))
            new = to_json({"generation": generation, "plan": encode_plan(plan)})
            if (yield from self._change(checks, [
                ("put", "plans", plan.id, new), ("put", "stamps", "*", str(new_number())),
            ])):  # fmt: skip
                return

    def _check_move(self, plan: UsagePlan, generation: str) -> Trip[None]:
        """A plan that changes its api takes its keys along, unless one of them has another plan there."""
        seats = [json.loads(text) for text in (yield from self._values("keys"))]
        there = {}
        for text in (yield from self._values("plans")):
            current, other = self._decode_plan(text)
            if other.api == plan.api:
                there[other.id] = current
        for seat in seats:
            pairs = [tuple(pair) for pair in seat["plans"]]
            if (plan.id, generation) in pairs and any(there.get(id_) == current for id_, current in pairs):
                raise PlanConflict(plan.id, f"key {seat['key']['id']} has another plan for the api {plan.api!r}")

    def _drop_plan(self, plan_id: str) -> Trip[None]:
        for _ in self._attempts():
            text, stamp = yield from self._read(("plans", plan_id), ("stamps", "*"))
            if text is None:
                raise UnknownPlan(plan_id)
            if (yield from self._change([("stamps", "*", stamp)], [
                ("del", "plans", plan_id), ("put", "stamps", "*", str(new_number())),
            ])):  # fmt: skip
                return

    def _get_plan(self, plan_id: str) -> Trip[UsagePlan]:
        (text,) = yield from self._read(("plans", plan_id))
        if text is None:
            raise UnknownPlan(plan_id)
        return self._decode_plan(text)[1]

    def _list_plans(self) -> Trip[list[UsagePlan]]:
        plans = [self._decode_plan(text)[1] for text in (yield from self._values("plans"))]
        return sorted(plans, key=lambda plan: plan.id)

    def _seat(self, key: ApiKey, plans: Iterable[Iterable[str]]) -> Write:
        return "put", "keys", key.id, to_json({"key": encode_key(key), "plans": [list(pair) for pair in plans]})

    def _stamp(self, key_id: str) -> list[Write]:
        """What tells every copy of the key that it is stale, and a plan that moves that some key changed."""
        names = (f"k:{key_id}", "**")
        return [("put", "stamps", name, str(new_number())) for name in names]

    def _add_key(self, key: ApiKey, plan_id: str | None, *more: str) -> Trip[None]:
        ids = [id_ for id_ in (plan_id, *more) if id_ is not None]
        digests = [("secrets", secret.digest.hex()) for secret in key.secrets]
        for _ in self._attempts():
            stamp, plans_stamp, account_text, joint, *texts = yield from self._read(
                ("stamps", f"k:{key.id}"), ("stamps", "*"), ("accounts", key.account), ("use", f"a:{key.account}"),
                *(("plans", id_) for id_ in ids), *digests,
            )  # fmt: skip
            owners = texts[len(ids) :]
            if stamp is not None:
                raise PlanConflict(key.id, "an API key has this id already")
            if any(owners):
                raise PlanConflict(key.id, "another API key has this secret")
            pairs = []
            for id_, text in zip(ids, texts, strict=False):
                if text is None:
                    raise UnknownPlan(id_)
                pairs.append((id_, self._decode_plan(text)[0]))
            account: dict[str, Any] = json.loads(account_text or _NOBODY)
            checks: list[Check] = [
                ("stamps", f"k:{key.id}", None), ("accounts", key.account, account_text),
                *((hashes, digest, None) for hashes, digest in digests),
            ]  # fmt: skip
            if ids:
                checks.append(("stamps", "*", plans_stamp))
            writes = [self._seat(key, pairs), *self._stamp(key.id), ("clear", f"k:{key.id}")]
            writes += [("put", hashes, digest, key.id) for hashes, digest in digests]
            if account["members"] and not account["shared"]:
                yield from self._split(account["sole"], key.account, checks, writes)
                account["shared"] = True
            shared = account["shared"]
            if not account["members"]:  # what keys that are gone used is the account's count, for as long as it matters
                checks.append(("use", f"a:{key.account}", joint))
                shared = shared or joint is not None
            writes.append(_account(key.account, account["members"] + 1, shared=shared, sole=key.id))
            if (yield from self._change(checks, writes)):
                return

    def _split(self, sole: str, account: str, checks: list[Check], writes: list[Write]) -> Trip[None]:
        """A second key joins: what the first one used is the account's count, and goes on being its own."""
        own, joint = f"k:{sole}", f"a:{account}"
        (version,) = yield from self._read(("use", own))
        checks.append(("use", own, version))
        writes += [("clear", joint) if version is None else ("copy", own, joint), *self._stamp(sole)]

    def _change_key(self, key_id: str, change: Callable[[ApiKey], ApiKey]) -> Trip[ApiKey]:
        for _ in self._attempts():
            text, stamp = yield from self._read(("keys", key_id), ("stamps", f"k:{key_id}"))
            if text is None:
                raise UnknownKey(key_id)
            seat = json.loads(text)
            old = decode_key(seat["key"])
            new = change(old)
            had, has = ({secret.digest.hex() for secret in key.secrets} for key in (old, new))
            fresh = [("secrets", digest) for digest in sorted(has - had)]
            if fresh and any((yield from self._read(*fresh))):
                raise PlanConflict(key_id, "another API key has this secret")
            writes = [self._seat(new, seat["plans"]), *self._stamp(key_id)]
            writes += [("put", hashes, digest, key_id) for hashes, digest in fresh]
            writes += [("del", "secrets", digest) for digest in sorted(had - has)]
            checks = [("stamps", f"k:{key_id}", stamp), *((hashes, digest, None) for hashes, digest in fresh)]
            if (yield from self._change(checks, writes)):
                return new
        raise AssertionError  # pragma: no cover -- attempts end by raising

    def _drop_key(self, key_id: str) -> Trip[None]:
        own = f"k:{key_id}"
        for _ in self._attempts():
            text, stamp = yield from self._read(("keys", key_id), ("stamps", f"k:{key_id}"))
            if text is None:
                raise UnknownKey(key_id)
            key = decode_key(json.loads(text)["key"])
            account_text, version = yield from self._read(("accounts", key.account), ("use", own))
            account = json.loads(account_text or _NOBODY)
            account["members"] -= 1
            joint = f"a:{key.account}"
            writes: list[Write] = [
                ("del", "keys", key_id), ("del", "stamps", f"k:{key_id}"),
                ("put", "stamps", "**", str(new_number())),
                *(("del", "secrets", secret.digest.hex()) for secret in key.secrets),
            ]  # fmt: skip
            if account["members"]:
                writes += [("clear", own), _account(key.account, account["members"], shared=True)]
            elif key.account == key_id:
                writes += [("del", "accounts", key.account), ("clear", own), ("clear", joint)]
            else:
                moved = not account["shared"] and version is not None
                writes += [("del", "accounts", key.account), ("move", own, joint) if moved else ("clear", own)]
            checks = [
                ("stamps", f"k:{key_id}", stamp), ("accounts", key.account, account_text), ("use", own, version),
            ]  # fmt: skip
            if (yield from self._change(checks, writes)):
                return

    def _get_key(self, key_id: str) -> Trip[ApiKey]:
        (text,) = yield from self._read(("keys", key_id))
        if text is None:
            raise UnknownKey(key_id)
        return decode_key(json.loads(text)["key"])

    def _list_keys(self) -> Trip[list[ApiKey]]:
        keys = [decode_key(json.loads(text)["key"]) for text in (yield from self._values("keys"))]
        return sorted(keys, key=lambda key: key.id)

    def _known(self, key_id: str) -> Trip[Copy]:
        copy = yield from self._look(None, key_id)
        if copy is None:
            raise UnknownKey(key_id)
        return copy

    def _plans_of(self, key_id: str) -> Trip[list[UsagePlan]]:
        plans = (yield from self._known(key_id)).entry.plans
        return [plans[api] for api in sorted(plans)]

    def _place(self, key_id: str, plan_id: str, on: bool) -> Trip[None]:
        for _ in self._attempts():
            copy = yield from self._known(key_id)
            (plan_text,) = yield from self._read(("plans", plan_id))
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
            checks = [("stamps", f"k:{key_id}", stamp), ("stamps", "*", plans_stamp or None)]
            if (yield from self._change(checks, [self._seat(copy.entry.key, pairs), *self._stamp(key_id)])):
                return

    def _associate(self, key_id: str, plan_id: str) -> Trip[None]:
        return self._place(key_id, plan_id, on=True)

    def _dissociate(self, key_id: str, plan_id: str) -> Trip[None]:
        return self._place(key_id, plan_id, on=False)
