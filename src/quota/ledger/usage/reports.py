"""The pure steps of what was used: by one key, and reports over all keys, a page of them at a time."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Literal

from ...account import Account
from ...clock import DAY_US, EPOCH, to_us
from ...errors import InvalidValue, UnknownKey
from ...key import ApiKey
from ...operations.request import Request
from ...operations.usage import UsageRecord, UsageTotal
from ..accounts import Accounts
from ..administration import PAGE, Asking, Step, Telling, same
from ..holders import check_where

if TYPE_CHECKING:
    from ...operations.report import KeyUsage, ReportDays


class Reports(Accounts):
    """Of what keys used."""

    def usage(
        self,
        key_or_account: ApiKey | Account | str,
        *,
        api: str = "",
        since: date | str | None = None,
        until: date | str | None = None,
    ) -> Asking[list[UsageRecord]]:
        """Return what each quota of a key's plan for ``api``, or of an account's own, counted by UTC day.

        Both days included; days unused are left out, today is always there. A limit by account tells the account's
        usage. A key that was removed is told until ``retention`` ends: the days on which it was used, unless its id is
        another one's by now. Raises ``UnknownKey``, ``InvalidValue``.
        """
        check_where(api, None)
        now, days = self._now(), (_day("since", since, -(10**6)), _day("until", until, 10**7))
        try:
            key, account = yield from self._one(key_or_account)
            request = Request("usage", now, None, key, api, args=days, account=account)
            found: list[UsageRecord] = yield Step("apply", (request,), same)
        except UnknownKey as unknown:
            from .erasing import removed_usage  # noqa: PLC0415 -- loaded where a key is gone

            found = yield from removed_usage(unknown, key_or_account, api, now, days)
        return found

    def erase(self, key_or_account: ApiKey | Account | str) -> Asking[None]:
        """Leave nothing of a key, or of an account and all its keys: entries, secrets, counts, usage, events.

        Of what was removed before too. A key takes its own account along where nothing else is in that. One event,
        ``erased``, names nobody. After a failure, which may have left a part of it, call it again. What stays in an
        engine's own files: docs/howto/forget.md. Raises ``UnknownKey``, ``UnknownAccount`` where nothing is kept,
        ``InvalidValue`` for an account with accounts below it, ``PlanConflict`` for an id of a key and another account.
        """
        from .erasing import erase  # noqa: PLC0415 -- loaded where somebody asks

        yield from erase(self, key_or_account)

    def usage_report(
        self,
        since: date | str,
        until: date | str,
        *,
        by: Literal["key", "account", "plan"] = "key",
        api: str | None = None,
    ) -> Telling[UsageTotal]:
        """Tell what every key, account or plan used from one UTC day to another, both included; of all apis or of one.

        Keys that were removed too: what keys of one id used, one after the other, is one total. An account is told what
        its keys used, each unit once. Of a plan: each day's units of a key go to the plan of its last charge on that
        day, by the id that it had. In the order of their ids, for any number of keys at a bounded memory: a page of
        keys is read at a time, each key as of one moment, so days that are over are told the same whenever they are
        asked for, while what is used meanwhile may be told or not. Nothing used, nothing told. Days before the store's
        ``retention`` are gone. Raises ``InvalidValue``.
        """
        from ...operations.report import ReportDays  # noqa: PLC0415 -- loaded where somebody asks

        if by not in ("key", "account", "plan"):
            raise InvalidValue("by", by, "'key', 'account' or 'plan'")
        check_where("" if api is None else api, None)
        first, last = _day("since", since, 0), _day("until", until, 0)
        for field, day in (("since", since), ("until", until)):
            if day is None:
                raise InvalidValue(field, day, "a day: a date, an aware datetime or a text such as '2026-01-31'")
        if first > last:
            raise InvalidValue("since", since, f"a day, and not one after until: {until}")
        return _totals(ReportDays(self._now(), first, last, api), by)


def _totals(days: ReportDays, by: str) -> Generator[Step[Any] | UsageTotal, list[KeyUsage], None]:
    """Tell what keys, accounts or the keys on plans used, in the order of their ids; of plans when all is added up."""
    after, told = "", dict[tuple[str, str, str], int]()
    while True:
        page = yield Step("report", (days, after, PAGE, by == "account"), same)
        for account, id_, used, _ in page:
            who = id_ if by == "key" else account
            if by != "plan" and told and next(iter(told))[0] != who:
                yield from _told(told)
                told = {}
            for plan, api, unit, units in used:
                place = plan if by == "plan" else who, api, unit
                told[place] = told.get(place, 0) + units
        if len(page) < PAGE:
            break
        after = page[-1].place
    yield from _told(told)


def _told(told: dict[tuple[str, str, str], int]) -> Iterator[UsageTotal]:
    return (UsageTotal(*place, units) for place, units in sorted(told.items()) if units)


def _day(field: str, day: date | str | None, default: int) -> int:
    """Days since the epoch."""
    if day is None:
        return default
    if isinstance(day, str):
        try:
            day = date.fromisoformat(day)
        except ValueError:
            raise InvalidValue(field, day, "a date, as in 2026-01-31") from None
    if isinstance(day, datetime):
        return to_us(day, field) // DAY_US
    if not isinstance(day, date):
        raise InvalidValue(field, day, "a date, an aware datetime or a text such as '2026-01-31'")
    return (day - EPOCH.date()).days
