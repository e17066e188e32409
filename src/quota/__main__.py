"""``python -m quota``: ``demo`` and ``replay`` by the standard library alone, every command where the extra is."""

from __future__ import annotations

import argparse
import json
import sys
from importlib.util import find_spec

from .errors import QuotaError


def main(arguments: list[str] | None = None) -> int:
    """Run a command. 0: done; 2: wrong use."""
    if all(find_spec(name) for name in ("typer", "rich", f"{__package__}.cli")):
        from .cli import main as whole  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415

        return int(whole(arguments) or 0)
    options = _parser().parse_args(arguments)
    if options.command == "demo":
        from .demo import main as demo  # noqa: PLC0415 -- only what is asked for

        demo()
        return 0
    try:
        _replay(options)
    except QuotaError as error:
        print(f"quota: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("quota", epilog="The other commands come with the extra 'cli' (typer and rich).")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("demo", help="the mission step by step, then a day of traffic")
    replay = commands.add_parser(
        "replay", help="run an access log through plans: what would have been refused?",
        epilog="example: python -m quota replay access.log --plan '300/day, 2/s burst 20' --key ip",
    )  # fmt: skip
    replay.add_argument("file", help="combined or common format or JSON lines, gzip too; - is standard input")
    replay.add_argument("--plan", action="append", required=True, help="limits; may be given several times")
    replay.add_argument("--key", default="ip", help="ip (default), user, path, header:NAME, field:NAME, re:PATTERN")
    replay.add_argument("--top", type=int, default=10, help="how many of the clients hit hardest are shown")
    replay.add_argument("--json", action="store_true", help="one JSON document, for programs")
    return parser


def _replay(options: argparse.Namespace) -> None:
    from .logs import open_log  # noqa: PLC0415 -- only what is asked for
    from .plan import UsagePlan  # noqa: PLC0415 -- as above
    from .replay import describe, replay  # noqa: PLC0415 -- as above

    plans = [UsagePlan(f"plan{number}", text) for number, text in enumerate(options.plan, 1)]
    with open_log(options.file) as lines:
        reports = replay(lines, plans, key=options.key)
    if options.json:
        print(json.dumps([report.to_dict(options.top) for report in reports], indent=2))
    else:
        print("\n\n".join(describe(report, options.top) for report in reports))


if __name__ == "__main__":
    sys.exit(main())
