"""A referee outside: processes that hold slots of one key and are killed, and who judges what each of them wrote down.

A process notes what it is about to ask and what it was told, each with the machine's instant, so that a kill loses
nothing that it knew. From that follows when a slot was *surely* held (from the admission it was told of, to what it last
knew of its end, or the close that it asked for) and when it *may* have been. All clocks of servers here are the machine's.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
import traceback
from bisect import bisect_left, bisect_right
from collections import Counter
from itertools import accumulate
from typing import NamedTuple

from figures import tell

LIMIT = 5
TTL = 200_000  # microseconds
APART = 5_000_000  # how far clocks of callers are off, at most
PLAN = f"{LIMIT} concurrent, 1000000000/year"
GRACE = 2_000_000  # until a server has done what its client, who was killed, had asked


class Fault(AssertionError):
    """The ledger broke a promise."""


class Step(NamedTuple):
    """One call on a slot (by its number): what was asked, and told if its process lived to hear it."""

    op: str
    slot: int
    units: int
    asked: int
    told: int | None
    answer: object


def now():
    return time.time_ns() // 1000


class Log:
    """Where one process notes what it does: each line is written before anything else happens."""

    def __init__(self, path, progress):
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._progress = progress

    def write(self, *fields):
        os.write(self._file, f"{json.dumps(fields)}\n".encode())

    def call(self, quota, op, slot, units, ask, *args):
        """Ask, and note it: the end of the slot where one is held, False for a refusal, None where it is closed."""
        self.write(op, slot, units, now())
        try:
            held = ask(*args)
        except quota.ReservationClosed:
            held = None
        answer = held if held is None else _until(quota, held) if op in ("open", "renew") else bool(held)
        self.write(now(), answer)
        os.write(self._progress, b".")
        return held


def _until(quota, held):
    slot = held.slot if isinstance(held, quota.Decision) else held
    return quota.clock.to_us(slot.expires_at) if slot else False


def use_slots(quota, ledger, secret, log, pick):
    """Open, spend, renew and close for ever. Some slots are left alone until they lapsed, and then used on."""
    mine, numbers, tried = {}, iter(range(10**9)), False
    closes = {"commit": lambda held, units: held.commit(units), "cancel": lambda held, _: held.cancel()}

    def renewed(held):
        held.extend(TTL)
        return held

    while True:
        late = [number for number, (held, *_) in mine.items() if held._expires < now()]
        usable = late if late and pick.random() < 0.5 else [number for number, (*_, left) in mine.items() if not left]
        op = pick.choices(("open", "keep", "call", "renew", "spend", "commit", "cancel"), (3, 1, 1, 6, 4, 2, 2))[0]
        if late and not tried:  # once in each process, not by chance: nothing revives what lapsed
            op, usable, tried = "renew", late, True
        if op in ("open", "keep", "call") or not usable:
            number, units = next(numbers), pick.randint(1, 9)
            if op == "call":
                log.call(quota, op, number, units, ledger.consume, secret, units)
                continue
            if op == "keep":
                held = log.call(
                    quota, "open", number, units, lambda units=units: ledger.consume(secret, units, keep_slot=TTL)
                )
                held = held.slot
            else:
                held = log.call(quota, "open", number, 0, lambda units=units: ledger.reserve(secret, units, ttl=TTL))
            if held:
                mine[number] = [held, 0, pick.random() < 0.3]
            continue
        number = pick.choice(usable)
        held, spent, _ = mine[number]
        units = pick.randint(1, 4)
        if op == "renew":
            log.call(quota, op, number, 0, renewed, held)
        elif op == "spend":
            mine[number][1] += units
            log.call(quota, op, number, units, lambda held=held, units=units: held.spend(units))
        else:
            del mine[number]
            log.call(quota, op, number, spent + units, lambda of=(held, spent + units): closes[op](*of) or True)


def child(quota, url, secret, seed, path, out, progress):
    """A process, by a clock of its own, until it is killed, or nobody hears of its progress any more."""
    pid = os.fork()
    if pid:
        return pid
    os.close(out)
    log = Log(path, progress)
    try:
        pick = random.Random(seed)
        apart = pick.randint(-APART, APART)
        use_slots(quota, quota.Ledger(url, clock=lambda: now() + apart), secret, log, pick)
    except BaseException:
        log.write("broke", traceback.format_exc())
        os.write(progress, b"!")
    finally:
        os._exit(1)


def play(quota, url, folder, kills, seed):
    """Four processes on the store of a URL, one of which is killed, time and again, and another begins. Then all are.

    The verdict: how often what was told, of each kind of call. Raises ``Fault``.
    """
    pick = random.Random(seed)
    with quota.Ledger(url) as ledger:
        ledger.add_plan(quota.UsagePlan("p", PLAN, alerts=()))
        secret = ledger.issue_key("k", "p", id="k").secret
    out, progress = os.pipe()
    paths, ends, alive = [], {}, {}

    def begin():
        paths.append(folder / f"{len(paths)}.log")
        paths[-1].touch()
        alive[child(quota, url, secret, pick.random(), paths[-1], out, progress)] = paths[-1]

    def kill(pid):
        os.kill(pid, signal.SIGKILL)
        tell()
        os.waitpid(pid, 0)
        ends[alive.pop(pid)] = now()

    for _ in range(4):
        begin()
    try:
        for _ in range(kills):
            calls = pick.randint(20, 150)
            while calls > 0:
                heard = os.read(out, calls)
                if b"!" in heard:
                    broke = [path.read_text() for path in paths if '["broke"' in path.read_text()]
                    raise AssertionError(broke[0].splitlines()[-1])
                calls -= len(heard)
            kill(pick.choice([*alive]))
            begin()
    finally:
        for pid in [*alive]:
            kill(pid)
    last = now()
    paths.append(folder / "referee.log")
    with quota.Ledger(url) as ledger:
        log, held = Log(paths[-1], progress), []
        while len(held) < LIMIT:  # whoever held a slot is dead
            asked = now()
            one = log.call(quota, "open", len(held), 0, lambda: ledger.reserve(secret, 1, ttl=60_000_000))
            if one:
                held.append(one)
            elif not asked <= quota.clock.to_us(one.decision.retry_at) <= now() + TTL or asked > last + TTL + GRACE:
                raise Fault(f"seed {seed}: {len(held)} slots are free, too long after the last kill")
        for one in held:
            one.cancel()
        used = ledger.status("k")[1].used
    os.close(out)
    os.close(progress)
    return Verdict([(read(path), ends.get(path)) for path in paths], seed).given(used)


def read(path):
    """The steps of a process, as it noted them."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    steps = []
    while lines:
        op, slot, units, asked = lines.pop(0)
        told, answer = lines.pop(0) if lines else (None, None)
        steps.append(Step(op, slot, units, asked, told, answer))
    return steps


