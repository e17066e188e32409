"""Which address a request comes from: headers of every kind, forged or not, read from the right."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from interleavings import plant
from quota import InvalidValue, UsagePlan
from quota.web import Anonymous, addresses, client_address
from quota.web.addresses import counted_by

PROXY, REAL = "10.0.0.1", "203.0.113.7"


def asked(forwarded_for=None, forwarded=None, peer=PROXY):
    """The same request as both standards have it; a list is several fields."""
    environ, fields = {"REMOTE_ADDR": peer}, []
    for name, value in (("X-Forwarded-For", forwarded_for), ("Forwarded", forwarded)):
        values = [] if value is None else [value] if isinstance(value, str) else value
        fields += [(name.lower().encode(), value.encode("latin-1")) for value in values]
        if values:
            environ["HTTP_" + name.upper().replace("-", "_")] = ",".join(values)
    return environ, {"type": "http", "client": (peer, 1) if peer else None, "headers": fields}


def address(*args, trusted=1, **kwargs):
    """What is found, the same by both standards."""
    found = {client_address(request, trusted) for request in asked(*args, **kwargs)}
    assert len(found) == 1
    return found.pop()


@pytest.mark.parametrize(
    ("headers", "trusted", "found"),
    [
        ((None, None), 0, PROXY),
        ((REAL, f"for={REAL}"), 0, PROXY),
        ((REAL, f"for={REAL}"), (), PROXY),
        ((REAL,), 1, REAL),
        ((f"192.0.2.1, {REAL}",), 1, REAL),
        ((["192.0.2.1", REAL],), 1, REAL),
        ((f"192.0.2.1,\t {REAL} \t",), 1, REAL),
        ((f"192.0.2.1,, {REAL}",), 1, REAL),
        ((f"{REAL}:4711",), 1, REAL),
        ((f'"{REAL}"',), 1, REAL),
        (("[2001:db8::1]",), 1, "2001:db8::1"),
        (("[2001:db8::1]:443",), 1, "2001:db8::1"),
        (("2001:DB8:0::1",), 1, "2001:db8::1"),
        ((f"::ffff:{REAL}",), 1, REAL),
        ((f"[::ffff:{REAL}]:80",), 1, REAL),
        (("fe80::1%eth0",), 1, "fe80::1"),
        (("[fe80::1%25eth0]:80",), 1, "fe80::1"),
        ((f"192.0.2.1, {REAL}, 10.0.0.2",), 2, REAL),
        ((REAL,), 3, REAL),
        ((None,), 1, None),
        (("",), 1, None),
        ((" , ",), 1, None),
        ((f"{REAL}, unknown",), 1, None),
        ((f"{REAL}, 300.1.1.1",), 1, None),
        ((f"{REAL}, 1.2.3",), 1, None),
        ((f"{REAL}, 1.2.3.4.5.6.7.8",), 1, None),
        ((f"{REAL}, [2001:db8::1",), 1, None),
        ((f"{REAL}, {'9' * 5000}",), 1, None),
        ((f"192.0.2.1, {REAL}, 10.0.0.2, 10.0.0.3",), "10.0.0.0/8", REAL),
        ((f"{REAL}, 2001:db8:1::9",), ["10.0.0.0/8", "2001:db8:1::/48"], REAL),
        (("10.0.0.9, 10.0.0.2",), ["10.0.0.0/8"], "10.0.0.9"),
        ((f"{REAL}, hidden, 10.0.0.2",), ["10.0.0.0/8"], None),
        ((None,), ["10.0.0.0/8"], None),
        ((None, f"for={REAL}"), 1, REAL),
        ((None, f"For={REAL};proto=http;by=10.0.0.1"), 1, REAL),
        ((None, f"for=192.0.2.1, for={REAL};host=a"), 1, REAL),
        ((None, ["for=192.0.2.1", f"proto=https; for={REAL}"]), 1, REAL),
        ((None, 'for="[2001:db8::1]:4711"'), 1, "2001:db8::1"),
        ((None, f'for={REAL};host="a,for=192.0.2.1"'), 1, REAL),
        ((None, f'for={REAL};host="\\",for=192.0.2.1"'), 1, REAL),
        ((None, f'for="evil, for={REAL}'), 1, None),
        ((None, f'for=192.0.2.1", for={REAL}'), 1, None),
        ((None, f"for=192.0.2.1 192.0.2.2, for={REAL}"), 1, None),
        ((None, f"for=192.0.2.1;x y, for={REAL}"), 1, None),
        ((None, "for=unknown"), 1, None),
        ((None, "for=_hidden"), 1, None),
        ((None, "proto=http"), 1, None),
        ((None, f"for={REAL}" + ", for=192.0.2.1" * 1000), 1, None),
        ((REAL, f"for={REAL}"), 1, REAL),
        ((REAL, "for=192.0.2.1"), 1, None),
        ((REAL, "garbage"), 1, None),
    ],
)  # fmt: skip
def test_what_counts_is_what_a_trusted_proxy_saw(headers, trusted, found):
    """Ports, brackets, IPv4 within IPv6, zones, several fields, garbage; a client's own words are not believed."""
    assert address(*headers, trusted=trusted) == found


