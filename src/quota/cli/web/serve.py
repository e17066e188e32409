"""quota serve: the usage page and the control plane on a real server (extra ``serve``, waitress)."""

from __future__ import annotations

import json
import logging
import signal
import socket
import sys
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import typer

from ...aws import control_plane
from ...aws.control.app import is_loopback
from ...aws.control.wire import MOST_BODY
from ...errors import InvalidValue
from ...web.usage.page import usage_page
from ..common import StoreOption, WrongUse, opened, read_text
from ..show import tell

_MOST_CLIENTS = 512
"""Connections at a time, so that slow clients hold nobody up; one that is silent for a minute is closed."""

_GRACE, _TURN = 200, 0.1
"""Turns of so many seconds that requests in flight have after a signal to stop."""


class What(StrEnum):
    """The applications that are served."""

    usage = "usage"
    aws = "aws"
    both = "both"


HostOption = Annotated[str, typer.Option("--host", metavar="HOST", help="The address to listen on.")]
PortOption = Annotated[
    int, typer.Option("--port", metavar="PORT", min=0, max=65_535, help="The port; 0 takes a free one.")
]
CredentialsOption = Annotated[
    str | None,
    typer.Option("--credentials", metavar="FILE", help='JSON {"ACCESS KEY ID": "SECRET"}; none: this machine alone.'),
]
StagesOption = Annotated[
    str | None,
    typer.Option("--stages", metavar="FILE", help='JSON {"API ID": ["STAGE"]}; none: whatever a plan names.'),
]
RevealOption = Annotated[
    str | None,
    typer.Option("--reveal", metavar="FILE", help="Fernet keys, one a line, the newest first: values stay readable."),
]
ProxiesOption = Annotated[
    int, typer.Option("--trusted-proxies", metavar="COUNT", min=0, help="How many proxies stand in front.")
]


def serve(
    what: Annotated[What, typer.Argument(metavar="usage|aws|both", help="The usage page, API Gateway's API, or both.")],
    host: HostOption = "127.0.0.1",
    port: PortOption = 8080,
    credentials: CredentialsOption = None,
    stages: StagesOption = None,
    reveal: RevealOption = None,
    trusted_proxies: ProxiesOption = 0,
    store: StoreOption = None,
) -> None:
    """Serve the usage page or API Gateway's API, or both. Goes on until it is told to stop.

    TLS is a proxy's business: put one in front wherever others than this machine call.
    """
    try:
        from waitress.server import create_server  # noqa: PLC0415 -- an extra of its own
    except ModuleNotFoundError:
        raise WrongUse("quota serve needs waitress: pip install waitress") from None
    plane = what is not What.usage
    address = _address(host)
    if plane and credentials is None and not is_loopback(address):
        raise WrongUse(f"--host {host}: without --credentials the control plane is for this machine alone (127.0.0.1)")
    keys = _json("credentials", credentials)
    with opened(store, create=plane) as ledger:
        apps: dict[str, WSGIApplication] = {}
        if plane:
            apps["aws"] = control_plane(
                ledger, credentials=keys, stages=_json("stages", stages), reveal=_reveal(reveal)
            )
        if what is not What.aws:
            apps["usage"] = usage_page(ledger, trusted_proxies=trusted_proxies)
        with _listening(address, port) as listener:
            server = create_server(
                _either(apps), sockets=[listener], threads=8, ident="quota", max_request_body_size=MOST_BODY,
                clear_untrusted_proxy_headers=False, channel_timeout=60, connection_limit=_MOST_CLIENTS,
            )  # fmt: skip
            _run(server, what)


def _listening(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family, backlog=1024)
    except OSError as error:
        raise WrongUse(f"{address}:{port}: {error.strerror or error}") from None


def _address(host: str) -> str:
    """The one address that a host's name means."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError):
        raise WrongUse(f"--host {host}: no address of this machine has this name") from None


def _run(server: Any, what: What) -> None:
    """Serve until a signal; then take no more, and let what is in flight end. A second signal ends it at once."""
    from waitress import wasyncore  # noqa: PLC0415 -- as above

    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    stopped: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT)

    def stop(number: int, _: Any) -> None:
        stopped.append(number)
        for one in numbers:
            signal.signal(one, signal.SIG_DFL)
        server.pull_trigger()

    for number in numbers:
        signal.signal(number, stop)
    host = f"[{server.effective_host}]" if ":" in server.effective_host else server.effective_host
    paths = {"usage": "/usage", "aws": "/apikeys, /usageplans, /tags", "both": "/usage, /apikeys, /usageplans, /tags"}
    tell(
        f"serving {paths[what.value]} on http://{host}:{server.effective_port} without TLS, which is a proxy's to add; "
        "Ctrl-C or SIGTERM stops it"
    )
    while not stopped:
        wasyncore.loop(timeout=1, use_poll=True, map=server._map, count=1)
    server.del_channel()
    server.socket.close()
    for _ in range(_GRACE):
        if not any(one.requests or one.total_outbufs_len for one in list(server.active_channels.values())):
            break
        wasyncore.loop(timeout=_TURN, use_poll=True, map=server._map, count=1)
    server.task_dispatcher.shutdown()
    wasyncore.close_all(server._map, ignore_all=True)
    tell("stopped")


def _either(apps: Mapping[str, WSGIApplication]) -> WSGIApplication:
    """The usage page at its path, the control plane at every other."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        usage = "aws" not in apps or ("usage" in apps and environ.get("PATH_INFO") == "/usage")
        return apps["usage" if usage else "aws"](environ, start_response)

    return app


def _json(field: str, name: str | None) -> Any:
    if name is None:
        return None
    try:
        return json.loads(read_text(name))
    except (ValueError, RecursionError):
        raise InvalidValue(field, name, "a file of JSON, an object") from None


def _reveal(name: str | None) -> Any:
    if name is None:
        return None
    try:
        from cryptography.fernet import Fernet, MultiFernet  # noqa: PLC0415 -- an extra of its own
    except ModuleNotFoundError:
        raise WrongUse("--reveal needs cryptography: pip install cryptography") from None
    try:
        return MultiFernet([Fernet(line.strip()) for line in read_text(name).splitlines() if line.strip()])
    except ValueError:
        raise InvalidValue("reveal", name, "a file of Fernet keys, one a line (Fernet.generate_key())") from None


def register(app: typer.Typer) -> None:
    """Add the command to the root."""
    app.command("serve", epilog="Example: quota serve usage --store sqlite:///usage.db --port 8080")(serve)
