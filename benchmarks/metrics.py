"""What ``quota.metrics`` costs a call: an admission and a refusal in memory, watched and not, in processor time."""

from __future__ import annotations

import time
from typing import Any

from prometheus_client import CollectorRegistry

from benchmarks.measure import calls, interleave, ratios
from quota import Ledger, UsagePlan
from quota.metrics import instrument

TITLE = "Figures for Prometheus"
QUOTA = f"{10**12}/day"


def asking(limits: str, *, watched: bool) -> Any:
    """The loop of calls by one key under these limits."""
    ledger = Ledger()
    ledger.add_plan(UsagePlan("p", limits))
    key = ledger.issue_key("bench", "p").key
    if watched:
        instrument(ledger, CollectorRegistry())
    return calls(ledger.consume, key)


def measure(rounds: int) -> dict[str, Any]:
    """Each kind of call, as ratios."""
    loops = {
        f"{kind}, {'watched' if watched else 'not watched'}": asking(limits, watched=watched)
        for kind, limits in {"admitted": QUOTA, "refused": "1/day"}.items()
        for watched in (False, True)
    }
    timings = interleave(loops, rounds, clock=time.process_time_ns)
    pairs = {
        f"{kind}: watched / not watched": (f"{kind}, watched", f"{kind}, not watched")
        for kind in ("admitted", "refused")
    }
    return {"timings": timings, "ratios": ratios(timings, pairs)}
