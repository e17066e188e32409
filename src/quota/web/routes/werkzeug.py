"""Routes of Flask and whatever has a Werkzeug ``url_map``, and of Werkzeug's dispatcher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .names import NOTHING, Find, ListedRoute, Watch, mounted, upgrades


class WerkzeugRoutes:
    """Flask, and whatever has a Werkzeug ``url_map``."""

    def __init__(self, owner: Any) -> None:
        self._owner = owner

    def __call__(self, method: str, path: str, request: Mapping[str, Any] = NOTHING) -> str | None:
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

    def listed(self) -> Iterator[ListedRoute]:
        for rule in self._owner.url_map.iter_rules():
            methods = {"GET"} if rule.websocket else set(rule.methods or ())
            automatic = {"HEAD", "OPTIONS"} if getattr(rule, "provide_automatic_options", False) else {"HEAD"}
            if not rule.build_only:
                yield ListedRoute(frozenset(methods - automatic), str(rule.rule))


def _by_host(url_map: Any) -> bool:
    return url_map.host_matching or any(rule.subdomain != url_map.default_subdomain for rule in url_map.iter_rules())


class DispatchedRoutes:
    """Werkzeug's: the longest mount that a path begins with, part by part, has it; else the application at the root."""

    def __init__(self, dispatcher: Any, find: Find) -> None:
        self._dispatcher = dispatcher
        self._find = find

    def __call__(self, method: str, path: str, request: Mapping[str, Any] = NOTHING) -> str | None:
        mounts, prefix = self._dispatcher.mounts, path
        while prefix and prefix not in mounts:
            prefix = prefix.rpartition("/")[0]
        known = self._find(mounts.get(prefix, self._dispatcher.app))
        template = known(method, path[len(prefix) :] or "/", request) if known else None
        return template and prefix + template

    def watched(self) -> Iterator[Watch | None]:
        dispatcher = self._dispatcher
        yield (lambda: dispatcher.mounts), dict(dispatcher.mounts)
        for app in (dispatcher.app, *dispatcher.mounts.values()):
            known = self._find(app)
            if known is not None:
                yield from known.watched()

    def listed(self) -> Iterator[ListedRoute]:
        for prefix, app in (("", self._dispatcher.app), *self._dispatcher.mounts.items()):
            yield from mounted(prefix, self._find(app))
