"""Real processes on a real server, their clocks apart: no unit too many, none lost or counted twice, though it is ended under way."""

import contextlib
import multiprocessing
import random
import signal
import threading
import time

import pytest

from every_store import ledger_with, namespace, used
from quota import Ledger, StoreUnavailable, UsagePlan
from quota.stores import open_store
from receipts import Receipt, check_receipts
from servers import Postgres, Valkey

MONTH_AND_ACCOUNT = "1000000/month, 2000000/year by account as team"
SERVERS = pytest.mark.parametrize("server", ["valkey", "postgres"], indirect=True)
COUNT = {"valkey": 250, "postgres": 60}


@pytest.fixture
def server(request):
    return request.getfixturevalue(request.param)


def separate(server, name):
    """A store in this namespace of a server."""
    return open_store(f"{server.url}?namespace={name}")


def spend(server, name, secret, skew, seed, count, results, done):
    """One process: random costs by a skewed clock; its receipts by key and by account. With ``done``, repeated until answered."""
    ledger = Ledger(separate(server, name), clock=lambda: time.time_ns() // 1000 + skew)
    pick = random.Random(seed)
    found, retried = [], 0
    for number in range(count):
        cost = pick.randint(1, 5)
        invoked = time.monotonic()
        while True:
            try:
                decision = ledger.consume(secret, cost, request_id=f"{seed} {number}" if done else None)
                break
            except StoreUnavailable:
                retried += 1
        found.append((invoked, time.monotonic(), cost, [s.used for s in decision.limits], bool(decision)))
        if done:
            with done.get_lock():
                done.value += 1
    ledger.close()
    results.put((secret, found, retried))


def run_processes(server, name, secrets, count, breaking=None):
    """Six processes at once, their clocks up to ten seconds apart; ``breaking`` is called with their progress."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    done = context.Value("i", 0) if breaking else None
    workers = [
        context.Process(
            target=spend,
            args=(server, name, secrets[number % len(secrets)], skew * 1_000_000, number, count, results, done),
        )
        for number, skew in enumerate((0, 5, -5, 2, -2, 4))
    ]
    for worker in workers:
        worker.start()
    if breaking:
        breaking(done)
    found = [results.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    return found


def account_of_two(server, name):
    ledger = Ledger(separate(server, name))
    ledger.add_plan(UsagePlan("p", MONTH_AND_ACCOUNT))
    return ledger, [ledger.issue_key(f"k{number}", "p", account="team").secret for number in range(2)]


def check_account(ledger, secrets, found):
    """Receipts tile for each key and for the account, and the totals are theirs."""
    whole = []
    for secret in secrets:
        mine = [entry for owner, entries, _ in found if owner == secret for entry in entries]
        total = check_receipts([Receipt(a, b, cost, told[0]) for a, b, cost, told, _ in mine])
        assert total == sum(cost for _, _, cost, _, _ in mine) == used(ledger, secret)
        whole += mine
    assert check_receipts([Receipt(a, b, cost, told[1]) for a, b, cost, told, _ in whole]) == used(ledger, secret, 1)
    ledger.close()


@SERVERS
def test_six_processes_with_skewed_clocks_are_exact(server, request):
    """Receipts tile for each key and for the account they share, though clocks differ by up to 10 seconds."""
    name = namespace()
    ledger, secrets = account_of_two(server, name)
    check_account(ledger, secrets, run_processes(server, name, secrets, COUNT[request.node.callspec.params["server"]]))


@pytest.mark.parametrize(
    ("server", "limit", "count"), [("valkey", 1000, 120), ("postgres", 500, 60)],
    ids=["valkey", "postgres"], indirect=["server"],
)  # fmt: skip
def test_six_processes_never_pass_a_limit(server, limit, count):
    """What is admitted is the limit to the unit when all want more than there is."""
    name = namespace()
    ledger = Ledger(separate(server, name))
    ledger.add_plan(UsagePlan("p", f"{limit}/year"))
    _, secret = ledger.issue_key("k", "p")
    found = run_processes(server, name, [secret], count)
    ledger.close()
    admitted = [entry for _, entries, _ in found for entry in entries if entry[4]]
    total = check_receipts([Receipt(a, b, cost, told[0]) for a, b, cost, told, _ in admitted])
    left = limit - total
    refused = [entry for _, entries, _ in found for entry in entries if not entry[4]]
    assert 0 <= left < 5
    assert refused
    assert all(cost > left for _, _, cost, told, _ in refused if told[0] == total)


@pytest.mark.parametrize(
    ("server", "limit", "count"), [("valkey", 900, 80), ("postgres", 350, 30)],
    ids=["valkey", "postgres"], indirect=["server"],
)  # fmt: skip
def test_six_processes_below_one_company_are_exact(server, limit, count):
    """Keys of three teams of a company: each count is the sum of its receipts, and the company's never passes its limit."""
    name = namespace()
    ledger = Ledger(separate(server, name))
    for plan in (UsagePlan("p", "1000000/year"), UsagePlan("team", "1000000/month"), UsagePlan("org", f"{limit}/year")):
        ledger.add_plan(plan)
    ledger.add_account("org")
    ledger.associate("org", "org")
    secrets = []
    for team in ("a", "b", "c"):
        ledger.add_account(team, parent="org")
        ledger.associate(team, "team")
        secrets.append(ledger.issue_key(f"k{team}", "p", id=f"k{team}", account=team).secret)
    found = run_processes(server, name, secrets, count)
    admitted = [(secret, entry) for secret, entries, _ in found for entry in entries if entry[4]]
    for secret, team in zip(secrets, "abc", strict=True):
        for level in (0, 1):
            mine = [Receipt(a, b, cost, told[level]) for owner, (a, b, cost, told, _) in admitted if owner == secret]
            assert (
                check_receipts(mine) == sum(receipt.cost for receipt in mine) == ledger.status(f"k{team}")[level].used
            )
    total = check_receipts([Receipt(a, b, cost, told[2]) for _, (a, b, cost, told, _) in admitted])
    assert 0 <= limit - total < 5
    assert ledger.status("org")[0].used == total
    ledger.close()


# Servers that are ended

KILLED = (lambda: Valkey(durable=True)), Valkey.kill
"""Its append-only file is synced at each write."""
CRASHED = Postgres, lambda server: server.end(signal.SIGQUIT)
RESTARTED = Postgres, lambda server: server.end(signal.SIGINT)


@contextlib.contextmanager
def own(make):
    """A server of a test's own."""
    server = make()
    try:
        yield server
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("ended", "count"), [(KILLED, 60), (RESTARTED, 40), pytest.param(CRASHED, 40, marks=pytest.mark.slow)],
    ids=["valkey", "postgres restart", "postgres crash"],
)  # fmt: skip
def test_six_processes_lose_and_repeat_nothing_while_the_server_is_ended(ended, count):
    """Twice under way: whatever was acknowledged is there, and retries by request id count once."""
    make, end = ended
    with own(make) as server:
        name = namespace()
        ledger, secrets = account_of_two(server, name)

        def breaking(done):
            for reached in (60, 150):
                while done.value < reached:
                    pass
                end(server)
                server.start()

        found = run_processes(server, name, secrets, count, breaking)
        assert sum(retried for _, _, retried in found) > 0
        check_account(ledger, secrets, found)


@pytest.mark.parametrize("ended", [KILLED, CRASHED], ids=["valkey", "postgres"])
def test_a_crash_loses_nothing_acknowledged(clock, ended):
    """Without request ids: at most the one call that was under way is there beside what was answered; the store goes on."""
    make, end = ended
    with own(make) as server, contextlib.closing(open_store(server.url)) as store:
        ledger, _, secret = ledger_with(store, clock, "1000000/day")
        for round_ in range(1, 3):
            acknowledged = threading.Semaphore(0)
            stopped = []

            def work():
                try:
                    while True:
                        ledger.consume(secret)
                        acknowledged.release()
                except StoreUnavailable as error:
                    stopped.append(str(error))

            worker = threading.Thread(target=work)
            before = used(ledger, secret)
            worker.start()
            for _ in range(50):
                acknowledged.acquire()
            end(server)
            worker.join()
            server.start()
            count = before + 50
            while acknowledged.acquire(blocking=False):
                count += 1
            assert count <= used(ledger, secret) <= count + 1, (round_, stopped)
