"""The pure steps of what goes by a key or an account: where its limits stand."""

from __future__ import annotations

from ..errors import PlanConflict, UnknownKey, check_text
from ..key import ApiKey
from ..operations.request import Request
from ..plan import check_route
from ..standing import LimitStatus
from .administration import Administration, Asking, Step, same


class Holders(Administration):
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
        members = [one.id for one in (yield Step("list_keys", (), same)) if one.account == who]
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
