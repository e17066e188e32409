"""Usage plans, and the keys that are on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ...errors import InvalidValue, PlanConflict, UnknownKey, UnknownPlan
from ...key import ApiKey, new_id
from ...plan import UsagePlan
from ...stores.base import IF_FREE
from ..limits import OFFSET, PERIODS, Item
from ..read import OWN, Found, read_plan
from ..write import write_plan
from .errors import NO_KEY, NO_PLAN, bad_request, conflict, not_found, not_in_enumeration, unreadable
from .keys import Reply, name_of
from .paging import page, rank_of
from .patches import check_quota, patched
from .plane import ACCOUNT, Plane, check_tags, stages_of
from .wire import Call, brief, list_of, object_of, text_of, texts_of

_APART = ("apiStages", "methods", "throttle", OFFSET)
_LIMITS = ("apiStages", "throttle", "quota")
_UNFILLED = "Invalid API Stage {api: %s, stage: %s} specified for usageplan %s"


def plan_data(plan: UsagePlan, *, tags: bool = False) -> dict[str, Any]:
    """Return a plan as API Gateway's JSON has it. ``tags``: also where there are none."""
    item = write_plan(plan, [])
    if tags:
        item.setdefault("tags", {})
    return item


def create_plan(plane: Plane, call: Call) -> Reply:
    """CreateUsagePlan."""
    body = call.json()
    name = text_of(body, "name")
    if not name:
        raise bad_request("Usage Plan name is required")
    item: dict[str, Any] = {"name": name, "description": text_of(body, "description") or ""}
    item |= {"tags": texts_of(body, "tags"), "apiStages": [_stage(plane, one) for one in list_of(body, "apiStages")]}
    check_tags(item["tags"])
    for field in ("throttle", "quota"):
        if given := object_of(body, field):
            item[field] = _numbers(given)
    period = item.get("quota", {}).get("period", "DAY")
    if period not in PERIODS:
        raise not_in_enumeration(brief(period), "createUsagePlanInput.quota.period", PERIODS)
    order = plane.next_order()
    while True:
        plan = make_plan({"id": new_id()[:6], **item}, {f"{OWN}order": order})
        try:
            plane.ledger.add_plan(plan)
        except PlanConflict:  # the id is another's
            continue
        return 201, plan_data(plan)


def _stage(plane: Plane, given: Mapping[str, Any]) -> dict[str, Any]:
    api, stage = text_of(given, "apiId"), text_of(given, "stage")
    if not api or not stage:
        raise bad_request(_UNFILLED)
    check_stage(plane, api, stage)
    methods = object_of(given, "throttle") or {}
    if not all(isinstance(throttle, dict) for throttle in methods.values()):
        raise unreadable("throttle must be a map of objects")
    own = {place: _numbers(throttle) for place, throttle in methods.items()}
    return {"apiId": api, "stage": stage, **({"throttle": own} if own else {})}


def check_stage(plane: Plane, api: str, stage: str) -> None:
    """Refuse a stage that the operator does not know. Raises ``Refused``."""
    if plane.stages is None:
        return
    if api not in plane.stages:
        raise not_found(f"Invalid API identifier specified {ACCOUNT}:{brief(api)}")
    if stage not in plane.stages[api]:
        raise not_found(f"API Stage not found: {brief(api)}:{brief(stage)}")


