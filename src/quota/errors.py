"""The error tree. A denial is a value (a ``Decision``); these tell what the caller did wrong or the store could not do.

Every error keeps its evidence as attributes and as ``args``, so it survives pickling between processes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any

# Patterns as texts, here and elsewhere, are compiled when first needed: most programs never need these.
_RUN = r"[0-9A-Za-z_-]{24,}"
_MINTED = r"_[0-9A-Za-z]{24}|(?=[a-z0-9]{0,27}[A-Z])(?=[A-Z0-9]{0,27}[a-z])(?=[A-Za-z]{0,27}[0-9])[0-9A-Za-z]{28}"
"""All that tells a minted secret in a run of such characters.

Also with some too many or too few, or without its prefix.
"""
_MOST_SHOWN = 120
_MOST_METADATA = 64
_LONGEST_METADATA = 1 << 20
_NO_METADATA: Mapping[str, str] = MappingProxyType({})


class QuotaError(Exception):
    """The root of every error that quota raises on purpose."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"  # not its args, which hold what came in as it came


class InvalidValue(QuotaError, ValueError):
    """An argument that cannot be meant: names the ``field``, the ``value`` and what is ``accepted``."""

    def __init__(self, field: str, value: object, accepted: str) -> None:
        super().__init__(field, value, accepted)
        self.field = field
        self.value = value
        self.accepted = accepted

    def __str__(self) -> str:
        return f"{_hide(self.field)}: {shown(self.value)} is not accepted; expected {self.accepted}"


class InvalidPlan(InvalidValue):
    """A plan, a limit, a period or its text that cannot be enforced."""


class InvalidCost(InvalidValue):
    """A cost or a number of units that is not a whole number in range."""


class InvalidSecret(InvalidValue):
    """A secret that cannot be imported. ``value`` says what is wrong with it and never holds the secret."""

    def __str__(self) -> str:
        return f"{self.field}: {self.value}; expected {self.accepted}"


