"""The Redis store's calls: the directory in hashes, records and remembered requests beside it, all in one hash slot."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Container, Mapping, Sequence
from typing import Any

import attrs
from redis.exceptions import ResponseError

from ...errors import InvalidValue, StoreUnavailable, check_text
from ...event import Event
from ...key import KeyOrCaller
from ...operations.headroom import SeveralMeters
from ...operations.idempotency import remembered
from ...operations.request import LOOKS, Entry, Request
from ...rule.record import Record
from ...rule.subject import Subject
from ..remembered import encode_remembered, remembered_of
from ..server.adding import ALL
from ..server.cache import CachedKey
from ..server.changes import (
    Above,
    KeyLookup,
    Mutation,
    Place,
    Precondition,
)
from ..server.flow import NOTHING, Flow
from ..server.replies import Version
from ..server.requests import Decisions, Loaded, dead_by, new_record, refs, subject_of
from ..texts import decode_event, to_json
from .scripts import COMMIT, DECIDE, LOOK, PAGE, READ, RECORDS, RELEASE
from .wire import Call, command, encoded, pack, run

FORMAT = "4"
"""Of everything that is stored; another one is refused rather than misread."""

_REMOVALS, _OF_RECORDS = ("ZREM", "HDEL", "DEL", "XDEL", "RENAME"), {"use": "v", "at": "at"}


@attrs.frozen
class _Tag:
    """All that a lane keeps for the wire: where its records are, its call up to the instant, arguments with units."""

    keys: tuple[str, ...]
    data: str
    head: bytes
    count: int


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode()


def _state(flat: Sequence[bytes]) -> dict[str, bytes]:
    """Read the fields of a record."""
    return {flat[i].decode(): flat[i + 1] for i in range(0, len(flat), 2)}


def _decode_record(state: dict[str, bytes]) -> Record:
    """A record from its hash; a new one from nothing."""
    if not state:
        return new_record()
    data = json.loads(state["b"])
    data[0], data[3] = int(state["at"]), 0  # it is noted beside the key's stamp, and here where it is to be
    for i, meter in enumerate(data[5]):
        meter[3:6] = int(state[f"t{i}"]), int(state[f"m{i}"]), int(state[f"h{i}"])
        for j, bucket in enumerate(meter[8]):
            bucket[3:5] = int(state[f"l{i}.{j}"]), int(state[f"a{i}.{j}"])
    return Record.decode(data)


def _encode_record(record: Record, version: int) -> dict[str, str]:
    fields = {
        "v": str(version), "c": "0", "at": str(record.at), "n": str(len(record.meters)), "b": to_json(record.encode()),
    }  # fmt: skip
    for i, meter in enumerate(record.meters):
        fields |= {f"t{i}": str(meter.total), f"m{i}": str(meter.minute), f"h{i}": str(meter.hour)}
        for j, bucket in enumerate(meter.buckets):
            fields |= {f"l{i}.{j}": str(bucket.level), f"a{i}.{j}": str(bucket.at)}
    return fields


def _in_parts(command: str, key: int, arguments: list[str]) -> list[list[Any]]:
    """A command of many arguments, in parts that Lua's stack has room for."""
    return [[command, key, *arguments[i : i + 1000]] for i in range(0, len(arguments), 1000)]


