"""Tags of keys and plans, by ARN; no other operation changes them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ...key import ApiKey
from ..write import write_key, write_plan
from .errors import bad_request, not_found
from .keys import Reply, change_key
from .plane import Plane, changed, check_tags, retagged
from .plans import change_plan
from .wire import Call, brief, texts_of

_ARN = re.compile(r"arn:[a-z0-9-]+:apigateway:[a-z0-9-]*:[0-9]*:/(apikeys|usageplans)/([^/\s]{1,256})")

Change = Callable[[dict[str, str]], dict[str, str]]


def _resource(arn: str) -> tuple[str, str]:
    found = _ARN.fullmatch(arn)
    if found is None:
        if not arn.startswith("arn:"):
            raise bad_request("Invalid ARN specified in the request")
        raise not_found(f"Invalid resource identifier specified: {brief(arn)}")
    return found[1], found[2]


def get_tags(plane: Plane, _: Call, arn: str) -> Reply:
    """GetTags."""
    kind, id_ = _resource(arn)
    item = write_key(plane.key(id_), []) if kind == "apikeys" else write_plan(plane.plan(id_), [])
    return 200, {"tags": item.get("tags", {})}


def tag(plane: Plane, call: Call, arn: str) -> Reply:
    """TagResource: adds to the tags there are."""
    new = texts_of(call.json(), "tags")
    check_tags(new)
    return _change(plane, arn, lambda tags: {**tags, **new})


def untag(plane: Plane, call: Call, arn: str) -> Reply:
    """UntagResource: a tag that is not there is no error."""
    gone = {value for name, value in call.query if name == "tagKeys"}
    return _change(plane, arn, lambda tags: {name: text for name, text in tags.items() if name not in gone})


def _change(plane: Plane, arn: str, change: Change) -> Reply:
    kind, id_ = _resource(arn)

    def change_item(item: dict[str, Any]) -> dict[str, Any]:
        tags = change(item.get("tags", {}))
        check_tags(tags)
        return retagged(item, tags)

    def change_old(old: ApiKey) -> ApiKey:
        return changed(old, change_item(write_key(old, [])))

    if kind == "apikeys":
        change_key(plane, id_, change_old)
    else:
        change_plan(plane, id_, change_item)
    return 204, None
