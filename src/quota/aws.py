"""API Gateway's usage plans and API keys, as its command line prints them: read into ours (``aws_write`` writes them).

Facts are those of the service's model (apigateway 2015-07-09) and developer guide. What has no counterpart here is
told in ``notes``, never dropped in silence.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import attrs

from .clock import EPOCH
from .errors import InvalidPlan, InvalidSecret, InvalidValue
from .key import ApiKey, Secret, import_secret
from .period import Period
from .plan import Limit, Quota, Throttle, UsagePlan

TEXT, JSON = "aws.", "aws-json."
"""Metadata under such names is API Gateway's own attributes; any other is one of the key's tags."""

PERIODS = {"DAY": "day", "WEEK": "week", "MONTH": "month"}
NO_STAGE = "no-stage/"
_OF_KEY = ("id", "name", "value", "enabled", "createdDate", "tags")
_OF_PLAN = ("id", "name", "apiStages", "throttle", "quota")

Item = Mapping[str, Any]
Note = Callable[[str], None]


@attrs.define
class Found:
    """What an import makes: plans, keys with the ids of their plans, and notes on what has no counterpart.

    ``rest``: ``{"plans": {id: attributes}, "keys": {id: attributes}}`` that have no place here, for ``to_aws`` to write
    back.
    """

    plans: list[UsagePlan] = attrs.field(factory=list)
    keys: list[tuple[ApiKey, list[str]]] = attrs.field(factory=list)
    notes: list[str] = attrs.field(factory=list)
    rest: dict[str, dict[str, dict[str, Any]]] = attrs.field(factory=lambda: {"plans": {}, "keys": {}})


def parse_json(name: str, text: str) -> list[dict[str, Any]]:
    """The items of what the AWS CLI prints, numbers exact. Raises ``InvalidValue``, naming the file."""
    try:
        data = json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise InvalidValue(name, str(error), "the JSON that 'aws apigateway get-...' prints, complete") from None
    items = data.get("items", data.get("item")) if isinstance(data, dict) else data
    if not isinstance(items, list) or not all(isinstance(item, dict) and _is_id(item.get("id")) for item in items):
        raise InvalidValue(name, type(data), 'an object with "items", each with an "id", as the AWS CLI prints it')
    return items


def _is_id(id_: Any) -> bool:
    return isinstance(id_, str) and 0 < len(id_) <= 256 and id_.isprintable()


def from_aws(
    plans: Sequence[Item], keys: Sequence[Item], plan_keys: Mapping[str, Sequence[Item]], api: str | None = None
) -> Found:
    """Plans, keys and associations from the items of get-usage-plans, get-api-keys and get-usage-plan-keys by plan.

    A plan's ``api`` is its stages, ``apiId/stage`` separated by spaces, whose usage it counts together; or ``api`` for
    all plans. A method's throttle is that of route ``METHOD /path`` (before it the stage, where there are several).

    Raises:
        InvalidValue: for a key without a value, an association with what is not there, two plans for one api.
    """
    try:
        return _from_aws(plans, keys, plan_keys, api)
    except (AttributeError, KeyError, TypeError) as error:
        raise InvalidValue("items", f"{type(error).__name__}: {error}", "fields as the AWS CLI prints them") from None


def _from_aws(
    plans: Sequence[Item], keys: Sequence[Item], plan_keys: Mapping[str, Sequence[Item]], api: str | None
) -> Found:
    found = Found()
    for item in plans:
        found.plans.append(_plan(item, api, found))
    apis = {plan.id: plan.api for plan in found.plans}
    of_key: dict[str, list[str]] = {str(item["id"]): [] for item in keys}
    values = {str(item["id"]): item.get("value") for item in keys}
    for plan_id, items in plan_keys.items():
        if plan_id not in apis:
            raise InvalidValue("plan keys", plan_id, "the keys of a plan that is among the usage plans")
        for item in items:
            if item["id"] not in values:
                raise InvalidValue(f"keys of plan {plan_id}", item["id"], "keys that are among the API keys")
            values[item["id"]] = values[item["id"]] or item.get("value")
            of_key[item["id"]].append(plan_id)
    for item in keys:
        of = of_key[item["id"]]
        if len({apis[plan_id] for plan_id in of}) < len(of):
            raise InvalidValue(f"key {item['id']}", of, "plans of different apis: a key has one plan for each")
        found.keys.append((_key(item, values[item["id"]], found), of))
    return found


def _plan(item: Item, api: str | None, found: Found) -> UsagePlan:
    id_ = str(item["id"])
    rest = {name: item[name] for name in item if name not in _OF_PLAN and item[name] not in (None, "", [], {})}
    methods: dict[str, Any] = {}

    def note(what: str) -> None:
        found.notes.append(f"plan {id_}: {what}")

    for name in rest:
        note(f"{name} has no counterpart")
    stages = item.get("apiStages") or []
    names = [f"{stage.get('apiId')}/{stage.get('stage')}" for stage in stages]
    limits = _quota(item.get("quota"), note, rest) + _throttle("throttle", item.get("throttle"), note, rest)
    routes: dict[str, tuple[Limit, ...]] = {}
    for name, stage in zip(names, stages, strict=True):
        for place, throttle in (stage.get("throttle") or {}).items():
            path, _, method = place.rpartition("/")
            route = f"{method} {path}" if len(stages) == 1 else f"{name} {method} {path}"
            own = _throttle(f"{name} {place}", throttle, note, methods)
            if own:
                routes[route] = tuple(own)
    if methods:
        rest["methods"] = methods
    if api is not None and names:
        rest["apiStages"] = [{"apiId": stage.get("apiId"), "stage": stage.get("stage")} for stage in stages]
        note(f"{', '.join(names)} is the api {api!r} here")
    elif len(names) > 1:
        note(f"it counts {len(names)} stages together: consume with api={' '.join(names)!r}")
    if rest:
        found.rest["plans"][id_] = rest
    own_api = api if api is not None else " ".join(names) or f"{NO_STAGE}{id_}"
    return UsagePlan(id_, limits, name=item.get("name") or id_, api=own_api, routes=routes)


def _quota(quota: Item | None, note: Note, rest: dict[str, Any]) -> list[Limit]:
    if not quota:
        return []
    period = str(quota.get("period"))
    try:
        every = PERIODS.get(period.upper(), period)
        return [Quota(whole(quota.get("limit")), Period(every, offset=whole(quota.get("offset") or 0)))]
    except InvalidPlan as error:
        note(f"its quota has no counterpart ({error})")
        rest["quota"] = quota
        return []


def whole(number: Any) -> Any:
    """A number of the JSON as an int, where it is one."""
    return int(number) if isinstance(number, Decimal) and number == number.to_integral_value() else number


def _throttle(what: str, throttle: Item | None, note: Note, rest: dict[str, Any]) -> list[Limit]:
    if not throttle:
        return []
    try:
        return [Throttle(throttle["rateLimit"], burst=whole(throttle["burstLimit"]))]
    except (InvalidPlan, KeyError) as error:
        note(f"{what} has no counterpart ({error})")
        rest[what] = throttle
        return []


@attrs.define
class _Attributes:
    """A key's attributes: as metadata where they fit, as text or as JSON, else left to the rest and told."""

    id: str
    notes: list[str]
    metadata: dict[str, str] = attrs.field(factory=dict)
    rest: dict[str, Any] = attrs.field(factory=dict)

    def keep(self, name: str, attribute: Any) -> None:
        if isinstance(attribute, str) and attribute.isprintable() and len(attribute) <= _LONGEST:
            self.metadata[TEXT + name] = attribute
        elif len(text := dump(attribute)) <= _LONGEST:
            self.metadata[JSON + name] = text
        else:
            self.rest[name] = attribute
            self.notes.append(f"key {self.id}: {name} is too long to be kept ({len(text)} characters)")


