"""Imports killed half way and done again, on every store: once or not at all, and nothing that was shut is opened."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from random import Random
from uuid import uuid4

import pytest

from commands import Quota
from gateway import ACME, GOLD, LINK, VALUE, A, B, read, write
from quota import ApiKey, AsyncLedger, Ledger, UsagePlan
from quota.errors import PlanConflict, StoreUnavailable, UnknownPlan
from quota.key import Secret
from quota.stores import open_store
from quota.stores.leased import AsyncLeasedStore
from servers import Postgres, Valkey

KILLED = """
import os, signal, sys
from importlib import import_module
module, owner, method, left, *arguments = sys.argv[1:]
owner, left = getattr(import_module(module), owner), [int(left)]
real = getattr(owner, method)

def call(self, *args, **named):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    return real(self, *args, **named)

setattr(owner, method, call)
from quota.cli import main
sys.exit(main(arguments))
"""
ADDS = {
    "sqlite": ("quota.stores.sqlite.directory", "Directory", "_add_key"),
    "redis": ("quota.stores.redis.store", "RedisStore", "add_keys"),
    "postgresql": ("quota.stores.postgres.store", "PostgresStore", "add_keys"),
}
PLANS = [
    {"id": f"p{at}", "name": f"plan {at}", "apiStages": [{"apiId": f"r{at}", "stage": "prod"}],
     "quota": {"limit": 10 + at, "offset": 0, "period": "DAY"}} for at in range(3)
]  # fmt: skip
KEYS = [
    {"id": f"k{at:02}", "value": f"{at:020}", "name": "same", "enabled": at % 3 > 0, "stageKeys": []} for at in range(9)
]
ON = {f"p{at}": [key for number, key in enumerate(KEYS) if number % (at + 2) == 0] for at in range(3)}
LINKS = {
    id_: [{"id": key["id"], "type": "API_KEY", "value": key["value"], "name": "same"} for key in keys]
    for id_, keys in ON.items()
}


@pytest.fixture(scope="module")
def servers():
    """The URL of a server of an engine, started when it is first asked for."""
    made = {}

    def find(kind):
        if kind not in made:
            made[kind] = Valkey() if kind == "redis" else Postgres()
        return made[kind].url

    yield find
    for server in made.values():
        server.stop()


@pytest.fixture(params=list(ADDS))
def url(request, servers, tmp_path):
    """An empty store of each engine that another process can open."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/quota.db"
    return f"{servers(request.param)}?namespace=n{uuid4().hex[:12]}"


@pytest.fixture
def quota():
    return Quota()


