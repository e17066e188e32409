"""Routes as a framework calls them, found from outside: ``/pets/{id}`` rather than ``/pets/7``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

Watch = tuple[Callable[[], Any], Any]
"""A way to read something that names depend on, and what it was: a reading that differs makes names anew."""

_MOST, _LONGEST = 4096, 256
_NOTHING: Mapping[str, Any] = {}


class Finder(Protocol):
    """Finds the template that will serve a request; of one sort of application."""

    def __call__(self, method: str, path: str, request: Mapping[str, Any] = _NOTHING) -> str | None:
        """The template, if any. ``path`` is below where the application is mounted."""

    def watched(self) -> Iterator[Watch | None]:
        """Return what the names depend on; with None among it they depend on more than that, and are not to be kept."""


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
            # What no route was found for is not kept, nor what is long: requests without a key come this far too.
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


def templates(app: Any) -> Finder | None:
    """Return how the application names its routes.

    Behind middlewares that keep it in ``.app`` and the like, if it is known.

    Known: Starlette and FastAPI, Flask and whatever has a Werkzeug ``url_map``, Django; mounts of Starlette's and of
    Werkzeug's dispatcher.
    """
    for _ in range(64):
        owner = getattr(app, "__self__", app)
        if callable(getattr(getattr(owner, "url_map", None), "bind", None)):
            return _Werkzeug(owner)
        if isinstance(getattr(owner, "mounts", None), dict):
            return _Dispatcher(owner)
        if isinstance(getattr(owner, "routes", None), list):
            return _Starlette(owner)
        if any(kind.__module__.startswith("django.core.handlers.") for kind in type(owner).__mro__):
            return _Django()
        app = next((inner for name in _INSIDE if (inner := getattr(owner, name, None)) is not None), None)
        if app is None:
            return None
    return None


def django_routes() -> Finder:
    """Return how the Django project of this process names its routes."""
    return _Django()


_INSIDE = ("app", "application", "wsgi_app", "wsgi_application")
"""Where middlewares keep the application behind them."""


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


def _own(part: Any, method: str, *frameworks: str) -> bool:
    """Tell whether the framework's own code answers; what the application's says may depend on more, and change."""
    return getattr(type(part), method).__module__.startswith(frameworks)  # type: ignore[no-any-return] # a function's


class _Werkzeug:
    """Flask, and whatever has a Werkzeug ``url_map``."""

    def __init__(self, owner: Any) -> None:
        self._owner = owner

    def __call__(self, method: str, path: str, request: Mapping[str, Any] = _NOTHING) -> str | None:
        from werkzeug.exceptions import HTTPException  # noqa: PLC0415 -- there, since its url_map is

        try:
            adapter = self._adapter(request)
            rule, _ = adapter.match(path, method, return_rule=True, websocket=upgrades(request))
        except HTTPException:
            return None
        return str(rule.rule)

    def _adapter(self, request: Mapping[str, Any]) -> Any:
        url_map = self._owner.url_map
        if not _by_host(url_map) or "wsgi.url_scheme" not in request:
            return url_map.bind("localhost")
        adapt = getattr(self._owner, "create_url_adapter", None)
        if adapt is None:
            return url_map.bind_to_environ(request)
        return adapt(self._owner.request_class(dict(request), populate_request=False))

    def watched(self) -> Iterator[Watch | None]:
        owner, url_map = self._owner, self._owner.url_map
        own = all(kind.__module__ == "werkzeug.routing.converters" for kind in url_map.converters.values())
        if not own or _by_host(url_map):
            yield None
        # None is ever taken away.
        rules = url_map._rules_by_endpoint
        yield (lambda: (owner.url_map, sum(map(len, rules.values())))), (url_map, sum(map(len, rules.values())))


def _by_host(url_map: Any) -> bool:
    return url_map.host_matching or any(rule.subdomain != url_map.default_subdomain for rule in url_map.iter_rules())


class _Dispatcher:
    """Werkzeug's: the longest mount that a path begins with, part by part, has it; else the application at the root."""

    def __init__(self, dispatcher: Any) -> None:
        self._dispatcher = dispatcher

    def __call__(self, method: str, path: str, request: Mapping[str, Any] = _NOTHING) -> str | None:
        mounts, prefix = self._dispatcher.mounts, path
        while prefix and prefix not in mounts:
            prefix = prefix.rpartition("/")[0]
        known = templates(mounts.get(prefix, self._dispatcher.app))
        template = known(method, path[len(prefix) :] or "/", request) if known else None
        return template and prefix + template

    def watched(self) -> Iterator[Watch | None]:
        dispatcher = self._dispatcher
        yield (lambda: dispatcher.mounts), dict(dispatcher.mounts)
        for app in (dispatcher.app, *dispatcher.mounts.values()):
            known = templates(app)
            if known is not None:
                yield from known.watched()


