"""A ledger and the settings of a middleware, in front of Django's requests."""

from __future__ import annotations

import asyncio
import inspect
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpResponse
from django.urls import Resolver404, resolve

from ..asgi import QuotaMiddleware as InAsgi
from ..asgi import nowhere
from ..decision import Decision
from ..errors import check_text
from ..key import Caller
from ..ledger.aio import AsyncLedger
from ..ledger.sync import Ledger
from ..web.addresses import Anonymous
from ..web.bodies import Rest, read_first
from ..web.gate import Answer, Gate
from ..web.responses.awaited import Exchange as AwaitedExchange
from ..web.responses.plain import Exchange
from ..web.routes import DjangoRoutes, KnownRoutes, Names
from ..web.settings import seeing
from ..wsgi import QuotaMiddleware as InWsgi
from ..wsgi import nowhere as nothing
from ..wsgi import preflight_of

Seen = dict[str, Any]
"""All that the steps of a middleware read of a request: what CGI calls it, the request and its key."""

_REQUEST, _KEY = "quota.request", "quota.key"


class Front:
    """Decides and settles requests; ``users``: the plan that users who are logged in are counted under."""

    def __init__(self, ledger: Ledger | AsyncLedger, users: str | None, settings: dict[str, Any]) -> None:
        self.users = None if users is None else check_text("users", users)
        self._names = Names(DjangoRoutes())
        given = {**settings, "route": _named(settings.get("route")) or self._name}
        if given.get("charge") == "response":
            given.setdefault("actual", _actual)
        self._anonymous: Anonymous | None = given.get("anonymous")
        self._gate = Gate(**given)  # what is wrong is told by its own name
        given = seeing(given, lambda seen: seen[_REQUEST])
        if self.users is not None:
            given["anonymous"] = Anonymous(self.users, self._by)
        self._places = self._gate.places
        self._key = settings.get("key")
        self._shown = Gate(**given)
        known = None if callable(settings.get("route")) else KnownRoutes(DjangoRoutes())
        asked: Any = {**given, "known": known, "key": lambda seen: seen[_KEY]}
        self._awaited = InAsgi(nowhere, ledger, **asked)
        self._sync = InWsgi(nothing, ledger, **asked) if isinstance(ledger, Ledger) else None
        if self._sync is not None:
            self._sync.gate = self._awaited.gate

    def check_sync(self) -> InWsgi:
        """Return what is asked without awaiting. Raises ``ImproperlyConfigured``."""
        if self._sync is None:
            raise ImproperlyConfigured(
                "QUOTA['LEDGER'] is an AsyncLedger, which is for ASGI alone; a Ledger is for both"
            )
        return self._sync

    def decide(self, request: Any) -> tuple[Decision, Answer | None]:
        """Charge a request of whoever answers it otherwise, and return what a refusal would be answered."""
        seen = self._seen(request)
        front = self.check_sync()
        decision = front.decide(seen, request.method, request.path_info, self._body, keep_slot=False)[0]
        refused = not _told(request, decision, seen).allowed and not self._shown.shadow
        return decision, self._shown.refusal(decision, request.method, seen) if refused else None

    def serve(self, request: Any, respond: Callable[[Any], Any]) -> Any:
        """Answer a request by a view, or in its place."""
        request = getattr(request, "_request", request)  # the REST framework's own has Django's in it
        front = self.check_sync()
        answer = self._before(request)
        if answer is not None:
            return respond(request) if answer is _PASS else _response(answer)
        seen = self._seen(request)
        decision, held = front.decide(seen, request.method, request.path_info, self._body)
        if not _told(request, decision, seen).allowed and not self._shown.shadow:
            return _response(self._shown.refusal(decision, request.method, seen))
        own = self._shown.shown(decision)
        if held is None:
            return _with(_plain(respond(request)), own)
        exchange = Exchange(front.gate, held, seen, own)
        with exchange:
            response = _plain(respond(request))
        exchange.begin(response.status_code, response.headers.items())
        if not response.streaming:
            exchange.settle()
        elif getattr(response, "is_async", False):
            response.streaming_content = _parts(response.streaming_content, exchange, asyncio.to_thread)
        else:
            exchange.carry(response.streaming_content)
            response.streaming_content = exchange
        return _with(response, own)

    async def serve_awaited(self, request: Any, respond: Callable[[Any], Awaitable[Any]]) -> Any:
        """Answer a request by an async view, or in its place."""
        request = getattr(request, "_request", request)
        answer = self._before(request)
        if answer is not None:
            return await respond(request) if answer is _PASS else _response(answer)
        seen, front = self._seen(request), self._awaited
        if self.users is not None and not seen[_KEY]:
            await _load_user(request)
        body: Any = _AwaitedBody(self._body, seen, front.gate.most_body) if front.gate.cost_from_body else None
        decision, held = await front.decide(seen, request.method, request.path_info, body)
        if not _told(request, decision, seen).allowed and not self._shown.shadow:
            return _response(self._shown.refusal(decision, request.method, seen))
        own = self._shown.shown(decision)
        if held is None:
            return _with(await respond(request), own)
        return _with(await self._answered(request, respond, held, seen), own)

    async def _answered(self, request: Any, respond: Callable[[Any], Awaitable[Any]], held: Any, seen: Seen) -> Any:
        exchange = AwaitedExchange(self._awaited, held, seen, [], frozenset())
        try:
            response = await respond(request)
        except BaseException:
            await exchange.fail()
            raise
        await exchange.begin(response.status_code, response.headers.items())
        if response.streaming:
            if not response.is_async:  # Django reads it in a thread, all of it, as it says in a warning of its own
                response.streaming_content = _awaitable(response.streaming_content)
            response.streaming_content = _parts(response.streaming_content, exchange, _awaited)
        else:
            await exchange.settle()
        return response

    def _before(self, request: Any) -> Answer | None:
        """Answer a preflight; ``_PASS`` for what passes unasked."""
        gate = self._shown
        if request.method == "OPTIONS" and gate.preflight != "ask":
            preflight = preflight_of(request.META, self._gate)
            if preflight:
                return preflight if gate.preflight == "answer" else _PASS
        passes = gate.passes(request.method, request.path_info, {_REQUEST: request})
        return _PASS if passes else None

    def _seen(self, request: Any) -> Seen:
        gate = self._shown
        seen = {**request.META, _REQUEST: request}
        if callable(self._key):
            found = self._key(request)
        else:
            found = self._places.of_environ(request.META, redact=gate.redact)
            if gate.redact:
                if hasattr(request, "scope"):
                    query = request.scope.get("query_string", b"")
                    if isinstance(query, str):  # Django's own client for tests
                        request.scope["query_string"] = query.encode()
                    self._places.of_scope(request.scope, redact=True)
                for read in ("GET", "headers"):  # what Django keeps of the request as it was
                    vars(request).pop(read, None)
        seen[_KEY] = found
        return seen

    def _by(self, seen: Seen) -> str | Caller | None:
        """Whom a request without a key is counted as: a user who is logged in, or who is counted by address."""
        request = seen[_REQUEST]
        user = getattr(request, "quota_user", None) or getattr(request, "user", None)
        if user is None:
            raise ImproperlyConfigured("QUOTA['USERS'] needs AuthenticationMiddleware, before QuotaMiddleware")
        if user.is_authenticated:
            return Caller(str(self.users), str(user.pk))
        if self._anonymous is None:
            return None
        name = self._anonymous.by(request) if self._anonymous.by else self._gate.by_address(seen)
        return name if name is None or isinstance(name, Caller) else Caller(self._anonymous.plan, name)

    def _name(self, request: Any) -> str:
        """Return the route's name as the project's URLs have it, by the tables that other middlewares chose for it."""
        method, path = "GET" if request.method == "HEAD" else request.method, request.path_info
        match = request.resolver_match
        if match is None and getattr(request, "urlconf", None) is None:
            return self._names(method, path, request.META) or f"{method} {path}"
        try:
            return f"{method} /{(match or resolve(path, request.urlconf)).route}"
        except Resolver404:
            return f"{method} {path}"

    @staticmethod
    def _body(seen: Seen, most: int) -> bytes:
        """Return the first bytes of a body, which the view reads again; of a form with files none."""
        request = seen[_REQUEST]
        known = "_body" in vars(request)
        if request.content_type == "multipart/form-data" or (request._read_started and not known):
            return b""
        if known:
            return bytes(request.body[:most])
        first, stream = read_first(request, most), request._stream
        if getattr(stream, "seekable", bool)():
            stream.seek(0)
        else:
            request._stream = io.BufferedReader(Rest(first, stream, None))
        request._read_started = False
        return first


