"""Planted bugs: each is put into a copy of the server's functions, and a history must catch it.

The functions are the second twin of the rule. Every entry replaces one piece of their text, which must still be there.
"""

import itertools
import random
import time
from datetime import datetime, timezone
from hashlib import sha256

import pytest

from every_store import run_threads
from quota import ClockSkew, Ledger, ManualClock, QuotaError, StoreBusy, UsagePlan
from quota.stores.memory import MemoryStore
from quota.stores.postgres import PostgresStore
from quota.stores.postgres import requests as _postgres_steps

START = int(datetime(2026, 3, 10, 12, tzinfo=timezone.utc).timestamp()) * 1_000_000
DAY = 86_400_000_000
_names = itertools.count()


class World:
    """One ledger's schema, and as many processes on it as a history wants."""

    def __init__(self, server):
        self.server, self.namespace, self.opened = server, f"planted{next(_names)}", []
        self.clock = ManualClock(START)

    def ledger(self, **options):
        options = {"timeout": 30, **options}
        store = PostgresStore(self.server.url, namespace=self.namespace, **options)
        self.opened.append(store)
        return Ledger(store, clock=self.clock)

    def sql(self, text):
        with self.server.connect() as connection:
            return connection.execute(text.format(ns=self.namespace)).fetchall()

    def close(self):
        for store in self.opened:
            store.close()


PLANS = [
    ["6/minute, 20/hour", "6/hour, 20/day", "12/minute"],
    ["30/day, 3/s burst 4", "30/minute, 3/s burst 4"],
    ["15/hour by account as team, 9/minute", "40/day by account as team, 2/s burst 3 by account"],
    ["30/hour, 9 tokens/minute, 2 tokens/s burst 5 as pace", "30/day, 100 tokens/hour, 3 tokens/s burst 9 as pace"],
    ["100/s burst 7, 5 tokens/s burst 1000 as pace"],
]
STEPS = [0, 0, 0, 1, 333_333, 999_999, 10_000_000, 59_000_000, 60_000_000, 600_000_000, 3_600_000_000, -1, -2_000_000]


def tell(call):
    try:
        decision = call()
    except QuotaError as error:
        return str(error)
    return repr(decision), decision.retry_at, decision.crossed, [s.used for s in decision.limits], decision.limits


def memory_agrees(world):
    """Calls on every kind of lane, among changes of plan, are decided as in memory."""
    ledgers = [Ledger(MemoryStore(), clock=world.clock), world.ledger()]
    for number, texts in enumerate(PLANS):
        pick = random.Random(number)
        for ledger in ledgers:
            ledger.add_plan(UsagePlan(f"p{number}", texts[0], alerts=(50, 80, 100)))
        secrets = [
            [ledger.issue_key(f"{number} {name}", f"p{number}", id=f"{number}-{name}", account=f"team{number}").secret
             for name in range(1 + number % 2)]
            for ledger in ledgers
        ]  # fmt: skip
        for _ in range(70):
            world.clock.advance(pick.choice(STEPS))
            cost = pick.choice([1, 1, 2, 3, {"tokens": pick.randint(1, 3)}, {"requests": 1, "tokens": 2}])
            who = pick.randrange(1 + number % 2)
            if pick.random() < 0.04:
                text = pick.choice(texts)
                for ledger in ledgers:
                    ledger.replace_plan(UsagePlan(f"p{number}", text, alerts=(50, 80, 100)))
            memory, postgres = (
                tell(lambda ledger=ledger, mine=mine: ledger.consume(mine[who], cost))
                for ledger, mine in zip(ledgers, secrets, strict=True)
            )
            assert memory == postgres
        world.clock.advance(40 * DAY)


