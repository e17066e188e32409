"""API Gateway's own data, as its tools write it, and odd ones."""

import json

VALUE = "abcdef1234ghijklmnop8901234567"


GOLD = {
    "id": "n371pt", "name": "gold",
    "apiStages": [{"apiId": "a1b2c3d4e5", "stage": "prod", "throttle": {
        "/pets/GET": {"burstLimit": 20, "rateLimit": 10.0}, "//GET": {"burstLimit": 2, "rateLimit": 0.1}}}],
    "throttle": {"burstLimit": 200, "rateLimit": 100.0}, "quota": {"limit": 5000, "offset": 3, "period": "MONTH"},
}  # fmt: skip


ACME = {
    "id": "q5ugs7qjjh", "value": VALUE, "name": "acme", "customerId": "cust-42", "enabled": True,
    "createdDate": "2024-03-01T10:00:00+00:00", "lastUpdatedDate": "2024-03-02T10:00:00+00:00", "stageKeys": [],
}  # fmt: skip


ODD_PLANS = [
    {"id": "rest", "name": "r", "description": "d", "productCode": "pc", "apiStages": [], "tags": {"a": "b"}},
    {"id": "none", "name": "blocks", "apiStages": [], "quota": {"limit": 0, "offset": 0, "period": "DAY"},
     "throttle": {"burstLimit": 0, "rateLimit": 0.0}},
    {"id": "two", "name": "t", "apiStages": [
        {"apiId": "x", "stage": "a", "throttle": {"/p/GET": {"burstLimit": 0, "rateLimit": 1.5}, "/q/POST": {"burstLimit": 3, "rateLimit": 2.0}}},
        {"apiId": "x", "stage": "b", "throttle": {"/q/POST": {"burstLimit": 4, "rateLimit": 2.0}}}]},
    {"id": "week", "name": "week", "apiStages": [], "quota": {"limit": 7, "offset": 6, "period": "WEEK"}},
    {"id": "any", "name": "a", "apiStages": [{"apiId": "y", "stage": "a", "throttle": {
        "/p/ANY": {"burstLimit": 3, "rateLimit": 2.5}, "/p/GET": {"burstLimit": 1, "rateLimit": 0.1}, "*/*": {"burstLimit": 9, "rateLimit": 1e-05},
        "/{proxy+}/GET": {"burstLimit": 4, "rateLimit": 16.666666666666668}, "/shut/ANY": {"burstLimit": 0, "rateLimit": 0.0}}}],
     "throttle": {"burstLimit": 5000, "rateLimit": 33.333333333333336}},
    {"id": "many", "name": "n" * 300, "apiStages": [{"apiId": f"a1b2c3d4{at:02}", "stage": "production"} for at in range(40)]},
    {"id": "line", "name": "two\nlines", "apiStages": []},
    {"id": "long", "name": "l", "apiStages": [], "throttle": {"burstLimit": 5000, "rateLimit": 1234.5678}},
]  # fmt: skip


ODD_KEYS = [
    {"id": "a1", "value": "a" * 20, "enabled": False, "stageKeys": ["x/a"]},
    {"id": "a2", "value": "b" * 128, "name": "n" * 1024, "enabled": True, "description": "two\nlines", "stageKeys": []},
    {"id": "a3", "value": "c" * 30, "name": "a3", "enabled": True, "description": "\u2028" * 125_000, "stageKeys": []},
    {
        "id": "a4",
        "value": "d" * 30,
        "name": "x",
        "enabled": True,
        "tags": {"aws.odd": "1", "team": "é\n"},
        "stageKeys": [],
    },
    {"id": "a5", "value": "e" * 30, "name": "x", "enabled": True, "tags": {"team": "y", "env": ""}, "stageKeys": []},
]


A, B = "apikey1234abcdefghij0123456789", "anotherkey1234abcdefghij012345"


LINK = {"id": ACME["id"], "type": "API_KEY", "value": VALUE, "name": "acme"}


def write(folder, plans=(GOLD,), keys=(ACME,), **plan_keys):
    """A directory as the AWS CLI's output was put there."""
    folder.mkdir(exist_ok=True)
    files = {
        "usage-plans": plans,
        "api-keys": keys,
        **{f"usage-plan-keys-{plan}": items for plan, items in plan_keys.items()},
    }
    for name, items in files.items():
        (folder / f"{name}.json").write_text(json.dumps({"items": list(items)}))
    return folder


def read(folder):
    return {path.name: json.loads(path.read_text())["items"] for path in folder.iterdir()}
