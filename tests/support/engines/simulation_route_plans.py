"""Leases of many route plans in a simulated world: several units, routes, accounts, plans; nothing is lost on the way.

Where ``simulation_leases`` has one limit and a network that loses messages and processes, here is all else that a plan
may say, and a network that loses nothing. So the books are strict: after every step each meter of each key and account
counts what was admitted and what is out on lease, and when all have left nothing is out.
"""

import asyncio
import random
from collections import Counter

from figures import tell
from simulation_leases import SECOND, START, Package, _quiet

PLANS = [
    ("90/minute, 20000 tokens/hour by account, 3000/day by account overage 40", {}, {}),
    ("400/minute, 5000 tokens/hour, 60000 tokens/day by account", {"/r": "70/hour"}, {"/r": 3}),
    ("2000/hour, 30/s burst 300, 9000 tokens/minute burst 9000 as tpm", {"/r": "20/s burst 100"}, {"/t": {"requests": 1, "tokens": 40}}),
    ("1000/day, 100/s burst 500 by account", {"/r": "500 tokens/day", "/t": "300/day by account as t"}, {}),
    ("300/day in Pacific/Auckland, 50000/month by account", {}, {"/r": 2}),
    ("7/day, 800 tokens/day", {}, {}),
]  # fmt: skip
KEYS = {"a1": "a", "a2": "a", "b": "b"}
ROUTES = [None, None, "/r", "/t"]


class Line:
    """A holder's way to the shared store, in time and without a fault."""

    exact_across_failover = True
    blocking = False

    def __init__(self, world):
        self._world = world

    def use_clock(self, clock):
        pass

    def apply(self, request):
        self._world.asked[request.op] += 1
        answer = self._world.shared.apply(request)
        self._world.see_pruned()
        return answer

    def close(self):
        pass

    def __getattr__(self, name):
        return getattr(self._world.shared, name)


class AwaitedLine(Line):
    """The same, where others have their turn on the way."""

    async def apply(self, request):
        await asyncio.sleep(0)
        answer = Line.apply(self, request)
        await asyncio.sleep(0)
        return answer

    async def close(self):
        pass


class Holder:
    """A process that leases; its clock is a little off."""

    def __init__(self, world):
        package = world.package
        self.clock, self.skew = package.ManualClock(START - SECOND), world.random.choice([0, 0, 300_000, -300_000])
        options = {"refresh": world.random.choice([0.5, 1, 10]), "share": world.random.choice([0.02, 0.3, 1])}
        if world.loop:
            self.store = package.AsyncLeasedStore(AwaitedLine(world), **options)
            self.ledger = package.AsyncLedger(self.store, clock=self.clock)
        else:
            self.store = package.LeasedStore(Line(world), **options)
            self.ledger = package.Ledger(self.store, clock=self.clock)

    def leases(self):
        for lease_holder in self.store._lease_holders.values():
            yield from (lease_holder.lease, lease_holder.next_lease)