def the_last_unit_is_admitted_and_no_more(world):
    """On plain and general lanes alike."""
    ledger = world.ledger()
    ledger.add_plan(UsagePlan("p", "3/day", alerts=()))
    ledger.add_plan(UsagePlan("q", "3/day by account", alerts=()))
    ledger.add_plan(UsagePlan("b", "1/minute burst 3", alerts=()))
    for plan in "pqb":
        secret = ledger.issue_key(plan, plan, account=f"of {plan}").secret
        ledger.issue_key(f"{plan} too", plan, account=f"of {plan}" if plan == "q" else None)
        assert [bool(ledger.consume(secret)) for _ in range(5)] == [True] * 3 + [False] * 2
        assert ledger.peek(secret).limits[0].used == 3


def changes_elsewhere_bind(world):
    """A lane that was open sees what another process did to its key, its plan, its records."""
    here, there = world.ledger(), world.ledger()
    here.add_plan(UsagePlan("p", "100/day, 200/day by account as team"))
    for shared in (False, True):
        key, secret = here.issue_key("k", "p", id=f"k{shared}", account=f"a{shared}")
        if shared:
            here.issue_key("other", "p", account=f"a{shared}")
        for ask in (lambda: there.consume(secret), lambda: there.consume(secret, request_id=f"{next(_names)}")):
            for _ in range(3):
                assert ask()
            here.disable_key(key)
            assert not ask()
            here.enable_key(key)
            assert ask()
            here.set_remaining(key, "team", 0)
            assert not ask()
            here.set_remaining(key, "team", 50)
            assert ask()
            here.set_remaining(key, "requests/day", 0)
            assert not ask()
            here.set_remaining(key, "requests/day", 50)
            assert ask()
            here.replace_plan(UsagePlan("p", "1/day, 200/day by account as team"))
            here.forget(key)
            assert ask()
            assert not ask()
            here.replace_plan(UsagePlan("p", "100/day, 200/day by account as team"))


def a_request_id_counts_once(world):
    """In two processes whose lanes are open, one after the other and at the same time."""
    here, there = world.ledger(), world.ledger()
    here.add_plan(UsagePlan("p", "1000000/day"))
    _, secret = here.issue_key("k", "p")
    for ledger in (here, there, here):
        ledger.consume(secret)
    first = here.consume(secret, request_id="x")
    assert [ledger.consume(secret, request_id="x").id for ledger in (there, here)] == [first.id] * 2
    ledgers = here, there, world.ledger(), world.ledger()
    run_threads([lambda one=one: [one.consume(secret, request_id=f"y{n}") for n in range(30)] for one in ledgers])
    assert here.peek(secret).limits[0].used == 3 + 1 + 30 + 1


def clocks_far_apart_are_told(world):
    """A call far behind what was recorded, and one far from the server's clock, on every kind of lane."""
    ledger = world.ledger()
    ledger.add_plan(UsagePlan("p", "1000/day"))
    ledger.add_plan(UsagePlan("q", "1000/day, 1000/s burst 1000"))
    for shared, plan in itertools.product((False, True), "pq"):
        world.clock.set(START)
        secret = ledger.issue_key("k", plan, account=f"{plan}{shared}").secret
        if shared:
            other = ledger.issue_key("l", plan, account=f"{plan}{shared}").secret
            ledger.consume(other)
        for _ in range(3):
            ledger.consume(secret)
        world.clock.advance(-300_000_000)
        assert ledger.consume(secret)
        world.clock.advance(-1)
        with pytest.raises(ClockSkew):
            ledger.consume(secret)
        if shared:
            world.clock.set(START + 300_000_001)
            assert ledger.consume(other)
            world.clock.set(START - 1)
            with pytest.raises(ClockSkew):
                ledger.consume(secret)


