"""Changes of plan with a date, whatever the store is."""

from datetime import datetime, timedelta, timezone

import pytest

from every_store import ALL
from quota import Account, InvalidValue, PlanConflict, ScheduledPlan, UnknownKey, UnknownPlan, UsagePlan

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


def limit_of(ledger, secret, api=""):
    """What the last limit is of a call that is admitted: the key's, or that of the account above it."""
    decision = ledger.consume(secret, api=api)
    assert decision
    return decision.limits[-1].limit


def goes_to(ledger, who):
    """What a key or an account goes to, as it is told when it is asked for and listed."""
    kind = "account" if type(who) is Account else "key"
    found = getattr(ledger, f"get_{kind}")("k").scheduled
    assert found == next(one for one in getattr(ledger, f"list_{kind}s")() if one.id == "k").scheduled
    return found


OF = pytest.mark.parametrize("of", ["key", "account"])


def on_p(stores, clock, of, limits, **plan):
    """A ledger, who is on a plan of these limits (a key, or an account two above one), and a secret that it limits."""
    if of == "key":
        return stores.with_key(clock, limits, **plan)
    ledger = stores.ledger(clock)
    for one in (UsagePlan("p", limits, **plan), UsagePlan("any", "100000/day", apis=("", "b"))):
        ledger.add_plan(one)
    account = ledger.add_account("k")
    ledger.associate("k", "p")
    ledger.add_account("team", parent="k")
    return ledger, account, ledger.issue_key("low", "any", id="low", account="team").secret


@OF
@over(*ALL)
def test_a_change_binds_on_its_microsecond_in_every_process(stores, clock, of):
    """By no job: until then the old plan decides, from then on the new one; what was used stays used; told everywhere."""
    here, who, secret = on_p(stores, clock, of, "100/day")
    there = stores.ledger(clock, here)
    here.add_plan(UsagePlan("q", "90/day"))
    at = START + HOUR
    here.associate(who, "q", at=at)
    change, keys = ScheduledPlan("q", at), ["k"] if of == "key" else []
    for ledger in (here, there):
        assert [limit_of(ledger, secret) for _ in range(30)] == [100] * 30
        assert goes_to(ledger, who) == (change,)
        assert [status.scheduled for status in ledger.status("k")] == [change]
        assert (on(ledger), keys_on(ledger, "p", "q")) == (["p"], [keys, []])
    if of == "account":
        assert [status.scheduled for status in there.status("low")] == [None, change]
    clock.set(at - MICROSECOND)
    assert [limit_of(ledger, secret) for ledger in (here, there) for _ in range(5)] == [100] * 10
    assert keys_on(there, "p", "q") == [keys, []]
    clock.set(at)
    for ledger in (there, here):
        status = ledger.consume(secret).limits[-1]
        assert (status.limit, status.remaining) == (90, 90 - status.used)
        assert (goes_to(ledger, who), ledger.status("k")[0].scheduled) == ((), None)
        assert (on(ledger), keys_on(ledger, "p", "q")) == (["q"], [[], keys])
    assert here.status("k")[0].used == 72
    renamed = (here.update_key if of == "key" else here.update_account)(who, name="renamed")
    assert renamed.scheduled == ()
    told = [event for event in there.events() if event.kind == "plan.associated"][-1]
    whose = ("k", "k") if of == "key" else (None, "k")
    assert ((told.key, told.account), told.before, told.plan) == (whose, {"plan": "p"}, "q")
    assert told.after == {"plan": "p", "next": "q", "at": at.isoformat()}
    here.associate(who, "p")
    assert (on(there), keys_on(there, "p", "q")) == (["p"], [keys, []])
    assert there.events()[-1].before == {"plan": "q"}


@OF
@over(*ALL)
def test_a_record_past_the_date_never_goes_back(stores, clock, of):
    """A clock that steps back, here or elsewhere, finds the new plan once a call was made under it; forgetting is the repair."""
    here, who, secret = on_p(stores, clock, of, "100/day")
    here.add_plan(UsagePlan("q", "90/day"))
    here.associate(who, "q", at=START + HOUR)
    clock.set(START + HOUR)
    assert limit_of(here, secret) == 90
    there = stores.ledger(clock, here)
    clock.advance(-timedelta(minutes=1))
    for ledger in (here, there):
        assert [limit_of(ledger, secret) for _ in range(3)] == [90] * 3
        assert (on(ledger), ledger.status("k")[0].limit) == (["q"], 90)
    here.add_plan(UsagePlan("r", "80/day"))
    here.associate(who, "r", at=START + 2 * HOUR)
    assert (limit_of(here, secret), on(there)) == (90, ["q"])
    here.forget(who)
    assert limit_of(here, secret) == 90  # scheduling the next one made the one before it
    with pytest.raises(PlanConflict):
        here.dissociate(who, "p")
    here.dissociate(who, "q")
    assert (on(here), goes_to(here, who)) == ([], ())


