"""API Gateway's keys and usage plans: its files read and written, its control plane served."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from ..errors import InvalidValue, check_text
from ..key import ApiKey
from ..ledger.sync import Ledger
from .control.app import ControlPlane
from .control.plane import Plane, Reveal
from .read import OWN

__all__ = ["control_plane", "rotate_values"]


def control_plane(
    ledger: Ledger,
    *,
    credentials: Mapping[str, str] | None,
    stages: Mapping[str, Iterable[str]] | None,
    reveal: Reveal | None = None,
) -> ControlPlane:
    """Return a WSGI application that speaks API Gateway's API for keys and usage plans, over a ledger.

    ``credentials``: secret access keys by access key id; requests are signed by one of them (SigV4). None: only
    programs on this machine may call. ``stages``: the stages of each API, by API id; None: whatever a plan names.
    ``reveal``: a ``Fernet`` or ``MultiFernet`` (package cryptography) under which the keys' values are kept, to be
    shown again; without one a value is shown once, when it is made.

    Raises:
        InvalidValue: naming the argument that cannot be meant, never a secret.
    """
    if not isinstance(ledger, Ledger):
        raise InvalidValue("ledger", type(ledger), "a Ledger")
    return ControlPlane(Plane(ledger, _to_stages(stages), _to_reveal(reveal)), _to_credentials(credentials))


def rotate_values(ledger: Ledger, reveal: Reveal) -> int:
    """Keep every value under the first key of a ``MultiFernet``, so that its others can go; return how many there are.

    Raises ``cryptography.fernet.InvalidToken`` for a value under none of its keys; those before it are rotated then.
    """
    _to_reveal(reveal)
    count = 0
    for key in ledger.list_keys():
        if f"{OWN}value" in key.metadata:
            ledger.store.change_key(key.id, lambda old: _rotated(old, reveal), ledger._steps._by())
            count += 1
    return count


def _rotated(old: ApiKey, reveal: Reveal) -> ApiKey:
    token = old.metadata.get(f"{OWN}value")
    if token is None:
        return old
    return attrs.evolve(old, metadata={**old.metadata, f"{OWN}value": reveal.rotate(token.encode()).decode("ascii")})


def _to_credentials(credentials: Any) -> dict[str, str] | None:
    if credentials is None:
        return None
    accepted = "a mapping from access key ids to secret access keys, or None for this machine alone"
    if not isinstance(credentials, Mapping) or not credentials:
        raise InvalidValue("credentials", type(credentials), accepted)
    for access_key, secret in credentials.items():
        if not isinstance(access_key, str) or not access_key or "/" in access_key or not isinstance(secret, str):
            raise InvalidValue("credentials", type(credentials), accepted)
        check_text("credentials", access_key)  # events name it
        if not secret:
            raise InvalidValue(f"credentials[{access_key!r}]", "an empty secret", "a secret access key")
    return dict(credentials)


def _to_stages(stages: Any) -> dict[str, frozenset[str]] | None:
    if stages is None:
        return None
    accepted = "a mapping from API ids to the names of their stages, or None for whatever a plan names"
    if not isinstance(stages, Mapping):
        raise InvalidValue("stages", stages, accepted)
    for api, names in stages.items():
        if isinstance(names, (str, bytes)) or not isinstance(names, Iterable):
            raise InvalidValue(f"stages[{api!r}]", names, accepted)
    found = {api: frozenset(names) for api, names in stages.items()}
    if not all(isinstance(name, str) and name for api, names in found.items() for name in (api, *names)):
        raise InvalidValue("stages", stages, accepted)
    return found


def _to_reveal(reveal: Any) -> Any:
    if reveal is not None and not all(callable(getattr(reveal, name, None)) for name in ("encrypt", "decrypt")):
        raise InvalidValue("reveal", type(reveal), "a Fernet or a MultiFernet of the package cryptography")
    return reveal
