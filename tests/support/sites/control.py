"""A control plane on a real server, and real clients of it."""

import threading
from contextlib import contextmanager, suppress

import boto3
from botocore.config import Config
from waitress.server import create_server
from waitress.wasyncore import close_all

from quota.aws import control_plane

CREDENTIALS = {"AKIDEXAMPLE": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}
SESSION = boto3.session.Session()  # one: it reads the description of API Gateway once
STAGES = {"r1": ["prod", "test"], "r2": ["prod"]}


@contextmanager
def served(app):
    """The URL of an application, served until the block ends."""
    server = create_server(app, host="127.0.0.1", port=0, threads=8, clear_untrusted_proxy_headers=False)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.effective_port}"
    finally:
        # In the loop's own thread; clients may hold connections open. The loop may be awake for a worker's sake
        # already, and then it closes the trigger before it is pulled.
        with suppress(OSError):
            server.trigger.pull_trigger(lambda: close_all(server._map, ignore_all=True))
        thread.join()
        server.task_dispatcher.shutdown()


def client(url, *, secret=None, access_key="AKIDEXAMPLE", unsigned=False, region="eu-west-1", **config):
    """A boto3 client of it, unedited but for the endpoint; it never waits to try again."""
    from botocore import UNSIGNED

    settings = {"retries": {"total_max_attempts": 1}, **({"signature_version": UNSIGNED} if unsigned else {}), **config}
    return SESSION.client(
        "apigateway", endpoint_url=url, region_name=region, aws_access_key_id=access_key,
        aws_secret_access_key=secret or CREDENTIALS["AKIDEXAMPLE"], config=Config(**settings),
    )  # fmt: skip


def plane(ledger, **more):
    """The usual control plane."""
    return control_plane(ledger, **{"credentials": CREDENTIALS, "stages": STAGES, **more})


def refused(call, **arguments):
    """(status, code, message) of a call that is refused."""
    from botocore.exceptions import ClientError

    try:
        call(**arguments)
    except ClientError as error:
        told = error.response
        assert told["ResponseMetadata"]["RequestId"]
        return told["ResponseMetadata"]["HTTPStatusCode"], told["Error"]["Code"], told["Error"]["Message"]
    raise AssertionError("it was admitted")


def bare(answer):
    """An answer without what is not the operation's."""
    return {name: value for name, value in answer.items() if name != "ResponseMetadata"}
