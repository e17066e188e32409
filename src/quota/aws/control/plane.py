"""All that every operation works on: the ledger, the stages there are, the order of creation, values kept in secret."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from copy import copy
from threading import RLock
from typing import Any, Protocol

import attrs

from ...clock import to_datetime
from ...errors import UnknownKey, UnknownPlan
from ...key import ApiKey, digest
from ...ledger.sync import Ledger
from ...plan import UsagePlan
from ..limits import Item
from ..read import OWN, Found, read_key
from ..write import write_plan
from .errors import NO_KEY, NO_PLAN, bad_request, not_found
from .paging import rank_of

log = logging.getLogger(f"{__package__}")

ACCOUNT = "000000000000"
"""The account that messages name: a ledger has none."""

_MOST_TAGS = 50


class Reveal(Protocol):
    """A ``Fernet`` or ``MultiFernet`` of the package cryptography."""

    def encrypt(self, data: bytes) -> bytes:
        """Return a token of it."""

    def decrypt(self, token: bytes) -> bytes:
        """Return what the token holds."""

    def rotate(self, msg: bytes) -> bytes:
        """Return the token under the first key (of a ``MultiFernet``)."""


@attrs.define(eq=False)
class Plane:
    """The state of a control plane. ``stages`` is None where any stage is known.

    ``lock``: what checks and then changes in several steps does so alone in this process.
    """

    ledger: Ledger
    stages: Mapping[str, frozenset[str]] | None
    reveal: Reveal | None
    lock: Any = attrs.field(init=False, factory=RLock)
    _last: list[int] = attrs.field(init=False, factory=list)

    def acting(self, actor: str) -> Plane:
        """Return a view of this plane: the same state, and what it changes was done by ``actor``."""
        view = copy(self)
        view.ledger = self.ledger.acting(actor)
        return view

    def now(self) -> int:
        """Return the ledger's time, in microseconds since the epoch."""
        return self.ledger._steps._now()

    def now_text(self) -> str:
        """Return the ledger's time as attributes keep it."""
        return to_datetime(self.now()).isoformat()

    def next_order(self) -> str:
        """Return a number above those of all that was made before, also where a clock stands or was stepped back."""
        with self.lock:
            if not self._last:
                there: list[ApiKey | UsagePlan] = [*self.ledger.list_keys(), *self.ledger.list_plans()]
                self._last.append(max((rank_of(one)[0] for one in there), default=0))
            self._last[0] = max(self._last[0] + 1, self.now())
            return str(self._last[0])

    def key(self, id_: str) -> ApiKey:
        """Return a key. Raises ``Refused``."""
        try:
            return self.ledger.get_key(id_)
        except (UnknownKey, ValueError):
            raise not_found(NO_KEY) from None

    def plan(self, id_: str) -> UsagePlan:
        """Return a plan. Raises ``Refused``."""
        try:
            return self.ledger.get_plan(id_)
        except (UnknownPlan, ValueError):
            raise not_found(NO_PLAN) from None

    def plans_of(self, key_id: str) -> list[UsagePlan]:
        """Return the plans that a key is on. Raises ``Refused``."""
        try:
            return self.ledger.list_plans(key_id)
        except (UnknownKey, ValueError):
            raise not_found(NO_KEY) from None

    def keys_on(self, plan_id: str) -> list[ApiKey]:
        """Return the keys of a plan."""
        try:
            return self.ledger.list_keys(plan=plan_id)
        except (UnknownPlan, ValueError):  # removed since it was found, or no id
            return []

    def kept(self, value: str) -> dict[str, str]:
        """Return the metadata in which a value is kept encrypted; none where values are shown once."""
        return {} if self.reveal is None else {f"{OWN}value": self.reveal.encrypt(value.encode()).decode("ascii")}

    def value_of(self, key: ApiKey) -> str | None:
        """Return a key's value, where it is kept and is still a secret of the key."""
        token = key.metadata.get(f"{OWN}value")
        if token is None or self.reveal is None:
            return None
        from cryptography.fernet import InvalidToken  # noqa: PLC0415 -- the extra is there where reveal= is given

        try:
            value = self.reveal.decrypt(token.encode()).decode()
        except InvalidToken:
            log.warning("the value of key %s is kept under a key that reveal= does not have", key.id)
            return None
        return value if any(secret.digest == digest(value) for secret in key.secrets) else None


def changed(old: ApiKey, item: Item) -> ApiKey:
    """Return the key that an item of get-api-keys describes now; its secrets, account and dates stay."""
    new = read_key(item, Found())
    own = {name: text for name, text in old.metadata.items() if name.startswith(OWN)}
    return attrs.evolve(old, name=new.name, enabled=new.enabled, metadata={**new.metadata, **own})


def retagged(item: dict[str, Any], tags: Mapping[str, str]) -> dict[str, Any]:
    """Return an item with these tags in place of what it has."""
    return {**item, "tags": dict(tags)}


def stages_of(plan: UsagePlan) -> list[str]:
    """Return the stages of a plan, ``api:stage``."""
    return [f"{stage['apiId']}:{stage['stage']}" for stage in write_plan(plan, [])["apiStages"]]


def check_tags(tags: Mapping[str, str]) -> None:
    """Refuse tags that API Gateway refuses. Raises ``Refused``."""
    for name, value in tags.items():
        if not 1 <= len(name) <= 128 or len(value) > 256:
            raise bad_request("Invalid tags: keys have 1 to 128 characters, values at most 256")
        if name.lower().startswith("aws:"):
            raise bad_request("Invalid tags: the prefix aws: is reserved")
    if len(tags) > _MOST_TAGS:
        raise bad_request(f"Too many tags: a resource has at most {_MOST_TAGS}")
