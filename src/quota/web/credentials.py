"""Keys that a request presents: found, and hidden from what is behind, in every place where one may come."""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from typing import Any

from .sources import POSSIBLE, UNKNOWN, bearer, find_key, hidden, hide_parameters

Headers = dict[str, tuple[str, str]]
"""All that was hidden, by name: (what stands there now, what came)."""

_STARS = "****"
_NONE = ("", "")
_BEARER = re.compile(r"(?:^|,)[ \t]*bearer\b", re.IGNORECASE)
_SCHEME = re.compile(r"[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+[ \t]+[^ \t]")


class Withheld:
    """Keys that a middleware hid, kept for another one behind it; its repr shows nothing. ``query``: as a header."""

    __slots__ = ("headers", "query")
    PLACE = "quota.withheld"
    headers: Headers
    query: tuple[str, str]

    __init__ = object.__init__


def _withheld(headers: Headers, query: tuple[str, str] = _NONE, before: Withheld | None = None) -> Withheld:
    held: Withheld = Withheld()
    held.headers = {**before.headers, **headers} if before else headers
    held.query = before.query if before and not query[1] else query
    return held


class Places:
    """Where keys may be presented, as ``check_sources`` gives it."""

    def __init__(self, sources: tuple[str, ...]) -> None:
        self._sources = sources
        self._parameters = tuple(f"{source[1:]}=" for source in sources if source[0] == "?")
        names = [source for source in sources if source[0] != "?"]
        in_cgi = [(name, "HTTP_" + name.upper().replace("-", "_")) for name in names]
        # Apache keeps what came under a name of its own when it redirects within.
        self._variables = [(name, variable, f"REDIRECT_{variable}") for name, variable in in_cgi]
        self._fields = frozenset(name.encode() for name in names)
        self._alone = frozenset() if self._parameters else self._fields
        self._spelled = {field: name for name in names for field in (*_spellings(name), name.encode())}

    def of_environ(self, environ: MutableMapping[str, Any], *, redact: bool, find: bool = True) -> str | None:
        """The key that a WSGI request presents. With ``redact`` it is hidden there and in the URLs that servers log."""
        headers = {}
        for name, variable, _ in self._variables:
            text = environ.get(variable)
            if text:
                headers[name] = text
        query = environ.get("QUERY_STRING", "") if self._parameters else ""
        before = environ.get(Withheld.PLACE)
        came, whole = _as_they_came(headers, query, before) if before else (headers, query)
        secret, source = find_key(came.get, whole, self._sources) if find else (None, "")
        if not redact or not (headers or query):
            return secret
        last = hidden(secret)
        hides = _hides(headers, came, source, last)
        for name, variable, redirected in self._variables:
            if name in hides:
                environ[variable] = hides[name][0]
                if redirected in environ:
                    environ[redirected] = _STARS
        for variable in ("QUERY_STRING", "REDIRECT_QUERY_STRING", "RAW_URI", "REQUEST_URI") if query else ():
            url = environ.get(variable, "")
            start = 0 if variable.endswith("QUERY_STRING") else url.find("?") + 1 or len(url)
            if start < len(url):
                environ[variable] = url[:start] + self._without_keys(url[start:], source, last)
        environ[Withheld.PLACE] = _withheld(hides, (environ["QUERY_STRING"], whole) if query else _NONE, before)
        return secret

    def of_scope(self, scope: MutableMapping[str, Any], *, redact: bool, find: bool = True) -> str | None:
        """The key that an ASGI request presents. With ``redact`` it is hidden in the scope itself.

        That is where the server's log looks; and in the very list of headers, which requests made earlier keep.
        """
        spelled, every, before = self._spelled, scope["headers"], scope.get(Withheld.PLACE)
        lines = [line for line in every if line[0] in spelled]
        if len(lines) == 1 and lines[0][0] in self._alone and find and redact and type(every) is list and not before:
            line = lines[0]  # nearly always: made short
            name, text = spelled[line[0]], line[1].decode("latin-1")
            secret = bearer(text) if name == "authorization" else text
            if POSSIBLE.match(secret):
                last = _STARS if secret == UNKNOWN else _STARS + secret[-4:]
                every[every.index(line)] = (line[0], last.encode())
                scope[Withheld.PLACE] = held = Withheld()
                held.headers, held.query = {name: (last, text)}, _NONE
                return secret
        headers: dict[str, str] = {}
        for field, value in lines:
            name, text = spelled[field], value.decode("latin-1")
            if field in self._fields:
                headers[name] = f"{headers[name]},{text}" if name in headers else text
        query = scope.get("query_string", b"").decode("latin-1") if self._parameters else ""
        came, whole = _as_they_came(headers, query, before) if before else (headers, query)
        secret, source = find_key(came.get, whole, self._sources) if find else (None, "")
        if not redact or not (lines or query):
            return secret
        last = hidden(secret)
        hides = _hides(headers, came, source, last)
        if hides or any(line[0] not in self._fields for line in lines):
            self._rewrite(scope, lines, hides)
        for variable in ("query_string", "raw_path") if query else ():
            url = (scope.get(variable) or b"").decode("latin-1")
            start = 0 if variable == "query_string" else url.find("?") + 1 or len(url)
            if start < len(url):
                scope[variable] = (url[:start] + self._without_keys(url[start:], source, last)).encode("latin-1")
        now = (scope["query_string"].decode("latin-1"), whole) if query else _NONE
        scope[Withheld.PLACE] = _withheld(hides, now, before)
        return secret

    def _without_keys(self, query: str, source: str, last: str) -> str:
        return hide_parameters(query, self._parameters, f"{source[1:]}=", last)

    def _rewrite(self, scope: MutableMapping[str, Any], lines: list[tuple[bytes, bytes]], hides: Headers) -> None:
        """One line for each header that is hidden; its namesakes with underscores, as CGI reads them, hidden too."""
        every = scope["headers"]
        if not isinstance(every, list):
            every = scope["headers"] = list(every)
        rewritten = set()
        for line in lines:
            field = line[0]
            name = self._spelled[field]
            if name in hides or field not in self._fields:
                place = every.index(line)
                if field in rewritten:
                    del every[place]
                else:
                    every[place] = (field, (hides[name][0] if field in self._fields else _STARS).encode())
                    rewritten.add(field)


