"""The pure steps of what goes by a key or an account: where its limits stand, own limits, what was done."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from ..account import Account
from ..clock import to_us
from ..errors import InvalidCost, InvalidValue, PlanConflict, UnknownKey, check_text
from ..event import Event
from ..key import ApiKey
from ..limit import Throttle, whole
from ..operations.request import Request
from ..plan import UsagePlan, check_route
from ..status import LimitStatus
from ..stores.base import PERIOD_END
from .accounts import Accounts, account_id
from .administration import MOST_AT_ONCE, Asking, Step, at_least_one, key_id, plan_id_of, same, to_come


class Associations(Accounts):
    """Keys as they are told, and their plans."""

    def get_key(self, key: ApiKey | str) -> Step[ApiKey]:
        """The key as it is now. Raises ``UnknownKey``."""
        now = self._now()
        return Step("get_key", (key_id(key),), lambda found: to_come(found, now))

    def list_keys(
        self, *, after: ApiKey | str | None = None, limit: int | None = None, plan: UsagePlan | str | None = None,
        account: Account | str | None = None,
    ) -> Step[list[ApiKey]]:  # fmt: skip
        """Keys in the order of their ids: all of them, or those on a plan now, of an account, or both.

        ``limit``: at most so many; ``after``: those beyond this id, which need not be there any more, so that pages go
        on after the last key of the one before. Raises ``UnknownPlan``.
        """
        most = None if limit is None else at_least_one("limit", limit)
        plan_id = None if plan is None else plan_id_of(plan)
        mine = None if account is None else account_id(account)
        now, beyond = self._now(), None if after is None else key_id(after, "after")
        args = (beyond, most, plan_id, mine, now)
        return Step("list_keys", args, lambda found: [to_come(one, now) for one in found])

    def list_plans(self, key_or_account: ApiKey | Account | str | None = None) -> Asking[list[UsagePlan]]:
        """All usage plans by id; or those that a key, or an account, is on now, by api. Raises ``UnknownKey``."""
        step: Step[list[UsagePlan]] = Step("list_plans", (), same)
        if key_or_account is not None:
            step = self._plans_of(*(yield from self._one(key_or_account)))
        found: list[UsagePlan] = yield step
        return found

    def _plans_of(self, key: str | None, account: str | None = None) -> Step[list[UsagePlan]]:
        return Step("apply", (Request("plans", self._now(), None, key, account=account),), same)

    def associate(
        self, key_or_account: ApiKey | Account | str, plan: UsagePlan | str, *,
        at: datetime | Literal["period_end"] | None = None,
    ) -> Asking[None]:  # fmt: skip
        """Put a key on a plan; from another one for the same api it is moved, and what was used stays used.

        Or an account: calls of its keys, and of all accounts below it, are limited by its plan too. Each call is taken
        from the key's plan and from those of all accounts above it, or from none of them.

        ``at``: when, to the microsecond and in every process; ``"period_end"``: when the longest quota of the plan that
        it leaves begins anew, reckoned now. What is scheduled last for an api stands, until the key is put on a plan or
        taken off one there at once, or the plan that it goes to is removed. Who is past the instant never goes back.

        Raises ``UnknownKey``, ``UnknownPlan``, ``PlanConflict`` where it would take the place of two, ``InvalidValue``
        for an instant that is not to come, and for ``"period_end"`` where no plan with a quota is left.
        """
        by = self._by()
        now, instant = by[1], at if at is None or at == PERIOD_END else _instant(at)
        if isinstance(instant, int) and instant <= now:
            raise InvalidValue("at", at, "an instant that is still to come")
        id_ = plan_id_of(plan)
        key, account = yield from self._one(key_or_account)
        if account is None:
            yield Step("associate", (key, id_, instant, now, by), same)
        else:
            yield Step("place_account", (account, id_, True, instant, now, by), same)

    def dissociate(self, key_or_account: ApiKey | Account | str, plan: UsagePlan | str) -> Asking[None]:
        """Take a key, or an account, off a plan, or have it not go to one; what is scheduled for that api is dropped.

        Raises ``UnknownKey``, ``UnknownPlan``, ``PlanConflict`` when it is not on it.
        """
        by, id_ = self._by(), plan_id_of(plan)
        key, account = yield from self._one(key_or_account)
        if account is None:
            yield Step("dissociate", (key, id_, by[1], by), same)
        else:
            yield Step("place_account", (account, id_, False, None, by[1], by), same)


class Holders(Associations):
    """Where keys and accounts stand."""

    def status(
        self, key_or_account: ApiKey | Account | str, *, api: str | None = None, route: str | None = None
    ) -> Asking[tuple[LimitStatus, ...]]:
        """Tell where every limit of a key, or of an account, stands now, its account's with it; nothing is charged.

        A text names the key of that id, else the account. ``api``: of its plan for that api, by default of all its
        plans, by api; none where it has no plan. ``route``: with the limits of its own that the plan gives that route.
        Whether the key may be used does not matter. Of an account: the limits by account of its keys' plans, those of
        its own plans, and of the accounts above.

        Raises ``UnknownKey``, ``InvalidValue``, and ``PlanConflict`` for a text that is the id of a key and another
        account's.
        """
        check_where("" if api is None else api, route)
        now = self._now()
        keys, account = yield from self._find(key_or_account)
        if not account:
            wanted = None if api is None else (api,)
            found = yield Step("apply", (Request("status", now, None, keys[0], "", route, args=(wanted, False)),), same)
            return tuple(found)
        told: list[LimitStatus] = []
        seen: set[str] = set()
        for id_ in keys:
            try:
                plans = yield self._plans_of(id_)
                new = [plan for plan in plans if plan.id not in seen and (api is None or api in plan.apis)]
                apis = tuple(plan.apis[0] if api is None else api for plan in new)
                if apis:
                    told += yield Step(
                        "apply", (Request("status", now, None, id_, "", route, args=(apis, True)),), same
                    )
                    seen |= {plan.id for plan in new}
            except UnknownKey:
                continue  # removed meanwhile
        wanted = None if api is None else (api,)
        request = Request("status", now, None, None, "", route, args=(wanted, False), account=account)
        told += yield Step("apply", (request,), same)
        return tuple(told)

    def override_limit(
        self,
        key_or_account: ApiKey | Account | str,
        limit: str,
        value: int | Throttle | None,
        *,
        until: datetime | None = None,
        api: str = "",
        route: str | None = None,
    ) -> Asking[LimitStatus]:
        """Give a key or an account a limit of its own in place of the one of that name in its plan for ``api``.

        ``value``: the units of a quota, or a ``Throttle``; None takes it back. ``until``: when it ends by itself, at
        that very microsecond. It goes along when that plan is replaced, and sleeps while another plan is in its place;
        what was used stays used. On a ``route``, the route's own limit comes before the plan's. A limit by account is
        overridden on the account, whichever of its keys is named. Returns where the limit stands then.

        Raises ``UnknownKey``; ``InvalidValue`` for a name that the plan does not have, a value of the other kind, or
        below what a call costs, and for an instant that is past; ``PlanConflict`` for an account whose keys are on
        several plans that have the limit, and as ``status``.
        """
        check_text("limit", limit, longest=2048)
        check_where(api, route)
        if value is not None and not isinstance(value, Throttle):
            whole("value", value, 0, InvalidCost)
        now = self._now()
        end = None if until is None else to_us(until, "until")
        if end is not None and end <= now:
            raise InvalidValue("until", until, "an instant that is still to come")
        keys, account = yield from self._find(key_or_account)
        who: str | None = None if account else keys[0]
        if account:
            names = yield from self._own_names(account, api, route)
            if limit.removeprefix(f"{account}: ") not in names:
                who, account = (yield from self._counted_by(keys, account, limit, api, route, names)), None
        request = Request(
            "override", now, None, who, api, route, args=(limit, value, end), account=account, actor=self._actor
        )
        told: LimitStatus = yield Step("apply", (request,), same)
        return told

    def _own_names(self, account: str, api: str, route: str | None) -> Asking[list[str]]:
        """Return the names of the limits of an account's own plan."""
        plans = [plan for plan in (yield self._plans_of(None, account)) if api in plan.apis]
        own = [one.name for plan in plans for one in plan.routes.get(route or "", ())]
        return [*own, *(f"{route} {name}" for name in own), *(one.name for plan in plans for one in plan.limits)]

    def _counted_by(
        self, keys: list[str], account: str, limit: str, api: str, route: str | None, own: list[str]
    ) -> Asking[str]:
        """Find a key of an account whose plan has a limit by account of this name."""
        found: dict[str, str] = {}
        names = dict.fromkeys(own)
        for id_ in keys:
            try:
                plans = yield self._plans_of(id_)
            except UnknownKey:
                continue  # removed meanwhile
            for plan in plans:
                shared = [one.name for one in (*plan.routes.get(route or "", ()), *plan.limits) if one.by == "account"]
                if api in plan.apis:
                    names.update(dict.fromkeys(shared))
                    if limit in shared:
                        found.setdefault(plan.id, id_)
        if not found:
            accepted = f"a limit of its own plan, or one by account of its keys' plans: {', '.join(names) or 'none'}"
            raise InvalidValue("limit", limit, accepted)
        if len(found) > 1:
            reason = (
                f"keys of this account are on several plans with that limit: {', '.join(found)}; name one of its keys"
            )
            raise PlanConflict(account, reason)
        return next(iter(found.values()))

    def _find(self, who: ApiKey | Account | str) -> Asking[tuple[list[str], str | None]]:
        """The key that is meant; or all keys of the account, and its id."""
        key, account = yield from self._one(who)
        if account is None:
            return [str(key)], None
        return [one.id for one in (yield self.list_keys(account=account))], account

    def events(self, *, after: int = 0, limit: int = 1000) -> Step[list[Event]]:
        """Return what was changed and which thresholds were crossed: events in order, after a cursor.

        ``limit``: at most so many, and never more than 10,000. Each was written in the very step that made its change,
        so none is missing and none is there twice, whatever crashes. A cursor only grows, and no event appears below
        one that was told: keep the last one, and go on after it. They are kept for ``retention`` days of the store (in
        memory at most 10,000 of them).

        A change of a key, a plan, an association or a limit is one event; a call that changed nothing is none.
        ``limit.crossed`` comes once for each of a plan's ``alerts`` in each window of an hour or more, by the charge
        that reached it; 100 means exhausted. Raises ``InvalidValue``.
        """
        if type(after) is not int or not 0 <= after < 2**63:
            raise InvalidValue("after", after, "a cursor: a whole number, zero or more")
        return Step("events", (after, min(at_least_one("limit", limit), MOST_AT_ONCE)), same)


def check_where(api: object, route: object) -> None:
    """Raise ``InvalidValue`` for what is no api, ``InvalidPlan`` for what is no route."""
    if api != "":
        check_text("api", api)
    if route is not None:
        check_route(route)


def _instant(at: object) -> int:
    if not isinstance(at, datetime):
        raise InvalidValue("at", at, f"a timezone-aware datetime, {PERIOD_END!r} or None")
    return to_us(at, "at")
