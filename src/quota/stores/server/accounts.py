"""The accounts of a store on a server: what was said of them and the tree that they are in, beside who is in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ...account import Account
from ...errors import UnknownAccount, UnknownPlan
from ...event import By, Draft, account_changed, account_placed
from ...key import new_number
from ...operations.request import Entry, Upper, by_api, each_once
from ...plan import UsagePlan
from ..accounts import check_empty, check_parent, is_new
from ..associations import account_on, moved
from .adding import NOBODY, TOLD, put_account
from .cache import CachedKey
from .changes import ClearRecord, DropText, IndexKey, Mutation, Precondition, PutText, UnindexKey
from .flow import Flow, operation


class Accounts:
    """Accounts. Each change of the tree goes by the stamp of all plans, so that two of them make no circle."""

    _attempts: Callable[[], Generator[int, None, None]]
    _change: Callable[[list[Precondition], Sequence[Mutation]], Flow[bool]]
    _list: Callable[..., Flow[list[str]]]
    _read: Callable[..., Flow[list[str | None]]]
    _decode_plan: Callable[[str], tuple[str, UsagePlan]]
    _told: Callable[[Sequence[Draft]], list[Mutation]]
    _split: Callable[[str, str, list[Precondition], list[Mutation]], Flow[None]]

    @operation
    def get_account(self, account_id: str) -> Flow[Account]:
        return account_of(account_id, (yield from self._account(account_id))[1])

    @operation
    def list_accounts(
        self, after: str | None = None, limit: int | None = None, parent: str | None = None
    ) -> Flow[list[Account]]:
        if parent is not None:
            yield from self._account(parent)
        name = TOLD if parent is None else _children(parent)
        texts = yield from self._list(name, after or "", limit, "accounts")
        return [account_of(data["id"], data) for data in map(json.loads, texts)]

    def _account(self, account_id: str) -> Flow[tuple[str, dict[str, Any]]]:
        """Return what there is of an account that was added, or that a key of another id is in."""
        (text,) = yield from self._read(("accounts", account_id))
        data = json.loads(text or NOBODY)
        if text is None or not is_told(data):
            raise UnknownAccount(account_id)
        return text, data

    @operation
    def add_account(self, account: Account, by: By | None = None) -> Flow[None]:
        for _ in self._attempts():
            stamp, text = yield from self._read(("stamps", "*"), ("accounts", account.id))
            data = json.loads(text or NOBODY)
            if not is_new(account, account_of(account.id, data) if data.get("account") else None):
                return
            told = self._told(account_changed(None, account, by))
            if (yield from self._put(account, None, text, data, stamp, told)):
                return

    @operation
    def change_account(
        self, account_id: str, change: Callable[[Account], Account], by: By | None = None
    ) -> Flow[Account]:
        for _ in self._attempts():
            (stamp,) = yield from self._read(("stamps", "*"))
            text, data = yield from self._account(account_id)
            old = account_of(account_id, data)
            account = change(old)
            told = self._told(account_changed(old, account, by))
            if account == old or (yield from self._put(account, old.parent, text, data, stamp, told)):
                return account
        raise AssertionError  # pragma: no cover -- attempts end by raising

    def _put(
        self, account: Account, old: str | None, text: str | None, data: dict[str, Any], stamp: str | None,
        told: list[Mutation],
    ) -> Flow[bool]:  # fmt: skip
        """Write what is said of an account, if its parent may be above it; False where something changed meanwhile."""
        checks = [Precondition("stamps", "*", stamp), Precondition("accounts", account.id, text)]
        new = put_account(account.id, {**data, "account": _said(account)})
        writes: list[Mutation] = [new, IndexKey(TOLD, account.id), *told]
        if account.parent != old:
            if account.parent is not None:
                yield from self._hang(account, data, checks, writes)
            if old is not None:
                yield from self._unhang(account.id, old, checks, writes)
            if data["members"] or data.get("children"):
                writes.append(PutText("stamps", "*", str(new_number())))
        return (yield from self._change(checks, writes))

    def _hang(
        self, account: Account, data: Mapping[str, Any], checks: list[Precondition], writes: list[Mutation]
    ) -> Flow[None]:
        """Put an account below its parent, which has a count from its first child on."""
        line: list[tuple[str, str, dict[str, Any]]] = []
        name = account.parent
        while name is not None:
            line.append((name, *(yield from self._account(name))))
            name = account_of(name, line[-1][2]).parent
        check_parent(account, [above for above, _, _ in line], (yield from self._height(account.id, data)))
        more = {"children": line[0][2].get("children", 0) + 1}
        yield from self._begin(*line[0], more, checks, writes)
        writes.append(IndexKey(_children(line[0][0]), account.id))

    def _begin(
        self, account: str, text: str, data: Mapping[str, Any], more: Mapping[str, Any], checks: list[Precondition],
        writes: list[Mutation],
    ) -> Flow[None]:  # fmt: skip
        """Give an account a count, if it has none, with what it has ``more`` from now on: a child or a plan."""
        checks.append(Precondition("accounts", account, text))
        if not data["shared"] and data["members"]:
            yield from self._split(data["sole"], account, checks, writes)
        said = data.get("account") or _said(Account(account))
        writes.append(put_account(account, {**data, "account": said, "shared": True, "sole": "", **more}))
        writes.append(IndexKey(TOLD, account))

    def _unhang(self, account: str, parent: str, checks: list[Precondition], writes: list[Mutation]) -> Flow[None]:
        text, data = yield from self._account(parent)
        checks.append(Precondition("accounts", parent, text))
        writes.append(put_account(parent, {**data, "children": data["children"] - 1}))
        writes.append(UnindexKey(_children(parent), account))

    def _height(self, account: str, data: Mapping[str, Any]) -> Flow[int]:
        """Return how many accounts are below one in a line."""
        level, height = [(account, data)], 0
        while level := [(name, of) for name, of in level if of.get("children")]:
            found: list[str] = []
            for name, _ in level:
                found += yield from self._list(_children(name), "", None, "accounts")
            level = [(of["id"], of) for of in map(json.loads, found)]
            height += 1
        return height

    def _on(self, pairs: Iterable[Sequence[str]], texts: Iterator[str | None]) -> dict[str, UsagePlan]:
        """Return the plans of pairs (id, generation), each of whose texts comes next, by api."""
        plans: dict[str, UsagePlan] = {}
        for (_, generation), text in zip(pairs, texts, strict=False):
            if text is not None:
                current, plan = self._decode_plan(text)
                if current == generation:
                    plans |= by_api([plan])
        return plans

    def _check_move(self, old: UsagePlan, new: UsagePlan, generation: str) -> Flow[None]:
        """A plan that changes its apis takes its accounts along, unless one of them has another plan there."""
        for text in (yield from self._list(TOLD, "", None, "accounts")):
            data = json.loads(text)
            if [old.id, generation] in (data.get("plans") or ()):
                moved(Entry(account_of(data["id"], data), (yield from self._plans_on(data))), old, new, 0)

    @operation
    def account_plans(self, account_id: str) -> Flow[list[UsagePlan]]:
        plans = yield from self._plans_on((yield from self._account(account_id))[1])
        return each_once(plans)

    def _plans_on(self, data: Mapping[str, Any]) -> Flow[dict[str, UsagePlan]]:
        pairs = data.get("plans") or ()
        texts = (yield from self._read(*(("plans", id_) for id_, _ in pairs))) if pairs else []
        return self._on(pairs, iter(texts))

    @operation
    def place_account(self, account_id: str, plan_id: str, on: bool, by: By | None = None) -> Flow[None]:
        for _ in self._attempts():
            stamp, plan_text = yield from self._read(("stamps", "*"), ("plans", plan_id))
            text, data = yield from self._account(account_id)
            if plan_text is None:
                raise UnknownPlan(plan_id)
            generation, plan = self._decode_plan(plan_text)
            plans, old = account_on(account_id, (yield from self._plans_on(data)), plan, on=on)
            kept = {other.id for other in plans.values()} - {plan_id}
            pairs = [pair for pair in data.get("plans") or () if pair[0] in kept]
            checks = [Precondition("stamps", "*", stamp)]
            writes: list[Mutation] = [PutText("stamps", "*", str(new_number()))]
            more = {"plans": [*pairs, [plan_id, generation]] if on else pairs}
            yield from self._begin(account_id, text, data, more, checks, writes)
            writes += self._told(account_placed(account_id, plan, old, on=on, by=by))
            if (yield from self._change(checks, writes)):
                return

    def _look_for_account(self, account_id: str) -> Flow[CachedKey | None]:
        """Return an account with its own plans and the accounts above, as they stand together; None when it is none."""
        for _ in self._attempts():
            (stamp,) = yield from self._read(("stamps", "*"))
            if stamp is None:  # by which copies are told to be fresh
                yield from self._change(
                    [Precondition("stamps", "*", None)], [PutText("stamps", "*", str(new_number()))]
                )
                continue
            try:
                _, data = yield from self._account(account_id)
            except UnknownAccount:
                return None
            line = [(account_of(account_id, data), (yield from self._plans_on(data)))]
            while (parent := line[-1][0].parent) is not None:
                _, data = yield from self._account(parent)
                line.append((account_of(parent, data), (yield from self._plans_on(data))))
            if (yield from self._read(("stamps", "*"))) == [stamp]:
                (account, plans), *above = line
                uppers = tuple([Upper(upper.id, of) for upper, of in above])
                return CachedKey(Entry(account, plans, uppers=uppers), (stamp, stamp))
        raise AssertionError  # pragma: no cover -- attempts end by raising

    @operation
    def drop_account(self, account_id: str, by: By | None = None) -> Flow[None]:
        for _ in self._attempts():
            (stamp,) = yield from self._read(("stamps", "*"))
            text, data = yield from self._account(account_id)
            keys = (yield from self._list(f"a\n{account_id}", "", 1, "keys")) if data["members"] else []
            below = (yield from self._list(_children(account_id), "", 1, "accounts")) if data.get("children") else []
            named = [json.loads(one)["key"]["id"] for one in keys], [json.loads(one)["id"] for one in below]
            check_empty(account_id, *named)  # where its last one left meanwhile, its text is another by now
            checks = [Precondition("stamps", "*", stamp), Precondition("accounts", account_id, text)]
            writes: list[Mutation] = [
                DropText("accounts", account_id), UnindexKey(TOLD, account_id), ClearRecord(f"a:{account_id}"),
                PutText("stamps", "*", str(new_number())),
            ]  # fmt: skip
            old = account_of(account_id, data)
            writes += self._told(account_changed(old, None, by))
            parent = old.parent
            if parent is not None:
                yield from self._unhang(account_id, parent, checks, writes)
            if (yield from self._change(checks, writes)):
                return


def is_told(data: Mapping[str, Any]) -> bool:
    """Tell whether an account is there: something was said of it, or a key of another id is in it."""
    return bool(data.get("account") or data.get("others"))


def account_of(account_id: str, data: Mapping[str, Any]) -> Account:
    """Return the account of what is stored of it."""
    return Account(account_id, **(data.get("account") or {}))


def _said(account: Account) -> dict[str, Any]:
    return {"name": account.name, "parent": account.parent, "metadata": dict(account.metadata)}


def _children(parent: str) -> str:
    """Name the list of the accounts below one."""
    return f"c\n{parent}"
