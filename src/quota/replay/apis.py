"""The API that a request of a log is to: by its path, its host, its log, or a field of its line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatch
from typing import NamedTuple

from ..errors import InvalidValue, check_text
from .logs import Parser, Row

_RULE = re.compile(r"(?P<api>.*?)=(?P<kind>path|host|log):(?P<value>.+)", re.DOTALL)
_ACCEPTED = "API, API=path:/PREFIX, API=host:HOST, API=log:FILE or field:NAME"


class To(NamedTuple):
    """The API that a request is to. ``below``: its path below the prefix by which that was told; None without one."""

    api: str
    below: str | None = None


Rule = Callable[[Row, str, str], To | None]
"""(row, its line, its path) to the API; None where the rule says nothing of it."""


class ApiRules:
    """The rules of ``--api``, of which the first that fits a request says its API.

    ``API=path:/PREFIX``: requests to that path and those below; a plan's route is then looked for below it too.
    ``API=host:HOST``. ``API=log:FILE``: what is in this log, or in those of this pattern (``r1.log*``). ``field:NAME``:
    the API is what the field of a JSON line says; ``field:apiId/stage`` are two, joined. ``API`` alone: all others.

    Raises:
        InvalidValue: for a rule that is none of these.
    """

    def __init__(self, rules: Iterable[str]) -> None:
        self._rules = [_rule(text) for text in rules]

    def __bool__(self) -> bool:
        return bool(self._rules)

    def check_logs(self, names: Sequence[str]) -> None:
        """Raises ``InvalidValue`` for a rule of a log that is not among these."""
        for _, kind, value in self._rules:
            if kind == "log" and not any(_named(name, value) for name in names):
                raise InvalidValue("api", f"log:{value}", f"a log that is given: {', '.join(names)}")

    def of(self, name: str, parser: Parser) -> Callable[[Row, str, str], To | None]:
        """Return how the API of a request in the log of this name is found."""
        rules = [
            _BOUND[kind](api, value, parser) for api, kind, value in self._rules if kind != "log" or _named(name, value)
        ]

        def find(row: Row, line: str, path: str) -> To | None:
            return next((to for rule in rules if (to := rule(row, line, path)) is not None), None)

        return find


def _rule(text: str) -> tuple[str, str, str]:
    """(API, kind, value) of a rule."""
    if not isinstance(text, str):
        raise InvalidValue("api", text, _ACCEPTED)
    kind, _, name = text.partition(":")
    if kind == "field" and name and all(name.split("/")):
        return "", "field", name
    found = _RULE.fullmatch(text)
    api, kind, value = found.groups() if found else (text, "", "")
    if not api or (not found and ("=" in api or api.startswith("field:"))) or (kind == "path" and value[:1] != "/"):
        raise InvalidValue("api", text, _ACCEPTED)
    return check_text("api", api), kind, value


def _named(name: str, pattern: str) -> bool:
    return name == pattern or fnmatch(name, pattern) or fnmatch(name.rpartition("/")[2], pattern)


def _always(api: str, _value: str, _parser: Parser) -> Rule:
    return lambda _row, _line, _path: To(api)


def _by_path(api: str, value: str, _parser: Parser) -> Rule:
    prefix = value.rstrip("/")

    def find(_row: Row, _line: str, path: str) -> To | None:
        inside = path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/")
        return To(api, path[len(prefix) :] or "/") if inside else None

    return find


def _by_host(api: str, value: str, parser: Parser) -> Rule:
    wanted = value.lower().rstrip(".")
    return lambda row, line, _path: To(api) if parser.host(row, line) == wanted else None


def _by_field(_api: str, value: str, parser: Parser) -> Rule:
    names = value.split("/")

    def find(row: Row, _line: str, _path: str) -> To | None:
        parts = [parser.text(row, name) for name in names]
        return To("/".join(filter(None, parts))) if all(parts) else None

    return find


_BOUND = {"": _always, "log": _always, "path": _by_path, "host": _by_host, "field": _by_field}
