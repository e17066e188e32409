"""Plans of accounts, whatever the store is: all above a key are charged with it, or none is."""

from datetime import timedelta

import pytest

from every_store import ALL, EXACT, SYNC, Stores, run_threads
from quota import InvalidValue, Ledger, PlanConflict, Throttle, UnknownKey, UsagePlan
from quota.clock import DAY_US
from quota.stores.leased import LeasedStore
from trees import History, LeasedHistory


def over(*kinds):
    """The test once for each of these kinds of store."""
    return pytest.mark.parametrize("stores", kinds, indirect=True)


def company(stores, clock, org="100/day", team="50/day", key="1000/day"):
    """A ledger of a company with two teams, each with a key."""
    ledger = stores.ledger(clock)
    for id_, limits in (("org", org), ("team", team), ("key", key)):
        ledger.add_plan(UsagePlan(id_, limits))
    ledger.add_account("org")
    ledger.associate("org", "org")
    secrets = {}
    for team_ in ("a", "b"):
        ledger.add_account(team_, parent="org")
        ledger.associate(team_, "team")
        secrets[team_] = ledger.issue_key(f"k{team_}", "key", id=f"k{team_}", account=team_).secret
    return ledger, secrets


def told(statuses):
    return [(s.name, s.used, s.holder) for s in statuses]


@over(*ALL)
def test_the_plan_that_decided_is_the_keys_own(stores, clock):
    """Whichever way a call is decided, its plan is the one that was added, not what was joined with the accounts'."""
    ledger, secrets = company(stores, clock)
    for _ in range(3):
        decision = ledger.consume(secrets["a"])
        assert (decision.plan, type(decision.plan)) == (ledger.get_plan("key"), UsagePlan)


@over(*ALL)
def test_a_call_is_taken_from_all_above_or_from_none(stores, clock):
    """Who refuses is told by the account's name; a refusal high up takes nothing below."""
    ledger, secrets = company(stores, clock, org="7/day", team="5/day")
    there = stores.ledger(clock, ledger)
    decision = ledger.consume(secrets["a"], 5)
    assert told(decision.limits) == [
        ("requests/day", 5, "ka"),
        ("a: requests/day", 5, "a"),
        ("org: requests/day", 5, "org"),
    ]
    assert (decision.plan.id, decision.key.id, decision.violated) == ("key", "ka", ())
    refused = there.consume(secrets["a"])
    assert (bool(refused), refused.violated, refused.reason.value) == (False, ("a: requests/day",), "QUOTA_EXCEEDED")
    refused = there.consume(secrets["b"], 3)
    assert refused.violated == ("org: requests/day",)
    assert told(there.status("kb")) == [
        ("requests/day", 0, "kb"),
        ("b: requests/day", 0, "b"),
        ("org: requests/day", 5, "org"),
    ]
    assert there.consume(secrets["b"], 2)
    both = ledger.consume(secrets["a"])
    assert both.violated == ("a: requests/day", "org: requests/day")
    assert "org: requests/day" in both.problem()["violated-policies"]
    assert both.to_dict()["violated"] == ["a: requests/day", "org: requests/day"]
    assert told(ledger.status("org")) == [("org: requests/day", 7, "org")]
    assert told(there.status("b")) == [("b: requests/day", 2, "b"), ("org: requests/day", 7, "org")]


