"""Each parser of what strangers send, fuzzed with coverage: ``make fuzz SECONDS=3600``. What is found becomes a test.

One parser at a time, in a process of its own; a text that ends in an error which is not told is printed by the fuzzer.
"""

import io
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

SEEDS = {
    "limits": ["1000/day, 10/s burst 20, 5 concurrent by account", "50000 tokens/month in Europe/Paris overage 5 by account as x", "9/week offset 2", "1/3/s", "5/month from 2026-01-31T09:00:00Z"],
    "period": ["day", "15 minute", "month in Europe/Paris", "week offset 2", "month from 2026-01-31T09:00:00+00:00"],
    "plan": ['{"id": "p", "limits": ["5/day"], "routes": {"GET /x": ["1/day as x"]}, "costs": {"GET /x": 1}, "alerts": [80]}'],
    "csv": ["name,key,description,enabled,usageplanids\nn,abcdefghij0123456789,d,true,'a,b'\n", "sep=;\nName;Key\nn;abcdefghij0123456789\n"],
    "aws": [('{"items": [{"id": "p", "name": "n", "apiStages": [{"apiId": "a", "stage": "s", "throttle": {"/x/GET": {"rateLimit": 1.5, "burstLimit": 2}}}], '
            '"throttle": {"rateLimit": 1, "burstLimit": 2}, "quota": {"limit": 5, "offset": 0, "period": "DAY"}}]}')],
    "log": ['203.0.113.7 - - [10/Mar/2026:12:00:00 +0000] "GET /x HTTP/1.1" 200 5', '{"time": "2026-03-10T12:00:00Z", "ip": "203.0.113.7", "path": "/x"}'],
    "headers": ['for=203.0.113.7;proto=https, for="[2001:db8::1]:80"', "203.0.113.7, 10.0.0.1"],
    "url": ["memory://?stripes=4&retention=9", "sqlite:///x.db?timeout=1", "redis://u:p@h:1/0?namespace=a", "leased+postgresql://h/db?share=0.01"],
    "control": ['POST /usageplans\n{"name": "n", "quota": {"limit": 5, "period": "DAY"}}',
                'PATCH /usageplans/p\n{"patchOperations": [{"op": "replace", "path": "/quota/limit", "value": "5"}]}', "GET /apikeys?limit=2&position=x\n"],
    "signature": ["AWS4-HMAC-SHA256 Credential=A/20260310/eu-west-1/apigateway/aws4_request, SignedHeaders=host, Signature=" + "0" * 64],
    "form": ["key=qk_x&zone=Europe/Paris"],
}  # fmt: skip


def text_of(data):
    return data.decode("utf-8", "surrogateescape")


def limits(data):
    """What is read is written and read again as it was."""
    from quota import InvalidPlan
    from quota.limit_text import parse_limits

    with suppress(InvalidPlan):
        found = parse_limits(text_of(data))
        assert parse_limits(", ".join(map(str, found))) == found


def period(data):
    from quota import InvalidPlan
    from quota.period import parse_period

    with suppress(InvalidPlan):
        found = parse_period(text_of(data))
        assert parse_period(str(found)) == found
        start, end = found.window(1_773_144_000_000_000)
        assert start <= 1_773_144_000_000_000 < end


def plan(data):
    from quota import InvalidPlan, QuotaError, UsagePlan

    with suppress(ValueError, RecursionError):
        given = json.loads(text_of(data))
        with suppress(QuotaError, InvalidPlan):
            found = UsagePlan.from_dict(given)
            assert UsagePlan.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def csv(data):
    from quota import InvalidValue
    from quota.aws.keys_csv import parse_csv

    with suppress(InvalidValue):
        rows, warnings = parse_csv("f", text_of(data))
        assert not any(row.secret in warning for row in rows for warning in warnings)


def aws(data):
    from quota import InvalidValue
    from quota.aws.read import from_aws, parse_json
    from quota.aws.write import to_aws

    with suppress(InvalidValue):
        found = from_aws(parse_json("f", text_of(data)), [], {})
        to_aws(found.plans, [])


