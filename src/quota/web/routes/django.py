"""Routes of a Django project."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .names import NOTHING, ListedRoute, Watch, frameworks_own


class DjangoRoutes:
    """Django's URLs, which do not know methods: those of ``ROOT_URLCONF``, in the language that the path begins with.

    What the thread served before says nothing about this request: its language and urlconf are left alone.
    """

    def __call__(self, method: str, path: str, request: Mapping[str, Any] = NOTHING) -> str | None:  # noqa: ARG002 -- as above
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

    def listed(self) -> Iterator[ListedRoute]:
        from django.conf import settings  # noqa: PLC0415
        from django.urls import LocalePrefixPattern, get_resolver  # noqa: PLC0415
        from django.utils import translation  # noqa: PLC0415

        patterns = get_resolver(settings.ROOT_URLCONF).url_patterns
        local = any(isinstance(pattern.pattern, LocalePrefixPattern) for pattern in patterns)
        languages = [code for code, _ in settings.LANGUAGES] if local else [settings.LANGUAGE_CODE]
        found: dict[ListedRoute, None] = {}
        for language in languages:
            with translation.override(language):
                found |= dict.fromkeys(_listed(patterns, ""))
        yield from found


def _listed(patterns: Any, before: str) -> Iterator[ListedRoute]:
    for pattern in patterns:
        own = str(pattern.pattern)
        route = before + own.removeprefix("^") if before else own  # as a resolver joins them
        if hasattr(pattern, "url_patterns"):
            yield from _listed(pattern.url_patterns, route)
        else:
            yield ListedRoute(_methods(pattern.callback), f"/{route}")


def _methods(view: Any) -> frozenset[str]:
    """Return the methods that a view is known to have: one of a class, or of the REST framework's."""
    kind = getattr(view, "view_class", None) or getattr(view, "cls", None)
    actions = getattr(view, "actions", None)
    if not actions:
        actions = [name for name in getattr(kind, "http_method_names", ()) if hasattr(kind, name)]
    return frozenset(map(str.upper, actions)) - {"HEAD", "OPTIONS"}


def _patterns(resolver: Any) -> Iterator[Watch | None]:
    yield (lambda: resolver.url_patterns), list(resolver.url_patterns)
    for pattern in resolver.url_patterns:
        converters = getattr(pattern.pattern, "converters", {}).values()
        asked = [(pattern, "resolve"), (pattern.pattern, "match"), *((each, "to_python") for each in converters)]
        if any(not frameworks_own(asked_of, method, "django.") for asked_of, method in asked):
            yield None
        if hasattr(pattern, "url_patterns"):
            yield from _patterns(pattern)
