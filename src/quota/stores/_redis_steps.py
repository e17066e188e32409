"""The Redis store's decisions: one script call on a fresh lane, else the rule on the records and a checked write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ..charge import Party
from ..clock import DAY_US
from ..errors import ClockSkew, StoreBusy, StoreUnavailable
from ..key import ApiKey, new_number, new_token
from ..operations import perform
from ..record import Record
from ..store import Entry, Request
from ._redis_directory import Directory
from ._redis_script import COMMIT, DECIDE, LEAVE
from ._redis_wire import Call, InLine, Pause, Trip, pack, run, to_json, to_text
from ._remote import Copy, Lane, open_lane, read_memo

_STALE, _WAIT, _OPENED, _LOST = 0, -1, -2, -3
_PLAIN = ("consume", "peek", "usage")
"""What the server may decide by itself, or what changes nothing."""
_SHORTEST, _LONGEST = 0.000_5, 0.008
"""Seconds between looks at whether another writer's turn is over."""


class _Tag:
    """What a lane keeps for the wire: where its records are, its call up to the instant, arguments with the units."""

    __slots__ = ("count", "data", "head", "keys")

    def __init__(self, keys: list[str], data: str, units: int) -> None:
        self.keys = keys
        self.data = data
        self.head = pack([str(len(keys)), *keys, data])
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
    return Record.decode(data), (state["v"].decode(), state["c"].decode(), to_text(state.get("w")))


def _encode_record(record: Record, version: str) -> dict[str, str]:
    fields = {"v": version, "c": "0", "at": str(record.at), "n": str(len(record.meters)), "b": to_json(record.encode())}
    for i, meter in enumerate(record.meters):
        fields |= {f"t{i}": str(meter.total), f"m{i}": str(meter.minute), f"h{i}": str(meter.hour)}
        for j, bucket in enumerate(meter.buckets):
            fields |= {f"l{i}.{j}": str(bucket.level), f"a{i}.{j}": str(bucket.at)}
    return fields


class _Way:
    """How one call gets past others: whether it stands in line in its process, whose turn it is, how long it pauses."""

    __slots__ = ("in_line", "patience", "turn")

    def __init__(self) -> None:
        self.in_line = False
        self.patience = _SHORTEST
        self.turn = ""


class Decisions(Directory):
    """Requests on records."""

    def _apply(self, request: Request) -> Trip[Any]:
        if not self._looked:
            yield from self._look_around()
        ref: Any = request.digest or request.key_id or ""
        copy = self._copies.get(ref)
        way = _Way()
        for _ in self._attempts():
            if copy is None:
                copy = yield from self._look(request.digest, request.key_id or "")
                if copy is None:
                    return perform(request, None, None, self.terms)
                self._copies.put(ref, copy)
            if not way.in_line and (way.turn or request.op not in _PLAIN):
                yield InLine(self._use("a", copy.entry.key.account), self.timeout)
                way.in_line = True
            done, result = yield from self._attempt(copy, request, way.turn)
            if done:
                return result
            if result == _STALE:
                self._copies.drop(ref)
                copy = None
            elif result == _WAIT:
                yield Pause(way.patience)
                way.patience = min(2 * way.patience, _LONGEST)
            elif result == _LOST:
                way.turn = way.turn or str(new_number())

    def _attempt(self, copy: Copy, request: Request, turn: str) -> Trip[tuple[bool, Any]]:
        """One trip, or two where the rule decides here: (True, the answer), or (False, why not)."""
        lane = None if turn else copy.lane(request)
        amounts = None
        if lane is not None:
            takes = lane.course.cost if request.takes is None else request.takes
            amounts = lane.amounts(takes)
            if amounts is not None:
                id_ = None if request.request_id is None else new_token()
                reply = yield self._spend(lane, request, takes, amounts, id_)
                if type(reply) is bytes:
                    allowed, now, *found = map(int, reply.split())
                    return True, lane.conclude(bool(allowed), takes, now, found, id_ if allowed else None)
        if amounts is None:
            reply = yield self._ask(copy, request, turn)
        if type(reply) is not int:
            return (yield from self._decide(copy, request, reply, turn))
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
        return run(DECIDE, keys, to_json(header), str(request.now))

    def _spend(
        self, lane: Lane, request: Request, takes: Mapping[str, int], amounts: list[int], id_: str | None
    ) -> Call:
        """Have the server decide."""
        tag: _Tag = lane.tag
        rest = [str(request.now), *map(str, amounts)]
        if id_ is None:
            return Call(DECIDE, tag.head + pack(rest), tag.count)
        memo = to_json(lane.memo(request, takes, id_))
        return run(DECIDE, [*tag.keys, self._memo_key(lane.key, request)], tag.data, *rest, memo, self._memo_ms)

    def _open(self, copy: Copy, request: Request, party: Party, versions: list[str | None]) -> Lane | None:
        """Open the lane of calls like this one, where it can serve."""
        if request.op != "consume":
            return None
        lane = open_lane(request, copy.entry, party) if all(versions) else None
        if lane is None:
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
        lane.tag = _Tag([self._stamps, *self._record_keys(copy.entry)], to_json(data), len(lane.units))
        copy.lanes[lane.course] = lane
        return lane

    def _decide(self, copy: Copy, request: Request, reply: list[Any], turn: str) -> Trip[tuple[bool, Any]]:
        """Decide on the records by the rule and write back, or open a lane for the next try."""
        found = self._decode(copy.entry, request, reply)
        old = copy.lane(request)
        lane = None if turn else self._open(copy, request, found.party, [version for version, _, _ in found.states])
        if lane is not None and found.memo is None and (old is None or old.tag.data != lane.tag.data):  # noqa: SIM102
            if lane.amounts(lane.course.cost if request.takes is None else request.takes) is not None:
                return False, _OPENED
        try:
            result = perform(request, copy.entry, found.party, self.terms)
        finally:
            if turn and not found.party.changed:
                with suppress(StoreBusy, StoreUnavailable):  # it ends by itself then
                    yield self._leave(copy, turn)
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
        # First what needs memory: a server that has none left refuses it, and then nothing was done.
        writes: list[list[Any]] = [["HSET", 2, "v", versions[0]]]
        for index, record in enumerate(found.party.records()):
            for field, value in zip("vcw", found.states[index], strict=True):
                checks.append([index + 2, field, value or False])
            memo = (record.requests or {}).get(request.request_id or "")
            if index == 0 and memo is not None and memo != found.memo:
                writes.append(["SET", len(keys), to_json(memo), "PX", self._memo_ms])
            record.requests = None
            fields = [part for pair in _encode_record(record, versions[index]).items() for part in pair]
            writes.append(["DEL", index + 2])
            writes += [["HSET", index + 2, *fields[i : i + 1000]] for i in range(0, len(fields), 1000)]
            writes.append(["PEXPIRE", index + 2, str(self._lifetime_ms(record))])
        return run(COMMIT, keys, to_json([checks, writes]))

    def _leave(self, copy: Copy, turn: str) -> Call:
        """Give a turn back that was not used; what is written ends it by itself."""
        keys = [self._stamps, *self._record_keys(copy.entry)]
        return run(LEAVE, keys, turn)

    def _lifetime_ms(self, record: Record) -> int:
        """How long a record matters from now on, were it charged until its day ends: relative, and never short."""
        dead_at, _ = record.dead_after(self.terms.retention)
        life = max(dead_at - record.at, self.terms.request_ttl) + DAY_US + 2 * self.terms.max_skew
        return life // 1000 + 1
