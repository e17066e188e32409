"""What HTTP sees of a decision, and where a request presents its key."""

from __future__ import annotations

import json
import re
import string
from datetime import datetime, timedelta, timezone

import http_sf
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from quota import Decision, Ledger, ManualClock, Quota, Reason, Throttle, UsagePlan
from quota.clock import to_us
from quota.decision import Details
from quota.errors import InvalidValue
from quota.headers import PROFILES
from quota.key import import_secret, mint, mistyped
from quota.rule.limits import CompiledQuota, CompiledThrottle, LimitState, Outcome
from quota.web.sources import UNKNOWN, check_sources, find_key, hidden, hide_parameters

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


def ledger(limits, **plan):
    """A ledger at noon, a secret of a key on a plan with these limits, and the clock."""
    clock = ManualClock(NOON)
    made = Ledger(clock=clock)
    made.add_plan(UsagePlan("PlanA", limits, **plan))
    return made, made.issue_key("Key123", "PlanA").secret, clock


def ietf(decision):
    """The two lists of a decision as a third-party parser reads them."""
    found = decision.headers()
    policy = http_sf.parse(found["RateLimit-Policy"].encode(), tltype="list")
    return policy, http_sf.parse(found["RateLimit"].encode(), tltype="list")


# Headers: exact examples


def test_ietf_admitted():
    """An admission tells each limit's policy and state; a fixed window's length is ``w``."""
    made, secret, _ = ledger("100/minute as burst, 50000/month as monthly")
    assert made.consume(secret, 50).headers() == {
        "RateLimit-Policy": '"burst";q=100;w=60, "monthly";q=50000',
        "RateLimit": '"burst";r=50;t=60, "monthly";r=49950;t=2635200',
    }


def test_ietf_refused():
    """A refusal tells when to retry, not before the ``t`` of the limit that refused; seconds are rounded up."""
    made, secret, clock = ledger("2/minute, 1000/day")
    made.consume(secret, 2)
    clock.advance(timedelta(seconds=29, microseconds=1))
    found = made.consume(secret).headers()
    assert found["Retry-After"] == "31"
    assert found["RateLimit"] == '"requests/minute";r=0;t=31, "requests/day";r=998;t=43171'


def test_ietf_throttle():
    """A throttle's quota is its burst and its window the time that a whole burst takes to drain."""
    made, secret, _ = ledger("10/s burst 20")
    assert made.consume(secret, 5).headers() == {
        "RateLimit-Policy": '"throttle";q=20;w=2',
        "RateLimit": '"throttle";r=15;t=1',
    }


def test_ietf_refused_by_throttle():
    """A throttle that refuses has room for this call before it has drained: its ``t`` is the retry's."""
    made, secret, _ = ledger("1/s burst 60")
    made.consume(secret, 60)
    found = made.consume(secret).headers()
    assert (found["RateLimit"], found["Retry-After"]) == ('"throttle";r=0;t=1', "1")


def test_ietf_unit():
    """A unit other than requests is told, as it stands."""
    made, secret, _ = ledger("90000 tokens/minute, 5 content-bytes/day")
    assert made.consume(secret).headers()["RateLimit-Policy"] == (
        '"tokens/minute";q=90000;w=60;qu="tokens", "content-bytes/day";q=5;w=86400;qu="content-bytes"'
    )


def test_no_limits_no_headers():
    """Without a key, without a plan, on a plan without limits there is nothing to tell."""
    made, secret, _ = ledger(())
    assert made.consume(secret).headers() == {}
    assert made.consume(None).headers() == {}


def test_never_no_retry_after():
    """A cost that can never fit has no instant to retry at."""
    made, secret, _ = ledger("10/day")
    decision = made.consume(secret, 11)
    assert decision.status == 429
    assert "Retry-After" not in decision.headers()


@pytest.mark.parametrize("profile", PROFILES)
def test_refusal_without_limits(profile):
    """A refusal that no limit was asked about has no headers, in any profile."""
    made, _, _ = ledger("10/day")
    assert made.consume(mint()).headers(profile) == {}


def test_github():
    """GitHub's headers tell the tightest limit, and its reset in epoch seconds."""
    made, secret, _ = ledger("10/minute as burst, 1000/day")
    assert made.consume(secret).headers("github") == {
        "X-RateLimit-Limit": "10",
        "X-RateLimit-Remaining": "9",
        "X-RateLimit-Used": "1",
        "X-RateLimit-Reset": str(int(NOON.timestamp()) + 60),
        "X-RateLimit-Resource": "burst",
    }


