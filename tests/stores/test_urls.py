"""Stores' URLs: no part of a password in what is said of one, schemes by other names, drivers that are missing."""

import asyncio
import socket
import subprocess
import sys
import textwrap
import traceback
from urllib.parse import quote

import psycopg
import psycopg_pool
import pytest
import redis
import redis.asyncio

from quota import AsyncLedger, InvalidValue, Ledger, UsagePlan
from quota.stores import open_store
from quota.stores.leased import LeasedStore
from quota.stores.postgres import AsyncPostgresStore, PostgresStore
from quota.stores.redis import AsyncRedisStore, RedisStore
from quota.stores.urls import check_url, shown_url

SERVERS = [
    "postgresql",
    "postgres",
    "redis",
    "rediss",
    "valkey",
    "valkeys",
    "unix",
    "leased+redis",
    "leased+postgresql",
    "leased+valkey",
]
OTHERS = ["mysql", "memory", "sqlite", "leased+sqlite", "leased+mysql", "http", "nonsense"]
ODD = ["/", "//", "#", "?", "@", "@@", "%", "%s", "%00", "%zz", "%ff", ":", "::", "[", "]", " ", "\t", "&", "=", "'", '"', "\\", ",", "+", ";", "é", "\u2003",
       "/x?y#z@", "@/", ":5432/", ":1/", "?password=", "&timeout=", "?sslpassword="]  # fmt: skip


def told(call):
    """All that is said of what a call raises: its text, repr, arguments and traceback; nothing if it raises nothing."""
    try:
        call()
    except Exception as error:
        return "\n".join([str(error), repr(error), repr(error.args), "".join(traceback.format_exception(error)[1:])])
    return ""


def said(found):
    """Without the lines of source code that a traceback quotes."""
    return "\n".join(line for line in found.splitlines() if not line.startswith("    "))


def use(url):
    """Open the store that a URL names, and ask it for something."""
    with Ledger(url) as ledger:
        ledger.list_plans()


async def use_awaited(url):
    async with AsyncLedger(url) as ledger:
        await ledger.list_plans()


