"""The routes that an application has, and those of a plan that it has not."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from .names import Finder, ListedRoute

_NEAREST = 0.5


class KnownRoutes:
    """An application's routes, as its framework lists them."""

    def __init__(self, find: Finder) -> None:
        self._find = find

    def names(self) -> list[str]:
        """Return them as a plan would name them, in order."""
        return sorted({name for route in self._find.listed() for name in _names(route)})

    def missing(self, wanted: Iterable[str]) -> dict[str, list[str]]:
        """Return what is wanted and not there, with the nearest names that are."""
        listed = list(self._find.listed())
        lost = [name for name in wanted if not any(_has(route, name) for route in listed)]
        known = sorted({name for route in listed for name in _names(route)}) if lost else []
        return {name: get_close_matches(name, known, 3, _NEAREST) for name in lost}


def _names(route: ListedRoute) -> list[str]:
    ending = "*" if route.below else ""
    return [f"{method} {route.template}{ending}" for method in route.methods or ("ANY",)]


def _has(route: ListedRoute, name: str) -> bool:
    """Tell whether calls on an application's route may be charged under a name."""
    method, _, path = name.partition(" ")
    if not path.startswith("/") or not (method == "ANY" or not route.methods or method in route.methods):
        return False
    start = path[:-1] if path.endswith("/*") else None
    if route.below:
        return path.startswith(route.template) or (start is not None and route.template.startswith(start))
    return route.template == path if start is None else route.template.startswith(start) or route.template == path
