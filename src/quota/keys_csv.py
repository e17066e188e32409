"""API keys from a CSV file in API Gateway's import format: Name, Key, Description, Enabled, UsagePlanIds."""

from __future__ import annotations

import csv
import io
import re

import attrs

from .errors import InvalidSecret, InvalidValue
from .key import digest, import_secret

_COLUMNS = ("name", "key", "description", "enabled", "usageplanids")
_REQUIRED = ("name", "key")
_LONGEST = 4096
_QUOTED = re.compile(r'("(?:[^"]|"")*+")[ \t]*+')


@attrs.frozen
class CsvKey:
    """One row. ``line`` is where it ends in the file."""

    line: int
    name: str
    secret: str = attrs.field(repr=False)
    description: str = ""
    enabled: bool = True
    plans: tuple[str, ...] = ()


def parse_csv(name: str, text: str) -> tuple[list[CsvKey], list[str]]:
    """The rows of a file called ``name``, and warnings about those that are left out or read in a way of our own.

    Columns come in any order and case, cells are trimmed, columns of other names are ignored; ``Name`` and ``Key`` must
    be there. Warnings never show a secret.

    Raises:
        InvalidValue: for a file that is no such table from its first line to its last (one that was cut short too).
    """
    trimmed = _QUOTED.sub(r"\1", text.removeprefix("\ufeff"))  # strict CSV has nothing between a quote and its comma
    reader = csv.reader(io.StringIO(trimmed, newline=""), skipinitialspace=True, strict=True)
    keys: dict[bytes, CsvKey] = {}
    warnings: list[str] = []
    cut = 0
    try:
        header = [cell.strip().lower() for cell in next(reader, [])]
        missing = [column for column in _REQUIRED if column not in header]
        doubled = [column for column in _COLUMNS if header.count(column) > 1]
        if missing or doubled:
            raise InvalidValue(f"{name} line 1", ", ".join(header)[:80], "a header with Name and Key, each column once")
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                accepted = f"{len(header)}, as the header has (is the file complete?)"
                raise InvalidValue(f"{name} line {reader.line_num}", f"{len(row)} cells", accepted)
            cells = dict(zip(header, (cell.strip() for cell in row), strict=True))
            key = _key(reader.line_num, cells, warnings)
            if key is None:
                cut = reader.line_num
                continue
            if (earlier := keys.get(digest(key.secret))) is not None:
                warnings.append(f"line {key.line}: the same key as in line {earlier.line}, which it replaces")
            keys[digest(key.secret)] = key
    except csv.Error as error:
        raise InvalidValue(f"{name} line {reader.line_num}", str(error), "CSV, complete") from None
    if cut == reader.line_num and not text.endswith("\n"):
        raise InvalidValue(f"{name} line {cut}", "its last line", "a whole row and a line end (is the file complete?)")
    if keys and header[-1] == "key" and not text.endswith("\n"):
        warnings.append(f"line {reader.line_num}: nothing is behind its Key, not even a line end: is the key whole?")
    return list(keys.values()), warnings


def _key(line: int, cells: dict[str, str], warnings: list[str]) -> CsvKey | None:
    """A row's key; None, and a warning, where there can be none."""
    description = cells.get("description", "")
    wrong = ""
    try:
        import_secret(cells["key"])
    except InvalidSecret as error:
        wrong = f"its Key: {error.value}; expected {error.accepted}"
    if not 1 <= len(cells["name"]) <= 256 or not cells["name"].isprintable():
        wrong = "its Name is not printable text of 1 to 256 characters"
    elif len(description) > _LONGEST or not description.isprintable():
        wrong = f"its Description is not printable text of at most {_LONGEST} characters"
    if wrong:
        warnings.append(f"line {line} is left out: {wrong}")
        return None
    enabled = cells.get("enabled", "").lower() or "true"
    if enabled not in ("true", "false"):
        warnings.append(f"line {line}: Enabled is neither true nor false: read as false, as API Gateway does")
    plans = tuple(dict.fromkeys(plan for cell in cells.get("usageplanids", "").split(",") if (plan := cell.strip())))
    return CsvKey(line, cells["name"], cells["key"], description, enabled == "true", plans)