def _key(item: Item, value: Any, found: Found) -> ApiKey:
    id_ = str(item["id"])
    attributes = _Attributes(id_, found.notes)
    for name, attribute in item.items():
        if name not in _OF_KEY and attribute not in (None, "", [], {}):
            attributes.keep(name, attribute)
    tags = item.get("tags") or {}
    if all(_is_tag(name, text) for name, text in tags.items()):
        attributes.metadata |= tags
    else:
        attributes.keep("tags", tags)
    name = item.get("name") or ""
    fits = 0 < len(name) <= 256 and name.isprintable()
    if (name and not fits) or name == id_:
        attributes.keep("name", name)
    if not fits:
        found.notes.append(f"key {id_}: its name is {'too long or unprintable' if name else 'empty'}; named by its id")
    if attributes.rest:
        found.rest["keys"][id_] = attributes.rest
    try:
        secret = Secret.of(import_secret(value))
    except InvalidSecret as error:
        accepted = f"{error.accepted} (get-api-keys --include-values)"
        raise InvalidSecret(f"key {id_}: value", error.value, accepted) from None
    return ApiKey(
        id=id_, name=name if fits else id_, account=id_, enabled=bool(item.get("enabled", True)),
        created_at=_instant(id_, item.get("createdDate")), metadata=attributes.metadata, secrets=(secret,),
    )  # fmt: skip


_LONGEST = 4096


def _is_tag(name: str, text: Any) -> bool:
    fits = isinstance(text, str) and len(text) <= _LONGEST and text.isprintable()
    return fits and not name.startswith((TEXT, JSON)) and 0 < len(name) <= 256 and name.isprintable()


def dump(data: Any, indent: int | None = None) -> str:
    """JSON of what ``parse_json`` read, numbers as they were."""
    return json.dumps(data, default=_number, indent=indent)


def _number(data: Any) -> Any:
    """JSON of what ``parse_json`` made of a number."""
    if not isinstance(data, Decimal):
        raise TypeError(type(data))
    return whole(data) if data == data.to_integral_value() and "." not in str(data) else float(data)


def _instant(id_: str, value: Any) -> datetime | None:
    """ISO 8601 (AWS CLI 2) or seconds since the epoch (AWS CLI 1)."""
    if value is None:
        return None
    try:
        if isinstance(value, str):
            instant = datetime.fromisoformat(value)
            return instant if instant.tzinfo else instant.replace(tzinfo=timezone.utc)
        return EPOCH + timedelta(microseconds=int(value * 1_000_000))
    except (ValueError, TypeError, OverflowError):
        raise InvalidValue(f"key {id_}: createdDate", value, "an ISO 8601 instant or seconds since the epoch") from None
