"""The machine's rules for accounts: the tree that they are in, and the plans of their own."""

from __future__ import annotations

from functools import partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from ..account import Account
from ..clock import to_datetime
from ..errors import ClockSkew, InvalidValue, PlanConflict, UnknownAccount, UnknownKey
from ..key import ScheduledPlan
from ..limit import Quota, Throttle
from .directory import equal, raises
from .flight import FlightMachine
from .model import Skewed
from .plans import Member
from .strategies import ACCOUNT_IDS, ACCOUNTED, LATER, UPPER_IDS, upper_plans
from .windows import DAY


class AccountsMachine(FlightMachine):
    """Changes of the tree, and of what its accounts are on."""

    @precondition(lambda self: self.focus in ACCOUNTED)
    @rule(id_=ACCOUNT_IDS, parent=st.one_of(st.none(), ACCOUNT_IDS), add=st.booleans())
    def place_account(self, id_: str, parent: str | None, add: bool) -> None:
        """Add an account, or move one with all that is below it."""
        there, before = self.model.there(id_), self.model.parents.get(id_)
        if add and id_ in self.model.parents:
            if before == parent:
                equal(self.ledger.add_account(id_, parent=parent), Account(id_, parent=parent), "an account again")
            else:
                raises((PlanConflict, InvalidValue), lambda: self.ledger.add_account(id_, parent=parent))
            return
        change = self.ledger.add_account if add else self.ledger.update_account
        wrong = self.model.put_account(id_, parent, add=add) if there or add else UnknownAccount
        if wrong is not None:
            raises((UnknownAccount, InvalidValue), lambda: change(id_, parent=parent))
            return
        goes = () if add else self._going(id_)
        equal(change(id_, parent=parent), Account(id_, parent=parent, scheduled=goes), "an account")
        if add or before != parent:
            self._tell("account.added" if add else "account.updated", None)

    @precondition(lambda self: self.focus in ACCOUNTED)
    @rule(id_=ACCOUNT_IDS)
    def remove_account(self, id_: str) -> None:
        wrong = self.model.remove_account(id_)
        if wrong is not None:
            raises(wrong, lambda: self.ledger.remove_account(id_))
        else:
            self.ledger.remove_account(id_)
            self._tell("account.removed", None)

    @precondition(lambda self: self.focus in ACCOUNTED)
    @rule(data=st.data(), id_=ACCOUNT_IDS, new=st.booleans(), on=st.sampled_from([True, True, False]), later=LATER)
    def limit_account(self, data: Any, id_: str, new: bool, on: bool, later: int | str | None) -> None:
        """Put an account on a plan, which may be another one than it was, now or on a date; or take it off."""
        if new:
            self._replace(data.draw(upper_plans(self.focus)))
        plan = data.draw(UPPER_IDS)
        if plan not in self.model.plans:
            return
        instant, at = self._instant(later)
        change: Any = partial(self.ledger.associate, at=at) if on else self.ledger.dissociate
        if not self.model.there(id_):
            raises(UnknownKey, lambda: change(id_, plan))
            return
        before = self._on_and_next(self.model.on_plans.get(id_) or Member("", id_), plan)
        refused = self.model.put_on(id_, plan, instant, self.now, on=on)
        if refused:
            raises(InvalidValue if refused == "no period" else PlanConflict, lambda: change(id_, plan))
            return
        change(id_, plan)
        if self._on_and_next(self.model.on_plans[id_], plan) != before:
            self._tell("plan.associated" if on else "plan.dissociated", None, plan)

    @precondition(lambda self: self.focus in ACCOUNTED)
    @rule(id_=ACCOUNT_IDS, which=st.integers(0, 3), units=st.integers(1, 5))
    def grant_account(self, id_: str, which: int, units: int) -> None:
        if not self.model.there(id_):
            raises(UnknownKey, lambda: self.ledger.grant(id_, "requests/day", units))
            return
        latest = self.model.latest(Member("", id_), self.now)
        plan = self.model.plans.get(self.model.plans_of(id_, latest).get("", ""))
        quotas = [limit for limit in plan.limits if isinstance(limit, Quota)] if plan else []
        if quotas:
            limit = quotas[which % len(quotas)].name
            try:
                expected = self.model.grant_account(id_, limit, units, self.now)
            except Skewed:
                raises(ClockSkew, lambda: self.ledger.grant(id_, limit, units))
                return
            equal(self.ledger.grant(id_, limit, units).remaining, expected, f"what remains of {id_}")

    @precondition(lambda self: self.focus in ACCOUNTED)
    @rule(
        id_=ACCOUNT_IDS, which=st.integers(0, 3), value=st.sampled_from([None, 0, 2, 3, 8, 20]),
        lasts=st.sampled_from([None, None, 1, 20_000_000, DAY]),
    )  # fmt: skip
    def override_account(self, id_: str, which: int, value: int | None, lasts: int | None) -> None:
        """Give an account another limit than its own plan has."""
        latest = self.model.latest(Member("", id_), self.now)
        plan = self.model.plans.get(self.model.plans_of(id_, latest).get("", ""))
        if plan is None or not plan.limits or not self.model.there(id_):
            return
        spec = plan.limits[which % len(plan.limits)]
        given: Any = Throttle("3", burst=value) if value is not None and isinstance(spec, Throttle) else value
        until = None if lasts is None else self.now + lasts
        change = partial(self.ledger.override_limit, id_, spec.name, given, until=until and to_datetime(until))
        try:
            self.model.instant(Member("", id_), self.now)
        except Skewed:
            raises(ClockSkew, change)
            return
        change()
        place = ("account", id_), plan.id, "", f"{id_}: {spec.name}"
        self.model.overrides.pop(place, None)
        if given is not None:
            self.model.overrides[place] = given, until

    @precondition(lambda self: self.focus in ACCOUNTED)
    @rule(parent=st.one_of(st.none(), ACCOUNT_IDS))
    def list_accounts(self, parent: str | None) -> None:
        """All, and those right below one, with their plans and what they go to."""
        if parent is not None and not self.model.there(parent):
            raises(UnknownAccount, lambda: self.ledger.list_accounts(parent=parent))
            return
        names = {*self.model.parents, *self.model.members}
        wanted = [
            Account(id_, parent=self.model.parents.get(id_), scheduled=self._going(id_)) for id_ in sorted(names)
            if self.model.there(id_) and parent in (None, self.model.parents.get(id_))
        ]  # fmt: skip
        equal(self.ledger.list_accounts(parent=parent), wanted, f"the accounts below {parent}")
        for account in wanted:
            plans = [plan.id for plan in self.ledger.list_plans(account)]
            on = self.model.plans_of(account.id, self.model.latest(Member("", account.id), self.now))
            equal(plans, [plan for _, plan in sorted(on.items())], f"the plans of {account.id}")

    def _going(self, id_: str) -> tuple[ScheduledPlan, ...]:
        """Return the plans that an account goes to, as it is told."""
        mine = self.model.on_plans.get(id_)
        changes = sorted((at, plan) for plan, at in mine.goes_to.items() if at > self.now) if mine else ()
        return tuple(ScheduledPlan(plan, to_datetime(at)) for at, plan in changes)
