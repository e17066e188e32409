"""Changes of plan with a date, whatever the store is."""

from datetime import datetime, timedelta, timezone

import pytest

from every_store import ALL
from quota import InvalidValue, PlanConflict, ScheduledPlan, UnknownKey, UnknownPlan, UsagePlan

START = datetime(2026, 3, 10, 12, tzinfo=timezone.utc)
HOUR, MICROSECOND = timedelta(hours=1), timedelta(microseconds=1)


def over(*kinds):
    """The test once for each of these kinds of store."""
    return pytest.mark.parametrize("stores", kinds, indirect=True)


def on(ledger, key="k"):
    """The ids of the plans that a key is on."""
    return [plan.id for plan in ledger.list_plans(key)]


def keys_on(ledger, *plans):
    """The ids of the keys on each of these plans."""
    return [[key.id for key in ledger.list_keys(plan=plan)] for plan in plans]


def limit_of(ledger, secret):
    """What the first limit is of a call that is admitted."""
    decision = ledger.consume(secret)
    assert decision
    return decision.limits[0].limit


@over(*ALL)
def test_a_change_binds_on_its_microsecond_in_every_process(stores, clock):
    """By no job: until then the old plan decides, from then on the new one; what was used stays used; told everywhere."""
    here, key, secret = stores.with_key(clock, "100/day")
    there = stores.ledger(clock, here)
    here.add_plan(UsagePlan("q", "90/day"))
    at = START + HOUR
    here.associate(key, "q", at=at)
    for ledger in (here, there):
        assert [limit_of(ledger, secret) for _ in range(30)] == [100] * 30
        assert ledger.get_key("k").scheduled == (ScheduledPlan("q", at),) == ledger.list_keys()[0].scheduled
        assert [status.scheduled for status in ledger.status("k")] == [ScheduledPlan("q", at)]
        assert (on(ledger), keys_on(ledger, "p", "q")) == (["p"], [["k"], []])
    clock.set(at - MICROSECOND)
    assert [limit_of(ledger, secret) for ledger in (here, there) for _ in range(5)] == [100] * 10
    assert keys_on(there, "p", "q") == [["k"], []]
    clock.set(at)
    for ledger in (there, here):
        status = ledger.consume(secret).limits[0]
        assert (status.limit, status.remaining) == (90, 90 - status.used)
        assert (ledger.get_key("k").scheduled, ledger.status("k")[0].scheduled) == ((), None)
        assert (on(ledger), keys_on(ledger, "p", "q")) == (["q"], [[], ["k"]])
    assert here.status("k")[0].used == 72
    assert here.update_key(key, name="renamed").scheduled == ()
    here.associate(key, "p")
    assert (on(there), keys_on(there, "p", "q")) == (["p"], [["k"], []])


@over(*ALL)
def test_a_record_past_the_date_never_goes_back(stores, clock):
    """A clock that steps back, here or elsewhere, finds the new plan once a call was made under it; forgetting is the repair."""
    here, key, secret = stores.with_key(clock, "100/day")
    here.add_plan(UsagePlan("q", "90/day"))
    here.associate(key, "q", at=START + HOUR)
    clock.set(START + HOUR)
    assert limit_of(here, secret) == 90
    there = stores.ledger(clock, here)
    clock.advance(-timedelta(minutes=1))
    for ledger in (here, there):
        assert [limit_of(ledger, secret) for _ in range(3)] == [90] * 3
        assert (on(ledger), ledger.status("k")[0].limit) == (["q"], 90)
    here.add_plan(UsagePlan("r", "80/day"))
    here.associate(key, "r", at=START + 2 * HOUR)
    assert (limit_of(here, secret), on(there)) == (90, ["q"])
    here.forget(key)
    assert limit_of(here, secret) == 90  # scheduling the next one made the one before it
    with pytest.raises(PlanConflict):
        here.dissociate(key, "p")
    here.dissociate(key, "q")
    assert (on(here), here.get_key(key).scheduled) == ([], ())


