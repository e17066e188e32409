"""The directory of the stores on a server: keys, plans and accounts as texts, changed if they are as they were read."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any

from ...clock import Clock, monotonic, system_clock
from ...errors import InvalidValue, PlanConflict, StoreBusy, UnknownKey, UnknownPlan
from ...key import ApiKey, decode_key, encode_key, new_number
from ...operations.request import Entry
from ...plan import UsagePlan, decode_plan, encode_plan
from ...rule.limits import Terms
from ..base import is_new, make_terms
from ..texts import to_json
from .cache import CachedKey, KeyCache
from .changes import ClearRecord, CopyRecord, DropText, KeyLookup, MoveRecord, Mutation, Place, Precondition, PutText
from .flow import Lines, Trip, operation

_NOBODY = '{"members": 0, "shared": false, "sole": ""}'


def _account(id_: str, members: int, *, shared: bool, sole: str = "") -> PutText:
    """``sole``: the only member there ever was; when a second one joins, what it used becomes the account's."""
    account = {"members": members, "shared": shared, "sole": "" if shared else sole}
    return PutText("accounts", id_, to_json(account))


class Directory:
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
        self.terms: Terms = make_terms(**options)
        self._copies = KeyCache()
        self._decoded: dict[str, tuple[str, UsagePlan]] = {}
        self._lines: Lines[Any] = Lines(type(self)._lock)
        self._looked = False

    def _look_around(self) -> Trip[None]:
        """Once per store, before its first call on a record or the directory."""
        raise NotImplementedError

    def _look_up(self, digest: bytes | None, key_id: str) -> Trip[KeyLookup | None]:
        """Everything about the key of a digest or an id; None when there is none."""
        raise NotImplementedError

    def _read(self, *places: Place) -> Trip[list[str | None]]:
        """Places as they stand together."""
        raise NotImplementedError

    def _values(self, part: str) -> Trip[list[str]]:
        """All texts of a part."""
        raise NotImplementedError

    def _change(self, checks: list[Precondition], writes: Sequence[Mutation]) -> Trip[bool]:
        """Change all that is told if all places are as they were read."""
        raise NotImplementedError

    def use_clock(self, clock: Clock) -> None:
        """Told by a ledger: a system clock is compared with the server's unless ``check_clock`` says otherwise."""
        if self.check_clock is None:
            self.check_clock = clock is system_clock

    def _look(self, digest: bytes | None, key_id: str) -> Trip[CachedKey | None]:
        found = yield from self._look_up(digest, key_id)
        if found is None:
            return None
        seat = json.loads(found.seat)
        plans = {}
        for (_, generation), text in zip(seat["plans"], found.plans, strict=True):
            if text is not None:
                current, plan = self._decode_plan(text)
                if current == generation:
                    plans[plan.api] = plan
        shared = json.loads(found.account)["shared"] if found.account else False
        return CachedKey(Entry(decode_key(seat["key"]), plans, shared), (found.stamp, found.plans_stamp))

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
    def put_plan(self, plan: UsagePlan, replace: bool | UsagePlan) -> Trip[None]:
        for _ in self._attempts():
            text, stamp, seats_stamp = yield from self._read(("plans", plan.id), ("stamps", "*"), ("stamps", "**"))
            generation, old = (str(new_number()), None) if text is None else self._decode_plan(text)
            if not is_new(plan, old, replace):
                return
            checks = [Precondition("stamps", "*", stamp)]
            if old is not None and old.api != plan.api:
                yield from self._check_move(plan, generation)
                checks.append(Precondition("stamps", "**", seats_stamp))
            new = to_json({"generation": generation, "plan": encode_plan(plan)})
            if (yield from self._change(checks, [
                PutText("plans", plan.id, new), PutText("stamps", "*", str(new_number())),
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

    @operation
    def drop_plan(self, plan_id: str) -> Trip[None]:
        for _ in self._attempts():
            text, stamp = yield from self._read(("plans", plan_id), ("stamps", "*"))
            if text is None:
                raise UnknownPlan(plan_id)
            if (yield from self._change([Precondition("stamps", "*", stamp)], [
                DropText("plans", plan_id), PutText("stamps", "*", str(new_number())),
            ])):  # fmt: skip
                return

    @operation
    def get_plan(self, plan_id: str) -> Trip[UsagePlan]:
        (text,) = yield from self._read(("plans", plan_id))
        if text is None:
            raise UnknownPlan(plan_id)
        return self._decode_plan(text)[1]

    @operation
    def list_plans(self) -> Trip[list[UsagePlan]]:
        plans = [self._decode_plan(text)[1] for text in (yield from self._values("plans"))]
        return sorted(plans, key=lambda plan: plan.id)

    def _seat(self, key: Any, plans: Iterable[Iterable[str]]) -> PutText:
        return PutText("keys", key.id, to_json({"key": encode_key(key), "plans": [list(pair) for pair in plans]}))

    def _stamp(self, key_id: str) -> list[Mutation]:
        """What tells every copy of the key that it is stale, and a plan that moves that some key changed."""
        return [PutText("stamps", name, str(new_number())) for name in (f"k:{key_id}", "**")]

    @operation
    def add_key(self, key: ApiKey, plan_id: str | None, *more: str) -> Trip[None]:
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
            account = json.loads(account_text or _NOBODY)
            checks = [
                Precondition("stamps", f"k:{key.id}", None), Precondition("accounts", key.account, account_text),
                *(Precondition(*secret, None) for secret in digests),
            ]  # fmt: skip
            if ids:
                checks.append(Precondition("stamps", "*", plans_stamp))
            writes = [self._seat(key, pairs), *self._stamp(key.id), ClearRecord(f"k:{key.id}")]
            writes += [PutText(*secret, key.id) for secret in digests]
            if account["members"] and not account["shared"]:
                yield from self._split(account["sole"], key.account, checks, writes)
                account["shared"] = True
            shared = account["shared"]
            if not account["members"]:  # what keys that are gone used is the account's count, for as long as it matters
                checks.append(Precondition("use", f"a:{key.account}", joint))
                shared = shared or joint is not None
            writes.append(_account(key.account, account["members"] + 1, shared=shared, sole=key.id))
            if (yield from self._change(checks, writes)):
                return

    def _split(self, sole: str, account: str, checks: list[Precondition], writes: list[Mutation]) -> Trip[None]:
        """A second key joins: what the first one used is the account's count, and goes on being its own."""
        own, joint = f"k:{sole}", f"a:{account}"
        (version,) = yield from self._read(("use", own))
        checks.append(Precondition("use", own, version))
        writes += [ClearRecord(joint) if version is None else CopyRecord(own, joint), *self._stamp(sole)]

    @operation
    def change_key(self, key_id: str, change: Callable[[ApiKey], ApiKey]) -> Trip[ApiKey]:
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
            writes += [PutText(*secret, key_id) for secret in fresh]
            writes += [DropText("secrets", digest) for digest in sorted(had - has)]
            checks = [Precondition("stamps", f"k:{key_id}", stamp)]
            checks += [Precondition(*secret, None) for secret in fresh]
            if (yield from self._change(checks, writes)):
                return new
        raise AssertionError  # pragma: no cover -- attempts end by raising

    @operation
    def drop_key(self, key_id: str) -> Trip[None]:
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
            writes: list[Mutation] = [
                DropText("keys", key_id), DropText("stamps", f"k:{key_id}"),
                PutText("stamps", "**", str(new_number())),
                *(DropText("secrets", secret.digest.hex()) for secret in key.secrets),
            ]  # fmt: skip
            if account["members"]:
                writes += [ClearRecord(own), _account(key.account, account["members"], shared=True)]
            elif key.account == key_id:
                writes += [DropText("accounts", key.account), ClearRecord(own), ClearRecord(joint)]
            else:
                moved = not account["shared"] and version is not None
                writes += [DropText("accounts", key.account), MoveRecord(own, joint) if moved else ClearRecord(own)]
            checks = [
                Precondition("stamps", f"k:{key_id}", stamp), Precondition("accounts", key.account, account_text),
                Precondition("use", own, version),
            ]  # fmt: skip
            if (yield from self._change(checks, writes)):
                return

    @operation
    def get_key(self, key_id: str) -> Trip[ApiKey]:
        (text,) = yield from self._read(("keys", key_id))
        if text is None:
            raise UnknownKey(key_id)
        return decode_key(json.loads(text)["key"])

    @operation
    def list_keys(self) -> Trip[list[ApiKey]]:
        keys = [decode_key(json.loads(text)["key"]) for text in (yield from self._values("keys"))]
        return sorted(keys, key=lambda key: key.id)

    def _known(self, key_id: str) -> Trip[CachedKey]:
        copy = yield from self._look(None, key_id)
        if copy is None:
            raise UnknownKey(key_id)
        return copy

    @operation
    def plans_of(self, key_id: str) -> Trip[list[UsagePlan]]:
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
            checks = [Precondition("stamps", f"k:{key_id}", stamp), Precondition("stamps", "*", plans_stamp or None)]
            if (yield from self._change(checks, [self._seat(copy.entry.key, pairs), *self._stamp(key_id)])):
                return

    @operation
    def associate(self, key_id: str, plan_id: str) -> Trip[None]:
        return self._place(key_id, plan_id, on=True)

    @operation
    def dissociate(self, key_id: str, plan_id: str) -> Trip[None]:
        return self._place(key_id, plan_id, on=False)
