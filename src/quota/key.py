"""API keys and their secrets. Secrets are shown once and never stored: stores keep and look up SHA-256 digests.

Looking a digest up leaks no secret through timing, since an attacker cannot choose digests byte by byte. All randomness
of the library is drawn here.
"""

from __future__ import annotations

import re
import secrets as _random
from collections.abc import Iterator, Mapping
from datetime import datetime
from hashlib import sha256
from types import MappingProxyType
from typing import Any
from zlib import crc32

import attrs

from .clock import to_datetime, to_us
from .errors import InvalidSecret, InvalidValue, check_text

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BODY = 28
_CHECK = 6
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,15}\Z")
_MINTED = re.compile(rf"([A-Za-z0-9][A-Za-z0-9_-]{{0,15}})_[0-9A-Za-z]{{{_BODY + _CHECK}}}\Z")
_FOREIGN = re.compile(r"[!-~]{20,128}\Z")


def mint(prefix: str = "qk") -> str:
    """A new secret: ``prefix_``, 28 random base62 characters (166 bits) and a CRC32 checksum of all before it."""
    if not isinstance(prefix, str) or not _PREFIX.match(prefix):
        raise InvalidValue("prefix", prefix, "1 to 16 ASCII letters, digits, '_' or '-', beginning with a letter or digit")
    body = f"{prefix}_{''.join(_random.choice(_BASE62) for _ in range(_BODY))}"
    return body + _checksum(body)


def _checksum(body: str) -> str:
    number, text = crc32(body.encode("ascii")), ""
    for _ in range(_CHECK):
        number, digit = divmod(number, 62)
        text = _BASE62[digit] + text
    return text


def mistyped(secret: str) -> bool:
    """Whether it has the shape of a minted secret and a wrong checksum: refused without a look-up."""
    return _MINTED.match(secret) is not None and _checksum(secret[:-_CHECK]) != secret[-_CHECK:]


def digest(secret: str) -> bytes:
    """SHA-256 of a presented secret; of one that is no UTF-8 text, a digest that no key has."""
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()


def import_secret(secret: str) -> str:
    """A secret from elsewhere, checked. Raises ``InvalidSecret``, which never shows it."""
    if not isinstance(secret, str):
        raise InvalidSecret("secret", f"a {type(secret).__name__}", "a str")
    if not _FOREIGN.match(secret):
        raise InvalidSecret("secret", f"{len(secret)} characters", "20 to 128 visible ASCII characters")
    if mistyped(secret):
        raise InvalidSecret("secret", "its checksum is wrong", "a secret as it was issued, without a typo")
    return secret


def new_id() -> str:
    """The id of a key: ten lowercase letters and digits, as API Gateway's."""
    return "".join(_random.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(10))


def new_token() -> str:
    """The id of a decision or a reservation: 120 random bits."""
    return _random.token_urlsafe(15)


def new_number() -> int:
    """Tells records apart: 52 random bits, exact in every engine."""
    return _random.randbits(52)


@attrs.frozen
class Secret:
    """One secret of a key, as stored: its SHA-256 ``digest``, a ``hint`` (its last four characters), its prefix."""

    digest: bytes = attrs.field(repr=False)
    hint: str
    expires_at: datetime | None = None
    prefix: str = ""

    @classmethod
    def of(cls, secret: str) -> Secret:
        """What is kept of a secret."""
        minted = _MINTED.match(secret)
        return cls(digest(secret), secret[-4:], None, minted[1] if minted else "")


def _to_metadata(metadata: object) -> Mapping[str, str]:
    if not isinstance(metadata, Mapping):
        raise InvalidValue("metadata", metadata, "a mapping from str to str")
    for name, value in metadata.items():
        check_text("metadata", name)
        check_text(f"metadata[{name!r}]", value, least=0, longest=4096)
    return MappingProxyType(dict(metadata))


def _instant(field: str, value: datetime | None) -> None:
    if value is not None:
        to_us(value, field)


@attrs.frozen
class ApiKey:
    """An identity that clients present secrets of. ``account``: whose usage is counted, fixed when issued."""

    id: str
    name: str
    account: str
    enabled: bool = True
    created_at: datetime | None = None
    expires_at: datetime | None = None
    metadata: Mapping[str, str] = attrs.field(default={}, converter=_to_metadata, hash=False)
    secrets: tuple[Secret, ...] = attrs.field(default=(), converter=tuple)

    def __attrs_post_init__(self) -> None:
        for field in ("id", "name", "account"):
            check_text(field, getattr(self, field))
        if type(self.enabled) is not bool:
            raise InvalidValue("enabled", self.enabled, "True or False")
        _instant("created_at", self.created_at)
        _instant("expires_at", self.expires_at)

    def __getstate__(self) -> dict[str, Any]:
        """A plain mapping in place of the read-only one, which cannot be pickled."""
        return {field.name: getattr(self, field.name) for field in attrs.fields(ApiKey)} | {
            "metadata": dict(self.metadata)
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc] # the one way to build a frozen object


@attrs.frozen
class IssuedKey:
    """A key and its secret, which is nowhere else: ``key, secret = issued``."""

    key: ApiKey
    secret: str = attrs.field(repr=False)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.key, self.secret))


def encode_key(key: ApiKey) -> dict[str, Any]:
    """A key as JSON-able data: instants in microseconds, digests in hexadecimal."""
    return {
        "id": key.id, "name": key.name, "account": key.account, "enabled": key.enabled,
        "created_at": _us(key.created_at), "expires_at": _us(key.expires_at), "metadata": dict(key.metadata),
        "secrets": [[s.digest.hex(), s.hint, _us(s.expires_at), s.prefix] for s in key.secrets],
    }  # fmt: skip


def decode_key(data: Mapping[str, Any]) -> ApiKey:
    """The key that ``encode_key`` wrote."""
    secrets = tuple(Secret(bytes.fromhex(d), hint, _at(end), prefix) for d, hint, end, prefix in data["secrets"])
    instants = {field: _at(data[field]) for field in ("created_at", "expires_at")}
    return ApiKey(**{**data, **instants, "secrets": secrets})


def _us(instant: datetime | None) -> int | None:
    return None if instant is None else to_us(instant)


def _at(instant_us: int | None) -> datetime | None:
    return None if instant_us is None else to_datetime(instant_us)
