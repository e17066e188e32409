"""quota plan export, sync: all usage plans as a TOML file, and a store brought to what such a file says."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any

import attrs
import typer
from rich.text import Text

from ...account import Account
from ...clock import system_clock, to_us
from ...errors import InvalidPlan, InvalidValue, PlanConflict, QuotaError
from ...key import ApiKey
from ...ledger.sync import Ledger
from ...operations.request import Entry, by_api
from ...plan import UsagePlan
from ...stores.associations import deprived, moved
from ..common import JsonOption, StoreOption, Unshown, WrongUse, YesOption, confirm, opened, read_text, several
from ..show import BAD, GOOD, WARN, at, print_json, print_table, say
from .holders import Going, accounts_on, going_to, named, some

_REMOVED = "its keys are on no plan then, its accounts are limited by it no more"
_LATER = ("routes", "costs", "metadata")
"""The fields that are tables of their own."""


@attrs.frozen
class PlanChange:
    """One plan that the file changes: ``old`` None where it is added, ``new`` None where it is removed.

    ``keys``, ``accounts``: that are on it now; ``going``: who goes to it at a date.
    """

    old: UsagePlan | None
    new: UsagePlan | None
    keys: int = 0
    accounts: Sequence[Account] = ()
    going: Sequence[Going] = ()

    @property
    def kind(self) -> str:
        return "add" if self.old is None else "remove" if self.new is None else "replace"

    @property
    def id(self) -> str:
        plan: Any = self.new or self.old
        return str(plan.id)

    def fields(self) -> dict[str, list[Any]]:
        """Return each field that differs, as it is and as it will be."""
        old, new = (plan.to_dict() if plan else {} for plan in (self.old, self.new))
        return {name: [old.get(name), new.get(name)] for name in {**new, **old} if old.get(name) != new.get(name)}

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {
            "plan": self.id, "change": self.kind, "keys": self.keys,
            "accounts": [account.id for account in self.accounts],
            "going": [going.to_dict() for going in self.going], "fields": self.fields(),
        }  # fmt: skip


def to_toml(plans: Iterable[UsagePlan]) -> str:
    """Write plans as the file that ``from_toml`` reads; what is as it is by default is left out."""
    parts: list[str] = []
    for plan in plans:
        data, plain = plan.to_dict(), UsagePlan(plan.id, plan.limits).to_dict()
        said = {name: value for name, value in data.items() if name != "id" and value != plain.get(name)}
        lines = [f"[plans.{_text(plan.id)}]", f"limits = {_text(data['limits'])}"]
        lines += [f"{name} = {_text(value)}" for name, value in said.items() if name not in _LATER]
        for name in _LATER:
            if name in said:
                lines += ["", f"[plans.{_text(plan.id)}.{name}]"]
                lines += [f"{_text(of)} = {_text(value)}" for of, value in said[name].items()]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _text(value: Any) -> str:
    """Return a value as TOML has it: texts are printable, and JSON's escapes are TOML's."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_text(name)} = {_text(units)}" for name, units in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_text, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def from_toml(where: str, text: str) -> list[UsagePlan]:
    """Read all plans of a file; every error names the file, the plan and the field."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidValue(where, str(error), "TOML") from None
    if set(data) != {"plans"} or not isinstance(data["plans"], dict):
        raise InvalidValue(where, sorted(data), "a table [plans.ID] for each plan, and nothing else")
    found = []
    for id_, fields in data["plans"].items():
        if not isinstance(fields, dict) or "limits" not in fields or "id" in fields:
            raise InvalidValue(f"{where}, plan {id_}", fields, "a table with limits; the plan's id is the table's name")
        try:
            found.append(UsagePlan.from_dict({"id": id_, **fields}))
        except (InvalidPlan, TypeError) as error:
            field, value, accepted = error.args if isinstance(error, InvalidPlan) else ("plan", fields, str(error))
            raise InvalidPlan(f"{where}, plan {id_}: {field}", value, accepted) from None
    return found


def plan_changes(ledger: Ledger, plans: Iterable[UsagePlan], *, prune: bool) -> list[PlanChange]:
    """Return what it takes to bring a store to these plans: first what is added or replaced, then what is removed."""
    there = {plan.id: plan for plan in ledger.list_plans()}
    wanted = {plan.id: plan for plan in plans}
    pairs = [(there.get(id_), plan) for id_, plan in wanted.items() if there.get(id_) != plan]
    pairs += [(plan, None) for id_, plan in there.items() if prune and id_ not in wanted]  # type: ignore[misc]
    some_old = any(old for old, _ in pairs)  # else nobody can be on one, or go to it
    on, going = (accounts_on(ledger), going_to(ledger)) if some_old else ({}, {})
    return [
        PlanChange(old, new, len(ledger.list_keys(plan=old)), on.get(old.id, ()), going.get(old.id, ()))
        if old else PlanChange(old, new) for old, new in pairs
    ]  # fmt: skip


def conflicts(ledger: Ledger, changes: Sequence[PlanChange]) -> list[str]:
    """Return what a store would refuse of these changes, in words: it is told before any of them is made.

    A plan that somebody goes to at a date is not removed either: who scheduled that relies on it.
    """
    found = dict.fromkeys(
        str(PlanConflict(change.id, f"{named(going.who)} goes to it at {at(going.at)}"))
        for change in changes if change.new is None for going in change.going
    )  # fmt: skip
    plans = {plan.id: plan for plan in ledger.list_plans()}
    now = system_clock()
    for who in _moving(ledger, changes):
        goes = tuple([(plans[change.plan], to_us(change.at)) for change in who.scheduled if change.plan in plans])
        entry = Entry(who, by_api(ledger.list_plans(who)), scheduled=goes)
        try:
            for change in changes:
                entry = _changed(entry, change, now)
        except PlanConflict as error:
            found[str(error)] = None
    return list(found)


def _moving(ledger: Ledger, changes: Sequence[PlanChange]) -> Iterator[ApiKey | Account]:
    """Yield each key and account that is on a plan whose apis change, or goes to one."""
    told = set()
    for change in changes:
        if change.old is None or change.new is None or {*change.old.apis} == {*change.new.apis}:
            continue
        for who in (*ledger.list_keys(plan=change.old), *change.accounts, *(going.who for going in change.going)):
            if named(who) not in told:
                told.add(named(who))
                yield who


def _changed(entry: Entry, change: PlanChange, now: int) -> Entry:
    """Return a key or an account after a change, by the steps of the stores. Raises ``PlanConflict``."""
    if change.old is None:
        return entry
    return deprived(entry, change.old, now) if change.new is None else moved(entry, change.old, change.new, now)


def apply(ledger: Ledger, changes: list[PlanChange]) -> None:
    """Make all changes: in one transaction in a SQLite file, elsewhere one after the other, each if nobody was faster.

    Where that ends half way every plan is the old one or the new one, and the same command goes on from there.
    """
    change_plans = getattr(ledger.store, "change_plans", None)
    if change_plans is not None:
        change_plans([(change.old, change.new) for change in changes], (None, system_clock()))
        return
    for number, change in enumerate(changes):
        try:
            if change.new is None:
                ledger.remove_plan(change.id, expected=change.old)
            elif change.old is None:
                ledger.add_plan(change.new)
            else:
                ledger.replace_plan(change.new, expected=change.old)
        except QuotaError as error:
            done = f"{number} of {len(changes)} changes are made, and the same command goes on from there"
            raise Unshown(f"plan {change.id}: {error}; {done if number else 'nothing was changed'}") from error


def export(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Print all usage plans as TOML, which 'quota plan sync' reads."""
    with opened(store) as ledger:
        plans = ledger.list_plans()
    if as_json:
        print_json({"plans": [plan.to_dict() for plan in plans]})
    else:
        print(to_toml(plans), end="")


