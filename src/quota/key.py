"""API keys and their secrets. Secrets are shown once and never stored: stores keep and look up SHA-256 digests.

A secret has 166 random bits, so a fast hash keeps it (bcrypt is for what people choose). Looking a digest up needs no
``hmac.compare_digest``: timing could tell of the digest, and nobody can work back to a secret from that. All randomness
of the library is drawn here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cache
from sys import intern
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs

from .clock import to_datetime, to_us
from .errors import InvalidSecret, InvalidValue, check_text, to_metadata
from .networks import network

if TYPE_CHECKING:
    from hashlib import sha256
else:
    try:  # hashlib loads OpenSSL, a tenth of what importing this package takes; ``random`` does the same
        from _sha2 import sha256  # 3.12 and later
    except ImportError:
        try:
            from _sha256 import sha256
        except ImportError:
            from hashlib import sha256

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BODY = 28
_CHECK = 6
_HINT = 4
_MOST_NAMES = 256
_PREFIX = r"[A-Za-z0-9][A-Za-z0-9_-]{0,15}\Z"
_MINTED = rf"([A-Za-z0-9][A-Za-z0-9_-]{{0,15}})_[0-9A-Za-z]{{{_BODY + _CHECK}}}\Z"
_FOREIGN = r"[!-~]{20,128}\Z"
_OURS = "qk"


def mint(prefix: str = _OURS) -> str:
    """A new secret: ``prefix_``, 28 random base62 characters (166 bits) and a CRC32 checksum of all before it."""
    if not isinstance(prefix, str) or not re.match(_PREFIX, prefix):
        raise InvalidValue(
            "prefix", prefix, "1 to 16 ASCII letters, digits, '_' or '-', beginning with a letter or digit"
        )
    body = f"{prefix}_{_digits(_random_bits(256), _BODY)}"
    return body + _checksum(body)


def mint_plain() -> str:
    """A new secret of 40 letters and digits (238 bits), as API Gateway makes them; it has no checksum."""
    return _digits(_random_bits(320), 40)


def _random_bits(bits: int) -> int:
    return int.from_bytes(os.urandom((bits + 7) // 8), "big") >> -bits % 8


def _digits(number: int, length: int, digits: str = _BASE62) -> str:
    """The last ``length`` digits. Of a far larger random number they are as good as uniform."""
    text = ""
    for _ in range(length):
        number, digit = divmod(number, len(digits))
        text = digits[digit] + text
    return text


@cache
def _pairs() -> tuple[str, ...]:
    return tuple(high + low for high in _BASE62 for low in _BASE62)


def _checksum(body: str) -> str:
    """Two digits at a time: every presented secret pays for this."""
    from zlib import crc32  # noqa: PLC0415 -- not paid for before there is a secret

    pairs = _pairs()
    rest, last = divmod(crc32(body.encode("ascii")), 62 * 62)
    first, middle = divmod(rest, 62 * 62)
    return pairs[first] + pairs[middle] + pairs[last]


def mistyped(secret: str) -> bool:
    """Tell whether it has the shape of a minted secret and a wrong checksum.

    One wrong character, or two neighbours swapped, in what the checksum covers or in the checksum itself is always
    found (CRC32 finds every burst of up to 32 bits, and each number is written one way); anything else escapes with a
    chance of 2**-32, and then finds no key.
    """
    return re.match(_MINTED, secret) is not None and _checksum(secret[:-_CHECK]) != secret[-_CHECK:]


def has_typo(secret: str) -> bool:
    """True of what is certainly a secret of ours with a typo: mistyped, under the prefix that only this library has.

    Under any other prefix it may be somebody else's, imported: ``hf_`` and 34 letters and digits, say.
    """
    return mistyped(secret) and secret.startswith(f"{_OURS}_")


def digest(secret: str) -> bytes:
    """SHA-256 of a presented secret; of one that is no UTF-8 text, a digest that no key has."""
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()


def import_secret(secret: str) -> str:
    """A secret from elsewhere, checked. Raises ``InvalidSecret``, which never shows it."""
    if not isinstance(secret, str):
        raise InvalidSecret("secret", f"a {type(secret).__name__}", "a str")
    if not re.match(_FOREIGN, secret):
        raise InvalidSecret("secret", f"{len(secret)} characters", "20 to 128 visible ASCII characters")
    if has_typo(secret):
        raise InvalidSecret("secret", "its checksum is wrong", "a secret as it was issued, without a typo")
    return secret


def new_id() -> str:
    """The id of a key: ten lowercase letters and digits, as API Gateway's."""
    return _digits(_random_bits(128), 10, "0123456789abcdefghijklmnopqrstuvwxyz")


