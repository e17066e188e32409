"""The PostgreSQL store's calls: one function of the server's each, its arguments as text."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping, Sequence
from typing import Any

from ...errors import InvalidValue, StoreUnavailable
from ...event import Event
from ...operations.headroom import SeveralMeters
from ...operations.idempotency import remembered
from ...operations.request import LOOKS, Entry, Request
from ...rule.record import Record
from ...rule.subject import Subject
from ..remembered import encode_remembered, remembered_of
from ..server.cache import CachedKey
from ..server.changes import KINDS, Above, KeyLookup, Mutation, Place, Precondition
from ..server.flow import NOTHING, Flow, operation
from ..server.replies import Version
from ..server.requests import Decisions, Loaded, dead_by, new_record, refs, subject_of
from ..texts import decode_event, to_json
from .schema import CHECK, DECIDING, MIGRATION, READING, TABLES, VERSION, WRITING
from .wire import TYPES, Call, array, sparse, texts

_NAMESPACE = re.compile(r"(?!pg_|information_schema\Z)[a-z_][a-z0-9_]{0,47}\Z")
_MOST = 2**62
_WIDEST = 2**62
"""All that a column holds; a larger count is in the encoded record alone, and no lane goes there."""


_FUNCTIONS = {
    "look": "ttT", "read": "TT", "list": "t", "page": "ttit", "report": "ttib", "change": "tjj",
    "entries": "ttti", "records_of": "T", "told": "ii", "keep": "tTtttNNNjjittij",
    "ask": "tTtttiitib", "release": "tTi", "spend": "tTtttiiiIIIiIttii", "spend_one": "tTI",
    "spend_poured": "tTI",
}  # fmt: skip
"""The server's functions and the types of their arguments."""


def _bounded(number: int) -> int | None:
    return number if abs(number) <= _WIDEST else None


def _decode_record(found: list[Any] | None, floor: int) -> tuple[Record, Version]:
    """A record from its row and its body; a new one from nothing."""
    if found is None:
        return new_record(floor), Version()
    version, moves, turn, at, totals, minutes, hours, levels, filled, last_used, data = found
    data[0], data[3] = at, last_used
    place = 0
    for meter, total, minute, hour in zip(data[5], totals, minutes, hours, strict=True):
        readings = (total, minute, hour)
        meter[3:6] = [old if new is None else new for old, new in zip(meter[3:6], readings, strict=True)]
        for bucket in meter[8]:
            if levels[place] is not None:
                bucket[3:5] = levels[place], filled[place]
            place += 1
    return Record.decode(data), Version(version, moves, turn)


def _encode_record(name: str, record: Record, version: int, dead_at: int, floor: int) -> dict[str, Any]:
    buckets = [bucket for meter in record.meters for bucket in meter.buckets]
    return {
        "name": name, "version": version, "moves": 0, "at": record.at,
        "totals": [_bounded(meter.total) for meter in record.meters],
        "minutes": [_bounded(meter.minute) for meter in record.meters],
        "hours": [_bounded(meter.hour) for meter in record.meters],
        "levels": [_bounded(bucket.level) for bucket in buckets], "filled": [bucket.at for bucket in buckets],
        "turn": None, "turn_until": 0, "dead_at": min(dead_at, _MOST), "floor": min(floor, _MOST),
        "last_used": record.last_used,
    }  # fmt: skip


def _number(value: int) -> bytes:
    return str(value).encode()


