"""A plan's own routes by name: ``METHOD /path``, ``ANY /path`` for every method, a trailing ``/*`` for all below."""

from __future__ import annotations

from collections.abc import Container, Iterable

_MOST, _LONGEST = 4096, 256


class RouteNames:
    """The names that a plan has limits or costs for, and under which of them a call on a route is charged.

    The very name first, then the longest path, then its method before ``ANY``.
    """

    __slots__ = ("_found", "_names", "_wide")

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        parts = [(*name.partition(" "), name) for name in self._names]
        wide = [
            (path[:-1] if path.endswith("/*") else path, method == "ANY", path.endswith("/*"), method, name)
            for method, _, path, name in parts
            if path.startswith("/") and (method == "ANY" or path.endswith("/*"))
        ]
        self._wide = sorted(wide, key=lambda one: (one[2], -len(one[0]), one[1]))
        self._found: dict[str, str] = {}

    def __contains__(self, route: object) -> bool:
        return type(route) is str and self.charged(route) != ""

    @property
    def exact(self) -> frozenset[str]:
        """Return the very names."""
        return self._names

    @property
    def own(self) -> Container[str]:
        """Return what contains the routes that are charged under a name: the very names, where none is of many."""
        return self if self._wide else self._names

    def charged(self, route: str | None) -> str:
        """Return the name that a route is charged under; none is empty."""
        if route is None:
            return ""
        if route in self._names:
            return route
        if not self._wide:
            return ""
        found = self._found.get(route)
        if found is None:
            found = self._match(route)
            if len(route) <= _LONGEST:
                if len(self._found) >= _MOST:
                    self._found.clear()
                self._found[route] = found
        return found

    def _match(self, route: str) -> str:
        method, _, path = route.partition(" ")
        for own, every, below, named, name in self._wide:
            if (every or named == method) and (path.startswith(own) if below else path == own):
                return name
        return ""


class JoinedNames:
    """The names of several plans: under which of each a call is charged, in one text."""

    __slots__ = ("_all", "_exact")

    def __init__(self, names: Iterable[AnyRouteNames]) -> None:
        self._all = tuple(names)
        exact = all(each.own is not each for each in self._all)
        self._exact: Container[str] | None = frozenset().union(*(each.exact for each in self._all)) if exact else None

    def __contains__(self, route: object) -> bool:
        return type(route) is str and self.charged(route) != ""

    @property
    def own(self) -> Container[str]:
        """See ``RouteNames.own``."""
        return self if self._exact is None else self._exact

    @property
    def exact(self) -> frozenset[str]:
        """Return the very names."""
        return frozenset().union(*(each.exact for each in self._all))

    def charged(self, route: str | None) -> str:
        """Return the name that a route is charged under in all plans that have one for it; else one for each plan."""
        found = [each.charged(route) for each in self._all]
        alike = set(found) - {""}
        return "\n".join(found) if len(alike) > 1 else next(iter(alike), "")

    def each(self, charged: str) -> list[str]:
        """Return the names of each plan that ``charged`` tells of."""
        if "\n" in charged:
            return charged.split("\n")
        return [charged if charged in names.exact else "" for names in self._all]


AnyRouteNames = RouteNames | JoinedNames
