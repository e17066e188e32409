"""Pages of lists, newest first, whose position names the last entry: restarts and changes move none past a reader."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable
from typing import TypeVar

from ...clock import to_us
from ...key import ApiKey
from ...plan import UsagePlan
from ..read import OWN
from .errors import bad_request
from .wire import Call

T = TypeVar("T")
Rank = tuple[int, str]

_DEFAULT, _MOST = 25, 500
_RANK = re.compile(r"(-?[0-9]{1,18}):(.{1,1024})", re.DOTALL)


def rank_of(resource: ApiKey | UsagePlan) -> Rank:
    """Return where a resource stands in the order of creation; of equal ones the id decides.

    What was not made through the control plane stands at its date, a plan, which has none, before all others.
    """
    order = resource.metadata.get(f"{OWN}order", "")
    if order.isascii() and order.isdigit() and len(order) <= 18:
        return int(order), resource.id
    created = resource.created_at if isinstance(resource, ApiKey) else None
    return (to_us(created) if created else 0), resource.id


def page(items: Iterable[T], call: Call, rank: Callable[[T], Rank]) -> tuple[list[T], str | None]:
    """Return the entries of the page that is asked for, and the position of the next one if there is one."""
    limit = _limit(call.one("limit"))
    position = call.one("position")
    after = _rank(position) if position else None
    found = sorted((item for item in items if after is None or rank(item) < after), key=rank, reverse=True)
    shown = found[:limit]
    return shown, _position(rank(shown[-1])) if len(found) > limit else None


def _limit(text: str | None) -> int:
    """Return how many entries a page has; what is not above 0 asks for as many as usual."""
    if text is None:
        return _DEFAULT
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise bad_request("Invalid value specified for limit")
    return min(int(text), _MOST) if int(text) > 0 else _DEFAULT


def _position(rank: Rank) -> str:
    return urlsafe_b64encode(f"{rank[0]}:{rank[1]}".encode()).decode().rstrip("=")


def _rank(position: str) -> Rank:
    try:
        text = urlsafe_b64decode(position.encode("ascii") + b"=" * (-len(position) % 4)).decode()
    except ValueError:
        text = ""
    found = _RANK.fullmatch(text)
    if found is None:
        raise bad_request("Invalid position specified")
    return int(found[1]), found[2]
