"""Routes of applications: by the framework that names them."""

from __future__ import annotations

from typing import Any

from .django import DjangoRoutes
from .known import KnownRoutes
from .names import Finder, ListedRoute, Names, below, named, upgrades
from .starlette import StarletteRoutes
from .werkzeug import DispatchedRoutes, WerkzeugRoutes

__all__ = [
    "DjangoRoutes", "Finder", "KnownRoutes", "ListedRoute", "Names", "WerkzeugRoutes", "below", "named", "templates",
    "upgrades",
]  # fmt: skip


def templates(app: Any) -> Finder | None:
    """Return how the application names its routes.

    Behind middlewares that keep it in ``.app`` and the like, if it is known.

    Known: Starlette and FastAPI, Flask and whatever has a Werkzeug ``url_map``, Django; mounts of Starlette's and of
    Werkzeug's dispatcher.
    """
    for _ in range(64):
        owner = getattr(app, "__self__", app)
        if callable(getattr(getattr(owner, "url_map", None), "bind", None)):
            return WerkzeugRoutes(owner)
        if isinstance(getattr(owner, "mounts", None), dict):
            return DispatchedRoutes(owner, templates)
        if isinstance(getattr(owner, "routes", None), list):
            return StarletteRoutes(owner, templates)
        if any(kind.__module__.startswith("django.core.handlers.") for kind in type(owner).__mro__):
            return DjangoRoutes()
        app = next((inner for name in _INSIDE if (inner := getattr(owner, name, None)) is not None), None)
        if app is None:
            return None
    return None


_INSIDE = ("app", "application", "wsgi_app", "wsgi_application")
"""The names under which middlewares keep the application behind them."""