class Slot:
    """All that is known of one slot: parts of time in which it was surely held, and until when it may have been."""

    def __init__(self, step, end):
        """``end``: when its process was killed; what that asked for last may have been done somewhat later."""
        self.opened = step
        self.sure = [[step.told, step.answer]] if step.answer else []
        self.may = [step.asked, step.answer or end + TTL + GRACE]
        self.least = self.most = step.units
        self.least -= step.units if step.told is None else 0
        self.spent = [0, 0]
        self.closed = False

    def renew(self, step, end):
        if step.told is None:
            self.may[1] = max(self.may[1], end + TTL + GRACE)
        elif step.answer is None:
            # Closed by its process or lapsed; a client knows the end that it was told, unless a renewal was lost.
            if step.told < self.sure[-1][1] and not self.closed:
                raise Fault(f"closed before its end: {step}")
        elif step.asked >= self.may[1]:
            raise Fault(f"revived: {step}")
        elif step.told <= self.sure[-1][1]:
            self.sure[-1][1] = max(self.sure[-1][1], step.answer)
        else:
            self.sure.append([step.told, step.answer])
        if step.answer:
            self.may[1] = max(self.may[1], step.answer)

    def spend(self, step, _):
        if step.told is None or step.answer:
            self.spent[1] += step.units
        if step.answer:
            self.spent[0] += step.units
        self._settle(*self.spent)

    def close(self, step, _):
        self.closed = True
        sure = self.sure[-1]
        if step.told is not None and step.answer is None:
            raise Fault(f"closed by nobody: {step}")
        sure[1] = min(sure[1], step.asked)
        if step.told is not None:
            self.may[1] = min(self.may[1], step.told)
        if step.op == "commit":
            self._settle(step.units if step.told else self.spent[0], step.units)

    def _settle(self, least, most):
        self.least, self.most = (self.opened.units + units for units in (least, most))


