"""Nothing is left of who is erased, in whatever an engine stores; everybody else stays as they were."""

import pathlib
from collections import deque
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone

import psycopg
import pytest
import redis

from every_store import ALL, EXACT
from quota import Account, InvalidValue, UnknownAccount, UnknownKey, UsagePlan

START = datetime(2026, 3, 10, 12, tzinfo=timezone.utc)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
TOLD = ["gone-id", "Gone Name", "gone@mail.example", "gone-request", "gone-scope", "Old Name"]
"""All that was said of who is erased."""


def over(*kinds):
    """The test once for each of these kinds of store."""
    return pytest.mark.parametrize("stores", kinds, indirect=True)


def texts(found, seen):
    """Every text and all bytes that Python objects reach."""
    if isinstance(found, (str, bytes)):
        yield found if isinstance(found, bytes) else found.encode()
    ours = type(found).__module__.startswith("quota")
    if id(found) in seen or not (ours or isinstance(found, (Mapping, list, tuple, deque, set, frozenset))):
        return
    seen[id(found)] = found
    if isinstance(found, UsagePlan):
        return  # with what it was compiled to, in this process
    slots = [name for kind in type(found).__mro__ for name in getattr(kind, "__slots__", ())]
    fields = [getattr(found, name, None) for name in slots] + list(getattr(found, "__dict__", {}).values())
    if hasattr(found, "items"):
        fields += [part for pair in found.items() for part in pair]
    elif hasattr(found, "__iter__") and hasattr(found, "__len__"):
        fields += list(found)
    for field in fields:
        yield from texts(field, seen)


def dump(stores, ledger):
    """All that the engine has, byte by byte where it is a file."""
    store = ledger.store.store if stores.leased else ledger.store
    if stores.engine == "memory":
        kept = {name: found for name, found in vars(store).items() if name != "_shapes"}  # compiled plans
        return b"\n".join(texts(kept, {}))
    if stores.engine == "sqlite":
        return b"".join(
            path.read_bytes() for path in pathlib.Path(store.path).parent.glob(f"{pathlib.Path(store.path).name}*")
        )
    if stores.engine == "postgres":
        with psycopg.connect(stores.find("postgres").url) as db:
            query = "SELECT table_name FROM information_schema.tables WHERE table_schema = %s"
            tables = [name for (name,) in db.execute(query, (store.namespace,))]
            rows = [db.execute(f"SELECT t::text FROM {store.namespace}.{name} t").fetchall() for name in tables]
            assert len(rows) == 6
            return "\n".join(row for found in rows for (row,) in found).encode()
    with redis.Redis.from_url(stores.find("valkey").url) as client:
        reads = {
            b"hash": client.hgetall,
            b"zset": lambda name: client.zrange(name, 0, -1),
            b"string": client.get,
            b"stream": client.xrange,
        }
        names = list(client.scan_iter(f"{{{store.namespace}}}:*", count=10_000))
        return repr([(name, reads[client.type(name)](name)) for name in names]).encode()


def left(stores, ledger, words):
    """Those of some words that the engine still has."""
    found = dump(stores, ledger)
    return [word for word in words if (word if isinstance(word, bytes) else word.encode()) in found]


def lived(ledger, clock, account=None):
    """A key that did all that a key can, and the digests of its secrets."""
    more = {"metadata": {"mail": TOLD[2]}, "scopes": (TOLD[4],)}
    key, secret = ledger.issue_key(TOLD[5], "p", id=TOLD[0], account=account, **more)
    ledger.update_key(key, name=TOLD[1])
    old = ledger.get_key(key)
    _, secret = ledger.rotate_key(key, HOUR)
    assert ledger.consume(secret, 60, request_id=TOLD[3]) and ledger.consume(secret, 30)
    assert ledger.reserve(secret, 2, ttl=HOUR, request_id=f"{TOLD[3]} held")
    ledger.refund(ledger.consume(secret, 3, request_id=f"{TOLD[3]} back"), 1)
    ledger.override_limit(key, "requests/day", 500)
    ledger.associate(key, "q", at=START + 30 * DAY)
    clock.advance(13 * HOUR)
    assert ledger.consume(secret, 4)
    digests = [one.digest for one in (*old.secrets, *ledger.get_key(key).secrets)]
    return key, [part for one in digests for part in (one, one.hex())]


