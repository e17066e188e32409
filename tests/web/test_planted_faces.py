"""Bugs planted into copies of the faces over HTTP, the control plane and the usage page: each is seen by a short history."""

from __future__ import annotations

import importlib
import io
import json
import logging
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from unittest import mock
from urllib.parse import urlencode

import botocore.auth
import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from cryptography.fernet import Fernet

import planting
import quota

CREDENTIALS = {"AKIDEXAMPLE": "wJalrXUtnFEMI"}
VALUE = "a-value-of-a-key-0123456789abcdef"
STAGE = [{"apiId": "r1", "stage": "prod"}]


def send(app, method, path, body=b"", query="", **more):
    """(status, headers, body) of a request in this process."""
    seen = {}
    environ = {
        "REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query, "HTTP_HOST": "localhost", "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_LENGTH": str(len(body)) if body else "", "wsgi.input": io.BytesIO(body), **more,
    }  # fmt: skip
    text = b"".join(app(environ, lambda status, fields: seen.update(status=int(status[:3]), **dict(fields))))
    return seen.pop("status"), seen, text


def sign(method, path, body=b"", query="", *, secret="wJalrXUtnFEMI", at=None, in_query=False, hashed=False):
    """The arguments of ``send`` for a signed request. ``at``: when it was signed; ``hashed``: the body's hash is a header."""
    headers = {"X-Amz-Content-SHA256": sha256(body).hexdigest()} if hashed else {}
    request = AWSRequest(
        method, f"http://localhost{path}" + (f"?{query}" if query else ""), data=body or None, headers=headers
    )
    kind = (SigV4QueryAuth if in_query else SigV4Auth)(Credentials("AKIDEXAMPLE", secret), "apigateway", "eu-west-1")
    now = (at or datetime.now(timezone.utc)).replace(tzinfo=None)
    names = [name for name in ("get_current_datetime", "_get_current_datetime") if hasattr(botocore.auth, name)]
    with mock.patch.multiple(botocore.auth, **dict.fromkeys(names, lambda **_: now)):
        kind.add_auth(request)
    prepared = request.prepare()
    headers = {"HTTP_" + name.upper().replace("-", "_"): value for name, value in prepared.headers.items()}
    return {
        "method": method,
        "path": path,
        "body": body,
        "query": prepared.url.partition("?")[2],
        **headers,
        "HTTP_HOST": "localhost",
    }


class Plane:
    """A control plane of a package, asked without credentials unless there are some."""

    def __init__(self, package, **more):
        self.ledger = package.Ledger()
        self.app = importlib.import_module(f"{package.__name__}.aws").control_plane(
            self.ledger, **{"credentials": None, "stages": {"r1": ["prod"]}, **more}
        )

    def __call__(self, method, path, data=None, query=""):
        status, _, text = send(self.app, method, path, b"" if data is None else json.dumps(data).encode(), query)
        return status, json.loads(text) if text else None

    def patch(self, path, *operations):
        found = [dict(zip(("op", "path", "value"), one, strict=True)) for one in operations]
        return self("PATCH", path, {"patchOperations": found})


class Page:
    """A usage page of a package, and a key that was used twice beside another one that was used once."""

    def __init__(self, package, **more):
        self.ledger = package.Ledger()
        self.ledger.add_plan(package.UsagePlan("free", "5/day"))
        self.key, self.secret = self.ledger.issue_key("<i>Ada</i>", plan="free")
        self.other, other = self.ledger.issue_key("Grace", plan="free")
        for secret in (self.secret, other, self.secret):
            self.ledger.consume(secret)
        self.app = importlib.import_module(f"{package.__name__}.web").usage_page(self.ledger, **more)

    def get(self, secret=None, query="", accept="*/*", **more):
        keys = {"HTTP_X_API_KEY": secret} if secret else {}
        return send(self.app, "GET", "/usage", query=query, HTTP_ACCEPT=accept, **keys, **more)

    def post(self, secret, **more):
        form = urlencode({"key": secret}).encode()
        return send(self.app, "POST", "/usage", form, CONTENT_TYPE="application/x-www-form-urlencoded", **more)


