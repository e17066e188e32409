"""What is worked out for the fast path: up to where meters may go, until when, and what keys have in common."""

from datetime import timedelta

from quota import ApiKey, UsagePlan
from quota.clock import to_datetime
from quota.key import Secret
from quota.operations.compiled import compile_headroom
from quota.operations.request import Entry, Request
from quota.operations.shape import DEFAULT, Shape
from quota.rule.charge import charge
from quota.rule.limits import BEYOND, MAX_UNITS, StoreOptions
from quota.rule.record import Record
from quota.rule.subject import Subject

SECOND, HOUR, DAY = 1_000_000, 3_600_000_000, 86_400_000_000
NOON = 1_773_144_000_000_000  # 2026-03-10 12:00 UTC
MIDNIGHT = NOON - NOON % DAY
KEY = ApiKey("k", "k", "k")


class Called:
    """A key of a plan, charged as told, and what is compiled for its calls."""

    def __init__(self, *limits, account=None, **options):
        self.plan = UsagePlan("p", *limits, **options)
        self.subject = Subject(Record(1), account)

    def consume(self, now=NOON, route=None, **takes):
        route_plan = self.plan.route_plan(route)
        assert charge(self.subject, route_plan, takes or route_plan.cost, now, StoreOptions(), dry=False).allowed
        self.subject.key.admitted("", "p", now, 35)

    def room(self, route=None, key=KEY, digest=None, **options):
        request = Request("consume", NOON, digest, None if digest else "k", "", route)
        return compile_headroom(request, Entry(key, {"": self.plan}), self.subject, **options)


def tops(room):
    return [cell[-2:] for cell in room.cells]


def test_how_far_a_meter_may_go():
    """Up to where nothing refuses, up to where nothing happens, and until when."""
    called = Called("7/day, 1000/month", alerts=(50, 80))
    called.consume(requests=2)
    assert (tops(called.room()), called.room().end) == ([(3, 7)], MIDNIGHT + DAY)
    called.consume(requests=2)
    assert called.subject.key.meters[0].windows[0].alerted == 50
    assert tops(called.room()) == [(5, 7)]
    called.consume(requests=2)
    assert tops(called.room()) == [(7, 7)]
    large = Called("1000/day", alerts=(50,))
    large.consume()
    assert tops(large.room()) == [(499, 1000)]
    throttled = Called("1/s burst 5")
    throttled.consume()
    assert tops(throttled.room()) == [(MAX_UNITS, BEYOND)]


def test_meters_by_index_and_the_very_ones():
    """A script of an engine's is told where they are; this process has the meters and buckets themselves."""
    called = Called("9/day, 90 tokens/day by account, 2/s burst 5", account=Record(2), routes={"/r": "3/hour"})
    called.consume(route="/r", requests=1, tokens=2)
    key, account = called.subject.records()
    room, bound = called.room("/r"), called.room("/r", bound=True)
    meters = [(index, position) for index, position, *_ in room.cells]
    assert [called.subject.records()[index].meters[position] for index, position in meters] == [
        c[0] for c in bound.cells
    ]
    assert sorted(meters) == [(record, meter) for record in (0, 1) for meter in range(4)]
    assert [c[-3:] for c in room.cells] == [c[-3:] for c in bound.cells]
    assert (room.pours[0][3:], key.meters[room.pours[0][1]].buckets[0]) == (bound.pours[0][1:], bound.pours[0][0])
    assert (bound.own, bound.last, bound.tokens) == (key, account, (1, 2))


def test_a_unit_that_was_never_counted_is_left_to_the_rule():
    """A call that names one has no amounts; others are served."""
    called = Called("9/day, 90 tokens/day by account", account=Record(2))
    called.consume(requests=1)
    shape = called.room().shape
    assert [shape.asked(cost) for cost in (DEFAULT, 3, {"requests": 2})] == [[1, 0], [3, 0], [2, 0]]
    assert [shape.asked({"requests": 1, "tokens": 1}), shape.amounts({"tokens": 1})] == [None, None]
    called.consume(tokens=1)
    assert called.room().shape.asked({"requests": 1, "tokens": 1}) == [1, 1]


def test_what_is_no_valid_cost_is_left_to_the_rule():
    """It finds the words for what is wrong with it, or counts it."""
    called = Called("9/day, 90 tokens/day")
    called.consume(requests=1, tokens=1)
    shape = called.room().shape
    wrong = (0, -1, True, 1.0, "1", None, {}, {"requests": 0}, {"requests": True}, {"tokens": 2.0}, {"requests": 2**53},
             {"requests": 1, "other": 1}, {"requests": 1, "tokens": 0}, [("requests", 1)])  # fmt: skip
    assert [shape.asked(cost) for cost in wrong] == [None] * len(wrong)


def test_it_ends_with_what_is_presented():
    """Memory serves all secrets of a key by one; a server's copy is of the secret that was presented."""
    soon, late = (to_datetime(NOON + seconds * SECOND) for seconds in (5, 9))
    until = {b"a" * 32: None, b"b" * 32: soon, b"c" * 32: soon - timedelta(days=1)}
    secrets = tuple(Secret(digest, "hint", end) for digest, end in until.items())
    called = Called("9/day")
    called.consume()
    key = ApiKey("k", "k", "k", secrets=secrets, expires_at=late)
    ends = [called.room(key=key, digest=b"a" * 32, bound=bound).end for bound in (False, True)]
    assert ends == [NOON + 9 * SECOND, NOON + 5 * SECOND]
    assert called.room(key=key, digest=b"c" * 32) is None


def test_keys_of_one_plan_share_what_is_equal():
    """What each key has to itself is its meters, its records and their versions."""
    shapes = {}

    def share(plan, route_plan, missing):
        return shapes.setdefault((route_plan, missing), Shape(plan, route_plan, missing))

    first = Called("7000000/day, 9000000 tokens/month")
    second = Called("1/day")
    second.plan = first.plan
    rooms = []
    for called in (first, second):
        called.consume(requests=1, tokens=5)
        rooms.append(called.room(shapes=share, bound=True))
    one, other = rooms
    for name in ("shape", "places", "bases", "end"):
        assert getattr(one, name) is getattr(other, name), name
    assert all(
        a is b for mine, its in zip(one.cells, other.cells, strict=True) for a, b in zip(mine[1:], its[1:], strict=True)
    )
    assert len(shapes) == 1
