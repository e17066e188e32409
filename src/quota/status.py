"""Where one limit stands: what decisions, ``status`` and the adjustments tell of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import attrs

from .clock import to_datetime
from .key import KeyOrCaller, ScheduledPlan
from .rule.limits import CompiledConcurrency, CompiledLimit, LimitState, Place, Stands


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


class _Blank:
    """A status that can be written."""


def statuses(stands: Stands, now: int, key: KeyOrCaller) -> tuple[LimitStatus, ...]:
    """Tell limits as users see them after a call by a key."""
    places, bases, found = stands
    told: tuple[LimitStatus, ...] = ()
    for number, index, whole, limit, drain, fields in _known.get(places) or _learn(places):
        used = found[index] - bases[number]
        own = fields.copy()  # and then each of its own: a new one takes three times as long
        if drain:
            own["resets_at"] = to_datetime(now - -used // drain)
            used = -(-used // limit.scale)
        own["used"] = used
        if used < whole:
            own["remaining"] = whole - used
        elif used > whole:
            own["over"] = used - whole
        if not limit.holder:
            own["holder"] = key.account if limit.shared else key.id
        status: Any = _Blank()  # an ``__init__``, or one field after the other, takes three times as long
        status.__dict__ = own
        status.__class__ = LimitStatus
        told += (status,)
    return told


_known: dict[tuple[Place, ...], list[tuple[int, int, int, Any, int, dict[str, Any]]]] = {}


def _learn(places: tuple[Place, ...]) -> list[Any]:
    """Return what is told of limits whatever the call: in a window it is the same for all calls of most keys."""
    if len(_known) > 1024:
        _known.clear()
    lasting = [
        (number, index, limit.limit + extra, limit, getattr(limit, "drain", 0), _fields(limit, extra, end))
        for number, (limit, index, extra, end) in enumerate(places)
    ]
    return _known.setdefault(places, lasting)


def _fields(limit: CompiledLimit, extra: int, end: int) -> dict[str, Any]:
    return {
        "name": limit.told, "unit": limit.unit, "limit": limit.limit, "used": 0, "remaining": 0,
        "resets_at": to_datetime(end) if end else None, "window": limit.length, "holder": limit.holder, "extra": extra,
        "over": 0, "retry_at": None, "scheduled": None, "override": None,
    }  # fmt: skip


def status_of(state: LimitState, key: KeyOrCaller | None) -> LimitStatus:
    """The state of a key's limit as users see it."""
    limit, used, extra, end, _, retry_at = state
    left = limit.limit + extra - used
    own = _fields(limit, extra, 0 if isinstance(limit, CompiledConcurrency) else end)
    own |= {"used": used, "remaining": max(0, left), "over": max(0, -left)}
    own["holder"] = limit.holder or ("" if key is None else key.account if limit.shared else key.id)
    own["retry_at"] = None if retry_at is None else to_datetime(retry_at)
    status = object.__new__(LimitStatus)
    object.__setattr__(status, "__dict__", own)
    return status
