"""AWS Signature Version 4, verified: in the header Authorization, or in the query as of presigned URLs.

The payload's hash is always of the body that came. Source: "Create a signed AWS API request", IAM User Guide.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from itertools import product
from posixpath import normpath
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote

from ...clock import to_us
from .errors import Refused
from .instants import parse_basic, write_basic

SKEW = 300
"""Seconds by which a signature's date may be off, as at most of AWS's services."""

_DIFFERS = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access "
    "Key and signing method. Consult the service documentation for details."
)
_ALGORITHM = "AWS4-HMAC-SHA256"
_SERVICE = "apigateway"
_SCOPE = re.compile(r"([^/\s]+)/(\d{8})/([a-z0-9-]+)/([^/\s]+)/aws4_request")
_LONGEST_EXPIRY = 604_800
_UNSIGNED = "X-Amz-Signature"


class Claim(NamedTuple):
    """Everything that a request says of its signature."""

    access_key: str
    day: str
    region: str
    signed: tuple[str, ...]
    signature: str
    date: str
    lasts: int | None
    in_query: bool

    @property
    def scope(self) -> str:
        return f"{self.day}/{self.region}/{_SERVICE}/aws4_request"


def read_claim(environ: Mapping[str, Any], query: list[tuple[str, str]]) -> Claim:
    """Return what a request claims, checked for its form. Raises ``Refused``."""
    parameters = dict(query)
    header = environ.get("HTTP_AUTHORIZATION", "")
    lasts = None
    if header:
        kind, _, rest = header.partition(" ")
        fields = dict(part.strip().partition("=")[::2] for part in rest.split(","))
        date = environ.get("HTTP_X_AMZ_DATE", "")
    elif "X-Amz-Algorithm" in parameters:
        kind = parameters["X-Amz-Algorithm"]
        names = {"Credential": "X-Amz-Credential", "SignedHeaders": "X-Amz-SignedHeaders", "Signature": _UNSIGNED}
        fields = {field: parameters.get(name, "") for field, name in names.items()}
        date = parameters.get("X-Amz-Date", "")
        expires = parameters.get("X-Amz-Expires", "")
        if not re.fullmatch(r"[0-9]{1,6}", expires) or not 0 < int(expires) <= _LONGEST_EXPIRY:
            raise _incomplete(f"X-Amz-Expires must be a number of seconds from 1 to {_LONGEST_EXPIRY}")
        lasts = int(expires)
    else:
        raise Refused(403, "MissingAuthenticationTokenException", "Missing Authentication Token")
    scope = _SCOPE.fullmatch(fields.get("Credential", ""))
    signed = tuple(fields.get("SignedHeaders", "").split(";"))
    signature = fields.get("Signature", "")
    if kind != _ALGORITHM:
        raise _incomplete(f"the algorithm must be {_ALGORITHM}")
    if scope is None:
        raise _incomplete("Credential must be ACCESS_KEY/YYYYMMDD/REGION/apigateway/aws4_request")
    if "host" not in signed or not re.fullmatch("[0-9a-f]{64}", signature):
        raise _incomplete("SignedHeaders must name host, and Signature be 64 hexadecimal digits")
    if scope[4] != _SERVICE:
        raise _wrong(f"Credential should be scoped to correct service: '{_SERVICE}'. ")
    return Claim(scope[1], scope[2], scope[3], signed, signature, date, lasts, not header)


def check_age(claim: Claim, now: int) -> None:
    """Refuse a signature of another time. ``now``: microseconds since the epoch."""
    signed_at = parse_basic(claim.date)
    if signed_at is None or claim.date[:8] != claim.day:
        raise _incomplete("the request's date must be YYYYMMDDTHHMMSSZ, of the day that Credential names")
    age = (now - to_us(signed_at)) // 1_000_000
    most = SKEW if claim.lasts is None else claim.lasts
    if not -SKEW <= age <= most:
        off, said = (
            (SKEW, f"not yet current: {claim.date} is still later")
            if age < 0
            else (-most, f"expired: {claim.date} is now earlier")
        )
        span = f"{abs(off) // 60} min." if off % 60 == 0 else f"{abs(off)} sec."
        bound, here = write_basic(now + off * 1_000_000), write_basic(now)
        told = f"Signature {said} than {bound} ({here} {'-' if off < 0 else '+'} {span})"
        raise Refused(403, "InvalidSignatureException", told)


def check_signature(
    claim: Claim, secret: str, environ: Mapping[str, Any], query: list[tuple[str, str]], body: bytes
) -> None:
    """Refuse a signature that this secret does not make of this request."""
    hashed = sha256(body).hexdigest()
    said = environ.get("HTTP_X_AMZ_CONTENT_SHA256", hashed)
    if said != hashed and not (claim.in_query and said == "UNSIGNED-PAYLOAD" and not body):
        raise _wrong()
    key = f"AWS4{secret}".encode()
    for part in (claim.day, claim.region, _SERVICE, "aws4_request"):
        key = hmac.digest(key, part.encode(), sha256)
    headers = "".join(f"{name}:{_header(environ, name)}\n" for name in claim.signed)
    rest = f"{headers}\n{';'.join(claim.signed)}\n{said}"
    good = False
    for path, asked_for in product(_paths(environ), dict.fromkeys((_query(query), _raw_query(environ)))):
        asked = f"{environ['REQUEST_METHOD']}\n{path}\n{asked_for}\n{rest}"
        hashed_ask = sha256(asked.encode("utf-8", "surrogateescape")).hexdigest()
        text = f"{_ALGORITHM}\n{claim.date}\n{claim.scope}\n{hashed_ask}"
        good |= hmac.compare_digest(hmac.digest(key, text.encode(), sha256).hex(), claim.signature)
    if not good:
        raise _wrong()


def parse_query(text: str) -> list[tuple[str, str]]:
    """Return a query's pairs, decoded, as they came. Raises ``Refused`` where there are too many."""
    try:
        return parse_qsl(text, keep_blank_values=True, max_num_fields=1000, errors="surrogateescape")
    except ValueError:
        raise Refused(400, "BadRequestException", "Too many parameters in the query: at most 1000") from None


