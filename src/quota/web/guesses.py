"""Keys that nobody has, counted by address in this process: a ledger in memory of their own, which is bounded."""

from __future__ import annotations

from ..clock import Clock
from ..decision import Decision, Reason
from ..key import Caller
from ..ledger.sync import Ledger
from ..limit import Limit
from ..plan import UsagePlan
from ..stores.memory.store import MemoryStore
from .settings import FAILED


class Guesses:
    """Failures of each address, within a limit."""

    def __init__(self, limit: Limit, clock: Clock) -> None:
        self._ledger = Ledger(MemoryStore(most_callers=16_384, stripes=16), clock=clock)
        self._ledger.add_plan(UsagePlan(FAILED, limit))

    def count(self, address: str) -> Decision | None:
        """Count a failure; the refusal where an address has had too many."""
        decision = self._ledger.consume(Caller(FAILED, address))
        if decision.allowed:
            return None
        return Decision(decision._details().changed(reason=Reason.THROTTLED, key=None, plan=None))
