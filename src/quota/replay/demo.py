"""The mission, step by step on the real library, and a log replayed: every figure is computed as it is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

from ..clock import ManualClock, to_datetime
from ..decision import Decision
from ..key import ApiKey
from ..ledger.sync import Ledger
from ..operations.usage import UsageRecord
from ..plan import UsagePlan
from .log_files import open_log
from .report import Report, describe
from .run import replay

START = datetime(2026, 1, 15, 9, tzinfo=timezone.utc)
SAMPLE = Path(__file__).with_name("sample.log")
"""Two made-up days of a small API: some people, a partner that polls, a script that fetches all it can, once."""
REPLAYED = "100/day, 1/s burst 10"
HEADER = ("step", "what", "answer", "usage")

Row = tuple[str, str, str, str]
"""(step, what is done, the answer, usage after it)"""


class Walk:
    """The walk-through: API key ``Key123`` on plan ``PlanA``, 1000 requests a day."""

    def __init__(self) -> None:
        self.clock = ManualClock(START)
        self.ledger = Ledger(clock=self.clock)

    def rows(self) -> Iterator[Row]:
        """Each step as it happens; steps 1 to 8 are the mission's own."""
        ledger = self.ledger
        key, secret = ledger.issue_key("Key123")

        def row(step: str, what: str, answer: object) -> Row:
            return step, what, _said(answer), str(sum(today.used for today in self._today(key)))

        yield row("1", "create API key Key123", "created")
        ledger.add_plan(UsagePlan("PlanA", "1000/day"))
        yield row("2", "create usage plan PlanA: 1000/day", "created")
        ledger.associate(key, "PlanA")
        yield row("3", "put Key123 on PlanA", "associated")
        yield row("4-6", "a request with Key123 (0 < 1000)", ledger.consume(secret))
        allowed = sum(ledger.consume(secret).allowed for _ in range(999))
        yield row("7", "999 more requests", f"{allowed} allowed")
        yield row("8", "the next request", ledger.consume(secret))
        for what, present in self._refusals():
            yield row("", what, present())
        ledger.replace_plan(UsagePlan("PlanA", "2000/day"))
        yield row("", "limit raised to 2000/day, the same request", ledger.consume(secret))
        ledger.replace_plan(UsagePlan("PlanA", "500/day"))
        yield row("", "limit lowered to 500/day, a request", ledger.consume(secret))
        ledger.replace_plan(UsagePlan("PlanA", "2000/day"))
        yield row("", "limit back at 2000/day", f"{self._today(key)[0].remaining} remain")
        self.clock.advance(timedelta(days=1))
        yield row("", "the next day, by itself", f"{self._today(key)[0].remaining} remain")
        yield row("", "a request", ledger.consume(secret))

    def _today(self, key: ApiKey) -> list[UsageRecord]:
        """Return what the ledger itself says of today."""
        today = to_datetime(self.clock()).date()
        return self.ledger.usage(key, since=today, until=today)

    def _refusals(self) -> Iterator[tuple[str, Callable[[], Decision]]]:
        ledger = self.ledger
        disabled, off = ledger.issue_key("disabled", "PlanA")
        ledger.disable_key(disabled)
        _, late = ledger.issue_key("expired", "PlanA", expires_at=START)
        _, bare = ledger.issue_key("without a plan")
        yield "a request without a key", lambda: ledger.consume(None)
        yield "an unknown key", lambda: ledger.consume("not-a-key-of-ours")
        yield "a disabled key", lambda: ledger.consume(off)
        yield "an expired key", lambda: ledger.consume(late)
        yield "a key with no plan", lambda: ledger.consume(bare)


def _said(answer: object) -> str:
    if not isinstance(answer, Decision):
        return str(answer)
    return "200 allowed" if answer else f"{answer.status} {answer.reason.value}"


def table(rows: Iterator[Row]) -> Iterator[str]:
    """The rows as lines of text."""
    widths = (5, 43, 22, 5)
    for row in (HEADER, tuple("-" * width for width in widths), *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def sample_report() -> Report:
    """The sample log under the demo's plan."""
    with open_log(str(SAMPLE)) as lines:
        (report,) = replay(lines, [UsagePlan("sample", REPLAYED)])
    return report


def main() -> None:
    """Show the walk-through, then what a plan would have done to recorded traffic."""
    print("The mission, on the real library:\n")
    for line in table(Walk().rows()):
        print(line)
    print(f"\nRecorded traffic, replayed: what would {REPLAYED!r} have refused?\n")
    print(describe(sample_report(), top=5))
