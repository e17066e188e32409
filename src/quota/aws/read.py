"""API Gateway's usage plans and API keys, as its command line prints them: read into ours (``aws_write`` writes them).

Facts are those of the service's model (apigateway 2015-07-09) and developer guide. What has no counterpart here is
told in ``notes``, never dropped in silence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from math import isfinite
from typing import Any

import attrs

from ..clock import EPOCH
from ..errors import InvalidSecret, InvalidValue
from ..key import ApiKey, Secret, import_secret
from ..limit import Limit, Quota
from ..plan import MOST_APIS, UsagePlan
from .limits import OFFSET, Item, Told, is_as, is_plain, read_quota, read_routes, read_throttle, whole

TEXT, JSON, OWN = "aws.", "aws-json.", "aws-own."
"""Metadata under such names is API Gateway's attributes, as text or JSON, and what the control plane notes beside them;
any other is a tag."""

NO_STAGE = "no-stage/"
_OF_KEY = ("id", "name", "value", "enabled", "createdDate", "tags")
_OF_PLAN = ("id", "name", "apiStages", "throttle", "quota", "tags")
_DEEPEST, _MOST_TAGS = 32, 50
_KEPT = ("description", "productCode")
_MORE = ("position", "nexttoken", "marker", "nextmarker", "continuationtoken", "istruncated")
_LONGEST_API = _LONGEST_NAME = 256
_STAGE = re.compile(r"[^/\s]+")


@attrs.define
class Found:
    """All that an import makes: plans, keys with the ids of their plans, and notes on what has no counterpart.

    ``warnings``: the notes on what does not bind as it did, to be looked at before calls are let in. What has no
    counterpart is kept as metadata, for ``to_aws`` to write back.
    """

    plans: list[UsagePlan] = attrs.field(factory=list)
    keys: list[tuple[ApiKey, list[str]]] = attrs.field(factory=list)
    notes: list[str] = attrs.field(factory=list)
    warnings: list[str] = attrs.field(factory=list)


def parse_json(name: str, text: str) -> list[dict[str, Any]]:
    """The items of what the AWS CLI prints, numbers exact. Raises ``InvalidValue``, naming the file."""
    accepted = "the JSON that 'aws apigateway get-...' prints, complete"
    try:
        data = json.loads(
            text.removeprefix("\ufeff"), parse_float=_to_number, parse_constant=_to_number, object_pairs_hook=_to_object
        )
    except RecursionError:
        raise InvalidValue(name, "JSON within JSON, too deep", accepted) from None
    except ValueError as error:
        raise InvalidValue(name, str(error), accepted) from None
    if _is_too_deep(data):
        raise InvalidValue(name, f"JSON within JSON, too deep: more than {_DEEPEST} times", accepted)
    more = [field for field in data if _is_more(field, data[field])] if isinstance(data, dict) else []
    if more:
        accepted = "all of them: let the AWS CLI go through the pages, or put the items of all pages together"
        raise InvalidValue(name, f"a page after which more follows ({more[0]})", accepted)
    items = data.get("items", data.get("item")) if isinstance(data, dict) else data
    if not isinstance(items, list) or not all(isinstance(item, dict) and _is_id(item.get("id")) for item in items):
        raise InvalidValue(name, type(data), 'an object with "items", each with an "id", as the AWS CLI prints it')
    return items


def _is_too_deep(data: Any) -> bool:
    """Tell what no answer of API Gateway's is: how deep JSON may be for Python itself differs between its versions."""
    level = [data]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(level)


def _to_number(text: str) -> Decimal:
    """A number that a double can hold, as exact as it stands there."""
    if not isfinite(float(text)):
        raise ValueError("a number that no double can hold")
    return Decimal(text)


def _to_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object with a name twice, of which one would be lost")
    return found


def _is_more(field: str, value: Any) -> bool:
    """Tell whether it says that the items go on in another page."""
    return field.lower().replace("_", "") in _MORE and value not in (None, "", False)


def _is_id(id_: Any) -> bool:
    return isinstance(id_, str) and 0 < len(id_) <= 256 and id_.isprintable()


