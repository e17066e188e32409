"""Routes as a framework calls them, found from outside: ``/pets/{id}`` rather than ``/pets/7``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

Template = Callable[[str, str], str | None]
"""From a method and a path, below where the application is mounted, to the template that will serve it, if any."""


def templates(app: Any) -> Template | None:
    """How the application names its routes, behind any middleware that keeps it in ``.app``; None where unknown.

    Known: Starlette and FastAPI, Flask and whatever has a Werkzeug ``url_map``, Django; mounts of Starlette's and of
    Werkzeug's dispatcher.
    """
    for _ in range(64):
        owner = getattr(app, "__self__", app)
        if callable(getattr(getattr(owner, "url_map", None), "bind", None)):
            return _werkzeug(owner.url_map)
        if isinstance(getattr(owner, "mounts", None), dict):
            return _dispatcher(owner)
        if isinstance(getattr(owner, "routes", None), list):
            return lambda method, path, router=owner: _starlette(router.routes, method, path)  # type: ignore[misc] # bound
        if type(owner).__module__.startswith("django.core.handlers."):
            return _django
        app = getattr(owner, "app", None)
        if app is None:
            return None
    return None


def _werkzeug(url_map: Any) -> Template:
    from werkzeug.exceptions import HTTPException  # noqa: PLC0415 -- there, since its url_map is

    def find(method: str, path: str) -> str | None:
        try:
            rule, _ = url_map.bind("localhost").match(path, method, return_rule=True)
        except HTTPException:
            return None
        return str(rule.rule)

    return find


def _dispatcher(dispatcher: Any) -> Template:
    """The longest mount that a path begins with, part by part, has it; else the application at the root."""
    mounts = {prefix: templates(app) for prefix, app in dispatcher.mounts.items()}
    rest = templates(dispatcher.app)

    def find(method: str, path: str) -> str | None:
        prefix = path
        while prefix and prefix not in mounts:
            prefix = prefix.rpartition("/")[0]
        known = mounts.get(prefix, rest)
        template = known(method, path[len(prefix) :] or "/") if known else None
        return template and prefix + template

    return find


def _django(method: str, path: str) -> str | None:  # noqa: ARG001 -- Django's URLs do not know methods
    from django.urls import Resolver404, resolve  # noqa: PLC0415 -- there, since its handler is

    try:
        return f"/{resolve(path).route}"
    except Resolver404:
        return None


def _starlette(routes: Iterable[Any], method: str, path: str) -> str | None:
    """The first route whose pattern fits; a mount's own routes behind its path."""
    flat = getattr(sys.modules.get("fastapi.routing"), "iter_route_contexts", None)
    for route in flat(routes) if flat else routes:
        pattern = getattr(route, "path_regex", None)
        match = pattern and pattern.match(path)
        if not match or method not in (getattr(route, "methods", None) or {method}):
            continue
        inner = getattr(route, "routes", None)
        if inner and "path" in match.groupdict():
            behind = _starlette(inner, method, f"/{match['path']}")
            return f"{route.path}{behind}" if behind else str(route.path_format)
        return str(route.path_format)
    return None
