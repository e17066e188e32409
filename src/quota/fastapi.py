"""A usage plan as a FastAPI dependency: for the routes that ask for it, and shown in OpenAPI as a security scheme."""


# No postponed annotations here: FastAPI before 0.123.7 cannot read those of a dependency that is an instance.

from typing import Unpack

from fastapi import HTTPException, Request, Response, WebSocketException
from fastapi.openapi.models import APIKey, APIKeyIn, HTTPBearer
from fastapi.requests import HTTPConnection
from fastapi.security.base import SecurityBase

from .asgi import QuotaMiddleware, method_of, nowhere, path_of, preflight_of
from .decision import Decision
from .errors import InvalidValue
from .ledger.aio import AsyncLedger
from .ledger.sync import Ledger
from .web.bodies import Body
from .web.gate import Answer, Settings
from .web.responses.awaited import Exchange


class Refused(HTTPException):
    """A request that ``QuotaKey`` refused; ``decision`` says why. ``refused`` answers it with the problem's details."""

    def __init__(self, decision: Decision, answer: Answer) -> None:
        fields = {name: value for name, value in answer.headers if not name.startswith("Content-")}
        super().__init__(answer.status, decision.problem()["detail"], fields)
        self.decision = decision
        self.answer = answer


async def refused(_: Request, error: Exception) -> Response:
    """The whole answer: ``app.add_exception_handler(Refused, refused)``."""
    answer: Answer = error.answer  # type: ignore[attr-defined] # registered for Refused
    return Response(answer.body, answer.status, dict(answer.headers))


class QuotaKey(SecurityBase):
    """A dependency that checks and counts each request, gives its ``Decision`` and raises ``Refused``.

    ``ledger`` and ``settings`` as of ``quota.asgi.QuotaMiddleware``, charging on arrival. OpenAPI shows the first place
    of ``key``. Give it an instance: ``Annotated[Decision, Depends(QuotaKey(ledger, on_unavailable="deny"))]``.

    A call has its place in flight until its response has been sent, or its WebSocket has ended (FastAPI 0.118 or
    later; before, until it was decided: use the middleware there).

    Raises:
        InvalidValue: as the middleware, and for settings that only it can honour.
    """

    def __init__(
        self, ledger: AsyncLedger | Ledger, *, scheme_name: str = "QuotaKey", **settings: Unpack[Settings]
    ) -> None:
        for name in ("charge", "success", "actual", "exempt"):
            if name in settings:
                raise InvalidValue(name, settings.get(name), "nothing here; QuotaMiddleware has it")
        self._ledger = ledger
        self._front = QuotaMiddleware(nowhere, ledger, **settings)
        key = self._front.gate.key
        self._settings: Settings = {**settings, "key": key}
        self.scheme_name = scheme_name
        self.model = _scheme("x-api-key" if callable(key) else key[0])

    async def __call__(self, connection: HTTPConnection, response: Response) -> Decision:
        scope, front = connection.scope, self._front
        if front.app is not scope["app"]:
            front = self._front = QuotaMiddleware(scope["app"], self._ledger, **self._settings)
        method, gate = method_of(scope), front.gate
        preflight = preflight_of(scope, gate) if method == "OPTIONS" and gate.preflight != "ask" else None
        if preflight and gate.preflight == "answer":
            raise HTTPException(preflight.status, headers=dict(preflight.headers))
        body = _Read(connection, gate.most_body) if gate.cost_from_body and isinstance(connection, Request) else None
        path = path_of(scope, gate)
        decision, held = (gate.unasked(), None) if preflight else await front.decide(scope, method, path, body)
        if held is not None:
            exchange = Exchange(front, held, scope, [], frozenset())
            stack = scope.get("fastapi_middleware_astack")
            if stack is None:
                await exchange.settle()
            else:
                stack.push_async_callback(exchange.settle)
        for read in ("_headers", "_query_params", "_url"):  # what Starlette keeps of the scope as it was
            vars(connection).pop(read, None)
        if preflight:
            return decision
        if decision.allowed or gate.shadow:
            response.headers.update(gate.shown(decision))
            return decision
        answer = gate.refusal(decision, method, scope)
        if scope["type"] == "websocket":
            raise WebSocketException(1008, answer.reason)
        raise Refused(decision, answer)


class _Read(Body):
    """A body that FastAPI has read, or will: it keeps what was read for whoever asks again."""

    def __init__(self, request: Request, most: int) -> None:
        super().__init__(request.receive, most)
        self._request = request

    async def read(self) -> bytes:
        try:
            return (await self._request.body())[: self._most]
        except RuntimeError:  # a form, which was read as it came
            return b""


def _scheme(source: str) -> APIKey | HTTPBearer:
    if source == "authorization":
        return HTTPBearer()
    place = APIKeyIn.query if source[0] == "?" else APIKeyIn.header
    return APIKey.model_validate({"in": place, "name": source.lstrip("?")})
