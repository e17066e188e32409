"""Names of routes as a framework gives them, found from outside: ``/pets/{id}`` rather than ``/pets/7``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

Watch = tuple[Callable[[], Any], Any]
"""A way to read something that names depend on, and what it was: a reading that differs makes names anew."""

_MOST, _LONGEST = 4096, 256
NOTHING: Mapping[str, Any] = {}


class ListedRoute(NamedTuple):
    """A route that an application has: its methods, none for every one. ``below``: whatever is below the template."""

    methods: frozenset[str]
    template: str
    below: bool = False


class Finder(Protocol):
    """Finds the template that will serve a request; of one sort of application."""

    def __call__(self, method: str, path: str, request: Mapping[str, Any] = NOTHING) -> str | None:
        """The template, if any. ``path`` is below where the application is mounted."""

    def watched(self) -> Iterator[Watch | None]:
        """Return what the names depend on; with None among it they depend on more than that, and are not to be kept."""

    def listed(self) -> Iterator[ListedRoute]:
        """Return all routes that there are now."""


Find = Callable[[Any], Finder | None]
"""Finds how an application names its routes."""

Kept = dict[tuple[Any, str, str, str], str]


class Names:
    """Names of routes, ``"GET /pets/{id}"``: kept while the application's own routes stand as they stood."""

    def __init__(self, find: Finder) -> None:
        self._find = find
        self._state: tuple[Kept | None, list[Watch]] | None = None
        owner = getattr(find, "owner", None)
        self.rooted = owner if isinstance(getattr(owner, "root_path", None), str) else None
        """A FastAPI application, which says itself where it is mounted, whatever the server says; None of most."""

    def __call__(self, method: str, path: str, request: Mapping[str, Any]) -> str | None:
        """The name of the route that will serve a request; None where there is none."""
        kept, watched = self._state or self._renew()
        for read, was in watched:
            if read() != was:
                kept, _ = self._renew()
                break
        if kept is None:
            return self._ask(method, path, request)
        kind = request.get("type") or ("HTTP_UPGRADE" in request and upgrades(request))
        place = (kind, method, path, request.get("root_path") or "")
        name = kept.get(place)
        if name is None:
            name = self._ask(method, path, request)
            # A path that no route was found for is not kept, nor a long one: requests without a key come this far too.
            if name is not None and len(method) + len(path) + len(place[3]) <= _LONGEST:
                if len(kept) >= _MOST:
                    kept.clear()
                kept[place] = name
        return name

    def _ask(self, method: str, path: str, request: Mapping[str, Any]) -> str | None:
        template = self._find(method, path, request)
        return named(f"{method} {template}") if template else None

    def _renew(self) -> tuple[Kept | None, list[Watch]]:
        """A new dict: who still works a name out from the routes as they were keeps it in the old one."""
        found = list(self._find.watched())
        watched = [watch for watch in found if watch is not None]
        self._state = ({}, watched) if len(watched) == len(found) else (None, [])
        return self._state


def named(name: object) -> str | None:
    """A name that a plan could have for a route, else None."""
    return name if isinstance(name, str) and 0 < len(name) <= 1024 and name.isprintable() else None


def upgrades(request: Mapping[str, Any]) -> bool:
    """Tell whether a request asks for a WebSocket, by its scope or, as Werkzeug has it, by its environ."""
    kind = request.get("type")
    if kind is not None or "HTTP_UPGRADE" not in request:
        return kind == "websocket"
    wants = request.get("HTTP_CONNECTION", "").lower().split(",")
    return request["HTTP_UPGRADE"].lower() == "websocket" and "upgrade" in (want.strip(" \t") for want in wants)


def below(scope: Mapping[str, Any], root: str) -> str:
    """A scope's path below where the application is mounted, as Starlette has it; "" for the mount itself."""
    path: str = scope["path"]
    rest = path[len(root) :] if root and path.startswith(root) else path
    return rest if rest[:1] in ("", "/") else path


NO_METHOD: frozenset[str] = frozenset()
WHATEVER = ListedRoute(NO_METHOD, "/", below=True)
"""All that an application has whose routes are not known."""


def mounted(prefix: str, known: Finder | None) -> Iterator[ListedRoute]:
    """Return the routes of what is mounted behind a path."""
    for route in (WHATEVER,) if known is None else known.listed():
        yield route._replace(template=prefix + route.template)


def frameworks_own(part: Any, method: str, *frameworks: str) -> bool:
    """Tell whether the framework's own code answers; what the application's says may depend on more, and change."""
    return getattr(type(part), method).__module__.startswith(frameworks)  # type: ignore[no-any-return] # a function's
