"""``python -m quota``: ``demo`` and ``replay`` by the standard library alone, every command where the extra is."""

from __future__ import annotations

import argparse
import json
import sys
from importlib.util import find_spec
from typing import NoReturn

from .errors import QuotaError
from .replay.output import answer


def main(arguments: list[str] | None = None) -> int:
    """Run a command. 0: done; 2: wrong use."""
    if all(find_spec(name) for name in ("typer", "rich", f"{__package__}.cli")):
        from .cli import main as whole  # noqa: PLC0415 -- only where the extra is

        return int(whole(arguments))
    return answer(lambda: _run(arguments))


def _run(arguments: list[str] | None) -> int:
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except QuotaError as error:
        print(f"quota: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """In one line, as everything that goes wrong."""
        print(f"quota: {message}; every command and option comes with: pip install typer rich", file=sys.stderr)
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("quota", epilog="The other commands come with: pip install typer rich.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="the mission step by step, then a recorded log")
    demo.set_defaults(run=_demo)
    replay = commands.add_parser(
        "replay", help="run an access log through plans: what would have been refused?",
        epilog="example: python -m quota replay access.log --plan '300/day, 2/s burst 20' --key ip",
    )  # fmt: skip
    replay.set_defaults(run=_replay)
    replay.add_argument(
        "log", nargs="+", help="combined or common format, JSON lines and others, packed too; several are read by time"
    )
    replay.add_argument("--plan", action="append", required=True, help="limits; may be given several times")
    replay.add_argument("--key", default="ip", help="ip (default), user, path, header:NAME, field:NAME, re:PATTERN")
    replay.add_argument(
        "--field", action="append", default=[], metavar="NAME=WHERE", help="where JSON lines have time, ip, user, ..."
    )
    replay.add_argument(
        "--late",
        type=int,
        default=60,
        metavar="SECONDS",
        help="lines late by up to so much are put in order (60)",
    )
    replay.add_argument("--top", type=_top, default=10, help="how many of the clients hit hardest are shown")
    replay.add_argument("--json", action="store_true", help="one JSON document, for programs")
    return parser


def _top(text: str) -> int:
    if not 0 <= int(text) <= 10**6:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0 to 1000000")
    return int(text)


def _demo(_: argparse.Namespace) -> None:
    from .replay.demo import main as demo  # noqa: PLC0415 -- only what is asked for

    demo()


def _replay(options: argparse.Namespace) -> None:
    from .plan import UsagePlan  # noqa: PLC0415 -- as above
    from .replay.log_files import open_logs  # noqa: PLC0415 -- only what is asked for
    from .replay.logs import field_of  # noqa: PLC0415 -- as above
    from .replay.report import check_understood, describe, to_json  # noqa: PLC0415 -- as above
    from .replay.run import replay  # noqa: PLC0415 -- as above

    plans = [UsagePlan(f"plan{number}", text) for number, text in enumerate(options.plan, 1)]
    fields = dict(field_of(text) for text in options.field)
    with open_logs(options.log) as logs:
        reports = replay(logs, plans, key=options.key, fields=fields, late=options.late)
    log = ", ".join(options.log)
    check_understood(log, reports[0])
    if options.json:
        print(json.dumps(to_json(log, reports, options.top), indent=2))
    else:
        print("\n\n".join(describe(report, options.top) for report in reports))


if __name__ == "__main__":
    sys.exit(main())
