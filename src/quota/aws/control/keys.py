"""API keys: create, import, read, list, patch, delete."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import attrs

from ...errors import InvalidSecret, InvalidValue, PlanConflict, UnknownKey, UnknownPlan
from ...key import ApiKey, Secret, import_secret, mint_plain, new_id
from ..keys_csv import CsvKey, parse_csv
from ..read import OWN, Found, read_key
from ..table import add_rows
from ..write import write_key
from .errors import NO_KEY, bad_request, conflict, not_found, not_in_enumeration, unreadable
from .instants import epoch_seconds
from .paging import page, rank_of
from .plane import Plane, changed, check_tags, stages_of
from .wire import Call, Operation, brief, flag_of, list_of, text_of, texts_of

Reply = tuple[int, dict[str, Any] | None]

OVERTAKEN = "Unable to complete operation due to concurrent modification. Please try again later."
_LONGEST_NAME = 1024
_LONGEST_DESCRIPTION = 125_000
_REPLACED = ("/description", "/enabled", "/name", "/customerId")
_LISTED = ("/labels", "/stages")


def key_data(key: ApiKey, value: str | None = None, *, tags: bool = False) -> dict[str, Any]:
    """Return a key as API Gateway's JSON has it. ``tags``: also where there are none."""
    item = write_key(key, [], {} if value is None else {"value": value})
    created = epoch_seconds(item.get("createdDate"))
    item["createdDate"] = created
    item["lastUpdatedDate"] = epoch_seconds(item["lastUpdatedDate"]) if "lastUpdatedDate" in item else created
    if tags:
        item.setdefault("tags", {})
    return item


def check_key(item: dict[str, Any]) -> None:
    """Refuse a name or a description that is too long. Raises ``Refused``."""
    if len(item.get("name") or "") > _LONGEST_NAME:
        raise bad_request(f"Invalid API Key name, can be at most {_LONGEST_NAME} characters.")
    if len(item.get("description") or "") > _LONGEST_DESCRIPTION:
        raise bad_request("Invalid API Key description specified.")


def read_value(value: str) -> Secret:
    """Return the secret of a value, checked. Raises ``Refused``."""
    if len(value) < 20:
        raise bad_request("API Key value should be at least 20 characters")
    if len(value) > 128:
        raise bad_request("API Key value exceeds maximum size of 128 characters")
    try:
        return Secret.of(import_secret(value))
    except InvalidSecret as error:
        raise bad_request(f"Invalid API Key value: {error.value}; expected {error.accepted}") from None


def create_key(plane: Plane, call: Call) -> Reply:
    """CreateApiKey: disabled unless it says otherwise; its value is made where none is given."""
    body = call.json()
    item: dict[str, Any] = {
        name: text_of(body, name) or "" for name in ("name", "description", "customerId")
    }  # fmt: skip
    item |= {"enabled": flag_of(body, "enabled") or False, "tags": texts_of(body, "tags")}
    item["stageKeys"] = [_stage_key(stage) for stage in list_of(body, "stageKeys")]
    value = text_of(body, "value") or mint_plain()
    check_key(item)
    check_tags(item["tags"])
    key = make_key(plane, item, value)
    try:
        plane.ledger.store.add_keys([(key, [])], plane.ledger._steps._by())
    except PlanConflict:
        raise conflict("API Key already exists") from None
    return 201, key_data(key, value)


def make_key(plane: Plane, item: dict[str, Any], value: str) -> ApiKey:
    """Return a new key of an item of get-api-keys, now, with its place in the order of creation."""
    secret = read_value(value)
    now = plane.now_text()
    try:
        key = read_key({"id": new_id(), **item, "createdDate": now, "lastUpdatedDate": now}, Found())
        own = {f"{OWN}order": plane.next_order(), **plane.kept(value)}
        return attrs.evolve(key, secrets=(secret,), metadata={**key.metadata, **own})
    except InvalidValue as error:
        raise bad_request(brief(error)) from None


def _stage_key(stage: dict[str, Any]) -> str:
    api, name = text_of(stage, "restApiId"), text_of(stage, "stageName")
    if not api or not name:
        raise bad_request("Invalid stage identifier specified")
    return f"{api}/{name}"


def get_key(plane: Plane, call: Call, key_id: str) -> Reply:
    """GetApiKey."""
    key = plane.key(key_id)
    return 200, key_data(key, plane.value_of(key) if call.flag("includeValue") else None, tags=True)


