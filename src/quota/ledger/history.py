"""The pure steps of the outbox: who acts, and what was done."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

from ..errors import InvalidValue, check_text
from .administration import MOST_AT_ONCE, Administration, Step, at_least_one, same

if TYPE_CHECKING:
    from ..operations.events import Event


class History(Administration):
    """The actor, and the events."""

    def acting(self, actor: str) -> Any:
        """Return steps with the same settings for what somebody else does."""
        steps = copy(self)
        steps._actor = check_text("actor", actor)
        return steps

    def events(self, *, after: int = 0, limit: int = 1000) -> Step[list[Event]]:
        """Return what was changed and which thresholds were crossed, in order: at most ``limit`` events after a cursor.

        Each was written in the very step that made its change, so none is missing and none is there twice, whatever
        crashes. A cursor only grows, and no event appears below one that was told: keep the last one, and go on after
        it. They are kept for ``retention`` days of the store (in memory at most 10,000 of them).

        A change of a key, a plan, an association or a limit is one event; a call that changed nothing is none.
        ``limit.crossed`` comes once for each of a plan's ``alerts`` in each window of an hour or more, by the charge
        that reached it; 100 means exhausted. Raises ``InvalidValue``.
        """
        if type(after) is not int or not 0 <= after < 2**63:
            raise InvalidValue("after", after, "a cursor: a whole number, zero or more")
        return Step("events", (after, min(at_least_one("limit", limit), MOST_AT_ONCE)), same)
