"""The machine's rule for whence a key may be used and for what: refused before anything is charged."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from ..errors import ClockSkew, UnknownKey
from .accounts import AccountsMachine
from .directory import raises, units_of
from .model import Skewed
from .strategies import KEY_IDS


class BoundsMachine(AccountsMachine):
    """Keys with networks and scopes, for a few calls; what was bound before is free again after them."""

    @rule(
        id_=KEY_IDS, network=st.sampled_from([(), ("10.0.0.0/8",)]), scopes=st.sampled_from([(), ("read",)]),
        address=st.sampled_from([None, "10.255.0.1", "192.0.2.1"]), asked=st.sampled_from([None, "read", "write"]),
        dry=st.booleans(),
    )  # fmt: skip
    def call_within_bounds(
        self, id_: str, network: tuple[str, ...], scopes: tuple[str, ...], address: str | None, asked: str | None,
        dry: bool,
    ) -> None:  # fmt: skip
        """Within its bounds, so that there is a compiled form of these calls, and then as it comes."""
        key = self.model.keys.get(id_)
        if key is None:
            raises(UnknownKey, lambda: self.ledger.update_key(id_, networks=network, scopes=scopes))
            return
        if network or scopes:
            self.ledger.update_key(id_, networks=network, scopes=scopes)
            self._tell("key.updated", id_)
        for _ in range(2):
            self._call(id_, "10.255.0.1", scopes[0] if scopes else None, dry=False)
        wrong = "ADDRESS_NOT_ALLOWED" if network and address != "10.255.0.1" else ""
        self.model.barred = wrong or ("SCOPE_NOT_ALLOWED" if asked is not None and asked not in scopes else "")
        for _ in range(2):
            self._call(id_, address, asked, dry=dry)
        self.model.barred = ""
        if network or scopes:
            self.ledger.update_key(id_, networks=(), scopes=())
            self._tell("key.updated", id_)

    def _call(self, id_: str, address: str | None, scope: str | None, *, dry: bool) -> None:
        ask: Any = self.ledger.peek if dry else self.ledger.consume
        where = {"address": address, "scope": scope}
        try:
            expected = self.model.consume(id_, None, "", None, self.now, dry=dry)
        except Skewed:
            raises(ClockSkew, lambda: ask(self._presented(id_), **where))
            return
        decision = ask(self._presented(id_), **where)
        self._same(decision, expected)
        if decision and not dry:
            self.taken.append((id_, self.model.keys[id_].era, decision, expected, False))
            self._book(id_, "").use(units_of(decision.cost))
