"""Random trees of accounts with plans of their own, beside a model: a log of charges, summed from scratch."""

from __future__ import annotations

import random
from datetime import timedelta

import attrs

from figures import tell
from quota import Quota, ReservationClosed, UsagePlan

SECOND = 1_000_000
ROUTES = (None, None, None, "r", "s")


@attrs.define(eq=False)
class Charge:
    """Units that were taken at once. ``on``: the key and the accounts whose count they are in."""

    on: list
    units: dict
    route: str | None
    routed: bool
    expires: int | None = None
    above: tuple = ()


@attrs.define(eq=False)
class Model:
    """Who is below whom, which plan each is on, and all that was charged."""

    parents: dict = attrs.field(factory=dict)
    keys: dict = attrs.field(factory=dict)
    plans: dict = attrs.field(factory=dict)
    counting: set = attrs.field(factory=set)
    charges: list = attrs.field(factory=list)
    extra: dict = attrs.field(factory=dict)

    def above(self, account):
        line = []
        while (account := self.parents[account]) is not None:
            line.append(account)
        return line

    def height(self, account):
        return max((1 + self.height(one) for one, parent in self.parents.items() if parent == account), default=0)

    def begin(self, account):
        """An account has a count from now on; what its only key used is in it."""
        if account in self.counting:
            return
        self.counting.add(account)
        for key, of in self.keys.items():
            if of == account:
                for charge in self.charges:
                    if ("key", key) in charge.on:
                        charge.on.append(("account", account))

    def line(self, key):
        account = self.keys[key]
        mine = [account] if account in self.counting else []
        return [("key", key), *(("account", one) for one in (*mine, *self.above(account)))]

    def limits(self, key, route):
        """(holder, name told, limit) of a call."""
        found = []
        for kind, id_ in self.line(key):
            plan = self.plans.get((kind, id_))
            own = [(None, quota) for quota in plan.limits] if plan else []
            own += [(route, quota) for quota in plan.routes.get(route, ())] if plan else []
            for of, quota in own:
                name = f"{route} {quota.name}" if of and quota.name in {one.name for one in plan.limits} else quota.name
                if kind == "account":
                    found.append(((kind, id_), f"{id_}: {name}", quota, of))
                elif quota.by == "account":
                    account = self.keys[id_]
                    found.append((("account", account) if account in self.counting else (kind, id_), name, quota, of))
                else:
                    found.append(((kind, id_), name, quota, of))
        return found

    def routed(self, key, route):
        return any(
            route in plan.routes
            for holder in self.line(key)
            if (plan := self.plans.get(holder)) and plan.routes.get(route)
        )

    def used(self, holder, unit, route, now):
        return sum(
            charge.units.get(unit, 0) for charge in self.charges
            if holder in charge.on and (charge.expires is None or now < charge.expires)
            and (route is None or (charge.routed and charge.route == route))
        )  # fmt: skip

    def decide(self, key, units, route, now):
        """(what refuses, where every limit stands)."""
        violated, told = [], []
        for holder, name, quota, of in self.limits(key, route):
            used, wanted = self.used(holder, quota.unit, of, now), units.get(quota.unit, 0)
            room = quota.limit + self.extra.get((holder, name), 0) - used
            if wanted and wanted > room:
                violated.append(name)
            told.append((name, used, self.keys[key] if holder == ("key", key) and quota.by == "account" else holder[1]))
        return violated, told


def plan(draw, id_, times=1):
    """A small plan, or one of so many ``times`` the units; the names of its limits are those that others have too."""
    units = lambda least, most: times * draw.randint(least, most)  # noqa: E731
    limits = [Quota(units(2, 14), "day", by=draw.choice(["key", "key", "account"]))]
    if draw.random() < 0.4:
        limits.append(Quota(units(3, 20), "day", unit="tokens", by=draw.choice(["key", "account"])))
    if draw.random() < 0.3:
        limits.append(Quota(units(4, 30), "month"))
    routes = {"r": [Quota(units(1, 5), "day")]} if draw.random() < 0.4 else {}
    return UsagePlan(id_, limits, routes=routes)


