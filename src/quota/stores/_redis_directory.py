"""The Redis store's directory: keys, plans and accounts in hashes, changed by checking what was read."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any

from redis.exceptions import ResponseError

from ..charge import Terms
from ..clock import Clock, monotonic, system_clock
from ..errors import InvalidValue, PlanConflict, StoreBusy, StoreUnavailable, UnknownKey, UnknownPlan, check_text
from ..key import ApiKey, decode_key, encode_key, new_number
from ..plan import UsagePlan, decode_plan, encode_plan
from ..store import Entry, make_terms
from ._redis_script import COMMIT, LOOK, READ
from ._redis_wire import NOTHING, Trip, plain, run, to_json, to_text
from ._remote import Copies, Copy

FORMAT = "1"
"""Of everything that is stored; another one is refused rather than misread."""

_NOBODY = '{"members": 0, "shared": false, "sole": ""}'

Check = tuple[str, str, str | None]
"""(key, field, the value it must still have)"""


class Directory:
    """Keys, plans and accounts. Each operation is a generator that yields calls and is sent their replies."""

    exact_across_failover = False

    def __init__(self, namespace: str, timeout: float, check_clock: bool | None, options: Mapping[str, Any]) -> None:
        check_text("namespace", namespace, longest=128)
        if "{" in namespace or "}" in namespace:
            raise InvalidValue("namespace", namespace, "text without braces, which mark the hash tag")
        if type(timeout) not in (int, float) or not 0 < timeout < 10**6:
            raise InvalidValue("timeout", timeout, "seconds, above zero")
        self.namespace = namespace
        self.timeout = timeout
        self.check_clock = check_clock
        self.terms: Terms = make_terms(**options)
        self._prefix = f"{{{namespace}}}:"
        self._stamps, self._secrets, self._keys, self._accounts, self._plans = (
            self._prefix + name for name in ("stamps", "secrets", "keys", "accounts", "plans")
        )
        self._copies = Copies()
        self._decoded: dict[bytes, tuple[str, UsagePlan]] = {}
        self._looked = False

    def use_clock(self, clock: Clock) -> None:
        """Told by a ledger: a system clock is compared with the server's unless ``check_clock`` says otherwise."""
        if self.check_clock is None:
            self.check_clock = clock is system_clock

    def _use(self, kind: str, name: str) -> str:
        return f"{self._prefix}use:{kind}:{name}"

    def _look_around(self) -> Trip[None]:
        """Once per store: whether the server may throw live counts away."""
        self._looked = True
        try:
            reply = yield plain("INFO", "memory")
        except StoreUnavailable as error:
            if isinstance(error.__cause__, ResponseError):
                return
            self._looked = False
            raise
        lines = dict(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)
        policy = lines.get("maxmemory_policy", "noeviction")
        if policy != "noeviction" and lines.get("maxmemory", "0") != "0":
            warnings.warn(
                f"the server evicts keys when memory is full (maxmemory-policy {policy}): live windows may be "
                "lost and units granted twice; set it to noeviction", RuntimeWarning, stacklevel=4,
            )  # fmt: skip

    def _look(self, digest: bytes | None, key_id: str) -> Trip[Copy | None]:
        keys = [self._stamps, self._secrets, self._keys, self._accounts, self._plans]
        reply = yield run(LOOK, keys, digest.hex() if digest else "", key_id)
        if reply == 0:
            return None
        stamp, plans_stamp, version, seat_text, account_text, *plan_texts = reply
        if version is not None and version.decode() != FORMAT:
            written = f"{self._prefix} is written in format {version.decode()}"
            raise StoreUnavailable(f"{written}, this version of quota reads {FORMAT}; {NOTHING}")
        seat = json.loads(seat_text)
        plans = {}
        for (_, generation), text in zip(seat["plans"], plan_texts, strict=True):
            if text is not None:
                current, plan = self._decode_plan(text)
                if current == generation:
                    plans[plan.api] = plan
        shared = json.loads(account_text)["shared"] if account_text else False
        return Copy(Entry(decode_key(seat["key"]), plans, shared), (stamp.decode(), plans_stamp.decode()))

    def _decode_plan(self, text: bytes) -> tuple[str, UsagePlan]:
        """A plan, compiled once however many keys are on it."""
        found = self._decoded.get(text)
        if found is None:
            data = json.loads(text)
            if len(self._decoded) > 1000:
                self._decoded.clear()
            found = self._decoded[text] = data["generation"], decode_plan(data["plan"])
        return found

    def _read(self, *places: tuple[str, str]) -> Trip[list[str | None]]:
        """Fields of hashes as they stand together."""
        keys = list(dict.fromkeys(key for key, _ in places))
        arguments = [part for key, field in places for part in (str(keys.index(key) + 1), field)]
        reply = yield run(READ, keys, *arguments)
        return [to_text(value) for value in reply]

    def _change(self, checks: list[tuple[str, str, str | None]], writes: list[tuple[Any, ...]]) -> Trip[bool]:
        """Do all writes if all fields are as they were read. A write: (command, key, arguments...)."""
        keys = list(dict.fromkeys([*(key for key, _, _ in checks), *(write[1] for write in writes), self._stamps]))
        place = {key: index + 1 for index, key in enumerate(keys)}
        encoded: list[list[Any]] = []
        for command, key, *arguments in writes:
            if command in ("COPY", "RENAME"):
                other = arguments.pop(0)
                if other not in place:
                    keys.append(other)
                    place[other] = len(keys)
                arguments.insert(0, place[other])
            encoded.append([command, place[key], *arguments])
        encoded.append(["HSETNX", place[self._stamps], "#", FORMAT])
        wanted = [[place[key], field, False if value is None else value] for key, field, value in checks]
        reply = yield run(COMMIT, keys, to_json([wanted, encoded]))
        return bool(reply == 1)

    def _attempts(self) -> Generator[int, None, None]:
        """One attempt after another until the timeout."""
        deadline = monotonic() + self.timeout
        attempt = 0
        while attempt < 2 or monotonic() <= deadline:
            yield attempt
            attempt += 1
        raise StoreBusy(f"{self._prefix} was contended for {self.timeout} s; nothing was changed")

    def _put_plan(self, plan: UsagePlan, replace: bool) -> Trip[None]:
        for _ in self._attempts():
            text, stamp, seats_stamp = yield from self._read(
                (self._plans, plan.id), (self._stamps, "*"), (self._stamps, "**")
            )
            generation = str(new_number())
            checks = [(self._stamps, "*", stamp)]
            if text is not None:
                generation, old = self._decode_plan(text.encode())
                if old == plan:
                    return
                if not replace:
                    raise PlanConflict(plan.id, "a different plan has this id; replace_plan() replaces it")
                if old.api != plan.api:
                    yield from self._check_move(plan, generation)
                    checks.append((self._stamps, "**", seats_stamp))
            new = to_json({"generation": generation, "plan": encode_plan(plan)})
            if (yield from self._change(checks, [
                ("HSET", self._plans, plan.id, new), ("HSET", self._stamps, "*", str(new_number())),
            ])):  # fmt: skip
                return

    def _check_move(self, plan: UsagePlan, generation: str) -> Trip[None]:
        """A plan that changes its api takes its keys along, unless one of them has another plan there."""
        seats = [json.loads(text) for text in (yield plain("HVALS", self._keys))]
        there = {}
        for text in (yield plain("HVALS", self._plans)):
            current, other = self._decode_plan(text)
            if other.api == plan.api:
                there[other.id] = current
        for seat in seats:
            pairs = [tuple(pair) for pair in seat["plans"]]
            if (plan.id, generation) in pairs and any(there.get(id_) == current for id_, current in pairs):
                raise PlanConflict(plan.id, f"key {seat['key']['id']} has another plan for the api {plan.api!r}")

    def _drop_plan(self, plan_id: str) -> Trip[None]:
        for _ in self._attempts():
            text, stamp = yield from self._read((self._plans, plan_id), (self._stamps, "*"))
            if text is None:
                raise UnknownPlan(plan_id)
            if (yield from self._change([(self._stamps, "*", stamp)], [
                ("HDEL", self._plans, plan_id), ("HSET", self._stamps, "*", str(new_number())),
            ])):  # fmt: skip
                return

    def _get_plan(self, plan_id: str) -> Trip[UsagePlan]:
        (text,) = yield from self._read((self._plans, plan_id))
        if text is None:
            raise UnknownPlan(plan_id)
        return self._decode_plan(text.encode())[1]

    def _list_plans(self) -> Trip[list[UsagePlan]]:
        plans = [self._decode_plan(text)[1] for text in (yield plain("HVALS", self._plans))]
        return sorted(plans, key=lambda plan: plan.id)

    def _seat(self, key: ApiKey, plans: Iterable[Iterable[str]]) -> tuple[Any, ...]:
        return "HSET", self._keys, key.id, to_json({"key": encode_key(key), "plans": [list(pair) for pair in plans]})

    def _stamp(self, key_id: str) -> tuple[Any, ...]:
        return "HSET", self._stamps, f"k:{key_id}", str(new_number()), "**", str(new_number())

    def _add_key(self, key: ApiKey, plan_id: str | None) -> Trip[None]:
        digests = [(self._secrets, secret.digest.hex()) for secret in key.secrets]
        for _ in self._attempts():
            stamp, plans_stamp, account_text, plan_text, *owners = yield from self._read(
                (self._stamps, f"k:{key.id}"), (self._stamps, "*"), (self._accounts, key.account),
                (self._plans, plan_id or ""), *digests,
            )  # fmt: skip
            if stamp is not None:
                raise PlanConflict(key.id, "an API key has this id already")
            if any(owners):
                raise PlanConflict(key.id, "another API key has this secret")
            if plan_id is not None and plan_text is None:
                raise UnknownPlan(plan_id)
            pairs = [(plan_id, self._decode_plan(plan_text.encode())[0])] if plan_id is not None and plan_text else []
            account: dict[str, Any] = json.loads(account_text or _NOBODY)
            checks: list[tuple[str, str, str | None]] = [
                (self._stamps, f"k:{key.id}", None), (self._accounts, key.account, account_text),
                *((hashes, digest, None) for hashes, digest in digests),
            ]  # fmt: skip
            if plan_id is not None:
                checks.append((self._stamps, "*", plans_stamp))
            writes = [self._seat(key, pairs), self._stamp(key.id), ("DEL", self._use("k", key.id))]
            writes += [("HSET", hashes, digest, key.id) for hashes, digest in digests]
            if account["members"] and not account["shared"]:
                yield from self._split(account["sole"], key.account, checks, writes)
                account["shared"] = True
            account = {"members": account["members"] + 1, "shared": account["shared"], "sole": key.id}
            writes.append(("HSET", self._accounts, key.account, to_json(account)))
            if (yield from self._change(checks, writes)):
                return

    def _split(
        self, sole: str, account: str, checks: list[tuple[str, str, str | None]], writes: list[tuple[Any, ...]]
    ) -> Trip[None]:
        """A second key joins: what the first one used is the account's count, and goes on being its own."""
        own, joint = self._use("k", sole), self._use("a", account)
        (version,) = yield from self._read((own, "v"))
        checks.append((own, "v", version))
        writes += [("DEL", joint) if version is None else ("COPY", own, joint, "REPLACE"), self._stamp(sole)]

    def _change_key(self, key_id: str, change: Callable[[ApiKey], ApiKey]) -> Trip[ApiKey]:
        for _ in self._attempts():
            text, stamp = yield from self._read((self._keys, key_id), (self._stamps, f"k:{key_id}"))
            if text is None:
                raise UnknownKey(key_id)
            seat = json.loads(text)
            old = decode_key(seat["key"])
            new = change(old)
            had, has = ({secret.digest.hex() for secret in key.secrets} for key in (old, new))
            fresh = [(self._secrets, digest) for digest in sorted(has - had)]
            if fresh and any((yield from self._read(*fresh))):
                raise PlanConflict(key_id, "another API key has this secret")
            writes = [self._seat(new, seat["plans"]), self._stamp(key_id)]
            writes += [("HSET", hashes, digest, key_id) for hashes, digest in fresh]
            writes += [("HDEL", self._secrets, digest) for digest in sorted(had - has)]
            checks = [(self._stamps, f"k:{key_id}", stamp), *((hashes, digest, None) for hashes, digest in fresh)]
            if (yield from self._change(checks, writes)):
                return new
        raise AssertionError  # pragma: no cover -- attempts end by raising

    def _drop_key(self, key_id: str) -> Trip[None]:
        own = self._use("k", key_id)
        for _ in self._attempts():
            text, stamp = yield from self._read((self._keys, key_id), (self._stamps, f"k:{key_id}"))
            if text is None:
                raise UnknownKey(key_id)
            key = decode_key(json.loads(text)["key"])
            account_text, version = yield from self._read((self._accounts, key.account), (own, "v"))
            account = json.loads(account_text or _NOBODY)
            account["members"] -= 1
            joint = self._use("a", key.account)
            writes: list[tuple[Any, ...]] = [
                ("HDEL", self._keys, key_id), ("HDEL", self._stamps, f"k:{key_id}"),
                ("HSET", self._stamps, "**", str(new_number())),
                *(("HDEL", self._secrets, secret.digest.hex()) for secret in key.secrets),
            ]  # fmt: skip
            if not account["members"] and key.account == key_id:
                writes += [("HDEL", self._accounts, key.account), ("DEL", own), ("DEL", joint)]
            else:
                if not account["shared"] and version is not None:
                    account["shared"] = True
                    writes.append(("RENAME", own, joint))
                else:
                    writes.append(("DEL", own))
                writes.append(("HSET", self._accounts, key.account, to_json(account)))
            checks = [
                (self._stamps, f"k:{key_id}", stamp), (self._accounts, key.account, account_text), (own, "v", version),
            ]  # fmt: skip
            if (yield from self._change(checks, writes)):
                return

    def _get_key(self, key_id: str) -> Trip[ApiKey]:
        (text,) = yield from self._read((self._keys, key_id))
        if text is None:
            raise UnknownKey(key_id)
        return decode_key(json.loads(text)["key"])

    def _list_keys(self) -> Trip[list[ApiKey]]:
        keys = [decode_key(json.loads(text)["key"]) for text in (yield plain("HVALS", self._keys))]
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
            (plan_text,) = yield from self._read((self._plans, plan_id))
            if plan_text is None:
                raise UnknownPlan(plan_id)
            generation, plan = self._decode_plan(plan_text.encode())
            plans = dict(copy.entry.plans)
            if not on and (plan.api not in plans or plans[plan.api].id != plan_id):
                raise PlanConflict(plan_id, f"key {key_id} is not on this plan")
            rest = [kept.id for api, kept in plans.items() if api != plan.api]
            texts = (yield from self._read(*((self._plans, id_) for id_ in rest))) if rest else []
            pairs = [(id_, self._decode_plan(text.encode())[0]) for id_, text in zip(rest, texts, strict=True) if text]
            if on:
                pairs.append((plan_id, generation))
            stamp, plans_stamp = copy.stamps
            checks = [(self._stamps, f"k:{key_id}", stamp), (self._stamps, "*", plans_stamp or None)]
            if (yield from self._change(checks, [self._seat(copy.entry.key, pairs), self._stamp(key_id)])):
                return

    def _associate(self, key_id: str, plan_id: str) -> Trip[None]:
        return self._place(key_id, plan_id, on=True)

    def _dissociate(self, key_id: str, plan_id: str) -> Trip[None]:
        return self._place(key_id, plan_id, on=False)
