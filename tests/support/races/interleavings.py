"""Scenarios of two calls at once, for ``scheduler`` to switch between: what they share, whatever the store."""

from __future__ import annotations

import importlib
import inspect
import itertools
import sys
import textwrap
import threading
from unittest import mock

import pytest

import quota
from quota import Ledger, ManualClock, Reason, UsagePlan
from quota.operations.request import INFO, wants
from quota.process import locks as _locks
from quota.rule.record import minute_of
from quota.stores.memory import MemoryStore
from receipts import Change, Denial, Receipt, check_ceiling, check_receipts, justify_denials
from scheduler import Found, explore, replay

NOON = 1_700_049_600_000_000
DAY = 86_400_000_000
MINUTE = 60_000_000
OLD, NEW = "a-foreign-secret-of-one", "a-foreign-secret-of-two"


def files(*names):
    """The files of modules of the package, which are loaded: what is loaded when asked for is else traced the first time."""
    for name in names:
        importlib.import_module(f"quota.{name.replace('/', '.')}")
    return [f"{next(iter(quota.__path__))}/{name}.py" for name in names]


class World:
    """A ledger with one key on one plan, and the receipts of what is consumed through it."""

    store = staticmethod(lambda stripes: MemoryStore(stripes=stripes))

    def __init__(self, limits, *, alerts=(), warm=0, stripes=1):
        self.clock = ManualClock(NOON)
        minute_of(NOON)  # which is told last: every schedule finds it so
        wants[0] = {INFO: False}  # what a first refusal finds, of any ledger
        self.ledger = Ledger(self.store(stripes), clock=self.clock)
        self.ledger.add_plan(UsagePlan("PlanA", limits, alerts=alerts))
        self.key = self.ledger.import_key(OLD, "Key123", plan="PlanA", id="Key123").key
        self.limit = int(limits.partition("/")[0])
        self.changes = [Change(0, 0, self.limit)]
        self.ticks = itertools.count(1)
        self.receipts, self.denials = [], []
        for _ in range(warm):
            self.consume()

    def timed(self, call, *args, **options):
        """(what a call returned, when it began, when it ended)."""
        begun = next(self.ticks)
        return call(*args, **options), begun, next(self.ticks)

    def consume(self, secret=OLD, cost=1, **options):
        """Consume; keep the receipt of the first limit, or the denial."""
        decision, begun, ended = self.timed(self.ledger.consume, secret, cost, **options)
        if decision:
            self.receipts.append(Receipt(begun, ended, cost, decision.limits[0].used))
        elif decision.reason in (Reason.QUOTA_EXCEEDED, Reason.COST_TOO_LARGE):
            self.denials.append(Denial(begun, ended, cost))
        return decision

    def change(self, limit, call, *args):
        """Do what puts another limit in force."""
        _, begun, ended = self.timed(call, *args)
        self.changes.append(Change(begun, ended, limit))

    def revoke(self, call, *args):
        """Do what no admission may come after, not even of a call that was under way."""
        call(*args)
        self.last = self.counted()

    def counted(self):
        """What the key's first limit has counted today, usable or not."""
        return sum(row.used for row in self.ledger.usage("Key123"))

    def used(self):
        decision = self.ledger.peek(self.key)
        return decision.limits[0].used - bool(decision)

    def settle(self, start=0):
        """Receipts tile, denials had a cause, no admission passed its limit, and the ledger counts what they say."""
        total = check_receipts(self.receipts, start)
        justify_denials(self.receipts, self.denials, self.changes, start)
        check_ceiling(self.receipts, self.changes)
        assert self.used() == total
        return total


class Scenarios(dict):
    """By name: a function of a world that gives its threads and what must hold when they have ended.

    ``files``: in whose code a thread can be switched away from. ``world``: made of a scenario's options.
    """

    def __init__(self, world, files):
        self.world, self.files = world, files

    def __call__(self, limits, **options):
        """Keep a scenario."""

        def keep(make):
            self[make.__name__] = make, {"limits": limits, **options}
            return make

        return keep

    def run(self, name, schedule=None, files=None, **options):
        """Explore a scenario, or replay a schedule of it; in ``files``, if only there is looked for something."""
        make, given = self[name]

        def threads(world):
            calls, world.check = make(world)
            return calls

        parts = lambda: self.world(**given), threads, lambda world, results: world.check(*results)
        # A thread that finds a lock taken tries once more, not a hundred times: trying has no side effects to explore.
        with mock.patch.object(_locks, "TRIES", 1):
            if schedule is None:
                return explore(*parts, files=files or self.files, **options)
            return replay(*parts, schedule, files=files or self.files)

    def caught(self, name, files=None, **options):
        """Exploring a scenario finds something, and so does replaying what was found."""
        with pytest.raises(Found) as found:
            self.run(name, files=files, **options)
        with pytest.raises(Found) as again:
            self.run(name, found.value.schedule, files)
        assert again.value.schedule == found.value.schedule


def attempt(error, call, *args, **options):
    """What a call returns, or the error that it may raise."""
    try:
        return call(*args, **options)
    except error as raised:
        return raised


def one_of(error, results):
    """Exactly one of two calls raised; what the other returned."""
    (wrong,) = [result for result in results if isinstance(result, error)]
    (right,) = [result for result in results if result is not wrong]
    return right


def plant(monkeypatch, owner, name, changes):
    """One mistake in a method, or in a module's function: its source with something changed, in the same file for the scheduler."""
    method = vars(owner)[name]
    module = sys.modules[getattr(owner, "__module__", None) or method.__module__]
    method = getattr(method, "fget", getattr(method, "steps", method))
    own = method.__code__.co_filename == module.__file__
    source = textwrap.dedent(inspect.getsource(method.__code__ if own else method))
    for old, new in changes.items():
        assert source.count(old) == 1, f"{owner.__name__}.{name} does not say {old!r} once"
        source = source.replace(old, new)
    scope = {**vars(module), "threading": threading}
    exec(compile(source, module.__file__, "exec"), scope)
    monkeypatch.setattr(owner, name, scope[name])


# Scenarios of any store


def rotate_at_once(w):
    """A rotation without overlap binds the next call with the old secret; the count goes on under the new one."""

    def rotate():
        w.revoke(w.ledger.rotate_key, "Key123")
        return w.consume(OLD)

    def check(first, second):
        assert second.reason is Reason.UNKNOWN_KEY
        assert w.settle() == w.last == 1 + sum(map(bool, first))

    return [lambda: (w.consume(OLD), w.consume(OLD)), rotate], check


def raise_the_limit(w):
    """A higher limit lets the same request through from its return on."""

    def higher():
        w.change(3, w.ledger.replace_plan, UsagePlan("PlanA", "3/day", alerts=()))
        return w.consume()

    def check(first, second):
        assert bool(first) + bool(second) == 1
        assert w.settle() == 3

    return [w.consume, higher], check


def grant(w):
    """One unit that is granted admits one call."""

    def give():
        w.change(3, w.ledger.grant, "Key123", "requests/day", 1)
        return w.consume()

    def check(first, second):
        assert bool(first) != bool(second)
        assert w.settle() == 3

    return [w.consume, give], check