def log(data):
    from quota import InvalidValue, UsagePlan
    from quota.replay import replay

    with suppress(InvalidValue):
        replay(text_of(data).splitlines(), [UsagePlan("p", "3/day")])


def headers(data):
    from quota.web import client_address

    field = text_of(data)
    for environ in ({"HTTP_FORWARDED": field}, {"HTTP_X_FORWARDED_FOR": field}):
        for trusted in (0, 1, 3, ["10.0.0.0/8"]):
            client_address({"REMOTE_ADDR": "10.0.0.9", **environ}, trusted)


def url(data):
    from quota import QuotaError
    from quota.stores import open_store
    from quota.stores.urls import check_url, shown_url, split_url

    text = text_of(data)
    shown_url(text)
    with suppress(QuotaError):
        split_url(check_url(text))
    if text.startswith("memory:"):
        with suppress(QuotaError):
            open_store(text)


def control(data):
    """An answer below 500 to whatever comes."""
    from quota import Ledger, UsagePlan
    from quota.aws import control_plane

    head, _, body = data.partition(b"\n")
    method, _, target = text_of(head).partition(" ")
    path, _, query = target.partition("?")
    ledger = Ledger()
    ledger.add_plan(UsagePlan("p", "5/day"))
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path.encode("utf-8", "replace").decode("latin-1"), "QUERY_STRING": query,
               "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}  # fmt: skip
    seen = []
    control_plane(ledger, credentials=None, stages=None)(environ, lambda status, _: seen.append(int(status[:3])))
    assert seen[0] < 500


def signature(data):
    """Never admitted, never an error of ours."""
    from quota import Ledger
    from quota.aws import control_plane

    seen = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/apikeys", "QUERY_STRING": text_of(data), "HTTP_AUTHORIZATION": text_of(data),
               "HTTP_X_AMZ_DATE": "20260310T000000Z", "wsgi.input": io.BytesIO()}  # fmt: skip
    plane = control_plane(Ledger(), credentials={"A": "secret"}, stages=None)
    for one in (environ, {name: text for name, text in environ.items() if name != "HTTP_AUTHORIZATION"}):
        plane(one, lambda status, _: seen.append(int(status[:3])))
    assert all(400 <= status < 500 for status in seen)


def form(data):
    from quota import Ledger
    from quota.web import usage_page

    seen = []
    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/usage", "QUERY_STRING": text_of(data), "HTTP_ACCEPT": text_of(data),
               "CONTENT_TYPE": "application/x-www-form-urlencoded", "CONTENT_LENGTH": str(len(data)), "wsgi.input": io.BytesIO(data)}  # fmt: skip
    page = usage_page(Ledger())
    for query in (environ["QUERY_STRING"], ""):
        page({**environ, "QUERY_STRING": query}, lambda status, _: seen.append(int(status[:3])))
    assert all(400 <= status < 500 for status in seen)


PARSERS = {
    parser.__name__: parser for parser in (limits, period, plan, csv, aws, log, headers, url, control, signature, form)
}


def fuzz(name, seconds):
    """Fuzz one parser in this process, which ends with it."""
    import atheris

    folder = Path(".hypothesis") / "fuzz" / name
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[name]):
        (folder / f"seed{number}").write_text(seed, "utf-8")
    with atheris.instrument_imports(include=["quota"]):
        for seed in SEEDS[name]:
            PARSERS[name](seed.encode())  # loads what is instrumented
    atheris.Setup(
        [sys.argv[0], str(folder), f"-max_total_time={seconds}", "-max_len=2000", "-verbosity=0"], PARSERS[name]
    )
    atheris.Fuzz()


if __name__ == "__main__":
    seconds, *names = sys.argv[1:]
    if len(names) == 1:
        fuzz(names[0], seconds)
    failed = [
        name
        for name in names or PARSERS
        if subprocess.run([sys.executable, __file__, seconds, name], check=False).returncode
    ]
    print(f"fuzzed {', '.join(names or PARSERS)}, {seconds} s each; failed: {', '.join(failed) or 'none'}")
    sys.exit(bool(failed))
