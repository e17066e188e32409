"""Documents that are run: every Python block, and what it shows."""

import ast
import re

import pytest

import quota

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