def test_a_peer_that_is_no_trusted_proxy_is_the_client():
    """Who does not come from a trusted network is not believed, whatever is forwarded."""
    assert address(REAL, peer="192.0.2.9", trusted=["10.0.0.0/8"]) == "192.0.2.9"
    assert address(REAL, peer="::ffff:10.0.0.1", trusted=["10.0.0.0/8"]) == REAL


def test_a_connection_without_an_address():
    """Of a Unix socket nothing is known, but what a trusted proxy behind it tells; Starlette's test client is local."""
    assert address(peer="", trusted=0) is None
    assert address(REAL, peer="", trusted=1) == REAL
    assert address(REAL, peer="", trusted=["10.0.0.0/8"]) == REAL
    assert client_address({"type": "http", "client": ("testclient", 50_000), "headers": []}) == "127.0.0.1"


TEXTS = st.text(st.sampled_from(list('0123456789abcdef.:,;=%[]"\\ \tforFOR_-')), max_size=60)


@given(
    forged=TEXTS | st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=40),
    trusted=st.integers(1, 3),
)
@example(forged='for="', trusted=1)
@example(forged="192.0.2.1", trusted=2)
def test_whatever_a_client_sends_it_is_counted_by_its_own_address_or_not_at_all(forged, trusted):
    """One trusted proxy after another appends whom it saw: no words of the client's make it somebody else."""
    chain = [REAL, *(f"10.0.0.{number}" for number in range(1, trusted))]
    told = [None if not forged else forged, *chain]
    assert address(", ".join(filter(None, told)), trusted=trusted) == REAL
    in_forwarded = ", ".join(filter(None, [forged, *(f"for={hop}" for hop in chain)]))
    assert address(None, in_forwarded, trusted=trusted) in (REAL, None)
    assert address(", ".join(chain), forged, trusted=trusted) in (REAL, None)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("_listed", 'reversed(field[-_LONGEST:].split(","))', 'field.split(",")'),
        ("address_of", "found[0] == found[-1]", "True"),
        ("address_of", "not _inside(normal(peer), proxies)", "False"),
        ("_walk", "address is None or", ""),
        ("_elements", 'return iter(("",))\n        place', "break\n        place"),
        ("normal", "if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:", "if False:"),
        ("normal", '.partition("%")[0]', ""),
    ],
)  # fmt: skip
def test_planted_beliefs(monkeypatch, name, old, new):
    """Each of these mistakes is seen by one of the cases above."""
    cases = next(
        mark for mark in test_what_counts_is_what_a_trusted_proxy_saw.pytestmark if mark.name == "parametrize"
    ).args[1]

    def wrong():
        addresses.normal.cache_clear()
        addresses._inside.cache_clear()
        yield from (case for case in cases if attempt(*case))
        yield from (
            "peer" for _ in "1" if client_address(asked(REAL, peer="192.0.2.9")[0], ["10.0.0.0/8"]) != "192.0.2.9"
        )

    def attempt(headers, trusted, found):
        try:
            return address(*headers, trusted=trusted) != found
        except Exception:
            return True

    assert list(wrong()) == []
    plant_function(monkeypatch, name, old, new)
    assert list(wrong())


def plant_function(monkeypatch, name, old, new):
    """One mistake in a function of the module."""
    function = getattr(addresses, name)
    holder = type("Holder", (), {"__module__": addresses.__name__, name: getattr(function, "__wrapped__", function)})
    plant(monkeypatch, holder, name, {old: new})
    monkeypatch.setattr(addresses, name, vars(holder)[name])


def test_one_subscriber_of_ipv6_is_one():
    """By the network of 64 bits, however many addresses it has; IPv4 by address."""
    assert counted_by("2001:db8:1:2:3::1") == counted_by("2001:db8:1:2:ffff::9") == "2001:db8:1:2::/64"
    assert counted_by("2001:db8:1:3::1") == "2001:db8:1:3::/64"
    assert counted_by(REAL) == REAL


def test_clients_of_a_translator_are_not_one():
    """IPv4 that comes over IPv6 by the well-known prefix of RFC 6052 is counted as IPv4: all of it is in one /64."""
    assert counted_by("64:ff9b::cb00:7107") == REAL
    assert counted_by("64:ff9b:1::cb00:7107") == "64:ff9b:1::/64"


@pytest.mark.parametrize("trusted", [-1, 65, True, "", "here", ["10.0.0.1/8"], None, [None], 1.5, [5], b"10"])
def test_settings_that_cannot_be_meant(trusted):
    """Neither a number of hops nor networks: an error that says so."""
    with pytest.raises(InvalidValue, match="trusted_proxies"):
        client_address(asked()[0], trusted)


def test_anonymous():
    """A plan or its id, and a callable."""
    assert Anonymous(UsagePlan("free", "1/day")) == Anonymous("free")
    for plan, by in ((None, None), ("", None), ("free", "address")):
        with pytest.raises(InvalidValue):
            Anonymous(plan, by)