@pytest.fixture(scope="module")
def port():
    """A port that is taken, and at which nobody answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.spread(13)
@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("scheme", SERVERS + OTHERS)
def test_no_part_of_a_password_is_told(scheme, odd, port):
    """Whatever stands in it unescaped, before, between and behind; sync and awaited."""
    for password in (f"s3cr{odd}hunt7", f"{odd}s3cr", f"s3cr{odd}", f"12{odd}s3cr"):
        app, nobody = (
            f"{scheme}://app:{password}@127.0.0.1:{port}/0",
            f"{scheme}://:{password}@127.0.0.1:{port}/0?timeout=1",
        )
        for url, call in ((app, use), (nobody, use), (nobody, lambda url: asyncio.run(use_awaited(url)))):
            found = said(told(lambda: call(url)))
            assert "Decode" not in found
            assert found, url
            assert "s3cr" not in found
            assert "hunt7" not in found


@pytest.mark.parametrize("url", [
    "host=127.0.0.1 user=app password=s3cr dbname=db", "password=s3cr://x@host", "host=h password='s3cr x", "password = s3cr", "s3cr@host",
    "mysql://h/db?password=s3cr", "mysql://h/db?a=1&sslpassword=s3cr", "memory://?password=s3cr", "memory://h?secret=s3cr", "memory://?s3cr@h",
    "sqlite://u:s3cr@h/x.db", "sqlite:///x.db?s3cr@h", "sqlite://?password=s3cr", "postgresql://h/db?password=s3cr&nonsense=1",
    "postgresql://127.0.0.1:x/db?passfile=/s3cr", "redis://h:x/0?password=s3cr", "redis://127.0.0.1:1/0?nonsense=1&password=s3cr",
    "leased+redis://h:x/0?password=s3cr", "leased+redis://h/0?password=s3cr&share=x", "redis://u:s3cr@h/0?timeout=x", "redis://[s3cr@h", "unix://u:s3cr@/tmp/none?nonsense=1",
    "postgresql://u:s3cr@[h/db", "postgresql://u:s3cr@h:5432,h:x/db", "redis:u:s3cr#x@h", "redis:u:s3cr?x@h", "valkey:/u:s3cr#x@h", "postgres:u:s3cr%ff@h",
])  # fmt: skip
def test_nor_of_one_elsewhere(url):
    """Among the options, in a connection string, of a URL of nothing."""
    found = said(told(lambda: use(url)))
    assert found
    assert "s3cr" not in found


@pytest.mark.parametrize("conninfo", [
    "host=127.0.0.1 port=1 password=s3cr x", "host=127.0.0.1 port=1 password='s3cr", "password=s3cr nonsense=1", "postgresql://u:s3%cr@h/db", "postgresql://u:s3%ffcr@h/db", "postgresql://u:a@s3cr@127.0.0.1:1/db",
    "postgresql://u:s3cr @h/db", "host=127.0.0.1 port=1 password=s3cr",
])  # fmt: skip
def test_nor_by_a_store_that_is_made_directly(conninfo):
    """A connection string of libpq's, or a URL, that needs no ledger's."""
    for found in (
        said(told(lambda: PostgresStore(conninfo, timeout=1).list_plans())),
        said(told(lambda: asyncio.run(AsyncPostgresStore(conninfo, timeout=1).list_plans()))),
        said(told(lambda: RedisStore(url="redis://:" + conninfo + "@127.0.0.1:1/0").list_plans())),
        said(told(lambda: AsyncRedisStore(url="redis://:" + conninfo + "/x@127.0.0.1:1/0"))),
    ):
        assert "s3" not in found
        assert "cr " not in found


def test_a_password_that_is_escaped_is_right(port):
    """Every character: it reaches the driver as it is meant."""
    password = "".join(map(chr, range(33, 127))) + "é€"
    url = f"redis://app:{quote(password, safe='')}@127.0.0.1:{port}/0"
    assert open_store(url).client.connection_pool.connection_kwargs["password"] == password
    assert check_url(url, lone=True) == url
    url = f"postgresql://app:{quote(password, safe='')}@127.0.0.1:{port}/db"
    assert psycopg.conninfo.conninfo_to_dict(check_url(url, lone=True))["password"] == password
    assert said(told(lambda: use(url)))
    assert open_store("redis://:p@ss@127.0.0.1/0").client.connection_pool.connection_kwargs["password"] == "p@ss"


@pytest.mark.parametrize(("url", "shown"), [
    ("mysql://app:pw@host/db", "mysql://****@host/db"), ("mysql://app:p@w@host/db", "mysql://****@host/db"), ("usage.db", "usage.db"),
    ("mysql://host/db?password=pw&x=1", "mysql://host/db?password=****&x=1"), ("host=h password=pw", "****"), ("u:pw@h", "****"),
    ("mysql://h", "mysql://h"), ("mysql://u:a?password=b@h", "mysql://****"), ("mysql://h?PassWord = 'a b'&x", "mysql://h?PassWord = ****&x"),
])  # fmt: skip
def test_a_url_as_errors_show_it(url, shown):
    """What names the store stays, so that the error helps."""
    assert shown_url(url) == shown


@pytest.mark.parametrize("url", [
    "redis://h", "redis://h:1/0", "redis://u@h:1", "rediss://u:p@h", "unix:///tmp/@x", "unix://u@/tmp/a", "redis://[::1]:6379/0", "redis://u:p@[::1]",
    "postgresql://", "postgresql:///db", "postgresql://h1:1,h2:2/db", "postgresql://u@%2Ftmp/db?x=a%40b", "host=h", "leased+unix:///tmp/@x",
])  # fmt: skip
def test_urls_that_are_right(url):
    """Sockets, several hosts, IPv6, no host at all."""
    assert check_url(url, lone=True) == url


@pytest.mark.parametrize("scheme", ["valkey", "VALKEY", "leased+valkey", "redis"])
def test_valkey_by_its_own_name(valkey, scheme):
    """``valkey://`` is ``redis://``, sync and awaited, leased too, in the store's constructor too."""
    url = valkey.url.replace("redis", scheme, 1)
    with Ledger(url) as ledger:
        ledger.replace_plan(UsagePlan("p", "5/day"))
        assert ledger.consume(ledger.issue_key("k", "p").secret)

    async def ask():
        async with AsyncLedger(url) as awaited:
            return await awaited.list_plans()

    assert [plan.id for plan in asyncio.run(ask())] == ["p"]
    if "+" not in scheme:
        assert [plan.id for plan in RedisStore(url=url).list_plans()] == ["p"]


