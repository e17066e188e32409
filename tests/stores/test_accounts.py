"""Accounts as things of their own, whatever the store is: made, listed, changed, removed; the tree that they are in."""

import pytest

from every_store import ALL, EXACT, run_threads
from quota import Account, InvalidValue, Ledger, PlanConflict, UnknownAccount, UsagePlan
from quota.stores.memory import MemoryStore


def over(*kinds):
    """The test once for each of these kinds of store."""
    return pytest.mark.parametrize("stores", kinds, indirect=True)


def ids(accounts):
    return [account.id for account in accounts]


@over(*ALL)
def test_accounts_are_added_listed_changed_and_removed(stores, clock):
    """With what is said of them; in the order of their ids, in pages; seen by another process at once."""
    ledger = stores.ledger(clock)
    there = stores.ledger(clock, ledger)
    org = ledger.add_account("org", name="The company", metadata={"crm": "7"})
    assert org == there.get_account("org") == Account("org", name="The company", metadata={"crm": "7"})
    assert ledger.add_account("org", name="The company", metadata={"crm": "7"}) == org
    with pytest.raises(PlanConflict, match="another account has this id"):
        ledger.add_account("org")
    team = there.add_account("team b", parent=org)
    assert (team.name, team.parent) == ("team b", "org")
    ledger.add_account("team a", parent="org")
    ledger.add_account("x", parent="team a")
    assert ids(there.list_accounts()) == ["org", "team a", "team b", "x"]
    assert ids(there.list_accounts(parent=org)) == ["team a", "team b"]
    assert ids(there.list_accounts(after="org", limit=2)) == ["team a", "team b"]
    assert ids(there.list_accounts(parent="org", after="team a")) == ["team b"]
    assert there.list_accounts(parent="x") == []
    changed = there.update_account("x", name="X", parent="team b")
    assert changed == ledger.get_account("x") == Account("x", name="X", parent="team b")
    assert (ids(ledger.list_accounts(parent="team a")), ids(ledger.list_accounts(parent="team b"))) == ([], ["x"])
    assert ledger.update_account("x", metadata={"a": "b"}) == Account(
        "x", name="X", parent="team b", metadata={"a": "b"}
    )
    with pytest.raises(InvalidValue, match="'x' is below it"):
        ledger.remove_account("team b")
    assert there.update_account("x", parent=None).parent is None
    ledger.remove_account(team)
    assert ids(there.list_accounts()) == ["org", "team a", "x"]
    for gone in (
        lambda: there.get_account("team b"),
        lambda: ledger.remove_account("team b"),
        lambda: ledger.update_account("team b", name="y"),
        lambda: ledger.list_accounts(parent="team b"),
        lambda: ledger.add_account("y", parent="team b"),
        lambda: ledger.update_account("x", parent="team b"),
    ):
        with pytest.raises(UnknownAccount, match="'team b'"):
            gone()
    assert ids(there.list_accounts()) == ["org", "team a", "x"]


@over(*EXACT)
def test_any_account_may_be_above_another(stores, clock):
    """Whatever its id; what is no account is named by the parameter that it was given for, and all are told at once."""
    ledger = stores.ledger(clock)
    for id_ in ("any account", "account", "x"):
        ledger.add_account(id_)
    assert ledger.update_account("x", parent="any account").parent == "any account"
    assert ids(ledger.list_accounts(limit=2**63)) == ["account", "any account", "x"]
    for field, wrong in (
        ("metadata", lambda: ledger.add_account("y", metadata=[])),
        ("metadata", lambda: ledger.add_account("y", metadata=False)),
        ("parent", lambda: ledger.add_account("y", parent=7)),
        ("parent", lambda: ledger.update_account("x", parent=7)),
        ("parent", lambda: ledger.update_account("x", parent="x")),
        ("parent", lambda: ledger.list_accounts(parent="")),
        ("after", lambda: ledger.list_accounts(after=7)),
        ("after", lambda: ledger.list_keys(after=7)),
        ("expected", lambda: ledger.replace_plan(UsagePlan("p", "1/day"), expected="p")),
        ("expected", lambda: ledger.remove_plan("p", expected="p")),
        ("until", lambda: next(iter(ledger.usage_report("2026-01-01", None)), None)),
        ("since", lambda: next(iter(ledger.usage_report(None, "2026-01-01")), None)),
        ("limit", lambda: ledger.events(limit=None)),
    ):
        with pytest.raises(InvalidValue) as error:
            wrong()
        assert error.value.field == field
        assert "None" not in error.value.accepted
    assert ids(ledger.list_accounts()) == ["account", "any account", "x"]


@over(*EXACT)
def test_an_account_is_given_as_itself_or_by_its_id(stores, clock):
    """Wherever a key is made or listed, as wherever else."""
    ledger = stores.ledger(clock)
    team = ledger.add_account("team")
    keys = [
        ledger.issue_key("a", id="a", account=team).key,
        *(one.key for one in ledger.issue_keys(["b"], account=team)),
    ]
    keys.append(ledger.import_key("a secret".ljust(30, "x").replace(" ", "-"), "c", account=team).key)
    assert {key.account for key in keys} == {"team"}
    assert ledger.list_keys(account=team) == ledger.list_keys(account="team") == sorted(keys, key=lambda key: key.id)
    for wrong in (
        lambda: ledger.issue_key("n", account=keys[0]),
        lambda: ledger.issue_keys(["n"], account=7),
        lambda: ledger.list_keys(account=keys[0]),
    ):
        with pytest.raises(InvalidValue, match="account: "):
            wrong()
    assert len(ledger.list_keys()) == 3


