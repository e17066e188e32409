"""Plans, keys and associations written as API Gateway's command line prints them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import attrs

from ..key import ApiKey
from ..limit import REQUESTS, Concurrency, Limit, Quota, Throttle
from ..plan import UsagePlan
from .limits import OFFSET, PERIODS, Item, Told, in_short, read_routes, read_throttle
from .read import JSON, NO_STAGE, OWN, TEXT, dump

Note = Callable[[str], None]

_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
_STAGE = re.compile(r"[^/\s]+/[^/\s]+")


@attrs.define
class Written:
    """All that an export makes.

    The items of get-usage-plans, get-api-keys and get-usage-plan-keys by plan, and notes.
    """

    plans: list[dict[str, Any]] = attrs.field(factory=list)
    keys: list[dict[str, Any]] = attrs.field(factory=list)
    plan_keys: dict[str, list[dict[str, Any]]] = attrs.field(factory=dict)
    notes: list[str] = attrs.field(factory=list)


def to_aws(
    plans: Iterable[UsagePlan],
    keys: Iterable[tuple[ApiKey, Sequence[str]]],
    values: Mapping[bytes, str] | None = None,
) -> Written:
    """Plans, keys and associations as API Gateway's command line prints them.

    ``values``: secrets by digest, since no ledger keeps them.
    """
    written = Written()
    known = values or {}
    for plan in plans:
        written.plans.append(write_plan(plan, written.notes))
        written.plan_keys[plan.id] = []
    missing = 0
    for key, of in keys:
        value = next((known[secret.digest] for secret in key.secrets if secret.digest in known), None)
        missing += value is None
        shown = {} if value is None else {"value": value}
        item = write_key(key, written.notes, shown)
        written.keys.append(item)
        for plan_id in of:
            name = {"name": item["name"]} if "name" in item else {}
            written.plan_keys.setdefault(plan_id, []).append({"id": key.id, "type": "API_KEY", **shown, **name})
    if missing:
        written.notes.append(f"{missing} keys are without a value: secrets are not stored, only their digests are")
    return written


def _attributes(metadata: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what ``from_aws`` kept as metadata: (attributes, tags)."""
    kept: dict[str, Any] = {}
    tags: dict[str, str] = {}
    for name, text in metadata.items():
        if name.startswith(JSON):
            kept[name[len(JSON) :]] = json.loads(text)
        elif name.startswith(TEXT):
            kept[name[len(TEXT) :]] = text
        elif not name.startswith(OWN):
            tags[name] = text
    return kept, {**tags, **kept.pop("tags", {})}


def write_key(key: ApiKey, notes: list[str], shown: Item = MappingProxyType({})) -> dict[str, Any]:
    """Return a key as an item of get-api-keys. ``shown``: its value, where it is known."""
    kept, tags = _attributes(key.metadata)
    item: dict[str, Any] = {"id": key.id, **shown}
    if key.name != key.id:
        item["name"] = key.name
    item["enabled"] = key.enabled
    if key.created_at is not None:
        item["createdDate"] = key.created_at.isoformat()
    item.update(kept)
    if tags:
        item["tags"] = tags
    item.setdefault("stageKeys", [])
    if key.expires_at is not None:
        notes.append(f"key {key.id}: that it expires at {key.expires_at.isoformat()} has no counterpart")
    if key.account != key.id:
        notes.append(f"key {key.id}: its account {key.account!r} has no counterpart")
    if len(key.secrets) > 1:
        notes.append(f"key {key.id}: its older secrets, valid until they expire, have no counterpart")
    return item


