"""The mission, step by step on the real library, and a log replayed: every figure is computed as it is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone

from .clock import ManualClock
from .decision import Decision
from .key import ApiKey
from .ledger import Ledger
from .plan import UsagePlan
from .replay import describe, replay

START = datetime(2026, 1, 15, 9, tzinfo=timezone.utc)
REPLAYED = "300/day, 2/s burst 20"

Row = tuple[str, str, str, str]
"""(step, what is done, the answer, usage after it)"""


class Walk:
    """The walk-through: API key ``Key123`` on plan ``PlanA``, 1000 requests a day."""

    def __init__(self) -> None:
        self.clock = ManualClock(START)
        self.ledger = Ledger(clock=self.clock)

    def usage(self, key: ApiKey) -> int:
        """What the ledger itself says was used today."""
        return sum(row.used for row in self.ledger.usage(key, since=self.today(), until=self.today()))

    def today(self) -> str:
        return datetime.fromtimestamp(self.clock() / 1e6, tz=timezone.utc).date().isoformat()

    def rows(self) -> Iterator[Row]:
        """Each step as it happens."""
        ledger = self.ledger
        key, secret = ledger.issue_key("Key123")

        def row(step: str, what: str, answer: object) -> Row:
            return step, what, _said(answer), str(self.usage(key))

        yield row("1", "create API key Key123", "created")
        ledger.add_plan(UsagePlan("PlanA", "1000/day"))
        yield row("2", "create usage plan PlanA: 1000/day", "created")
        ledger.associate(key, "PlanA")
        yield row("3", "put Key123 on PlanA", "associated")
        yield row("4-6", "a request with Key123 (0 < 1000)", ledger.consume(secret))
        allowed = sum(bool(ledger.consume(secret)) for _ in range(999))
        yield row("7", "999 more requests", f"{allowed} allowed")
        yield row("8", "the next request", ledger.consume(secret))
        for name, present in self._refusals():
            yield row("", name, present())
        ledger.replace_plan(UsagePlan("PlanA", "2000/day"))
        yield row("", "limit raised to 2000/day, same request", ledger.consume(secret))
        ledger.replace_plan(UsagePlan("PlanA", "500/day"))
        yield row("", "limit lowered to 500/day, a request", ledger.consume(secret))
        ledger.replace_plan(UsagePlan("PlanA", "2000/day"))
        decision = ledger.peek(secret)
        yield row("", "limit back at 2000/day, what is left", f"{decision.limits[0].remaining + 1} remain")
        self.clock.advance(timedelta(days=1))
        yield row("", "the next day, by itself", "nothing used")
        yield row("", "a request", ledger.consume(secret))

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
    header = ("step", "what", "answer", "usage")
    widths = (5, 40, 22, 5)
    for row in (header, *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def sample_log() -> Iterator[str]:
    """A small day of traffic in combined format, made up by arithmetic: the same lines each time."""
    state = 7
    for number in range(1_200):
        state = (state * 1_103_515_245 + 12_345) % 2**31
        minute, spread = divmod(number * 86_400 // 1_200, 60)
        client = 1 if state % 10 < 4 else 2 + state // 16 % 30
        path = ("/", "/search", "/item", "/cart")[state // 512 % 4]
        yield (
            f"192.0.2.{client} - - [15/Jan/2026:{minute // 60:02d}:{minute % 60:02d}:{spread:02d} +0000] "
            f'"GET {path}?n={number} HTTP/1.1" 200 {state % 5000} "-" "sample/1.0"'
        )


def main() -> None:
    """Show the walk-through, then a day of traffic."""
    print("The mission, on the real library:\n")
    for line in table(Walk().rows()):
        print(line)
    print(f"\nA day of traffic, replayed: what would {REPLAYED!r} have refused?\n")
    for report in replay(sample_log(), [UsagePlan("sample", REPLAYED)]):
        print(describe(report, top=5))