@over(*ALL)
def test_the_last_one_scheduled_stands(stores, clock):
    """For each api; a change at once drops it, as does taking the key off its plan, or off the one that it goes to."""
    ledger, key, _ = stores.with_key(clock, "100/day")
    for id_, api in (("q", ""), ("r", ""), ("b", "b")):
        ledger.add_plan(UsagePlan(id_, "9/day", api=api))
    ledger.associate(key, "q", at=START + HOUR)
    ledger.associate(key, "b", at=START + 2 * HOUR)
    ledger.associate(key, "r", at=START + 3 * HOUR)
    assert ledger.get_key(key).scheduled == (ScheduledPlan("b", START + 2 * HOUR), ScheduledPlan("r", START + 3 * HOUR))
    ledger.associate(key, "p")
    assert ledger.disable_key(key).scheduled == (ScheduledPlan("b", START + 2 * HOUR),)
    ledger.associate(key, "q", at=START + HOUR)
    ledger.dissociate(key, "q")
    assert (on(ledger), ledger.get_key(key).scheduled) == (["p"], (ScheduledPlan("b", START + 2 * HOUR),))
    ledger.associate(key, "q", at=START + HOUR)
    ledger.dissociate(key, "p")
    clock.set(START + 4 * HOUR)
    assert (on(ledger), ledger.get_key(key).scheduled) == (["b"], ())
    ledger.associate(key, "q", at=START + 5 * HOUR)
    ledger.remove_key(key)
    ledger.issue_key("k", id="k")
    clock.set(START + 6 * HOUR)
    assert (on(ledger), keys_on(ledger, "p", "q", "r", "b")) == ([], [[], [], [], []])


@over(*ALL)
def test_a_plan_is_removed_or_replaced_before_its_date_or_after(stores, clock):
    """Removed before: the key stays where it is; after: it is on none; replaced: it goes to what the plan is by then."""
    ledger, key, secret = stores.with_key(clock, "100/day")
    ledger.add_plan(UsagePlan("q", "90/day"))
    ledger.associate(key, "q", at=START + HOUR)
    ledger.remove_plan("q")
    assert ledger.get_key(key).scheduled == ()
    ledger.add_plan(UsagePlan("q", "80/day"))
    clock.set(START + HOUR)
    assert (limit_of(ledger, secret), on(ledger)) == (100, ["p"])
    ledger.associate(key, "q", at=START + 2 * HOUR)
    ledger.replace_plan(UsagePlan("q", "70/day"))
    clock.set(START + 2 * HOUR)
    assert limit_of(ledger, secret) == 70
    ledger.remove_plan("q")
    ledger.add_plan(UsagePlan("q", "60/day"))
    assert (on(ledger), ledger.consume(secret).reason.value) == ([], "NO_PLAN")
    ledger.associate(key, "p")
    ledger.associate(key, "q", at=START + 3 * HOUR)
    ledger.remove_plan("p")
    assert (on(ledger), ledger.consume(secret).reason.value) == ([], "NO_PLAN")
    clock.set(START + 3 * HOUR)
    assert [limit_of(ledger, secret) for _ in range(3)] == [60] * 3


@over(*ALL)
def test_a_plan_that_changes_its_api_takes_what_is_scheduled_along(stores, clock):
    """What was due before is made first; two plans that a key goes to are never of one api."""
    ledger, key, secret = stores.with_key(clock, "100/day")
    for id_, api in (("q", ""), ("b", "b")):
        ledger.add_plan(UsagePlan(id_, "90/day", api=api))
    ledger.associate(key, "q", at=START + HOUR)
    ledger.associate(key, "b", at=START + HOUR)
    with pytest.raises(PlanConflict, match="k"):
        ledger.replace_plan(UsagePlan("b", "80/day"))
    ledger.dissociate(key, "b")
    ledger.replace_plan(UsagePlan("q", "80/day", api="b"))
    clock.set(START + HOUR)
    assert (on(ledger), limit_of(ledger, secret)) == (["p", "q"], 100)
    assert ledger.consume(secret, api="b").limits[0].limit == 80
    ledger.associate(key, "b", at=START + 2 * HOUR)
    clock.set(START + 2 * HOUR)
    ledger.replace_plan(UsagePlan("q", "80/day", api="c"))  # nobody is on it any more
    assert on(ledger) == ["p", "b"]


@over(*ALL)
def test_the_end_of_the_period(stores, clock):
    """Of the longest quota of the plan that is left, routes' too, reckoned when it is scheduled."""
    ledger, key, secret = stores.with_key(clock, "9/day, 9 tokens/week", routes={"GET /x": "5/month"})
    ledger.add_plan(UsagePlan("q", "90/day"))
    ledger.add_plan(UsagePlan("t", "9/s"))
    ledger.associate(key, "q", at="period_end")
    april = datetime(2026, 4, 1, tzinfo=timezone.utc)
    assert ledger.get_key(key).scheduled == (ScheduledPlan("q", april),)
    ledger.replace_plan(UsagePlan("p", "9/hour"))
    assert ledger.get_key(key).scheduled[0].at == april
    clock.set(april - MICROSECOND)
    assert limit_of(ledger, secret) == 9
    clock.set(april)
    assert limit_of(ledger, secret) == 90
    ledger.associate(key, "t", at="period_end")
    clock.set(april + 24 * HOUR)
    assert on(ledger) == ["t"]
    for left in ("plan t, which the key leaves, has no quota", "the key leaves no plan"):
        with pytest.raises(InvalidValue, match=left):
            ledger.associate(key, "q", at="period_end")
        if on(ledger):
            ledger.dissociate(key, "t")