@over(*ALL)
def test_what_adjusts_a_key_adjusts_an_account(stores, clock):
    """Grants, what remains, limits of its own, usage by day, and the repair; each on the account that is named."""
    ledger, secrets = company(stores, clock, org="4/day, 9/s burst 3", team="100/day")
    assert ledger.consume(secrets["a"], 3)
    granted = ledger.grant("org", "requests/day", 3)
    assert (granted.name, granted.holder, granted.extra, granted.remaining) == ("org: requests/day", "org", 3, 4)
    clock.advance(timedelta(seconds=1))
    assert ledger.consume(secrets["b"], 2)
    assert ledger.set_remaining("org", "org: requests/day", 1).remaining == 1
    clock.advance(timedelta(seconds=1))
    assert ledger.consume(secrets["a"], 2).violated == ("org: requests/day",)
    own = ledger.override_limit("org", "requests/day", 50)
    assert (own.name, own.limit, own.holder) == ("org: requests/day", 50, "org")
    assert ledger.override_limit("org", "throttle", Throttle("1", burst=2)).limit == 2
    assert ledger.consume(secrets["a"], 3).violated == ("org: throttle",)
    assert ledger.consume(secrets["a"], 2)
    assert told(ledger.status("kb"))[2] == ("org: requests/day", 7, "org")
    assert [(row.limit, row.used) for row in ledger.usage("org")] == [("org: requests/day", 7)]
    assert [(row.limit, row.used) for row in ledger.usage("kb")] == [("requests/day", 2)]
    ledger.override_limit("org", "requests/day", None)
    with pytest.raises(InvalidValue, match="requests/day, throttle"):
        ledger.override_limit("org", "nothing", 5)
    with pytest.raises(InvalidValue, match="own plan: requests/day"):
        ledger.grant("org", "requests/week", 5)
    ledger.forget("org")
    assert told(ledger.status("org"))[0] == ("org: requests/day", 0, "org")
    assert told(ledger.status("ka"))[0] == ("requests/day", 5, "ka")


@over(*ALL)
def test_what_a_call_does_is_done_on_every_account_above(stores, clock):
    """Held, committed, cancelled, refunded, retried by its id, in flight, and told by events: each once on each of them."""
    ledger, secrets = company(stores, clock, org="20/day, 2 concurrent", team="1000/day")
    there = stores.ledger(clock, ledger)
    used = lambda *whose: [there.status(who)[0].used for who in whose]  # noqa: E731
    cursor = ledger.events()[-1].cursor
    decision = ledger.consume(secrets["a"], 6, request_id="once")
    again = there.consume(secrets["a"], 6, request_id="once")
    assert (again.replayed, again.id, used("ka", "a", "org")) == (True, decision.id, [6, 6, 6])
    held, other = (ledger.reserve(secrets[team], 5, ttl=timedelta(hours=1)) for team in "ab")
    assert there.consume(secrets["b"]).violated == ("org: concurrency",)
    assert {one.id for one in there.list_reservations(there.get_account("b"))} == {other.id}
    assert used("ka", "a", "b", "org") == [11, 11, 5, 16]
    assert held.commit(8).allowed
    other.cancel()
    assert used("ka", "a", "b", "org") == [14, 14, 0, 14]
    assert there.refund(decision) == 6
    assert used("ka", "a", "b", "org") == [8, 8, 0, 8]
    there.grant("org", "requests/day", 5)
    there.override_limit("a", "requests/day", 9)
    assert there.consume(secrets["a"], 2).violated == ("a: requests/day",)
    told = [(event.kind, event.key, event.account, event.limit) for event in ledger.events(after=cursor)]
    assert told == [
        ("limit.crossed", None, "org", "org: requests/day"), ("limit.granted", None, "org", "org: requests/day"),
        ("override.set", None, "a", "a: requests/day"),
    ]  # fmt: skip


