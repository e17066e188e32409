"""A plan and a key by boto3, against a control plane in this very process: python examples/control_plane/main.py."""

import threading
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import boto3

from quota import Ledger
from quota.aws import control_plane


class Quiet(WSGIRequestHandler):
    """Says nothing of each request."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- as its base names it
        """Say nothing."""


def main() -> None:
    """Set up by API Gateway's API, count in the ledger, and ask the API what was used."""
    ledger = Ledger()
    app = control_plane(ledger, credentials={"AKIDEXAMPLE": "wJalrXUtnFEMI"}, stages={"shop": ["prod"]})
    with make_server("127.0.0.1", 0, app, handler_class=Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        aws: Any = boto3.client(
            "apigateway", endpoint_url=f"http://127.0.0.1:{server.server_port}", region_name="eu-west-1",
            aws_access_key_id="AKIDEXAMPLE", aws_secret_access_key="wJalrXUtnFEMI",
        )  # fmt: skip
        stages = [{"apiId": "shop", "stage": "prod"}]
        plan = aws.create_usage_plan(name="gold", apiStages=stages, quota={"limit": 2, "period": "DAY"})
        key = aws.create_api_key(name="acme", enabled=True)
        aws.create_usage_plan_key(usagePlanId=plan["id"], keyId=key["id"], keyType="API_KEY")
        print([ledger.consume(key["value"], api="shop/prod").allowed for _ in range(3)])
        today = ledger.usage(key["id"], api="shop/prod")[-1].day.isoformat()
        print(aws.get_usage(usagePlanId=plan["id"], startDate=today, endDate=today)["items"])
        server.shutdown()


if __name__ == "__main__":
    main()
