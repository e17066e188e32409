"""The application of ``INSTALLED_APPS``: what ``manage.py`` has of it."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.core.exceptions import ImproperlyConfigured

from .config import front

_USERS = "django.contrib.auth.middleware.AuthenticationMiddleware"


class QuotaConfig(AppConfig):  # type: ignore[misc] # Django has no types of its own
    """Registers the checks of ``settings.QUOTA``."""

    name = __name__.rpartition(".")[0]
    label = "quota"
    verbose_name = "Usage plans"

    def ready(self) -> None:
        register(check_settings)


def check_settings(app_configs: Any, **_: Any) -> list[CheckMessage]:  # noqa: ARG001 -- Django's protocol
    """Tell what is wrong with ``settings.QUOTA``, before a request does."""
    try:
        found = front()
    except ImproperlyConfigured as error:
        return [Error(str(error), id="quota.E001")]
    places = {name: place for place, name in enumerate(settings.MIDDLEWARE)}
    mine = places.get(
        f"{QuotaConfig.name}.QuotaMiddleware", places.get(f"{QuotaConfig.name}.middleware.QuotaMiddleware")
    )
    if found.users is not None and mine is not None and places.get(_USERS, mine) >= mine:
        hint = f"Put {_USERS!r} before it."
        return [Error("QUOTA['USERS']: QuotaMiddleware comes before users are known", hint=hint, id="quota.E002")]
    return []
