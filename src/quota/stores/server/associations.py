"""The plans that keys and accounts are on, and go to, in the directory of a store on a server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from ...account import Account, Holder
from ...errors import UnknownPlan
from ...event import By
from ...key import ApiKey, decode_key
from ...operations.request import Entry, Scheduled, by_api, each_once, settled
from ...plan import UsagePlan
from ..associations import associated, dissociated, placed, told
from .adding import NOBODY, Adding, account_of, lists_of, lists_of_account, put_account, relisted
from .changes import Mutation, Precondition
from .flow import Flow, operation


def pairs_of(entry: Entry, generations: Mapping[str, str]) -> list[list[Any]]:
    """Return what is stored of the plans that a key or an account is on, and goes to."""
    on = [[plan.id, generations[plan.id]] for plan in each_once(entry.plans)]
    return [*on, *([plan.id, generations[plan.id], at] for plan, at in entry.scheduled)]


class KeyPlansOnServer(Adding):
    """Pairs of a plan's id and its generation, of a key or an account; with an instant, of a plan that it goes to."""

    _list: Callable[..., Flow[list[str]]]
    _values: Callable[[str], Flow[list[str]]]

    def _on(
        self, pairs: Iterable[Sequence[Any]], texts: Iterable[str | None]
    ) -> tuple[dict[str, UsagePlan], tuple[Scheduled, ...]]:
        """Return the plans of pairs, whose texts come in their order: those that it is on by api, and goes to."""
        plans: dict[str, UsagePlan] = {}
        scheduled = []
        for (_, generation, *at), text in zip(pairs, texts, strict=False):
            current, plan = (None, None) if text is None else self._decode_plan(text)
            if plan is None or current != generation:
                continue
            if at:
                scheduled.append((plan, at[0]))
            else:
                plans |= by_api([plan])
        return plans, tuple(scheduled)

    def _entry(self, data: Mapping[str, Any], texts: Iterable[str | None]) -> Entry:
        """Decode what is stored of a key or an account."""
        who = decode_key(data["key"]) if "key" in data else account_of(data["id"], data)
        plans, scheduled = self._on(data.get("plans") or (), texts)
        return Entry(who, plans, scheduled=scheduled)

    def _for_all_on(
        self,
        generation: str,
        change: Callable[..., Entry],
        now: int,
        checks: list[Precondition],
        *,
        looks: bool = False,
    ) -> Flow[list[Mutation]]:
        """Return the mutations that change, by a pure step, the plans of all on a plan for whom one is scheduled.

        The others' entries name the plan by its generation, which says it all; ``looks``: whether it raises for them.
        """
        writes: list[Mutation] = []
        found = yield from self._list(f"p\n{generation}", "", None)
        found += yield from self._list(f"q\n{generation}", "", None, "accounts")
        entries = [(text, json.loads(text)) for text in found]
        entries = [one for one in entries if looks or any(len(pair) > 2 for pair in one[1]["plans"])]
        texts = (yield from self._values("plans")) if entries else []  # once, however many keys there are
        decoded = [(*self._decode_plan(text), text) for text in texts]
        plans = {plan.id: text for _, plan, text in decoded}
        generations = {plan.id: current for current, plan, _ in decoded}
        for text, data in entries:
            entry = self._entry(data, [plans.get(pair[0]) for pair in data["plans"]])
            new = change(entry, now=(yield from self._latest(entry, now)))
            if not entry.scheduled:
                continue
            pairs = pairs_of(new, generations)
            if "key" in data:
                writes += self._associations(entry.key, data["plans"], pairs)
            else:
                checks.append(Precondition("accounts", data["id"], text))
                writes.append(put_account(data["id"], {**data, "plans": pairs}))
                writes += relisted(data["id"], lists_of_account(data["plans"]), lists_of_account(pairs))
        return writes

    def _read_entry(self, data: Mapping[str, Any]) -> Flow[tuple[Entry, dict[str, str]]]:
        """Read the plans of a key or an account; and their generations."""
        ids = [pair[0] for pair in data.get("plans") or ()]
        texts = (yield from self._read(*(("plans", id_) for id_ in ids))) if ids else []
        generations = {id_: self._decode_plan(text)[0] for id_, text in zip(ids, texts, strict=True) if text}
        return self._entry(data, texts), generations

    def _latest(self, entry: Entry, now: int) -> Flow[int]:
        """Return the latest instant that the records of a key or an account know, or ``now``."""
        who = entry.key
        places, name = [], who.id if isinstance(who, Account) else who.account
        if not isinstance(who, Account):
            places.append(("at", f"k:{who.id}"))
        while name is not None:
            (text,) = yield from self._read(("accounts", name))
            data = json.loads(text or NOBODY)
            if data["shared"] or name == who.id:
                places.append(("at", f"a:{name}" if data["shared"] else f"k:{data['sole']}"))
            name = account_of(name, data).parent
        return max([now, *map(int, filter(None, (yield from self._read(*places)) if places else ()))])

    def _associations(self, key: ApiKey, old: Iterable[Iterable[Any]], new: Iterable[Iterable[Any]]) -> list[Mutation]:
        """Return the mutations from one key's pairs to others."""
        lists = relisted(key.id, lists_of(key, old), lists_of(key, new))
        return [self._key_entry(key, new), *self._stamp(key.id), *lists]

    def _shown(self, who: Holder, data: Mapping[str, Any]) -> Flow[Holder]:
        """Return a key or an account that tells which plans it goes to."""
        if any(len(pair) > 2 for pair in data.get("plans") or ()):
            entry, _ = yield from self._read_entry(data)
            return told(who, entry.scheduled)
        return who

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
            text, plan_text, stamp, plans_stamp = yield from self._there(
                "keys", key_id, ("plans", plan_id), ("stamps", f"k:{key_id}"), ("stamps", "*")
            )
            if plan_text is None:
                raise UnknownPlan(plan_id)
            key_entry, (generation, plan) = json.loads(text), self._decode_plan(plan_text)
            entry, generations = yield from self._read_entry(key_entry)
            latest = yield from self._latest(entry, now)
            new = change(entry, plan=plan, now=latest)
            checks = [Precondition("stamps", f"k:{key_id}", stamp), Precondition("stamps", "*", plans_stamp)]
            pairs = pairs_of(new, {**generations, plan_id: generation})
            writes = self._associations(entry.key, key_entry["plans"], pairs)
            writes += self._told(placed(entry, new, plan, latest, by))
            if (yield from self._change(checks, writes)):
                return

    @operation
    def associate(self, key_id: str, plan_id: str, at: int | str | None, now: int, by: By | None = None) -> Flow[None]:
        return self._change_plans(key_id, plan_id, partial(associated, at=at), now, by)

    @operation
    def dissociate(self, key_id: str, plan_id: str, now: int, by: By | None = None) -> Flow[None]:
        return self._change_plans(key_id, plan_id, dissociated, now, by)