@OF
@over(*ALL)
def test_the_last_one_scheduled_stands(stores, clock, of):
    """For each api; a change at once drops it, as does taking it off its plan, or off the one that it goes to."""
    ledger, who, _ = on_p(stores, clock, of, "100/day")
    for id_, api in (("q", ""), ("r", ""), ("b", "b")):
        ledger.add_plan(UsagePlan(id_, "9/day", api=api))
    ledger.associate(who, "q", at=START + HOUR)
    ledger.associate(who, "b", at=START + 2 * HOUR)
    ledger.associate(who, "r", at=START + 3 * HOUR)
    assert goes_to(ledger, who) == (ScheduledPlan("b", START + 2 * HOUR), ScheduledPlan("r", START + 3 * HOUR))
    ledger.associate(who, "p")
    changed = ledger.disable_key(who) if of == "key" else ledger.update_account(who, name="K")
    assert changed.scheduled == (ScheduledPlan("b", START + 2 * HOUR),)
    ledger.associate(who, "q", at=START + HOUR)
    ledger.dissociate(who, "q")
    assert (on(ledger), goes_to(ledger, who)) == (["p"], (ScheduledPlan("b", START + 2 * HOUR),))
    ledger.associate(who, "q", at=START + HOUR)
    ledger.dissociate(who, "p")
    clock.set(START + 4 * HOUR)
    assert (on(ledger), goes_to(ledger, who)) == (["b"], ())
    ledger.associate(who, "q", at=START + 5 * HOUR)
    if of == "key":
        ledger.remove_key(who)
        ledger.issue_key("k", id="k")
    else:
        ledger.update_account("team", parent=None)
        ledger.remove_account(who)
        ledger.add_account("k")
    clock.set(START + 6 * HOUR)
    assert (on(ledger), keys_on(ledger, "p", "q", "r", "b")) == ([], [[], [], [], []])


@OF
@over(*ALL)
def test_a_plan_is_removed_or_replaced_before_its_date_or_after(stores, clock, of):
    """Removed before: who goes there stays; after: is on none; replaced: goes to what the plan is by then."""
    ledger, who, secret = on_p(stores, clock, of, "100/day")

    def none():
        decision = ledger.consume(secret)
        return on(ledger) == [] and (decision.reason.value == "NO_PLAN" if of == "key" else len(decision.limits) == 1)

    ledger.add_plan(UsagePlan("q", "90/day"))
    ledger.associate(who, "q", at=START + HOUR)
    ledger.remove_plan("q")
    assert goes_to(ledger, who) == ()
    ledger.add_plan(UsagePlan("q", "80/day"))
    clock.set(START + HOUR)
    assert (limit_of(ledger, secret), on(ledger)) == (100, ["p"])
    ledger.associate(who, "q", at=START + 2 * HOUR)
    ledger.replace_plan(UsagePlan("q", "70/day"))
    clock.set(START + 2 * HOUR)
    assert limit_of(ledger, secret) == 70
    ledger.remove_plan("q")
    ledger.add_plan(UsagePlan("q", "60/day"))
    assert none()
    ledger.associate(who, "p")
    ledger.associate(who, "q", at=START + 3 * HOUR)
    ledger.remove_plan("p")
    assert none()
    clock.set(START + 3 * HOUR)
    assert [limit_of(ledger, secret) for _ in range(3)] == [60] * 3


@OF
@over(*ALL)
def test_a_plan_that_changes_its_api_takes_what_is_scheduled_along(stores, clock, of):
    """What was due before is made first; two plans that one goes to are never of one api."""
    ledger, who, secret = on_p(stores, clock, of, "100/day")
    for id_, api in (("q", ""), ("b", "b")):
        ledger.add_plan(UsagePlan(id_, "90/day", api=api))
    ledger.associate(who, "q", at=START + HOUR)
    ledger.associate(who, "b", at=START + HOUR)
    with pytest.raises(PlanConflict, match=f"{of} k"):
        ledger.replace_plan(UsagePlan("b", "80/day"))
    ledger.dissociate(who, "b")
    ledger.replace_plan(UsagePlan("q", "80/day", api="b"))
    clock.set(START + HOUR)
    assert (on(ledger), limit_of(ledger, secret)) == (["p", "q"], 100)
    assert limit_of(ledger, secret, api="b") == 80
    ledger.associate(who, "b", at=START + 2 * HOUR)
    clock.set(START + 2 * HOUR)
    ledger.replace_plan(UsagePlan("q", "80/day", api="c"))  # nobody is on it any more
    assert on(ledger) == ["p", "b"]
    ledger.add_plan(UsagePlan("w", "5/day", apis=("", "b")))
    with pytest.raises(PlanConflict, match=f"{of} k has several plans"):
        ledger.associate(who, "w", at=START + 3 * HOUR)
    assert goes_to(ledger, who) == ()