class Heard(logging.Handler):
    """All that is logged within a block, as text."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.text = ""

    def emit(self, record):
        self.text += logging.Formatter("%(name)s %(message)s").format(record) + repr(record.__dict__)

    def __enter__(self):
        self.level_before = logging.root.level
        logging.root.addHandler(self)
        logging.root.setLevel(logging.DEBUG)
        return self

    def __exit__(self, *_):
        logging.root.removeHandler(self)
        logging.root.setLevel(self.level_before)


# The control plane


def who_signs(package):
    """Another secret, body, query, method or path than what was signed is refused, in header and query."""
    plane = Plane(package, credentials=CREDENTIALS)
    for in_query in (False, True):
        assert send(plane.app, **sign("GET", "/apikeys", query="limit=3", in_query=in_query))[0] == 200
        for altered in (
            sign("GET", "/apikeys", secret="another", in_query=in_query),
            {**sign("GET", "/apikeys", in_query=in_query), "path": "/usageplans"},
            {**sign("GET", "/apikeys", in_query=in_query), "method": "HEAD"},
            {**sign("POST", "/apikeys", b'{"name": "a"}', in_query=in_query), "body": b'{"name": "b"}'},
            {**sign("POST", "/apikeys", b'{"name": "a"}', in_query=in_query, hashed=True), "body": b'{"name": "b"}'},
        ):
            assert send(plane.app, **altered)[0] == 403
        more = sign("GET", "/apikeys", in_query=in_query)
        more["query"] = f"{more['query']}&limit=3".lstrip("&")
        assert send(plane.app, **more)[0] == 403
    assert send(plane.app, "GET", "/apikeys")[0] == 403
    assert plane.ledger.list_keys() == []


def when_it_was_signed(package):
    """An hour ago or in an hour: refused, in header and query."""
    plane = Plane(package, credentials=CREDENTIALS)
    for hours in (-25, -2, 2):
        at = datetime.now(timezone.utc) + timedelta(hours=hours)
        for in_query in (False, True):
            assert send(plane.app, **sign("GET", "/apikeys", at=at, in_query=in_query))[0] == 403


def this_machine_alone(package):
    """Without credentials: neither another address, nor another host's name, nor a proxy, nor a page in a browser."""
    plane = Plane(package)
    assert send(plane.app, "GET", "/apikeys")[0] == 200
    for more in (
        {"REMOTE_ADDR": "192.0.2.1"}, {"HTTP_HOST": "rebound.example"}, {"HTTP_X_FORWARDED_FOR": "192.0.2.1"},
        {"HTTP_ORIGIN": "https://evil.example"},
    ):  # fmt: skip
        assert send(plane.app, "GET", "/apikeys", **more)[0] == 403


def a_patch_is_whole(package):
    """All of it or nothing, checked at its end alone, of plans and of keys."""
    plane = Plane(package)
    plan = plane("POST", "/usageplans", {"name": "n"})[1]
    path = f"/usageplans/{plan['id']}"
    assert plane.patch(path, ("replace", "/name", "m"), ("replace", "/quota/limit", "x"))[0] == 400
    assert plane.patch(path, ("replace", "/name", "m"), ("replace", "/quota/limit", "5"))[0] == 400
    assert plane("GET", path)[1] == {**plan, "tags": {}}
    made = plane.patch(path, ("replace", "/quota/limit", "5"), ("replace", "/quota/period", "DAY"))[1]
    assert made["quota"] == {"limit": 5, "offset": 0, "period": "DAY"}
    key = plane("POST", "/apikeys", {"name": "n"})[1]
    assert plane.patch(f"/apikeys/{key['id']}", ("replace", "/name", "m"), ("replace", "/id", "x"))[0] == 400
    assert plane("GET", f"/apikeys/{key['id']}")[1]["name"] == "n"