def test_draft03():
    """The early drafts' headers tell the tightest limit, and its reset in seconds from now."""
    made, secret, _ = ledger("10/minute, 10/day")
    made.consume(secret, 10)
    assert made.consume(secret).headers("draft03") == {
        "RateLimit-Limit": "10",
        "RateLimit-Remaining": "0",
        "RateLimit-Reset": "43200",
        "Retry-After": "43200",
    }


def test_tightest_is_what_refused():
    """The limit that refused is told, though another has a smaller share left."""
    made, secret, _ = ledger("100 tokens/day as tokens, 10/day as calls")
    made.consume(secret, {"tokens": 100})
    made.consume(secret, 9)
    decision = made.consume(secret, 2)
    assert decision.violated == ("calls",)
    assert decision.headers("github")["X-RateLimit-Resource"] == "calls"


@pytest.mark.parametrize("profile", ["", "IETF", "x", None, 3, ["ietf"]])
def test_unknown_profile(profile):
    """A profile that is none is refused with those there are."""
    made, secret, _ = ledger("10/day")
    with pytest.raises(InvalidValue, match="ietf, github, draft03"):
        made.consume(secret).headers(profile)


@pytest.mark.parametrize(("limits", "cost", "grant"), [
    ("9/minute, 7/day", 1, 0), ("7/day overage 5", 9, 0), ("7/day", 2, 3), (f"{2**53 - 1}/day", 1, 0),
    ("7/day, 9/minute burst 4", 3, 0), ("3/day burst 3", 3, 0), (f"{2**50}/s burst {2**53 - 1}", 1, 0),
    ("7/day, 90 tokens/month", {"requests": 2, "tokens": 3}, 0), ("4 concurrent, 7/day", 1, 0),
])  # fmt: skip
def test_an_admission_is_told_as_its_whole_answer_tells_it(limits, cost, grant):
    """Limits and headers of what the compiled form admitted, by what it read and by the answer worked out."""
    made, secret, clock = ledger(limits)
    made.consume(secret, cost)
    clock.advance(timedelta(days=1, seconds=3, microseconds=5))
    if grant:
        made.grant(made.list_keys()[0], "requests/day", grant)
    for _ in range(3):
        clock.advance(timedelta(seconds=600, microseconds=1))
        decision = made.consume(secret, cost)
        if not decision:
            break
        early = [decision.limits, *map(decision.headers, PROFILES)]
        whole = Decision(decision._details())
        assert early == [whole.limits, *map(whole.headers, PROFILES)]
        assert [s.to_dict() for s in early[0]] == [s.to_dict() for s in whole.limits]


# Headers: properties

names = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=' "\\%,;é'), min_size=1, max_size=40)
printable_names = names.filter(str.isprintable)
amounts = st.integers(0, 2**53)
instants = st.integers(0, 253_402_300_799_999_999)
lengths = st.none() | st.integers(1, 10**18)


@st.composite
def decisions(draw, least=1, refused=st.booleans()):
    """Any decision that a store could make about limits, hostile names and huge numbers included."""
    now = draw(instants)
    states = []
    for name in draw(st.lists(printable_names, min_size=least, max_size=4, unique=True)):
        unit = draw(printable_names)
        limit, length = draw(st.integers(1, 2**53)), draw(lengths)
        if draw(st.booleans()):
            compiled = CompiledQuota(name, unit, False, "", limit, draw(amounts), (), lambda now: (now, now), length)
        else:
            compiled = CompiledThrottle(name, unit, False, "", limit, 7, 3, limit * 7, length)
        states.append(
            LimitState(compiled, draw(amounts), draw(st.integers(-(2**53), 2**53)), draw(instants), draw(refused))
        )
    allowed = not any(s.refused for s in states)
    retry_at = None if allowed else draw(st.none() | st.integers(now, 253_402_300_799_999_999))
    reason = (
        Reason.OK
        if allowed
        else draw(st.sampled_from([Reason.THROTTLED, Reason.QUOTA_EXCEEDED, Reason.COST_TOO_LARGE]))
    )
    outcome = Outcome(allowed, now, tuple(states), (), retry_at, retry_at is None)
    return Decision(Details(reason, None, None, None, {"requests": 1}, outcome))


