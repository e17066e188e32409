"""Callers without a key, in memory: a bounded number of records, in no directory, gone when their windows are over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import InvalidValue
from ...key import Caller
from ...operations.request import Request, by_api, forgetful
from ...plan import UsagePlan
from ...process.atomic import Step
from ...rule.limits import StoreOptions
from .binding import Binding
from .entries import KeyEntry, KeyPlans, Stripe

_NOWHERE = KeyPlans({})
"""Of callers: the plan that they are counted under is the one they name."""


class Callers(Binding):
    """All that a memory store does for callers.

    So many are counted one by one at any time, spread over the stripes. Those who come when all room is taken share as
    many counts among them, by a hash that nobody outside knows: no limit is passed, no live count is forgotten, and
    memory is bounded however many there are.
    """

    options: StoreOptions
    _stripes: list[Stripe]
    _perform: Any

    def _bound_callers(self, most: int, stripes: int) -> None:
        if type(most) is not int or not 1 <= most <= 10**9:
            raise InvalidValue("most_callers", most, "a whole number of callers, 1 to 1000000000")
        self._most_callers = max(1, most // stripes)

    def _apply_to_caller(self, request: Request, caller: Caller) -> Any:
        """Perform the request under the lock that the caller's count has, or would have."""
        name, count = caller.name, len(self._stripes)
        shared = name[1:].partition(".")[0] if name.startswith("#") else ""
        number = int(shared) if shared.isdecimal() else hash(caller)
        stripe = self._stripes[number % count]
        with stripe.exclusive():
            room = self.rooms.get(caller)
            if room is None:
                self._make_room(stripe, request.now)
                # One of many is sought first: who was counted among them goes on there for as long as that lives.
                crowd = Caller(caller.plan, f"#{number % count}.{number // count % self._most_callers}")
                room = self.rooms.get(crowd)
                if room is None and len(stripe.callers) >= self._most_callers:
                    caller = crowd
            return self._perform(request, KeyEntry(caller, None, stripe, _NOWHERE) if room is None else room.key_entry)

    def _make_room(self, stripe: Stripe, now: int) -> None:
        """Look over two callers for each new one."""
        for _ in range(min(2, len(stripe.callers))):
            key_entry = stripe.callers.popleft()
            if stripe.look_over(key_entry, now, forgetful(self.options)):
                stripe.callers.append(key_entry)
            else:
                self.rooms.pop(key_entry.key, None)

    def _kept(self, key_entry: KeyEntry) -> list[Step]:
        """The steps that let a caller be found who was admitted."""
        return [(key_entry.stripe.callers.append, key_entry), (self.rooms.__setitem__, key_entry.key, key_entry.room)]

    def _plan_of(self, caller: Caller) -> Mapping[str, UsagePlan]:
        plan = self._plans.get(caller.plan)
        return {} if plan is None else by_api([plan])
