"""A process's copies of directory entries, with the compiled form of their calls."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ...key import ApiKey, Caller
from ...operations.headroom import SeveralMeters
from ...operations.request import Entry, Request, barred, plans_joined, settled
from ...plan import UsagePlan
from ...rule.limits import RoutePlan


class CachedKey:
    """This process's copy of a directory entry. ``stamps``: what the server compares to tell that it is fresh.

    ``stamp_name``: of the first of them; a caller and an account have but the one of all plans, twice. ``plans``: by
    api, with those of its accounts.
    """

    __slots__ = ("changes", "entry", "lanes", "plans", "stamp_name", "stamps")

    def __init__(self, entry: Entry, stamps: tuple[Any, ...]) -> None:
        self.entry = entry
        self.changes = entry.changes
        self.stamps = stamps
        self.plans = plans_joined(entry)
        self.stamp_name = f"k:{entry.key.id}" if type(entry.key) is ApiKey else "*"
        self.lanes: dict[RoutePlan, SeveralMeters] = {}

    def plans_at(self, now: int) -> Mapping[str, UsagePlan]:
        """Return the plans by api at an instant, with those of its accounts."""
        return plans_joined(settled(self.entry, now)) if self.changes else self.plans

    def lane(self, request: Request) -> SeveralMeters | None:
        """The lane that calls like this one have, if any; none where the key may not be used so."""
        if request.op != "consume" or barred(self.entry.key, request.address, request.scope):
            return None
        plan = self.plans_at(request.now).get(request.api)
        return None if plan is None else self.lanes.get(plan.route_plan(request.route, request.api))


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