@over(*ALL)
def test_names_that_are_equal_are_counted_apart(stores, clock):
    """An account's own limit, one by account of a key's plan, and one that is called as an account's is told."""
    ledger = stores.ledger(clock)
    ledger.add_plan(UsagePlan("own", "5/day"))
    ledger.add_plan(UsagePlan("p", "30/day by account, 40/day as acme: requests/day"))
    first = ledger.issue_key("x", "p", id="x", account="acme").secret
    second = ledger.issue_key("y", "p", id="y", account="acme").secret
    assert ledger.consume(first, 2)
    ledger.associate("acme", "own")
    assert told(ledger.consume(second).limits) == [
        ("requests/day", 3, "acme"), ("acme: requests/day", 1, "y"), ("acme: requests/day", 3, "acme"),
    ]  # fmt: skip
    ledger.grant("acme", "requests/day", 1)
    assert [s.extra for s in ledger.status("x")] == [0, 0, 1]
    assert ledger.consume(first, 4).violated == ("acme: requests/day",)
    assert [plan.id for plan in ledger.list_plans("acme")] == ["own"]
    ledger.dissociate("acme", "own")
    with pytest.raises(PlanConflict, match="not on this plan"):
        ledger.dissociate("acme", "own")
    assert ledger.consume(first, 4)
    ledger.associate(ledger.get_account("acme"), "own")
    assert ledger.consume(first).violated == ("acme: requests/day",)
    for nobody in (lambda: ledger.associate("nobody", "own"), lambda: ledger.grant("nobody", "requests/day", 1)):
        with pytest.raises(UnknownKey):
            nobody()


@over(*ALL)
def test_routes_units_and_apis_of_an_account_s_plan(stores, clock):
    """They hold for the calls of every key below, on whatever plan; the account is limited in one api and not in another."""
    ledger, secrets = company(stores, clock, org="100/day, 9 tokens/day")
    ledger.replace_plan(UsagePlan("team", "50/day", routes={"GET /x": "2/day as x, 5/s as slow"}))
    ledger.add_plan(UsagePlan("b", "1000/day", api="b"))
    ledger.add_plan(UsagePlan("org b", "3/day", api="b"))
    ledger.associate("ka", "b")
    ledger.associate("org", "org b")
    assert all(ledger.consume(secrets["a"], route="GET /x") for _ in range(2))
    assert ledger.consume(secrets["a"], route="GET /x").violated == ("a: x",)
    assert ledger.consume(secrets["b"], route="GET /x")
    assert ledger.consume(secrets["a"], {"tokens": 9})
    assert ledger.consume(secrets["b"], {"tokens": 1, "requests": 1}).violated == ("org: tokens/day",)
    assert ledger.consume(secrets["a"], 3, api="b")
    assert ledger.consume(secrets["a"], api="b").violated == ("org: requests/day",)
    assert ledger.consume(secrets["b"], api="b").reason.value == "NO_PLAN"
    assert [s.used for s in ledger.status("org")] == [3, 9, 3]


@over(*ALL)
def test_a_moved_account_counts_on_its_new_parent(stores, clock):
    """From the next call on, in every process; what was charged before is settled where it was charged."""
    ledger, secrets = company(stores, clock)
    there = stores.ledger(clock, ledger)
    ledger.add_account("other")
    ledger.associate("other", "org")

    def used(who):
        return [s.used for s in there.status(who)][-1]

    decision = there.consume(secrets["a"], 10)
    held = there.reserve(secrets["a"], 7, ttl=timedelta(hours=1))
    lapsing = there.reserve(secrets["a"], 5, ttl=timedelta(minutes=1))
    assert lapsing
    assert used("org") == 22
    ledger.update_account("a", parent="other")
    assert told(there.consume(secrets["a"], 2).limits)[1:] == [
        ("a: requests/day", 24, "a"),
        ("other: requests/day", 2, "other"),
    ]
    assert used("org") == 22
    assert there.refund(decision) == 10
    assert (used("org"), used("other")) == (12, 2)
    assert told(held.commit(9).limits)[-1] == ("org: requests/day", 14, "org")
    clock.advance(timedelta(minutes=2))
    assert (used("org"), used("other"), used("b")) == (9, 2, 9)
    ledger.update_account("a", parent=None)
    assert told(there.consume(secrets["a"]).limits) == [("requests/day", 12, "ka"), ("a: requests/day", 12, "a")]
    assert (used("org"), used("other")) == (9, 2)
    ledger.remove_account("other")
    assert there.consume(secrets["b"], 91).allowed is False


SEEDS = 6


