"""Names of a plan's routes: ``ANY``, a trailing ``/*``, the most exact first; and what is kept of calls' own names."""

import itertools

import pytest

from interleavings import plant
from quota import Ledger, UsagePlan
from quota.rule.routes import RouteNames

NAMES = [
    "GET /a", "ANY /a", "GET /a/b", "ANY /a/b", "GET /*", "ANY /*", "GET /a/*", "ANY /a/*", "GET /a/b/*", "ANY /a/b/*", "ANY /a*", "a", "GET a/*",
]  # fmt: skip
ROUTES = [
    *NAMES,
    *(
        f"{method} {path}"
        for method in ("GET", "PUT")
        for path in ("/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/a b", "/{id}", "*", "")
    ),
]


def said_by_the_document(names, route):
    """The name that a route is charged under, looked for one by one, from the most exact to the widest."""
    if route in names:
        return route
    method, _, path = route.partition(" ")
    if not path.startswith("/"):
        return ""
    if f"ANY {path}" in names:
        return f"ANY {path}"
    for end in range(len(path), 0, -1):
        if path[end - 1] == "/":
            for name in (f"{method} {path[:end]}*", f"ANY {path[:end]}*"):
                if name in names:
                    return name
    return ""


def test_names_are_those_of_the_document():
    """For every three names that a plan may have, and every call, twice, as kept names answer too."""
    for names in itertools.combinations(NAMES, 3):
        own = RouteNames(names)
        for route in ROUTES * 2:
            assert own.charged(route) == said_by_the_document(names, route), (names, route)
            assert (route in own) == (own.charged(route) != "")
        assert own.charged(None) == ""
        assert 5 not in own


@pytest.mark.parametrize(
    "changes",
    [
        {"(every or named == method)": "named == method"}, {"path.startswith(own) if below else path == own": "path.startswith(own)"},
        {'path[:-1] if path.endswith("/*") else path, method': 'path.rstrip("*/") if path.endswith("/*") else path, method'}, {"-len(one[0]), one[1]": "len(one[0]), one[1]"},
        {"-len(one[0]), one[1]": "-len(one[0]), not one[1]"},
    ],
    ids=["any is nobody's", "what begins alike", "what is beside", "the shortest first", "any before the method"],
)  # fmt: skip
def test_planted_bugs_are_seen(monkeypatch, changes):
    """Each makes the property fail."""
    function = "_match" if "path.startswith" in str(changes) or "every" in str(changes) else "__init__"
    plant(monkeypatch, RouteNames, function, changes)
    with pytest.raises(BaseException):
        test_names_are_those_of_the_document()


def test_what_is_kept_is_bounded():
    """Paths that clients make up are not kept for ever, nor long ones at all; what is exact needs nothing kept."""
    own = RouteNames(["ANY /files/*", "GET /a"])
    for number in range(10_000):
        assert own.charged(f"GET /files/{number}") == "ANY /files/*"
        assert own.charged(f"GET /{'x' * 300}{number}") == ""
        assert own.charged("GET /a") == "GET /a"
    assert len(own._found) <= 4096
    assert max(map(len, own._found)) <= 256


def test_a_limit_of_many_routes_is_one():
    """All below share one count, on the fast path as by the rule; what is exact has its own."""
    ledger = Ledger()
    ledger.add_plan(
        UsagePlan(
            "p",
            "99/day",
            routes={"ANY /files/*": "3/day as files", "GET /files/free": "9/day as free"},
            costs={"ANY /x": 2},
        )
    )
    key, secret = ledger.issue_key("k", "p")
    calls = [
        "GET /files/a",
        "POST /files/a/b",
        "PUT /files/",
        "GET /files/a",
        "GET /files",
        "GET /files/free",
        "DELETE /x",
        "GET /filesystem",
    ]
    found = [ledger.consume(secret, route=route) for route in calls]
    assert [bool(decision) for decision in found] == [True, True, True, False, True, True, True, True]
    assert [decision.route for decision in found] == ["ANY /files/*"] * 4 + [None, "GET /files/free", "ANY /x", None]
    assert found[6].cost == 2
    assert found[3].violated == ("files",)
    assert {status.name: status.used for status in ledger.status(key, route="GET /files/zzz")} == {
        "requests/day": 8,
        "files": 3,
    }
