"""Plans, keys and associations written as API Gateway's command line prints them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import attrs

from .aws import JSON, NO_STAGE, PERIODS, TEXT, Item, Note, dump
from .key import ApiKey
from .plan import REQUESTS, Limit, Quota, Throttle, UsagePlan

_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
_STAGE = re.compile(r"[^/\s]+/[^/\s]+")


@attrs.define
class Written:
    """What an export makes: the items of get-usage-plans, get-api-keys and get-usage-plan-keys by plan, and notes."""

    plans: list[dict[str, Any]] = attrs.field(factory=list)
    keys: list[dict[str, Any]] = attrs.field(factory=list)
    plan_keys: dict[str, list[dict[str, Any]]] = attrs.field(factory=dict)
    notes: list[str] = attrs.field(factory=list)


def to_aws(
    plans: Iterable[UsagePlan],
    keys: Iterable[tuple[ApiKey, Sequence[str]]],
    values: Mapping[bytes, str] | None = None,
    rest: Mapping[str, Mapping[str, Item]] | None = None,
) -> Written:
    """Plans, keys and associations as API Gateway's command line prints them.

    ``values``: secrets by digest, since no ledger keeps them. ``rest``: what ``from_aws`` found no place for.
    """
    written = Written()
    known, kept = values or {}, rest or {}
    for plan in plans:
        written.plans.append(_write_plan(plan, kept.get("plans", {}).get(plan.id, {}), written.notes))
        written.plan_keys[plan.id] = []
    missing = 0
    for key, of in keys:
        value = next((known[secret.digest] for secret in key.secrets if secret.digest in known), None)
        missing += value is None
        shown = {} if value is None else {"value": value}
        item = _write_key(key, shown, kept.get("keys", {}).get(key.id, {}), written.notes)
        written.keys.append(item)
        for plan_id in of:
            name = {"name": item["name"]} if "name" in item else {}
            written.plan_keys.setdefault(plan_id, []).append({"id": key.id, "type": "API_KEY", **shown, **name})
    if missing:
        written.notes.append(f"{missing} keys are without a value: secrets are not stored, only their digests are")
    return written


def _write_key(key: ApiKey, shown: Item, rest: Item, notes: list[str]) -> dict[str, Any]:
    metadata = dict(key.metadata)
    item: dict[str, Any] = {"id": key.id, **shown}
    if key.name != key.id:
        item["name"] = key.name
    item["enabled"] = key.enabled
    if key.created_at is not None:
        item["createdDate"] = key.created_at.isoformat()
    for field in list(metadata):
        if field.startswith(JSON):
            item[field[len(JSON) :]] = json.loads(metadata.pop(field))
        elif field.startswith(TEXT):
            item[field[len(TEXT) :]] = metadata.pop(field)
    if metadata:
        item["tags"] = metadata
    item.setdefault("stageKeys", [])
    item.update(rest)
    if key.expires_at is not None:
        notes.append(f"key {key.id}: that it expires at {key.expires_at.isoformat()} has no counterpart")
    if key.account != key.id:
        notes.append(f"key {key.id}: its account {key.account!r} has no counterpart")
    if len(key.secrets) > 1:
        notes.append(f"key {key.id}: its older secrets, valid until they expire, have no counterpart")
    return item


def _write_plan(plan: UsagePlan, rest: Item, notes: list[str]) -> dict[str, Any]:
    def note(what: str) -> None:
        notes.append(f"plan {plan.id}: {what}")

    item: dict[str, Any] = {"id": plan.id, "name": plan.name}
    stages = rest.get("apiStages") or _stages(plan, note)
    item["apiStages"] = [{"apiId": stage["apiId"], "stage": stage["stage"]} for stage in stages]
    for limit in plan.limits:
        name, written = _write_limit(limit, note)
        if not written or name in item:
            note(f"limit '{limit}' has no counterpart{f': one {name} a plan' if written else ''}")
        else:
            item[name] = written
    _write_routes(plan, item["apiStages"], rest.get("methods", {}), note)
    if plan.costs:
        note("costs of routes have no counterpart")
    if plan.alerts != (80, 100):
        note("alerts have no counterpart")
    return {**item, **{name: attribute for name, attribute in rest.items() if name not in ("apiStages", "methods")}}


def _write_routes(plan: UsagePlan, stages: Sequence[dict[str, Any]], methods: Item, note: Note) -> None:
    by_stage = {f"{stage['apiId']}/{stage['stage']}": stage for stage in stages}
    for route, limits in plan.routes.items():
        stage, method, path = _place(route, by_stage)
        name, written = _write_limit(limits[0], note) if len(limits) == 1 else ("", {})
        if stage is None or name != "throttle" or not written:
            note(f"the limits of route {route!r} have no counterpart")
        else:
            stage.setdefault("throttle", {})[f"{path}/{method}"] = written
    for place, throttle in methods.items():
        name, _, method = place.partition(" ")
        if name in by_stage:
            by_stage[name].setdefault("throttle", {})[method] = throttle


def _stages(plan: UsagePlan, note: Note) -> list[dict[str, str]]:
    names = plan.api.split()
    if names and all(_STAGE.fullmatch(name) for name in names) and not plan.api.startswith(NO_STAGE):
        return [dict(zip(("apiId", "stage"), name.split("/"), strict=True)) for name in names]
    if plan.api and not plan.api.startswith(NO_STAGE):
        note(f"its api {plan.api!r} is no stage (apiId/stage)")
    return []


def _place(route: str, by_stage: Mapping[str, dict[str, Any]]) -> tuple[dict[str, Any] | None, str, str]:
    """(stage, method, path) of a route that a plan names ``METHOD /path``, behind its stage where there are several."""
    name = next(iter(by_stage), "")
    if len(by_stage) > 1:
        name, _, route = route.partition(" ")
    method, _, path = route.partition(" ")
    fits = method.isalpha() and method.isupper() and path.startswith("/")
    return by_stage.get(name) if fits else None, method, path


def _write_limit(limit: Limit, note: Note) -> tuple[str, dict[str, Any]]:
    """(quota or throttle, as the service has it); nothing when it has no counterpart."""
    name = "quota" if isinstance(limit, Quota) else "throttle"
    if limit.unit != REQUESTS or limit.by != "key":
        return name, {}
    if isinstance(limit, Throttle):
        rate = limit.rate / _SECONDS[limit.per]
        if Fraction(repr(float(rate))) != rate:
            note(f"the rate {rate} a second is rounded to {float(rate)!r}")
        return name, {"rateLimit": float(rate), "burstLimit": limit.burst}
    period = limit.period
    plain = period.count == 1 and period.zone == "UTC" and period.anchor is None and not limit.overage
    if not plain or period.every not in PERIODS.values():
        return name, {}
    return name, {"limit": limit.limit, "offset": period.offset, "period": period.every.upper()}


def to_text(items: Sequence[Item]) -> str:
    """Items as the AWS CLI prints them."""
    return dump({"items": items}, indent=4) + "\n"
