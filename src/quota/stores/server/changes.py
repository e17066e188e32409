"""All that the directory on a server asks of an engine: to look a key up, and to change texts and records at once.

Texts are in parts: ``stamps``, ``secrets``, ``keys``, ``accounts``, ``plans`` and ``last_used`` (the minute of a key's
last admission). In the part ``use`` are the records,
and what is read of one is its version; in the part ``at``, its latest instant.
"""

from __future__ import annotations

from typing import NamedTuple

Place = tuple[str, str]
"""Where a text or a record is: part and name."""


Above = tuple[str, ...] | None
"""The accounts above a key's own, where they are named; None: those of now."""


class Precondition(NamedTuple):
    """All that must still be there, None for nothing, or nothing is changed."""

    part: str
    name: str
    text: str | None


class PutText(NamedTuple):
    """Write a text."""

    part: str
    name: str
    text: str


class DropText(NamedTuple):
    """Remove a text."""

    part: str
    name: str


class ClearRecord(NamedTuple):
    """Remove a record."""

    name: str


class CopyRecord(NamedTuple):
    """Have another record be as this one."""

    name: str
    to: str


class MoveRecord(NamedTuple):
    """Give a record another name, in place of what has it."""

    name: str
    to: str


class IndexKey(NamedTuple):
    """Note a key under a list of keys that is kept in the order of their ids."""

    list: str
    id: str


class UnindexKey(NamedTuple):
    """Take a key off a list."""

    list: str
    id: str


class Tell(NamedTuple):
    """Put an event down in the outbox, under the next number; of the two oldest forget those from before ``since``."""

    at: int
    key: str | None
    account: str | None
    text: str
    since: int


class Untell(NamedTuple):
    """Take events out of the outbox."""

    cursors: list[int]


Mutation = Tell | Untell | IndexKey | UnindexKey | PutText | DropText | ClearRecord | CopyRecord | MoveRecord
KINDS = {
    IndexKey: "index",
    UnindexKey: "unindex",
    PutText: "put",
    DropText: "del",
    ClearRecord: "clear",
    CopyRecord: "copy",
    MoveRecord: "move",
    Tell: "tell",
    Untell: "untell",
}


class KeyLookup(NamedTuple):
    """All that there is of a key, as it stands together. ``key_entry``: the key and which plans it is on.

    ``accounts``: its account and those above, the nearest first; ``plans``: the key's and then each account's.
    """

    stamp: str
    plans_stamp: str
    key_entry: str
    accounts: list[str]
    plans: list[str | None]