def from_aws(
    plans: Sequence[Item], keys: Sequence[Item], plan_keys: Mapping[str, Sequence[Item]], api: str | None = None
) -> Found:
    """Plans, keys and associations from the items of get-usage-plans, get-api-keys and get-usage-plan-keys by plan.

    A plan's ``apis`` are its stages, each ``apiId/stage``, whose usage it counts together; or ``api`` for all plans. A
    method's throttle is that of the route ``METHOD /path``, ``ANY`` that of each method.

    Raises:
        InvalidValue: for a key without a value, an association with what is not there, two plans for one api, a limit
            that cannot be meant: nothing that was closed is opened.
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
        found.plans.append(read_plan(item, api, found))
    apis = {plan.id: plan.apis for plan in found.plans}
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
        governed = [api for plan_id in of for api in apis[plan_id]]
        if len({*governed}) < len(governed):
            raise InvalidValue(f"key {item['id']}", of, "plans of different apis: a key has one plan for each")
        found.keys.append((_key(item, values[item["id"]], found), of))
    return found


def read_plan(item: Item, api: str | None, found: Found) -> UsagePlan:
    """Return the plan of one item of get-usage-plans; see ``from_aws``."""
    id_ = str(item["id"])
    told = Told(f"plan {id_}", found.notes, found.warnings)
    _check_fields(told.of, item, _OF_PLAN)
    attributes = _Attributes()
    for field in item:
        if field not in _OF_PLAN and item[field] not in (None, "", [], {}):
            attributes.keep(field, item[field])
            if field not in _KEPT:
                told.warn(f"{field} has no counterpart")
    attributes.keep_tags(item.get("tags"))
    stages = item.get("apiStages") or []
    names = [_stage(told, stage) for stage in stages]
    if len(set(names)) < len(names):
        raise InvalidValue(f"{told.of}: apiStages", names, "each stage once")
    quotas = _quotas(item, told, attributes)
    general = None if item.get("throttle") in (None, {}) else read_throttle("throttle", item["throttle"], told)
    limits: list[Limit] = [*quotas, *([] if general is None else [general])]
    if general is not None and not is_as(general, item["throttle"]):
        attributes.keep("throttle", item["throttle"])
    methods = dict(zip(names, (stage.get("throttle") for stage in stages), strict=True))
    routes = read_routes(methods, general, told)
    if not is_plain(stages, routes):
        attributes.keep("methods", methods)
    apis = _apis(id_, api, names, told)
    if apis != tuple(names) and names:
        attributes.keep("apiStages", [{"apiId": stage["apiId"], "stage": stage["stage"]} for stage in stages])
    name = item.get("name") or ""
    fits = _is_name(name)
    if name and not fits:
        told.note("its name is too long or unprintable; named by its id")
        attributes.keep("name", name)
    metadata = attributes.metadata
    return UsagePlan(id_, limits, name=name if fits else id_, apis=apis, routes=routes, metadata=metadata)


def _check_fields(of: str, item: Item, known: Sequence[str]) -> None:
    """A field that is meant in another spelling would be lost: what it closes would be open, what it hides be shown."""
    spelt = {name.lower(): name for name in known}
    for field in item:
        name = spelt.get(field.lower(), field)
        if name != field:
            raise InvalidValue(of, field, f"the name {name!r}, as the AWS CLI prints it")


def _stage(told: Told, stage: Item) -> str:
    parts = stage["apiId"], stage["stage"]
    if not all(isinstance(part, str) and part.isprintable() and _STAGE.fullmatch(part) for part in parts):
        raise InvalidValue(f"{told.of}: apiStages", parts, "an apiId and a stage, as the AWS CLI prints them")
    return "/".join(parts)


def _apis(id_: str, api: str | None, names: Sequence[str], told: Told) -> tuple[str, ...]:
    """Return what the plan governs here.

    What was said, or its stages, or where these are too many the plan's own id.
    """
    if api is None and len(names) <= MOST_APIS and all(len(name) <= _LONGEST_API for name in names):
        return tuple(names) or (f"{NO_STAGE}{id_}",)
    if api is None:
        told.note(f"it counts {len(names)} stages together, too many or too long to name: consume with api={id_!r}")
        return (id_,)
    if names:
        told.note(f"{', '.join(names)} is the api {api!r} here")
    return (api,)


def _is_name(name: Any) -> bool:
    if not isinstance(name, str):
        raise InvalidValue("name", name, "text, as the AWS CLI prints it")
    return 0 < len(name) <= _LONGEST_NAME and name.isprintable()


def _quotas(item: Item, told: Told, attributes: _Attributes) -> list[Quota]:
    """Return a plan's quota, if it has one; an offset that moves nothing here is kept."""
    quotas = read_quota(item.get("quota"), told)
    if quotas and (offset := int(item["quota"].get("offset") or 0)) != quotas[0].period.offset:
        attributes.keep(OFFSET, offset)
    return quotas