def decoded(name):
    """The limit's name behind what the header says."""
    return re.sub(r"(?:%[0-9A-F]{2})+", lambda m: bytes.fromhex(m[0].replace("%", "")).decode(), name)


@given(decisions())
def test_ietf_parses(decision):
    """A third-party RFC 9651 parser reads back every name, number and unit; integers are clamped to 15 digits."""
    policy, state = ietf(decision)
    largest = 10**15 - 1
    assert [decoded(name) for name, _ in policy] == [status.name for status in decision.limits]
    assert [name for name, _ in state] == [name for name, _ in policy]
    for status, (_, said), (_, left) in zip(decision.limits, policy, state, strict=True):
        assert said["q"] == min(status.limit, largest)
        assert said.get("w") == (None if status.window is None else min(status.window, largest))
        assert decoded(said.get("qu", "requests")) == status.unit
        assert left["r"] == min(status.remaining, largest)
        assert 0 <= left["t"] <= largest
        assert set(said) <= {"q", "w", "qu"}
        assert set(left) == {"r", "t"}


@given(decisions())
def test_ietf_serialises_alike(decision):
    """What is written is the canonical form: the parser's own serialisation of what it read."""
    found = decision.headers()
    for name in ("RateLimit-Policy", "RateLimit"):
        assert http_sf.ser(http_sf.parse(found[name].encode(), tltype="list")) == found[name]


@given(decisions(), st.sampled_from(PROFILES))
def test_headers_are_field_values(decision, profile):
    """Every header is printable ASCII without line breaks, whatever the limits are called, and is the same twice."""
    found = decision.headers(profile)
    assert decision.headers(profile) == found
    for value in found.values():
        assert value.isascii()
        assert value.isprintable()


@given(decisions(refused=st.just(True)))
def test_retry_after_does_not_precede_t(decision):
    """``Retry-After`` is never before the ``t`` of a limit that refused."""
    assume(decision.retry_after is not None)
    _, state = ietf(decision)
    refused = [
        left["t"] for status, (_, left) in zip(decision.limits, state, strict=True) if status.name in decision.violated
    ]
    assert int(decision.headers()["Retry-After"]) >= max(refused)


@given(st.lists(printable_names, min_size=2, max_size=6, unique=True))
@example(["é", "%C3%A9", "%25C3%25A9"])
def test_names_stay_distinct(found):
    """Two limits never get one name in the headers, though names are percent-encoded."""
    limits = [CompiledQuota(name, "requests", False, "", 1, 0, (), lambda now: (now, now), None) for name in found]
    outcome = Outcome(True, 0, tuple(LimitState(compiled, 0, 0, 1) for compiled in limits))
    policy, _ = ietf(Decision(Details(Reason.OK, None, None, None, {"requests": 1}, outcome)))
    assert len({name for name, _ in policy}) == len(found)


@given(st.data(), st.sampled_from(PROFILES))
def test_fast_path_says_the_same(data, profile):
    """The headers of an admission on the fast path are those of the decision worked out in full."""
    made, secret, clock = ledger([Quota(1000, "day"), Quota(77, "hour in Europe/Paris"), Throttle("7.3", burst=50)])
    for _ in range(data.draw(st.integers(1, 6))):
        clock.advance(data.draw(st.integers(0, 5_000_000)))
        decision = made.consume(secret, data.draw(st.integers(1, 9)))
        quick = decision.headers(profile)
        assert decision.reason.value
        assert decision.headers(profile) == quick
        statuses = {status.name: status for status in decision.limits}
        if profile == "ietf":
            for name, left in ietf(decision)[1]:
                assert left["r"] == statuses[decoded(name)].remaining


@given(decisions())
def test_tightest_has_the_smallest_share(decision):
    """Single-value profiles tell a limit that no other is tighter than; among those that refused when any did."""
    told = decision.headers("github")
    rivals = [status for status in decision.limits if not decision.violated or status.name in decision.violated]
    chosen = next(status for status in rivals if decoded(told["X-RateLimit-Resource"]) == status.name)
    assert all(chosen.remaining * other.limit <= other.remaining * chosen.limit for other in rivals)
    assert told["X-RateLimit-Limit"] == str(chosen.limit)


# Problem details


