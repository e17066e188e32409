"""``manage.py quota ...``: the command line, on the ledger of ``settings.QUOTA``."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError

from ....ledger.sync import Ledger
from ...config import ledger


class Command(BaseCommand):  # type: ignore[misc] # Django has no types of its own
    """All of ``quota``'s own commands; ``--store URL`` asks another store than the project's."""

    help = "API keys, usage plans and usage, on the ledger of settings.QUOTA."
    requires_system_checks: list[str] = []  # noqa: RUF012 -- Django's own way

    def run_from_argv(self, argv: list[str]) -> None:
        try:
            status = self.run(argv[2:])
        except CommandError as error:
            self.stderr.write(str(error))
            status = 2
        sys.exit(status)

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("arguments", nargs=argparse.REMAINDER)

    def handle(self, *_: Any, arguments: list[str], **__: Any) -> None:
        """Run it from a program: ``call_command("quota", "key", "list")``."""
        status = self.run(arguments)
        if status:
            raise CommandError(f"quota {' '.join(arguments[:2])}: exit status {status}", returncode=status)

    def run(self, arguments: list[str]) -> int:
        """Run a command and return its exit status."""
        try:
            from ....cli import main  # noqa: PLC0415 -- an extra of its own
            from ....cli.common import project_ledger  # noqa: PLC0415 -- as above
        except ModuleNotFoundError as error:
            raise CommandError(f"manage.py quota needs {error.name}: pip install typer rich") from None
        try:
            found = ledger()
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from None
        if not isinstance(found, Ledger):
            raise CommandError("manage.py quota needs a Ledger; QUOTA['LEDGER'] is an AsyncLedger")
        token = project_ledger.set(found)
        try:
            return main(arguments)
        finally:
            project_ledger.reset(token)