def nobody_else_s_patch_is_lost(package):
    """A patch that comes between another's reading and writing, of a plan and of a key."""
    plane = Plane(package)
    plan = f"/usageplans/{plane('POST', '/usageplans', {'name': 'n'})[1]['id']}"
    key = f"/apikeys/{plane('POST', '/apikeys', {'name': 'n'})[1]['id']}"
    for path, read in ((plan, "get_plan"), (key, "get_key")):
        real, between = getattr(plane.ledger, read), [True]

        def reading(id_, real=real, between=between, path=path):
            found = real(id_)
            if between:
                between.clear()
                assert plane.patch(path, ("replace", "/description", "theirs"))[0] == 200
            return found

        with mock.patch.object(type(plane.ledger), read, lambda _, id_, reading=reading: reading(id_)):
            assert plane.patch(path, ("replace", "/name", "mine"))[0] == 200
        there = plane("GET", path)[1]
        assert (there["name"], there["description"]) == ("mine", "theirs")


def a_plan_with_a_new_stage_stays(package):
    """One that another process adds after a deletion looked for stages."""
    plane = Plane(package)
    plan = f"/usageplans/{plane('POST', '/usageplans', {'name': 'n'})[1]['id']}"
    module = importlib.import_module(f"{package.__name__}.aws.control.plans")
    real, coming = module.stages_of, [("add", "/apiStages", "r1:prod")]

    def overtaken(one):
        found = real(one)
        if coming:
            assert plane.patch(plan, coming.pop())[0] == 200
        return found

    with mock.patch.object(module, "stages_of", overtaken):
        assert plane("DELETE", plan)[0] == 400
    assert plane("GET", plan)[1]["apiStages"] == STAGE


def pages_lose_nobody(package):
    """Each key once, in the order of creation, whatever is made and removed between the pages."""
    plane = Plane(package)
    ids = [plane("POST", "/apikeys", {"name": f"k{at}"})[1]["id"] for at in range(6)][::-1]
    first = plane("GET", "/apikeys", query="limit=2")[1]
    second = plane("GET", "/apikeys", query=f"limit=2&position={first['position']}")[1]
    assert [one["id"] for one in second["item"]] == ids[2:4]
    plane("DELETE", f"/apikeys/{ids[1]}")
    plane("POST", "/apikeys", {"name": "newer"})
    rest = plane("GET", "/apikeys", query=f"limit=4&position={first['position']}")[1]
    assert [one["id"] for one in first["item"] + rest["item"]] == ids
    assert "position" not in rest


def values_are_hidden(package):
    """Not stored in clear, shown where it is asked for alone, and never one that was rotated away."""
    plane = Plane(package, reveal=Fernet(Fernet.generate_key()))
    key = f"/apikeys/{plane('POST', '/apikeys', {'name': 'n', 'value': VALUE})[1]['id']}"
    stored = plane.ledger.get_key(key[9:])
    assert VALUE not in repr(stored) + repr(stored.metadata)
    assert plane("GET", key, query="includeValue=true")[1]["value"] == VALUE
    assert "value" not in plane("GET", key)[1]
    assert "value" not in plane("GET", "/apikeys")[1]["item"][0]
    assert "value" not in plane.patch(key, ("replace", "/name", "m"))[1]
    plane.ledger.rotate_key(key[9:])
    assert "value" not in plane("GET", key, query="includeValue=true")[1]


def usage_is_of_who_is_asked_for(package):
    """Of one key where one is named; what was used stays used where what remains is set."""
    plane = Plane(package)
    plan = plane("POST", "/usageplans", {"name": "n", "quota": {"limit": 9, "period": "DAY"}})[1]["id"]
    keys = [plane("POST", "/apikeys", {"name": name, "enabled": True})[1] for name in "ab"]
    for key in keys:
        plane("POST", f"/usageplans/{plan}/keys", {"keyId": key["id"], "keyType": "API_KEY"})
        api = plane.ledger.get_plan(plan).api
        assert plane.ledger.consume(key["value"], 2, api=api)
    today = plane.ledger.usage(keys[0]["id"], api=api)[-1].day.isoformat()
    query = f"startDate={today}&endDate={today}"
    values = plane("GET", f"/usageplans/{plan}/usage", query=f"{query}&keyId={keys[0]['id']}")[1]["values"]
    assert values == {keys[0]["id"]: [[2, 7]]}
    set_ = plane.patch(f"/usageplans/{plan}/keys/{keys[0]['id']}/usage", ("replace", "/remaining", "1"))[1]["values"]
    assert set_ == {keys[0]["id"]: [[2, 1]]}
    assert plane("GET", f"/usageplans/{plan}/usage", query=f"{query}&keyId={keys[1]['id']}")[1]["values"] == {
        keys[1]["id"]: [[2, 7]]
    }