def write_plan(plan: UsagePlan, notes: list[str]) -> dict[str, Any]:
    """Return a plan as an item of get-usage-plans."""

    def note(what: str) -> None:
        notes.append(f"plan {plan.id}: {what}")

    rest, tags = _attributes(plan.metadata)
    item: dict[str, Any] = {"id": plan.id, "name": plan.name, **({"tags": tags} if tags else {})}
    stages = rest.get("apiStages") or _stages(plan, note)
    item["apiStages"] = [{"apiId": stage["apiId"], "stage": stage["stage"]} for stage in stages]
    told = Told(f"plan {plan.id}", [], [])
    general = read_throttle("throttle", rest["throttle"], told) if "throttle" in rest else None
    for limit in plan.limits:
        name, written = ("throttle", dict(rest["throttle"])) if limit == general else _write_limit(limit, note)
        if not written or name in item:
            note(f"limit '{limit}' has no counterpart{f': one {name} a plan' if written else ''}")
        else:
            item[name] = written
    if item.get("quota", {}).get("period") == "DAY":
        item["quota"] |= {"offset": rest[OFFSET]} if OFFSET in rest else {}
    known = _write_methods(plan, item["apiStages"], rest.get("methods", {}), told)
    _write_routes({route: plan.routes[route] for route in plan.routes if route not in known}, item["apiStages"], note)
    if plan.costs:
        note("costs of routes have no counterpart")
    if plan.alerts != (80, 100):
        note("alerts have no counterpart")
    apart = ("apiStages", "methods", "throttle", OFFSET, *(["name"] if plan.name != plan.id else []))
    return {**item, **{name: attribute for name, attribute in rest.items() if name not in apart}}


def _write_methods(plan: UsagePlan, stages: Sequence[dict[str, Any]], methods: Item, told: Told) -> set[str]:
    """The throttles of methods that an import read, as they were, where the plan still has them so; its routes."""
    general = next((limit for limit in plan.limits if isinstance(limit, Throttle)), None)
    read = read_routes(methods, general, told)
    if any(plan.routes.get(route) != (limit,) for route, limit in read.items()):
        return set()
    for stage in stages:
        if own := methods.get(f"{stage['apiId']}/{stage['stage']}"):
            stage["throttle"] = dict(own)
    return set(read)


def _write_routes(routes: Mapping[str, Sequence[Limit]], stages: Sequence[dict[str, Any]], note: Note) -> None:
    by_stage = {f"{stage['apiId']}/{stage['stage']}": stage for stage in stages}
    for route, limits in routes.items():
        places, method, path = _place(route, by_stage)
        name, written = _write_limit(limits[0], note) if len(limits) == 1 else ("", {})
        if not places or name != "throttle" or not written:
            note(f"the limits of route {route!r} have no counterpart")
            continue
        for stage in places:
            stage.setdefault("throttle", {})[f"{path}/{method}"] = written


def _stages(plan: UsagePlan, note: Note) -> list[dict[str, str]]:
    names = [name for name in plan.apis if name and not name.startswith(NO_STAGE)]
    for name in names:
        if not _STAGE.fullmatch(name):
            note(f"its api {name!r} is no stage (apiId/stage)")
    return [dict(zip(("apiId", "stage"), name.split("/"), strict=True)) for name in names if _STAGE.fullmatch(name)]


def _place(route: str, by_stage: Mapping[str, dict[str, Any]]) -> tuple[list[dict[str, Any]], str, str]:
    """(stages, method, path) of a route: ``METHOD /path``, behind a stage where it is of that alone."""
    name, _, behind = route.partition(" ")
    method, _, path = (behind if name in by_stage else route).partition(" ")
    stages = [by_stage[name]] if name in by_stage else list(by_stage.values())
    fits = method.isalpha() and method.isupper() and path.startswith("/")
    return stages if fits else [], method, path


def _write_limit(limit: Limit, note: Note) -> tuple[str, dict[str, Any]]:
    """(quota or throttle, as the service has it); nothing when it has no counterpart."""
    name = "throttle" if isinstance(limit, Throttle) else "quota"
    if isinstance(limit, Concurrency) or limit.unit != REQUESTS or limit.by != "key":
        return name, {}
    if isinstance(limit, Throttle):
        rate = limit.rate / _SECONDS[limit.per]
        if not in_short(attrs.evolve(limit, rate=rate, per="second")):
            note(f"the rate {rate} a second is rounded to {float(rate)!r}")
        return name, {"rateLimit": float(rate), "burstLimit": limit.burst}
    period = limit.period
    plain = period.count == 1 and period.zone == "UTC" and period.anchor is None and not limit.overage
    if not plain or period.every not in PERIODS.values():
        return name, {}
    return name, {"limit": limit.limit, "offset": period.offset, "period": period.every.upper()}


def quota_of(plan: UsagePlan) -> Quota | None:
    """Return the quota that API Gateway shows of a plan."""
    return next(
        (limit for limit in plan.limits if isinstance(limit, Quota) and _write_limit(limit, lambda _: None)[1]), None
    )


def to_text(items: Sequence[Item]) -> str:
    """Items as the AWS CLI prints them."""
    return dump({"items": items}, indent=4) + "\n"