def test_problem_quota():
    """A 429 names the problem type of the draft, every violated policy, and when to retry."""
    made, secret, _ = ledger("10/day as daily, 10/s burst 10")
    made.consume(secret, 10)
    assert made.consume(secret).problem() == {
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "Quota Exceeded",
        "status": 429,
        "detail": "Over daily (10 of 10 requests used), throttle (10 of 10 requests used). Retry in 43200 s.",
        "violated-policies": ["daily", "throttle"],
        "retry-after": 43200,
    }


def test_problem_never():
    """A cost that can never fit says so and promises no instant."""
    made, secret, _ = ledger("10/day as daily")
    found = made.consume(secret, 11).problem()
    assert found["detail"] == "Over daily (0 of 10 requests used). The cost can never be admitted."
    assert "retry-after" not in found


def test_problem_forbidden_says_nothing():
    """The 403 is one and the same for a missing, unknown, disabled, expired key and one without a plan."""
    made, secret, clock = ledger("10/day")
    off = made.issue_key("off", "PlanA")
    made.disable_key(off.key)
    old = made.issue_key("old", "PlanA", expires_at=NOON + timedelta(seconds=1))
    bare = made.issue_key("bare")
    clock.advance(timedelta(seconds=1))
    found = [made.consume(presented) for presented in (None, mint(), secret[:-1], off.secret, old.secret, bare.secret)]
    assert len({decision.reason for decision in found}) == 5
    assert [decision.problem() for decision in found] == [found[0].problem()] * 6
    assert found[0].problem() == {
        "type": "about:blank",
        "title": "Forbidden",
        "status": 403,
        "detail": "A valid API key with a usage plan is required.",
    }


def test_problem_unavailable():
    """A decision made without the store is a temporary problem of the server."""
    outcome = Outcome(False, to_us(NOON), ())
    found = Decision(Details(Reason.STORE_UNAVAILABLE, None, None, None, {"requests": 1}, outcome)).problem()
    assert found["type"].endswith("#temporary-reduced-capacity")
    assert found["status"] == 503


def test_problem_of_an_admission():
    """An admission has no problem."""
    made, secret, _ = ledger("10/day")
    assert made.consume(secret).problem() == {}


@given(decisions(refused=st.just(True)))
def test_problem_names_the_policies(decision):
    """The names in the body are those of RateLimit-Policy, and the body is JSON."""
    found = json.loads(json.dumps(decision.problem()))
    named = [name for name, _ in ietf(decision)[0]]
    assert [decoded(name) for name in found["violated-policies"]] == list(decision.violated)
    assert set(found["violated-policies"]) <= set(named)


# Where the key is


def get(**fields):
    """A header look-up over these fields, underscores for hyphens."""
    return {name.replace("_", "-"): value for name, value in fields.items()}.get


ALL = ("x-api-key", "authorization", "?api_key")
KEY, OTHER = "qk_XYSQyMwXeuIyESarThbzad6PC9kF28rMCH", "qk_jwwGUVC3dEhZ4CqzSfdRW3lvAILc3oRDTu"  # minted once