class RedisSteps(Decisions):
    """All that both Redis stores do, as steps that yield calls."""

    exact_across_failover = False

    def __init__(self, namespace: str, timeout: float, check_clock: bool | None, options: Mapping[str, Any]) -> None:
        check_text("namespace", namespace, longest=128)
        if "{" in namespace or "}" in namespace:
            raise InvalidValue("namespace", namespace, "text without braces, which mark the hash tag")
        super().__init__(namespace, timeout, check_clock, options)
        self._prefix = f"{{{namespace}}}:"
        self._stamps = self._prefix + "stamps"
        self._outbox = self._prefix + "events"

    def _look_around(self) -> Flow[None]:
        """Once per store: whether the server may throw live counts away."""
        self._looked = True
        try:
            reply = yield command("INFO", "memory")
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

    def _at(self, part: str, name: str) -> tuple[str, str]:
        """A place as a key and a field."""
        if part == "last_used":
            return self._stamps, f"lk:{name}"  # beside the key's stamp, which every call reads
        return (f"{self._prefix}use:{name}", _OF_RECORDS[part]) if part in _OF_RECORDS else (self._prefix + part, name)

    def _look_up(self, digest: bytes | None, key_id: str, above: Above = None) -> Flow[KeyLookup | None]:
        keys = [self._prefix + part for part in ("stamps", "secrets", "keys", "accounts", "plans")]
        named = () if above is None else (str(len(above)), *above)
        reply = yield run(LOOK, keys, digest.hex() if digest else "", key_id, *named)
        if reply == 0:
            return None
        stamp, plans_stamp, version, key_entry_text, account_texts, plan_texts = reply
        if version is not None and version.decode() != FORMAT:
            written = f"{self._prefix} is written in format {version.decode()}"
            raise StoreUnavailable(f"{written}, this version of quota reads {FORMAT}; {NOTHING}", reached=True)
        texts = [_text(text) for text in plan_texts]
        stamps = stamp.decode(), plans_stamp.decode()
        return KeyLookup(*stamps, key_entry_text.decode(), [text.decode() for text in account_texts], texts)

    def _read(self, *places: Place) -> Flow[list[str | None]]:
        fields = [self._at(*place) for place in places]
        keys = list(dict.fromkeys(key for key, _ in fields))
        arguments = [part for key, field in fields for part in (str(keys.index(key) + 1), field)]
        reply = yield run(READ, keys, *arguments)
        return [_text(value) for value in reply]

    def _values(self, part: str) -> Flow[list[str]]:
        return [text.decode() for text in (yield command("HVALS", self._prefix + part))]

    def _list(self, name: str, after: str, most: int | None, part: str = "keys") -> Flow[list[str]]:
        keys = [f"{self._prefix}lists", f"{self._prefix}{part}"]
        reply = yield run(PAGE, keys, f"({name}\n{after}", f"({name}\v", str(-1 if most is None else most))
        return [text.decode() for text in reply]

    def _events(self, after: int, limit: int) -> Flow[list[Event]]:
        found = yield command("XRANGE", self._outbox, f"(0-{after}", "+", "COUNT", str(limit))
        return [decode_event(int(id_.partition(b"-")[2]), fields[7]) for id_, fields in found]

    def _page(self, after: tuple[str, str], most: int, by_account: bool) -> Flow[list[tuple[str, str, Any]]]:
        name, last = (f"a\n{after[0]}", "(a\v") if by_account else (ALL, f"({ALL}\v")
        lists, first = f"{self._prefix}lists", f"[{name}\n{after[1]}"
        entries = yield command("ZRANGEBYLEX", lists, first, last, "LIMIT", "0", str(most))
        if not entries:
            return []
        places = [entry.decode().split("\n") for entry in entries]
        states = yield from self._records([f"k:{place[-1]}" for place in places])
        return [(place[1], place[-1], state) for place, state in zip(places, states, strict=True)]

    def _entries(self, name: str, after: str, before: str | None, most: int | None) -> Flow[list[str]]:
        last = f"({name}\v" if before is None else f"({name}\n{before}"
        where = f"{self._prefix}lists", f"({name}\n{after}", last, "LIMIT", "0", str(-1 if most is None else most)
        return [entry.decode().partition("\n")[2] for entry in (yield command("ZRANGEBYLEX", *where))]

    def _records(self, names: Sequence[str]) -> Flow[list[Any]]:
        states: list[Any] = yield run(RECORDS, [f"{self._prefix}use:{name}" for name in names])
        return states

    def _forget_requests(self, ids: Container[str]) -> Flow[None]:
        begin, cursor = f"{self._prefix}req:", ""
        pattern = re.sub(r"[*?^\[\]\\]", r"\\\g<0>", begin) + "*"
        while cursor != "0":
            position, names = yield command("SCAN", cursor or "0", "MATCH", pattern, "COUNT", "1000")
            cursor = position.decode()
            parts = [(name, name[len(begin) :].partition(":")) for name in map(bytes.decode, names)]
            found = [name for name, (length, _, rest) in parts if rest[: int(length)] in ids]
            if found:
                yield command("DEL", *found)

    def _own_record(self, row: Any) -> Record | None:
        return _decode_record(_state(row)) if row else None

    def _change(self, checks: list[Precondition], writes: Sequence[Mutation]) -> Flow[bool]:
        keys: dict[str, int] = {}

        def place(key: str) -> int:
            return keys.setdefault(key, len(keys) + 1)

        wanted: list[list[Any]] = []
        for part, name, value in checks:
            key, field = self._at(part, name)
            wanted.append([place(key), field, False if value is None else value])
        steps = [encoded(write, self._at, place) for write in writes]
        steps.append(["HSETNX", place(self._stamps), "#", FORMAT])
        steps.sort(key=lambda step: step[0] in _REMOVALS)
        reply = yield run(COMMIT, list(keys), to_json([wanted, steps]))
        return bool(reply == 1)

    def _record_keys(self, entry: Entry) -> list[str]:
        return [f"{self._prefix}use:{ref}" for ref in refs(entry)]

    def _remembered_key(self, key: KeyOrCaller, request: Request) -> str:
        return f"{self._prefix}req:{len(key.id)}:{key.id}:{request.request_id}"

    def _all_keys(self, entry: Entry, request: Request) -> list[str]:
        earlier = [] if request.request_id is None else [self._remembered_key(entry.key, request)]
        return [self._stamps, *self._record_keys(entry), *earlier]

    @property
    def _remembered_ms(self) -> str:
        return str((self.options.request_ttl + self.options.max_skew) // 1000 + 1)

    def _header(self, copy: CachedKey) -> dict[str, Any]:
        stamp, plans = copy.stamps
        header = {"f": copy.stamp_name, "r": stamp, "p": plans, "n": len(refs(copy.entry))}
        return header | ({"s": max(self.options.max_skew, 1)} if self.check_clock else {})

    def _ask(self, copy: CachedKey, request: Request, turn: int) -> Call:
        """Bring the records, for the rule to decide on."""
        keys = self._all_keys(copy.entry, request)
        header = self._header(copy)
        if request.op in LOOKS:
            header["o"] = True
        elif turn:
            header["t"] = str(turn)
        return run(DECIDE, keys, to_json(header), str(request.now))

    def _release(self, copy: CachedKey, turn: int) -> Call:
        return run(RELEASE, self._record_keys(copy.entry), str(turn))

    def _spend(
        self, lane: SeveralMeters, request: Request, takes: Mapping[str, int], amounts: list[int], id_: str | None
    ) -> Call:
        """Have the server decide."""
        tag: _Tag = lane.tag
        rest = [str(request.now), *map(str, amounts)]
        if id_ is None:
            return Call(DECIDE, tag.head + pack(rest), tag.count)
        earlier = to_json(remembered_of(lane, request, takes, id_))
        return run(
            DECIDE, [*tag.keys, self._remembered_key(lane.key, request)], tag.data, *rest, earlier, self._remembered_ms
        )

    def _tag(self, copy: CachedKey, lane: SeveralMeters, subject: Subject, versions: Sequence[Any]) -> _Tag:  # noqa: ARG002
        names: list[list[str]] = [[str(version), "v", "at", "c", "w"] for version in versions]
        meters, buckets = [], []
        for index, meter, unit, soft, hard in lane.cells:
            names[index].append(f"t{meter}")
            meters.append([index + 1, len(names[index]) - 1, unit + 1, soft, hard])
        for index, meter, bucket, unit, drain, scale, burst in lane.pours:
            names[index] += [f"l{meter}.{bucket}", f"a{meter}.{bucket}"]
            place = len(names[index]) - 2
            buckets.append([index + 1, place, place + 1, unit + 1, drain, scale, burst])
        header = self._header(copy)
        data = to_json(header | {"k": self.options.max_skew, "u": lane.end, "v": names, "m": meters, "b": buckets})
        keys = [self._stamps, *self._record_keys(copy.entry)]
        head = pack([str(len(keys)), *keys, data])
        return _Tag(tuple(keys), data, head, 2 + len(keys) + 1 + len(lane.shape.units))

    def _decode(self, entry: Entry, request: Request, reply: Sequence[Any]) -> Loaded:
        records: list[Record] = []
        states: list[dict[str, bytes]] = []
        *reply, server_now = reply
        for ref, flat in zip(refs(entry), reply, strict=False):
            state = _state(flat)
            try:
                record = _decode_record(state)
            except (ArithmeticError, LookupError, TypeError, ValueError) as error:
                if request.op != "forget":
                    damaged = f"the record {self._prefix}use:{ref} is damaged ({type(error).__name__}: {error})"
                    raise StoreUnavailable(
                        f"{damaged}; forget() starts the key's counts anew; {NOTHING}", reached=True
                    ) from error
                record = new_record()
            records.append(record)
            states.append(state)
        versions = [Version(*(_text(state.get(name)) for name in "vcw")) for state in states]
        subject = subject_of(entry, records)
        subject.server_now = int(server_now) if self._lapse_here else None
        found = Loaded(subject, versions)
        found.fields = [set(state) for state in states]
        if request.request_id is not None and reply[-1]:
            answer, _, rest = reply[-1].rpartition(b"\n")
            self._recall(found, request, answer.decode(), json.loads(rest))
        return found

    def _write(self, copy: CachedKey, request: Request, found: Loaded, versions: list[int]) -> Call:
        keys = self._all_keys(copy.entry, request)
        stamp, plans = copy.stamps
        checks: list[list[Any]] = [[1, copy.stamp_name, stamp], [1, "*", plans or False]]
        puts: list[list[Any]] = []
        rest: list[list[Any]] = []
        for index, record in enumerate(found.subject.records()):
            for field, value in zip("vcw", found.versions[index], strict=True):
                checks.append([index + 2, field, value or False])
            earlier = remembered(found.subject, request)
            if index == 0 and earlier is not None and earlier is not found.remembered:
                rest.append(["SET", len(keys), to_json(encode_remembered(earlier)), "PX", self._remembered_ms])
            fields = _encode_record(record, versions[index])
            puts += _in_parts("HSET", index + 2, [part for pair in fields.items() for part in pair])
            rest.append(["PEXPIRE", index + 2, str(self._lifetime_ms(copy.entry, record))])
            rest += _in_parts("HDEL", index + 2, sorted(found.fields[index].difference(fields)))
        if found.subject.key.last_used and copy.stamp_name != "*":
            rest.append(["HSET", 1, f"l{copy.stamp_name}", str(found.subject.key.last_used)])
        if found.subject.told:
            keys.append(self._outbox)
            puts += [encoded(one, self._at, lambda _: len(keys)) for one in self._told(found.subject.told)]
        return run(COMMIT, keys, to_json([checks, puts + rest]))

    def _lifetime_ms(self, entry: Entry, record: Record) -> int:
        """Return how long a record matters from now on: relative, and never short."""
        life = dead_by(entry, record, self.options) - record.at + 2 * self.options.max_skew
        return life // 1000 + 1