def stages_bind(package):
    """A stage that nobody knows, a second plan for one, a plan that still has one, a tag of another's."""
    plane = Plane(package, stages={"r1": ["prod", "test"]})
    assert plane("POST", "/usageplans", {"name": "n", "apiStages": [{"apiId": "r1", "stage": "x"}]})[0] == 404
    plans = [plane("POST", "/usageplans", {"name": "n", "apiStages": stages})[1]["id"] for stages in (STAGE, [])]
    assert plane("DELETE", f"/usageplans/{plans[0]}")[0] == 400
    key = plane("POST", "/apikeys", {"name": "k"})[1]["id"]
    for plan in plans:
        assert plane("POST", f"/usageplans/{plan}/keys", {"keyId": key, "keyType": "API_KEY"})[0] == 201
    both = [("add", "/apiStages", "r1:test"), ("add", "/apiStages", "r1:prod")]
    assert plane.patch(f"/usageplans/{plans[1]}", *both)[0] == 409
    assert plane("PUT", f"/tags/arn:aws:apigateway:x::/apikeys/{key}", {"tags": {"aws:a": "b"}})[0] == 400


def nobody_is_moved_from_another_plan(package):
    """Of two processes that attach a key to plans with a stage in common at once, one is refused, by attaching alike."""
    plane = Plane(package)
    plans = [plane("POST", "/usageplans", {"name": "n", "apiStages": STAGE})[1]["id"] for _ in range(2)]
    key = plane("POST", "/apikeys", {"name": "k"})[1]["id"]
    module = importlib.import_module(f"{package.__name__}.aws.control.plans")
    real, first = module.check_rivals, [plans[0]]

    def overtaken(*given):
        real(*given)
        while first:
            assert plane("POST", f"/usageplans/{first.pop()}/keys", {"keyId": key, "keyType": "API_KEY"})[0] == 201

    with mock.patch.object(module, "check_rivals", overtaken):
        assert plane("POST", f"/usageplans/{plans[1]}/keys", {"keyId": key, "keyType": "API_KEY"})[0] == 409
    assert [plan.id for plan in plane.ledger.list_plans(key)] == plans[:1]


def an_import_that_is_overtaken(package):
    """By who makes a key of one of its values: a conflict, and nothing of it stays."""
    plane = Plane(package)
    module = importlib.import_module(f"{package.__name__}.aws.control.keys")
    real, values = module.make_key, [VALUE]

    def overtaken(*given):
        while values:
            plane("POST", "/apikeys", {"name": "first", "value": values.pop()})
        return real(*given)

    with mock.patch.object(module, "make_key", overtaken):
        rows = f"name,key\none,{'x' * 20}\ntwo,{VALUE}\n".encode()
        assert send(plane.app, "POST", "/apikeys", rows, "mode=import&format=csv")[0] == 409
    assert [key.name for key in plane.ledger.list_keys()] == ["first"]


def the_control_plane_is_bounded(package):
    """A body of a hundred megabytes is not read; ten thousand operations are refused, and change nothing."""
    plane = Plane(package)
    body = mock.Mock()
    assert send(plane.app, "POST", "/apikeys", **{"CONTENT_LENGTH": str(100 << 20), "wsgi.input": body})[0] == 413
    assert not body.read.called
    plan = f"/usageplans/{plane('POST', '/usageplans', {'name': 'n'})[1]['id']}"
    assert plane.patch(plan, *[("replace", "/name", "m")] * 10_000)[0] == 400
    assert plane("GET", plan)[1]["name"] == "n"


