"""``settings.QUOTA``: read, checked, and kept for as long as it stands."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from ..errors import QuotaError, check_text
from ..ledger.aio import AsyncLedger
from ..ledger.sync import Ledger
from ..web.addresses import Anonymous
from ..web.gate import check_view
from ..web.settings import Settings
from .front import Front

_FUNCTIONS = ("ROUTE", "COST_FROM_BODY", "SUCCESS", "ACTUAL", "REFUSE", "REPORT")
"""The settings that are functions, and may be named as ``"shop.limits.report"``."""
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_KNOWN = ("LEDGER", "USERS", *map(str.upper, Settings.__annotations__))

_ledgers: dict[str, Ledger] = {}
_fronts: dict[tuple[tuple[str, Any], ...], tuple[Front, dict[str, Any]]] = {}
"""By the settings that are in place of the project's, which are kept, so that the place of one is never another's."""


def front(**own: Any) -> Front:
    """Return what stands in front of views: by ``settings.QUOTA``, with ``own`` settings in place of some of them.

    Raises:
        ImproperlyConfigured: naming the setting, and what is accepted.
    """
    place = tuple([(name, value if isinstance(value, Hashable) else id(value)) for name, value in sorted(own.items())])
    found = _fronts.get(place)
    if found is None:
        found = _fronts.setdefault(place, (_read(own), own))
    return found[0]


def ledger() -> Ledger | AsyncLedger:
    """Return the ledger of ``settings.QUOTA``. Raises ``ImproperlyConfigured``."""
    said = _said().get("LEDGER")
    if isinstance(said, (Ledger, AsyncLedger)):
        return said
    if isinstance(said, str) and "://" in said:
        try:
            return _ledgers.get(said) or _ledgers.setdefault(said, Ledger(said))
        except (QuotaError, ModuleNotFoundError) as error:
            raise ImproperlyConfigured(f"QUOTA['LEDGER']: {error}") from error
    found = _imported("LEDGER", said) if isinstance(said, str) else said
    if not isinstance(found, (Ledger, AsyncLedger)):
        accepted = "the URL of a store, or the dotted name of a Ledger or an AsyncLedger"
        raise ImproperlyConfigured(f"QUOTA['LEDGER'] is {type(found).__name__}; expected {accepted}")
    return found


def _said() -> Mapping[str, Any]:
    said = getattr(settings, "QUOTA", None)
    if not isinstance(said, Mapping):
        raise ImproperlyConfigured("QUOTA is not set: expected a dict with LEDGER, ON_UNAVAILABLE and other settings")
    for name in said:
        if name not in _KNOWN:
            near = get_close_matches(str(name).upper(), _KNOWN, 1)
            raise ImproperlyConfigured(f"QUOTA[{name!r}] is no setting{f'; {near[0]} is' if near else ''}")
    return said


def _read(own: Mapping[str, Any]) -> Front:
    said = {name: value for name, value in _said().items() if name != "LEDGER"}
    given = {name.lower(): _value(name, value) for name, value in said.items()} | dict(own)
    users = given.pop("users", None)
    if "on_unavailable" not in given:
        raise ImproperlyConfigured(
            "QUOTA['ON_UNAVAILABLE'] is not set: 'deny' or 'allow', when the ledger cannot decide"
        )
    with _told():
        return Front(ledger(), users, _by_plan(given))


def check_own(own: Mapping[str, Any]) -> None:
    """See that settings of one view can be meant, whatever the project's are. Raises ``ImproperlyConfigured``."""
    given = dict(own)
    users = given.pop("users", None)
    with _told():
        if users is not None:
            check_text("users", users)
        check_view(_by_plan(given))


def _by_plan(given: dict[str, Any]) -> dict[str, Any]:
    """Return settings in which a plan may be told by its id."""
    plan = given.get("anonymous")
    return {**given, "anonymous": Anonymous(plan)} if isinstance(plan, str) else given


@contextmanager
def _told() -> Iterator[None]:
    """Tell in Django's way what is wrong."""
    try:
        yield
    except QuotaError as error:
        raise ImproperlyConfigured(f"QUOTA: {error}") from error
    except TypeError as error:  # an unknown keyword of the decorator's
        raise ImproperlyConfigured(f"QUOTA: {str(error).rpartition('()')[2].strip()}") from error


def _value(name: str, value: Any) -> Any:
    function = name in _FUNCTIONS or (name in ("KEY", "COST", "EXEMPT") and _DOTTED.fullmatch(str(value)))
    return _imported(name, value) if function and isinstance(value, str) else value


def _imported(name: str, dotted: str) -> Any:
    try:
        return import_string(dotted)
    except ImportError as error:
        raise ImproperlyConfigured(f"QUOTA[{name!r}]: {error}") from error


def _forget(*, setting: str, **_: Any) -> None:
    """Read it again when a test changes it."""
    if setting == "QUOTA":
        _fronts.clear()


setting_changed.connect(_forget)