class History:
    """One random history on a ledger, and on another that is another process's. All its ids end in the seed.

    So the ledgers may have had others before: a store for each would cost more than what is done on it.
    """

    times = 1

    def __init__(self, seed, ledgers, clock):
        self.draw, self.ledgers, self.clock, self.seed = random.Random(seed), ledgers, clock, seed
        self.model, self.secrets = Model(), {}
        self.taken, self.held = [], []
        self.plans = {}

    @property
    def now(self):
        return self.clock._now_us

    @property
    def ledger(self):
        return self.draw.choice(self.ledgers)

    def run(self, steps):
        tell()
        for number in range(4):
            self.replace(f"p{number}-{self.seed}")
        for number in range(5):
            parent = self.draw.choice([None, *self.model.parents])
            if parent and len(self.model.above(parent)) >= 3:
                parent = None
            self.ledger.add_account(account := f"a{number}-{self.seed}", parent=parent)
            self.model.parents[account] = parent
            if parent:
                self.model.begin(parent)
        for number in range(3):
            self.issue(f"k{number}-{self.seed}")
        acts = [self.consume] * 8 + [self.reserve] * 2 + [self.settle] * 3 + [self.refund, self.refund, self.grant]
        acts += [self.move, self.move, self.place, self.place, self.tick, self.status, self.again]
        for _ in range(steps):
            self.draw.choice(acts)()
        for key in self.model.keys:
            self.check(key)

    def binds(self):
        """Let what one process changed bind in the other one."""

    def replace(self, id_):
        made = plan(self.draw, id_, self.times)
        self.ledger.replace_plan(made)
        self.plans[id_] = made
        for holder, old in self.model.plans.items():
            if old.id == id_:
                self.model.plans[holder] = made
        self.binds()

    def again(self):
        self.replace(self.draw.choice([*self.plans]))

    def issue(self, id_):
        account = self.draw.choice([*self.model.parents])
        plan = self.draw.choice([*self.plans])
        _, self.secrets[id_] = self.ledger.issue_key(id_, plan, id=id_, account=account)
        if account in self.model.keys.values():
            self.model.begin(account)
        self.model.keys[id_] = account
        self.model.plans["key", id_] = self.plans[plan]
        self.binds()

    def place(self):
        account, plan = self.draw.choice([*self.model.parents]), self.draw.choice([*self.plans])
        on = self.model.plans.get(("account", account))
        if on is not None and self.draw.random() < 0.3:
            self.ledger.dissociate(account, on.id)
            del self.model.plans["account", account]
            self.binds()
            return
        self.ledger.associate(account, plan)
        self.model.begin(account)
        self.model.plans["account", account] = self.plans[plan]
        self.binds()

    def move(self):
        account, parent = self.draw.choice([*self.model.parents]), self.draw.choice([None, *self.model.parents])
        if parent is not None:
            line = [parent, *self.model.above(parent)]
            if account in line or len(line) + 1 + self.model.height(account) > 4:
                return
        self.ledger.update_account(account, parent=parent)
        self.model.parents[account] = parent
        if parent is not None:
            self.model.begin(parent)
        self.binds()

    def tick(self):
        self.clock.advance(timedelta(seconds=self.draw.choice([0.000001, 1, 7, 70, 4000])))

    def _call(self):
        key, route = self.draw.choice([*self.secrets]), self.draw.choice(ROUTES)
        units = {"requests": self.draw.randint(1, 3)}
        if self.draw.random() < 0.3:
            units["tokens"] = self.draw.randint(1, 4)
        return key, route, units

    def _admitted(self, key, route, units, decision, told, expires=None):
        violated, states = self.model.decide(key, units, route, self.now)
        assert list(decision.violated) == violated, (decision, violated, states)
        assert bool(decision) == (not violated)
        added = {} if violated else units
        expected = []
        for (name, used, holder), (_, _, quota, _) in zip(states, self.model.limits(key, route), strict=True):
            expected.append((name, used + added.get(quota.unit, 0), holder))
        assert [(s.name, s.used, s.holder) for s in decision.limits] == expected
        if violated:
            return None
        line = self.model.line(key)
        routed = self.model.routed(key, route)
        charge = Charge(line, dict(units), route, routed, expires)
        self.model.charges.append(charge)
        told.append(charge)
        return charge

    def consume(self):
        key, route, units = self._call()
        id_ = f"id{len(self.model.charges)}" if self.draw.random() < 0.2 else None
        decision = self.ledger.consume(self.secrets[key], units, route=route, request_id=id_)
        charge = self._admitted(key, route, units, decision, [])
        if charge is None:
            return
        self.taken.append([decision, charge])
        if id_ is not None:
            replay = self.ledger.consume(self.secrets[key], units, route=route, request_id=id_)
            assert (replay.replayed, replay.id) == (True, decision.id)
            self.taken[-1][0] = self.draw.choice([decision, replay])

    def reserve(self):
        key, route, units = self._call()
        ttl = self.draw.choice([5, 3600]) * SECOND
        held = self.ledger.reserve(self.secrets[key], units, ttl=ttl, route=route)
        charge = self._admitted(key, route, units, held.decision, [], self.now + ttl)
        if charge is not None:
            self.held.append((held, charge))

    def settle(self):
        if not self.held:
            return
        held, charge = self.held.pop(self.draw.randrange(len(self.held)))
        if self.draw.random() < 0.4:
            held.cancel()
            charge.units = {}
            return
        actual = {unit: self.draw.randint(0, 2 * units) for unit, units in charge.units.items()}
        if actual["requests"] <= charge.units["requests"]:  # more tokens alone are in no window, and never given back
            actual = {unit: min(units, charge.units[unit]) for unit, units in actual.items()}
        decision = held.commit(actual)
        charge.units, charge.expires = {unit: units for unit, units in actual.items() if units}, None
        self.taken.append([decision, charge])
        with_again = self.draw.random() < 0.3
        if with_again:
            try:
                held.cancel()
            except ReservationClosed:
                return
            raise AssertionError("a reservation was closed twice")

    def refund(self):
        if not self.taken:
            return
        decision, charge = self.taken.pop(self.draw.randrange(len(self.taken)))
        if not charge.units.get("requests"):
            return  # no window counts what is left
        units = sum(charge.units.values())
        part = None
        if self.draw.random() < 0.4:
            part = {unit: self.draw.randint(0, had) for unit, had in charge.units.items()}
            units = sum(part.values())
            if not units:
                return
        assert self.ledger.refund(decision, part) == units
        for unit, had in (part or dict(charge.units)).items():
            charge.units[unit] -= had

    def grant(self):
        account = self.draw.choice([*self.model.parents])
        own = self.model.plans.get(("account", account))
        if own is None:
            return
        quota = self.draw.choice(own.limits)
        units = self.draw.randint(1, 4)
        told = self.ledger.grant(account, quota.name, units)
        place = ("account", account), f"{account}: {quota.name}"
        self.model.extra[place] = self.model.extra.get(place, 0) + units
        assert (told.name, told.holder, told.extra) == (place[1], account, self.model.extra[place])

    def check(self, key):
        _, states = self.model.decide(key, {}, None, self.now)
        for ledger in self.ledgers:
            assert [(s.name, s.used, s.holder) for s in ledger.status(key)] == states

    def status(self):
        self.check(self.draw.choice([*self.secrets]))


