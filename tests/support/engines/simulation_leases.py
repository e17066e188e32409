"""Leases in a simulated world: one thread, simulated clocks and network, everything drawn from one seed.

Holders are real ledgers over the real leased store; only the network between them and the one shared memory store is
made up. Messages are lost, answers are lost, messages come late or twice, clocks are skewed and stepped, holders crash
or leave, plans and keys change. After every step all units must be accounted for.
"""

import asyncio
import importlib
import random
import sys
from datetime import datetime, timezone

from copies import copied
from figures import tell

START = int(datetime(2026, 3, 10, 12, 0, 30, tzinfo=timezone.utc).timestamp()) * 1_000_000
SECOND = 1_000_000
PERIODS = {"minute": 60 * SECOND, "hour": 3600 * SECOND, "day": 86_400 * SECOND}


class Package:
    """The library under a name: as it is, or with a bug planted."""

    def __init__(self, name="quota"):
        root = importlib.import_module(name)
        self.Ledger, self.ManualClock, self.UsagePlan = root.Ledger, root.ManualClock, root.UsagePlan
        self.StoreUnavailable, self.ClockSkew, self.RequestMismatch = (
            root.StoreUnavailable,
            root.ClockSkew,
            root.RequestMismatch,
        )
        self.MemoryStore = importlib.import_module(f"{name}.stores.memory").MemoryStore
        leased = importlib.import_module(f"{name}.stores.leased")
        self.LeasedStore, self.AsyncLeasedStore, self.AsyncLedger = (
            leased.LeasedStore,
            leased.AsyncLeasedStore,
            root.AsyncLedger,
        )


def plant(folder, name, pieces):
    """The package with some of its source replaced, under another name."""
    copied(folder, name, *pieces)
    sys.path.insert(0, str(folder))
    try:
        importlib.import_module(name)
        return Package(name)
    finally:
        sys.path.remove(str(folder))


class Network:
    """One holder's way to the shared store. ``failed_at``: when it last lost something."""

    exact_across_failover = True

    def __init__(self, world, number):
        self.world, self.number = world, number
        self.down = False
        self.failed_at = -1

    def apply(self, request):
        world = self.world
        world.calls += 1
        dice = world.random.random()
        if self.down or dice < world.losses:
            self._fail()
        if dice < 2 * world.losses:
            world.execute(request)
            self._fail()
        if dice < 3 * world.losses:
            world.late.append((world.now + world.random.choice([1, SECOND, 30 * SECOND, 200 * SECOND]), request))
            self._fail()
        if dice < 3.5 * world.losses:
            world.twice = True
            world.late.append((world.now + world.random.choice([1, SECOND, 30 * SECOND]), request))
        return world.execute(request)

    def _fail(self):
        self.failed_at = self.world.now
        raise self.world.package.StoreUnavailable("simulated; the outcome is unknown")

    def __getattr__(self, name):
        return getattr(self.world.shared, name)

    def close(self):
        pass


class AwaitedNetwork(Network):
    """The same, where the loop has its turn before the store acts and before its answer is there."""

    async def apply(self, request):
        await self.world.pause()
        answer = Network.apply(self, request)
        await self.world.pause()
        return answer


class Awaited:
    """An AsyncLedger driven call by call. Some callers are cancelled on the way, others go on."""

    def __init__(self, world, ledger):
        self.world, self.ledger = world, ledger

    def __getattr__(self, name):
        def call(*args, **kwargs):
            return self.world.loop.run_until_complete(self._call(name, args, kwargs))

        return call

    async def _call(self, name, args, kwargs):
        world = self.world
        task = asyncio.ensure_future(getattr(self.ledger, "aclose" if name == "close" else name)(*args, **kwargs))
        if name == "consume" and world.random.random() < world.losses:
            for _ in range(world.random.randrange(6)):
                await asyncio.sleep(0)
            task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            raise world.package.StoreUnavailable("cancelled; the outcome is unknown") from None


