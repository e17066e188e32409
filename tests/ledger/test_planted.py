"""Planted bugs: each is put into a copy of the package, and a scenario or the conformance machine must catch it.

A property is worth the bugs that it finds. Every entry says what was broken and replaces one piece of the source; the
piece must still be there, so that a bug cannot go stale unseen.
"""

import pytest

import quota
from planting import SCENARIOS, caught_by, plant

BUGS = {
    # The rule
    "a limit refuses its last unit": (
        "rule/charge.py", "units > 0 and reading + units > line.limit", "units > 0 and reading + units >= line.limit"),
    "a limit admits one unit too many": (
        "rule/charge.py", "units > 0 and reading + units > line.limit", "units > 0 and reading + units - 1 > line.limit"),
    "only an exactly full limit refuses": (
        "rule/charge.py", "units > 0 and reading + units > line.limit + line.overage + extra",
        "units > 0 and reading == line.limit + line.overage + extra"),
    "a refused call is charged": (
        "rule/charge.py", "    if not dry and (verdict.allowed or party.moved):\n",
        "    if not dry:\n        if not verdict.allowed:\n            take(party, course, takes, now)\n"),
    "what was used before a long rest counts in a window after it": (
        "rule/meter.py", "if len(left) < len(days) and", "if False and"),
    "a refusal forgets what became of a bucket": ("rule/charge.py", "(verdict.allowed or party.moved)", "verdict.allowed"),
    "a look keeps what became of a bucket": ("rule/charge.py", "    if not dry and (verdict.allowed or party.moved):\n", "    if party.moved or (not dry and verdict.allowed):\n"),
    "a peek is charged": ("rule/charge.py", "    if not dry and (", "    if ("),
    "the last limit alone decides": (
        "rule/charge.py", "return Verdict(not waits, now,", "return Verdict(not standings or not standings[-1].refused, now,"),
    "the cost of another unit is counted": (
        "rule/charge.py", "        units = takes.get(line.unit, 0)\n        if isinstance(line, QuotaLine):\n            refused",
        "        units = sum(takes.values())\n        if isinstance(line, QuotaLine):\n            refused"),
    "overage is never admitted": (
        "rule/charge.py", "reading + units > line.limit + line.overage + extra", "reading + units > line.limit + extra"),
    "a cost that can never fit is told to wait": (
        "rule/charge.py", "if units > line.limit + line.overage:", "if False:"),
    # Time
    "a clock stepped back rewinds a window": (
        "rule/party.py", "            now = max(now, record.at)\n", ""),
    "a clock far behind refuses nothing": (
        "rule/party.py", "if now < record.at - terms.max_skew:", "if False:"),
    "a window never rolls": (
        "rule/charge.py", "if slot is None or slot.end <= now:", "if slot is None:",
        "if slot.name and record.at < slot.end <= now else slot", "if False else slot"),
    "the instant after a window belongs to it": (
        "rule/charge.py", "if slot is None or slot.end <= now:", "if slot is None or slot.end < now:",
        "record.at < slot.end <= now", "record.at < slot.end < now"),
    "retry_at is a microsecond early": (
        "rule/charge.py", "waits.append(now + -(-excess // line.drain))", "waits.append(now + excess // line.drain)"),
    # Throttles
    "a bucket drains a unit too fast": (
        "rule/replan.py", "level = bucket.level - bucket.drain * (now - bucket.at)",
        "level = bucket.level - bucket.drain * (now - bucket.at) - 1"),
    "a bucket's level is rounded down on conversion": (
        "rule/replan.py", "return -(-level * line.scale // bucket.scale)", "return (level * line.scale // bucket.scale)"),
    "toggling throttles refills them": ("rule/replan.py", "    if not left:\n        return False\n", "    return False\n"),
    "a renamed throttle is refilled": ("rule/replan.py", "_missed(line, beside or across, now)", "_missed(line, [] if beside else across, now)"),
    "a throttle by key turned by account is refilled, and the other way round": (
        "rule/replan.py", "_missed(line, beside or across, now)", "_missed(line, beside, now)"),
    "a key's bucket that stays is not seen by the account's that joins": (
        "rule/replan.py", "if not (alike and former.stays and record is party.key)]", "if not (alike and former.stays)]"),
    "an account's bucket that stays fills the key's that joins": (
        "rule/replan.py", "if not (alike and former.stays and record is party.key)]", "]"),
    "an account's bucket that grows is not seen by the key's that joins": (
        "rule/replan.py", " and new.burst * old.scale <= old.burst * new.scale", ""),
    "an account's bucket that is faster is not seen by the key's that joins": (
        "rule/replan.py", "new.drain * old.scale <= old.drain * new.scale and ", ""),
    "a route's throttle that comes is refilled": (
        "rule/replan.py", 'before.get(line.route if alike else "", [])', "before.get(line.route, [])"),
    "a route's throttle that goes leaves the plan's as it was": (
        "rule/replan.py", "[_missed(line, formers, now) for formers in dropped]", "[]"),
    "a route's throttle that goes is not added to the plan's": (
        "rule/replan.py", "more = min(", "more = 0 and min("),
    "a route's throttle that goes is poured again and again": (
        "rule/replan.py", "            bucket.lent, bucket.since = level_at(bucket, now), now\n", "            pass\n"),
    "what a route's bucket began with is poured back": (
        "rule/replan.py", "level, own = max(level, whole), max(own, part if alike else 0)", "level = own = max(level, whole)"),
    "what a route's bucket passed on to another is forgotten": (
        "rule/replan.py", "max(own, part if alike else 0)", "own"),
    "what is poured overflows the bucket": (
        "rule/replan.py", "more = min(sum(part for _, part in found), max(0, line.burst - level))",
        "more = sum(part for _, part in found)"),
    "what an idle key left in a shared bucket is remembered": (
        "rule/replan.py", "mine = record is party.key or (now - party.key.at) * old.drain < old.burst", "mine = True"),
    "what an idle key left in a shared bucket is forgotten too soon": (
        "rule/replan.py", "(now - party.key.at) * old.drain < old.burst", "False"),
    "the plan of a key's last call is not remembered": (
        "rule/replan.py", "left, origin.places = origin.places, places", "left = origin.places"),
    "a bucket that was left empty is not dropped": (
        "rule/replan.py", "if not level_at(bucket, now):", "if False:"),
    # Plan changes
    "a new or renamed limit starts from nothing": (
        "rule/charge.py", "    if record.at < start:\n        return meter.total, start\n", "    return meter.total, start\n"),
    "a changed period forgets what was used": (
        "rule/charge.py", "base, since = min((slot.base, slot.since), known(record, meter, start))",
        "base, since = meter.total, start"),
    "the fast path does not note the minute": (
        "stores/memory/one_meter.py", "            record.turn_minute(self.at)\n", ""),
    "a refused call notes the minute on the fast path": (
        "stores/memory/one_meter.py", "                self.hand_back()\n", "                self.hand_back()\n                self.seat.record.turn_minute(now)\n"),
    "the fast path outlives a plan change": (
        "stores/memory/one_meter.py", "now < self.until and shape.live:", "now < self.until:"),
    "the fast path outlives a disabled key": (
        "stores/memory/store.py", "                seat.room.shut()\n", ""),
    "the fast path keeps its count to itself": (
        "stores/memory/one_meter.py", "            meter.total = self.total\n", ""),
    "the fast path keeps the time to itself": (
        "stores/memory/one_meter.py", "            record.at = self.at\n", ""),
    "the fast path outlives its key's expiry": (
        "operations/compiled.py", "ends = [entry.key.expires_at, *(", "ends = [None, *("),
    "the fast path outlives its secret's expiry": (
        "operations/compiled.py", "*(s.expires_at for s in entry.key.secrets if bound or s.digest == request.digest)]", "]"),
    "an expired secret is served by the fast path of another": (
        "stores/memory/binding.py", "NoMeter(seat) if expired else seat.room", "seat.room"),
    "the fast path serves a route of its own": (
        "operations/shape.py", "route not in own and ", ""),
    "the fast path takes any route": (
        "operations/shape.py", " and route.isprintable()", ""),
    "the fast path goes on where the record was changed": (
        "stores/memory/binding.py", "and room.version == record.version\n", "and room.version >= 0\n"),
    "the fast path admits one unit too many": (
        "stores/memory/one_meter.py", "True if total <= self.soft else", "True if total <= self.soft + 1 else"),
    "the fast path forgets the throttle": (
        "stores/memory/one_meter.py", "                                bucket.level = poured\n", ""),
    # Headrooms
    "the fast path forgets which limit a quota had": (
        "operations/compiled.py", "slot.limit != line.limit", "slot is not slot"),
    "a headroom admits one unit too many": (
        "operations/headroom.py", "if total > soft and units:", "if total > soft + 1 and units:"),
    "a headroom refuses its last unit": (
        "operations/headroom.py", "False if total > hard else", "False if total > soft else",
        "if total > soft and units:", "if total >= soft and units:"),
    "a headroom takes an alert for room": (
        "operations/headroom.py", "if total > soft and units:", "if total > hard and units:"),
    "a headroom refuses for a unit that is not asked for": (
        "operations/headroom.py", "if total > soft and units:", "if total > soft:"),
    "a headroom does not pour": (
        "operations/headroom.py", "            bucket.level = found[width]\n            bucket.at = now\n", "            pass\n"),
    "a headroom does not pour into the second bucket": (
        "operations/headroom.py", "                bucket = pours[1][0]\n                bucket.level = found[width + 1]\n", ""),
    "a bucket of a headroom never drains": (
        "operations/headroom.py", "level = bucket.level - drain * (now - bucket.at)", "level = bucket.level"),
    "a bucket of a headroom refuses nobody": (
        "operations/headroom.py", "            if poured > burst and units:\n", "            if False:\n"),
    "a headroom of more than two buckets does not pour": (
        "operations/headroom.py", '(setattr, bucket, "level", next(readings))', '(setattr, bucket, "level", bucket.level)'),
    "a headroom outlives a change of its key's record": (
        "operations/headroom.py", "own.version != self.own_version or ", "", "and own.version == self.own_version", ""),
    "a headroom outlives a change of its account's record": (
        "operations/headroom.py", "last.version != self.last_version or ", "", "last.version == self.last_version and ", ""),
    "a headroom outlives its plan": (
        "operations/headroom.py", " or not self.shape.live", "", "            and self.shape.live\n", ""),
    "a headroom outlives a secret": (
        "operations/compiled.py", "*map(quiet_until, records), *expiries]", "*map(quiet_until, records)]"),
    "a headroom outlives what is due": (
        "operations/compiled.py", "*map(quiet_until, records), *expiries]", "*expiries]"),
    "a headroom notes no minute": (
        "operations/headroom.py", " or own.at < self.began or last.at < self.began", ""),
    "a headroom notes a minute after its first call": (
        "operations/headroom.py", "[(setattr, meter, mark, meter.total) for meter in record.meters]",
        "[(setattr, meter, mark, meter.total + 1) for meter in record.meters]"),
    "a headroom notes no hour": (
        "operations/headroom.py", ', ("hour", now - now % HOUR_US)', ""),
    "a headroom keeps the time to itself": (
        "operations/headroom.py", "        own.at = last.at = now\n", "        own.at = now\n"),
    "a headroom leaves the account out": (
        "operations/headroom.py", "            if width > 2:\n", "            if False:\n"),
    "a headroom counts one unit alone": (
        "operations/headroom.py", "        if width > 1:\n", "        if False:\n"),
    "a headroom of many meters leaves the last ones out": (
        "operations/headroom.py", "if width > 4 or poured_ones > 2 or", "if poured_ones > 2 or"),
    "a peek by a headroom is charged": (
        "operations/headroom.py", "        if dry or not allowed:\n", "        if not allowed:\n"),
    "a peek by a headroom can be refunded": (
        "operations/headroom.py", "            decision._dry = True\n", "            pass\n"),
    "a headroom serves a route that has limits of its own": (
        "stores/memory/one_meter.py", "else route is None or unrouted(shape.own, route)", "else route is None or unrouted((), route)"),
    "the fast path serves another api": (
        "stores/memory/one_meter.py", "plain = api == shape.api and (", "plain = True and ("),
    "a peek on the fast path is charged": (
        "stores/memory/one_meter.py", "                    elif allowed:\n", "                    if allowed:\n"),
    "a peek on the fast path is poured": (
        "stores/memory/one_meter.py", "if not dry:", "if True:"),
    "a peek on the fast path can be refunded": (
        "stores/memory/one_meter.py", "                        decision._dry = True\n", "                        pass\n"),
    "a headroom serves another api": (
        "stores/memory/one_meter.py", "if shape.api == api and (", "if True and ("),
    "a headroom does not see what the fast path counted": (
        "stores/memory/one_meter.py", "                if self.until:\n", "                if False:\n"),
    "a refusal by a headroom tells what was asked for": (
        "operations/headroom.py", "found if allowed else self._untouched(now) if pours else [cell[0].total for cell in cells]", "found"),
    "a headroom tells another unit's count": (
        "operations/headroom.py", "zip(self.shape.units, amounts, strict=True) if units", "zip(self.shape.units, reversed(amounts), strict=True) if units"),
    "a headroom takes costs that are no whole numbers": (
        "operations/shape.py", "if type(units) is not int or not 0 < units <= MAX_UNITS:", "if not units:"),
    "a headroom counts a unit that a record has no meter for": (
        "operations/shape.py", "unit if unit not in missing else _UNCOUNTED for unit in units", "unit for unit in units"),
    # Reservations, refunds, request ids
    "a refund counts twice": (
        "operations/adjustments.py", "or party.key.refunded(request.id) or", "or"),
    "a refund after the window mints": (
        "rule/record.py", "if slot.since <= taken_at and now < slot.end:", "if slot.since <= taken_at:"),
    "a refund goes into the current window": (
        "rule/meter.py", "if any(slot.since > taken_at for slot in self.slots):", "if False:"),
    "a refund is taken at any time": (
        "operations/adjustments.py", " or now >= decided_at + terms.refund_span", ""),
    "a refund is forgotten while another may come": (
        "operations/adjustments.py", "now + terms.refund_span, now", "now, now"),
    "a hold that lapsed is forgotten at once": (
        "rule/record.py", "if hold.still_open and hold.until + DAY_US > now:", "if False:"),
    "a refund survives forget": (
        "operations/adjustments.py", "party.key.token != tokens[0] or ", ""),
    "a partial refund gives all back": (
        "operations/adjustments.py", "take if wanted is None else take._replace(units=min(take.units, wanted[take.unit]))", "take"),
    "a reservation can be closed twice": (
        "rule/record.py", "            self.holds.drop(id_)\n", "            pass\n"),
    "an expired hold is never given back": (
        "rule/record.py", "                self.give_back(hold.taken_at, hold.takes)\n", "                pass\n"),
    "an expired hold is given back twice": (
        "operations/reservations.py", "if hold is not None and hold.still_open:", "if hold is not None:"),
    "a hold lapses a microsecond early": (
        "operations/consume.py", "verdict.now + request.ttl, verdict.now", "verdict.now + request.ttl - 1, verdict.now"),
    "a commit above its hold is lost": (
        "operations/reservations.py", "        add(record, more, now)\n", ""),
    "a commit gives nothing back": (
        "operations/reservations.py", "                if units < had:\n", "                if False:\n"),
    "a replay is charged again": (
        "operations/consume.py", "if memo is not None and memo.until > request.now:", "if False:"),
    "a reservation's retry is told of another hold": (
        "operations/idempotency.py", "plan=plan, replayed=True", "plan=plan, replayed=True, hold=request.id"),
    "a replay of other parameters is answered": (
        "operations/idempotency.py", "if memo.asked != asked(request):", "if False:"),
    "a refunded charge is replayed": (
        "operations/idempotency.py", "if party.key.refunded(memo.id):", "if False:"),
    # Accounts, routes, alerts, grants
    "the account is charged though the key refused": (
        "rule/charge.py", "    if not dry and (verdict.allowed or party.moved):\n",
        ("    if not dry and not verdict.allowed and party.account is not None:\n"
         "        add(party.account, metered(course, takes), now)\n        party.changed = True\n"
         "    if not dry and (verdict.allowed or party.moved):\n")),
    "keys of one account do not see each other": (
        "rule/party.py", "return self.account if shared and self.account is not None else self.key", "return self.key"),
    "a second key wipes what the account used": (
        "stores/memory/directory.py", "record = Record.decode(first.record.encode())", "record = Record(1, 0)"),
    "a route's count leaks into the plan's": (
        "rule/charge.py", '    routes = ("", course.route) if course.routed else ("",)\n',
        '    routes = ("", "") if course.routed else ("",)\n'),
    "a route's throttle does not override": (
        "plan.py", "if not (isinstance(limit, Throttle) and limit.unit in overridden)", "if True"),
    "a route's cost is forgotten": (
        "plan.py", "cost = parse_cost(self.costs.get(route, 1))", "cost = parse_cost(1)"),
    "an alert fires again": ("rule/charge.py", "                    alerted = percent\n", ""),
    "an alert is late by a unit": (
        "rule/charge.py", "(meter.total - slot.base) * 100 >= full", "(meter.total - slot.base) * 100 > full"),
    "the fast path swallows an alert": (
        "operations/compiled.py", "for p in line.alerts if p > slot.alerted", "for p in ()"),
    "a grant outlives its window": (
        "rule/charge.py", "(base, since), extra, alerted = known(record, meter, start), 0, 0",
        "(base, since), extra, alerted = known(record, meter, start), slot.extra if slot else 0, 0",
        "since=slot.end, extra=0, alerted=0", "since=slot.end"),
    "an old secret still works": (
        "ledger/administration.py", "                if until > now:\n", "                if until >= now:\n"),
    "a day's history counts the wrong day": (
        "rule/meter.py", "total - units if day * DAY_US > taken_at else total)", "total)"),
    "a key's history tells its account's": (
        "operations/usage.py", "if row.api == api and held.get((row.route, row.name), (record, row.unit)) == (record, row.unit)", "if row.api == api"),
    # What lies long apart
    "a window that ended unseen is not noted": (
        "rule/charge.py", "if slot.name and record.at < slot.end <= now else slot", "if False else slot"),
    "a window that ended is noted by the fast path too late": (
        "rule/charge.py", "    ends = [slot.end for meter in record.meters for slot in meter.slots if slot.name and slot.end > record.at]\n",
        "    ends = []\n"),
    "the note of a window that ended goes with the day": (
        "rule/meter.py", "return self.end + max(2 * (self.end - self.start), 2 * DAY_US) if self.since == self.end else self.end",
        "return self.end"),
    "a bucket is pruned before it is empty": (
        "rule/record.py", "                dead = max(dead, min(bucket.at - -bucket.level // bucket.drain, _NEVER))\n", "                pass\n"),
    "a refund reaches an account that was forgotten": (
        "operations/adjustments.py", "for record in party.records() if record.token in tokens]", "for record in party.records()]"),
    "a cancelled reservation is retried": (
        "operations/reservations.py", "if memo is not None and memo.answer.hold == request.id:", "if False:"),
    "a retry may hold for another time": (
        "operations/idempotency.py", 'kind = ("reserve", request.ttl)', 'kind = ("reserve",)'),
    "copies of records share what they hold": (
        "stores/memory/directory.py", "Record.decode(first.record.encode())", "first.record.copy()"),
    "a late commit misses the account": (
        "operations/reservations.py", "Hold(0, request.id, now, still_open=False, takes=takes)", "Hold(0, request.id, now, still_open=False, takes=())"),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_the_suite_catches(bug, tmp_path):
    """One planted bug, seen."""
    assert caught_by(*plant(tmp_path, f"_{list(BUGS).index(bug)}", *BUGS[bug]))


def test_the_suite_passes_the_package_as_it_is(tmp_path):
    """Nothing planted, nothing caught: the bugs above are what fails."""
    assert caught_by(*plant(tmp_path, "_none", "rule/charge.py", "THE rule", "THE rule")) is None


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(scenario):
    """Each short history comes out as it says."""
    SCENARIOS[scenario](quota)