@OF
@over(*ALL)
def test_the_end_of_the_period(stores, clock, of):
    """Of the longest quota of the plan that is left, routes' too, reckoned when it is scheduled."""
    ledger, who, secret = on_p(stores, clock, of, "9/day, 9 tokens/week", routes={"GET /x": "5/month"})
    ledger.add_plan(UsagePlan("q", "90/day"))
    ledger.add_plan(UsagePlan("t", "9/s"))
    ledger.associate(who, "q", at="period_end")
    april = datetime(2026, 4, 1, tzinfo=timezone.utc)
    assert goes_to(ledger, who) == (ScheduledPlan("q", april),)
    ledger.replace_plan(UsagePlan("p", "9/hour"))
    assert goes_to(ledger, who)[0].at == april
    clock.set(april - MICROSECOND)
    assert limit_of(ledger, secret) == 9
    clock.set(april)
    assert limit_of(ledger, secret) == 90
    ledger.associate(who, "t", at="period_end")
    clock.set(april + 24 * HOUR)
    assert on(ledger) == ["t"]
    for left in (f"plan t, which the {of} leaves, has no quota", f"the {of} leaves no plan"):
        with pytest.raises(InvalidValue, match=left):
            ledger.associate(who, "q", at="period_end")
        if on(ledger):
            ledger.dissociate(who, "t")


@over(*ALL)
def test_dates_of_several_accounts_of_a_line(stores, clock):
    """Each on its own microsecond, beside its key's, and wherever it is by then in the tree; a call is taken from all."""
    ledger = stores.ledger(clock)
    for id_, limits in (("p", "100/day"), ("q", "90/day"), ("r", "80/day")):
        ledger.add_plan(UsagePlan(id_, limits))
    for id_, above in (("top", None), ("other", None), ("team", "top")):
        ledger.add_account(id_, parent=above)
        ledger.associate(id_, "p")
    key, secret = ledger.issue_key("k", "p", id="k", account="team")
    for who, after in ((key, 1), ("team", 2), ("top", 3), ("other", 5)):
        ledger.associate(who, "q", at=START + after * HOUR)
    there = stores.ledger(clock, ledger)

    def limits(hours):
        found = []
        for instant in (START + hours * HOUR - MICROSECOND, START + hours * HOUR):
            clock.set(instant)
            mine = {tuple(s.limit for s in one.consume(secret).limits) for one in (ledger, there)}
            assert {tuple(s.limit for s in one.status("k")) for one in (ledger, there)} == mine
            found += mine
        return found

    assert limits(1) == [(100, 100, 100), (90, 100, 100)]
    assert limits(2) == [(90, 100, 100), (90, 90, 100)]
    there.associate("top", "r", at=START + 4 * HOUR)  # the last one said stands
    assert limits(3) == [(90, 90, 100)] * 2
    ledger.update_account("team", parent="other")
    assert limits(4) == [(90, 90, 100)] * 2
    assert limits(5) == [(90, 90, 100), (90, 90, 90)]
    assert (ledger.status("top")[0].limit, ledger.status("other")[0].used) == (80, 8)
    ledger.erase("team")
    assert limits_of(there, "other") == limits_of(ledger, "other") == [90]


def limits_of(ledger, who):
    return [status.limit for status in ledger.status(who)]


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


@OF
@over("memory", "sqlite", "awaited redis", "awaited postgres")
def test_what_cannot_be_scheduled_is_refused(stores, clock, of):
    """An instant that is past, one of no zone, another word, a key or a plan that is not there; nothing changes."""
    ledger, who, _ = on_p(stores, clock, of, "10/day")
    for wrong in (START, START - HOUR, START.replace(tzinfo=None), "month_end", 5):
        with pytest.raises(InvalidValue, match="at: "):
            ledger.associate(who, "p", at=wrong)
    with pytest.raises(UnknownPlan):
        ledger.associate(who, "nothing", at=START + HOUR)
    with pytest.raises(UnknownKey):
        ledger.associate("nobody", "p", at=START + HOUR)
    assert (on(ledger), goes_to(ledger, who)) == (["p"], ())


@OF
@over("sqlite", "redis", "postgres")
def test_a_change_that_is_scheduled_outlives_its_process(stores, clock, of):
    """Closed and opened again, it binds on its date."""
    ledger, who, secret = on_p(stores, clock, of, "100/day")
    ledger.add_plan(UsagePlan("q", "90/day"))
    ledger.associate(who, "q", at=START + HOUR)
    ledger = stores.over(stores.reopened(ledger.store), clock=clock)
    assert limit_of(ledger, secret) == 100
    clock.set(START + HOUR)
    assert limit_of(ledger, secret) == 90
