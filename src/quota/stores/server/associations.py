"""The plans that a key is on, and goes to, in the directory of a store on a server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, cast

from ...errors import UnknownKey, UnknownPlan
from ...event import By
from ...key import ApiKey, decode_key
from ...operations.request import Entry, by_api, each_once, settled
from ...plan import UsagePlan
from ..associations import associated, dissociated, placed, told
from .adding import Adding, lists_of
from .changes import IndexKey, Mutation, Precondition, UnindexKey
from .flow import Flow, operation


class KeyPlansOnServer(Adding):
    """Pairs of a plan's id and its generation in a key's entry; with an instant, of a plan that it goes to."""

    _list: Callable[[str, str, int | None], Flow[list[str]]]
    _values: Callable[[str], Flow[list[str]]]

    def _entry(self, key_entry: Mapping[str, Any], texts: Iterable[str | None], *, shared: bool = False) -> Entry:
        """Decode a key's entry: ``plans`` has the id and the generation of each, and when the key goes there."""
        plans: dict[str, UsagePlan] = {}
        scheduled = []
        for (_, generation, *at), text in zip(key_entry["plans"], texts, strict=True):
            current, plan = (None, None) if text is None else self._decode_plan(text)
            if plan is None or current != generation:
                continue
            if at:
                scheduled.append((plan, at[0]))
            else:
                plans |= by_api([plan])
        return Entry(decode_key(key_entry["key"]), plans, shared, tuple(scheduled))

    def _for_all_on(
        self, generation: str, change: Callable[..., Entry], now: int, *, looks: bool = False
    ) -> Flow[list[Mutation]]:
        """Return the mutations that change, by a pure step, the plans of keys on a plan for which one is scheduled.

        The others' entries name the plan by its generation, which says it all; ``looks``: whether it raises for them.
        """
        writes: list[Mutation] = []
        key_entries = [json.loads(text) for text in (yield from self._list(f"p\n{generation}", "", None))]
        found = [one for one in key_entries if looks or any(len(pair) > 2 for pair in one["plans"])]
        texts = (yield from self._values("plans")) if found else []  # once, however many keys there are
        decoded = [(*self._decode_plan(text), text) for text in texts]
        plans = {plan.id: text for _, plan, text in decoded}
        generations = {plan.id: current for current, plan, _ in decoded}
        for key_entry in found:
            entry = self._entry(key_entry, [plans.get(pair[0]) for pair in key_entry["plans"]])
            new = change(entry, now=(yield from self._latest(entry, now)))
            if entry.scheduled:
                writes += self._associations(entry, new, key_entry["plans"], generations)
        return writes

    def _read_entry(self, key_entry: Mapping[str, Any]) -> Flow[tuple[Entry, dict[str, str]]]:
        """Read the plans of a key's entry; and their generations."""
        ids = [pair[0] for pair in key_entry["plans"]]
        texts = (yield from self._read(*(("plans", id_) for id_ in ids))) if ids else []
        generations = {id_: self._decode_plan(text)[0] for id_, text in zip(ids, texts, strict=True) if text}
        return self._entry(key_entry, texts), generations

    def _latest(self, entry: Entry, now: int) -> Flow[int]:
        """Return the latest instant that a key's records know, or ``now``, where something is scheduled."""
        if not entry.scheduled:
            return now
        places = [("at", f"k:{entry.key.id}"), ("at", f"a:{entry.key.account}"), ("accounts", entry.key.account)]
        own, joint, account = yield from self._read(*places)
        shared = account is not None and json.loads(account)["shared"]
        return max(now, int(own or 0), int(joint or 0) if shared else 0)

    def _associations(
        self, old: Entry, new: Entry, pairs: Iterable[Iterable[Any]], generations: Mapping[str, str]
    ) -> list[Mutation]:
        """Return the mutations from one entry's plans to another's; ``pairs``: as the old ones are stored."""
        key = cast("ApiKey", old.key)
        found: list[list[Any]] = [[plan.id, generations[plan.id]] for plan in each_once(new.plans)]
        found += [[plan.id, generations[plan.id], at] for plan, at in new.scheduled]
        before, after = lists_of(key, pairs), lists_of(key, found)
        return [
            self._key_entry(key, found), *self._stamp(key.id), *(UnindexKey(name, key.id) for name in before - after),
            *(IndexKey(name, key.id) for name in after - before),
        ]  # fmt: skip

    def _shown(self, key_entry: Mapping[str, Any]) -> Flow[ApiKey]:
        """Return a key that tells which plans it goes to."""
        if any(len(pair) > 2 for pair in key_entry["plans"]):
            entry, _ = yield from self._read_entry(key_entry)
            return told(cast("ApiKey", entry.key), entry.scheduled)
        return decode_key(key_entry["key"])

    def _is_on(self, key_entry: Mapping[str, Any], generation: str, plan: UsagePlan, now: int) -> Flow[bool]:
        """Tell whether a key is on a plan, of that generation, at an instant."""
        pairs = [pair for pair in key_entry["plans"] if len(pair) < 3 or pair[2] <= now]
        if all(len(pair) < 3 for pair in pairs):
            return [plan.id, generation] in pairs
        entry, _ = yield from self._read_entry(key_entry)
        return plan.id in [on.id for on in settled(entry, now).plans.values()]

    def _change_plans(
        self, key_id: str, plan_id: str, change: Callable[..., Entry], now: int, by: By | None
    ) -> Flow[None]:
        """Change the plans of a key by a pure step."""
        for _ in self._attempts():
            plan_text, text, stamp, plans_stamp = yield from self._read(
                ("plans", plan_id), ("keys", key_id), ("stamps", f"k:{key_id}"), ("stamps", "*")
            )
            if text is None:
                raise UnknownKey(key_id)
            if plan_text is None:
                raise UnknownPlan(plan_id)
            key_entry, (generation, plan) = json.loads(text), self._decode_plan(plan_text)
            entry, generations = yield from self._read_entry(key_entry)
            latest = yield from self._latest(entry, now)
            new = change(entry, plan=plan, now=latest)
            checks = [Precondition("stamps", f"k:{key_id}", stamp), Precondition("stamps", "*", plans_stamp)]
            writes = self._associations(entry, new, key_entry["plans"], {**generations, plan_id: generation})
            writes += self._told(placed(entry, new, plan, latest, by))
            if (yield from self._change(checks, writes)):
                return

    @operation
    def associate(self, key_id: str, plan_id: str, at: int | str | None, now: int, by: By | None = None) -> Flow[None]:
        return self._change_plans(key_id, plan_id, partial(associated, at=at), now, by)

    @operation
    def dissociate(self, key_id: str, plan_id: str, now: int, by: By | None = None) -> Flow[None]:
        return self._change_plans(key_id, plan_id, dissociated, now, by)
