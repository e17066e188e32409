"""A Redis user to whom one command is forbidden, records that are damaged, and what a removed key leaves behind."""

from __future__ import annotations

import itertools
import re

import pytest

import paths
from every_store import of_its_own
from interleavings import plant
from quota import Ledger, ManualClock, StoreUnavailable, UsagePlan
from quota.stores.redis import RedisStore
from quota.stores.redis import requests as _redis_steps
from quota.stores.redis.scripts import Script
from quota.stores.redis.wire import failure
from servers import Valkey

NOON = 1_700_049_600_000_000
COMMANDS = (
    "copy del eval evalsha exists get hdel hget hgetall hmget hset hsetnx hvals info pexpire rename set time xadd xdel xrange zadd zrangebylex zrem"
).split()
_names = itertools.count()


server = of_its_own(Valkey)


@pytest.fixture
def client(server):
    with server.client() as found:
        yield found


def opened(client, name=None):
    return Ledger(RedisStore(client, namespace=name or f"acl{next(_names)}"), clock=ManualClock(NOON))


def with_keys(ledger):
    """A key that was used, and one that never was."""
    ledger.add_plan(UsagePlan("p", "1000/day"))
    key, secret = ledger.issue_key("k", "p", id="k", account="team")
    ledger.issue_key("new", "p", id="new", account="others")
    ledger.import_key(FRESH, "first", "p", id="first")
    ledger.consume(secret)
    return secret, ledger.consume(secret)


FRESH = "a-secret-from-elsewhere-0001"
CALLS = {
    "plain": lambda ledger, secret, _: ledger.consume(secret, 10),
    "request_id": lambda ledger, secret, _: ledger.consume(secret, 10, request_id="x"),
    "reserve": lambda ledger, secret, _: ledger.reserve(secret, 10, ttl=10**9),
    "first": lambda ledger, *_: ledger.consume(FRESH, 10),
    "first request_id": lambda ledger, *_: ledger.consume(FRESH, 10, request_id="x"),
    "grant": lambda ledger, *_: ledger.grant("k", "requests/day", 5),
    "set_remaining": lambda ledger, *_: ledger.set_remaining("k", "requests/day", 5),
    "refund": lambda ledger, _, decision: ledger.refund(decision),
    "rotate": lambda ledger, *_: ledger.rotate_key("new"),
    "join": lambda ledger, *_: ledger.issue_key("join", "p", account="team"),
    "join together": lambda ledger, *_: ledger.issue_keys(["a", "b"], "p", account="team"),
    "list": lambda ledger, *_: ledger.list_keys(plan="p", limit=2),
    "cross": lambda ledger, secret, _: ledger.consume(secret, 900),
    "events": lambda ledger, *_: ledger.events(),
    "forget": lambda ledger, *_: ledger.forget("k"),
    "plans": lambda ledger, *_: ledger.list_plans(),
    "replace": lambda ledger, *_: ledger.replace_plan(UsagePlan("p", "900/day")),
    "remove": lambda ledger, *_: ledger.remove_key("new"),
}


def everything(client, ledger):
    """All that is stored, but for whose turn it is."""
    found = {}
    for name in sorted(client.keys(f"{{{ledger.store.namespace}}}:*")):
        if client.type(name) == b"hash":
            found[name] = {field: value for field, value in client.hgetall(name).items() if field != b"w"}
        elif client.type(name) == b"zset":
            found[name] = client.zrange(name, 0, -1)
        elif client.type(name) == b"stream":
            found[name] = client.xrange(name)
        else:
            found[name] = client.get(name)
    return found


def check_forbidden(server, client, command):
    """What failed says whether anything was done, and is true; nothing is left half done."""
    told = []
    client.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">pw", "~*", "+@all", f"-{command}")
    for name, call in CALLS.items():
        ledger = opened(client)
        secret, decision = with_keys(ledger)
        before = everything(client, ledger)
        with server.client(username="limited", password="pw") as limited:
            try:
                call(opened(limited, ledger.store.namespace), secret, decision)
            except StoreUnavailable as error:
                told.append(f"{name}: {error}")
                assert re.search("nothing was charged|outcome is unknown", str(error)), error
                assert everything(client, ledger) == before, f"{name} was done by half"
        assert ledger.consume(secret).allowed
        assert ledger.consume(FRESH).allowed
    return told


@pytest.mark.spread(6)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_forbidden_command_leaves_nothing_half_done(server, client, command):
    """Whichever it is, each call is done or is refused whole, and no record is spoilt."""
    told = check_forbidden(server, client, command)
    if command in ("hset", "evalsha", "set", "del", "pexpire", "hdel"):
        assert told
        assert all("nothing was charged" in one for one in told), told


def test_planted_permissions_that_are_not_asked_for(server, client, monkeypatch):
    """Without asking first, a call is done by half."""
    text = _redis_steps.COMMIT.text.replace("not may[needed] and not", "false and not")
    monkeypatch.setattr(_redis_steps, "COMMIT", Script(text))
    with pytest.raises(AssertionError, match="by half"):
        check_forbidden(server, client, "pexpire")


def test_the_commands_that_are_documented_will_do(server, client):
    """A user with the rights that docs/redis.md names does everything."""
    page = (paths.ROOT / "docs" / "redis.md").read_text()
    rights = re.search(r"ACL SETUSER quota on >\S+ (~\S+) ((?:\+\S+ ?)+)", page)
    client.execute_command(
        "ACL", "SETUSER", "quota", "reset", "on", ">pw", rights[1].replace("billing", "acl*"), *rights[2].split()
    )
    with server.client(username="quota", password="pw") as limited:
        ledger = opened(limited)
        secret, decision = with_keys(ledger)
        for call in CALLS.values():
            call(ledger, secret, decision)


