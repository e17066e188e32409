"""Routes of Starlette and FastAPI."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .names import NOTHING, Find, Finder, ListedRoute, Watch, below, frameworks_own, mounted


class StarletteRoutes:
    """Starlette's and FastAPI's: the first route that matches in full; what is mounted behind its path."""

    def __init__(self, owner: Any, find: Find) -> None:
        self.owner = owner
        self._find = find

    def __call__(self, method: str, path: str, request: Mapping[str, Any] = NOTHING) -> str | None:
        asked: Mapping[str, Any] = request if "path" in request else {"type": "http", "path": path, "headers": []}
        root = getattr(self.owner, "root_path", "") or asked.get("root_path", "")
        scope = {**asked, "method": method, "root_path": root}
        rest = below(scope, root)
        for route in _flat(self.owner.routes):
            pattern = getattr(route, "path_regex", None)
            if pattern is not None and not pattern.match(rest):
                continue
            match, child = route.matches(scope)
            if match.name == "FULL":
                return self._template(route, method, {**scope, **child})
        return None

    def watched(self) -> Iterator[Watch | None]:
        owner = self.owner
        if hasattr(owner, "router") and owner.routes is owner.router.routes:
            yield (lambda: owner.router.routes), list(owner.routes)  # as its property does
        else:
            yield (lambda: owner.routes), list(owner.routes)
        for route in owner.routes:
            included = getattr(route, "original_router", None)
            if included is not None:
                yield from StarletteRoutes(included, self._find).watched()
            if hasattr(route, "host_regex") or not frameworks_own(route, "matches", "starlette.", "fastapi."):
                yield None
            known = self._behind(route)
            if known is not None:
                yield from known.watched()

    def listed(self) -> Iterator[ListedRoute]:
        for route in _flat(self.owner.routes):
            path = getattr(route, "path_format", None)
            if getattr(route, "routes", None) is not None:
                yield from mounted(getattr(route, "path", None) or "", self._behind(route))
            elif path is not None:
                original = getattr(route, "original_route", route)
                methods = set(original.methods or ()) if hasattr(original, "methods") else {"GET"}
                yield ListedRoute(frozenset(methods - {"HEAD"}), str(path))

    def _behind(self, route: Any) -> Finder | None:
        """Return what finds the routes of a mount or a host."""
        if getattr(route, "routes", None) is None:
            return None
        return self._find(route.app) or (self._find(route) if route.routes else None)

    def _template(self, route: Any, method: str, scope: Mapping[str, Any]) -> str | None:
        known = self._behind(route)
        template = known(method, below(scope, scope["root_path"]) or "/", scope) if known else None
        if template:
            return f"{getattr(route, 'path', None) or ''}{template}"
        own = getattr(route, "path_format", None)
        return own and str(own)


def _flat(routes: Iterable[Any]) -> Iterable[Any]:
    """Routes with those of FastAPI's included routers in their places."""
    flat = getattr(sys.modules.get("fastapi.routing"), "iter_route_contexts", None)
    return flat(routes) if flat else routes