def new_token() -> str:
    """The id of a decision or a reservation: 96 random bits."""
    return os.urandom(12).hex()


def new_request_id() -> str:
    """The id of a request of HTTP: 128 random bits, written as a UUID."""
    text = os.urandom(16).hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def new_number() -> int:
    """Tells records apart: 52 random bits, exact in every engine."""
    return _random_bits(52)


@attrs.frozen(weakref_slot=False)
class Secret:
    """One secret of a key, as stored: its SHA-256 ``digest``, a ``hint`` (its last four characters), its prefix."""

    digest: bytes = attrs.field(repr=False)
    hint: str
    expires_at: datetime | None = None
    prefix: str = ""

    def __attrs_post_init__(self) -> None:
        if type(self.digest) is not bytes or len(self.digest) != sha256().digest_size:
            raise InvalidValue("digest", type(self.digest), "the 32 bytes of a SHA-256 digest")
        if not isinstance(self.hint, str) or len(self.hint) > _HINT:
            raise InvalidValue("hint", type(self.hint), f"at most the last {_HINT} characters of the secret")
        _instant("expires_at", self.expires_at)

    @classmethod
    def of(cls, secret: str) -> Secret:
        """Return what is kept of a secret."""
        minted = re.match(_MINTED, secret)
        return cls(digest(secret), secret[-_HINT:], None, intern(minted[1]) if minted else "")


def _to_secrets(secrets: Iterable[Secret]) -> tuple[Secret, ...]:
    if not isinstance(secrets, Iterable):
        raise InvalidValue("secrets", type(secrets), "what Secret.of makes of each secret")
    return tuple(secrets)


def _several(field: str, values: Iterable[str]) -> tuple[str, ...]:
    """Check texts that are given together, each once and in their order."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise InvalidValue(field, values, "several texts, as in a list")
    found = tuple(dict.fromkeys(check_text(field, value) for value in values))
    if len(found) > _MOST_NAMES:
        raise InvalidValue(field, f"{len(found)} of them", f"at most {_MOST_NAMES}")
    return found


def _to_networks(networks: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(network(text) for text in _several("networks", networks))) if networks != () else ()


def _to_scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    return _several("scopes", scopes) if scopes != () else ()


def _instant(field: str, value: datetime | None) -> None:
    if value is not None:
        to_us(value, field)


class ScheduledPlan(NamedTuple):
    """A usage plan, by its id, that a key or an account goes to at an instant."""

    plan: str
    at: datetime

    def to_dict(self) -> dict[str, str]:
        """Return it as JSON can hold it."""
        return {"plan": self.plan, "at": self.at.isoformat()}


@attrs.frozen(weakref_slot=False)
class ApiKey:
    """An identity that clients present secrets of. ``account``: whose usage is counted, fixed when issued.

    ``networks``: CIDR blocks that it may be used from, any where there are none; a block with bits set behind its
    length (``10.0.0.1/8``) is refused, an IPv4 block written as an IPv6 one is kept as the IPv4 block. ``scopes``:
    names of yours, for what it may be used; a call may ask for one. ``scheduled``: the plans that it goes to, as the
    methods tell that return keys; a decision's key does not.
    """

    id: str
    name: str
    account: str
    enabled: bool = True
    created_at: datetime | None = None
    expires_at: datetime | None = None
    metadata: Mapping[str, str] = attrs.field(default={}, converter=to_metadata, hash=False)
    secrets: tuple[Secret, ...] = attrs.field(default=(), converter=_to_secrets)
    networks: tuple[str, ...] = attrs.field(default=(), converter=_to_networks)
    scopes: tuple[str, ...] = attrs.field(default=(), converter=_to_scopes)
    scheduled: tuple[ScheduledPlan, ...] = ()

    def __attrs_post_init__(self) -> None:
        for field in ("id", "name", "account"):
            check_text(field, getattr(self, field))
        if type(self.enabled) is not bool:
            raise InvalidValue("enabled", self.enabled, "True or False")
        _instant("created_at", self.created_at)
        _instant("expires_at", self.expires_at)
        if not all(type(secret) is Secret for secret in self.secrets):
            raise InvalidValue("secrets", [type(secret) for secret in self.secrets], "what Secret.of makes of a secret")

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold of it: of its secrets only the hints, never what would find them."""
        return {
            "id": self.id, "name": self.name, "account": self.account, "enabled": self.enabled,
            "created_at": _iso(self.created_at), "expires_at": _iso(self.expires_at), "metadata": dict(self.metadata),
            "secrets": [{"hint": s.hint, "prefix": s.prefix, "expires_at": _iso(s.expires_at)} for s in self.secrets],
            "networks": [*self.networks], "scopes": [*self.scopes],
            "scheduled": [change.to_dict() for change in self.scheduled],
        }  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        """A plain mapping in place of the read-only one, which cannot be pickled."""
        return {field.name: getattr(self, field.name) for field in attrs.fields(ApiKey)} | {
            "metadata": dict(self.metadata)
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc] # the one way to build a frozen object


