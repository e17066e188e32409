"""The WSGI application of the usage page: who asks, in which form, and what is answered."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qs
from wsgiref.types import StartResponse, WSGIEnvironment

import attrs

from ...decision import Reason
from ...errors import ClockSkew, InvalidValue, StoreBusy, StoreUnavailable, UnknownAccount, UnknownKey, UnknownPlan
from ...headers import PROBLEM_TYPE
from ...key import ApiKey
from ...ledger.sync import Ledger
from ..addresses import Trusted, address_of, check_proxies, counted_by
from ..bodies import read_input
from ..guesses import Guesses
from ..settings import failed_keys as check_failed_keys
from .data import collect, find_zone
from .html import POLICY, form_page, usage_html

log = logging.getLogger(__package__)

_MOST_FORM = 4096
_GONE = (UnknownAccount, UnknownKey, UnknownPlan)
"""Errors where something was removed between being found and being told of."""

_STATUS = {
    200: "200 OK", 400: "400 Bad Request", 401: "401 Unauthorized", 403: "403 Forbidden", 404: "404 Not Found",
    405: "405 Method Not Allowed", 413: "413 Content Too Large", 415: "415 Unsupported Media Type",
    429: "429 Too Many Requests", 500: "500 Internal Server Error", 503: "503 Service Unavailable",
}  # fmt: skip
_SHUT = {
    Reason.DISABLED_KEY: "This key is disabled", Reason.EXPIRED_KEY: "This key has expired",
    Reason.ADDRESS_NOT_ALLOWED: "This key may not be used from here",
}  # fmt: skip
_FIELDS = [
    ("Content-Security-Policy", POLICY), ("Cache-Control", "no-store"), ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"), ("Vary", "Accept"),
]  # fmt: skip


class _Refused(Exception):
    def __init__(self, status: int, message: str, *fields: tuple[str, str]) -> None:
        super().__init__(status, message)
        self.status, self.message, self.fields = status, message, list(fields)


def usage_page(
    ledger: Ledger, *, header: str = "x-api-key", failed_keys: str = "20/minute", trusted_proxies: Trusted = 0
) -> UsagePage:
    """Return a WSGI application that shows who holds a key what that key has used, and nothing of any other.

    ``GET /usage`` with the key in ``header``, or ``POST /usage`` with it in the form's field ``key``; ``zone`` names a
    time zone (UTC). JSON, or HTML where ``Accept`` prefers that. Nothing is charged, and an exhausted key is shown.
    ``failed_keys``: how many keys that nobody has an address may try. ``trusted_proxies``: as the middlewares have it.

    Raises:
        InvalidValue: naming the argument that cannot be meant.
    """
    if not isinstance(ledger, Ledger):
        raise InvalidValue("ledger", type(ledger), "a Ledger")
    if not isinstance(header, str) or not header.isascii() or not header.replace("-", "").isalnum():
        raise InvalidValue("header", header, "the name of a header, such as 'x-api-key'")
    limit = check_failed_keys(failed_keys)
    if limit is None:
        raise InvalidValue("failed_keys", failed_keys, "one limit, as in '20/minute'")
    guesses = Guesses(limit, ledger._clock)
    return UsagePage(ledger, "HTTP_" + header.upper().replace("-", "_"), guesses, check_proxies(trusted_proxies))


@attrs.frozen(eq=False)
class UsagePage:
    """The application; see ``usage_page``."""

    ledger: Ledger
    _variable: str
    _guesses: Guesses
    _proxies: Any

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        method, as_html = environ["REQUEST_METHOD"], _prefers_html(environ.get("HTTP_ACCEPT", ""))
        more: list[tuple[str, str]] = []
        zone = "UTC"
        try:
            secret, zone = self._asked(environ)
            if not secret and as_html and method != "POST":
                status, data = 200, None
            else:
                status, data = 200, collect(self.ledger, self._key(secret, environ), zone)
            text = json.dumps(data) if not as_html else form_page(zone) if data is None else usage_html(data)
        except _Refused as refused:
            status, more = refused.status, refused.fields
            text = form_page("UTC", refused.message) if as_html else _problem(status, refused.message)
        except (StoreBusy, StoreUnavailable, ClockSkew, *_GONE) as error:
            log.warning("usage could not be shown: %s", error)
            status, message = 503, "Usage cannot be shown now; please try again"
            text = form_page("UTC", message) if as_html else _problem(status, message)
        except Exception:
            log.exception("usage could not be shown")
            status = 500
            text = form_page("UTC", "Something went wrong here") if as_html else _problem(500, "Internal server error")
        body = text.encode("utf-8", "replace")
        kind = "text/html; charset=utf-8" if as_html else "application/json" if status == 200 else PROBLEM_TYPE
        length = ("Content-Length", str(len(body)))
        start_response(_STATUS[status], [("Content-Type", kind), length, *_FIELDS, *more])
        return [b"" if method == "HEAD" else body]

    def _asked(self, environ: WSGIEnvironment) -> tuple[str, str]:
        """The key and the time zone of a request. Raises ``_Refused``."""
        if environ.get("PATH_INFO", "") not in ("", "/usage"):
            raise _Refused(404, "There is nothing here but /usage")
        method = environ["REQUEST_METHOD"]
        query = _parse(environ.get("QUERY_STRING", ""))
        if set(query) - {"zone"}:
            raise _Refused(
                400, "An address takes a zone alone: a key goes in a header or the form, never in an address"
            )
        if method == "POST":
            given = _parse(_read_form(environ))
        elif method in ("GET", "HEAD"):
            given = {**query, "key": environ.get(self._variable, "").strip()}
        else:
            raise _Refused(405, "GET or POST", ("Allow", "GET, HEAD, POST"))
        zone = given.get("zone") or query.get("zone") or "UTC"
        try:
            find_zone(zone)
        except InvalidValue as error:
            raise _Refused(400, f"zone: expected {error.accepted}") from None
        return given.get("key", "").strip(), zone

    def _key(self, secret: str, environ: WSGIEnvironment) -> ApiKey:
        """The key of a secret. Raises ``_Refused``, with the same words for every secret that nobody has."""
        challenge = ("WWW-Authenticate", f'ApiKey in="header", name="{self._variable[5:].replace("_", "-").lower()}"')
        if not secret:
            raise _Refused(401, "A key is needed", challenge)
        address = address_of(environ, self._proxies)
        decision = self.ledger.peek(secret, address=address)
        key = decision.key
        if decision.reason is Reason.STORE_UNAVAILABLE:
            raise _Refused(503, "Usage cannot be shown now; please try again")
        if decision.reason in _SHUT:
            raise _Refused(403, _SHUT[decision.reason])
        if key is None:
            refusal = self._guesses.count(counted_by(address) if address else "unknown")
            if refusal is not None:
                retry = [] if refusal.retry_after is None else [("Retry-After", str(refusal.retry_after))]
                raise _Refused(429, "Too many keys that are none; please try again in a while", *retry)
            raise _Refused(401, "This is no key that is known here", challenge)
        return self.ledger.get_key(key.id)


def _problem(status: int, message: str) -> str:
    return json.dumps({"title": _STATUS[status][4:], "status": status, "detail": message})


def _parse(text: str) -> dict[str, str]:
    try:
        found = parse_qs(text, keep_blank_values=True, max_num_fields=8, errors="replace")
    except ValueError:
        raise _Refused(400, "Too many fields") from None
    return {name: values[0] for name, values in found.items()}


def _read_form(environ: WSGIEnvironment) -> str:
    if environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise _Refused(415, "A form is expected: application/x-www-form-urlencoded")
    length = environ.get("CONTENT_LENGTH") or "0"
    if not length.isascii() or not length.isdigit():
        raise _Refused(400, "Content-Length is no number")
    if len(length) > 9 or int(length) > _MOST_FORM:
        raise _Refused(413, f"A form is at most {_MOST_FORM} bytes")
    form = read_input(environ, int(length))
    if len(form) < int(length):
        raise _Refused(400, "The form ended before its Content-Length")
    return form.decode("utf-8", "replace")


def _prefers_html(accept: str) -> bool:
    """Tell whether HTML comes before JSON in what a client accepts; programs accept anything, and get JSON."""
    kinds = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    return "text/html" in kinds and (
        "application/json" not in kinds or kinds.index("text/html") < kinds.index("application/json")
    )
