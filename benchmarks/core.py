"""The core in one number: the lines of the files that ``Ledger()`` in memory loads.

python -m benchmarks.core
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CODE = """
import json, sys
from quota import Ledger
Ledger()
print(json.dumps(sorted(m.__file__ for n, m in sys.modules.items() if n.partition('.')[0] == 'quota')))
"""


def core() -> dict[str, int]:
    """Each file of the core with its lines, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True)
    return {file: len(Path(file).read_text("utf-8").splitlines()) for file in json.loads(done.stdout)}


if __name__ == "__main__":
    found = core()
    for file, lines in found.items():
        print(f"{lines:6} {file}")
    print(f"{sum(found.values()):6} lines in {len(found)} files")
