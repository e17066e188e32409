"""Other surroundings than threads and asyncio: green threads, notebooks, trio, sub-interpreters, ways to start a process.

Each program runs in a process of its own, since what it does to Python (patching sockets, nesting loops) stays done.
"""

import os
import subprocess
import sys

import pytest

import paths

OPENED = """
import sys
from quota import AsyncLedger, Ledger, UsagePlan
def opened(ledger):
    ledger.add_plan(UsagePlan("p", "50/day"))
    return ledger, ledger.issue_key("k", "p").secret
"""
GREEN = """
ledger, secret = opened(Ledger(sys.argv[1]) if sys.argv[1] else Ledger())
admitted = []
def job():
    for _ in range(5):
        admitted.append(bool(ledger.consume(secret)))
        with ledger.reserve(secret, 1, ttl=60_000_000):
            pass
"""
GEVENT = """
from gevent import monkey; monkey.patch_all()
import gevent
""" + OPENED + GREEN + """
gevent.joinall([gevent.spawn(job) for _ in range(20)], raise_error=True)
print(sum(admitted), len(admitted))
"""  # fmt: skip
EVENTLET = """
import eventlet; eventlet.monkey_patch()
""" + OPENED + GREEN + """
pool = eventlet.GreenPool()
for thread in [pool.spawn(job) for _ in range(20)]:
    thread.wait()
print(sum(admitted), len(admitted))
"""  # fmt: skip
NOTEBOOK = "import asyncio, nest_asyncio\nnest_asyncio.apply()\n" + OPENED + """
async def cell():
    ledger = AsyncLedger(sys.argv[1]) if sys.argv[1] else AsyncLedger()
    await ledger.add_plan(UsagePlan("p", "50/day"))
    _, secret = await ledger.issue_key("k", "p")
    admitted = [bool(asyncio.run(ledger.consume(secret))) for _ in range(60)]
    assert not asyncio.get_event_loop().run_until_complete(ledger.peek(secret))
    await ledger.aclose()
    print(sum(admitted), len(admitted))
asyncio.run(cell())
"""  # fmt: skip
TRIO = "import anyio\n" + OPENED + """
async def main():
    ledger, secret = opened(Ledger(sys.argv[1]) if sys.argv[1] else Ledger())
    admitted = []
    async def job():
        for _ in range(5):
            admitted.append(bool(await anyio.to_thread.run_sync(ledger.consume, secret)))
    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(job)
    print(sum(admitted), len(admitted))
anyio.run(main, backend="trio")
"""  # fmt: skip
PROCESSES = OPENED + """
import multiprocessing
def job(ledger_url, secret, admitted):
    ledger = Ledger(ledger_url)
    admitted.put(sum(bool(ledger.consume(secret)) for _ in range(25)))
    ledger.close()
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[2])
    ledger, secret = opened(Ledger(sys.argv[1]))
    admitted = context.Queue()
    jobs = [context.Process(target=job, args=(sys.argv[1], secret, admitted)) for _ in range(4)]
    for process in jobs:
        process.start()
    print(sum(admitted.get() for _ in jobs), 100)
    for process in jobs:
        process.join()
"""  # fmt: skip
PARTS = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
import sys
WORK = '''
import sys
sys.path[:0] = %r
from quota import Ledger, UsagePlan
for url in ("", %r):
    ledger = Ledger(url) if url else Ledger()
    if not url or not ledger.list_plans():
        ledger.add_plan(UsagePlan("p", "50/day"))
    secret = ledger.issue_key("k", "p").secret
    assert sum(bool(ledger.consume(secret)) for _ in range(60)) == 50
    ledger.close()
''' % (sys.path, sys.argv[1])
for _ in range(3):
    part = interpreters.create()
    assert not interpreters.run_string(part, WORK)
    interpreters.destroy(part)
exec(WORK)
print(50, 100)
"""


def run(program, folder, *arguments):
    """The output of a program that has this library and its helpers' packages."""
    script = folder / "program.py"
    script.write_text(program, "utf-8")
    env = os.environ | {"PYTHONPATH": str(paths.ROOT / "src"), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, script, *arguments], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3_000:]
    return done.stdout


@pytest.fixture
def place(request, tmp_path):
    """A store's URL: of a file, or of a namespace of its own on a server."""
    kind = request.param
    if kind == "memory":
        return ""
    scheme, _, engine = kind.rpartition("+")
    if engine == "sqlite":
        url = f"sqlite:///{tmp_path / 'usage.db'}"
    else:
        url = f"{request.getfixturevalue(engine).url}?namespace=around{abs(hash(request.node.name))}"
    return f"{scheme}+{url}" if scheme else url


STORES = [
    "valkey",
    *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("memory", "sqlite", "postgres", "leased+valkey")),
]
FILES = ["sqlite", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("memory", "valkey"))]


@pytest.mark.parametrize("place", STORES, indirect=True)
@pytest.mark.parametrize(
    "program", [GEVENT, pytest.param(EVENTLET, marks=pytest.mark.slow)], ids=["gevent", "eventlet"]
)
def test_green_threads(program, place, tmp_path):
    """Twenty green threads with Python's own parts patched: exactly the limit, and nobody waits for ever."""
    assert run(program, tmp_path, place) == "50 100\n"


@pytest.mark.parametrize("place", FILES, indirect=True)
def test_a_notebook(place, tmp_path):
    """Loops within loops, as nest_asyncio lets a notebook's cells run them."""
    assert run(NOTEBOOK, tmp_path, place) == "50 60\n"


@pytest.mark.parametrize("place", FILES, indirect=True)
def test_trio(place, tmp_path):
    """A ``Ledger`` in anyio's threads under trio, as docs/surroundings.md has it."""
    assert run(TRIO, tmp_path, place) == "50 100\n"


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "how", ["spawn", *(pytest.param(how, marks=pytest.mark.slow) for how in ("fork", "forkserver"))]
)
def test_processes(how, place, tmp_path):
    """Four processes, started in each way that there is."""
    assert run(PROCESSES, tmp_path, place, how) == "50 100\n"


if sys.version_info[:2] != (3, 12):  # which itself breaks on the second interpreter that loads ``datetime``

    @pytest.mark.parametrize("place", ["sqlite"], indirect=True)
    def test_sub_interpreters(place, tmp_path):
        """One after another, then the main one."""
        assert run(PARTS, tmp_path, place) == "50 100\n"
