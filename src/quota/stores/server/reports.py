"""Reports of the stores on a server: what each key used, a page of keys at a time, its records in one round trip."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...operations.report import KeyUsage, ReportDays, used_of
from ...rule.limits import StoreOptions
from ...rule.record import Record
from .flow import Flow, operation


class Reports:
    """Of what all keys used. An engine says how a page of keys with their records is read."""

    options: StoreOptions
    _page: Callable[[tuple[str, str], int, bool], Flow[list[tuple[str, str, Any]]]]
    _own_record: Callable[[Any], Record | None]

    @operation
    def report(self, days: ReportDays, after: tuple[str, str], most: int, by_account: bool) -> Flow[list[KeyUsage]]:
        page = yield from self._page(after, most, by_account)
        retention = self.options.retention
        return [KeyUsage(account, id_, used_of(self._own_record(row), days, retention)) for account, id_, row in page]
