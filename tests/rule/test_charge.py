"""The rule's parts one by one, on records made by hand: what is kept, what is noted, and what is left as it is."""

from datetime import timedelta

import pytest

from quota import ApiKey, ClockSkew, Ledger, ManualClock, Quota, Throttle, UsagePlan
from quota.operations import perform
from quota.operations.request import Entry, Request
from quota.process.atomic import at_once
from quota.rule.charge import advanced, charge, current, next_due, read, reading_at
from quota.rule.entries import Amount, Hold, Refund
from quota.rule.kept import Kept
from quota.rule.limits import StoreOptions
from quota.rule.meter import Meter, Window, numbers
from quota.rule.record import Record
from quota.rule.subject import Subject

SECOND, MINUTE, HOUR, DAY = 1_000_000, 60_000_000, 3_600_000_000, 86_400_000_000
NOON = 1_773_144_000_000_000  # 2026-03-10 12:00 UTC
MIDNIGHT = NOON - NOON % DAY
OPTIONS = StoreOptions()


def subject_on(plan, now=NOON, route=None, **takes):
    """A subject that was charged once under a plan, and the route plan."""
    subject, route_plan = Subject(Record(1)), plan.route_plan(route)
    assert charge(subject, route_plan, takes or route_plan.cost, now, OPTIONS, dry=False).allowed
    return subject, route_plan


def windows(record):
    return [[*window] for meter in record.meters for window in meter.windows]


class Asked:
    """One key of one plan, asked as a store does: a call has a copy of the record, which is kept where it changed."""

    def __init__(self, *limits, **options):
        self.plan = UsagePlan("p", *limits, **options)
        self.subject = Subject(Record(1))

    def __call__(self, op="consume", now=NOON, route=None, plan=None, **takes):
        entry = Entry(ApiKey("k", "k", "k"), {"": plan or self.plan})
        request = Request(op, now, None, "k", "", route, takes or None)
        subject = Subject(self.subject.key.copy())
        decision = perform(request, entry, subject, OPTIONS)
        self.subject.changed = subject.changed
        if subject.changed:
            at_once(*self.subject.key.changes(subject.key))
        return decision


def days(subject):
    """The days of the first meter, with what it read."""
    return subject.key.meters[0].readings()


# Time


def test_time_of_a_record_only_goes_on():
    """A clock that is behind is taken for the latest instant recorded, up to what the store was told is an error."""
    subject = Subject(Record(1), Record(2))
    subject.key.at, subject.account.at = NOON, NOON + 5
    assert [subject.instant(now, OPTIONS) for now in (NOON + 6, NOON + 5, NOON + 4, NOON)] == [
        NOON + 6,
        *[NOON + 5] * 3,
    ]
    subject.key.at, edge = 0, NOON + 5 - OPTIONS.max_skew
    assert subject.instant(edge, OPTIONS) == NOON + 5
    with pytest.raises(ClockSkew):
        subject.instant(edge - 1, OPTIONS)
    fresh = Subject(Record(1, floor=NOON))
    assert fresh.instant(NOON, OPTIONS) == NOON
    with pytest.raises(ClockSkew):
        fresh.instant(NOON - 1, OPTIONS)


# Settling


def test_nothing_is_settled_where_nothing_is_due():
    """The usual call: quotas, throttles, an API, a route with limits of its own."""
    plan = UsagePlan("p", "9/day, 99/month, 5/s burst 9", routes={"r": "5/hour as r, 1/s burst 5 as t"}, api="maps")
    for route in (None, "r"):
        subject, route_plan = subject_on(plan, route=route)
        for now in (NOON, NOON + MINUTE - 1):
            assert current(subject, route_plan, now)
    subject, route_plan = subject_on(plan, MIDNIGHT)
    assert current(subject, route_plan, MIDNIGHT)