class PostgresSteps(Decisions):
    """All that both PostgreSQL stores do, as steps that yield calls."""

    exact_across_failover = True

    def __init__(self, namespace: str, timeout: float, check_clock: bool | None, options: Mapping[str, Any]) -> None:
        if not isinstance(namespace, str) or not _NAMESPACE.match(namespace):
            accepted = (
                "a schema's name: 1 to 48 lower-case letters, digits and '_', not beginning with a digit or pg_ "
                "and not information_schema, which is PostgreSQL's own"
            )
            raise InvalidValue("namespace", namespace, accepted)
        super().__init__(namespace, timeout, check_clock, options)
        # A call waits for two locks at most, and then the answer still has to come.
        self._patience = f"{max(1, int(timeout * 400))}ms".encode()
        self._schema = f'"{namespace}"'  # a name may be a word of the language
        self._commands = {
            name: (
                f"SELECT {self._schema}.{name}({', '.join(f'${i + 1}' for i in range(len(kinds)))})".encode(),
                [TYPES[kind] for kind in kinds],
                [int(kind == "N") for kind in kinds] if "N" in kinds else None,
            )
            for name, kinds in _FUNCTIONS.items()
        }

    def _call(self, name: str, *arguments: bytes | None) -> Call:
        command, types, formats = self._commands[name]
        return Call(command, arguments, types, formats)

    def _look_around(self) -> Flow[None]:
        """Once per store: whether the schema is there and is this version's; it is made where there is none."""
        found = yield Call(b"SELECT coalesce(to_regclass($1) IS NOT NULL, false)::int", (self._table("directory"),))
        version = 0
        if found:
            query = f"SELECT value FROM {self._schema}.directory WHERE part = $1 AND name = $2"  # noqa: S608 -- checked
            text = yield Call(query.encode(), (b"stamps", b"#"))
            version = text or 0
        if version > VERSION:
            there = f"schema {self.namespace} is version {version}, this version of quota knows {VERSION}"
            raise StoreUnavailable(f"{there}; {NOTHING}", reached=True)
        if version < VERSION:
            yield from self._make(anyway=False)
        self._looked = True

    def _table(self, name: str) -> bytes:
        return f"{self._schema}.{name}".encode()

    def _make(self, *, anyway: bool) -> Flow[int]:
        words = {"all": TABLES + READING + WRITING + DECIDING, "ns": self._schema, "version": str(VERSION),
                 "wait": self._patience.decode(), "anyway": str(anyway)}  # fmt: skip
        script = MIGRATION
        for word, value in words.items():
            script = script.replace(f"{{{word}}}", value)
        yield Call(script.encode())
        self._looked = True
        return VERSION

    @operation
    def migrate(self) -> Flow[int]:
        """Make the schema what this version needs, its functions anew, in one transaction. Gives its version."""
        return self._make(anyway=True)

    @operation
    def check(self) -> Flow[list[str]]:
        """Return what does not fit together in the tables, in words; nothing when all is well."""
        yield from self._ready()
        found = yield Call(CHECK.replace("{ns}", self._schema).encode(), ())
        return list(found)

    def _look_up(self, digest: bytes | None, key_id: str, above: Above = None) -> Flow[KeyLookup | None]:
        yield from self._ready()
        named = None if above is None else texts(above)
        reply = yield self._call("look", (digest.hex() if digest else "").encode(), key_id.encode(), named)
        if reply == 0:
            return None
        stamp, plans_stamp, key_entry, accounts, plans = reply
        return KeyLookup(stamp, plans_stamp or "", key_entry, accounts, plans)

    def _ready(self) -> Flow[None]:
        if not self._looked:
            yield from self._look_around()

    def _read(self, *places: Place) -> Flow[list[str | None]]:
        yield from self._ready()
        reply = yield self._call("read", texts(part for part, _ in places), texts(name for _, name in places))
        return list(reply)

    def _values(self, part: str) -> Flow[list[str]]:
        yield from self._ready()
        reply = yield self._call("list", part.encode())
        return list(reply)

    def _list(self, name: str, after: str, most: int | None, part: str = "keys") -> Flow[list[str]]:
        yield from self._ready()
        limit = None if most is None else _number(most)
        reply = yield self._call("page", name.encode(), after.encode(), limit, part.encode())
        return list(reply)

    def _page(self, after: tuple[str, str], most: int, by_account: bool) -> Flow[list[tuple[str, str, Any]]]:
        yield from self._ready()
        where = after[0].encode(), after[1].encode(), _number(most), b"true" if by_account else b"false"
        return [tuple(row) for row in (yield self._call("report", *where))]

    def _entries(self, name: str, after: str, before: str | None, most: int | None) -> Flow[list[str]]:
        yield from self._ready()
        last, limit = None if before is None else before.encode(), None if most is None else _number(most)
        return list((yield self._call("entries", name.encode(), after.encode(), last, limit)))

    def _records(self, names: Sequence[str]) -> Flow[list[Any]]:
        return list((yield self._call("records_of", texts(names))))

    def _forget_requests(self, _: Container[str]) -> Flow[None]:
        yield from ()  # they went with the record

    def _own_record(self, row: Any) -> Record | None:
        return None if row is None else _decode_record(row, 0)[0]

    def _change(self, checks: list[Precondition], writes: Sequence[Mutation]) -> Flow[bool]:
        told = [(KINDS[type(write)], *write) for write in writes if write[0] != "k"]  # the list of all is the table
        reply = yield self._call("change", self._patience, to_json(checks).encode(), to_json(told).encode())
        return bool(reply == 1)

    def _events(self, after: int, limit: int) -> Flow[list[Event]]:
        yield from self._ready()
        reply = yield self._call("told", _number(after), _number(limit))
        return [decode_event(cursor, text) for cursor, text in reply]

    def _release(self, copy: CachedKey, turn: int) -> Call:
        return self._call("release", self._patience, texts(refs(copy.entry)), _number(turn))

    def _fresh(self, copy: CachedKey) -> tuple[bytes, bytes, bytes, bytes]:
        """Names of the records, and what tells that the copy is fresh."""
        stamp, plans = copy.stamps
        return texts(refs(copy.entry)), copy.stamp_name.encode(), stamp.encode(), plans.encode()

    @property
    def _far(self) -> bytes | None:
        return _number(max(self.options.max_skew, 1)) if self.check_clock else None

    def _request(self, request: Request) -> bytes | None:
        return None if request.request_id is None else request.request_id.encode()

    def _ask(self, copy: CachedKey, request: Request, turn: int) -> Call:
        opened = request.op in LOOKS
        return self._call(
            "ask", self._patience, *self._fresh(copy), self._far, _number(request.now), self._request(request),
            _number(turn) if turn and not opened else None, b"true" if opened else b"false",
        )  # fmt: skip

    def _tag(self, copy: CachedKey, lane: SeveralMeters, subject: Subject, versions: Sequence[Any]) -> tuple[Any, ...]:
        meters_before, buckets_before = [0], [0]
        places: dict[tuple[int, int], int] = {}
        for index, record in enumerate(subject.records()):
            meters_before.append(meters_before[-1] + len(record.meters))
            for position, meter in enumerate(record.meters):
                places[index, position] = buckets_before[-1]
                buckets_before.append(buckets_before[-1] + len(meter.buckets))
        meters, buckets = [], []
        for index, position, unit, soft, hard in lane.cells:
            meters += [meters_before[index] + position + 1, unit + 1, min(soft, _MOST), min(hard, _MOST)]
        for index, position, place, unit, drain, scale, burst in lane.pours:
            buckets += [places[index, position] + place + 1, unit + 1, drain, scale, burst]
        names, *stamps = self._fresh(copy)
        skew = self.options.max_skew
        general = (
            self._patience, names, *stamps, self._far, _number(skew), _number(lane.end),
            array(versions), array(meters), array(buckets),
        )  # fmt: skip
        # One meter that every call's unit counts on, and at most one bucket of the same unit.
        if copy.entry.uppers or len(lane.cells) != 1 or len(lane.shape.units) != 1 or len(lane.pours) > 1:
            return general, "", b"", b""
        far = _MOST if self._far is None else int(self._far)
        (place, _, *tops), lines = meters, [number for at, number in enumerate(buckets) if at != 1]
        one = array([far, skew, lane.end, versions[0], place, *tops, *lines])
        records = texts([*refs(copy.entry), *map(bytes.decode, stamps)])
        return general, "spend_poured" if buckets else "spend_one", records, one[1:]

    def _spend(
        self, lane: SeveralMeters, request: Request, takes: Mapping[str, int], amounts: list[int], id_: str | None
    ) -> Call:
        general, function, names, one = lane.tag
        if function and id_ is None:
            units, pour = amounts[0], 0
            for *_, scale, burst in lane.pours:
                pour = min(units * scale, burst + 1)
            return self._call(function, self._patience, names, b"{%d,%d,%d,%b" % (request.now, units, pour, one))
        now, before = b"%d" % request.now, b"%d" % (request.now - self.options.max_skew)
        if id_ is None:
            return self._call("spend", *general, now, array(amounts), None, None, None, before)
        earlier = to_json(remembered_of(lane, request, takes, id_)).encode()
        until = b"%d" % (request.now + self.options.request_ttl)
        return self._call("spend", *general, now, array(amounts), self._request(request), earlier, until, before)

    def _decode(self, entry: Entry, request: Request, reply: Sequence[Any]) -> Loaded:
        rows, earlier, floor, server_now = reply
        decoded = [_decode_record(row, floor) for row in rows]
        subject = subject_of(entry, [record for record, _ in decoded])
        subject.server_now = server_now if self._lapse_here else None
        found = Loaded(subject, [version for _, version in decoded])
        if earlier is not None:
            answer, rest = earlier
            self._recall(found, request, answer, rest)
        return found

    def _write(self, copy: CachedKey, request: Request, found: Loaded, versions: list[int]) -> Call:
        names, told = refs(copy.entry), found.subject.told
        earlier = remembered(found.subject, request)
        kept = None if earlier is found.remembered else earlier
        rows, bodies = [], []
        for name, record, version in zip(names, found.subject.records(), versions, strict=True):
            rows.append(
                _encode_record(
                    name,
                    record,
                    version,
                    dead_by(copy.entry, record, self.options),
                    record.dead_after(self.options.retention)[1],
                )
            )
            bodies.append(to_json(record.encode()))
        columns = zip(*found.versions, strict=True)
        return self._call(
            "keep", self._patience, *self._fresh(copy), *(sparse(column) for column in columns), to_json(rows).encode(),
            to_json(bodies).encode(), _number(request.now - self.options.max_skew),
            None if kept is None else self._request(request),
            None if kept is None else to_json(encode_remembered(kept)).encode(),
            None if kept is None else _number(kept.until), to_json(self._told(told)).encode() if told else None,
        )  # fmt: skip


def read_reply(answer: bytes) -> Any:
    """A reply as the steps read it: an integer, what a lane decided, or everything."""
    if answer[:1] == b"[":
        return json.loads(answer)
    return answer if b" " in answer else int(answer or 0)