def beside(ledger):
    """Another key, with usage."""
    _, secret = ledger.issue_key("stays", "p", id="stays", metadata={"of": "stays"})
    assert ledger.consume(secret, 7, request_id="stays")
    return secret


def told(ledger):
    """All that is told of who stays."""
    totals = {by: list(ledger.usage_report("2026-03-01", "2026-04-30", by=by)) for by in ("key", "account", "plan")}
    return totals, ledger.usage("stays"), ledger.status("stays"), ledger.get_key("stays")


def begun(stores, clock):
    """A ledger with two plans."""
    ledger = stores.over(stores.open(), clock=clock, actor="ada")
    ledger.add_plan(UsagePlan("p", "100/day, 1000/month by account", alerts=(50, 90)))
    ledger.add_plan(UsagePlan("q", "50/day"))
    return ledger


@over(*ALL)
@pytest.mark.parametrize("removed", [False, True])
def test_nothing_is_left_of_a_key(stores, clock, removed):
    """Whether it was removed before or not; who stays is told as before, and one event names nobody."""
    ledger = begun(stores, clock)
    secret = beside(ledger)
    before, events = told(ledger), ledger.events()
    key, digests = lived(ledger, clock)
    assert left(stores, ledger, TOLD) == TOLD
    if removed:
        ledger.remove_key(key)
        assert ledger.usage(key)
    ledger.erase(key)
    assert left(stores, ledger, [*TOLD, *digests]) == []
    assert told(ledger)[0] == before[0] and told(ledger)[3] == before[3]
    *earlier, last = ledger.events()
    assert earlier == events
    assert (last.kind, last.actor, last.at) == ("erased", "ada", START + 13 * HOUR)
    assert last[4:] == (None,) * 8
    for call in (ledger.usage, ledger.erase, ledger.get_key):
        with pytest.raises(UnknownKey, match="gone-id"):
            call(TOLD[0])
    assert ledger.events()[-1] == last
    again = ledger.consume(secret, 7, request_id="stays")
    assert again.replayed
    _, anew = ledger.issue_key("new", "p", id=TOLD[0])
    assert ledger.consume(anew, request_id=TOLD[3]).limits[0].used == 1


@over(*ALL)
def test_nothing_is_left_of_an_account(stores, clock):
    """Nor of its keys, those that were removed included; an account above it and one beside it stay."""
    ledger = begun(stores, clock)
    ledger.add_account("company", name="Company")
    ledger.add_account("gone-team", parent="company", name="Gone Team", metadata={"vat": "gone-vat"})
    ledger.add_plan(UsagePlan("r", "5000/day"))
    ledger.associate(Account("gone-team"), "r")
    beside(ledger)
    ledger.add_account("child", parent="gone-team")
    _, digests = lived(ledger, clock, account="gone-team")
    words = [*TOLD, *digests, "gone-team", "Gone Team", "gone-vat", "gone-second", "gone-third"]
    for number in ("second", "third"):
        key, secret = ledger.issue_key(f"gone-{number}", "p", id=f"gone-{number}", account="gone-team")
        assert ledger.consume(secret, request_id=f"gone-{number}")
    ledger.remove_key(key)
    with pytest.raises(InvalidValue, match="child"):
        ledger.erase("gone-team")
    assert ledger.usage(TOLD[0]) and ledger.get_account("gone-team")
    ledger.update_account("child", parent="company")
    ledger.erase("gone-team")
    assert left(stores, ledger, words) == []
    assert [one.id for one in ledger.list_accounts()] == ["child", "company"]
    assert [one.id for one in ledger.usage_report("2026-03-01", "2026-04-30")] == ["stays"]
    assert ledger.events()[-1].kind == "erased" and [one.kind for one in ledger.events()].count("erased") == 1
    with pytest.raises(UnknownKey):
        ledger.erase("gone-team")
    with pytest.raises(UnknownAccount):
        ledger.erase(Account("gone-team"))
    ledger.add_account("gone-team", parent="company")


