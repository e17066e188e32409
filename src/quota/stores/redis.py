"""Many machines, fast: Redis or Valkey, one script call per decision. Exact on one primary, not across failover.

Every key of a ledger begins with ``{namespace}``, one hash slot of a Cluster. ``stamps`` tells whether a copy of a
directory entry is fresh, ``secrets``, ``keys``, ``accounts`` and ``plans`` are the directory, ``use:`` the records,
``req:`` the remembered requests. A record is a hash: the encoded record, and beside it what plain charges move.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar

import attrs
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MaxConnectionsError,
    MovedError,
    NoScriptError,
    RedisError,
    ResponseError,
)
from redis.retry import Retry

from ..charge import Party, Terms
from ..clock import DAY_US, Clock, monotonic, system_clock
from ..errors import ClockSkew, InvalidValue, PlanConflict, StoreBusy, StoreUnavailable, UnknownKey, UnknownPlan, check_text
from ..key import ApiKey, decode_key, encode_key, new_number, new_token
from ..operations import perform
from ..plan import UsagePlan, decode_plan, encode_plan
from ..record import Record
from ..store import COMMON, Entry, Request, make_terms, split_url, whole_option
from ._redis_script import COMMIT, DECIDE, LOOK, READ, Script
from ._remote import Copies, Copy, Lane, open_lane, read_memo

P = ParamSpec("P")
T = TypeVar("T")

FORMAT = "1"
_STALE, _WAIT, _OPENED, _LOST = 0, -1, -2, -3
_PATIENT = 2
"""After how many attempts in vain a writer takes a turn."""

_NOTHING = "nothing was charged"
_UNKNOWN = "the outcome is unknown: retry with a request_id"


@attrs.frozen
class Call:
    """One command, packed: what comes after its name and script, and how many arguments it has in all."""

    script: Script | None
    tail: bytes
    count: int

    def packed(self, by_text: bool = False) -> bytes:  # noqa: FBT001, FBT002 -- which of two forms
        if self.script is None:
            return b"*%d\r\n%b" % (self.count, self.tail)
        head = self.script.by_text if by_text else self.script.by_hash
        return b"*%d\r\n%b%b" % (self.count + 2, head, self.tail)


Trip = Generator[Call, Any, T]


def _pack(arguments: Iterable[str | bytes]) -> bytes:
    packed = []
    for argument in arguments:
        data = argument if isinstance(argument, bytes) else argument.encode()
        packed.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(packed)


def _run(script: Script, keys: list[str], *arguments: str) -> Call:
    return Call(script, _pack([str(len(keys)), *keys, *arguments]), 1 + len(keys) + len(arguments))


def _plain(*arguments: str) -> Call:
    return Call(None, _pack(arguments), len(arguments))


def _json(data: object) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode()


class _Tag:
    """What a lane keeps for the wire: where its records are, its call up to the instant, arguments with the units."""

    __slots__ = ("count", "data", "head", "keys")

    def __init__(self, keys: list[str], data: str, units: int) -> None:
        self.keys = keys
        self.data = data
        self.head = _pack([str(len(keys)), *keys, data])
        self.count = 2 + len(keys) + 1 + units


class _Found:
    """Records as they were found: what a write must still find, and the party to decide on."""

    __slots__ = ("memo", "party", "states")

    def __init__(self, party: Party, states: list[State], memo: list[Any] | None) -> None:
        self.party = party
        self.states = states
        self.memo = memo


State = tuple[str | None, str | None, str | None]
"""(version, count of plain charges, whose turn it is to write) of a record as it was found."""


def _decode_record(flat: list[bytes]) -> tuple[Record, State]:
    """A record from its hash; a new one from nothing."""
    if not flat:
        return Record(new_number()), (None, None, None)
    state = {flat[i].decode(): flat[i + 1] for i in range(0, len(flat), 2)}
    data = json.loads(state["b"])
    data[0] = int(state["at"])
    for i, meter in enumerate(data[5]):
        meter[3:6] = int(state[f"t{i}"]), int(state[f"m{i}"]), int(state[f"h{i}"])
        for j, bucket in enumerate(meter[8]):
            bucket[3:5] = int(state[f"l{i}.{j}"]), int(state[f"a{i}.{j}"])
    return Record.decode(data), (state["v"].decode(), state["c"].decode(), _text(state.get("w")))


def _encode_record(record: Record, version: str) -> dict[str, str]:
    fields = {"v": version, "c": "0", "at": str(record.at), "n": str(len(record.meters)), "b": _json(record.encode())}
    for i, meter in enumerate(record.meters):
        fields |= {f"t{i}": str(meter.total), f"m{i}": str(meter.minute), f"h{i}": str(meter.hour)}
        for j, bucket in enumerate(meter.buckets):
            fields |= {f"l{i}.{j}": str(bucket.level), f"a{i}.{j}": str(bucket.at)}
    return fields


class _Core:
    """Everything but the waiting: each operation is a generator that yields calls and is sent their replies."""

    exact_across_failover = False

    def __init__(
        self, namespace: str, timeout: float, check_clock: bool | None, options: Mapping[str, Any]  # noqa: FBT001
    ) -> None:
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

    # -- decisions

    def _apply(self, request: Request) -> Trip[Any]:
        if not self._looked:
            yield from self._look_around()
        ref: Any = request.digest or request.key_id or ""
        copy = self._copies.get(ref)
        turn = ""
        for attempt in self._attempts():
            if copy is None:
                copy = yield from self._look(request.digest, request.key_id or "")
                if copy is None:
                    return perform(request, None, None, self.terms)
                self._copies.put(ref, copy)
            if attempt > _PATIENT and not turn:
                turn = str(new_number())
            done, result = yield from self._attempt(copy, request, turn)
            if done:
                return result
            if result == _STALE:
                self._copies.drop(ref)
                copy = None

    def _attempt(self, copy: Copy, request: Request, turn: str) -> Trip[tuple[bool, Any]]:
        """One trip, or two where the rule decides here: (True, the answer), or (False, why not)."""
        lane = copy.lanes.get((request.api, request.route)) if request.op == "consume" else None
        if lane is not None:
            takes = lane.course.cost if request.takes is None else request.takes
            amounts = lane.amounts(takes)
            if amounts is not None:
                id_ = None if request.request_id is None else new_token()
                reply = yield self._spend(lane, request, takes, amounts, id_)
                if type(reply) is bytes:
                    allowed, now, *found = map(int, reply.split())
                    return True, lane.conclude(bool(allowed), takes, now, found, id_ if allowed else None)
        if lane is None or amounts is None:
            reply = yield self._ask(copy, request, turn)
        if type(reply) is not int:
            return (yield from self._decide(copy, request, reply))
        if reply > 0:
            raise ClockSkew(request.now, reply)
        return False, reply

    def _record_keys(self, entry: Entry) -> list[str]:
        keys = [self._use("k", entry.key.id)]
        return [*keys, self._use("a", entry.key.account)] if entry.shared else keys

    def _memo_key(self, key: ApiKey, request: Request) -> str:
        return f"{self._prefix}req:{len(key.id)}:{key.id}:{request.request_id}"

    def _all_keys(self, entry: Entry, request: Request) -> list[str]:
        memo = [] if request.request_id is None else [self._memo_key(entry.key, request)]
        return [self._stamps, *self._record_keys(entry), *memo]

    @property
    def _memo_ms(self) -> str:
        return str((self.terms.request_ttl + self.terms.max_skew) // 1000 + 1)

    def _header(self, copy: Copy) -> dict[str, Any]:
        stamp, plans = copy.stamps
        header = {"f": f"k:{copy.entry.key.id}", "r": stamp, "p": plans, "n": 2 if copy.entry.shared else 1}
        return header | ({"s": max(self.terms.max_skew, 1)} if self.check_clock else {})

    def _ask(self, copy: Copy, request: Request, turn: str) -> Call:
        """Bring the records, for the rule to decide on."""
        keys = self._all_keys(copy.entry, request)
        header = self._header(copy)
        if request.op in ("peek", "usage"):
            header["o"] = True
        elif turn:
            header["t"] = turn
        return _run(DECIDE, keys, _json(header), str(request.now))

    def _spend(
        self, lane: Lane, request: Request, takes: Mapping[str, int], amounts: list[int], id_: str | None
    ) -> Call:
        """Have the server decide."""
        tag: _Tag = lane.tag
        rest = [str(request.now), *map(str, amounts)]
        if id_ is None:
            return Call(DECIDE, tag.head + _pack(rest), tag.count)
        memo = _json(lane.memo(request, takes, id_))
        return _run(DECIDE, [*tag.keys, self._memo_key(lane.key, request)], tag.data, *rest, memo, self._memo_ms)

    def _open(self, copy: Copy, request: Request, party: Party, versions: list[str | None]) -> Lane | None:
        """Open the lane of calls like this one, where it can serve."""
        if request.op != "consume":
            return None
        lane = open_lane(request, copy.entry, party) if all(versions) else None
        if lane is None:
            copy.lanes.pop((request.api, request.route), None)
            return None
        names: list[list[str]] = [[str(version), "v", "at", "c", "w"] for version in versions]
        meters, buckets = [], []
        for index, meter, unit, quiet, ceiling in lane.meters:
            names[index].append(f"t{meter}")
            meters.append([index + 1, len(names[index]) - 1, unit + 1, quiet, ceiling])
        for index, meter, bucket, unit, drain, scale, burst in lane.buckets:
            names[index] += [f"l{meter}.{bucket}", f"a{meter}.{bucket}"]
            place = len(names[index]) - 2
            buckets.append([index + 1, place, place + 1, unit + 1, drain, scale, burst])
        data = self._header(copy) | {"k": self.terms.max_skew, "u": lane.until, "v": names, "m": meters, "b": buckets}
        lane.tag = _Tag([self._stamps, *self._record_keys(copy.entry)], _json(data), len(lane.units))
        if len(copy.lanes) > 64:  # noqa: PLR2004 -- routes are the callers' words
            copy.lanes.clear()
        copy.lanes[request.api, request.route] = lane
        return lane

    def _decide(self, copy: Copy, request: Request, reply: list[Any]) -> Trip[tuple[bool, Any]]:
        """Decide on the records by the rule and write back, or open a lane for the next try."""
        found = self._decode(copy.entry, request, reply)
        old = copy.lanes.get((request.api, request.route))
        lane = self._open(copy, request, found.party, [version for version, _, _ in found.states])
        if lane is not None and found.memo is None and (old is None or old.tag.data != lane.tag.data):
            if lane.amounts(lane.course.cost if request.takes is None else request.takes) is not None:
                return False, _OPENED
        result = perform(request, copy.entry, found.party, self.terms)
        if not found.party.changed:
            return True, result
        fresh = [str(new_number()) for _ in found.states]
        done = yield self._write(copy, request, found, fresh)
        if done != 1:
            return False, _LOST
        self._open(copy, request, found.party, list(fresh))
        return True, result

    def _decode(self, entry: Entry, request: Request, reply: list[Any]) -> _Found:
        decoded = [_decode_record(flat) for flat in reply[: 2 if entry.shared else 1]]
        key = decoded[0][0]
        party = Party(key, decoded[1][0] if entry.shared else None, owned=True)
        memo = None
        if request.request_id is not None and reply[-1]:
            answer, _, rest = reply[-1].rpartition(b"\n")
            memo = json.loads(rest)
            if answer:
                _, now, *found = map(int, answer.split())
                memo = read_memo(now, found, memo, self.terms)
            if memo[-1][0] == key.token:
                key.requests = {request.request_id: memo}
        return _Found(party, [state for _, state in decoded], memo)

    def _write(self, copy: Copy, request: Request, found: _Found, versions: list[str]) -> Call:
        keys = self._all_keys(copy.entry, request)
        stamp, plans = copy.stamps
        checks: list[list[Any]] = [[1, f"k:{copy.entry.key.id}", stamp], [1, "*", plans or False]]
        writes: list[list[Any]] = []
        for index, record in enumerate(found.party.records()):
            for field, value in zip("vcw", found.states[index], strict=True):
                checks.append([index + 2, field, value or False])
            memo = (record.requests or {}).get(request.request_id or "")
            if index == 0 and memo is not None and memo != found.memo:
                writes.append(["SET", len(keys), _json(memo), "PX", self._memo_ms])
            record.requests = None
            fields = [part for pair in _encode_record(record, versions[index]).items() for part in pair]
            if found.states[index][0] is not None:
                writes.append(["DEL", index + 2])
            writes += [["HSET", index + 2, *fields[i : i + 1000]] for i in range(0, len(fields), 1000)]
            writes.append(["PEXPIRE", index + 2, str(self._lifetime_ms(record))])
        return _run(COMMIT, keys, _json([checks, writes]))

    def _lifetime_ms(self, record: Record) -> int:
        """How long a record matters from now on, were it charged until its day ends: relative, and never short."""
        dead_at, _ = record.dead_after(self.terms.retention)
        life = max(dead_at - record.at, self.terms.request_ttl) + DAY_US + 2 * self.terms.max_skew
        return life // 1000 + 1

    # -- the directory

    def _look_around(self) -> Trip[None]:
        """Once per store: whether the server may throw live counts away."""
        self._looked = True
        try:
            reply = yield _plain("INFO", "memory")
        except StoreUnavailable:
            self._looked = False
            raise
        except ResponseError:
            return
        lines = dict(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)
        policy = lines.get("maxmemory_policy", "noeviction")
        if policy != "noeviction" and lines.get("maxmemory", "0") != "0":
            warnings.warn(
                f"the server evicts keys when memory is full (maxmemory-policy {policy}): live windows may be "
                "lost and units granted twice; set it to noeviction", RuntimeWarning, stacklevel=4,
            )  # fmt: skip

    def _look(self, digest: bytes | None, key_id: str) -> Trip[Copy | None]:
        keys = [self._stamps, self._secrets, self._keys, self._accounts, self._plans]
        reply = yield _run(LOOK, keys, digest.hex() if digest else "", key_id)
        if reply == 0:
            return None
        stamp, plans_stamp, version, seat_text, account_text, *plan_texts = reply
        if version is not None and version.decode() != FORMAT:
            raise StoreUnavailable(f"{self._prefix} is written in format {version.decode()}, this reads {FORMAT}; {_NOTHING}")
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
            if len(self._decoded) > 1000:  # noqa: PLR2004 -- plans long replaced
                self._decoded.clear()
            found = self._decoded[text] = data["generation"], decode_plan(data["plan"])
        return found

    def _read(self, *places: tuple[str, str]) -> Trip[list[str | None]]:
        """Fields of hashes as they stand together."""
        keys = list(dict.fromkeys(key for key, _ in places))
        arguments = [part for key, field in places for part in (str(keys.index(key) + 1), field)]
        reply = yield _run(READ, keys, *arguments)
        return [_text(value) for value in reply]

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
        reply = yield _run(COMMIT, keys, _json([wanted, encoded]))
        return bool(reply == 1)

    def _attempts(self) -> Generator[int, None, None]:
        """One attempt after another until the timeout."""
        deadline = monotonic() + self.timeout
        attempt = 0
        while attempt < 2 or monotonic() <= deadline:  # noqa: PLR2004 -- the first, and the one it taught
            yield attempt
            attempt += 1
        raise StoreBusy(f"{self._prefix} was contended for {self.timeout} s; nothing was changed")

    def _put_plan(self, plan: UsagePlan, replace: bool) -> Trip[None]:  # noqa: FBT001 -- the protocol's
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
            new = _json({"generation": generation, "plan": encode_plan(plan)})
            if (yield from self._change(checks, [
                ("HSET", self._plans, plan.id, new), ("HSET", self._stamps, "*", str(new_number())),
            ])):  # fmt: skip
                return

    def _check_move(self, plan: UsagePlan, generation: str) -> Trip[None]:
        """A plan that changes its api takes its keys along, unless one of them has another plan there."""
        seats = [json.loads(text) for text in (yield _plain("HVALS", self._keys))]
        there = {}
        for text in (yield _plain("HVALS", self._plans)):
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
        plans = [self._decode_plan(text)[1] for text in (yield _plain("HVALS", self._plans))]
        return sorted(plans, key=lambda plan: plan.id)

    def _seat(self, key: ApiKey, plans: Iterable[Iterable[str]]) -> tuple[Any, ...]:
        return "HSET", self._keys, key.id, _json({"key": encode_key(key), "plans": [list(pair) for pair in plans]})

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
            account = json.loads(account_text) if account_text else {"members": 0, "shared": False, "sole": ""}
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
            writes.append(("HSET", self._accounts, key.account, _json(account)))
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
            account = json.loads(account_text or '{"members": 1, "shared": false, "sole": ""}')
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
                writes.append(("HSET", self._accounts, key.account, _json(account)))
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
        keys = [decode_key(json.loads(text)["key"]) for text in (yield _plain("HVALS", self._keys))]
        return sorted(keys, key=lambda key: key.id)

    def _known(self, key_id: str) -> Trip[Copy]:
        copy = yield from self._look(None, key_id)
        if copy is None:
            raise UnknownKey(key_id)
        return copy

    def _plans_of(self, key_id: str) -> Trip[list[UsagePlan]]:
        plans = (yield from self._known(key_id)).entry.plans
        return [plans[api] for api in sorted(plans)]

    def _place(self, key_id: str, plan_id: str, on: bool) -> Trip[None]:  # noqa: FBT001 -- on or off
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


def _failure(error: BaseException, sent: bool) -> Exception:  # noqa: FBT001 -- how far it got
    """What an engine's error means for the caller, and whether anything may have happened."""
    if isinstance(error, MaxConnectionsError):
        return StoreBusy(f"no connection to the server is free; {_NOTHING}")
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, (ResponseError, ClusterDownError)) or not sent:
        return StoreUnavailable(f"{text}; {_NOTHING}")
    return StoreUnavailable(f"{text}; {_UNKNOWN}")