@pytest.mark.parametrize(("other", "now"), [
    ("9/day", NOON + DAY), ("9/day", MIDNIGHT + DAY), ("9/hour", NOON), ("9/day, 1/s", NOON), ("2/s burst 9", NOON),
    ("1/minute burst 9", NOON), ("1/s burst 9 as b", NOON), ("9 tokens/day", NOON), ("9/day as other", NOON),
])  # fmt: skip
def test_it_is_settled_where_something_is_due(other, now):
    """Another day, another limit, another period, rate, scale, name or unit; what it was a copy of stays as it is."""
    subject, _ = subject_on(UsagePlan("p", "9/day, 1/s burst 9"))
    before = subject.key.encode()
    work, route_plan = Subject(subject.key.copy()), UsagePlan("p", other).route_plan(None)
    assert not current(work, route_plan, now)
    advanced(work, route_plan, now, OPTIONS).keep(now)
    assert current(work, route_plan, now)
    assert subject.key.encode() == before != work.key.encode()


def test_an_account_stays_as_it_is_where_only_its_key_s_window_rolls():
    """What other keys were told of an account stands: a call that is due on the key's record alone changes no other."""
    plan = UsagePlan("p", "5/minute, 90/month by account, 3/s burst 9 by account")
    subject, route_plan = Subject(Record(1), Record(2)), plan.route_plan(None)

    def call(now, route_plan):
        work = Subject(subject.key.copy(), subject.account.copy())
        assert charge(work, route_plan, {"requests": 1}, now, OPTIONS, dry=False).allowed
        before = subject.key.version, subject.account.version
        at_once(*subject.key.changes(work.key), *subject.account.changes(work.account))
        return subject.key.version - before[0], subject.account.version - before[1]

    for minute in range(3):
        now = NOON + minute * MINUTE
        assert call(now, route_plan) == (1, minute == 0)
        assert (subject.account.at, subject.account.meters[0].total) == (now, minute + 1)
    faster = UsagePlan("p", "5/minute, 90/month by account, 9/s burst 9 by account").route_plan(None)
    assert call(NOON + 2 * MINUTE, faster)[1] == 1
    assert call(NOON + DAY, faster) == (1, 1)


def test_readings_say_where_limits_stand():
    """A quota: used, granted, the window's end. A throttle: its level in parts of a unit, and now."""
    subject, route_plan = subject_on(UsagePlan("p", "9/day, 1/s burst 9"), requests=3)
    quota, throttle = route_plan.limits
    assert read(subject, route_plan, NOON + 1) == [
        (quota, 3, 0, MIDNIGHT + DAY),
        (throttle, 3 * SECOND - 1, 0, NOON + 1),
    ]


def test_a_hold_lapses_once_and_at_its_end():
    """Not before, not again, and not where it was committed."""
    ask = Asked("99/day")
    ask()
    record = ask.subject.key
    record.meters[0].total += 15
    record.hold(Hold(NOON + 5, "early", NOON, True, (Amount("", "", "requests", 3),)))
    record.hold(Hold(NOON + 9, "late", NOON, True, (Amount("", "", "requests", 5),)))
    record.hold(Hold(NOON + 5, "closed", NOON, True, (Amount("", "", "requests", 7),)))
    record.holds.put(record.holds.get("closed").lapsed())
    at_once(*record.written())
    assert [ask(now=NOON + after).limits[0].used for after in (4, 5, 6, 9, 10)] == [17, 15, 16, 12, 13]
    assert [hold.still_open for hold in ask.subject.key.holds.all()] == [False] * 3
    assert ask.subject.key.due == NOON + 5 + DAY
    ask(now=NOON + 8 + DAY)
    assert [hold.id for hold in ask.subject.key.holds.all()] == ["late"]
    ask(now=NOON + 9 + DAY)
    assert ask.subject.key.holds is None


def test_days_that_are_over_are_noted_and_forgotten():
    """One entry for each day's beginning on which something was used, none for idle days but the first that is kept."""
    options = StoreOptions(retention=3)
    subject, route_plan = Subject(Record(1)), UsagePlan("p", "99/day").route_plan(None)
    first = NOON // DAY
    for day in (0, 1, 3, 4, 5):
        charge(subject, route_plan, {"requests": 1}, NOON + day * DAY, options, dry=False)
    assert days(subject) == [(first + 2, 2), (first + 3, 2), (first + 4, 3), (first + 5, 4)]
    charge(subject, route_plan, {"requests": 1}, NOON + 7 * DAY, options, dry=False)
    assert days(subject) == [(first + 4, 3), (first + 5, 4), (first + 7, 5)]
    work = advanced(subject, route_plan, NOON + 9 * DAY, options)
    assert days(work) == [(first + 6, 5), (first + 7, 5), (first + 9, 6)]
    work.keep(NOON + 9 * DAY)
    again = advanced(work, route_plan, NOON + 10 * DAY, options)
    assert days(again) == [(first + 7, 5), (first + 10, 6)]