@pytest.mark.parametrize(
    ("fields", "query", "expected"),
    [
        ({"x_api_key": KEY}, "", (KEY, "x-api-key")),
        ({"x_api_key": f" {KEY}\t"}, "", (KEY, "x-api-key")),
        ({"authorization": f"Bearer {KEY}"}, "", (KEY, "authorization")),
        ({"authorization": f"bEaReR   {KEY}"}, "", (KEY, "authorization")),
        ({"x_api_key": KEY, "authorization": f"Bearer {OTHER}"}, f"api_key={OTHER}", (KEY, "x-api-key")),
        ({"x_api_key": "", "authorization": "Basic " + KEY}, f"a=1&api_key={KEY}&b=2", (KEY, "?api_key")),
        ({"x_api_key": "  ", "authorization": f"Bearer {KEY}"}, "", (KEY, "authorization")),
        ({"authorization": "Bearer "}, "", (None, "")),
        ({"authorization": KEY}, "", (None, "")),
        ({}, "", (None, "")),
        ({}, "api_key=&xapi_key=1", (None, "")),
        ({"x_api_key": f"{KEY},{KEY}"}, "", (f"{KEY},{KEY}", "x-api-key")),
        ({"x_api_key": f"{KEY}, {OTHER}"}, "", (UNKNOWN, "x-api-key")),
        ({}, f"api_key={KEY}&api_key={OTHER}", (UNKNOWN, "?api_key")),
        ({"x_api_key": "short"}, "", (UNKNOWN, "x-api-key")),
        ({"x_api_key": "a" * 129}, "", (UNKNOWN, "x-api-key")),
        ({"x_api_key": "a" * 1_000_000}, "", (UNKNOWN, "x-api-key")),
        ({"x_api_key": KEY + "\x00"}, "", (UNKNOWN, "x-api-key")),
        ({"x_api_key": "é" * 30}, "", (UNKNOWN, "x-api-key")),
        ({"authorization": "Bearer " + "a" * 1_000_000}, "", (UNKNOWN, "authorization")),
        ({}, "api_key=" + "a" * 1_000_000, (UNKNOWN, "?api_key")),
        ({}, "api_key=1&" * 10_000, (UNKNOWN, "?api_key")),
        ({}, "api_key=" + "a" * 60_000, (UNKNOWN, "?api_key")),
        ({}, "api_key=%00%ff%zz", (UNKNOWN, "?api_key")),
        ({}, "api_key=abcd%2Befgh+ijklmnopqrst", ("abcd+efgh+ijklmnopqrst", "?api_key")),
    ],
)
def test_find_key(fields, query, expected):
    """The first source that presents something decides; what no key can be is unknown, never an error."""
    assert find_key(get(**fields), query, ALL) == expected


def test_unknown_is_refused_without_a_look_up():
    """The stand-in for impossible keys is recognised by its checksum and can never be imported."""
    assert mistyped(UNKNOWN)
    made, _, _ = ledger("10/day")
    assert made.consume(UNKNOWN).reason is Reason.UNKNOWN_KEY
    with pytest.raises(InvalidValue):
        import_secret(UNKNOWN)


@given(st.text(), st.text(), st.text())
@example("\ud800", "Bearer \ud800", "api_key=\ud800")
def test_find_key_survives(value, authorization, query):
    """No text in any place raises, and what is found is something that a key can be, or UNKNOWN."""
    found, source = find_key(get(x_api_key=value, authorization=authorization), query, ALL)
    assert found is None or (20 <= len(found) <= 128 and found.isascii() and found.isprintable())
    assert (found is None) == (source == "")


@given(st.text(string.ascii_letters + string.digits + string.punctuation, min_size=20, max_size=128))
def test_find_key_finds_every_secret(secret):
    """Every secret that can be issued or imported is found as it is, in each kind of place."""
    assert find_key(get(x_api_key=secret), "", ALL) == (secret, "x-api-key")
    assert find_key(get(authorization=f"Bearer {secret}"), "", ALL) == (secret, "authorization")
    quoted = "".join(f"%{ord(c):02x}" for c in secret)
    assert find_key(get(), f"a=b&api_key={quoted}", ALL) == (secret, "?api_key")


def test_sources():
    """Sources are one name or several, headers in any case."""
    assert check_sources("X-API-Key") == ("x-api-key",)
    assert check_sources(["Authorization", "?apiKey"]) == ("authorization", "?apiKey")


@pytest.mark.parametrize("key", ["", (), "a b", "?", "?a=b", "a:b", "é", None, 3, [None], ["x-api-key", ""], "a" * 65])
def test_sources_invalid(key):
    """A source that is no header name and no parameter is refused."""
    with pytest.raises(InvalidValue) as caught:
        check_sources(key)
    assert caught.value.field == "key"


def test_hidden():
    """A log may show four characters of a secret, and nothing of what is none."""
    assert hidden(KEY) == "****" + KEY[-4:]
    assert hidden(UNKNOWN) == hidden(None) == "****"


def test_hide_parameters():
    """Every value of the parameters is hidden, the found one but for its end, and the rest stays as it was."""
    starts = ("api_key=", "k=")
    query = f"a=1&api_key={KEY}&b=%20&api_key=x&k=y&ak=z&k"
    assert hide_parameters(query, starts, "api_key=", "****1&=é") == (
        "a=1&api_key=****1%26%3D%C3%A9&b=%20&api_key=****1%26%3D%C3%A9&k=****&ak=z&k"
    )
    assert hide_parameters(query, starts) == "a=1&api_key=****&b=%20&api_key=****&k=****&ak=z&k"
    assert hide_parameters("a=1", starts) == "a=1"
