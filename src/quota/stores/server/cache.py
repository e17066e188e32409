"""A process's copies of directory entries, with the compiled form of their calls."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from ...key import Caller
from ...operations.headroom import SeveralMeters
from ...operations.request import Entry, Request, barred, settled
from ...rule.limits import RoutePlan


class CachedKey:
    """This process's copy of a directory entry. ``stamps``: what the server compares to tell that it is fresh.

    ``stamp_name``: of the first of them; a caller has but the one of all plans, twice.
    """

    __slots__ = ("entry", "lanes", "stamp_name", "stamps")

    def __init__(self, entry: Entry, stamps: tuple[Any, ...]) -> None:
        self.entry = entry
        self.stamps = stamps
        self.stamp_name = "*" if type(entry.key) is Caller else f"k:{entry.key.id}"
        self.lanes: dict[RoutePlan, SeveralMeters] = {}

    def lane(self, request: Request) -> SeveralMeters | None:
        """The lane that calls like this one have, if any; none where the key may not be used so."""
        if barred(self.entry.key, request.address, request.scope):
            return None
        plan = settled(self.entry, request.now).plans.get(request.api) if request.op == "consume" else None
        return None if plan is None else self.lanes.get(plan.route_plan(request.route))


class KeyCache:
    """Copies by what clients present (a digest, a key's id); the oldest goes when there are too many."""

    __slots__ = ("_found", "_most")

    def __init__(self, most: int = 65_536) -> None:
        self._found: dict[bytes | str | Caller, CachedKey] = {}
        self._most = most

    def get(self, ref: bytes | str | Caller) -> CachedKey | None:
        return self._found.get(ref)

    def put(self, ref: bytes | str | Caller, copy: CachedKey) -> None:
        while len(self._found) >= self._most:
            with suppress(RuntimeError):  # another thread makes room as well
                self.drop(next(iter(self._found), ref))
        self._found[ref] = copy

    def drop(self, ref: bytes | str | Caller) -> None:
        self._found.pop(ref, None)
