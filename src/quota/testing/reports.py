"""The machine's rules for what keys used and when, beside sums over the model's log of admissions."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import strategies as st
from hypothesis.stateful import rule

from ..clock import EPOCH, to_datetime
from ..errors import UnknownKey
from .directory import equal, raises
from .model import Model
from .plans import Member
from .status import StatusMachine
from .strategies import KEY_IDS
from .windows import DAY


def totals(
    model: Model, by: str, first: int, last: int, api: str | None, now: int, retention: int
) -> dict[tuple[str, str, str], int]:
    """Sum up what was used on some days, from scratch."""
    found: dict[tuple[str, str, str], int] = {}
    keys = [*model.removed]
    for id_, key in model.keys.items():
        at = model.at.get(("key", id_), 0)
        taken = [
            (e.at, e.api, e.unit, e.units)
            for e in model.events
            if ("key", id_) in e.subjects and e.counts(max(now, at))
        ]
        keys.append((key, at, taken))
    for key, at, taken in keys:
        for taken_at, of, unit, units in taken:
            day = taken_at // DAY
            if max(first, max(now, at) // DAY - retention) <= day <= last and api in (None, of):
                who = {"key": key.id, "account": key.account, "plan": _plan_on(key, of, day)}[by]
                found[who, of, unit] = found.get((who, of, unit), 0) + units
    return {place: units for place, units in found.items() if units}


def _plan_on(key: Member, api: str, day: int) -> str:
    """Return the plan of the last admission on a day or before."""
    return [plan for at, of, plan in key.admissions if of == api and at // DAY <= day][-1]


class ReportMachine(StatusMachine):
    """Of what keys used, and when they last did."""

    @rule(id_=KEY_IDS)
    def last_used(self, id_: str) -> None:
        key = self.model.keys.get(id_)
        if key is None:
            raises(UnknownKey, lambda: self.ledger.last_used(id_))
            return
        minute = None if key.last_used is None else to_datetime(key.last_used)
        equal(self.ledger.last_used(id_), minute, f"when {id_} was last used")

    @property
    def _retention(self) -> int:
        """The days that the store keeps; that of stores that are not told another."""
        return getattr(getattr(self.ledger.store, "options", None), "retention", 35)

    @rule(
        by=st.sampled_from(["key", "account", "plan"]), back=st.integers(0, 40), days=st.integers(0, 40),
        api=st.sampled_from([None, None, "", "b"]),
    )  # fmt: skip
    def usage_report(self, by: str, back: int, days: int, api: str | None) -> None:
        first = self.now // DAY - back
        told = list(
            self.ledger.usage_report(
                EPOCH.date() + timedelta(first), EPOCH.date() + timedelta(first + days), by=by, api=api
            )
        )
        expected = totals(self.model, by, first, first + days, api, self.now, self._retention)
        equal({(one.id, one.api, one.unit): one.used for one in told}, expected, f"what was used by {by}")
        equal([one.id for one in told], sorted(one.id for one in told), "the order of a report")