@pytest.mark.parametrize(
    ("url", "secure"), [("valkeys://h:1/0", True), ("valkey://h:1/0", False), ("rediss://h:1/0", True)]
)
def test_valkeys_is_over_tls(url, secure):
    """As ``rediss`` is."""
    for store in (open_store(url), LeasedStore(url).store, open_store("leased+" + url).store, RedisStore(url=url)):
        assert (store.client.connection_pool.connection_class is redis.SSLConnection) == secure


WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
from quota import AsyncLedger, Ledger
for make in (Ledger, AsyncLedger):
    try:
        make({url!r})
    except ModuleNotFoundError as error:
        print(error, error.name, error.__suppress_context__)
    else:
        print("opened")
"""


@pytest.mark.parametrize("url", ["usage.db", "mysql://h/db", "sqlite+usage.db"])
def test_what_is_no_store_is_told_with_an_example(url):
    """A file's name alone, say, and the schemes that there are."""
    with pytest.raises(InvalidValue, match="expected a URL as in sqlite:///usage.db, of memory, postgres, "):
        Ledger(url)


@pytest.mark.parametrize(("url", "missing", "said"), [
    ("redis://", "redis", "redis:// needs redis: pip install redis redis True"),
    ("leased+valkey://h", "redis", "leased+valkey:// needs redis: pip install redis redis True"),
    ("postgresql://h/db", "psycopg", "postgresql:// needs psycopg and psycopg_pool: pip install 'psycopg[binary]' psycopg-pool psycopg True"),
    ("leased+postgres://h", "psycopg_pool",
     "leased+postgres:// needs psycopg and psycopg_pool: pip install 'psycopg[binary]' psycopg-pool psycopg_pool True"),
    ("memory://", "redis", "opened"),
])  # fmt: skip
def test_a_missing_driver_is_named_with_what_to_install(url, missing, said):
    """By ``Ledger`` and ``AsyncLedger``, and nothing else of the traceback."""
    program = WITHOUT.format(names={missing}, url=url)
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [said, said], done.stderr


POOL = {"open": False, "conninfo": ""}
WRONG_CLIENTS = [
    (RedisStore, lambda: "redis://u:s3cr@h"), (AsyncRedisStore, lambda: "redis://u:s3cr@h"), (RedisStore, redis.asyncio.Redis),
    (AsyncRedisStore, redis.Redis), (RedisStore, lambda: redis.Redis), (RedisStore, lambda: redis.Redis().connection_pool),
    (AsyncRedisStore, dict), (PostgresStore, lambda: psycopg_pool.AsyncConnectionPool(**POOL)), (PostgresStore, lambda: psycopg_pool.ConnectionPool),
    (AsyncPostgresStore, lambda: psycopg_pool.ConnectionPool(**POOL)), (PostgresStore, lambda: psycopg.Connection), (PostgresStore, object),
    (AsyncPostgresStore, lambda: 5),
]  # fmt: skip


@pytest.mark.parametrize(("store", "make"), WRONG_CLIENTS)
def test_a_client_that_is_none_is_refused_when_the_store_is_made(store, make):
    """A URL in its place, a class, a connection, and the sync one in an awaited store and back."""
    with pytest.raises(InvalidValue, match="^client: .*; expected a (client of redis|psycopg_pool)") as raised:
        store(make())
    assert "s3cr" not in str(raised.value)


def test_clients_that_are_right():
    """Each store's own kind."""
    RedisStore(redis.Redis())
    AsyncRedisStore(redis.asyncio.Redis())
    PostgresStore(psycopg_pool.ConnectionPool(**POOL))

    async def make():
        return AsyncPostgresStore(psycopg_pool.AsyncConnectionPool(**POOL))

    assert asyncio.run(make())