def list_keys(plane: Plane, call: Call) -> Reply:
    """GetApiKeys, newest first; ``name`` is a prefix."""
    name, customer = call.one("name"), call.one("customerId")
    keys = plane.ledger.list_keys()
    if name:
        keys = [key for key in keys if name_of(key).startswith(name)]
    if customer:
        keys = [key for key in keys if write_key(key, []).get("customerId") == customer]
    shown, position = page(keys, call, rank_of)
    values = call.flag("includeValues")
    items = [key_data(key, plane.value_of(key) if values else None) for key in shown]
    return 200, {"item": items, **({"position": position} if position else {})}


def name_of(key: ApiKey) -> str:
    """Return a key's name there; empty where it has none."""
    return str(write_key(key, []).get("name", ""))


def update_key(plane: Plane, call: Call, key_id: str) -> Reply:
    """UpdateApiKey: all operations or none, whoever patches beside it."""
    operations = call.operations("updateApiKeyInput")
    now = plane.now_text()

    def change(old: ApiKey) -> ApiKey:
        item = write_key(old, [])
        for operation in operations:
            _apply(item, operation)
        check_key(item)
        if operations:
            item["lastUpdatedDate"] = now
        return changed(old, item)

    return 200, key_data(change_key(plane, key_id, change), tags=True)


def change_key(plane: Plane, key_id: str, change: Callable[[ApiKey], ApiKey]) -> ApiKey:
    """Return a key, changed in one step. Raises ``Refused``."""
    plane.key(key_id)
    try:
        return plane.ledger.store.change_key(key_id, change, plane.ledger._steps._by())
    except UnknownKey:
        raise not_found(NO_KEY) from None
    except InvalidValue as error:
        raise bad_request(brief(error)) from None


def wrong_path(operation: Operation, accepted: tuple[str, ...]) -> Exception:
    """Return the refusal of an operation on a path that it has not."""
    told = f"Must be one of: [{', '.join(accepted)}]" if accepted else "Please choose supported operations"
    where = f"'{brief(operation.path)}' specified for op '{operation.op}'"
    return bad_request(f"Invalid patch path  {where}. {told}")


def _apply(item: dict[str, Any], operation: Operation) -> None:
    path, value = operation.path, operation.value or ""
    accepted = {"replace": _REPLACED, "add": _LISTED, "remove": _LISTED}.get(operation.op, ())
    if path not in accepted:
        raise wrong_path(operation, accepted)
    if path == "/enabled":
        item["enabled"] = value.lower() == "true"
    elif path == "/stages":
        stages = [stage for stage in item.get("stageKeys", []) if stage != value]
        item["stageKeys"] = [*stages, value] if operation.op == "add" and value else stages
    elif path != "/labels":  # which no answer shows
        item[path[1:]] = value


def delete_key(plane: Plane, _: Call, key_id: str) -> Reply:
    """DeleteApiKey: it is on no plan any more."""
    plane.key(key_id)
    try:
        plane.ledger.remove_key(key_id)
    except UnknownKey:
        raise not_found(NO_KEY) from None
    return 202, None


def import_keys(plane: Plane, call: Call) -> Reply:
    """ImportApiKeys: a row of a known value replaces that key's attributes; with failonwarnings all rows or none."""
    if call.one("mode") != "import":
        raise bad_request("Import takes mode=import")
    if (kind := call.one("format")) != "csv":
        raise not_in_enumeration(brief(kind or ""), "importApiKeysInput.format", ["csv"])
    try:
        rows, warnings = parse_csv("file", call.body.decode("utf-8"), names=(0, _LONGEST_NAME), whole=True)
    except UnicodeDecodeError:
        raise unreadable("The file is no UTF-8 text") from None
    except InvalidValue as error:
        missing = re.search(r"no column (\w+)", str(error.value))
        raise bad_request(f"Missing required column '{missing[1]}'" if missing else brief(error)) from None
    strict = call.flag("failonwarnings")

    def make(row: CsvKey) -> ApiKey:
        return make_key(plane, {**_of_row(row), "enabled": row.enabled}, row.secret)

    def change(old: ApiKey, row: CsvKey) -> ApiKey:
        item = {**write_key(old, []), **_of_row(row), "enabled": row.enabled, "lastUpdatedDate": plane.now_text()}
        return changed(old, item)

    try:
        with plane.lock:
            done = add_rows(plane.ledger, rows, warnings, make, change, strict=strict, reaches=stages_of)
    except (UnknownKey, UnknownPlan, PlanConflict):
        raise conflict(OVERTAKEN) from None
    if strict and warnings:
        raise bad_request(brief(f"Nothing was imported: {'; '.join(warnings)}"))
    return 201, {"ids": done, "warnings": warnings}


def _of_row(row: CsvKey) -> dict[str, Any]:
    return {"name": row.name, **({"description": row.description} if row.description else {})}