def the_control_plane_logs_no_value(package):
    """Neither of a call that is served, nor of one that fails, nor in an answer to one that does."""
    plane = Plane(package, credentials=CREDENTIALS, reveal=Fernet(Fernet.generate_key()))
    body = json.dumps({"name": "n", "value": VALUE}).encode()
    with Heard() as heard:
        assert send(plane.app, **sign("POST", "/apikeys", body))[0] == 201
        for error in (RuntimeError("broken"), package.StoreUnavailable("away")):
            with mock.patch.object(type(plane.ledger.store), "add_keys", mock.Mock(side_effect=error)):
                status, _, text = send(plane.app, **sign("POST", "/apikeys", body))
            assert status in (500, 503)
            assert VALUE.encode() not in text
    assert "broken" in heard.text
    for secret in (VALUE, CREDENTIALS["AKIDEXAMPLE"]):
        assert secret not in heard.text


# The usage page


def the_page_shows_its_own(package):
    """The key's own name and counts, again and again: nothing is charged."""
    page = Page(package)
    for _ in range(3):
        data = json.loads(page.get(page.secret)[2])
        assert (data["key"]["name"], data["plans"][0]["limits"][0]["used"]) == ("<i>Ada</i>", 2)
        assert data["plans"][0]["history"][0]["days"][-1]["used"] == 2
        assert b"Grace" not in page.post(page.secret)[2]


def the_page_of_an_exhausted_key(package):
    """Is there, and says so; that of a disabled one is not."""
    page = Page(package)
    page.ledger.set_remaining(page.key, "requests/day", 0)
    assert page.get(page.secret)[0] == 200
    assert b"none left" in page.get(page.secret, accept="text/html")[2]
    page.ledger.disable_key(page.key)
    assert page.get(page.secret)[0] == 403


def the_page_tells_every_limit(package):
    """Those of routes, of the plan and of the account's plan, each with its kind."""
    page = Page(package)
    page.ledger.add_plan(package.UsagePlan("routes", "5/day", routes={"GET /a": "3/day, 2/s"}))
    page.ledger.add_plan(package.UsagePlan("team", (), routes={"GET /b": "4/day"}))
    page.ledger.add_account("acme")
    page.ledger.associate("acme", "team")
    _, secret = page.ledger.issue_key("Joan", plan="routes", account="acme")
    (plan,) = json.loads(page.get(secret)[2])["plans"]
    assert [(one["route"], one["name"], one["kind"]) for one in plan["limits"]] == [
        (None, "requests/day", "quota"), ("GET /a", "GET /a requests/day", "quota"), ("GET /a", "throttle", "throttle"),
        ("GET /b", "acme: requests/day", "quota"),
    ]  # fmt: skip


def the_page_takes_no_key_from_an_address(package):
    """Where addresses are logged: refused, by whatever name."""
    page = Page(package)
    for name in ("key", "x-api-key"):
        status, _, text = page.get(query=f"{name}={page.secret}")
        assert status == 400
        assert page.secret.encode() not in text


def the_page_is_text(package):
    """A name is shown as text; the policy lets neither a script nor a frame in; nobody keeps the answer."""
    status, fields, text = Page(package).get(accept="text/html")
    page = Page(package)
    status, fields, text = page.get(page.secret, accept="text/html")
    assert status == 200
    assert b"<i>" not in text
    assert b"&lt;i&gt;Ada" in text
    assert page.secret.encode() not in text
    assert "default-src 'none'" in fields["Content-Security-Policy"]
    assert fields["Cache-Control"] == "no-store"


def the_page_bounds_guesses(package):
    """By address; whoever has a key is served."""
    page = Page(package, failed_keys="2/minute")
    assert [page.get("x" * 30)[0] for _ in range(4)] == [401, 401, 429, 429]
    assert page.get(page.secret)[0] == 200


def the_page_is_bounded(package):
    """A form of a hundred megabytes is not read; one that ended early is none."""
    page = Page(package)
    body = mock.Mock()
    kind = "application/x-www-form-urlencoded"
    assert (
        send(page.app, "POST", "/usage", CONTENT_TYPE=kind, **{"CONTENT_LENGTH": str(100 << 20), "wsgi.input": body})[0]
        == 413
    )
    assert not body.read.called
    assert page.post(page.secret, CONTENT_LENGTH="400")[0] == 400


