"""Keys that are added to the directory of a store on a server, and the accounts that they join."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any

from ...account import Account
from ...errors import PlanConflict, UnknownKey, UnknownPlan
from ...event import By, Draft, Event, key_added
from ...key import ApiKey, encode_key, new_number
from ...plan import UsagePlan
from ...rule.limits import StoreOptions
from ..associations import check_apart
from ..base import check_distinct
from ..texts import encode_draft, to_json
from .changes import ClearRecord, CopyRecord, IndexKey, Mutation, Place, Precondition, PutText, Tell, UnindexKey
from .flow import Flow, operation

NOBODY = '{"members": 0, "shared": false, "sole": "", "others": 0}'


def put_account(id_: str, account: Mapping[str, Any]) -> PutText:
    """Write an account.

    ``members``: its keys; ``others``: those whose id is not the account's. ``shared``: it has a count of its own.
    ``sole``: the only member there ever was; when a second one joins, what it used becomes the account's.
    """
    return PutText("accounts", id_, to_json({"id": id_, **account}))


ALL = "k"
"""The list of all keys."""
TOLD = "o"
"""The list of all accounts that are there: something was said of them, or a key of another id is in them."""


def lists_of(key: ApiKey, plans: Iterable[Iterable[Any]]) -> set[str]:
    """Name the lists that a key is on: of all keys, of its account, and of each plan that it is on or goes to."""
    return {ALL, f"a\n{key.account}", *(f"p\n{generation}" for _, generation, *_ in plans)}


def lists_of_account(plans: Iterable[Iterable[Any]]) -> set[str]:
    """Name the lists that an account is on for its plans: of each that it is on or goes to."""
    return {f"q\n{generation}" for _, generation, *_ in plans}


def relisted(id_: str, before: set[str], after: set[str]) -> list[Mutation]:
    """Return the mutations that take a key or an account from some lists to others."""
    return [*(UnindexKey(name, id_) for name in before - after), *(IndexKey(name, id_) for name in after - before)]


def account_of(account_id: str, data: Mapping[str, Any]) -> Account:
    """Return the account of what is stored of it."""
    return Account(account_id, **(data.get("account") or {}))


class Adding:
    """The way that keys are added: all of them or none, in one change."""

    _attempts: Callable[[], Generator[int, None, None]]
    _change: Callable[[list[Precondition], Sequence[Mutation]], Flow[bool]]
    _decode_plan: Callable[[str], tuple[str, UsagePlan]]
    _read: Callable[..., Flow[list[str | None]]]
    options: StoreOptions

    def _there(self, part: str, name: str, *more: Place) -> Flow[list[Any]]:
        """Read what must be there, and more beside it. Raises ``UnknownKey``, ``UnknownPlan``."""
        texts = yield from self._read((part, name), *more)
        if texts[0] is None:
            raise (UnknownKey if part == "keys" else UnknownPlan)(name)
        return texts

    def _key_entry(self, key: Any, plans: Iterable[Iterable[Any]]) -> PutText:
        return PutText("keys", key.id, to_json({"key": encode_key(key), "plans": [list(pair) for pair in plans]}))

    def _stamp(self, key_id: str) -> list[Mutation]:
        """Return what tells every copy of the key that it is stale, and a plan that moves that some key changed."""
        return [PutText("stamps", name, str(new_number())) for name in (f"k:{key_id}", "**")]

    def _events(self, after: int, limit: int) -> Flow[list[Event]]:
        """Read the outbox beyond a number."""
        raise NotImplementedError

    @operation
    def events(self, after: int, limit: int) -> Flow[list[Event]]:
        return self._events(after, limit)

    def _told(self, told: Sequence[Draft]) -> list[Mutation]:
        """Return what writes drafts to the outbox."""
        kept = self.options.retention
        return [Tell(one.at, one.key, one.account, encode_draft(one), one.since(kept)) for one in told]

    @operation
    def add_keys(self, keys: Sequence[tuple[ApiKey, Sequence[str]]], by: By | None = None) -> Flow[None]:
        check_distinct(keys)
        stamps = [("stamps", f"k:{key.id}") for key, _ in keys]
        digests = [("secrets", secret.digest.hex()) for key, _ in keys for secret in key.secrets]
        plans = [("plans", id_) for id_ in dict.fromkeys(id_ for _, ids in keys for id_ in ids)]
        accounts = Counter(key.account for key, _ in keys)
        shared = [place for id_ in accounts for place in (("accounts", id_), ("use", f"a:{id_}"))]
        for _ in self._attempts():
            places = [("stamps", "*"), *stamps, *digests, *plans, *shared]
            there = dict(zip(places, (yield from self._read(*places)), strict=True))
            checks, writes = self._check_new(keys, there), list[Mutation]()
            if plans:
                checks.append(Precondition("stamps", "*", there["stamps", "*"]))
            found = {id_: self._decode_plan(there["plans", id_] or "") for _, id_ in plans}
            for key, ids in keys:
                check_apart(key.id, [found[id_][1] for id_ in ids])
                pairs = [(id_, found[id_][0]) for id_ in ids]
                writes += [self._key_entry(key, pairs), *self._stamp(key.id), ClearRecord(f"k:{key.id}")]
                writes += [PutText("secrets", secret.digest.hex(), key.id) for secret in key.secrets]
                writes += [IndexKey(name, key.id) for name in lists_of(key, pairs)]
                writes += self._told(key_added(key, [found[id_][1] for id_ in ids], by))
            for id_, joining in accounts.items():
                yield from self._join(id_, joining, keys, there, checks, writes)
            if (yield from self._change(checks, writes)):
                return

    def _check_new(
        self, keys: Sequence[tuple[ApiKey, Sequence[str]]], there: Mapping[Place, str | None]
    ) -> list[Precondition]:
        """Return what must still be missing when the keys are added; raises where something is in their way."""
        checks = []
        for key, ids in keys:
            if there["stamps", f"k:{key.id}"] is not None:
                raise PlanConflict(key.id, "an API key has this id already")
            if any(there["secrets", secret.digest.hex()] for secret in key.secrets):
                raise PlanConflict(key.id, "another API key has this secret")
            for id_ in ids:
                if there["plans", id_] is None:
                    raise UnknownPlan(id_)
            checks.append(Precondition("stamps", f"k:{key.id}", None))
            checks += [Precondition("secrets", secret.digest.hex(), None) for secret in key.secrets]
        return checks

    def _join(
        self, id_: str, joining: int, keys: Sequence[tuple[ApiKey, Sequence[str]]], there: Mapping[Place, str | None],
        checks: list[Precondition], writes: list[Mutation],
    ) -> Flow[None]:  # fmt: skip
        """Keys join an account, which is shared from its second one on."""
        text, joint = there["accounts", id_], there["use", f"a:{id_}"]
        account = json.loads(text or NOBODY)
        checks.append(Precondition("accounts", id_, text))
        shared = account["shared"] or account["members"] + joining > 1
        if account["members"] and not account["shared"]:
            yield from self._split(account["sole"], id_, checks, writes)
        if not account["members"]:  # what keys that are gone used is the account's count, for as long as it matters
            checks.append(Precondition("use", f"a:{id_}", joint))
            shared = shared or joint is not None
        ids = [key.id for key, _ in keys if key.account == id_]
        others = account["others"] + sum(of != id_ for of in ids)
        more = {"members": account["members"] + joining, "others": others, "shared": shared}
        writes.append(put_account(id_, {**account, **more, "sole": "" if shared else ids[0]}))
        if others:
            writes.append(IndexKey(TOLD, id_))

    def _split(self, sole: str, account: str, checks: list[Precondition], writes: list[Mutation]) -> Flow[None]:
        """A second key joins: what the first one used is the account's count, and goes on being its own."""
        own, joint = f"k:{sole}", f"a:{account}"
        (version,) = yield from self._read(("use", own))
        checks.append(Precondition("use", own, version))
        writes += [ClearRecord(joint) if version is None else CopyRecord(own, joint), *self._stamp(sole)]
