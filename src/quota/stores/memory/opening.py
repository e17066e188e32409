"""After the rule has decided: opening a key's lane again, and binding a headroom to calls that no lane serves."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from ...clock import to_us
from ...decision import Decision, Reason
from ...key import Caller, Subject
from ...limit import REQUESTS
from ...operations.compiled import open_lane
from ...operations.headroom import Counted, Headroom, Looked
from ...operations.request import Entry, Request, barred, in_force, usable
from ...plan import UsagePlan
from ...rule.charge import current
from ...rule.limits import MAX_UNITS, QuotaLine
from ...rule.party import Party
from .lane import Lane, Seat, Track, wait_for

MOST_ROOMS = 8
"""Headrooms of one key: of apis and of routes with limits of their own, those that were bound last."""


def plain(own: Container[str], route: object) -> bool:
    """Whether a route is a valid one and not of those with limits or a cost of their own, so that it counts as none."""
    return type(route) is str and route not in own and 0 < len(route) <= 1024 and route.isprintable()


def serve(  # noqa: C901 -- in line: a call more is a floor's quarter
    lane: Lane,
    now: int,
    cost: Any,
    api: str,
    route: str | None,
    address: str | None,
    scope: str | None,
    kind: type[Counted] = Counted,
) -> Decision | None:
    """Decide a call by a headroom of its key; ``kind``: ``Looked`` for ``peek``. None where the rule must."""
    seat = lane.seat
    stripe = seat.stripe
    for room in stripe.rooms.get(lane, ()):
        course = room.course
        if course.api == api and (
            course.route == route if course.route else route is None or plain(room.tag.own, route)
        ):
            break
    else:
        return None
    if (scope is not None or room.key.networks) and barred(room.key, address, scope):
        return None
    asked = room.takes(cost)
    if asked is None:
        return None
    takes, amounts = asked
    decision: Counted = kind()
    dry = kind is Looked
    lock, answer, mine = lane.lock, None, False
    try:
        if not lock.acquire(False):  # noqa: FBT003 -- by keyword it takes twice as long
            wait_for(lock)
        if not stripe.busy:  # else a signal handler asks in the middle of its thread's call, and is told so
            mine = stripe.busy = True
            hot = seat.lane
            if hot.until:
                hot.hand_back() if dry else hot.close()
            answer = room.take(amounts, now, dry)
            mine = stripe.busy = False
        lock.release()
    except BaseException:
        if mine:
            stripe.busy = False
        if lock._is_owned():
            lock.release()
        raise
    if answer is None:
        return None
    decision.allowed, decision._total = answer
    decision._frame, decision._now, decision._cost = room, now, takes
    return decision


class Opening:
    """What a memory store does so that the next call like this one need not ask the rule."""

    lanes: dict[bytes | str | Caller, Lane]
    _tracks: dict[str, Track]

    def _open_lane(self, request: Request, seat: Seat, entry: Entry, party: Party) -> None:
        """Open the key's lane again where its bounds still hold, or work out new ones for what was just decided."""
        record, lane, now = seat.record, seat.lane, request.now
        if record is None or now < record.at:
            return
        if not entry.shared:
            if lane.version == record.version and lane.track.live and now < lane.bounds.end:
                lane.open(record)
            else:
                self._lay(request, seat, entry, party)
        self._bind(request, seat, entry, party)

    def _lay(self, request: Request, seat: Seat, entry: Entry, party: Party) -> None:
        record, now, plan = seat.record, request.now, entry.plans.get("")
        if record is None or plan is None or request.op != "consume" or request.api != "" or record.overrides:
            return
        track = self._track(plan)
        meter = record.meter("", "", REQUESTS)
        if not track.simple or request.route in track.own or meter is None or seat.key.networks:
            return
        if usable(request, entry) is not Reason.OK:
            return
        slots = [(line, meter.slot(line.name)) for line in track.course.lines if isinstance(line, QuotaLine)]
        if current(party, track.course, now) and all(slot and slot.limit == line.limit for line, slot in slots):
            lane = self._renew(seat, now)
            lane.lay(track, record, meter, now)
            lane.open(record)

    def _bind(self, request: Request, seat: Seat, entry: Entry, party: Party) -> None:
        """Bind a headroom for calls like this one, where they are not what the key's open lane serves.

        One that was bound and then served no call, because each changes the record, is bound every second time.
        """
        plan, lane = entry.plans.get(request.api), seat.lane
        if plan is None or request.op not in ("consume", "peek") or request.request_id is not None:
            return
        track = self._track(plan)
        course = in_force(entry, party, request.now).plans[request.api].course(request.route)
        if lane.until and request.op == "consume" and course is lane.course:
            return
        account = seat.account.record if seat.account is not None and seat.account.shared else None
        if party.key is not seat.record or party.account is not account:
            return
        rooms = seat.stripe.rooms.get(lane, ())
        old = next((room for room in rooms if room.course is course), None)
        if old is not None and (old.good(request.now) or not old.until):
            old.until = old.until or 1
            return
        compiled = open_lane(request, entry, party)
        if compiled is None or not compiled.meters:
            return
        compiled.tag = track
        expiries = [seat.key.expires_at, *(secret.expires_at for secret in seat.key.secrets)]
        ends = [to_us(expiry) for expiry in expiries if expiry is not None]
        end = min((end for end in ends if end > request.now), default=MAX_UNITS)
        room = Headroom(
            compiled, party.records(), end, lambda name, value: track.share(f"{name} {course.route}", value)
        )
        late = [s for s in seat.key.secrets if s.expires_at is not None and to_us(s.expires_at) <= request.now]
        if (not rooms and lane.version < 0) or any(self.lanes.get(secret.digest) is lane for secret in late):
            lane = self._renew(seat, request.now)
        kept = [other for other in rooms if other.course is not course and other.tag.live]
        seat.stripe.rooms[lane] = (room, *kept[: MOST_ROOMS - 1])

    def _renew(self, seat: Seat, now: int) -> Lane:
        """A lane in place of the key's: who found that one by a secret that has expired is served by neither."""
        old, stripe = seat.lane, seat.stripe
        old.close()
        old.version = -1
        rooms = stripe.rooms.pop(old, None)
        seat.lane = lane = Lane(seat)
        self.lanes.update(self._references(seat, now=now))
        if rooms is not None:
            stripe.rooms[lane] = rooms
        return lane

    def _track(self, plan: UsagePlan) -> Track:
        return self._tracks.get(plan.id) or self._tracks.setdefault(plan.id, Track(plan))

    def _references(self, seat: Seat, key: Subject | None = None, now: int = 0) -> dict[bytes | str | Caller, Lane]:
        """By what a key is found: its id and its secrets; one that has expired is served by no fast path."""
        key = key or seat.key
        refs: dict[bytes | str | Caller, Lane] = {key if isinstance(key, Caller) else key.id: seat.lane}
        for secret in key.secrets:
            expired = secret.expires_at is not None and to_us(secret.expires_at) <= now
            refs[secret.digest] = Lane(seat) if expired else seat.lane
        return refs