def _query(pairs: list[tuple[str, str]]) -> str:
    written = sorted((_quote(name), _quote(value)) for name, value in pairs if name != _UNSIGNED)
    return "&".join(f"{name}={value}" for name, value in written)


def _raw_query(environ: Mapping[str, Any]) -> str:
    """Return the query as it stands on the wire, sorted: many clients sign that, whatever they wrote it in."""
    pairs = [part.partition("=") for part in environ.get("QUERY_STRING", "").split("&") if part]
    return "&".join(f"{name}={value}" for name, _, value in sorted(pairs) if name != _UNSIGNED)


def _quote(text: str) -> str:
    return quote(text, safe="-_.~", errors="surrogateescape")


def _header(environ: Mapping[str, Any], name: str) -> str:
    variable = name.upper().replace("-", "_")
    prefix = "" if variable in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_"
    return " ".join(str(environ.get(prefix + variable, "")).split())


def _paths(environ: Mapping[str, Any]) -> Iterator[str]:
    """The path as a client may have written it and signed: encoded once on the wire, once more in the signature.

    Servers decode it, and some keep what came; where none did, what can have been meant is tried. Most clients sign it
    in its normal form, without empty segments and dots.
    """
    prefix, path = environ.get("SCRIPT_NAME", ""), environ.get("PATH_INFO", "")
    raw = [str(environ[name]).partition("?")[0] for name in ("REQUEST_URI", "RAW_URI") if environ.get(name)]
    whole = (prefix + path).encode("latin-1", "replace")
    raw.append(quote(whole, safe="/-_.~"))
    if path.startswith("/tags/"):
        raw.append(quote(prefix.encode("latin-1", "replace"), safe="/-_.~") + "/tags/")
        raw[-1] += quote(path[6:].encode("latin-1", "replace"), safe="-_.~")
    normal = [normpath(f"/{one.lstrip('/')}").rstrip("/") + "/" * one.endswith("/") or "/" for one in raw]
    for one in dict.fromkeys(raw + normal):
        yield quote(one, safe="/~-_.")


def _incomplete(why: str) -> Refused:
    return Refused(400, "IncompleteSignatureException", f"Authorization cannot be read: {why}")


def _wrong(why: str = _DIFFERS) -> Refused:
    return Refused(403, "InvalidSignatureException", why)