class _Django:
    """Django's URLs, which do not know methods: those of ``ROOT_URLCONF``, in the language that the path begins with.

    What the thread served before says nothing about this request: its language and urlconf are left alone.
    """

    def __call__(self, method: str, path: str, request: Mapping[str, Any] = _NOTHING) -> str | None:  # noqa: ARG002 -- as above
        from django.conf import settings  # noqa: PLC0415 -- there, since its handler is
        from django.urls import LocalePrefixPattern, Resolver404, get_resolver  # noqa: PLC0415
        from django.utils import translation  # noqa: PLC0415

        prefix = settings.FORCE_SCRIPT_NAME
        if prefix and request.get("type") == "http":  # by ASGI Django takes it from the whole path
            path = request["path"].removeprefix(prefix)
        resolver = get_resolver(settings.ROOT_URLCONF)
        language = settings.LANGUAGE_CODE
        if any(isinstance(pattern.pattern, LocalePrefixPattern) for pattern in resolver.url_patterns):
            language = translation.get_language_from_path(path) or language
        try:
            with translation.override(language):
                return f"/{resolver.resolve(path).route}"
        except Resolver404:
            return None

    def watched(self) -> Iterator[Watch | None]:
        from django.conf import settings  # noqa: PLC0415
        from django.urls import get_resolver  # noqa: PLC0415

        def stated() -> tuple[Any, ...]:
            names = ("ROOT_URLCONF", "LANGUAGE_CODE", "LANGUAGES", "USE_I18N", "FORCE_SCRIPT_NAME")
            return (get_resolver(settings.ROOT_URLCONF), *(getattr(settings, name) for name in names))

        yield stated, stated()
        yield from _patterns(get_resolver(settings.ROOT_URLCONF))


def _patterns(resolver: Any) -> Iterator[Watch | None]:
    yield (lambda: resolver.url_patterns), list(resolver.url_patterns)
    for pattern in resolver.url_patterns:
        converters = getattr(pattern.pattern, "converters", {}).values()
        asked = [(pattern, "resolve"), (pattern.pattern, "match"), *((each, "to_python") for each in converters)]
        if any(not _own(asked_of, method, "django.") for asked_of, method in asked):
            yield None
        if hasattr(pattern, "url_patterns"):
            yield from _patterns(pattern)


class _Starlette:
    """Starlette's and FastAPI's: the first route that matches in full; what is mounted behind its path."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner

    def __call__(self, method: str, path: str, request: Mapping[str, Any] = _NOTHING) -> str | None:
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
                return _template(route, method, {**scope, **child})
        return None

    def watched(self) -> Iterator[Watch | None]:
        owner = self.owner
        yield (lambda: owner.routes), list(owner.routes)
        for route in owner.routes:
            included = getattr(route, "original_router", None)
            if included is not None:
                yield from _Starlette(included).watched()
            if hasattr(route, "host_regex") or not _own(route, "matches", "starlette.", "fastapi."):
                yield None
            known = _behind(route)
            if known is not None:
                yield from known.watched()


def _flat(routes: Iterable[Any]) -> Iterable[Any]:
    """Routes with those of FastAPI's included routers in their places."""
    flat = getattr(sys.modules.get("fastapi.routing"), "iter_route_contexts", None)
    return flat(routes) if flat else routes


def _behind(route: Any) -> Finder | None:
    """Return what finds the routes of a mount or a host."""
    if getattr(route, "routes", None) is None:
        return None
    return templates(route.app) or (templates(route) if route.routes else None)


def _template(route: Any, method: str, scope: Mapping[str, Any]) -> str | None:
    known = _behind(route)
    template = known(method, below(scope, scope["root_path"]) or "/", scope) if known else None
    if template:
        return f"{getattr(route, 'path', None) or ''}{template}"
    own = getattr(route, "path_format", None)
    return own and str(own)