@over(*EXACT)
def test_four_levels_and_no_circle(stores, clock):
    """Neither by what is added nor by what is moved, with all that is below it."""
    ledger = stores.ledger(clock)
    for id_, parent in (("a", None), ("b", "a"), ("c", "b"), ("d", "c"), ("p", None), ("q", "p"), ("r", "q")):
        ledger.add_account(id_, parent=parent)
    for wrong in (
        lambda: ledger.add_account("e", parent="d"),
        lambda: ledger.update_account("p", parent="b"),
        lambda: ledger.update_account("r", parent="d"),
        lambda: ledger.update_account("a", parent="d"),
        lambda: ledger.update_account("b", parent="c"),
        lambda: ledger.update_account("b", parent="b"),
        lambda: ledger.add_account("z", parent="z"),
    ):
        with pytest.raises(InvalidValue, match="parent: "):
            wrong()
    assert [ledger.get_account(id_).parent for id_ in "abcdpqr"] == [None, "a", "b", "c", None, "p", "q"]
    ledger.update_account("p", parent="a")
    ledger.update_account("c", parent="p")
    for id_, parent in (("q", "d"), ("q", "c"), ("p", "q"), ("p", "r")):
        with pytest.raises(InvalidValue, match="parent: "):
            ledger.update_account(id_, parent=parent)
    assert ids(ledger.list_accounts(parent="p")) == ["c", "q"]


@over(*ALL)
def test_a_key_makes_the_account_that_it_names(stores, clock):
    """It is there while it has keys; what is said of it makes it stay. A key's own account is none until it is added."""
    ledger = stores.ledger(clock)
    there = stores.ledger(clock, ledger)
    ledger.issue_key("k", id="k", account="team")
    ledger.issue_key("own", id="own")
    assert ledger.get_account("team") == Account("team")
    assert ids(there.list_accounts()) == ["team"]
    with pytest.raises(UnknownAccount):
        ledger.get_account("own")
    with pytest.raises(InvalidValue, match="'k' is a key of it"):
        ledger.remove_account("team")
    ledger.remove_key("k")
    assert there.list_accounts() == []
    ledger.issue_keys(["a", "b"], account="team")
    ledger.add_account("team", name="The team")
    ledger.add_account("own", name="Its own")
    ledger.issue_key("c", id="c", account="own")
    for key in ledger.list_keys():
        ledger.remove_key(key)
    assert [account.name for account in there.list_accounts()] == ["Its own", "The team"]
    ledger.remove_account("team")
    ledger.remove_account("own")
    assert ledger.list_accounts() == []
    ledger.issue_key("d", id="d", account="parent")
    ledger.add_account("child", parent="parent")
    ledger.remove_key("d")
    assert ids(there.list_accounts()) == ["child", "parent"]


@over(*ALL)
def test_what_was_counted_goes_on_under_accounts(stores, clock):
    """An account that is added, gets a child or another parent keeps what its keys used, and so do they."""
    ledger = stores.ledger(clock)
    ledger.add_plan(UsagePlan("p", "100/day, 90/day by account as ours"))
    secret = ledger.issue_key("k", "p", id="k", account="team").secret
    used = []

    def call():
        used.append([status.used for status in ledger.consume(secret, 2).limits])

    call()
    ledger.add_account("team", name="Team")
    call()
    ledger.add_account("below", parent="team")
    call()
    ledger.add_account("org")
    ledger.update_account("team", parent="org")
    call()
    other = ledger.issue_key("o", "p", id="o", account="team").secret
    assert [status.used for status in ledger.consume(other).limits] == [1, 9]
    call()
    ledger.update_account("team", parent=None)
    call()
    assert used == [[2, 2], [4, 4], [6, 6], [8, 8], [10, 11], [12, 13]]
    ledger.remove_key("k")
    ledger.remove_key("o")
    again = ledger.issue_key("again", "p", account="team").secret
    assert [status.used for status in ledger.consume(again).limits] == [1, 14]


@over(*EXACT)
def test_two_moves_at_once_make_no_circle(stores, clock):
    """Whoever is second finds what the first one did."""
    if stores.awaited:
        return  # one loop runs one call after another
    ledger = stores.ledger(clock)
    for turn in range(8):
        a, b = f"a{turn}", f"b{turn}"
        ledger.add_account(a)
        ledger.add_account(b)
        refused = []

        def move(low, high, refused=refused):
            try:
                ledger.update_account(low, parent=high)
            except InvalidValue as error:
                refused.append(error)

        run_threads([lambda a=a, b=b: move(a, b), lambda a=a, b=b: move(b, a)])
        assert len(refused) == 1
        assert {ledger.get_account(a).parent, ledger.get_account(b).parent} in ({None, a}, {None, b})


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": ""}, {"id": "x" * 257}, {"id": 7}, {"id": "a\n"}, {"id": "a", "name": ""}, {"id": "a", "parent": ""},
        {"id": "a", "parent": 7}, {"id": "a", "metadata": {"a": 1}}, {"id": "a", "metadata": "b"},
    ],
)  # fmt: skip
@over("memory")
def test_what_is_no_account_is_refused(stores, clock, wrong):
    """By the field that is wrong."""
    ledger = stores.ledger(clock)
    with pytest.raises(InvalidValue):
        ledger.add_account(**wrong)
    assert ledger.list_accounts() == []


def test_a_key_of_its_own_goes_to_the_lock_of_the_tree_that_its_account_joins():
    """In memory: else it and the keys of that tree count on one root under two locks."""
    ledger = Ledger(MemoryStore(stripes=4))
    ledger.add_plan(UsagePlan("p", "10/day"))
    ledger.add_account("root")
    for name in map(str, range(20)):
        ledger.issue_key(name, "p", id=name)
        ledger.add_account(name, parent="root")
    entry = ledger.store._key_entry
    assert {entry(name).stripe for name in map(str, range(20))} == {ledger.store._accounts["root"].stripe}