class Verdict:
    """What all processes together saw, held against what may be."""

    def __init__(self, logs, seed):
        self.seed = seed
        self.slots, self.calls, self.refused, self.seen = [], [], [], Counter()
        for number, (steps, end) in enumerate(logs):
            slots = {}
            for step in steps:
                told = "unknown" if step.told is None else "closed" if step.answer is None else bool(step.answer)
                self.seen[step.op, told] += 1
                self._note(step, end, slots, referee=number == len(logs) - 1)

    def _note(self, step, end, slots, *, referee):
        if step.op in ("open", "call") and step.answer is False:
            self.refused.append(step)
        elif step.op == "open":
            slot = Slot(step, end)
            self.slots.append(slot)
            slots[step.slot] = slot
            if referee:  # its slots are open until it has five
                slot.least = slot.most = 0
        elif step.op == "call":
            self.calls.append(step)
        else:
            slot = slots[step.slot]
            {"renew": slot.renew, "spend": slot.spend}.get(step.op, slot.close)(step, end)

    def given(self, used):
        """Never more than the limit at once; no refusal without a cause; the count is what was acknowledged."""
        try:
            self._ceiling()
            self._refusals()
            least = sum(slot.least for slot in self.slots) + sum(step.units for step in self.calls if step.answer)
            most = sum(slot.most for slot in self.slots) + sum(step.units for step in self.calls)
            if not least <= used <= most:
                raise Fault(f"counted {used}, which is not {least} to {most}")
        except Fault as fault:
            raise Fault(f"seed {self.seed}: {fault}") from None
        return self.seen

    def _ceiling(self):
        """Count the slots that were surely held, at every instant; an admission needs one at which there was room."""
        parts = [(begin, end) for slot in self.slots for begin, end in slot.sure if begin < end]
        changes = Counter()
        for begin, end in parts:
            changes[begin] += 1
            changes[end] -= 1
        instants = sorted(changes)
        counts = [*accumulate(changes[at] for at in instants)]
        if max(counts) > LIMIT:
            at = instants[counts.index(max(counts))]
            raise Fault(f"{max(counts)} slots were held at {at}")
        self.seen["at once"] = max(counts)
        for step in [*(slot.opened for slot in self.slots), *self.calls]:
            if not step.answer:
                continue
            first = max(0, bisect_right(instants, step.asked) - 1)
            room = min(counts[first : bisect_left(instants, step.told, first + 1)])
            if room >= LIMIT:
                raise Fault(f"admitted where all slots were held: {step}")

    def _refusals(self):
        """Somebody may have held each slot at some instant of a call that was refused."""
        begins = sorted(slot.may[0] for slot in self.slots)
        ends = sorted(slot.may[1] for slot in self.slots)
        for step in self.refused:
            if bisect_right(begins, step.told) - bisect_left(ends, step.asked) < LIMIT:
                raise Fault(f"refused where a slot was free: {step}")