@over(*EXACT)
def test_a_key_s_own_account_goes_with_it(stores, clock):
    """Where nothing else is in it; an account of others, or with others in it, stays."""
    ledger = begun(stores, clock)
    for id_, account in (("own", None), ("kept", None), ("other", "kept"), ("above", None), ("member", "team")):
        ledger.consume(ledger.issue_key(id_, "p", id=id_, account=account).secret)
    ledger.add_account("own", name="Gone Name")
    ledger.add_account("above", name="Above")
    ledger.add_account("below", parent="above")
    ledger.add_account("member", name="another one's")
    for key in ("own", "kept", "above", ledger.get_key("member")):
        ledger.erase(key)
    assert [one.id for one in ledger.list_accounts()] == ["above", "below", "kept", "member"]
    assert left(stores, ledger, ["Gone Name"]) == []
    assert [one.id for one in ledger.list_keys()] == ["other"]
    with pytest.raises(UnknownKey):
        ledger.erase(ledger.get_key("other").id + "s")
    assert left(stores, ledger, ["team"]) == []  # nobody else was in it
    _, secret = ledger.issue_key("again", "p", id="again", account="team")
    assert ledger.consume(secret).limits[1].used == 1
    ledger.remove_key("again")
    ledger.erase("team")
    assert left(stores, ledger, ["team", "again"]) == []


@over(*EXACT)
def test_what_another_process_knows_of_who_is_erased_comes_back_nowhere(stores, clock):
    """A call with the old secret is of nobody there, and writes nothing."""
    ledger = begun(stores, clock)
    there = stores.ledger(clock, ledger)
    key, secret = ledger.issue_key(TOLD[1], "p", id=TOLD[0])
    held = there.reserve(secret, 5, ttl=HOUR)
    assert there.consume(secret, 5) and held
    ledger.erase(key)
    assert there.consume(secret, request_id=TOLD[3]).reason.value == "UNKNOWN_KEY"
    with pytest.raises(UnknownKey):
        held.commit()
    assert left(stores, ledger, TOLD[:2] + TOLD[3:4]) == []
    with pytest.raises(UnknownKey):
        there.erase(key)


@over("sqlite")
def test_nothing_is_left_in_the_pages_of_a_file(stores, clock):
    """Of many keys that are erased one by one between others, and of names that were changed long before."""
    ledger = begun(stores, clock)
    keys = [one.key for one in ledger.issue_keys([f"client {n} of gone-id" for n in range(60)], "p")]
    for number, key in enumerate(keys):
        ledger.update_key(key, name=f"Old Name {number}", metadata={"mail": "gone@mail.example" * 30})
        ledger.consume(key, number % 99 + 1, request_id="gone-request" * 20)
    for key in keys[::-1]:
        ledger.update_key(key, name="plain", metadata={})
    for key in keys[2:]:
        ledger.remove_key(key)
    for key in keys:
        ledger.erase(key)
    assert left(stores, ledger, [*TOLD, *(key.id for key in keys)]) == []


@over("sqlite")
def test_a_log_that_somebody_reads_is_emptied_later(stores, clock):
    """The file itself is clean at once for who opens it; the log when the reader is done."""
    ledger = begun(stores, clock)
    key, _ = ledger.issue_key(TOLD[1], "p", id=TOLD[0])
    import sqlite3

    reader = sqlite3.connect(ledger.store.path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM keys").fetchall()
    ledger.store._pool.timeout = 0.2
    ledger.erase(key)
    assert left(stores, ledger, TOLD[:2]) == TOLD[:2]
    reader.execute("COMMIT")
    reader.close()
    ledger.close()
    assert left(stores, ledger, TOLD[:2]) == []