def _sync(steps: Callable[Concatenate[Any, P], Trip[T]]) -> Callable[Concatenate[RedisStore, P], T]:
    def method(self: RedisStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        trip = steps(self, *args, **kwargs)
        try:
            call = next(trip)
            while True:
                try:
                    reply = self._send(call)
                except (StoreBusy, StoreUnavailable, ResponseError) as error:
                    call = trip.throw(error)
                else:
                    call = trip.send(reply)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return] # what the generator returns
        except ResponseError as error:
            raise _failure(error, sent=True) from error

    return method


def _async(steps: Callable[Concatenate[Any, P], Trip[T]]) -> Callable[Concatenate[AsyncRedisStore, P], Coroutine[Any, Any, T]]:
    async def method(self: AsyncRedisStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        trip = steps(self, *args, **kwargs)
        try:
            call = next(trip)
            while True:
                try:
                    reply = await self._send(call)
                except (StoreBusy, StoreUnavailable, ResponseError) as error:
                    call = trip.throw(error)
                else:
                    call = trip.send(reply)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return] # what the generator returns
        except ResponseError as error:
            raise _failure(error, sent=True) from error

    return method


def _driver_options(timeout: float, retry: Any) -> dict[str, Any]:
    # A driver that sends a script again after a lost reply would charge twice.
    return {"retry": retry, "socket_timeout": timeout, "socket_connect_timeout": timeout}