def the_page_logs_no_key(package):
    """Neither of a page that is shown, nor of one that fails."""
    page = Page(package)
    with Heard() as heard:
        assert page.get(page.secret)[0] == 200
        assert page.post("qk_nobody-has-this-one-000000")[0] == 401
        for error in (RuntimeError("broken"), package.StoreUnavailable("away")):
            with mock.patch.object(type(page.ledger), "list_plans", mock.Mock(side_effect=error)):
                assert page.get(page.secret)[0] in (500, 503)
                assert page.post(page.secret)[0] in (500, 503)
    assert "broken" in heard.text
    assert page.secret not in heard.text
    assert "qk_nobody" not in heard.text


HISTORIES = [
    who_signs, when_it_was_signed, this_machine_alone, a_patch_is_whole, nobody_else_s_patch_is_lost, a_plan_with_a_new_stage_stays, pages_lose_nobody, values_are_hidden,
    usage_is_of_who_is_asked_for, stages_bind, nobody_is_moved_from_another_plan, an_import_that_is_overtaken, the_control_plane_is_bounded, the_control_plane_logs_no_value, the_page_shows_its_own,
    the_page_of_an_exhausted_key, the_page_tells_every_limit, the_page_takes_no_key_from_an_address, the_page_is_text, the_page_bounds_guesses, the_page_is_bounded,
    the_page_logs_no_key,
]  # fmt: skip

