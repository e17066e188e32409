"""Keys for the names in a CSV, all of them or none; their secrets go to a new file that its owner alone can read."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ...key import IssuedKey
from ..common import Unshown, WrongUse, opened, read_text, several
from ..show import print_json, say

_COLUMNS = ("Name", "Key", "Id")


def issue_table(
    store: str | None, source: str, out: Path, plans: Sequence[str], account: str | None, prefix: str, *, as_json: bool
) -> None:
    """Issue a key for each name and write names, secrets and ids; whatever goes wrong, no key is left behind."""
    if len(plans) > 1:
        raise WrongUse("--csv issues keys on one plan: 'quota key attach' puts them on others")
    names = _names("standard input" if source == "-" else source, read_text(source))
    with opened(store, create=not plans) as ledger:
        plan = ledger.get_plan(plans[0]) if plans else None
        with _new_file(out) as file:
            issued = ledger.issue_keys(names, plan, prefix=prefix, account=account)
            try:
                _write(file, issued)
            except BaseException:
                for one in issued:
                    ledger.remove_key(one.key)
                raise
    if as_json:
        print_json({"issued": [{"id": key.id, "name": key.name} for key, _ in issued], "file": str(out)})
    else:
        say(f"issued {several(len(issued), 'key')}; secrets are in {out}, which its owner alone can read")


def _names(shown: str, text: str) -> list[str]:
    """The column ``Name``; no message shows a cell."""
    rows = [row for row in csv.reader(text.splitlines(), strict=False) if any(cell.strip() for cell in row)]
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    if header.count("name") != 1:
        raise WrongUse(f"{shown}: no CSV with a header that has the column Name, once")
    at = header.index("name")
    names = [row[at].strip() if at < len(row) else "" for row in rows[1:]]
    if not names:
        raise WrongUse(f"{shown}: there are no names below the header")
    for number, name in enumerate(names, 1):
        if not name or len(name) > 256 or not name.isprintable():
            raise WrongUse(f"{shown}: name {number} is no printable text of 1 to 256 characters")
    return names


@contextmanager
def _new_file(path: Path) -> Iterator[int]:
    """A file of its owner's alone, made now: one that is there is never replaced. Gone again where something fails."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    except FileExistsError:
        raise WrongUse(
            f"{path} is there already, and what is in it may be somebody's secrets: give a new name"
        ) from None
    except OSError as error:
        raise WrongUse(f"{path}: {error.strerror}") from None
    try:
        yield file
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)


def _write(file: int, issued: Sequence[IssuedKey]) -> None:
    """To the disk, before anybody is told that it is there."""
    try:
        with os.fdopen(os.dup(file), "w", encoding="utf-8", newline="") as text:
            rows = csv.writer(text)
            rows.writerow(_COLUMNS)
            rows.writerows((key.name, secret, key.id) for key, secret in issued)
            text.flush()
            os.fsync(file)
    except OSError as error:
        raise Unshown(
            f"the secrets could not be written ({error.strerror or error}): the keys are removed again"
        ) from None