@pytest.mark.parametrize(
    ("text", "nothing"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", True),
        ("NOREPLICAS Not enough good replicas to write.", True),
        ("Script attempted to access a non local key in a cluster node script: " + "a1" * 20 + ", on @user_script:1.",
         False),
        ("Error running script (call to f_12): @user_script:8: WRONGTYPE", False),
    ],
)  # fmt: skip
def test_an_error_from_within_a_script_is_unknown(text, nothing):
    """And one in place of running it says that nothing was done."""
    import redis  # noqa: PLC0415

    told = str(failure(redis.ResponseError(text), sent=True))
    assert ("nothing was charged" in told) == nothing
    assert ("unknown" in told) != nothing


DAMAGE = {
    "all but the version": lambda client, record: [client.hdel(record, f) for f in client.hkeys(record) if f != b"v"],
    "no record": lambda client, record: client.hdel(record, "b"),
    "no meter": lambda client, record: client.hdel(record, "t0"),
    "not JSON": lambda client, record: client.hset(record, "b", "{"),
    "not a number": lambda client, record: client.hset(record, "at", "soon"),
    "another shape": lambda client, record: client.hset(record, "b", "[]"),
}


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_record_is_told_and_forget_repairs_it(client, damage, shared):
    """Each call says which record it is; after ``forget`` the key is used as a new one."""
    ledger = opened(client)
    secret, decision = with_keys(ledger)
    if shared:
        ledger.issue_key("other", "p", id="other", account="team")
    record = f"{{{ledger.store.namespace}}}:use:{'a:team' if shared else 'k:k'}"
    damage(client, record)
    mine = opened(client, ledger.store.namespace)
    for call in (
        lambda: mine.consume(secret),
        lambda: mine.peek(secret),
        lambda: mine.reserve(secret, 1, ttl=10**9),
        lambda: mine.usage("k"),
        lambda: mine.refund(decision),
        lambda: mine.grant("k", "requests/day", 1),
    ):
        with pytest.raises(StoreUnavailable, match=r"use:(a:team|k:k) is damaged.*forget\(\).*nothing was charged"):
            call()
    assert Ledger(mine.store, clock=ManualClock(NOON), on_unavailable="deny").consume(secret).status == 503
    mine.forget("k")
    assert mine.consume(secret).limits[0].used == 1
    assert opened(client, ledger.store.namespace).consume(secret).limits[0].used == 2


# What a removed key leaves


def test_a_removed_key_leaves_no_name_in_the_directory(client):
    """Neither its own nor its account's, whether its account was shared or not, used or not."""
    ledger = opened(client)
    ledger.add_plan(UsagePlan("p", "10/day by account"))
    for account, keys in (("alone", 1), ("team", 3), ("idle", 1)):
        for number in range(keys):
            secret = ledger.issue_key("n", "p", id=f"{account}-{number}", account=account).secret
            if account != "idle":
                ledger.consume(secret)
    ledger.remove_key("team-2")
    accounts = f"{{{ledger.store.namespace}}}:accounts"
    assert b"team-" not in b"".join(client.hgetall(accounts).values())
    for key in ledger.list_keys():
        ledger.remove_key(key)
    assert client.hgetall(accounts) == {}
    for part in ("keys", "secrets"):
        assert client.hgetall(f"{{{ledger.store.namespace}}}:{part}") == {}
    assert set(client.hgetall(f"{{{ledger.store.namespace}}}:stamps")) == {b"#", b"*", b"**"}


@pytest.mark.parametrize("members", [1, 2])
def test_an_account_that_is_made_again_goes_on_counting(client, members):
    """Removing its last key and issuing another one mints nothing; one that was never used begins anew."""
    ledger = opened(client)
    ledger.add_plan(UsagePlan("p", "3/day by account"))
    for number in range(members):
        secret = ledger.issue_key("n", "p", id=f"k{number}", account="team").secret
    ledger.issue_key("n", "p", id="idle", account="idle")
    ledger.consume(secret, 3)
    for key in ledger.list_keys():
        ledger.remove_key(key)
    again = ledger.issue_key("n", "p", account="team").secret
    assert not ledger.consume(again)
    assert ledger.consume(ledger.issue_key("n", "p", account="idle").secret, 3)


def test_an_account_that_comes_and_goes_beside_a_new_key_mints_nothing(client, monkeypatch):
    """A key joins an account while another one is made, used up and removed: it is that account's."""
    ledger = opened(client)
    ledger.add_plan(UsagePlan("p", "3/day by account"))
    rival, real, done = opened(client, ledger.store.namespace), RedisStore._send, []

    def send(self, call):
        if self is ledger.store and b"SETNX" in call.tail and not done:
            done.append(True)
            key, secret = rival.issue_key("n", "p", account="team")
            assert rival.consume(secret, 3)
            rival.remove_key(key)
        return real(self, call)

    monkeypatch.setattr(RedisStore, "_send", send)
    secret = ledger.issue_key("n", "p", account="team").secret
    assert done
    assert not ledger.consume(secret)


def test_planted_account_that_is_not_looked_at_again(client, monkeypatch):
    """Who only compares the account's entry does not see that it was there in between."""
    from quota.stores.server.adding import Adding  # noqa: PLC0415

    plant(monkeypatch, Adding, "_join", {'checks.append(Precondition("use", f"a:{id_}", joint))': "pass"})
    with pytest.raises(AssertionError):
        test_an_account_that_comes_and_goes_beside_a_new_key_mints_nothing(client, monkeypatch)