@attrs.define
class _Attributes:
    """Attributes that a key or a plan has no field for, as metadata: printable text, else JSON; tags by name."""

    metadata: dict[str, str] = attrs.field(factory=dict)

    def keep(self, name: str, attribute: Any) -> None:
        if isinstance(attribute, str) and attribute.isprintable():
            self.metadata[TEXT + name] = attribute
        else:
            self.metadata[JSON + name] = _to_printable(attribute)

    def keep_tags(self, tags: Any) -> None:
        if not isinstance(tags, Mapping | None):
            raise InvalidValue("tags", tags, "an object of texts, as the AWS CLI prints it")
        tags = tags or {}
        if len(tags) <= _MOST_TAGS and all(_is_tag(name, text) for name, text in tags.items()):
            self.metadata |= tags
        else:
            self.keep("tags", tags)


def read_key(item: Item, found: Found) -> ApiKey:
    """Return the key of one item of get-api-keys, without a secret; see ``from_aws``."""
    id_ = str(item["id"])
    _check_fields(f"key {id_}", item, _OF_KEY)
    attributes = _Attributes()
    for name, attribute in item.items():
        if name not in _OF_KEY and attribute not in (None, "", [], {}):
            attributes.keep(name, attribute)
    attributes.keep_tags(item.get("tags"))
    name = item.get("name") or ""
    fits = _is_name(name)
    if (name and not fits) or name == id_:
        attributes.keep("name", name)
    if not fits:
        found.notes.append(f"key {id_}: its name is {'too long or unprintable' if name else 'empty'}; named by its id")
    enabled = item.get("enabled", True)
    if type(enabled) is not bool:
        raise InvalidValue(f"key {id_}: enabled", enabled, "true or false, as the AWS CLI prints it")
    return ApiKey(
        id=id_, name=name if fits else id_, account=id_, enabled=enabled,
        created_at=_instant(id_, item.get("createdDate")), metadata=attributes.metadata,
    )  # fmt: skip


def _key(item: Item, value: Any, found: Found) -> ApiKey:
    key = read_key(item, found)
    try:
        return attrs.evolve(key, secrets=(Secret.of(import_secret(value)),))
    except InvalidSecret as error:
        accepted = f"{error.accepted} (get-api-keys --include-values)"
        raise InvalidSecret(f"key {key.id}: value", error.value, accepted) from None


def _is_tag(name: str, text: Any) -> bool:
    fits = isinstance(text, str) and text.isprintable()
    return fits and not name.startswith((TEXT, JSON, OWN)) and 0 < len(name) <= 256 and name.isprintable()


def _to_printable(data: Any) -> str:
    """JSON, in which only what is not printable is escaped: a text of 125,000 characters stays about that long."""
    text = dump(data, ascii_only=False)
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def dump(data: Any, indent: int | None = None, *, ascii_only: bool = True) -> str:
    """JSON of what ``parse_json`` read, numbers as they were."""
    try:
        return json.dumps(data, default=_number, indent=indent, ensure_ascii=ascii_only)
    except RecursionError:
        raise InvalidValue("items", "JSON within JSON", "less of it: it is too deep to be kept") from None


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