class RedisStore(_Core):
    """A ledger on Redis (7 or later) or Valkey, shared by any number of processes and machines.

    ``client``: your own ``redis.Redis`` or ``redis.RedisCluster``; its pool is used, its retries are not, since a
    charge sent again would count twice. Or ``url``. ``namespace``: begins every key, so that ledgers share a server.
    ``timeout``: seconds that a call waits for the server (with a client of yours: its own socket timeout) and for its
    turn under contention. ``check_clock``: whether to compare each call's instant with the server's, within
    ``max_skew``; by default when the ledger reads the system's clock. Further options as in every store.

    Exact on one primary. A failover may lose the last charges that the replica had not seen.
    """

    def __init__(
        self,
        client: Any = None,
        *,
        url: str | None = None,
        namespace: str = "quota",
        timeout: float = 5.0,
        check_clock: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(namespace, timeout, check_clock, options)
        self._owned = client is None
        if client is None:
            retry = Retry(NoBackoff(), 0)
            client = redis.Redis.from_url(url or "redis://localhost", **_driver_options(timeout, retry))
        self.client = client

    def _pool(self) -> Any:
        nodes = getattr(self.client, "get_node_from_key", None)
        if nodes is None:
            return self.client.connection_pool
        node = nodes(self._stamps)
        return (node.redis_connection or self.client.get_redis_connection(node)).connection_pool

    def _send(self, call: Call) -> Any:
        for last in (False, True):
            try:
                return self._exchange(call, by_text=False)
            except NoScriptError:
                return self._exchange(call, by_text=True)
            except (MovedError, AskError):
                if last or not hasattr(self.client, "nodes_manager"):
                    raise
                self.client.nodes_manager.initialize()
        raise AssertionError  # pragma: no cover -- the second turn returns or raises

    def _exchange(self, call: Call, *, by_text: bool) -> Any:
        sent = False
        try:
            pool = self._pool()
            connection = pool.get_connection()
            try:
                sent = True
                connection.send_packed_command([call.packed(by_text)])
                return connection.read_response(disable_decoding=True)
            except ResponseError:
                raise
            except BaseException:
                connection.disconnect()
                raise
            finally:
                pool.release(connection)
        except ResponseError:
            raise
        except (RedisError, OSError) as error:
            raise _failure(error, sent) from error

    apply = _sync(_Core._apply)
    put_plan = _sync(_Core._put_plan)
    drop_plan = _sync(_Core._drop_plan)
    get_plan = _sync(_Core._get_plan)
    list_plans = _sync(_Core._list_plans)
    add_key = _sync(_Core._add_key)
    change_key = _sync(_Core._change_key)
    drop_key = _sync(_Core._drop_key)
    get_key = _sync(_Core._get_key)
    list_keys = _sync(_Core._list_keys)
    plans_of = _sync(_Core._plans_of)
    associate = _sync(_Core._associate)
    dissociate = _sync(_Core._dissociate)

    def close(self) -> None:
        """Close the connections that this store opened; a client of yours stays open."""
        if self._owned:
            self.client.close()


class AsyncRedisStore(_Core):
    """``RedisStore`` over ``redis.asyncio``, for ``AsyncLedger``: the same steps, awaited; no threads."""

    def __init__(
        self,
        client: Any = None,
        *,
        url: str | None = None,
        namespace: str = "quota",
        timeout: float = 5.0,
        check_clock: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(namespace, timeout, check_clock, options)
        self._owned = client is None
        if client is None:
            retry = redis.asyncio.retry.Retry(NoBackoff(), 0)
            client = redis.asyncio.Redis.from_url(url or "redis://localhost", **_driver_options(timeout, retry))
        self.client = client

    async def _send(self, call: Call) -> Any:
        try:
            return await self._exchange(call, by_text=False)
        except NoScriptError:
            return await self._exchange(call, by_text=True)

    async def _exchange(self, call: Call, *, by_text: bool) -> Any:
        sent = False
        try:
            pool = self.client.connection_pool
            connection = await pool.get_connection()
            try:
                sent = True
                await connection.send_packed_command([call.packed(by_text)])
                return await connection.read_response(disable_decoding=True)
            except ResponseError:
                raise
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
            finally:
                await pool.release(connection)
        except ResponseError:
            raise
        except (RedisError, OSError) as error:
            raise _failure(error, sent) from error

    apply = _async(_Core._apply)
    put_plan = _async(_Core._put_plan)
    drop_plan = _async(_Core._drop_plan)
    get_plan = _async(_Core._get_plan)
    list_plans = _async(_Core._list_plans)
    add_key = _async(_Core._add_key)
    change_key = _async(_Core._change_key)
    drop_key = _async(_Core._drop_key)
    get_key = _async(_Core._get_key)
    list_keys = _async(_Core._list_keys)
    plans_of = _async(_Core._plans_of)
    associate = _async(_Core._associate)
    dissociate = _async(_Core._dissociate)

    async def close(self) -> None:
        """Close the connections that this store opened; a client of yours stays open."""
        if self._owned:
            await self.client.aclose()


def open_url(url: str, *, asynchronous: bool = False) -> RedisStore | AsyncRedisStore:
    """``redis://host:6379/0?namespace=quota&timeout=5&max_skew=300``; ``rediss`` and ``unix`` as redis-py has them.

    The store takes ``namespace``, ``timeout``, ``check_clock`` and the options of every store; the rest is redis-py's.
    """
    parts, options = split_url(url)
    own: dict[str, Any] = {name: whole_option(options, name) for name in ("timeout", *COMMON) if name in options}
    if "namespace" in options:
        own["namespace"] = options.pop("namespace")
    if "check_clock" in options:
        own["check_clock"] = _boolean(options.pop("check_clock"))
    rest = parts._replace(query="&".join(f"{name}={value}" for name, value in options.items())).geturl()
    return (AsyncRedisStore if asynchronous else RedisStore)(url=rest, **own)


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise InvalidValue("check_clock", text, "true or false in the store's URL")
    return text == "true"
