"""The pure steps of what goes by a key or an account: where its limits stand, and limits of its own."""

from __future__ import annotations

from datetime import datetime

from ..clock import to_us
from ..errors import InvalidCost, InvalidValue, PlanConflict, UnknownKey, check_text
from ..key import ApiKey
from ..limit import Throttle, whole
from ..operations.request import Request
from ..plan import check_route
from ..status import LimitStatus
from .accounts import Accounts
from .administration import Asking, Step, same


class Holders(Accounts):
    """Where keys and accounts stand."""

    def status(
        self, key_or_account: ApiKey | str, *, api: str | None = None, route: str | None = None
    ) -> Asking[tuple[LimitStatus, ...]]:
        """Tell where every limit of a key, or of an account, stands now, its account's with it; nothing is charged.

        A text names the key of that id, else the account. ``api``: of its plan for that api, by default of all its
        plans, by api; none where it has no plan. ``route``: with the limits of its own that the plan gives that route.
        Whether the key may be used does not matter. Of an account: the limits by account of its keys' plans.

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
                plans = yield Step("plans_of", (id_,), same)
                new = [plan for plan in plans if plan.id not in seen and api in (None, plan.api)]
                apis = tuple(plan.api for plan in new)
                if apis:
                    told += yield Step(
                        "apply", (Request("status", now, None, id_, "", route, args=(apis, True)),), same
                    )
                    seen |= {plan.id for plan in new}
            except UnknownKey:
                continue  # removed meanwhile
        return tuple(told)

    def override_limit(
        self,
        key_or_account: ApiKey | str,
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
        who = (yield from self._counted_by(keys, str(key_or_account), limit, api, route)) if account else keys[0]
        told: LimitStatus = yield Step(
            "apply", (Request("override", now, None, who, api, route, args=(limit, value, end)),), same
        )
        return told

    def _counted_by(self, keys: list[str], account: str, limit: str, api: str, route: str | None) -> Asking[str]:
        """Find a key of an account whose plan has a limit by account of this name."""
        found: dict[str, str] = {}
        names: dict[str, None] = {}
        for id_ in keys:
            try:
                plans = yield Step("plans_of", (id_,), same)
            except UnknownKey:
                continue  # removed meanwhile
            for plan in plans:
                shared = [one.name for one in (*plan.routes.get(route or "", ()), *plan.limits) if one.by == "account"]
                if plan.api == api:
                    names.update(dict.fromkeys(shared))
                    if limit in shared:
                        found.setdefault(plan.id, id_)
        if not found:
            raise InvalidValue("limit", limit, f"a limit by account of its keys' plans: {', '.join(names) or 'none'}")
        if len(found) > 1:
            reason = (
                f"keys of this account are on several plans with that limit: {', '.join(found)}; name one of its keys"
            )
            raise PlanConflict(account, reason)
        return next(iter(found.values()))

    def _find(self, who: ApiKey | str) -> Asking[tuple[list[str], bool]]:
        """The key that is meant, or all keys of the account; and whether it is an account."""
        if isinstance(who, ApiKey):
            return [who.id], False
        check_text("key_or_account", who)
        try:
            key = yield Step("get_key", (who,), same)
        except UnknownKey:
            key = None
        if key is not None and key.account == who:
            return [who], False
        members = [one.id for one in (yield Step("list_keys", (None, None, None, who), same))]
        if key is None and not members:
            raise UnknownKey(who)
        if key is not None and members:
            reason = (
                f"a key has this id, and it is the account of {members[0]!r}: give the ApiKey, or a key of the account"
            )
            raise PlanConflict(who, reason)
        return ([who], False) if key is not None else (members, True)


def check_where(api: object, route: object) -> None:
    """Raise ``InvalidValue`` for what is no api, ``InvalidPlan`` for what is no route."""
    if api != "":
        check_text("api", api)
    if route is not None:
        check_route(route)