def run(*arguments, killed=None):
    """(exit status, standard output, standard error) of a command, killed where it adds the key of that number."""
    start = ["-m", "quota"] if killed is None else ["-c", KILLED, *killed]
    done = subprocess.run([sys.executable, *start, *arguments], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def kept(url):
    """What stands in a store: plans, and each key with its plans."""
    with Ledger(url) as ledger:
        return ledger.list_plans(), {key: [plan.id for plan in ledger.list_plans(key)] for key in ledger.list_keys()}


@pytest.mark.spread(2)
@pytest.mark.parametrize("at", [pytest.param(0, marks=pytest.mark.slow), 5])
def test_a_killed_import_is_finished_by_the_same_command(url, tmp_path, at):
    """Every key is there as the files have it, or not at all; then all of them are, and again changes nothing."""
    source = write(tmp_path / "in", PLANS, KEYS, **LINKS)
    kind = url.partition(":")[0]
    status, _, _ = run("import-aws", str(source), "--store", url, killed=(*ADDS[kind], str(at)))
    assert status == -signal.SIGKILL
    made, keys = kept(url)
    assert (len(made), len(keys)) == ((0, 0) if kind == "sqlite" else (len(PLANS), at))
    for key, plans in keys.items():
        assert plans == [id_ for id_, on in ON.items() if key.id in {one["id"] for one in on}]
    for _ in range(2):
        status, out, err = run("import-aws", str(source), "--store", url)
        assert (status, err) == (0, "")
    assert "12 of these were there already" in out
    assert run("export-aws", str(tmp_path / "out"), "--store", url, "--secrets", str(source / "api-keys.json"))[0] == 0
    assert read(tmp_path / "out") == read(source)


@pytest.mark.spread(3, 2)
@pytest.mark.parametrize("at", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_a_killed_import_of_csv_is_finished_by_the_same_command(url, tmp_path, at):
    """Each key once, on its plans."""
    with Ledger(url) as ledger:
        ledger.add_plan(UsagePlan("gold", "10/day"))
        ledger.add_plan(UsagePlan("pets", "5/day", api="pets"))
    rows = [f'n{number},{number:020},"{"gold" if number % 2 else "gold,pets"}"' for number in range(5)]
    (tmp_path / "keys.csv").write_text("\n".join(["Name,Key,UsagePlanIds", *rows, ""]))
    kind = url.partition(":")[0]
    command = ("key", "import", "--csv", str(tmp_path / "keys.csv"), "--store", url)
    assert run(*command, killed=(*ADDS[kind], str(at)))[0] == -signal.SIGKILL
    there = 0 if kind == "sqlite" else at
    assert len(kept(url)[1]) == there
    replaced = f", replaced {there}" if there else ""
    assert run(*command) == (0, f"imported {5 - there} key{'s' * (there != 4)}{replaced}\n", "")
    found = {key.name: plans for key, plans in kept(url)[1].items()}
    assert found == {f"n{number}": ["gold"] if number % 2 else ["gold", "pets"] for number in range(5)}


def test_a_killed_import_again_changes_no_key_of_a_file(tmp_path):
    """Of keys that are there none has another name, state or plan before all have: on SQLite it is one transaction."""
    url, table = f"sqlite:///{tmp_path}/quota.db", tmp_path / "keys.csv"
    command = ("key", "import", "--csv", str(table), "--store", url)
    with Ledger(url) as ledger:
        ledger.add_plan(UsagePlan("gold", "10/day"))
    table.write_text("Name,Key\n" + "".join(f"old{number},{number:020}\n" for number in range(3)))
    assert run(*command)[0] == 0
    before = kept(url)
    table.write_text("Name,Key,Enabled,UsagePlanIds\n" + "".join(f"new,{at:020},false,gold\n" for at in range(3)))
    for method in ("_change_key", "_place_key"):
        killed = (*ADDS["sqlite"][:2], method, "2")
        assert run(*command, killed=killed)[0] == -signal.SIGKILL
        assert kept(url) == before
    assert run(*command)[:2] == (0, "imported 0 keys, replaced 3\n")
    assert [(key.name, key.enabled, plans) for key, plans in kept(url)[1].items()] == [("new", False, ["gold"])] * 3


def test_many_keys_wait_for_the_disk_once(tmp_path, monkeypatch):
    """On SQLite: thousands of rows are one transaction."""
    from quota.stores.sqlite import pool as sqlite_pool  # noqa: PLC0415 -- counted here alone

    url, begun = f"sqlite:///{tmp_path}/quota.db", []
    real = sqlite_pool.Pool._begin
    monkeypatch.setattr(sqlite_pool.Pool, "_begin", lambda self, deadline: begun.append(1) or real(self, deadline))
    rows = "".join(f"n{number},{number:020}\n" for number in range(3000))
    (tmp_path / "keys.csv").write_text("Name,Key\n" + rows)
    from quota.cli import main  # noqa: PLC0415 -- behind the counting

    assert main(["key", "import", "--csv", str(tmp_path / "keys.csv"), "--store", url]) == 0
    assert len(begun) < 10
    assert len(kept(url)[1]) == 3000


@pytest.mark.parametrize("stopped", [KeyboardInterrupt, StoreUnavailable])
@pytest.mark.parametrize("kind", ["sqlite", "memory"])
def test_an_import_that_is_stopped_right_behind_its_last_step_is_taken_back(
    quota, tmp_path, monkeypatch, stopped, kind
):
    """Ctrl-C, or a lost reply, after the keys are there and before anybody knows it."""
    source = write(tmp_path / "in", PLANS, KEYS, **LINKS)
    if kind == "sqlite":
        quota.store = open_store(f"sqlite:///{tmp_path}/x.db")
        quota.ledger = Ledger(quota.store)
    real, left = type(quota.store).add_keys, [1 if kind == "sqlite" else len(KEYS)]

    def call(self, *arguments, **named):
        real(self, *arguments, **named)
        left[0] -= 1
        if not left[0]:
            raise stopped("now")

    monkeypatch.setattr(type(quota.store), "add_keys", call)
    monkeypatch.setattr(type(quota.store), "close", lambda self: None)
    assert quota("import-aws", source) == (130 if stopped is KeyboardInterrupt else 3)
    assert quota.ledger.list_keys() == quota.ledger.list_plans() == []
    monkeypatch.undo()
    quota.store.close()


KEY = ApiKey("k", "k", "k", secrets=(Secret.of(VALUE),))


@pytest.mark.parametrize("kind", ["memory", "leased+sqlite", *ADDS])
def test_a_key_is_added_with_all_its_plans_or_not_at_all(kind, servers, tmp_path):
    """Whatever the store; the awaited twin of a remote one too."""
    remote = kind in ("redis", "postgresql")
    url = (
        f"{servers(kind)}?namespace=n{uuid4().hex[:12]}"
        if remote
        else f"{kind}://" + f"/{tmp_path}/x.db" * ("sqlite" in kind)
    )

    def check(plans, keys):
        assert ([plan.id for plan in plans], [key.id for key in keys]) == (["a", "b", "c"], ["k"])

    with Ledger(url) as ledger:
        for plan in (
            UsagePlan("a", "1/day", api="x"),
            UsagePlan("b", "2/day", api="y"),
            UsagePlan("c", "3/day", api="z"),
        ):
            ledger.add_plan(plan)
        with pytest.raises(UnknownPlan, match="nowhere"):
            ledger.store.add_keys([(KEY, ["a", "b", "nowhere"])])
        assert ledger.list_keys() == []
        ledger.store.add_keys([(KEY, ["c", "a", "b"])])
        check(ledger.list_plans("k"), ledger.list_keys())
        assert [ledger.consume(VALUE, api=api).allowed for api in "xxyyyzzzz"] == [
            True,
            False,
            True,
            True,
            False,
            True,
            True,
            True,
            False,
        ]
        with pytest.raises(PlanConflict):
            ledger.store.add_keys([(KEY, ["a", "b"])])
    if not remote:
        return

    async def awaited(store):
        async with AsyncLedger(store) as ledger:
            await ledger.remove_key("k")
            await ledger.store.add_keys([(KEY, ["b", "a", "c"])])
            check(await ledger.list_plans("k"), await ledger.list_keys())

    asyncio.run(awaited(url))
    asyncio.run(awaited(AsyncLeasedStore(url)))


@pytest.mark.parametrize(("change", "said"), [
    (("key", "rotate", "acme"), "has another secret"), (("key", "rotate", "acme", "--overlap", "1h"), "has another secret"),
    (("key", "disable", "acme"), "differs in enabled"), (("key", "detach", "acme", "n371pt"), "is on no plan, not on n371pt"),
    (("key", "attach", "acme", "other"), "is on other, not on n371pt"),
])  # fmt: skip
def test_what_was_changed_since_stays_so(quota, tmp_path, change, said):
    """A secret rotated away, a key switched off or moved: the same files are a conflict, and nothing comes back."""
    quota("plan", "add", "other", "1/day", "--api", "a1b2c3d4e5/prod")
    source = write(tmp_path / "in", n371pt=[LINK])
    assert quota("import-aws", source) == 0
    assert quota(*change) == 0
    before = quota.ledger.list_keys(), quota.ledger.list_plans(ACME["id"])
    assert said in quota.fails("import-aws", source)
    assert (quota.ledger.list_keys(), quota.ledger.list_plans(ACME["id"])) == before
    more = write(tmp_path / "more", keys=[{**ACME, "id": "new", "value": "n" * 30}, ACME], n371pt=[LINK])
    assert said in quota.fails("import-aws", more)
    assert (quota.ledger.list_keys(), quota.ledger.list_plans(ACME["id"])) == before


SYNC = f"Name,Key,UsagePlanIds\npartner,{A},gold\n"


def test_a_secret_that_was_rotated_away_is_not_brought_back(quota):
    """The nightly file makes no key of it: it is told, with the name, and the exit status says so."""
    quota("plan", "add", "gold", "2/day")
    assert quota("key", "import", "--csv", "-", data=SYNC) == 0
    assert [quota("consume", "-", data=A) for _ in range(3)] == [0, 0, 1]
    assert quota("key", "rotate", "partner") == 0
    for options in ((), ("--json",)):
        assert quota("key", "import", "--csv", "-", *options, data=SYNC) == 4
        assert "line 2 is left out: a key named 'partner' is there with another secret" in quota.err + quota.out
        assert A not in quota.err + quota.out
    assert quota("key", "import", "--csv", "-", "--strict", data=SYNC) == 2
    assert quota.json("consume", "-", data=A, status=1)["reason"] == "UNKNOWN_KEY"
    assert len(quota.ledger.list_keys()) == 1
    assert quota("key", "import", "--csv", "-", "--revive", data=SYNC) == 0
    assert quota("consume", "-", data=A) == 0


def test_an_old_row_beside_the_new_one_brings_nothing_back(quota):
    """Who adds the new secret to the file and leaves the old one there."""
    quota("key", "import", "--csv", "-", data=f"Name,Key\npartner,{A}\n")
    assert quota("key", "rotate", "partner") == 0
    new = quota.out.strip()
    assert quota("key", "import", "--csv", "-", data=f"Name,Key\npartner,{A}\npartner,{new}\n") == 4
    assert "line 2 is left out" in quota.err
    assert len(quota.ledger.list_keys()) == 1


def test_the_old_secret_within_its_overlap_is_the_same_key(quota):
    """A row of it replaces the key's name and state, and the rotation stays."""
    quota("plan", "add", "gold", "2/day")
    quota("key", "import", "--csv", "-", data=SYNC)
    assert quota("key", "rotate", "partner", "--overlap", "1h") == 0
    secrets = quota.ledger.list_keys()[0].secrets
    assert quota("key", "import", "--csv", "-", data=SYNC) == 0
    assert [key.secrets for key in quota.ledger.list_keys()] == [secrets]


def test_two_keys_may_have_one_name(quota):
    """Where both are in the file, or the file has nothing else of that name."""
    rows = f"Name,Key\npartner,{A}\npartner,{B}\n"
    assert quota("key", "import", "--csv", "-", data=rows) == 0
    assert quota("key", "import", "--csv", "-", data=rows + f"partner,{'c' * 30}\n") == 0
    assert len(quota.ledger.list_keys()) == 3


def test_a_key_that_was_switched_off_and_is_enabled_by_the_file_is_told(quota):
    """As API Gateway replaces it; with --strict it stays off."""
    quota("plan", "add", "gold", "2/day")
    quota("key", "import", "--csv", "-", data=SYNC)
    quota("key", "disable", "partner")
    assert quota("key", "import", "--csv", "-", "--strict", data=SYNC) == 2
    assert [key.enabled for key in quota.ledger.list_keys()] == [False]
    assert quota("key", "import", "--csv", "-", data=SYNC) == 4
    assert "was disabled, and the file enables it again" in quota.err
    assert [key.enabled for key in quota.ledger.list_keys()] == [True]
    quota("key", "disable", "partner")
    assert quota("key", "import", "--csv", "-", data="Name,Key,Enabled\npartner," + A + ",false\n") == 0


@pytest.mark.parametrize(
    "text",
    [f"Partner,{A}\nOther,{B}\n", f"{A}\n{B}\n", f'{{"value": "{A}"}}', f'["{A}"]', f'"{A}"', f"\x00{A}\x01,{B}"],
)
def test_a_file_of_secrets_is_never_shown(quota, tmp_path, text):
    """Whatever reads it: a CSV without a header, plain secrets, other JSON, rubbish."""
    quota("plan", "add", "p", "1/day")
    (tmp_path / "f").write_text(text)
    for command in (("key", "import", "--csv", "{f}"), ("export-aws", "{out}", "--secrets", "{f}"), ("import-aws", "--keys", "{f}"),
                    ("import-aws", "--plans", "{f}"), ("import-aws", "--plan-keys", "p={f}", "--keys", "{f}")):  # fmt: skip
        line = quota.fails(*(part.format(f=tmp_path / "f", out=tmp_path / "out") for part in command))
        assert A[:8] not in line.lower()
        assert B[:8] not in line.lower()


@pytest.mark.parametrize("data", [
    '{"items": [], "position": "aWQ9"}', '{"items": [], "NextToken": "x"}', '{"items": [{"id": "p", "throttle": {"rateLimit": 1e9999999999999999999, "burstLimit": 1}}]}',
    '{"items": [{"id": "p", "throttle": {"rateLimit": NaN, "burstLimit": 1}}]}', '{"items": [{"id": "p", "id": "q"}]}', "[" * 10_000, '{"items": []}'.encode("utf-16"), b"\xff\xfe\x00", b"\x00",
    '{"items": [{"id": "p", "description": ' + "[" * 950 + "]" * 950 + "}]}",
])  # fmt: skip
def test_what_is_no_whole_answer_of_the_aws_cli_changes_nothing(quota, tmp_path, data):
    """Wrong use, one line, never a bug."""
    (tmp_path / "f").write_bytes(data if isinstance(data, bytes) else data.encode())
    quota.fails("import-aws", "--plans", tmp_path / "f")
    assert quota.ledger.list_plans() == []


def test_an_export_is_not_mixed_with_an_earlier_one(quota, tmp_path):
    """A file of a plan that is gone would be read with the others; nothing is written. The same files again are."""
    quota("plan", "add", "a", "1/day")
    quota("plan", "add", "b", "1/day", "--api", "b")
    out = tmp_path / "out"
    assert quota("export-aws", out) == 0
    assert quota("export-aws", out) == 0
    quota("plan", "remove", "b", "--yes")
    before = read(out)
    assert "usage-plan-keys-b.json" in quota.fails("export-aws", out)
    assert read(out) == before
    (out / "usage-plan-keys-b.json").unlink()
    (out / "notes.json").write_text('{"items": []}')
    assert quota("export-aws", out) == 0


def test_a_method_that_never_binds_is_in_the_exit_status(quota, tmp_path):
    """And in the JSON, among the notes and by itself."""
    stage = {"apiId": "r1", "stage": "prod", "throttle": {"/{proxy+}/GET": {"burstLimit": 1, "rateLimit": 0.1}}}
    source = write(tmp_path / "in", [{**GOLD, "apiStages": [stage]}], [])
    done = quota.json("import-aws", source, status=4)
    assert done["warnings"] == done["notes"]
    assert "/{proxy+}/GET binds only calls that say the route 'GET /{proxy+}'" in done["warnings"][0]
    assert [plan.id for plan in quota.ledger.list_plans()] == ["n371pt"]


def test_the_help_says_what_the_exit_status_means(quota):
    """For every command."""
    assert quota("--help") == 0
    assert "4 done but for what is told" in " ".join(quota.out.split())


def test_a_description_with_a_line_break_comes_back(quota, tmp_path):
    """Of a CSV, through the ledger, to API Gateway's JSON."""
    text = f'Name,Key,Description\nAda,{A},"two\nlines"\n'
    assert quota("key", "import", "--csv", "-", data=text) == 0
    assert quota("key", "import", "--csv", "-", data=text) == 0
    (tmp_path / "keys.csv").write_text(text)
    assert quota("export-aws", tmp_path / "out", "--secrets", tmp_path / "keys.csv") == 0
    (key,) = read(tmp_path / "out")["api-keys.json"]
    assert (key["description"], key["value"]) == ("two\nlines", A)
    assert quota("key", "import", "--csv", "-", data=text.replace('"two\nlines"', "one")) == 0
    assert dict(quota.ledger.list_keys()[0].metadata) == {"description": "one"}


def account(pick):
    """An account of API Gateway's at random: plans over stages and methods, keys of all kinds, keys on plans."""

    def throttle():
        rate = pick.choice(
            [0.0, 1.0, 10.0, 0.1, 1000 / 60, 1 / 60, pick.uniform(0.001, 5000), pick.uniform(0, 1) / 86_400]
        )
        return {"burstLimit": pick.choice([0, 1, 5, 200, 5000]), "rateLimit": rate}

    plans = []
    for at in range(pick.randrange(4)):
        listed = pick.sample(
            [{"apiId": f"r{at}{one}", "stage": stage} for one in "ab" for stage in ("dev", "prod")], pick.randrange(4)
        )
        for stage in listed:
            methods = {
                f"/{pick.choice(['pets', 'a/b', '{id}', ''])}/{pick.choice(['GET', 'PUT', 'ANY'])}": throttle()
                for _ in range(pick.randrange(3))
            }
            stage |= {"throttle": methods} if methods else {}
        quota = {"limit": pick.randrange(10**6), "offset": pick.randrange(7), "period": pick.choice(["WEEK", "MONTH"])}
        fields = {"throttle": throttle(), "quota": quota, "description": "x\ny", "tags": {"a": "b"}}
        name = pick.choice(["gold", "n" * 300, "two\nlines", "é"])
        plans.append(
            {
                "id": f"p{at}",
                "name": name,
                "apiStages": listed,
                **{field: fields[field] for field in fields if pick.random() < 0.5},
            }
        )
    keys = []
    for at in range(pick.randrange(6)):
        value = "hf_" + f"{pick.randrange(10**34):034}" if pick.random() < 0.3 else f"{pick.randrange(10**40):040}"
        fields = {
            "description": pick.choice(["d", "two\nlines"]),
            "tags": {"team": "x"},
            "customerId": "c",
            "createdDate": "2024-03-01T10:00:00+00:00",
        }
        key = {
            "id": f"k{at}",
            "value": value,
            "name": pick.choice(["same", "n" * 1024, f"k{at}"]),
            "enabled": pick.random() < 0.7,
        }
        keys.append({**key, **{field: fields[field] for field in fields if pick.random() < 0.5}, "stageKeys": []})
    links = {plan["id"]: [{"id": key["id"], "type": "API_KEY", "value": key["value"], "name": key["name"]} for key in keys if pick.random() < 0.5]
             for plan in plans}  # fmt: skip
    return plans, keys, links


@pytest.mark.parametrize("count", [15, pytest.param(40, marks=pytest.mark.slow)])
def test_accounts_at_random_come_back_as_they_were(tmp_path, count):
    """To the last field, with the values; and the same files again change nothing."""
    for seed in range(count):
        quota = Quota()
        plans, keys, links = account(Random(seed))
        source, out = write(tmp_path / f"in{seed}", plans, keys, **links), tmp_path / f"out{seed}"
        for _ in range(2):
            assert quota("import-aws", source) in (0, 4), (seed, quota.err)
        assert quota("export-aws", out, "--secrets", source / "api-keys.json") == 0
        assert quota.err == "", seed
        assert read(out) == read(source), seed
