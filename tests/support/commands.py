"""The command line driven in this process, on one store in memory; whatever is JSON is held to its published schema."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from importlib.resources import files
from unittest.mock import patch

import typer.main
from jsonschema import Draft202012Validator, FormatChecker

import quota.cli.common
from quota import Ledger
from quota.cli import build, main
from quota.stores.memory import MemoryStore

SCHEMAS = json.loads(files("quota.cli").joinpath("schemas.json").read_text("utf-8"))
GROUPS = ("plan", "key", "account", "reservation", "store")


def strict(schema):
    """The schema without room for what it does not name."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: strict(part) for name, part in schema.items()}
    return (
        {**closed, "additionalProperties": False}
        if schema.get("type") == "object" and "properties" in schema
        else closed
    )


def validate(command, data):
    """Hold what a command printed to the schema published for it."""
    schema = {**strict(SCHEMAS), "$ref": f"#/commands/{command.replace(' ', '%20')}"}
    Draft202012Validator(schema, format_checker=FormatChecker()).validate(data)


class Stream(io.TextIOWrapper):
    """Standard input or output: text over bytes, a terminal if told so."""

    def __init__(self, data=b"", terminal=False, encoding="utf-8"):
        super().__init__(io.BytesIO(data), encoding=encoding, write_through=True)
        self.terminal = terminal

    def isatty(self):
        return self.terminal

    def text(self):
        return self.buffer.getvalue().decode(self.encoding)


class Quota:
    """``quota ARGUMENTS`` on one store: ``out``, ``err`` and the exit status of the last command."""

    def __init__(self):
        self.store = MemoryStore()
        self.ledger = Ledger(self.store)
        self.out = self.err = ""

    def __call__(self, *arguments, data="", terminal=False, encoding="utf-8"):
        """The exit status."""
        out, err = Stream(terminal=terminal, encoding=encoding), Stream(terminal=terminal)
        stdin = Stream(data if isinstance(data, bytes) else data.encode(), terminal=terminal)
        opened = patch.object(quota.cli.common, "Ledger", lambda url, **options: Ledger(self.store, **options))
        path = patch.object(quota.cli.common, "sqlite_path", lambda url: None)
        with opened, path, patch.object(sys, "stdin", stdin), redirect_stdout(out), redirect_stderr(err):
            status = main([str(argument) for argument in arguments])
        self.out, self.err = out.text(), err.text()
        assert "Traceback" not in self.out + self.err
        assert "a bug" not in self.err, self.err
        return status

    def json(self, *arguments, status=0, data=""):
        """What a command prints with ``--json``, held to its schema."""
        assert self(*arguments, "--json", data=data) == status, self.err
        found = json.loads(self.out)
        words = [argument for argument in map(str, arguments) if not argument.startswith("-")]
        validate(" ".join(words[: 2 if words[0] in GROUPS else 1]), found)
        return found

    def fails(self, *arguments, status=2, data=""):
        """The one line that says why a command did nothing."""
        assert self(*arguments, data=data) == status, self.out + self.err
        assert self.out == ""
        (line,) = self.err.splitlines()
        assert line.startswith("quota: ")
        return line


def commands(command, path=()):
    """Every command of the program by its words."""
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from commands(inner, (*path, name))
    else:
        yield path, command


COMMANDS = dict(commands(typer.main.get_command(build(plain=True))))
