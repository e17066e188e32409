"""A Django project in one module, as its tutorial's single-file variant."""

from __future__ import annotations

import sys
import tempfile

import django
from django.conf import settings
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path, re_path


def pet(request, number):
    decision = request.META.get("quota.decision") or request.scope["state"]["quota"]
    return HttpResponse(f"{number} for {decision.key.name}")


def stream(request):
    return StreamingHttpResponse(iter(["a", "b"]))


def broken(request):
    raise ZeroDivisionError


urlpatterns = [
    path("pets/<int:number>/", pet),
    path("stream", stream),
    path("broken", broken),
    re_path(r"^old/(?P<year>[0-9]{4})$", pet),
]

if not settings.configured:
    settings.configure(
        ROOT_URLCONF=sys.modules[__name__],
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="test",
        LOGGING_CONFIG=None,
        INSTALLED_APPS=[
            "django.contrib.contenttypes",
            "django.contrib.auth",
            "django.contrib.sessions",
            "quota.django",
        ],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{tempfile.mkdtemp()}/site.db"}},
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        QUOTA={"LEDGER": "memory://", "ON_UNAVAILABLE": "deny"},
    )
    django.setup()