@over(*ALL)
def test_toggling_by_dates_mints_nothing(stores, clock):
    """To and fro at instants, by several keys of an account: each window admits no more than its limit."""
    ledger = stores.ledger(clock)
    ledger.add_plan(UsagePlan("p", "6/day, 9/day by account as ours"))
    ledger.add_plan(UsagePlan("q", "6/day, 9/day by account as ours, 2/s burst 3"))
    secrets = [ledger.issue_key(id_, "p", id=id_, account="team").secret for id_ in ("k", "l")]
    admitted = 0
    for step in range(10):
        for id_ in ("k", "l"):
            ledger.associate(id_, "pq"[(step + (id_ == "l")) % 2], at=START + (step + 1) * HOUR / 60)
        clock.set(START + (step + 1) * HOUR / 60 - MICROSECOND)
        admitted += sum(bool(ledger.consume(secret)) for secret in secrets)
        clock.advance(MICROSECOND)
        admitted += sum(bool(ledger.consume(secret)) for secret in secrets)
    assert admitted == 9
    assert {status.used for status in ledger.status("team")} == {9}


@over(*ALL)
def test_lists_of_keys_tell_by_what_is_in_force(stores, clock):
    """In pages of any size, of an account or not."""
    ledger = stores.ledger(clock)
    ledger.add_plan(UsagePlan("p", "9/day"))
    ledger.add_plan(UsagePlan("q", "9/day"))
    for number in range(9):
        ledger.issue_key(f"n{number}", "p", id=f"k{number}", account="odd" if number % 2 else None)
    for number in (1, 4, 5):
        ledger.associate(f"k{number}", "q", at=START + number * HOUR)
    ledger.associate("k6", "q")
    ledger.associate("k6", "p", at=START + 2 * HOUR)

    def paged(plan, size, **more):
        found = []
        while True:
            page = [
                key.id for key in ledger.list_keys(plan=plan, limit=size, after=found[-1] if found else None, **more)
            ]
            found += page
            if len(page) < size:
                return "".join(id_[1] for id_ in found)

    for hours, first, second in (
        (0, "0123457 8", "6"),
        (1, "023457 8", "1 6"),
        (4.5, "023 5 6 78", "1 4"),
        (5, "023678", "145"),
    ):
        clock.set(START + hours * HOUR)
        for size in (1, 2, 3, 20):
            assert paged("p", size) == first.replace(" ", "")
            assert paged("q", size) == second.replace(" ", "")
        assert paged("q", 2, account="odd") == "".join(id_ for id_ in second if id_ in "1357")


@over("memory", "sqlite", "awaited redis", "awaited postgres")
def test_what_cannot_be_scheduled_is_refused(stores, clock):
    """An instant that is past, one of no zone, another word, a key or a plan that is not there; nothing changes."""
    ledger, key, _ = stores.with_key(clock)
    for wrong in (START, START - HOUR, START.replace(tzinfo=None), "month_end", 5):
        with pytest.raises(InvalidValue, match="at: "):
            ledger.associate(key, "p", at=wrong)
    with pytest.raises(UnknownPlan):
        ledger.associate(key, "nothing", at=START + HOUR)
    with pytest.raises(UnknownKey):
        ledger.associate("nobody", "p", at=START + HOUR)
    assert (on(ledger), ledger.get_key(key).scheduled) == (["p"], ())


@over("sqlite", "redis", "postgres")
def test_a_change_that_is_scheduled_outlives_its_process(stores, clock):
    """Closed and opened again, it binds on its date."""
    ledger, key, secret = stores.with_key(clock, "100/day")
    ledger.add_plan(UsagePlan("q", "90/day"))
    ledger.associate(key, "q", at=START + HOUR)
    ledger = stores.over(stores.reopened(ledger.store), clock=clock)
    assert limit_of(ledger, secret) == 100
    clock.set(START + HOUR)
    assert limit_of(ledger, secret) == 90
