"""The entry of ``MIDDLEWARE``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction

from .config import front


class QuotaMiddleware:
    """Checks and counts every request by ``settings.QUOTA``; refuses with 403, 429 or 503 in place of the view.

    Sync and async. A view finds the decision in ``request.quota``. Where users are counted, the middleware that finds
    them comes before this one.
    """

    sync_capable = async_capable = True

    def __init__(self, get_response: Callable[..., Any]) -> None:
        self._respond = get_response
        self._awaits = iscoroutinefunction(get_response)
        if self._awaits:
            markcoroutinefunction(self)
        found = front()  # what is wrong with the settings is told as the server starts
        if not self._awaits:
            found.check_sync()

    def __call__(self, request: Any) -> Any:
        found = front()
        serve = found.serve_awaited if self._awaits else found.serve
        return serve(request, self._respond)
