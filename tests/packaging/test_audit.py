"""``make audit`` says what it could not check, and does not pass for it."""

import pytest

import audit

FINE = {"name": "attrs", "version": "26.1", "vulns": []}
FAULTY = {"name": "typer", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}
UNKNOWN = {"name": "redis", "skip_reason": "Dependency not found on PyPI and could not be audited: redis (8.0)"}


@pytest.mark.parametrize(
    ("dependencies", "code", "lines"),
    [
        ([FINE], 0, ["1 of 1 dependencies were looked up"]),
        ([FINE, FAULTY], 1, ["known fault: typer: CVE-1", "2 of 2 dependencies were looked up"]),
        ([FINE, UNKNOWN], 2, ["1 of 2 dependencies were looked up", "NOT CHECKED, no index knows them here: redis"]),
        ([FAULTY, UNKNOWN], 1, [
            "known fault: typer: CVE-1", "1 of 2 dependencies were looked up",
            "NOT CHECKED, no index knows them here: redis",
        ]),
        ([], 2, ["0 of 0 dependencies were looked up"]),
    ],
)  # fmt: skip
def test_what_was_not_checked_is_told(dependencies, code, lines):
    """By name, and by the exit code: a fault is 1, a dependency that no index knew is 2."""
    assert audit.told(dependencies) == (code, lines)