class World:
    """One history. ``books``: by key and by account, and by meter, what was admitted."""

    def __init__(self, seed, package, loop=None):
        self.seed, self.package, self.loop, self.random = seed, package, loop, random.Random(seed)
        self.now, self.log, self.asked = START, [], Counter()
        self.shared = package.MemoryStore()
        self.operator = package.Ledger(self.shared, clock=lambda: self.now)
        self.secrets = {}
        for number, (limits, routes, costs) in enumerate(PLANS):
            self.operator.add_plan(package.UsagePlan(f"p{number}", limits, routes=routes, costs=costs))
        for key, account in KEYS.items():
            plan = f"p{self.random.randrange(len(PLANS))}"
            _, self.secrets[key] = self.operator.issue_key(key, plan, id=key, account=account)
        self.holders = [Holder(self) for _ in range(self.random.randint(1, 5))]
        self.books = {name: Counter() for name in (*KEYS, *(f"account {name}" for name in KEYS.values()))}
        self.burned = {name: Counter() for name in self.books}
        self.out = {name: {} for name in self.books}
        self.enabled = set(KEYS)
        self.tags = 0

    # What happens

    def step(self):
        kinds = {"burst": 50, "together": 8, "tick": 25, "leave": 2, "plan": 3, "move": 3, "key": 2, "rotate": 2}
        kinds |= {"refund": 5, "reserve": 5, "id": 3, "grant": 2, "look": 3, "forget": 1}
        (kind,) = self.random.choices(list(kinds), list(kinds.values()))
        self.log.append(kind)
        getattr(self, f"do_{kind}")()
        self.account()

    def at(self, holder):
        holder.clock.set(max(holder.clock(), self.now + holder.skew))
        return holder.ledger

    def run(self, answer):
        return self.loop.run_until_complete(answer) if self.loop else answer

    def somebody(self):
        return self.random.choice(self.holders)

    def call(self):
        """Arguments of a call: who, what, where."""
        dice = self.random
        key = dice.choice(list(KEYS))
        cost = dice.choice([None, None, 1, 2, {"tokens": dice.randint(1, 90)}, {"requests": 1, "tokens": 12}])
        options = {"route": dice.choice(ROUTES), **({} if cost is None else {"cost": cost})}
        return key, dice.choice([self.secrets[key], self.secrets[key], self.operator.get_key(key)]), options

    def note(self, key, route, decision, sign=1):
        """Write down what a decision took."""
        if not decision:
            reasons = "QUOTA_EXCEEDED THROTTLED DISABLED_KEY COST_TOO_LARGE"
            assert decision.reason.value in reasons.split(), decision
            return
        details = decision._details()
        for _, takes in details.metered:
            assert {"", route if route in details.plan.routes else ""} == {where for _, where, _, _ in takes}
            for api, route, unit, units in takes:
                for name in (key, f"account {KEYS[key]}"):
                    self.books[name][api, route, unit] += sign * units

    def do_burst(self):
        holder, (key, who, options) = self.somebody(), self.call()
        for _ in range(self.random.choice([1, 5, 40, 120])):
            self.note(key, options["route"], self.run(self.at(holder).consume(who, **options)))
            self.now += self.random.choice([0, 1000, 20_000])

    def do_together(self):
        """Several calls of one process at once, where the loop runs; else one after the other."""
        ledger = self.at(self.somebody())
        calls = [self.call() for _ in range(self.random.choice([2, 6, 20]))]
        if not self.loop:
            for key, who, options in calls:
                self.note(key, options["route"], ledger.consume(who, **options))
            return

        async def all_of_them():
            return await asyncio.gather(*(ledger.consume(who, **options) for _, who, options in calls))

        for (key, _, options), decision in zip(calls, self.run(all_of_them()), strict=True):
            self.note(key, options["route"], decision)

    def do_tick(self):
        self.now += self.random.choice(
            [1, SECOND // 2, SECOND, 3 * SECOND, 61 * SECOND, 3600 * SECOND, 86_400 * SECOND]
        )

    def do_leave(self):
        holder = self.holders.pop(self.random.randrange(len(self.holders)))
        self.leave(holder)
        self.holders.append(Holder(self))

    def leave(self, holder):
        ledger = self.at(holder)
        self.run(ledger.aclose()) if self.loop else ledger.close()
        assert all(held_lease.idle for held_lease in holder.leases()), "left, and holds or owes something"

    def do_plan(self):
        number = self.random.randrange(len(PLANS))
        limits, routes, costs = self.random.choice(PLANS)
        plan = self.package.UsagePlan(f"p{number}", limits, routes=routes, costs=costs)
        where = self.random.choice([self.operator, self.somebody()])
        if where is self.operator:
            where.replace_plan(plan)
        else:
            self.run(self.at(where).replace_plan(plan))

    def do_move(self):
        self.operator.associate(self.random.choice(list(KEYS)), f"p{self.random.randrange(len(PLANS))}")

    def do_key(self):
        key = self.random.choice(list(KEYS))
        ledger = self.at(self.somebody())
        self.run(ledger.disable_key(key) if key in self.enabled else ledger.enable_key(key))
        self.enabled ^= {key}

    def do_rotate(self):
        """The old secret stays good for a minute; whoever presents it is another lease holder of the same key."""
        key = self.random.choice(list(KEYS))
        self.secrets[key] = self.run(self.at(self.somebody()).rotate_key(key, overlap=60 * SECOND)).secret

    def do_refund(self):
        holder, (key, who, options) = self.somebody(), self.call()
        ledger = self.at(holder)
        decision = self.run(ledger.consume(who, **options))
        self.note(key, options["route"], decision)
        if decision and self.run(ledger.refund(decision)):
            self.note(key, options["route"], decision, -1)

    def do_reserve(self):
        holder, (key, who, options) = self.somebody(), self.call()
        ledger = self.at(holder)
        options.setdefault("cost", 1)
        held = self.run(ledger.reserve(who, ttl=60 * SECOND, **options))
        if not held:
            self.note(key, options["route"], held.decision)
        elif self.random.random() < 0.5:
            self.run(held.cancel())
        else:
            self.note(key, options["route"], self.run(held.commit()))

    def do_id(self):
        key, who, options = self.call()
        self.tags += 1
        for _ in range(2):
            decision = self.run(self.at(self.somebody()).consume(who, request_id=f"r{self.tags}", **options))
            if not decision.replayed:
                self.note(key, options["route"], decision)

    def do_grant(self):
        key = self.random.choice(list(KEYS))
        plan = next(iter(self.operator.list_plans(key)))
        quotas = [limit for limit in plan.limits if hasattr(limit, "period")]
        if quotas:
            where = self.random.choice([self.operator, self.somebody()])
            ledger = where if where is self.operator else self.at(where)
            granted = ledger.grant(key, self.random.choice(quotas).name, self.random.choice([1, 100]))
            if ledger is not self.operator:
                self.run(granted)

    def do_forget(self):
        """The key's counts begin anew, but for what is out on lease: of that it counts what was spent before, too."""
        key = self.random.choice(list(KEYS))
        where = self.random.choice([self.operator, self.somebody()])
        self.see_pruned()
        self.run(self.at(where).forget(key)) if where is not self.operator else where.forget(key)
        self.burned[key], self.books[key] = Counter(), Counter()
        for name, record in self.records():
            if name == key:
                for lease, entry in (record.leases or {}).items():
                    rests = self.unspent(lease, entry.number, entry.takes) if entry.takes else {}
                    for take in entry.takes:
                        self.books[key][take.meter] += take.units - rests[take.meter]

    def do_look(self):
        key, who, options = self.call()
        ledger = self.at(self.somebody())
        self.run(ledger.peek(who, **options))
        self.run(ledger.usage(key))

    # What must hold

    def records(self):
        """(name in the books, record) of keys and accounts; a key alone in its account has but its own."""
        for key in KEYS:
            key_entry = self.shared.rooms[key].key_entry
            if key_entry.room is not None:
                key_entry.room.flush()
            if key_entry.record is not None:
                yield key, key_entry.record
            if key_entry.account is not None and key_entry.account.record is not None:
                yield f"account {KEYS[key]}", key_entry.account.record

    def unspent(self, lease, number, takes):
        """What is left of a lease, by meter."""
        for held_lease in (held_lease for holder in self.holders for held_lease in holder.leases()):
            if (held_lease.name, held_lease.number) == (lease, number) and (held_lease.open or held_lease.due):
                used = (
                    {unit: meter.total for unit, meter in held_lease.spent.items()}
                    if held_lease.open
                    else held_lease.used
                )
                break
        else:
            raise AssertionError(f"lease {lease, number} is nobody's")
        rests = {take.meter: take.units - used.get(take.unit, 0) for take in takes}
        assert min(rests.values()) >= 0, f"more than was leased is spent of {takes}: {used}"
        return rests

    def see_pruned(self):
        """Leases that the records gave up: their windows are over, or their process was idle for a day."""
        for name, record in self.records():
            leases = {lease: entry for lease, entry in (record.leases or {}).items() if entry.number}
            for lease, (number, takes) in self.out[name].items():
                if lease not in leases:
                    self.burned[name].update(self.unspent(lease, number, takes))
            self.out[name] = {lease: (entry.number, entry.takes) for lease, entry in leases.items() if entry.takes}

    def account(self):
        """What each meter counts was admitted, or is out on lease and unspent, or burned."""
        self.see_pruned()
        for name, record in self.records():
            expected = self.books[name] + self.burned[name]
            for lease, (number, takes) in self.out[name].items():
                expected.update(self.unspent(lease, number, takes))
            counted = Counter({(m.api, m.route, m.unit): m.total for m in record.meters})
            assert +counted == +expected, f"{name} counts {dict(counted)}, expected {dict(expected)}"

    def finish(self):
        """All leave: nothing is out, and nothing is burned."""
        while self.holders:
            self.leave(self.holders[-1])
            self.account()
            self.holders.pop()
        self.account()
        assert not any(
            lease.number and lease.takes for _, record in self.records() for lease in (record.leases or {}).values()
        )


def simulate(seed, package=None, steps=60, *, awaited=False):
    """One history; its seed and what was done are told when it fails."""
    tell()
    loop = asyncio.new_event_loop() if awaited else None
    world = World(seed, package or Package(), loop)
    try:
        for _ in range(steps):
            world.step()
        world.finish()
    except Exception as error:
        raise AssertionError(f"seed {seed}, after {len(world.log)} steps ({world.log[-8:]}): {error!r}") from error
    finally:
        if loop is not None:
            loop.run_until_complete(_quiet(asyncio.all_tasks(loop)))
            loop.close()
    return world