def test_what_was_used_before_a_long_rest_is_no_window_s_of_now():
    """Idle for longer than history is kept: a limit that comes then counts from its window's start all the same."""
    for later in (0, DAY):
        ask = Asked("99/year")
        ask(requests=3)
        ask(now=NOON + 40 * DAY, requests=1)
        decision = ask(now=NOON + 40 * DAY + later, plan=UsagePlan("p", "99/year, 99/month"))
        assert {limit.name: limit.used for limit in decision.limits} == {"requests/year": 5, "requests/month": 2}


def test_refunds_are_remembered_until_their_time():
    """And forgotten two for each new one, so that no refund pays for all."""
    record, end = Record(1), MIDNIGHT + DAY
    record.refunds = Kept(Refund(end + number // 3, str(number)) for number in range(4))
    record.remember_refund("new", end + 9, end - 1)
    assert [refund.name for refund in record.refunds.all()] == ["0", "1", "2", "3", "new"]
    at_once(*record.written())
    record.remember_refund("newer", end + 9, end)
    assert [refund.name for refund in record.refunds.all()] == ["2", "3", "new", "newer"]
    assert [record.refunded(name) for name in ("0", "1", "2", "newer")] == [False, False, True, True]


def test_a_window_that_ended_is_kept_while_its_reading_may_be_asked():
    """Two windows long, or two days: until then a limit that comes back knows what was used since."""
    subject, _ = subject_on(UsagePlan("p", "9/day"))
    (window,) = subject.key.meters[0].windows
    window = subject.key.meters[0].renew(window, extra=4, alerted=80)
    other, end = UsagePlan("p", "9/month").route_plan(None), window.end
    work = advanced(subject, other, end, OPTIONS)
    assert [*work.key.meters[0].windows[0]] == ["requests/day", MIDNIGHT, end, 1, 0, 0, 9, end]
    work.keep(end)
    later = advanced(work, other, end + 2 * DAY, OPTIONS)
    assert [window.name for window in later.key.meters[0].windows] == ["requests/month"]
    hourly, _ = subject_on(UsagePlan("p", "9/hour"))
    assert [window.name for window in advanced(hourly, other, NOON + 2 * DAY, OPTIONS).key.meters[0].windows] == [
        "requests/hour",
        "requests/month",
    ]


# Windows


def test_a_limit_that_was_left_knows_what_its_window_holds():
    """Its window ended at an instant that is no day's, no hour's start: the first call from then on notes the reading."""
    one, two = UsagePlan("p", "99/day in Asia/Kathmandu"), UsagePlan("p", "99/month, 99/hour")
    turn = MIDNIGHT + 18 * HOUR + 15 * MINUTE
    for first in (turn, turn + 1):
        ask = Asked("99/day in Asia/Kathmandu")
        ask(requests=7)
        ask(now=turn - 1, plan=two, requests=20)
        ask(now=first, plan=two, requests=3)
        ask(now=turn + 2 * HOUR, plan=two, requests=5)
        decision = ask(now=turn + 2 * HOUR + 20 * MINUTE, plan=one)
        assert decision.limits[0].used == 9


def test_a_window_begins_on_its_first_microsecond():
    """With nothing used, nothing granted, no alert told."""
    ask = Asked("2/day", alerts=(1, 50))
    assert [ask(requests=units).allowed for units in (2, 1)] == [True, False]
    (meter,) = ask.subject.key.meters
    meter.renew(meter.windows[0], extra=5)
    end = MIDNIGHT + DAY
    decision = ask(now=end)
    assert (decision.limits[0].used, decision.crossed) == (1, (("requests/day", 1), ("requests/day", 50)))
    assert windows(ask.subject.key) == [["requests/day", end, end + DAY, 2, 0, 50, 2, end]]


def test_another_period_leaves_a_shadow_of_the_window_that_runs():
    """So that the first period finds its reading again; however often they are toggled, one shadow each."""
    day, hour = UsagePlan("p", "99/day as n"), UsagePlan("p", "99/hour as n")
    ask = Asked("99/day as n")
    ask(now=NOON - HOUR, requests=3)
    ask(now=NOON, plan=hour, requests=4)
    assert windows(ask.subject.key) == [
        ["", MIDNIGHT, MIDNIGHT + DAY, 0, 0, 0, 0, MIDNIGHT], ["n", NOON, NOON + HOUR, 0, 0, 0, 99, MIDNIGHT],
    ]  # fmt: skip
    for number in range(6):
        decision = ask(now=NOON + number + 1, plan=(day, hour)[number % 2])
        assert decision.limits[0].used == 8 + number
    assert min(windows(ask.subject.key)) == ["", MIDNIGHT, MIDNIGHT + DAY, 0, 0, 0, 0, MIDNIGHT]
    assert len(windows(ask.subject.key)) == 3


def test_a_new_window_is_written_down_whole():
    """Also where no charge follows: a refund, a commit, a grant settle too."""
    subject = Subject(Record(1))
    work = advanced(subject, UsagePlan("p", "9/day").route_plan(None), NOON, OPTIONS)
    assert windows(work.key) == [["requests/day", MIDNIGHT, MIDNIGHT + DAY, 0, 0, 0, 9, MIDNIGHT]]


def record_read_at():
    """A record last charged at 12:34:56, with notes of every kind."""
    record = Record(1)
    record.at = NOON + 34 * MINUTE + 56 * SECOND
    day = MIDNIGHT // DAY
    meter = Meter("", "", "requests", day - 2)
    meter.total, meter.minute, meter.hour = 100, 90, 80
    meter.days = numbers((day - 2, 10, day - 1, 20, day, 60))
    record.meters = [meter]
    return record, meter


@pytest.mark.parametrize(("start", "reading", "since"), [
    (NOON + 34 * MINUTE + 57 * SECOND, 100, NOON + 34 * MINUTE + 57 * SECOND),
    (NOON + 34 * MINUTE + 56 * SECOND, 90, NOON + 34 * MINUTE),
    (NOON + 34 * MINUTE, 90, NOON + 34 * MINUTE),
    (NOON + 33 * MINUTE, 80, NOON),
    (NOON, 80, NOON),
    (NOON - 1, 60, MIDNIGHT),
    (MIDNIGHT, 60, MIDNIGHT),
    (MIDNIGHT - 1, 20, MIDNIGHT - DAY),
    (MIDNIGHT - DAY, 20, MIDNIGHT - DAY),
    (MIDNIGHT - 2 * DAY, 10, MIDNIGHT - 2 * DAY),
    (MIDNIGHT - 3 * DAY, 10, MIDNIGHT - 2 * DAY),
])  # fmt: skip
def test_what_a_meter_read_at_an_instant(start, reading, since):
    """The latest note before it; where there is none, the earliest."""
    assert reading_at(*record_read_at(), start) == (reading, since)


def test_idle_days_are_known_to_their_end():
    """A day of which the next note is later ended with what that note says."""
    record, meter = record_read_at()
    day = MIDNIGHT // DAY
    meter.days = numbers((day - 5, 10, day - 1, 20, day, 60))
    assert reading_at(record, meter, MIDNIGHT - 3 * DAY) == (20, MIDNIGHT - 4 * DAY)
    meter.windows = (Window("n", MIDNIGHT - 4 * DAY, MIDNIGHT - 3 * DAY + 5, 20, 0, 0, 9, MIDNIGHT - 3 * DAY + 5),)
    assert reading_at(record, meter, MIDNIGHT - 3 * DAY + 7) == (20, MIDNIGHT - 3 * DAY + 5)


# Decisions


def test_a_call_is_not_refused_for_what_it_does_not_cost():
    """A limit that was lowered below what it counts, a bucket that holds more than its burst: both of another unit."""
    ask = Asked("9/day, 50 tokens/day, 1 tokens/s burst 50")
    ask(requests=1, tokens=50)
    lower = UsagePlan("p", "9/day, 5 tokens/day, 1 tokens/s burst 5")
    decision = ask(plan=lower, requests=1)
    assert decision.allowed
    refused = ask(plan=lower, tokens=1)
    assert refused.violated == ("tokens/day", "throttle")


def test_whether_it_can_ever_fit():
    """With its overage a quota may take it in the next window; beyond that it never does."""
    ask = Asked(Quota(5, "day", overage=3))
    ask(requests=2)
    for units, reason in ((8, "QUOTA_EXCEEDED"), (9, "COST_TOO_LARGE")):
        decision = ask(requests=units)
        assert decision.reason.value == reason
        assert decision._details().outcome.too_large is (units == 9)
    assert ask(requests=1)._details().outcome.too_large is False


def test_an_alert_is_told_by_the_call_that_crosses_it():
    """At the very unit, of what was granted too; not by a call of another unit, nor where the limit came down to it."""
    ask = Asked("1000/day, 100 tokens/day", alerts=(80,))
    assert [ask(requests=units).crossed for units in (799, 1)] == [(), (("requests/day", 80),)]
    ask = Asked("10/day", alerts=(80,))
    ask()
    (meter,) = ask.subject.key.meters
    meter.renew(meter.windows[0], extra=10)
    assert [ask(requests=units).crossed for units in (14, 1)] == [(), (("requests/day", 80),)]
    ask = Asked("10/day, 100 tokens/day", alerts=(80,))
    ask(requests=1, tokens=50)
    lower = UsagePlan("p", "10/day, 51 tokens/day", alerts=(80,))
    assert ask(plan=lower, requests=1).crossed == ()
    assert ask(plan=lower, tokens=1).crossed == (("tokens/day", 80),)
    one = Asked("1 tokens/day, 9/day", alerts=(80,))
    assert one(requests=1).crossed == ()


def test_a_refusal_keeps_nothing_of_windows():
    """Whatever rolled: the throttle and the other window are as they were."""
    ask = Asked("9/day, 2/minute, 1/s burst 9")
    ask(requests=2)
    assert not ask(now=NOON + MINUTE, requests=3).allowed
    assert not ask.subject.changed


def test_a_faster_throttle_is_kept_whatever_other_units_throttles_are_new():
    """One unit's bucket became another; the other unit's had none before."""
    ask = Asked(Throttle(1, "minute", burst=1))
    ask(requests=1)
    plan = UsagePlan("p", (Throttle(1, burst=1), Throttle(5, unit="tokens", name="t")))
    refused = ask(plan=plan, requests=1)
    assert refused.retry_after == 1
    assert ask(now=NOON + SECOND, plan=plan, requests=1).allowed


# The fast path


def test_until_when_nothing_is_due():
    """The day's end, a window's, a hold's; not a shadow's, nor a window's that has ended."""
    subject, _ = subject_on(UsagePlan("p", "9/month, 9/hour"))
    record = subject.key
    assert next_due(record) == NOON + HOUR
    record.hold(Hold(NOON + 7, "h", NOON, True, ()))
    assert next_due(record) == NOON + 7
    record.release("h")
    (meter,) = record.meters
    hourly = next(window for window in meter.windows if window.end == NOON + HOUR)
    hourly = meter.renew(hourly, end=NOON)
    assert next_due(record) == MIDNIGHT + DAY
    meter.renew(hourly, name="", end=NOON + 9)
    assert next_due(record) == MIDNIGHT + DAY


def test_a_hold_of_a_ledger_lapses_by_itself():
    """The same through the front door: what nobody commits is there again."""
    ledger = Ledger(clock=ManualClock(NOON))
    ledger.add_plan(UsagePlan("p", "5/day"))
    key, _ = ledger.issue_key("k", "p")
    assert ledger.reserve(key, 3, ttl=timedelta(seconds=10))
    kept = ledger.reserve(key, 2, ttl=timedelta(seconds=5))
    kept.commit()
    ledger._clock.advance(10_000_000)
    assert ledger.consume(key).limits[0].used == 3
