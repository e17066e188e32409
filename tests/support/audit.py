"""Ask whether faults of the installed dependencies are known, and say of which it could not be asked.

Exits with 1 where a fault is known, with 2 where none is but an index could not tell of every dependency, else with 0.
pip-audit itself exits with 0 where it found no index at all.
"""

from __future__ import annotations

import json
import subprocess
import sys


def told(dependencies: list[dict]) -> tuple[int, list[str]]:
    """The exit code, and lines to print, for what pip-audit's JSON says of each dependency."""
    faults = [(one["name"], fault["id"]) for one in dependencies for fault in one.get("vulns", ())]
    unknown = sorted(one["name"] for one in dependencies if "skip_reason" in one)
    lines = [f"known fault: {name}: {fault}" for name, fault in faults]
    lines.append(f"{len(dependencies) - len(unknown)} of {len(dependencies)} dependencies were looked up")
    if unknown:
        lines.append(f"NOT CHECKED, no index knows them here: {', '.join(unknown)}")
    return 1 if faults else 2 if unknown or not dependencies else 0, lines


def main() -> int:
    command = [
        sys.executable,
        "-m",
        "pip_audit",
        "--local",
        "--skip-editable",
        "--progress-spinner",
        "off",
        "-f",
        "json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout:
        print(f"NOT CHECKED, pip-audit could not ask: {done.stderr.strip()}")
        return 2
    # What is installed in place is ours, and no index has it.
    found = [one for one in json.loads(done.stdout)["dependencies"] if one["name"] != "quota"]
    code, lines = told(found)
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