BUGS = {
    "a signature is not verified": (who_signs, "aws/control/signing.py", "    if not good:\n", "    if False:\n"),
    "a signature holds for any body": (who_signs, "aws/control/signing.py", "    if said != hashed and not (", "    if False and not ("),
    "a signature holds for any query": (who_signs, "aws/control/signing.py", 'return "&".join(f"{name}={value}" for name, value in written)', 'return "&".join(f"{name}={value}" for name, value in written if name != "limit")'),
    "a signature holds for any method": (who_signs, "aws/control/signing.py", "environ['REQUEST_METHOD']", "environ['REQUEST_METHOD'].replace('HEAD', 'GET')"),
    "who signs nothing may call": (who_signs, "aws/control/app.py", "        if self.credentials is None:\n", '        if self.credentials is None or "HTTP_AUTHORIZATION" not in environ and not query:\n'),
    "a signature lasts for ever": (when_it_was_signed, "aws/control/app.py", "        check_age(claim, system_clock())\n", ""),
    "a signature of tomorrow": (when_it_was_signed, "aws/control/signing.py", "if not -SKEW <= age <= most:", "if not age <= most:"),
    "a signed address lasts for ever": (when_it_was_signed, "aws/control/signing.py", "SKEW if claim.lasts is None else claim.lasts", "SKEW if claim.lasts is None else 10**9"),
    "anybody may call without credentials": (this_machine_alone, "aws/control/app.py", "if not local or ", "if "),
    "a name that leads here": (this_machine_alone, "aws/control/app.py", "not named or ", ""),
    "a proxy's clients": (this_machine_alone, "aws/control/app.py", "passed or ", ""),
    "a page in a browser": (this_machine_alone, "aws/control/app.py", ' or "HTTP_ORIGIN" in environ', ""),
    "a patch is applied operation by operation": (
        a_patch_is_whole, "aws/control/plans.py", "    return 200, plan_data(change_plan(plane, plan_id, change), tags=True)",
        "    for one in operations:\n        change_plan(plane, plan_id, lambda item: patched(item, [one], lambda api, stage: None))\n    return 200, plan_data(plane.plan(plan_id), tags=True)"),
    "a patch ends where it cannot go on": (
        a_patch_is_whole, "aws/control/patches.py", "        _apply(item, operation, check_stage)\n", "        try:\n            _apply(item, operation, check_stage)\n        except Exception:\n            break\n"),
    "a patch of a key is half applied": (
        a_patch_is_whole, "aws/control/keys.py", "            _apply(item, operation)\n", "            try:\n                _apply(item, operation)\n            except Exception:\n                break\n"),
    "a plan is written over": (nobody_else_s_patch_is_lost, "aws/control/plans.py", "replace_plan(new, expected=old)", "replace_plan(new)"),
    "a plan goes with another's stage": (a_plan_with_a_new_stage_stays, "aws/control/plans.py", "remove_plan(plan, expected=plan)", "remove_plan(plan)"),
    "a key is written over": (
        nobody_else_s_patch_is_lost, "aws/control/keys.py", "    plane.key(key_id)\n    try:\n        return plane.ledger.store.change_key(key_id, change,",
        "    new = change(plane.key(key_id))\n    try:\n        return plane.ledger.store.change_key(key_id, lambda _: new,"),
    "a page begins with the last one's end": (
        pages_lose_nobody, "aws/control/paging.py", "if after is None or rank(item) < after", "if after is None or rank(item) <= after"),
    "a full last page has a position": (pages_lose_nobody, "aws/control/paging.py", "if len(found) > limit else None", "if len(found) >= limit else None"),
    "a value is kept as it is": (values_are_hidden, "aws/control/plane.py", 'self.reveal.encrypt(value.encode()).decode("ascii")}', "value}"),
    "a rotated value is shown": (values_are_hidden, "aws/control/plane.py", " if any(secret.digest == digest(value) for secret in key.secrets) else None", ""),
    "a value is shown unasked": (values_are_hidden, "aws/control/keys.py", 'plane.value_of(key) if call.flag("includeValue") else None', "plane.value_of(key)"),
    "values are listed unasked": (values_are_hidden, "aws/control/keys.py", "plane.value_of(key) if values else None", "plane.value_of(key)"),
    "another key's usage is told": (usage_is_of_who_is_asked_for, "aws/control/usage.py", "keys = [key for key in keys if key.id == key_id]", "pass"),
    "what remains is set for everybody": (
        usage_is_of_who_is_asked_for, "aws/control/usage.py", "            plane.ledger.set_remaining(key, quota.name, remaining, api=plan.apis[0])",
        "            for one in plane.keys_on(plan_id):\n                plane.ledger.set_remaining(one, quota.name, remaining, api=plan.apis[0])"),
    "any stage will do": (stages_bind, "aws/control/plans.py", "if stage not in plane.stages[api]:", "if False:"),
    "a plan goes with its stages": (stages_bind, "aws/control/plans.py", "if stages := stages_of(plan):", "if stages := []:"),
    "two plans for one stage": (
        stages_bind, "aws/control/plans.py", "added = set(stages_of(new)) - set(stages_of(old))", "added = set()",
        "                    raise conflict(brief(error)) from None\n\n\ndef _made", "                    return old\n\n\ndef _made"),
    "a key is moved from another plan": (nobody_is_moved_from_another_plan, "aws/control/plans.py", "IF_FREE, by[1], by", "None, by[1], by"),
    "a plan that is free takes another's place": (nobody_is_moved_from_another_plan, "stores/associations.py", "most=at is None", "most=1"),
    "an import that is overtaken fails": (an_import_that_is_overtaken, "aws/control/keys.py", "(UnknownKey, UnknownPlan, PlanConflict)", "(UnknownKey, UnknownPlan)"),
    "a part of an import stays": (an_import_that_is_overtaken, "aws/table.py", "for step in reversed(undo):", "for step in ():"),
    "tags that are reserved": (stages_bind, "aws/control/plane.py", 'if name.lower().startswith("aws:"):', "if False:"),
    "a body of any length": (the_control_plane_is_bounded, "aws/control/wire.py", "if int(length) > MOST_BODY:", "if False:"),
    "a patch of any length": (the_control_plane_is_bounded, "aws/control/wire.py", "if len(given) > MOST_OPERATIONS:", "if False:"),
    "a value in the log": (
        the_control_plane_logs_no_value, "aws/control/app.py", '            log.exception("request %s failed", request_id)', '            log.exception("request %s failed: %s", request_id, environ["wsgi.input"].getvalue())'),
    "a secret in the log": (
        the_control_plane_logs_no_value, "aws/control/app.py", '"request %s could not be served: %s", request_id, error', '"request %s could not be served: %s", request_id, self.credentials'),
    "another key's page is shown": (
        the_page_shows_its_own, "web/usage/page.py", "return self.ledger.get_key(key.id)", "return next(one for one in self.ledger.list_keys() if one.id != key.id)"),
    "a look is charged": (the_page_shows_its_own, "web/usage/page.py", "self.ledger.peek(secret, address=address)", "self.ledger.consume(secret, address=address)"),
    "an exhausted key is turned away": (the_page_of_an_exhausted_key, "web/usage/page.py", "        if decision.reason in _SHUT:", "        if not decision and decision.reason not in _SHUT:\n            raise _Refused(403, decision.reason.value)\n        if decision.reason in _SHUT:"),
    "a disabled key is shown": (the_page_of_an_exhausted_key, "web/usage/page.py", 'Reason.DISABLED_KEY: "This key is disabled", ', ""),
    "that nothing is left is not said": (the_page_of_an_exhausted_key, "web/usage/html.py", " <b>(none left)</b>", ""),
    "limits of routes are left out": (the_page_tells_every_limit, "web/usage/data.py", "for route in (None, *routes):", "for route in (None,):"),
    "routes of accounts are left out": (the_page_tells_every_limit, "web/usage/data.py", "for owns in owners.values() for own in owns if {", 'for own in owners[""] if {'),
    "a limit is told once for each route": (the_page_tells_every_limit, "web/usage/data.py", "kinds.get(status.name)", 'kinds.get(status.name, "quota")'),
    "a key in an address": (the_page_takes_no_key_from_an_address, "web/usage/page.py", 'if set(query) - {"zone"}:', "if False:"),
    "a name is markup": (the_page_is_text, "web/usage/html.py", "<h1>Usage of {escape(key['name'])}</h1>", "<h1>Usage of {key['name']}</h1>"),
    "a title is markup": (the_page_is_text, "web/usage/html.py", "<title>{escape(title)}</title>", "<title>{title}</title>"),
    "scripts are let in": (the_page_is_text, "web/usage/html.py", "default-src 'none'", "default-src 'self'"),
    "the page is kept": (the_page_is_text, "web/usage/page.py", '"no-store"', '"max-age=60"'),
    "the form repeats the key": (the_page_is_text, "web/usage/page.py", "else usage_html(data)", 'else usage_html(data) + environ.get("HTTP_X_API_KEY", "")'),
    "guesses without end": (the_page_bounds_guesses, "web/usage/page.py", "if refusal is not None:", "if False:"),
    "guesses shut a key out": (
        the_page_bounds_guesses, "web/usage/page.py", "        if key is None:\n", '        if self._guesses.count(counted_by(address) if address else "unknown") is not None:\n            raise _Refused(429, "no")\n        if key is None:\n'),
    "a form of any length": (the_page_is_bounded, "web/usage/page.py", "if len(length) > 9 or int(length) > _MOST_FORM:", "if False:"),
    "a key in the log": (
        the_page_logs_no_key, "web/usage/page.py", '            log.exception("usage could not be shown")', '            log.exception("usage could not be shown: %s", environ)'),
    "a key in the log of a store that is away": (
        the_page_logs_no_key, "web/usage/page.py", '"usage could not be shown: %s", error', '"usage could not be shown: %s %s", error, locals().get("secret")'),
    "a guess in the log": (
        the_page_logs_no_key, "web/usage/page.py", "        if key is None:\n", '        if key is None:\n            log.info("not known: %s", secret)\n'),
}  # fmt: skip


@pytest.mark.parametrize("history", HISTORIES, ids=lambda history: history.__name__)
def test_as_it_is(history):
    """Nothing is found where nothing is planted."""
    history(quota)


@pytest.mark.spread(10)
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_seen(bug, tmp_path):
    """By its history."""
    history, file, *pieces = BUGS[bug]
    package, _, _ = planting.plant(tmp_path, f"_face{list(BUGS).index(bug)}", file, *pieces)
    with pytest.raises((AssertionError, KeyError, TypeError)):
        history(package)


def test_every_history_sees_a_bug():
    """None is there for nothing."""
    assert {history for history, *_ in BUGS.values()} == set(HISTORIES)