_PASS = Answer(0)
"""In place of an answer: the request passes unasked."""


class _AwaitedBody:
    """A body that is read as Django reads it, awaited."""

    def __init__(self, read: Callable[[Seen, int], bytes], seen: Seen, most: int) -> None:
        self._what = read, seen, most

    async def read(self) -> bytes:
        read, seen, most = self._what
        return read(seen, most)


def _told(request: Any, decision: Decision, seen: Seen) -> Decision:
    request.quota = request.META["quota.decision"] = decision
    held = seen.get("quota.reservation") or seen.get("state", {}).get("quota_reservation")
    if held is not None:
        request.quota_reservation = held
    return decision


def _actual(request: Any) -> Any:
    """Return what the view says was used."""
    return getattr(request, "quota_actual", None)


def _named(route: Any) -> Callable[[Any], str | None] | None:
    return (lambda _: route) if isinstance(route, str) else route


def _response(answer: Answer) -> HttpResponse:
    response = HttpResponse(answer.body, status=answer.status)
    for name in ("Content-Type", "Content-Length"):
        response.headers.pop(name, None)
    return _with(response, dict(answer.headers))


def _with(response: Any, own: dict[str, str]) -> Any:
    for name, value in own.items():
        response.headers[name] = value
    return response


def _plain(response: Any) -> Any:
    if inspect.iscoroutine(response):
        response.close()
        raise ImproperlyConfigured(
            "limited(...) is around an async view that cannot be seen to be one: decorate that itself"
        )
    return response


async def _load_user(request: Any) -> None:
    """Find the user where nothing may wait."""
    if hasattr(request, "auser"):
        request.quota_user = await request.auser()
    elif hasattr(request, "user"):
        await sync_to_async(lambda: request.user.is_authenticated)()


async def _awaitable(parts: Any) -> AsyncIterator[bytes]:
    for part in await sync_to_async(lambda: list(parts))():
        yield part


async def _parts(
    source: AsyncIterator[bytes], exchange: Exchange | AwaitedExchange, do: Callable[..., Awaitable[None]]
) -> AsyncIterator[bytes]:
    """A response's parts; it is settled when they have ended, however that is."""
    try:
        async for part in source:
            if exchange.ends(part):
                await do(partial(exchange.settle, last=True))
            yield part
    except (asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException:
        await do(exchange.fail)
        raise
    finally:
        await do(exchange.settle)


def _awaited(step: Callable[[], Awaitable[None]]) -> Awaitable[None]:
    return step()
