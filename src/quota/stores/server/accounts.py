"""The accounts of a store on a server: what was said of them and the tree that they are in, beside who is in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ...account import Account
from ...errors import UnknownAccount, UnknownPlan
from ...event import By, account_changed
from ...key import new_number
from ...operations.request import Upper
from ..accounts import check_empty, check_parent, is_new
from ..associations import change_of, placed
from .adding import NOBODY, TOLD, account_of, lists_of_account, put_account, relisted
from .associations import KeyPlansOnServer, pairs_of
from .cache import CachedKey
from .changes import ClearRecord, DropText, IndexKey, Mutation, Precondition, PutText, UnindexKey
from .flow import Flow, operation


class Accounts(KeyPlansOnServer):
    """Accounts. Each change of the tree goes by the stamp of all plans, so that two of them make no circle."""

    @operation
    def get_account(self, account_id: str) -> Flow[Account]:
        _, data = yield from self._account(account_id)
        return (yield from self._shown(account_of(account_id, data), data))

    @operation
    def list_accounts(
        self, after: str | None = None, limit: int | None = None, parent: str | None = None
    ) -> Flow[list[Account]]:
        if parent is not None:
            yield from self._account(parent)
        name = TOLD if parent is None else _children(parent)
        found: list[Account] = []
        for data in map(json.loads, (yield from self._list(name, after or "", limit, "accounts"))):
            found.append((yield from self._shown(account_of(data["id"], data), data)))  # noqa: PERF401 -- it yields
        return found

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
                return (yield from self._shown(account, data))
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

    @operation
    def place_account(
        self, account_id: str, plan_id: str, on: bool, at: int | str | None, now: int, by: By | None = None
    ) -> Flow[None]:
        for _ in self._attempts():
            stamp, plan_text = yield from self._read(("stamps", "*"), ("plans", plan_id))
            text, data = yield from self._account(account_id)
            if plan_text is None:
                raise UnknownPlan(plan_id)
            generation, plan = self._decode_plan(plan_text)
            entry, generations = yield from self._read_entry(data)
            latest = yield from self._latest(entry, now)
            new = change_of(on, at)(entry, plan=plan, now=latest)
            pairs = pairs_of(new, {**generations, plan_id: generation})
            checks = [Precondition("stamps", "*", stamp)]
            writes: list[Mutation] = [PutText("stamps", "*", str(new_number()))]
            yield from self._begin(account_id, text, data, {"plans": pairs}, checks, writes)
            writes += relisted(account_id, lists_of_account(data.get("plans") or ()), lists_of_account(pairs))
            writes += self._told(placed(entry, new, plan, latest, by))
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
            line = [(yield from self._read_entry(data))[0]]
            while (parent := line[-1].key.parent) is not None:
                _, data = yield from self._account(parent)
                line.append((yield from self._read_entry(data))[0])
            if (yield from self._read(("stamps", "*"))) == [stamp]:
                uppers = tuple([Upper(one.key.id, one.plans, one.scheduled) for one in line[1:]])
                return CachedKey(line[0]._replace(uppers=uppers), (stamp, stamp))
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
            writes += relisted(account_id, lists_of_account(data.get("plans") or ()), set())
            writes += self._told(account_changed(old, None, by))
            parent = old.parent
            if parent is not None:
                yield from self._unhang(account_id, parent, checks, writes)
            if (yield from self._change(checks, writes)):
                return


def is_told(data: Mapping[str, Any]) -> bool:
    """Tell whether an account is there: something was said of it, or a key of another id is in it."""
    return bool(data.get("account") or data.get("others"))


def _said(account: Account) -> dict[str, Any]:
    return {name: of for name, of in account.said().items() if name != "id"}


def _children(parent: str) -> str:
    """Name the list of the accounts below one."""
    return f"c\n{parent}"