class LeasedHistory(History):
    """The same where both processes spend from leases, of plans so large that there are some.

    What is out on lease counts as used. So a call that is admitted fits the model, one that is refused would not have
    fitted beside what is out, and once both have given back, every count is the model's.
    """

    times = 40

    def out(self, unit):
        return sum(ledger.store.outstanding().get(unit, 0) for ledger in self.ledgers)

    def look(self):
        """What is out before a call: idle leases are given back in the course of it."""
        self.before = {unit: self.out(unit) for unit in ("requests", "tokens")}

    def _call(self):
        self.look()
        return super()._call()

    def binds(self):
        self.clock.advance(timedelta(seconds=1.1))

    def consume(self):
        key, route, units = self._call()
        ledger, id_ = self.ledger, f"id{len(self.model.charges)}" if self.draw.random() < 0.1 else None
        for _ in range(1 if id_ else self.draw.choice([1, 40, 80])):
            decision = ledger.consume(self.secrets[key], units, route=route, request_id=id_)
            if not decision:  # for a refresh a process refuses by itself, whatever was given back meanwhile
                self.binds()
                self.look()
                decision = ledger.consume(self.secrets[key], units, route=route, request_id=id_)
            charge = self._admitted(key, route, units, decision, [])
            if charge is None:
                return
        self.taken.append([decision, charge])

    def _admitted(self, key, route, units, decision, told, expires=None):
        wanted = {unit: count + (0 if decision else self.before[unit]) for unit, count in units.items()}
        violated, states = self.model.decide(key, wanted, route, self.now)
        assert bool(decision) == (not violated), (decision, violated, states)
        if not decision:
            return None
        charge = Charge(self.model.line(key), dict(units), route, self.model.routed(key, route), expires)
        self.model.charges.append(charge)
        return charge

    def check(self, key):
        _, states = self.model.decide(key, {}, None, self.now)
        units = [quota.unit for _, _, quota, _ in self.model.limits(key, None)]
        for ledger in self.ledgers:
            self.look()
            found = ledger.status(key)
            assert [(s.name, s.holder) for s in found] == [(name, holder) for name, _, holder in states]
            for told, (_, used, _), unit in zip(found, states, units, strict=True):
                assert used <= told.used <= used + self.before[unit], (told, used)

    def given_back(self, ledger):
        """Compare all with the model, after both processes are gone."""
        self.ledgers = [ledger]
        for key in self.model.keys:
            super().check(key)