class UnknownKey(QuotaError, LookupError):
    """No API key has this id (``key``)."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return f"no API key has the id {shown(self.key)}"


class UnknownPlan(QuotaError, LookupError):
    """No usage plan has this id (``plan``)."""

    def __init__(self, plan: str) -> None:
        super().__init__(plan)
        self.plan = plan

    def __str__(self) -> str:
        return f"no usage plan has the id {shown(self.plan)}"


class UnknownAccount(QuotaError, LookupError):
    """No account has this id (``account``)."""

    def __init__(self, account: str) -> None:
        super().__init__(account)
        self.account = account

    def __str__(self) -> str:
        return f"no account has the id {shown(self.account)}"


class PlanConflict(QuotaError):
    """A contradiction between what was asked and what is there: ``subject`` names it, ``reason`` says how."""

    def __init__(self, subject: str, reason: str) -> None:
        super().__init__(subject, reason)
        self.subject = subject
        self.reason = reason

    def __str__(self) -> str:
        return f"{shown(self.subject)}: {self.reason}"


class ClockSkew(QuotaError):
    """The clock (``now``) is too far behind what was recorded (``seen``), both in microseconds since the epoch.

    Or too far from the clock of a store's server, where ``server`` says so. Counting on would either refuse for as long
    as the clocks differ or grant spent units again. ``Ledger.forget`` is the repair when the record, not the clock, is
    wrong.
    """

    def __init__(self, now: int, seen: int, server: bool = False) -> None:  # noqa: FBT001, FBT002 -- made again of its args
        super().__init__(now, seen, server)
        self.now = now
        self.seen = seen
        self.server = server

    def __str__(self) -> str:
        now, seen = int(self.now), int(self.seen)
        away = f"{abs(seen - now) / 1e6:.6f}".rstrip("0").rstrip(".")
        side = f"the clock reads {_date(now)}, {away} s {'behind' if seen >= now else 'ahead of'}"
        if self.server in (True, "True"):
            return (
                f"{side} the store's server ({_date(seen)}); set the clocks right, or open the store with "
                "check_clock=false where time is frozen or played back on purpose"
            )
        return (
            f"{side} the latest that was recorded ({_date(seen)}); set the clock right, use a ledger for each test "
            "where time is frozen, or forget the key if the record is wrong"
        )


def _date(instant_us: int) -> str:
    try:
        return (datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=instant_us)).isoformat(" ")
    except OverflowError:
        return f"{instant_us} us since 1970"


class StoreBusy(QuotaError):
    """The store was contended for longer than its timeout. Nothing was charged."""


class StoreUnavailable(QuotaError):
    """The store cannot be reached or used. Unless it says otherwise the outcome is unknown: retry by ``request_id``.

    ``reached``: it answered, and cannot do what was asked. ``asked``: False where it was away before and was not asked.
    """

    def __init__(self, *args: object, reached: bool = False, asked: bool = True) -> None:
        super().__init__(*args)
        self.reached = reached
        self.asked = asked


class RequestMismatch(QuotaError):
    """A ``request_id`` came back with other parameters, or after its charge was refunded."""

    def __init__(self, request_id: str, reason: str) -> None:
        super().__init__(request_id, reason)
        self.request_id = request_id
        self.reason = reason

    def __str__(self) -> str:
        return f"request_id {shown(self.request_id)}: {self.reason}"


class ReservationClosed(QuotaError):
    """A reservation (``reservation``: its id) was committed or cancelled already, or has lapsed.

    One that lapsed less than a day ago can still be spent of and committed: what was used is recorded all the same.
    """

    def __init__(self, reservation: str) -> None:
        super().__init__(reservation)
        self.reservation = reservation

    def __str__(self) -> str:
        id_ = _hide(str(self.reservation))
        return f"reservation {id_} is closed: it was committed or cancelled, or has lapsed"


def check_text(
    field: str, value: object, *, error: type[InvalidValue] = InvalidValue, least: int = 1, longest: int = 256
) -> str:
    """Printable text of a bounded length, or the error that says so."""
    if not isinstance(value, str) or not least <= len(value) <= longest or not value.isprintable():
        raise error(field, value, f"printable text of {least} to {longest} characters")
    return value


def to_metadata(metadata: Mapping[str, str]) -> Mapping[str, str]:
    """Check an operator's own texts, and return them as a mapping that nobody changes."""
    if not isinstance(metadata, Mapping):
        raise InvalidValue("metadata", metadata, "a mapping from str to str")
    if len(metadata) > _MOST_METADATA:
        raise InvalidValue("metadata", f"{len(metadata)} entries", f"at most {_MOST_METADATA} entries")
    for name, value in metadata.items():
        check_text("metadata", name)
        check_text(f"metadata[{name!r}]", value, least=0, longest=_LONGEST_METADATA)
    if (total := sum(len(name) + len(value) for name, value in metadata.items())) > _LONGEST_METADATA:
        raise InvalidValue("metadata", f"{total} characters", f"at most {_LONGEST_METADATA} in all")
    return MappingProxyType(dict(metadata)) if metadata else _NO_METADATA


def _hide(text: str) -> str:
    """A text without the secrets in it: one given in place of an id or a cost would end in a log."""
    return re.sub(_RUN, lambda run: "****" + run[0][-4:] if re.search(_MINTED, run[0]) else run[0], text)


def shown(value: Any) -> str:
    """A bounded ``repr`` that survives what it prints (lone surrogates, huge values, a failing ``__repr__``).

    Of what has the shape of a minted secret only the last four characters are shown.
    """
    try:
        text = ascii(value)
    except Exception as error:  # noqa: BLE001 -- a broken repr must not hide the mistake it is shown for
        text = f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
    text = _hide(text[: 40 * _MOST_SHOWN])
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 3] + "..."
