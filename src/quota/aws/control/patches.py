"""The patches of usage plans: operations in order, on a plan's item; what stands at the end is checked as a whole."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from .errors import bad_request, not_found
from .keys import wrong_path
from .wire import Operation, brief

_S = "/apiStages/<apidId:stageName>/throttle"
_METHOD = f"{_S}/<resourcePath>/<httpMethod>"
_QUOTA = ("limit", "offset", "period")
_THROTTLE = ("rateLimit", "burstLimit")
_NUMBERS = (*(f"/quota/{name}" for name in _QUOTA), *(f"/throttle/{name}" for name in _THROTTLE))
_METHODS = (_S, *(f"{_METHOD}/{name}" for name in _THROTTLE))
ACCEPTED = {
    "replace": ("/name", "/description", "/productCode", *_NUMBERS, *_METHODS),
    "add": ("/apiStages", "/productCode", *_NUMBERS, *_METHODS),
    "remove": ("/apiStages", "/quota", "/throttle", "/productCode", _METHOD, _S),
}
"""The paths that each operation has, as the service lists them."""

_STAGED = re.compile(r"/apiStages/([^/]+)/throttle(?:/(.*))?", re.DOTALL)
_WHOLE = re.compile(r"-?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]{1,18}(\.[0-9]{0,30})?|\.[0-9]{1,30})([eE][+-]?[0-9]{1,3})?")

Check = Callable[[str, str], None]
Item = dict[str, Any]


def patched(item: Item, operations: Sequence[Operation], check_stage: Check) -> Item:
    """Return a plan's item after all operations. Raises ``Refused``."""
    for operation in operations:
        _apply(item, operation, check_stage)
    if not item.get("name"):
        raise bad_request("Usage Plan name is required")
    return item


def check_quota(quota: Item) -> None:
    """Refuse a quota without a limit, or without a period. Raises ``Refused``."""
    if type(quota.get("limit")) is not int or quota["limit"] < 0:
        raise bad_request("Usage Plan quota limit must be a non-negative numeric")
    if quota.get("period") is None:
        raise bad_request("Usage Plan quota period must be specified")


def _apply(item: Item, operation: Operation, check_stage: Check) -> None:
    op, path, value = operation
    accepted = ACCEPTED.get(op, ())
    staged = _STAGED.fullmatch(path)
    if staged and accepted:
        _apply_to_methods(item, operation, staged[1], staged[2])
    elif path not in accepted:
        raise wrong_path(operation, accepted)
    elif path == "/apiStages":
        _apply_to_stages(item, op, value, check_stage)
    elif op == "remove":
        item.pop(path[1:], None)
    elif path in _NUMBERS:
        _, part, name = path.split("/")
        item[part] = {**item.get(part, {}), name: _parse(path, name, value)}
    else:
        item[path[1:]] = value or ""


def _parse(path: str, name: str, value: str | None) -> Any:
    text = (value or "").strip()
    if name == "period":
        return text
    if name == "rateLimit" and _NUMBER.fullmatch(text):
        return float(text)
    if name != "rateLimit" and _WHOLE.fullmatch(text):
        return int(text)
    raise bad_request(f"Invalid patch value '{brief(value)}' specified for path '{brief(path)}': a number is expected")


def _apply_to_stages(item: Item, op: str, value: str | None, check_stage: Check) -> None:
    api, separator, stage = (value or "").partition(":")
    if not api or not separator or not stage:
        raise bad_request("Invalid API Stage specified")
    stages = item["apiStages"]
    there = next((one for one in stages if (one["apiId"], one["stage"]) == (api, stage)), None)
    if op == "add":
        check_stage(api, stage)
        if there is None:
            stages.append({"apiId": api, "stage": stage})
    elif there is None:
        raise not_found(_no_stage(item, api, stage))
    else:
        stages.remove(there)


def _no_stage(item: Item, api: str, stage: str) -> str:
    return f"Invalid API Stage {{api: {brief(api)}, stage: {brief(stage)}}} specified for usageplan {item['id']}"


def _apply_to_methods(item: Item, operation: Operation, named: str, place: str | None) -> None:
    """The throttles of a stage's methods: all of them, a method's, or one number of it.

    A path of a resource keeps its slash, ``...throttle//pets/GET``, or has it as ``~1``; without one it is added.
    """
    op, _, value = operation
    api, _, stage = named.replace("~1", "/").partition(":")
    there = next((one for one in item["apiStages"] if (one["apiId"], one["stage"]) == (api, stage)), None)
    if there is None:
        raise not_found(_no_stage(item, api, stage))
    methods = there.setdefault("throttle", {})
    if place is None:
        there["throttle"] = {} if op == "remove" else _parse_map(value)
    elif op == "remove":
        methods.pop(_method(operation, place), None)
    else:
        method, _, name = place.rpartition("/")
        if name not in _THROTTLE:
            raise wrong_path(operation, ACCEPTED[op])
        method = _method(operation, method)
        methods[method] = {**methods.get(method, {}), name: _parse(operation.path, name, value)}
    if not there["throttle"]:
        del there["throttle"]


def _method(operation: Operation, place: str) -> str:
    path, _, method = place.replace("~1", "/").replace("~0", "~").rpartition("/")
    if not method:
        raise wrong_path(operation, ACCEPTED[operation.op])
    return f"{path if path.startswith('/') else '/' + path}/{method}"


def _parse_map(value: str | None) -> dict[str, Any]:
    """The throttles of methods, as JSON text; their numbers may be texts."""
    wrong = bad_request("Invalid patch value specified: a map from resource path and method to a throttle is expected")
    try:
        data = json.loads(value or "{}", parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        raise wrong from None
    if not isinstance(data, dict) or not all(isinstance(one, dict) for one in data.values()):
        raise wrong
    found = {}
    for place, throttle in data.items():
        path, _, method = place.rpartition("/")
        own = {name: throttle[name] for name in _THROTTLE if throttle.get(name) is not None}
        for name, number in own.items():
            if type(number) not in (str, int, float):
                raise wrong
            own[name] = _parse(place, name, str(number))
        found[f"{path if path.startswith('/') else '/' + path}/{method}"] = own
    return found
