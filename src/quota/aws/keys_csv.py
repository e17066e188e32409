"""API keys from a CSV file in API Gateway's import format: Name, Key, Description, Enabled, UsagePlanIds."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any

import attrs

from ..errors import InvalidSecret, InvalidValue
from ..key import digest, import_secret
from .read import JSON

_COLUMNS = ("Name", "Key", "Description", "Enabled", "UsagePlanIds")
_REQUIRED = ("Name", "Key")
_LONGEST = 125_000
DESCRIPTIONS = ("description", f"{JSON}description")
"""The names under which a key's metadata has its description."""

_HEADER = "a header with Name and Key, each column once (is it a CSV of keys?)"
_SEPARATORS = ",;\t"
_SAID = re.compile(r"\s*+sep=([,;\t|])[ \t]*+(?=[\r\n])", re.IGNORECASE)


@attrs.frozen
class CsvKey:
    """One row. ``line`` is where it ends in the file; ``description`` may have line breaks."""

    line: int
    name: str
    secret: str = attrs.field(repr=False)
    description: str = ""
    enabled: bool = True
    plans: tuple[str, ...] = ()


def parse_csv(
    name: str, text: str, *, names: tuple[int, int] = (1, 256), whole: bool = False
) -> tuple[list[CsvKey], list[str]]:
    """The rows of a file called ``name``, and warnings about those that are left out or read in a way of our own.

    Columns come in any order and case, cells are trimmed, columns of other names are ignored; ``Name`` and ``Key`` must
    be there. Cells are separated by commas, or by what spreadsheets write in their place: ``;``, a tab, what ``sep=``
    in the first line says. Lines without anything in them are skipped. No message shows a cell: it may be a secret.
    ``names``: how short and how long a name may be. ``whole``: whether the text is known not to be cut short.

    Raises:
        InvalidValue: for a file that is no such table from its first line to its last (one that was cut short too).
    """
    reader = _reader(name, text.removeprefix("\ufeff"))
    keys: dict[bytes, CsvKey] = {}
    warnings: list[str] = []
    cut = 0
    try:
        rows = (row for row in reader if any(cell.strip() for cell in row))
        header = [cell.strip().lower() for cell in next(rows, [])]
        _check_header(f"{name} line {reader.line_num or 1}", header)
        for found in rows:
            row = found if len(found) <= len(header) else _joined(found)
            if len(row) != len(header):
                accepted = f"{len(header)}, as the header has (is the file complete?)"
                raise InvalidValue(f"{name} line {reader.line_num}", f"{len(row)} cells", accepted)
            cells = dict(zip(header, (cell.strip() for cell in row), strict=True))
            key = _key(reader.line_num, cells, warnings, names)
            if key is None:
                cut = reader.line_num
                continue
            if (earlier := keys.get(digest(key.secret))) is not None:
                warnings.append(f"line {key.line}: the same key as in line {earlier.line}, which it replaces")
            keys[digest(key.secret)] = key
    except csv.Error as error:
        raise InvalidValue(f"{name} line {reader.line_num}", str(error), "CSV, complete") from None
    if whole or text.endswith("\n"):
        return list(keys.values()), warnings
    if cut == reader.line_num:
        raise InvalidValue(f"{name} line {cut}", "its last line", "a whole row and a line end (is the file complete?)")
    if keys and header[-1] == "key":
        warnings.append(f"line {reader.line_num}: nothing is behind its Key, not even a line end: is the key whole?")
    return list(keys.values()), warnings


def as_metadata(description: str) -> dict[str, str]:
    """Return what a key keeps of its description: the text, or JSON of one with line breaks, as ``aws`` keeps it."""
    plain, as_json = DESCRIPTIONS
    if not description or description.isprintable():
        return {plain: description} if description else {}
    return {as_json: json.dumps(description)}


def _reader(name: str, text: str) -> Any:
    """A reader of the table that the text is, told by what its cells are separated."""
    if text.lstrip()[:1] in ("{", "["):
        raise InvalidValue(f"{name} line 1", "JSON", _HEADER)
    said = _SAID.match(text)
    separator = said[1] if said else _separator(text)
    if said:
        text = "\n" * said[0].count("\n") + text[said.end() :]
    return csv.reader(
        io.StringIO(_trim(text, separator), newline=""), delimiter=separator, skipinitialspace=True, strict=True
    )


def _check_header(where: str, header: list[str]) -> None:
    counts = {column: header.count(column.lower()) for column in _COLUMNS}
    wrong = [f"no column {column}" for column in _REQUIRED if not counts[column]]
    wrong += [f"{count} columns {column}" for column, count in counts.items() if count > 1]
    if wrong:
        raise InvalidValue(where, ", ".join(wrong), _HEADER)


def _separator(text: str) -> str:
    """Return what stands between the columns of the first line that has any.

    The one under which Name and Key are columns.
    """
    header = next((line for line in text.splitlines() if line.strip(_SEPARATORS + " ")), "")
    for separator in _SEPARATORS:
        cells = {cell.strip().strip('"').strip().lower() for cell in header.split(separator)}
        if cells >= {column.lower() for column in _REQUIRED}:
            return separator
    return _SEPARATORS[0]


def _trim(text: str, separator: str) -> str:
    """Without blanks around quoted cells, of which strict CSV knows nothing; a quote within a cell is a cell's own."""
    ends, blank = rf"{re.escape(separator)}\r\n", " " if separator == "\t" else r" \t"
    cell = re.compile(rf'(?:[{blank}]*+("(?:[^"]|"")*+")[{blank}]*+|[^{ends}]*+)([{ends}]|\Z)')
    return cell.sub(lambda found: found[0] if found[1] is None else found[1] + found[2], text)


def _joined(cells: list[str]) -> list[str]:
    """Return a row whose cells from one that begins with a single quote to one that ends with it are joined."""
    begin = next((at for at, cell in enumerate(cells) if re.match(r"\s*'[^']*\Z", cell)), None)
    end = next(
        (at for at, cell in enumerate(cells) if begin is not None and at > begin and re.search(r"\A[^']*'\s*\Z", cell)),
        None,
    )
    if begin is None or end is None:
        return cells
    return [*cells[:begin], ",".join(cells[begin : end + 1]), *cells[end + 1 :]]


def _key(line: int, cells: dict[str, str], warnings: list[str], names: tuple[int, int]) -> CsvKey | None:
    """A row's key; None, and a warning, where there can be none."""
    description = cells.get("description", "")
    wrong = ""
    try:
        import_secret(cells["key"])
    except InvalidSecret as error:
        wrong = f"its Key: {error.value}; expected {error.accepted}"
    least, most = names
    if not least <= len(cells["name"]) <= most or not cells["name"].isprintable():
        wrong = f"its Name is not printable text of {least} to {most} characters"
    elif len(description) > _LONGEST:
        wrong = f"its Description is too long to be kept: {len(description)} characters"
    if wrong:
        warnings.append(f"line {line} is left out: {wrong}")
        return None
    enabled = cells.get("enabled", "").lower() or "true"
    if enabled not in ("true", "false"):
        warnings.append(f"line {line}: Enabled is neither true nor false: read as false, as API Gateway does")
    plans = tuple(
        dict.fromkeys(plan for cell in cells.get("usageplanids", "").strip("'").split(",") if (plan := cell.strip()))
    )
    return CsvKey(line, cells["name"], cells["key"], description, enabled == "true", plans)
