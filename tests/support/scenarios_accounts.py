"""Short histories of accounts with plans of their own; as ``scenarios``."""

from datetime import timedelta

from scenarios import START


def _company(q, org="100/day", team="50/day"):
    """A ledger, its clock, and the secrets of a key of each of two teams of one company."""
    clock = q.ManualClock(START)
    ledger = q.Ledger(clock=clock)
    for id_, limits in (("org", org), ("team", team), ("p", "1000/day")):
        ledger.add_plan(q.UsagePlan(id_, limits))
    ledger.add_account("org")
    ledger.associate("org", "org")
    secrets = []
    for id_ in ("a", "b"):
        ledger.add_account(id_, parent="org")
        ledger.associate(id_, "team")
        secrets.append(ledger.issue_key(f"k{id_}", "p", id=f"k{id_}", account=id_).secret)
    return ledger, clock, *secrets


def _used(ledger, *whose):
    return [ledger.status(who)[0].used for who in whose]


def every_account_above_is_checked(q):
    ledger, _, first, second = _company(q, org="7/day", team="5/day")
    for _ in range(2):  # by the rule, and by the compiled form
        assert ledger.consume(first, 2).violated == ()
    assert ledger.consume(first, 2).violated == ("a: requests/day",)
    assert ledger.consume(second, 4).violated == ("org: requests/day",)
    assert ledger.consume(second, 6).violated == ("b: requests/day", "org: requests/day")


def a_refusal_above_takes_nothing_below(q):
    ledger, _, first, second = _company(q, org="3/day", team="5/day")
    assert ledger.consume(first, 2)
    for _ in range(3):
        assert not ledger.consume(second, 2)
    assert _used(ledger, "ka", "kb", "a", "b", "org") == [2, 0, 2, 0, 2]


def each_account_counts_a_call_once(q):
    ledger, _, first, second = _company(q)
    for _ in range(3):
        assert ledger.consume(first, 2)
        assert ledger.consume(second)
    assert _used(ledger, "ka", "kb", "a", "b", "org") == [6, 3, 6, 3, 9]


def a_moved_account_counts_above_from_the_next_call_on(q):
    ledger, clock, first, second = _company(q)
    ledger.add_account("other")
    ledger.associate("other", "org")
    decision = [ledger.consume(first, 2) for _ in range(3)][-1]
    held, left = (ledger.reserve(first, 3, ttl=timedelta(minutes=1)) for _ in range(2))
    assert left
    ledger.update_account("a", parent="other")
    assert [ledger.consume(first).limits[-1].holder for _ in range(2)] == ["other"] * 2
    assert ledger.refund(decision) == 2
    assert held.commit(1).limits[-1].holder == "org"
    clock.advance(timedelta(minutes=2))
    assert _used(ledger, "a", "org", "other") == [7, 5, 2]
    assert ledger.consume(second).limits[-1].used == 6


def a_move_binds_what_serves_a_busy_key(q):
    ledger, _, first, _ = _company(q)
    ledger.add_account("other")
    ledger.associate("other", "org")
    for _ in range(3):
        assert ledger.consume(first).limits[-1].holder == "org"
    ledger.update_account("a", parent="other")
    assert [ledger.consume(first).limits[-1].holder for _ in range(3)] == ["other"] * 3
    assert _used(ledger, "org", "other") == [3, 3]


def an_account_s_plan_binds_its_keys_at_once(q):
    ledger, _, first, _ = _company(q)
    for _ in range(3):
        assert ledger.consume(first)
    ledger.replace_plan(q.UsagePlan("org", "4/day"))
    assert ledger.consume(first)
    assert ledger.consume(first).violated == ("org: requests/day",)
    ledger.override_limit("org", "requests/day", 5)
    assert ledger.consume(first)
    assert ledger.consume(first).violated == ("org: requests/day",)
    ledger.grant("org", "requests/day", 1)
    assert ledger.consume(first)
    ledger.dissociate("org", "org")
    assert ledger.consume(first).limits[-1].name == "a: requests/day"


def what_an_account_s_only_key_used_is_the_account_s(q):
    ledger, clock, _, _ = _company(q)
    secret = ledger.issue_key("solo", "p", id="solo", account="late").secret
    assert ledger.consume(secret, 4)
    ledger.associate("late", "team")
    clock.advance(timedelta(hours=1))
    assert ledger.consume(secret).limits[-1].used == 5


def an_account_s_throttle_is_filled_by_all_its_keys(q):
    ledger, clock, first, second = _company(q, org="1/s burst 4")
    assert ledger.consume(first, 2)
    assert ledger.consume(second, 2)
    assert ledger.consume(first).violated == ("org: throttle",)
    ledger.replace_plan(q.UsagePlan("org", "2/s burst 4 as other"))
    assert ledger.consume(second, 2).violated == ("org: other",)
    clock.advance(timedelta(seconds=1))
    assert ledger.consume(second)


def an_account_goes_to_a_plan_on_its_microsecond_and_never_back(q):
    ledger, clock, first, second = _company(q)
    for id_, limits in (("q", "90/day"), ("r", "80/day")):
        ledger.add_plan(q.UsagePlan(id_, limits))
    at = START + timedelta(seconds=10)
    ledger.associate("org", "q", at=at)
    assert [status.scheduled for status in ledger.status("ka")] == [None, None, ("q", at)]
    assert ledger.get_account("org").scheduled == (("q", at),)
    limits = lambda: [ledger.consume(one).limits[-1].limit for one in (first, second) * 3]  # noqa: E731
    assert limits() == [100] * 6
    clock.set(at - timedelta(microseconds=1))
    assert limits() == [100] * 6
    clock.set(at)
    assert limits() == [90] * 6
    assert [plan.id for plan in ledger.list_plans("org")] == ["q"]
    clock.advance(-timedelta(seconds=1))
    assert limits() == [90] * 6
    ledger.associate("org", "r", at=START + timedelta(hours=1))
    assert limits() == [90] * 6


def a_plan_removed_after_its_date_leaves_the_account_on_none(q):
    ledger, clock, first, _ = _company(q)
    ledger.add_plan(q.UsagePlan("q", "90/day"))
    ledger.associate("org", "q", at=START + timedelta(hours=1))
    clock.advance(timedelta(hours=1))
    ledger.remove_plan("q")
    assert (ledger.list_plans("org"), len(ledger.consume(first).limits)) == ([], 2)


SCENARIOS = {
    name: found for name, found in vars().items() if callable(found) and found.__module__ == __name__ and name[0] != "_"
}
