"""Limits of single views."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, TypeVar, Unpack, overload

from asgiref.sync import iscoroutinefunction

from ..web.addresses import Anonymous
from ..web.settings import SomeSettings
from .config import check_own, front

DjangoView = TypeVar("DjangoView", bound=Callable[..., Any])


class DjangoViewSettings(SomeSettings, total=False):
    """The keywords of ``limited``."""

    anonymous: Anonymous | str | None
    users: str | None


@overload
def limited(view: DjangoView, /) -> DjangoView: ...
@overload
def limited(**settings: Unpack[DjangoViewSettings]) -> Callable[[DjangoView], DjangoView]: ...
def limited(view: Any = None, /, **settings: Any) -> Any:
    """Check and count the calls of a view, sync or async, by ``settings.QUOTA``.

    ``settings``: in place of those of ``settings.QUOTA``, in small letters: ``limited(cost=5)``; a ``route`` by name.
    Behind ``QuotaMiddleware`` both charge. Of a class: ``limited(cost=5)(PetView.as_view())``. Raises
    ``ImproperlyConfigured`` for a setting that cannot be meant.
    """
    check_own(settings)
    if view is None:
        return partial(_decorated, settings)
    return _decorated(settings, view)


def _decorated(settings: dict[str, Any], view: Callable[..., Any]) -> Callable[..., Any]:
    if iscoroutinefunction(view):

        @wraps(view)
        async def awaited(request: Any, *args: Any, **kwargs: Any) -> Any:
            return await front(**settings).serve_awaited(request, lambda _: view(request, *args, **kwargs))

        return awaited

    @wraps(view)
    def served(request: Any, *args: Any, **kwargs: Any) -> Any:
        return front(**settings).serve(request, lambda _: view(request, *args, **kwargs))

    return served
