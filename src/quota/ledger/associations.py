"""The pure steps of which key is on which plan, and from when on."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from ..clock import to_us
from ..errors import InvalidValue, check_text
from ..key import ApiKey
from ..plan import UsagePlan
from ..stores.associations import PERIOD_END
from .accounts import Accounts
from .administration import Step, at_least_one, key_id, plan_id_of, same, to_come


class Associations(Accounts):
    """Keys as they are told, and their plans."""

    def get_key(self, key: ApiKey | str) -> Step[ApiKey]:
        """The key as it is now. Raises ``UnknownKey``."""
        now = self._now()
        return Step("get_key", (key_id(key),), lambda found: to_come(found, now))

    def list_keys(
        self, *, after: ApiKey | str | None = None, limit: int | None = None, plan: UsagePlan | str | None = None,
        account: str | None = None,
    ) -> Step[list[ApiKey]]:  # fmt: skip
        """Keys in the order of their ids: all of them, or those on a plan now, of an account, or both.

        ``limit``: at most so many; ``after``: those beyond this id, which need not be there any more, so that pages go
        on after the last key of the one before. Raises ``UnknownPlan``.
        """
        most = None if limit is None else at_least_one("limit", limit)
        plan_id = None if plan is None else plan_id_of(plan)
        mine = None if account is None else check_text("account", account)
        now, beyond = self._now(), None if after is None else key_id(after)
        args = (beyond, most, plan_id, mine, now)
        return Step("list_keys", args, lambda found: [to_come(one, now) for one in found])

    def associate(
        self, key: ApiKey | str, plan: UsagePlan | str, *, at: datetime | Literal["period_end"] | None = None
    ) -> Step[None]:
        """Put a key on a plan; from another one for the same api it is moved, and what was used stays used.

        ``at``: when, to the microsecond and in every process; ``"period_end"``: when the longest quota of the plan that
        it leaves begins anew, reckoned now. What is scheduled last for an api stands, until the key is put on a plan or
        taken off one there at once, or the plan that it goes to is removed. A key past the instant never goes back.

        Raises ``UnknownKey``, ``UnknownPlan``, ``InvalidValue`` for an instant that is not to come, and for
        ``"period_end"`` where the key leaves no plan with a quota.
        """
        now, instant = self._now(), at if at is None or at == PERIOD_END else _instant(at)
        if isinstance(instant, int) and instant <= now:
            raise InvalidValue("at", at, "an instant that is still to come")
        return Step("associate", (key_id(key), plan_id_of(plan), instant, now), same)

    def dissociate(self, key: ApiKey | str, plan: UsagePlan | str) -> Step[None]:
        """Take a key off a plan, or have it not go to one; what is scheduled for the same api is dropped.

        Raises ``UnknownKey``, ``UnknownPlan``, ``PlanConflict`` when it is not on it.
        """
        return Step("dissociate", (key_id(key), plan_id_of(plan), self._now()), same)


def _instant(at: object) -> int:
    if not isinstance(at, datetime):
        raise InvalidValue("at", at, f"a timezone-aware datetime, {PERIOD_END!r} or None")
    return to_us(at, "at")
