"""libpq for the store: one statement there and one answer back, within a deadline, and what an error means.

The statements go to libpq itself: a cursor of the driver knows no deadline, and costs more than the store's own work.
"""

from __future__ import annotations

import select
import struct
from collections.abc import Generator, Iterable, Sequence
from typing import Any

import attrs
from psycopg import pq

from ...errors import StoreBusy, StoreUnavailable
from ..server.flow import NOTHING, UNKNOWN

READ, WRITE = getattr(select, "POLLIN", 1), getattr(select, "POLLOUT", 4)
_DONE = {pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK}
_AGAIN = {"40001", "40P01"}
_LOCKED = {"55P03"}


TYPES = {"t": 25, "T": 1009, "i": 20, "I": 1016, "N": 1016, "j": 114, "b": 16}
"""Numbers of types that never change: text, text[], bigint, bigint[] (``N``: as ``sparse`` has it), json, boolean."""


NULL = b"\xff\xff\xff\xff"


class Again(Exception):
    """A serialization failure or a deadlock: the server undid all of it."""


@attrs.frozen
class Call:
    """One statement and its arguments as text; without arguments it may be several statements in one transaction.

    ``types``: the arguments' types by number, which saves the server finding them out. ``formats``: 1 where an argument
    is not text.
    """

    command: bytes
    arguments: Sequence[bytes | None] | None = None
    types: list[int] | None = None
    formats: list[int] | None = None


def array(items: Iterable[int]) -> bytes:
    """An array of numbers, as text."""
    return ("{" + ",".join(map(str, items)) + "}").encode()


def sparse(items: Sequence[int | None]) -> bytes:
    """An array of numbers of which some are null, in the server's own format: a role may have no NULL in text."""
    head = struct.pack("!5i", 1, 1, TYPES["i"], len(items), 1)
    return head + b"".join([NULL if item is None else struct.pack("!iq", 8, item) for item in items])


def texts(items: Iterable[str]) -> bytes:
    """An array of any texts, as text."""
    quoted = (item.replace("\\", "\\\\").replace('"', '\\"') for item in items)
    return ("{" + ",".join([f'"{item}"' for item in quoted]) + "}").encode()


def exchange(pgconn: Any, call: Call) -> Generator[int, int, bytes]:
    """Send and receive: yields which events it waits for, is sent those that came. Then ``outcome`` reads the answer.

    The answer is whole only when the server is ready for the next call: it commits after its last row.
    """
    if call.arguments is None:
        pgconn.send_query(call.command)
    else:
        # A list: psycopg before 3.3 takes nothing else.
        pgconn.send_query_params(call.command, list(call.arguments), call.types, call.formats)
    while pgconn.flush():
        if (yield READ | WRITE) & READ:
            pgconn.consume_input()
    answer, refusal = b"", None
    while (result := (yield from _receive(pgconn))) is not None:
        if result.status in _DONE:
            if result.ntuples and result.nfields:
                answer = result.get_value(0, 0) or b""
        elif result.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED) != b"ERROR":
            raise refused(pgconn, result)
        else:
            refusal = result
    if refusal is not None or pgconn.status != pq.ConnStatus.OK:
        raise refused(pgconn, refusal)
    return answer


def _receive(pgconn: Any) -> Generator[int, int, Any]:
    """The next result, None after the last."""
    while pgconn.is_busy():
        yield READ
        pgconn.consume_input()
    return pgconn.get_result()


def refused(pgconn: Any, result: Any) -> Exception:
    """Return what the server's error means. An ``ERROR`` undid everything; whatever ends the session leaves it open."""
    field = pq.DiagnosticField
    severity = state = b""
    if result is not None:
        severity = result.error_field(field.SEVERITY_NONLOCALIZED) or b""
        state = result.error_field(field.SQLSTATE) or b""
    said = (result.error_field(field.MESSAGE_PRIMARY) if state else pgconn.error_message) or b"the connection was lost"
    text = " ".join(said.decode(errors="replace").split())
    code = state.decode()
    if severity != b"ERROR":
        return StoreUnavailable(f"{text}; {UNKNOWN}")
    if code in _AGAIN:
        return Again(text)
    if code in _LOCKED:
        return StoreBusy(f"{text}; {NOTHING}")
    away = code[:2] in ("08", "53") or code[:3] == "57P"  # connections, resources, a server that starts or stops
    return StoreUnavailable(f"{text} ({code}); {NOTHING}", reached=not away)
