"""Tables of what is held and by which tests: ``file.py::test`` names, below ``tests/``."""

import ast
import re
from functools import cache

import paths

TESTS = paths.ROOT / "tests"


def rows(text):
    """The rows of a text's tables as lists of cells, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    heads = {at - 1 for at, line in enumerate(lines) if re.fullmatch(r"[|\s:-]+", line)}
    for at, line in enumerate(lines):
        if at not in heads and not re.fullmatch(r"[|\s:-]+", line):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


@cache
def defined(file):
    """The names that a test file defines at its top."""
    tree = ast.parse((TESTS / file).read_text("utf-8"))
    named = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}
    return named | {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def unheld(text):
    """The rows that name no test, or one that is not there."""
    for cells in rows(text):
        names = re.findall(r"`([\w/]+\.py)::(\w+)`", cells[-1])
        gone = [f"{file}::{name}" for file, name in names if not (TESTS / file).exists() or name not in defined(file)]
        if gone or not names:
            yield cells[0], gone