def _spellings(name: str) -> list[bytes]:
    """A header's name with dashes and underscores in each other's place: the same where names are those of CGI."""
    parts = re.split("[-_]", name)
    found = [parts[0]] if len(parts) <= 6 else []
    for part in parts[1:]:
        found = [f"{start}{mark}{part}" for start in found for mark in "-_"]
    return [text.encode() for text in found]


def _hides(headers: dict[str, str], came: dict[str, str], source: str, last: str) -> Headers:
    """Return what is to stand in each header that may hold a key and is not hidden yet, and what came in it."""
    hides = {}
    for name, text in headers.items():
        if name == source:
            hides[name] = (last, came[name])
        elif came[name] is text and _may_hold_a_key(name, text):
            hides[name] = (_STARS, text)
    return hides


def _may_hold_a_key(name: str, text: str) -> bool:
    """Tell whether a header is not blank and holds no other credential, as ``Basic`` is."""
    if name == "authorization" and _SCHEME.match(text) and not _BEARER.search(text):
        return False
    return bool(text.strip(" \t"))


def _as_they_came(headers: dict[str, str], query: str, before: Withheld) -> tuple[dict[str, str], str]:
    """Headers and query as they came, where they still stand as another middleware left them when it hid keys."""
    came = {}
    for name, text in headers.items():
        now, original = before.headers.get(name, ("", ""))
        came[name] = original if text == now else text
    return came, before.query[1] if query and query == before.query[0] else query
