"""The WSGI application: who may call, which operation it is, and the answer's frame."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import attrs

from ...clock import system_clock
from ...errors import ClockSkew, StoreBusy, StoreUnavailable
from ...key import new_request_id
from . import keys, plans, tags, usage
from .errors import Refused, not_found
from .plane import Plane
from .signing import check_age, check_signature, parse_query, read_claim
from .wire import Call, read_body

Operation = Callable[..., tuple[int, dict[str, Any] | None]]

log = logging.getLogger(__package__)

_STATUS = {
    200: "200 OK", 201: "201 Created", 202: "202 Accepted", 204: "204 No Content", 400: "400 Bad Request",
    403: "403 Forbidden", 404: "404 Not Found", 405: "405 Method Not Allowed", 409: "409 Conflict",
    413: "413 Content Too Large", 500: "500 Internal Server Error", 503: "503 Service Unavailable",
}  # fmt: skip
_LOCAL_HOST = re.compile(r"(localhost|[0-9.]+|\[[0-9a-f:.]+\])(:[0-9]+)?\Z", re.IGNORECASE)
_FORWARDED = ("HTTP_FORWARDED", "HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_HOST", "HTTP_X_REAL_IP", "HTTP_VIA")


def _post_keys(plane: Plane, call: Call) -> tuple[int, dict[str, Any] | None]:
    return (keys.create_key if call.one("mode") is None else keys.import_keys)(plane, call)


def _account(_: Plane, __: Call) -> tuple[int, dict[str, Any]]:
    """GetAccount: what tells a client that usage plans are on. An account of this ledger has no throttle."""
    return 200, {"apiKeyVersion": "4", "features": ["UsagePlans"]}


_ID = r"([^/]+)"
_ROUTES: dict[str, dict[str, Operation]] = {
    "/apikeys": {"GET": keys.list_keys, "POST": _post_keys},
    f"/apikeys/{_ID}": {"GET": keys.get_key, "PATCH": keys.update_key, "DELETE": keys.delete_key},
    "/usageplans": {"GET": plans.list_plans, "POST": plans.create_plan},
    f"/usageplans/{_ID}": {"GET": plans.get_plan, "PATCH": plans.update_plan, "DELETE": plans.delete_plan},
    f"/usageplans/{_ID}/keys": {"GET": plans.list_plan_keys, "POST": plans.create_plan_key},
    f"/usageplans/{_ID}/keys/{_ID}": {"GET": plans.get_plan_key, "DELETE": plans.delete_plan_key},
    f"/usageplans/{_ID}/usage": {"GET": usage.get_usage},
    f"/usageplans/{_ID}/keys/{_ID}/usage": {"PATCH": usage.update_usage},
    "/tags/(.+)": {"GET": tags.get_tags, "PUT": tags.tag, "DELETE": tags.untag},
    "/account": {"GET": _account},
}


@attrs.frozen(eq=False)
class ControlPlane:
    """API Gateway's keys and usage plans over a ledger; see ``quota.aws.control_plane``."""

    plane: Plane
    credentials: Mapping[str, str] | None = attrs.field(repr=False)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request; whatever goes wrong is an answer too."""
        request_id = new_request_id()
        kind = None
        more: tuple[tuple[str, str], ...] = ()
        try:
            status, data = self._serve(environ)
        except Refused as refused:
            status, kind, data, more = refused.status, refused.code, {"message": refused.message}, refused.fields
        except (StoreBusy, StoreUnavailable, ClockSkew) as error:
            log.warning("request %s could not be served: %s", request_id, error)
            status, kind, data = 503, "ServiceUnavailableException", {"message": "The store cannot be asked now"}
        except Exception:
            log.exception("request %s failed", request_id)
            status, kind, data = 500, "InternalServerErrorException", {"message": "Internal server error"}
        body = b"" if data is None else json.dumps(data, separators=(",", ":")).encode()
        fields = [*more, *([("Content-Type", "application/json")] if data is not None else [])]
        fields += [
            ("x-amzn-RequestId", request_id),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
        ]
        fields += [("x-amzn-ErrorType", kind)] if kind else []
        fields += [] if status == 204 else [("Content-Length", str(len(body)))]
        start_response(_STATUS[status], fields)
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]  # else it is read as the next answer

    def _serve(self, environ: WSGIEnvironment) -> tuple[int, dict[str, Any] | None]:
        path = environ.get("PATH_INFO", "").encode("latin-1", "replace").decode("utf-8", "replace")
        query = parse_query(environ.get("QUERY_STRING", ""))
        body, caller = self._allowed(environ, query)
        found = next(
            ((match, methods) for route, methods in _ROUTES.items() if (match := re.fullmatch(route, path))), None
        )
        if found is None:
            raise not_found("Unable to find the resource that the path names")
        match, methods = found
        method = environ["REQUEST_METHOD"]
        if method not in methods:
            allowed = ", ".join(methods)
            said = f"The method is not allowed here: one of {allowed}"
            raise Refused(405, "MethodNotAllowedException", said, (("Allow", allowed),))
        plane = self.plane if caller is None else self.plane.acting(caller)
        return methods[method](plane, Call(method, path, query, body), *match.groups())

    def _allowed(self, environ: WSGIEnvironment, query: list[tuple[str, str]]) -> tuple[bytes, str | None]:
        """Return the body of a request whose caller may make it, and who signed it. Raises ``Refused``."""
        if self.credentials is None:
            check_loopback(environ)
            return read_body(environ), None
        claim = read_claim(environ, query)
        secret = self.credentials.get(claim.access_key)
        if secret is None:
            raise Refused(403, "UnrecognizedClientException", "The security token included in the request is invalid.")
        check_age(claim, system_clock())
        body = read_body(environ)
        check_signature(claim, secret, environ, query, body)
        return body, claim.access_key


def check_loopback(environ: WSGIEnvironment) -> None:
    """Refuse who may not be on this machine: a proxy's client, a page in a browser. Raises ``Refused``."""
    address, host = environ.get("REMOTE_ADDR"), environ.get("HTTP_HOST", "")
    local = address is None or is_loopback(address)
    named = not host or (
        _LOCAL_HOST.match(host) is not None
        and is_loopback(host.rpartition("]")[0].lstrip("[") or host.partition(":")[0])
    )
    passed = any(name in environ for name in _FORWARDED)
    if not local or not named or passed or "HTTP_ORIGIN" in environ:
        raise Refused(
            403,
            "AccessDeniedException",
            "Without credentials only programs on this machine may call, by a loopback address",
        )


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine by its loopback interface."""
    if host.lower() == "localhost":
        return True
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