class Holder:
    """A process: its ledger, its clock, and what its callers were told."""

    def __init__(self, world, number):
        self.network = (AwaitedNetwork if world.loop else Network)(world, number)
        self.clock = world.package.ManualClock(world.now)
        self.skew = world.random.choice([0, 0, 1, -1]) * world.random.randrange(2 * SECOND)
        self.back = 0
        package, options = world.package, {"refresh": world.refresh, "share": world.share}
        if world.loop:
            self.store = package.AsyncLeasedStore(self.network, **options)
            self.ledger = Awaited(world, package.AsyncLedger(self.store, clock=self.clock))
        else:
            self.store = package.LeasedStore(self.network, **options)
            self.ledger = package.Ledger(self.store, clock=self.clock)
        self.store._breaker.every = 0  # real seconds would decide who asks

    def leases(self):
        for lease_holder in self.store._lease_holders.values():
            yield from (lease_holder.lease, lease_holder.next_lease)


class World:
    """One history. ``losses``: how likely each kind of fault of a message is. ``crowded``: calls come several at once."""

    def __init__(self, seed, package, loop=None, *, crowded=False):
        self.loop = loop
        self.seed, self.package, self.random = seed, package, random.Random(seed)
        dice = self.random
        self.now = START
        self.shared = package.MemoryStore()
        self.late, self.calls, self.log = [], 0, []
        self.refresh, self.share = dice.choice([0.5, 1, 1, 5]), dice.choice([0.005, 0.05, 0.5, 1])
        self.losses = dice.choice([0, 0, 0.01, 0.05, 0.15])
        self.crashes = dice.random() < 0.5
        self.limit, self.period = dice.choice([20, 200, 1000, 5000, 40_000]), dice.choice(list(PERIODS))
        self.throttled = dice.random() < 0.2
        self.operator = package.Ledger(self.shared, clock=self._clock())
        self.operator.add_plan(self.plan())
        self.key, self.secret = self.operator.issue_key("k", "p", id="k")
        self.holders = [Holder(self, number) for number in range(dice.randint(2, 12))]
        self.dead = []
        self.admitted = self.refunded = self.unheard = 0
        self.by_window, self.decisions, self.refunding = {}, [], {}
        self.entries, self.spent, self.gone = {}, {}, {}
        self.alone, self.broken = {}, None
        self.crowd = random.Random(seed) if crowded else None
        self.disabled_at, self.over_at, self.twice = None, None, False

    def _clock(self):
        return lambda: self.now

    def plan(self):
        throttle = ", 200/s burst 200" if self.throttled else ""
        return self.package.UsagePlan("p", f"{self.limit}/{self.period}{throttle}", alerts=(80, 100))

    def window(self, instant):
        return instant - instant % PERIODS[self.period]

    def execute(self, request):
        """Let the shared store act. A lone charge that nobody may hear of is counted."""
        try:
            return self._execute(request)
        except AssertionError as error:
            self.broken = self.broken or error  # a task that nobody waits for would keep it to itself
            raise

    def _execute(self, request):
        before = self.total()
        orphans = self.see_lease_request(request.args[0]) if request.op in ("lease", "return") else {}
        answer = self.shared.apply(request)
        self.see_pruned()
        self.gone |= {lease: units for lease, units in orphans.items() if lease not in self.entries}
        grown = self.total() - before
        decision = answer if request.op == "consume" else answer.decision if request.op == "lease" else None
        if decision is not None and decision.allowed and not decision.replayed:
            self.unheard += decision.cost  # until the caller is told
            self.alone[id(decision)] = decision
        record = self.record()
        if record is not None and grown > 0:
            window = self.latest_window()
            if window is not None:
                used = self.meter().total - window.base
                limit = self.operator.get_plan("p").limits[0].limit  # of this instant: a new one may be on its way
                assert used <= limit + window.extra, f"{used} are charged of {limit}"
                if request.op == "lease" and answer.units:
                    self.capped(limit + window.extra)
        return answer

    def capped(self, whole):
        """All leases of live holders together stay within their share."""
        live = [lease for lease in self.leases().values() if lease.lively > self.record().at]
        most = whole * int(self.share * 1_000_000) // 1_000_000
        assert sum(take.units for lease in live for take in lease.takes) <= most, f"more than {most} are out on lease"

    def see_lease_request(self, lease_request):
        """What a holder reports. Returns leases that nobody ever held, as their requests came too late: to be burned."""
        orphans = {}
        for lease, units in self.outstanding().items():
            if lease[0] == lease_request.name and lease[1] == lease_request.number - 1:
                self.spent[lease] = max(sum(lease_request.used.values()), self.spent.get(lease, 0))
            elif lease[0] == lease_request.name and lease[1] < lease_request.number - 1:
                orphans[lease] = units
        return orphans

    def record(self):
        return self.shared.rooms["k"].key_entry.record

    def meter(self):
        record = self.record()
        return record.meter("", "", "requests") if record else None

    def latest_window(self):
        meter = self.meter()
        return meter.windows[-1] if meter and meter.windows else None

    def total(self):
        meter = self.meter()
        return meter.total if meter else 0

    # What happens

    def step(self):
        dice = self.random
        kind = dice.choices(
            ["calls", "tick", "crash", "leave", "plan", "key", "refund", "skew", "cut", "late", "peek", "ids"],
            [50, 25, 1.5 if self.crashes else 0, 2, 3, 2, 6, 3, 2 if self.losses else 0, 5, 3, 2],
        )[0]
        self.log.append(kind)
        getattr(self, f"do_{kind}")()
        self.deliver()
        self.account()

    def consume(self, holder, cost=1, **kwargs):
        holder.clock.set(self.now + holder.skew)
        try:
            decision = holder.ledger.consume(self.secret, cost, **kwargs)
        except (self.package.StoreUnavailable, self.package.ClockSkew):
            return
        self.hear(holder, decision, cost)

    async def pause(self):
        """Let others have their turn; in a crowd, some of them several."""
        for _ in range(self.crowd.choice([1, 1, 2, 5, 12]) if self.crowd else 1):
            await asyncio.sleep(0)

    def together(self, holder, costs):
        """Several calls of one process at once, of which some are cancelled on the way."""
        holder.clock.set(self.now + holder.skew)

        async def call(cost):
            await self.pause()
            return await holder.ledger._call("consume", (self.secret, cost), {})

        calls = map(call, costs)

        looking = holder.ledger._call("usage", ("k",), {})  # settles what is held

        async def all_of_them():
            *answers, _ = await asyncio.gather(*calls, looking, return_exceptions=True)
            return answers

        for decision, cost in zip(self.loop.run_until_complete(all_of_them()), costs, strict=True):
            if isinstance(decision, BaseException):
                if not isinstance(decision, (self.package.StoreUnavailable, self.package.ClockSkew)):
                    raise decision
            else:
                self.hear(holder, decision, cost)

    def hear(self, holder, decision, cost):
        """What a caller is told."""
        if not decision:
            assert decision.reason.value in ("QUOTA_EXCEEDED", "THROTTLED", "DISABLED_KEY", "COST_TOO_LARGE"), decision
            return
        details = decision._details()
        ((at, _),) = details.metered
        self.admitted += cost
        if self.alone.pop(id(decision), None):
            self.unheard -= cost  # it was heard of
        self.by_window[self.window(at)] = self.by_window.get(self.window(at), 0) + cost
        assert self.window(decision._now) == self.window(at), "a lease was spent in another window"
        self.decisions.append((decision, at, cost))
        self.bound(holder)

    def bound(self, holder):
        """What was changed elsewhere binds within one refresh, unless the store could not be asked."""
        for since, what in ((self.disabled_at, "the key was disabled"), (self.over_at, "the plan was lowered")):
            if since is not None and holder.network.failed_at < since:
                allowed = self.refresh * SECOND + holder.back  # by the holder's clock: a step back is not seen at once
                assert self.now - since <= allowed, f"{what} {self.now - since} us ago"

    def do_calls(self):
        dice = self.random
        if self.crowd and self.crowd.random() < 0.6:
            dice = self.crowd
            self.together(dice.choice(self.holders), dice.choices([1, 1, 2, 7], k=dice.choice([2, 5, 30])))
            return
        for _ in range(dice.choice([1, 5, 40, 150])):
            self.consume(dice.choice(self.holders), dice.choice([1, 1, 1, 1, 2, 7]))
            self.now += dice.choice([0, 1000, 20_000])

    def do_tick(self):
        self.now += self.random.choice([1, SECOND // 2, SECOND, 3 * SECOND, 61 * SECOND, 600 * SECOND])

    def do_crash(self):
        self.dead.append(self.holders.pop(self.random.randrange(len(self.holders))))
        self.holders.append(Holder(self, 0))

    def do_leave(self):
        holder = self.holders.pop(self.random.randrange(len(self.holders)))
        holder.clock.set(self.now + holder.skew)
        holder.ledger.close()
        self.dead.append(holder)
        self.holders.append(Holder(self, 0))

    def do_plan(self):
        if self.random.random() < 0.3:
            self.operator.grant("k", f"requests/{self.period}", self.random.choice([1, 50]))
            return
        self.limit = max(1, self.random.choice([self.limit // 2, self.limit * 2, self.limit + 10]))
        where = self.random.choice([self.operator, self.random.choice(self.holders).ledger])
        self.guarded(where.replace_plan, self.plan())
        self.limit = self.operator.get_plan("p").limits[0].limit
        self.see_over()

    def see_over(self):
        """Since when more is counted than the limit allows, leases included."""
        window = self.latest_window()
        over = (
            window is not None
            and self.meter().total - window.base > self.limit + window.extra
            and window.end > self.now
        )
        self.over_at = (self.over_at or self.now) if over else None

    def guarded(self, call, *args):
        try:
            return call(*args)
        except (self.package.StoreUnavailable, self.package.ClockSkew, self.package.RequestMismatch):
            return None

    def do_key(self):
        if self.disabled_at is None:
            self.operator.disable_key("k")
            self.disabled_at = self.now
        else:
            self.operator.enable_key("k")
            self.disabled_at = None

    def do_refund(self):
        if not self.decisions:
            return
        decision, at, cost = self.decisions.pop(self.random.randrange(len(self.decisions)))
        where = self.random.choice([self.operator, *(holder.ledger for holder in self.holders)])
        self.refunding[decision.id] = at, cost
        self.guarded(where.refund, decision)
        self.guarded(where.refund, decision)

    def notice_refunds(self):
        """Refunds that were done by now, each of them once, whether its answer was heard or not."""
        refunds = self.record().refunds if self.record() else None
        done = {refund.name: refund.until for refund in refunds.all()} if refunds else {}
        for id_ in [id_ for id_ in self.refunding if id_ in done]:
            at, units = self.refunding.pop(id_)
            self.refunded += units
            self.by_window[self.window(at)] -= units

    def do_skew(self):
        holder = self.random.choice(self.holders)
        before, holder.skew = holder.skew, self.random.choice([0, SECOND, -SECOND, 100 * SECOND, -100 * SECOND])
        holder.back += max(0, before - holder.skew)

    def do_cut(self):
        holder = self.random.choice(self.holders)
        holder.network.down = not holder.network.down

    def do_late(self):
        self.now += self.random.choice([0, SECOND, 40 * SECOND])

    def do_peek(self):
        holder = self.random.choice(self.holders)
        holder.clock.set(self.now + holder.skew)
        self.guarded(holder.ledger.peek, self.secret)
        self.guarded(holder.ledger.usage, "k")

    def do_ids(self):
        self.consume(self.random.choice(self.holders), 1, request_id=f"r{self.random.randrange(10**9)}")

    def deliver(self, everything=False):
        due = [pair for pair in self.late if pair[0] <= self.now or everything]
        self.late = [pair for pair in self.late if pair not in due]
        for _, request in due:
            self.guarded(self.execute, request)

    # What must hold

    def leases(self):
        record = self.record()
        leases = (record.leases or {}) if record else {}
        return {name: lease for name, lease in leases.items() if lease.number}  # the others are what was burned, by day

    def outstanding(self):
        """(lease name, number, when) -> units, as the record has them."""
        return {
            (name, lease.number, lease.taken_at): sum(take.units for take in lease.takes)
            for name, lease in self.leases().items()
            if lease.takes
        }

    def see_spent(self):
        """What holders have spent of their leases, whether the store knows of it or not."""
        for holder in [*self.holders, *self.dead]:
            for held_lease in holder.leases():
                if held_lease.open or held_lease.due:
                    spent = held_lease.total() if held_lease.open else sum(held_lease.used.values())
                    self.spent[held_lease.name, held_lease.number, held_lease.at] = spent

    def see_pruned(self):
        """Leases that the record gave up: what was not spent of them is burned."""
        for lease, units in self.entries.items():
            if lease[0] not in self.leases():
                self.gone[lease] = units
        self.entries = self.outstanding()
        self.see_over()

    def account(self):
        """granted = spent + leased + free: every unit that the record counts is one of these, and no other is."""
        if self.broken:
            raise self.broken
        self.notice_refunds()
        self.see_spent()
        self.see_pruned()
        rests = {lease: units - self.spent.get(lease, 0) for lease, units in self.outstanding().items()}
        assert all(rest >= 0 for rest in rests.values()), "more was spent than was leased"
        leased, burned = (
            sum(rests.values()),
            sum(units - self.spent.get(lease, 0) for lease, units in self.gone.items()),
        )
        counted, known = self.total(), self.admitted - self.refunded + self.unheard
        assert counted == known + burned + leased, (
            f"{counted} are counted; {self.admitted} were admitted, {self.refunded} refunded, {self.unheard} not heard "
            f"of, {burned} burned, {leased} are out on lease"
        )
        window = self.latest_window()
        if window is not None:
            used, admitted = self.meter().total - window.base, self.by_window.get(window.start, 0)
            assert admitted <= used, f"{admitted} were admitted in a window that counts {used}"

    def finish(self):
        """Everyone leaves in good order: nothing is burned but what crashed holders held."""
        self.deliver(everything=True)
        self.account()
        for holder in self.holders:
            holder.network.down = False
        self.losses = 0
        for holder in self.holders:
            holder.clock.set(self.now)
            holder.ledger.close()
        self.account()
        alive = {held_lease.name for holder in self.holders for held_lease in holder.leases()}
        left = {lease[0] for lease in self.outstanding()}
        # A lease request that came twice though it was answered: its second lease is nobody's, and is burned.
        assert self.twice or not left & alive, "a clean shutdown left units on lease"


def simulate(seed, package=None, steps=40, *, awaited=False, crowded=False):
    """One history; its seed and what was done are told when it fails."""
    tell()
    loop = asyncio.new_event_loop() if awaited or crowded else None
    try:
        return play(World(seed, package or Package(), loop, crowded=crowded), steps)
    finally:
        if loop is not None:
            loop.run_until_complete(_quiet(asyncio.all_tasks(loop)))
            loop.close()


async def _quiet(tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def play(world, steps):
    """All steps of a history, and its end."""
    try:
        for _ in range(steps):
            world.step()
        world.finish()
    except AssertionError as error:
        raise AssertionError(
            f"seed {world.seed}, after {len(world.log)} steps ({', '.join(world.log[-8:])}): {error}"
        ) from error
    return world


def caught(simulate, package, seeds):
    """What the first history of a package that fails says."""
    for seed in seeds:
        try:
            simulate(seed, package)
        except Exception as error:
            return error
    return None