class _Caller(NamedTuple):
    plan: str
    name: str


class Caller(_Caller):
    """Somebody without an API key: ``name`` (an address, a user's number) is counted under the plan of id ``plan``.

    Given in place of a secret. It is in no directory, has no daily usage, and is forgotten when the windows that it was
    counted in are over. Equal ones are one caller. Raises ``InvalidValue``.
    """

    __slots__ = ()

    def __new__(cls, plan: str, name: str) -> Caller:
        return super().__new__(cls, check_text("plan", plan), check_text("name", name))

    enabled = True
    expires_at = None
    networks = scopes = secrets = ()

    @property
    def id(self) -> str:
        """Names its record: no key has such an id, nor has another caller."""
        return f"{self.plan}\n{self.name}"

    @property
    def account(self) -> str:
        """Its own."""
        return self.id


KeyOrCaller = ApiKey | Caller
"""The key, or the caller without one, whose usage a call counts on."""


class IssuedKey(NamedTuple):
    """A key and its secret, which is nowhere else: ``key, secret = issued``."""

    key: ApiKey
    secret: str

    def __repr__(self) -> str:
        return f"IssuedKey(key={self.key!r})"


def encode_key(key: ApiKey) -> dict[str, Any]:
    """A key as JSON-able data: instants in microseconds, digests in hexadecimal."""
    bounds = {field: [*texts] for field in ("networks", "scopes") if (texts := getattr(key, field))}
    return {
        "id": key.id, "name": key.name, "account": key.account, "enabled": key.enabled, **bounds,
        "created_at": _us(key.created_at), "expires_at": _us(key.expires_at), "metadata": dict(key.metadata),
        "secrets": [[s.digest.hex(), s.hint, _us(s.expires_at), s.prefix] for s in key.secrets],
    }  # fmt: skip


def decode_key(data: Mapping[str, Any]) -> ApiKey:
    """The key that ``encode_key`` wrote."""
    secrets = tuple(Secret(bytes.fromhex(d), hint, _at(end), prefix) for d, hint, end, prefix in data["secrets"])
    instants = {field: _at(data[field]) for field in ("created_at", "expires_at")}
    return ApiKey(**{**data, **instants, "secrets": secrets})


def _iso(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat()


def _us(instant: datetime | None) -> int | None:
    return None if instant is None else to_us(instant)


def _at(instant_us: int | None) -> datetime | None:
    return None if instant_us is None else to_datetime(instant_us)