def next_noon(clock):
    """Each history is within a day of its own."""
    clock.set((clock() // DAY_US + 1) * DAY_US + DAY_US // 2)


def random_trees(stores, clock, seeds, steps):
    """Histories one after another, on two ledgers beside each other."""
    ledger = stores.ledger(clock)
    ledgers = [ledger, stores.ledger(clock, ledger)]
    for seed in seeds:
        next_noon(clock)
        History(seed, ledgers, clock).run(steps)


def leased_trees(stores, clock, seeds, steps):
    """The same on two ledgers that spend from leases, and what another one finds when they are gone."""
    found = stores.over(stores.open().store, clock=clock)
    for seed in seeds:
        next_noon(clock)
        leasing = [Ledger(LeasedStore(stores.open(found).store, share=0.5), clock=clock) for _ in range(2)]
        history = LeasedHistory(seed, leasing, clock)
        history.run(steps)
        for ledger in leasing:
            ledger.close()
        history.given_back(found)


@pytest.mark.spread(4)
@pytest.mark.parametrize("part", range(3))
@over(*EXACT)
def test_random_trees_are_as_the_model_says(stores, clock, part):
    """Plans, costs, routes, holds, refunds, grants, moves and changes of plan, by two processes in turn."""
    first = part * SEEDS
    random_trees(stores, clock, range(first, first + (SEEDS if not stores.awaited else 2)), 45)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
@over(*SYNC)
def test_a_thousand_random_trees(stores, clock, part):
    """Longer, and a thousand of them on each store."""
    random_trees(stores, clock, range(1000 + part * 50, 1050 + part * 50), 60)


@over("leased sqlite")
def test_random_trees_under_leases(stores, clock):
    """Two processes that spend from leases: never a unit too many, a refusal only for what is out, all counts met in the end."""
    leased_trees(stores, clock, range(4), 40)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
@over("leased sqlite", "leased redis", "leased postgres")
def test_a_thousand_random_trees_under_leases(stores, clock, part):
    """A thousand of them over each store."""
    leased_trees(stores, clock, range(1000 + part * 50, 1050 + part * 50), 60)


@over(*SYNC)
def test_threads_below_one_account_admit_its_limit_and_no_more(stores, clock):
    """Four keys of two teams, by eight threads: the company's limit is met to the unit, and each count adds up."""
    ledger, _ = company(stores, clock, org="60/day", team="40/day")
    secrets = [ledger.issue_key(f"n{n}", "key", id=f"n{n}", account="ab"[n % 2]).secret for n in range(4)]
    ledgers = [stores.ledger(clock, ledger) for _ in range(2)] if stores.kind != "memory" else [ledger, ledger]
    admitted = []

    def call(number):
        for _ in range(20):
            decision = ledgers[number % 2].consume(secrets[number % 4])
            admitted.append((number % 4, bool(decision)))

    run_threads([lambda number=number: call(number) for number in range(8)])
    by_key = [sum(ok for of, ok in admitted if of == number) for number in range(4)]
    assert sum(by_key) == 60
    assert [s.used for s in ledger.status("org")] == [60]
    for team, numbers in (("a", (0, 2)), ("b", (1, 3))):
        assert ledger.status(team)[0].used == sum(by_key[number] for number in numbers) <= 40
    assert [ledger.status(f"n{number}")[0].used for number in range(4)] == by_key


@over(*ALL)
def test_routes_that_plans_name_otherwise_are_each_counted(stores, clock):
    """A call on a path counts under the key's plan's name for it and under the account's, which may be a wider one."""
    ledger, secrets = company(stores, clock)
    ledger.replace_plan(UsagePlan("key", "1000/day", routes={"GET /a/*": "7/day as below", "GET /b": "9/day as b"}))
    ledger.replace_plan(UsagePlan("team", "100/day", routes={"ANY /a/x": "3/day as x", "GET /b": "2/day as b too"}))
    for path in ("x", "y", "x"):
        decision = ledger.consume(secrets["a"], route=f"GET /a/{path}")
        assert decision.route == "GET /a/*"
    used = {s.name: s.used for s in ledger.consume(secrets["a"], route="GET /a/x").limits}
    assert (used["below"], used["a: x"]) == (4, 3)
    assert ledger.consume(secrets["a"], route="GET /a/x").violated == ("a: x",)
    assert ledger.consume(secrets["a"], route="GET /a/y")
    assert {s.name: s.used for s in ledger.consume(secrets["a"], route="GET /b").limits}["b"] == 1
    assert ledger.consume(secrets["a"], route="GET /b")
    assert ledger.consume(secrets["a"], route="GET /b").violated == ("a: b too",)
    assert ledger.consume(secrets["b"], route="GET /b")
    assert ledger.consume(secrets["a"], route="GET /c")


@pytest.mark.parametrize("kind", ["leased sqlite", "leased redis", "leased postgres"])
def test_leases_of_a_moved_account_are_settled_where_they_were_taken(request, clock, kind):
    """Another process moves the account of a busy key: the old parent keeps what was spent, and what was not comes back."""
    stores = Stores(kind, request.getfixturevalue)
    try:
        leasing = stores.over(LeasedStore(stores.open().store, share=0.5), clock=clock)
        other = stores.over(stores.open(leasing.store).store, clock=clock)
        for plan in (UsagePlan("o", "100000/day"), UsagePlan("k", "1000000/day")):
            other.add_plan(plan)
        for id_ in ("old", "new"):
            other.add_account(id_)
            other.associate(id_, "o")
        other.add_account("team", parent="old")
        secret = other.issue_key("k", "k", id="k", account="team").secret
        assert all(leasing.consume(secret) for _ in range(300))
        assert leasing.store.outstanding()["requests"] > 0
        other.update_account("team", parent="new")
        clock.advance(timedelta(seconds=1.1))
        assert all(leasing.consume(secret) for _ in range(50))
        leasing.close()
        assert [other.status(id_)[0].used for id_ in ("old", "new", "k")] == [300, 50, 350]
    finally:
        stores.close()


@pytest.mark.parametrize("kind", ["leased sqlite", "leased redis", "leased postgres"])
def test_leases_below_an_account_of_another_plan(request, clock, kind):
    """A plan above is replaced by one of other limits, or comes while a quiet process holds a lease: told and counted."""
    stores = Stores(kind, request.getfixturevalue)
    try:
        first = stores.open()
        one, two = (stores.over(LeasedStore(stores.open(first).store, share=0.5), clock=clock) for _ in "12")
        other = stores.over(stores.open(first).store, clock=clock)
        for plan in (UsagePlan("o", "100000/day"), UsagePlan("k", "1000000/day")):
            other.add_plan(plan)
        for id_, parent in (("root", None), ("org", "root")):
            other.add_account(id_, parent=parent)
        other.associate("org", "o")
        secrets = [other.issue_key(id_, "k", id=id_, account="org").secret for id_ in ("x", "y")]
        assert all(one.consume(secrets[0]) for _ in range(40))
        for limits in ("90000/day", "90000/day, 95000/month"):
            other.replace_plan(UsagePlan("o", limits))
            clock.advance(timedelta(seconds=1.1))
            for _ in range(30):
                decision = one.consume(secrets[0])
                assert [s.limit for s in decision.limits[1:]] == [90000, 95000][: len(decision.limits) - 1]
            assert len(decision.limits) == 2 + limits.count(",")
        clock.advance(timedelta(seconds=400))
        assert all(two.consume(secrets[1]) for _ in range(40))
        one.close()
        two.close()
        other.associate("root", "o")
        assert {s.name: s.used for s in other.status("root")} == {
            "root: requests/day": 140,
            "root: requests/month": 140,
        }
        assert [s.used for s in other.status("org")][:2] == [140, 140]
    finally:
        stores.close()
