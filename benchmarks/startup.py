"""Start-up: whole processes that import one thing and end, in processor time, in turn.

`python -I -c "import quota"` against the same with `import attrs`, which is all that quota needs, and with nothing.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from typing import Any

from benchmarks.measure import Timing, ratio

TITLE = "Start-up"
VERSIONS = ("attrs", "limits")
STATEMENTS = {"nothing": "pass", "attrs": "import attrs", "quota": "import quota", "limits": "import limits"}


def whole(statement: str) -> float:
    """Nanoseconds of processor time of a process that runs one statement."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-I", "-c", statement], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e9


def measure(rounds: int) -> dict[str, Any]:
    """Whole processes as multiples of each other."""
    timings = {name: Timing(f"python -c {statement!r}", []) for name, statement in STATEMENTS.items()}
    for statement in STATEMENTS.values():
        whole(statement)
    for _ in range(rounds):
        for name in STATEMENTS:
            timings[name].rounds.append(sum(whole(STATEMENTS[name]) for _ in range(3)) / 3)
    return {
        "timings": timings,
        "ratios": {
            "import quota / import attrs": ratio(timings["quota"], timings["attrs"]),
            "import limits / import quota": ratio(timings["limits"], timings["quota"]),
        },
    }