def the_servers_clock_is_asked(world):
    """By a lane, and by the first call of a process: a clock that is off is told, whatever was open."""
    ledger = world.ledger(check_clock=False, max_skew=60)
    ledger.add_plan(UsagePlan("p", "1000/day"))
    ledger.add_plan(UsagePlan("q", "1000/day, 1000/s burst 1000"))
    for shared, plan in itertools.product((False, True), "pq"):
        # A lane that was opened while nobody compared the clocks, two days from the server's.
        world.clock.set(time.time_ns() // 1000 + 2 * DAY)
        secret = ledger.issue_key("k", plan, account=f"{plan}{shared}").secret
        if shared:
            ledger.issue_key("l", plan, account=f"{plan}{shared}")
        for _ in range(2):
            assert ledger.consume(secret)
        (copy,) = [copy for ref, copy in ledger.store._copies._found.items() if ref == sha256(secret.encode()).digest()]
        (lane,) = copy.lanes.values()
        general, function, names, one = lane.tag
        lane.tag = (*general[:5], b"60000000", *general[6:]), function, names, one.replace(b"%d" % 2**62, b"60000000")
        with pytest.raises(ClockSkew):
            ledger.consume(secret)
        first = world.ledger(check_clock=True, max_skew=60)
        with pytest.raises(ClockSkew):
            first.consume(secret)


def turns_are_kept(world):
    """While another writer has its turn, lanes and writes wait; a turn of one's own is none to wait for."""
    ledger = world.ledger(timeout=0.5)
    ledger.add_plan(UsagePlan("p", "1000/day"))
    ledger.add_plan(UsagePlan("q", "1000/day by account"))
    for plan in "pq":
        key, secret = ledger.issue_key("k", plan, id=f"k{plan}", account=f"a{plan}")
        if plan == "q":
            ledger.issue_key("l", plan, account=f"a{plan}")
        for _ in range(2):
            ledger.consume(secret)
        world.sql("update {ns}.records set turn = 5, turn_until = 9e15 returning 1")
        for call in (lambda: ledger.consume(secret), lambda: ledger.reserve(secret, 1, ttl=10**6)):
            with pytest.raises(StoreBusy):
                call()
        world.sql("update {ns}.records set turn = 5, turn_until = 0 returning 1")
        assert ledger.consume(secret).limits[0].used == 3


def many_at_once_are_exact(world):
    """Charges, holds, refunds and remembered requests of several processes on one account: totals exact, on key and account."""
    first = world.ledger()
    first.add_plan(UsagePlan("p", "1000000/day, 1000000/day by account as team, 1000000/s burst 1000000"))
    secrets = [first.issue_key(f"k{n}", "p", account="team").secret for n in range(2)]
    alone = first.issue_key("alone", "p").secret

    def work(ledger, secret):
        for n in range(8):
            ledger.consume(secret, 2)
            ledger.consume(alone, 3)
            if n % 4 == 0:
                ledger.reserve(secret, 7, ttl=60_000_000).commit(1)
                ledger.reserve(alone, 7, ttl=60_000_000).commit(1)

    run_threads([lambda ledger=world.ledger(), n=n: work(ledger, secrets[n % 2]) for n in range(5)])
    used = [[s.used - 1 for s in first.peek(secret).limits[:2]] for secret in (*secrets, alone)]
    each = 8 * 2 + 2
    assert used == [[3 * each, 5 * each], [2 * each, 5 * each], [5 * (8 * 3 + 2)] * 2]


def keys_join_without_loss(world):
    """A second key joins while the first is charged, on its first call and later: the account has every unit."""
    here = world.ledger()
    here.add_plan(UsagePlan("p", "1000000/day, 1000000/day by account as team"))
    for n in range(8):
        account = f"account{n}"
        secret = here.issue_key("first", "p", account=account).secret
        if n % 2:
            here.consume(secret)
        others = [world.ledger() for _ in range(2)]
        for other in others:
            other.peek(secret)
        calls = [lambda other=other: [other.consume(secret) for _ in range(4)] for other in others]
        run_threads([*calls, lambda: here.issue_key("second", "p", account=account)])
        assert [s.used for s in here.consume(secret).limits] == [2 * 4 + n % 2 + 1] * 2


def one_of_two_wins(world):
    """The same key id, the same secret, the same plan at the same time: one is there, the other is told."""
    ledgers = [world.ledger() for _ in range(4)]
    ledgers[0].list_keys()
    won = []

    def issue(ledger, n):
        for step in range(6):
            try:
                ledger.issue_key(f"of {n}", id=f"same{step}")
                won.append(step)
            except QuotaError:
                pass

    run_threads([lambda ledger=ledger, n=n: issue(ledger, n) for n, ledger in enumerate(ledgers)])
    assert sorted(won) == list(range(6))


def what_is_dead_goes_and_stays_dead(world):
    """Rows go when they no longer matter, not before; what was forgotten is not granted again."""
    ledger = world.ledger()
    ledger.add_plan(UsagePlan("p", "10/minute"))
    ledger.add_plan(UsagePlan("y", "10/year"))
    kept = ledger.issue_key("yearly", "y").secret
    ledger.consume(kept, 7)
    counts = []
    for n in range(10):
        secret = ledger.issue_key(f"k{n}", "p").secret
        ledger.consume(secret, request_id="once")
        ledger.consume(secret, request_id="twice")
        world.clock.advance(30 * DAY if n < 8 else 0)
        counts.append(world.sql("select count(*) from {ns}.records union all select count(*) from {ns}.remembered"))
    assert counts[-1][0][0] <= 6
    assert counts[-1][1][0] <= 8
    assert world.sql("select count(*) from {ns}.records r left join {ns}.bodies b using (name) where b is null") == [
        (0,)
    ]
    assert ledger.peek(kept).limits[0].used == 8
    world.clock.advance(-100 * DAY)
    with pytest.raises(ClockSkew):
        ledger.consume(ledger.issue_key("late", "p").secret)


def events_keep_their_order(world):
    """A number that is drawn is nobody else's until it is committed; what is old goes; a crossing is told with its charge."""
    ledger, busy = world.ledger(retention=1), world.ledger(timeout=0.2)
    ledger.add_plan(UsagePlan("p", "2/day", alerts=(50, 100)))
    _, secret = ledger.issue_key("k", "p")
    ledger.consume(secret)
    with world.server.connect() as connection, connection.transaction():
        connection.execute(f"select {world.namespace}.tell({START}, null, null, '[{START}, \"x\"]', 0)")
        for call in (lambda: busy.add_plan(UsagePlan("q", "1/day")), lambda: busy.consume(secret)):
            try:
                call()
            except StoreBusy:
                continue
            raise AssertionError("a number was drawn beside another")
        assert len(ledger.events()) == 3
    ledger.consume(secret)
    told = [(event.cursor, event.kind, event.percent) for event in ledger.events()]
    assert told == [
        (1, "plan.added", None), (2, "key.issued", None), (3, "limit.crossed", 50), (4, "x", None),
        (5, "limit.crossed", 100),
    ]  # fmt: skip
    world.clock.advance(DAY + 1)
    for _ in range(2):
        ledger.disable_key(ledger.list_keys()[0])
        ledger.enable_key(ledger.list_keys()[0])
    assert [event.cursor for event in ledger.events()] == [6, 7, 8, 9]


HISTORIES = [
    events_keep_their_order,
    the_last_unit_is_admitted_and_no_more, memory_agrees, changes_elsewhere_bind, a_request_id_counts_once,
    clocks_far_apart_are_told, the_servers_clock_is_asked, turns_are_kept,
    what_is_dead_goes_and_stays_dead, one_of_two_wins, many_at_once_are_exact, keys_join_without_loss,
]  # fmt: skip

RULE, WRITES, READS = "DECIDING", "WRITING", "READING"
BUGS = {
    # The lane, in one statement
    "plain: one unit too many": (RULE, "+ p_lane[2] <= p_lane[9]", "+ p_lane[2] <= p_lane[9] + 1"),
    "plain: another version is charged": (RULE, "version = p_lane[7] AND turn_until", "turn_until"),
    "plain: a stale copy is charged": (
        RULE, "      AND p_texts[3] = (SELECT value FROM {ns}.directory WHERE part = 'stamps' AND name = p_texts[2])\n", ""),
    "plain: a stale plan is charged": (
        RULE, "      AND p_texts[4] = (SELECT value FROM {ns}.directory WHERE part = 'stamps' AND name = '*')\n", "\n"),
    "plain: another's turn is not kept": (RULE, " AND turn_until = 0 AND p_lane", " AND p_lane"),
    "plain: time runs backwards": (RULE, "SET at = greatest(at, p_lane[1])", "SET at = p_lane[1]"),
    "plain: a clock far behind is charged": (RULE, "least(p_lane[1] + p_lane[5], p_lane[6] - 1)", "p_lane[6] - 1"),
    "plain: the server's clock is not asked": (
        RULE, "      AND abs(date_part('epoch', clock_timestamp()) * 1000000 - p_lane[1]) <= p_lane[4]\n", ""),
    "plain: a lane never ends": (RULE, " AND p_lane[1] < p_lane[6]\n", "\n"),
    "plain: a lane ends late": (RULE, "p_lane[1] < p_lane[6]", "p_lane[1] <= p_lane[6]"),
    "plain: a lane that ended goes on by a clock behind": (RULE, "p_lane[5], p_lane[6] - 1)", "p_lane[5], p_lane[6])"),
    "plain: the minute is not noted": (RULE, "BETWEEN p_lane[1] - p_lane[1] % 60000000 AND", "BETWEEN 0 AND"),
    "plain: a bucket drains a unit too fast": (RULE, "greatest(0, levels[p_lane[11]] - ", "greatest(0, levels[p_lane[11]] - 1 - "),
    "plain: a bucket never drains": (RULE, "levels[p_lane[11]] - p_lane[12] *", "levels[p_lane[11]] - 0 *"),
    "plain: a bucket is not dated": (RULE, "filled[p_lane[11]] = greatest(at, p_lane[1])", "filled[p_lane[11]] = filled[p_lane[11]]"),
    "plain: a bucket overflows": (RULE, "p_lane[14] - p_lane[3] >=", "p_lane[14] * 2 - p_lane[3] >="),
    "plain: a bucket holds a unit less": (RULE, "p_lane[14] - p_lane[3] >=", "p_lane[14] - p_lane[3] >"),
    "plain: a long time is more than there are numbers for": (
        RULE, "        least(greatest(at, p_lane[1]) - filled[p_lane[11]], levels[p_lane[11]] / p_lane[12] + 1))",
        "        (greatest(at, p_lane[1]) - filled[p_lane[11]]))"),
    "plain: what the lane refuses counts no quota": (RULE, "ARRAY[p_lane[8], 1, p_lane[9], p_lane[10]]", "ARRAY[p_lane[8], 1, p_lane[9], p_lane[10] + 1]"),
    "plain: what the lane refuses asks no clock": (RULE, "nullif(p_lane[4], 4611686018427387904)", "NULL"),
    # The lane, at length
    "a stale copy is charged": (RULE, "IF v_stamp <> p_stamp OR v_plans", "IF v_plans"),
    "a stale plan is charged": (RULE, "IF v_stamp <> p_stamp OR v_plans <> p_plans", "IF v_stamp <> p_stamp"),
    "a remembered request is charged again": (RULE, "EXIT WHEN v_kept OR v_others", "EXIT WHEN v_others"),
    "another version of the key's record is charged": (
        RULE, "OR r.version <> p_versions[v_found]", "OR (v_found > 1 AND r.version <> p_versions[v_found])",
        "AND version = p_versions[i] AND moves", "AND moves"),
    "another version of the account's record is charged": (
        RULE, "OR r.version <> p_versions[v_found]", "OR (v_found = 1 AND r.version <> p_versions[v_found])",
        "AND version = p_versions[i] AND moves", "AND moves"),
    "another's turn is not kept": (RULE, "IF v_turn > 0 AND v_turn > (extract", "IF false AND v_turn > (extract"),
    "the server's clock is not asked": (RULE, "      IF abs(v_server - p_now) > p_far THEN\n        RETURN v_server;\n      END IF;\n    END IF;\n    EXIT", "    END IF;\n    EXIT"),
    "the server's clock is not asked with the records": (
        RULE, "    IF abs(v_server - p_now) > p_far THEN\n      RETURN v_server;\n    END IF;\n  END IF;\n  IF NOT p_open", "  END IF;\n  IF NOT p_open"),
    "a clock far behind the key's record is charged": (
        RULE, "v_late OR v_now < r.at - p_back", "v_late OR (v_found > 1 AND v_now < r.at - p_back)"),
    "a clock far behind the account's record is charged": (
        RULE, "v_late OR v_now < r.at - p_back", "v_late OR (v_found = 1 AND v_now < r.at - p_back)"),
    "time runs backwards for the account": (
        RULE, "v_now := greatest(v_now, r.at);", "IF v_found = 1 THEN v_now := greatest(v_now, r.at); END IF;"),
    "a lane never ends": (RULE, "EXIT WHEN v_late OR v_now >= p_until;", "EXIT WHEN v_late;"),
    "one unit too many": (RULE, "v_reading > p_meters[i + 3]", "v_reading > p_meters[i + 3] + 1"),
    "the last unit is refused": (RULE, "v_reading > p_meters[i + 3]", "v_reading >= p_meters[i + 3]"),
    "an alert is swallowed": (RULE, "ELSIF v_reading > p_meters[i + 2] THEN", "ELSIF false THEN"),
    "an alert is a unit late": (RULE, "ELSIF v_reading > p_meters[i + 2] THEN", "ELSIF v_reading > p_meters[i + 2] + 1 THEN"),
    "a throttle refuses nothing": (RULE, "v_units > 0 AND v_reading > p_buckets[i + 4]", "false"),
    "a throttle refuses its last unit": (RULE, "v_units > 0 AND v_reading > p_buckets[i + 4]", "v_units > 0 AND v_reading >= p_buckets[i + 4]"),
    "a throttle refuses what costs nothing of it": (RULE, "v_units > 0 AND v_reading > p_buckets[i + 4]", "v_reading > p_buckets[i + 4] - 1"),
    "a bucket drains a unit too fast": (
        RULE, "v_reading := v_reading - p_buckets[i + 2] * (v_now", "v_reading := v_reading - 1 - p_buckets[i + 2] * (v_now"),
    "a bucket is not dated": (RULE, "        v_filled[v_place] := v_now;\n", ""),
    "the minute is not noted": (RULE, "WHEN at < v_minute THEN totals", "WHEN false THEN totals"),
    "the hour is not noted": (RULE, "WHEN at < v_hour THEN totals", "WHEN false THEN totals"),
    "the account is not charged": (
        RULE, "totals = v_totals[v_place + 1:v_place + v_counts[i]],",
        "totals = CASE WHEN i = 1 THEN v_totals[v_place + 1:v_place + v_counts[i]] ELSE totals END,"),
    "a key is charged again where its account moved": (
        RULE, "IF v_locked OR v_names = 1 THEN", "IF true THEN", "IF v_names > 1 THEN\n        RAISE", "IF false THEN\n        RAISE"),
    "a charge overwrites another's": (RULE, " AND moves = v_moves[i] AND turn_until = v_turns[i]", ""),
    # What writes
    "a write overwrites charges": (WRITES, "OR r.moves IS DISTINCT FROM p_moves[i]", ""),
    "a write overwrites another's": (WRITES, "r.version IS DISTINCT FROM p_versions[i] OR r.moves IS DISTINCT FROM p_moves[i]", "false"),
    "a write asks no stamps": (WRITES, "  IF NOT {ns}.fresh(p_stamp_name, p_stamp, p_plans) THEN\n    RETURN '0';\n  END IF;\n", ""),
    "a first write waits for no key that joins": (
        WRITES, "    UPDATE {ns}.directory SET value = value WHERE part = 'stamps' AND name = p_stamp_name;\n", "    NULL;\n"),
    "a key joins without a copy": (WRITES, "      INSERT INTO {ns}.records SELECT c ->> 2, r.version", "      INSERT INTO {ns}.records SELECT c ->> 2 || 'x', r.version"),
    "a key joins beside a charge": (WRITES, "      UPDATE {ns}.records SET version = version + 1 WHERE name = c ->> 1;\n", ""),
    "the directory checks nothing": (WRITES, "IF v_value IS DISTINCT FROM c ->> 2 THEN", "IF false THEN"),
    "two change the directory at once": (WRITES, "  UPDATE {ns}.directory SET value = value WHERE part = 'stamps' AND name = '#';\n", ""),
    "a first record overwrites another": (WRITES, "ON CONFLICT (name) DO NOTHING;", "ON CONFLICT (name) DO UPDATE SET totals = EXCLUDED.totals;"),
    "nothing is pruned": (WRITES, "d.dead_at < p_before", "false"),
    "what lives is pruned": (WRITES, "d.dead_at < p_before", "d.dead_at < p_before + 400 * 86400000000"),
    "bodies stay behind": (WRITES, "    DELETE FROM {ns}.bodies WHERE name = r.name;\n", ""),
    "the floor stays low": (WRITES, "    v_floor := greatest(v_floor, r.floor, r.at + 1);\n", ""),
    "old remembered requests stay behind": (WRITES, "o.until < p_before", "false"),
    "an event's number waits for nobody": (
        WRITES, ("  UPDATE {ns}.directory SET value = (value::bigint + 1)::text WHERE part = 'stamps' AND name = '^'\n"
        "    RETURNING value::bigint INTO STRICT v_cursor;\n"),
        "  SELECT coalesce(max(o.cursor), 0) + 1 INTO v_cursor FROM {ns}.events o;\n"),
    "a crossing is not told": (WRITES, "  IF p_told IS NOT NULL THEN\n", "  IF false THEN\n"),
    "a change of the directory is not told": (
        WRITES, "      PERFORM {ns}.tell((c ->> 1)::bigint, c ->> 2, c ->> 3, c ->> 4, (c ->> 5)::bigint);\n", "      NULL;\n"),
    "old events stay": (WRITES, "  DELETE FROM {ns}.events WHERE at < p_since\n", "  DELETE FROM {ns}.events WHERE false\n"),
    "events go before their time": (WRITES, "WHERE at < p_since\n", "WHERE at < p_since + 86400000000\n"),
    "a stale copy brings everything": (READS, "IF NOT {ns}.fresh(p_stamp_name, p_stamp, p_plans) THEN", "IF false THEN"),
}  # fmt: skip


def caught_by(server, histories=HISTORIES):
    """The first history that fails; None when all is well."""
    world = World(server)
    try:
        for history in histories:
            try:
                history(world)
            except Exception as error:
                return f"{history.__name__}: {type(error).__name__}"
            world.clock.set(START + 400 * DAY)
        return None
    finally:
        world.close()


def plant(monkeypatch, script, *texts):
    source = getattr(_postgres_steps, script)
    for old, new in zip(texts[::2], texts[1::2], strict=True):
        assert old in source, f"{script} no longer has {old!r}"
        source = source.replace(old, new)
    monkeypatch.setattr(_postgres_steps, script, source)


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_the_histories_catch(server, monkeypatch, bug):
    """One planted bug, seen."""
    plant(monkeypatch, *BUGS[bug])
    assert caught_by(server)


@pytest.mark.spread(3)
@pytest.mark.parametrize("history", HISTORIES, ids=lambda history: history.__name__)
def test_history(server, history):
    """Each history comes out as it says on the functions as they are."""
    world = World(server)
    history(world)
    world.close()
