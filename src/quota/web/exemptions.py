"""Paths that pass unasked: ``"/health"``, ``"/static/*"``, ``"GET /docs"``. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import InvalidValue


class Exemptions:
    """All that the setting ``exempt`` says, checked. Raises ``InvalidValue``."""

    def __init__(self, exempt: object) -> None:
        patterns = [_pattern(pattern) for pattern in _several(exempt)]
        self._exact = frozenset(p for p in patterns if not p[1].endswith("*"))
        self._under = tuple((m, path[:-1]) for m, path in patterns if path.endswith("*"))

    def passes(self, method: str, path: str) -> bool:
        """Tell whether a path is exempt. One with dot segments never is by what it begins with."""
        if not self._exact and not self._under:
            return False
        methods = ("", "GET", "HEAD") if method == "HEAD" else ("", method)
        if any((own, path) in self._exact for own in methods):
            return True
        if not {".", ".."}.isdisjoint(path.split("/")):
            return False
        return any(own in methods and path.startswith(start) for own, start in self._under)


def _several(values: object) -> Iterable[object]:
    return (values,) if isinstance(values, str) else values if isinstance(values, Iterable) else (values,)


def _pattern(pattern: object) -> tuple[str, str]:
    """(method or nothing, path)."""
    text = pattern if isinstance(pattern, str) else ""
    method, _, path = text.rpartition(" ")
    if not path.startswith(("/", "*")) or "*" in path[:-1] or " " in method:
        raise InvalidValue("exempt", pattern, "'/path', '/path/*' or 'METHOD /path'")
    return method, path
