"""Every Python block of the README runs, and every ``# ->`` says what really comes out."""

import ast
import re
from pathlib import Path

import pytest

import django_site  # noqa: F401 -- sets Django up: the README puts a plan in front of a project
import quota

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def play(text, names):
    """Run a document's blocks in one namespace; how many results were compared."""
    compared = 0
    for block in BLOCK.findall(text):
        lines = block.splitlines()
        for node in ast.parse(block).body:
            source = "\n".join(lines[node.lineno - 1 : node.end_lineno])
            comment = lines[node.end_lineno - 1][node.end_col_offset :].strip()
            if comment.startswith("# raises "):
                with pytest.raises(getattr(quota, comment.removeprefix("# raises "))):
                    exec(source, names)
            elif comment.startswith("# -> ") and isinstance(node, ast.Expr):
                assert str(eval(compile(ast.Expression(node.value), "README", "eval"), names)) == comment[5:], source
                compared += 1
            else:
                exec(compile(ast.Module([node], []), "README", "exec"), names)
    return compared


def test_the_readme_is_true():
    """Its blocks run in order, and each result that it shows is the result."""
    assert play((ROOT / "README.md").read_text("utf-8"), {"__name__": "readme"}) > 20


def test_a_false_readme_is_caught():
    """A result that differs fails, as does a block that raises or does not raise."""
    for lie in ("1 + 1  # -> 3", "1 / 0", "1 + 1  # raises InvalidPlan"):
        with pytest.raises((AssertionError, ZeroDivisionError, pytest.fail.Exception)):
            play(f"```python\n{lie}\n```", {})