def _numbers(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is given, without what is null; numbers that are no numbers are refused."""
    found = {name: value for name, value in given.items() if value is not None}
    for name, value in found.items():
        wanted: Any = {"rateLimit": (int, float), "burstLimit": int, "limit": int, "offset": int, "period": str}.get(
            name
        )
        if wanted is not None and (isinstance(value, bool) or not isinstance(value, wanted)):
            raise unreadable(f"{name} must be a {'string' if wanted is str else 'number'}")
    return found


def make_plan(item: Item, own: Mapping[str, str]) -> UsagePlan:
    """Return the plan of an item of get-usage-plans. ``own``: what the control plane notes. Raises ``Refused``."""
    written = {**item, "apiStages": [dict(stage) for stage in item["apiStages"]]}
    if "throttle" in written:
        written["throttle"] = _doubles(written["throttle"])
    for stage in written["apiStages"]:
        if methods := stage.pop("throttle", None):
            stage["throttle"] = {place: _doubles(throttle) for place, throttle in methods.items()}
    if written.get("throttle") in (None, {}) and any(stage.get("throttle") for stage in written["apiStages"]):
        raise bad_request("Can not define fine grain throttling if usage plan throttle is not defined.")
    if quota := written.get("quota"):
        check_quota(quota)
    try:
        plan = read_plan(written, None, Found())
        return attrs.evolve(plan, metadata={**plan.metadata, **own})
    except InvalidValue as error:
        raise bad_request(brief(str(error).removeprefix(f"plan {item['id']}: "))) from None


def _doubles(throttle: Mapping[str, Any]) -> dict[str, Any]:
    """A throttle whose rate is a double, as the service's is; one beyond every double stays, to be refused."""
    rate = throttle.get("rateLimit")
    return {**throttle, "rateLimit": float(rate)} if type(rate) is int and rate < 2**53 else dict(throttle)


def get_plan(plane: Plane, _: Call, plan_id: str) -> Reply:
    """GetUsagePlan."""
    return 200, plan_data(plane.plan(plan_id), tags=True)


def list_plans(plane: Plane, call: Call) -> Reply:
    """GetUsagePlans, newest first; of a key where ``keyId`` names one."""
    key = call.one("keyId")
    plans = plane.plans_of(key) if key else plane.ledger.list_plans()
    shown, position = page(plans, call, rank_of)
    return 200, {"item": [plan_data(plan) for plan in shown], **({"position": position} if position else {})}


def update_plan(plane: Plane, call: Call, plan_id: str) -> Reply:
    """UpdateUsagePlan: all operations or none, and no change of anybody else is lost."""
    operations = call.operations("updateUsagePlanInput")

    def change(item: dict[str, Any]) -> dict[str, Any]:
        return patched(item, operations, lambda api, stage: check_stage(plane, api, stage))

    return 200, plan_data(change_plan(plane, plan_id, change), tags=True)


def change_plan(plane: Plane, plan_id: str, change: Any) -> UsagePlan:
    """Return a plan, changed in one step to what ``change`` makes of its item. Raises ``Refused``.

    It is tried again where somebody else changed the plan meanwhile: one of them always gets through.
    """
    while True:
        old = plane.plan(plan_id)
        new = _made(old, change)
        with plane.lock:
            added = set(stages_of(new)) - set(stages_of(old))
            _check_rivals_of_all(plane, new, added)
            try:
                return plane.ledger.replace_plan(new, expected=old)
            except UnknownPlan:
                raise not_found(NO_PLAN) from None
            except PlanConflict as error:
                if plane.plan(plan_id) == old:
                    _check_rivals_of_all(plane, new, added)  # a key went on another plan since it was looked
                    raise conflict(brief(error)) from None


def _made(old: UsagePlan, change: Any) -> UsagePlan:
    """The plan of a changed item; what API Gateway has no word for stays, or where limits change is told."""
    notes: list[str] = []
    before = write_plan(old, notes)
    item = change(write_plan(old, []))
    own = {name: text for name, text in old.metadata.items() if name.startswith(OWN)}
    if not notes:
        return make_plan(item, own)
    if any(item.get(field) != before.get(field) for field in _LIMITS):
        raise bad_request(
            brief(f"This plan has what API Gateway has no word for; change it in the ledger: {'; '.join(notes)}")
        )
    new = make_plan({**item, "apiStages": [], "throttle": {}, "quota": {}}, own)
    kept = {name: text for name, text in old.metadata.items() if name.partition(".")[2] in _APART}
    return attrs.evolve(old, name=new.name, metadata={**new.metadata, **kept})


def delete_plan(plane: Plane, _: Call, plan_id: str) -> Reply:
    """DeleteUsagePlan: refused while it has stages, also those that it was given since it was looked."""
    while True:
        plan = plane.plan(plan_id)
        if stages := stages_of(plan):
            raise bad_request(
                f"Cannot delete Usage Plan {brief(plan_id)} because there are API Stages associated with it, "
                f"including {stages[0]}"
            )
        try:
            plane.ledger.remove_plan(plan, expected=plan)
        except UnknownPlan:
            raise not_found(NO_PLAN) from None
        except PlanConflict:  # changed by somebody meanwhile, who got through
            continue
        return 202, None


def _check_rivals_of_all(plane: Plane, plan: UsagePlan, added: set[str]) -> None:
    """Refuse stages that a plan is given where another plan of one of its keys has them. Raises ``Refused``."""
    for key in plane.keys_on(plan.id) if added else ():
        check_rivals(plane, key, plan, added)


def check_rivals(plane: Plane, key: ApiKey, plan: UsagePlan, stages: set[str]) -> None:
    """Refuse a stage, or whatever else a plan governs, that another plan of the key has. Raises ``Refused``."""
    for other in plane.plans_of(key.id):
        shared = sorted(stages & set(stages_of(other))) or sorted({*plan.apis} & {*other.apis})
        if other.id != plan.id and shared:
            raise conflict(
                f"API Key {key.id} cannot reference multiple Usage Plans with the same API Stage: "
                f"{other.id} has {brief(shared[0])}"
            )


def _link(plane: Plane, key: ApiKey) -> dict[str, Any]:
    value, name = plane.value_of(key), name_of(key)
    shown = {"value": value} if value is not None else {}
    return {"id": key.id, "type": "API_KEY", **shown, **({"name": name} if name else {})}


def create_plan_key(plane: Plane, call: Call, plan_id: str) -> Reply:
    """CreateUsagePlanKey. A key that is on the plan already stays on it."""
    body = call.json()
    key_id, kind = text_of(body, "keyId"), text_of(body, "keyType")
    if kind != "API_KEY":
        raise bad_request("Invalid API Key type specified: the only one is API_KEY")
    with plane.lock:
        key, plan = plane.key(key_id or ""), plane.plan(plan_id)
        check_rivals(plane, key, plan, set(stages_of(plan)))
        by = plane.ledger._steps._by()
        try:
            plane.ledger.store.associate(key.id, plan.id, IF_FREE, by[1], by)
        except UnknownKey:
            raise not_found(NO_KEY) from None
        except UnknownPlan:
            raise not_found(NO_PLAN) from None
        except PlanConflict as error:  # another process put it on one since it was looked
            check_rivals(plane, key, plan, set(stages_of(plan)))
            raise conflict(brief(error)) from None
    return 201, _link(plane, key)


def list_plan_keys(plane: Plane, call: Call, plan_id: str) -> Reply:
    """GetUsagePlanKeys, newest first; ``name`` is a prefix. Of a plan that is not there: none, as AWS says."""
    name = call.one("name")
    keys = [key for key in plane.keys_on(plan_id) if not name or name_of(key).startswith(name)]
    shown, position = page(keys, call, rank_of)
    return 200, {"item": [_link(plane, key) for key in shown], **({"position": position} if position else {})}


def attached(plane: Plane, plan_id: str, key_id: str) -> tuple[UsagePlan, ApiKey]:
    """Return a plan and a key that is on it. Raises ``Refused``."""
    key = plane.key(key_id)
    plan = next((plan for plan in plane.plans_of(key_id) if plan.id == plan_id), None)
    if plan is None:
        raise not_found(NO_PLAN)
    return plan, key


def get_plan_key(plane: Plane, _: Call, plan_id: str, key_id: str) -> Reply:
    """GetUsagePlanKey."""
    return 200, _link(plane, attached(plane, plan_id, key_id)[1])


def delete_plan_key(plane: Plane, _: Call, plan_id: str, key_id: str) -> Reply:
    """DeleteUsagePlanKey."""
    attached(plane, plan_id, key_id)
    try:
        plane.ledger.dissociate(key_id, plan_id)
    except (UnknownKey, UnknownPlan, PlanConflict):
        raise not_found(NO_PLAN) from None
    return 202, None
