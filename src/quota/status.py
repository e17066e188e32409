"""Where one limit stands: what decisions, ``status`` and the adjustments tell of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

import attrs

from .clock import to_datetime
from .key import KeyOrCaller, ScheduledPlan
from .rule.limits import CompiledConcurrency, CompiledLimit, CompiledQuota, LimitState


class LimitOverride(NamedTuple):
    """A value of one's own in place of a plan's limit: units, or a throttle's text; ``until`` None: for good."""

    value: int | str
    until: datetime | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {"value": self.value, "until": self.until and self.until.isoformat()}


@attrs.frozen(slots=False)  # every answer that is read makes some: with slots it takes twice as long
class LimitStatus:
    """One limit and where it stands, after a decision or now (``status``), in ``unit``.

    ``remaining`` is never negative, though ``used`` may pass ``limit`` (overage, a lowered limit, a commit above its
    hold); ``over`` says by how much. ``resets_at``: when ``used`` is 0 again if nobody calls; None where that is never.
    A throttle's ``limit`` is its burst; of a concurrency limit, calls in flight are used, and ``resets_at`` is None:
    slots come back as calls end. ``window`` is the window's length in seconds where every window has the same,
    else None. ``holder``: the id of the key or account that it is counted on. ``extra``: granted on top of the limit in
    this window, negative where units were taken away. ``retry_at``: of a limit that refuses the call (``status``: one
    unit), when it would admit it if nobody else calls; None where it does not refuse, or never will admit it.
    ``scheduled``: the plan that takes the place of the limit's, and when. ``override``: what its holder was given in
    place of the plan's. ``status`` and ``override_limit`` tell these two.
    """

    name: str
    unit: str
    limit: int
    used: int
    remaining: int
    resets_at: datetime | None
    window: int | None = attrs.field(default=None, eq=False, repr=False)
    holder: str = attrs.field(default="", kw_only=True)
    extra: int = attrs.field(default=0, kw_only=True)
    over: int = attrs.field(default=0, kw_only=True)
    retry_at: datetime | None = attrs.field(default=None, kw_only=True)
    scheduled: ScheduledPlan | None = attrs.field(default=None, kw_only=True)
    override: LimitOverride | None = attrs.field(default=None, kw_only=True)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it, as ``quota check --json`` tells it."""
        plain = {field: getattr(self, field) for field in _TOLD}
        instants = {"resets_at": self.resets_at, "retry_at": self.retry_at}
        told = plain | {field: instant and instant.isoformat() for field, instant in instants.items()}
        more = {"scheduled": self.scheduled, "override": self.override}
        return told | {field: value and value.to_dict() for field, value in more.items()}


_TOLD = ("name", "unit", "limit", "used", "remaining", "holder", "extra", "over")


_new, _set = object.__new__, object.__setattr__
_window_end = lru_cache(maxsize=256)(to_datetime)
"""Windows' ends: the same for all calls of a window."""


def status_at(
    limit: CompiledLimit, used: int, extra: int, resets_at: int, holder: str, retry_at: int | None = None
) -> LimitStatus:
    """A limit as users see it after a call."""
    left = limit.limit + extra - used
    fields, ends = _lasting(limit)
    told = fields.copy()  # and then each of its own: a new one takes three times as long
    told["used"], told["remaining"] = used, left if left > 0 else 0  # noqa: FURB136 -- a call
    told["holder"], told["extra"] = holder, extra
    if ends is not None:
        told["resets_at"] = ends(resets_at)
    if left < 0:
        told["over"] = -left
    if retry_at is not None:
        told["retry_at"] = to_datetime(retry_at)
    status = _new(LimitStatus)
    _set(status, "__dict__", told)  # at once: an ``__init__`` takes three times as long
    return status


@lru_cache(maxsize=1024)
def _lasting(limit: CompiledLimit) -> tuple[dict[str, Any], Callable[[int], datetime] | None]:
    """Return what is told of a limit whatever the call, and how its end is read where it has one."""
    fields = {
        "name": limit.told, "unit": limit.unit, "limit": limit.limit, "used": 0, "remaining": 0, "resets_at": None,
        "window": limit.length, "holder": "", "extra": 0, "over": 0, "retry_at": None, "scheduled": None,
        "override": None,
    }  # fmt: skip
    if isinstance(limit, CompiledConcurrency):
        return fields, None
    return fields, _window_end if isinstance(limit, CompiledQuota) else to_datetime


def status_of(state: LimitState, key: KeyOrCaller | None) -> LimitStatus:
    """The state of a key's limit as users see it."""
    limit = state.limit
    holder = limit.holder or ("" if key is None else key.account if limit.shared else key.id)
    return status_at(limit, state.used, state.extra, state.resets_at, holder, state.retry_at)