def sync(
    source: Annotated[str, typer.Argument(metavar="FILE", help="A TOML file with [plans.ID] tables; - is stdin.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove the plans that the file does not have.")] = False,
    yes: YesOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring the usage plans to what a file says. What was used stays used."""
    where = "standard input" if source == "-" else source
    plans = from_toml(where, read_text(source))
    with opened(store, create=not dry_run) as ledger:
        changes = plan_changes(ledger, plans, prune=prune)
        refused = conflicts(ledger, changes)
        if not as_json:
            _show(changes)
        if refused:
            more = f" (and {len(refused) - 1} more)" if refused[1:] else ""
            raise WrongUse(f"{where}: {refused[0]}{more}; nothing was changed")
        if changes and not dry_run:
            confirm(f"make {several(len(changes), 'change')}?", yes=yes)
            apply(ledger, changes)
    if as_json:
        print_json({"changes": [change.to_dict() for change in changes], "applied": not dry_run})
    elif not changes:
        say("nothing to change")
    else:
        say("nothing was changed: --dry-run" if dry_run else f"changed {several(len(changes), 'plan')}")


def _show(changes: list[PlanChange]) -> None:
    styles = {"add": GOOD, "replace": WARN, "remove": BAD}
    rows = []
    for change in changes:
        kind = Text(change.kind, style=styles[change.kind])
        fields = [("", _REMOVED)] if change.new is None else _lines(change)
        fields += [("its accounts", some(account.id for account in change.accounts))] if change.accounts else []
        fields += [("going to it", some(change.going))] if change.going else []
        for number, (field, what) in enumerate(fields):
            rows.append((change.id, kind, str(change.keys), field, what) if not number else ("", "", "", field, what))
    if rows:
        print_table(("plan", "change", "keys", "field", "from -> to"), rows, right=("keys",))


def _lines(change: PlanChange) -> list[tuple[str, str]]:
    told = []
    for field, (old, new) in change.fields().items():
        if field == "id" or (change.old is None and not new) or (change.old is None and field in ("name", "alerts")):
            continue
        told.append((field, _said(new) if change.old is None else f"{_said(old)} -> {_said(new)}"))
    return told


def _said(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    with suppress(TypeError):
        return str(value) if isinstance(value, (str, int)) else _text(value) if value else "none"
    return str(value)


def register(app: typer.Typer) -> None:
    """Add the commands to ``quota plan``."""
    app.command(epilog="Example: quota plan export > plans.toml")(export)
    app.command(epilog="Example: quota plan sync plans.toml --dry-run")(sync)
