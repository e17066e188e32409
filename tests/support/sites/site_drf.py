"""A Django project for real servers, limited by the REST framework's throttle or by the middleware: QUOTA_FACE says which."""

from __future__ import annotations

import os
import sys

import django
from django.conf import settings

THROTTLED = os.environ["QUOTA_FACE"] == "throttle"
settings.configure(
    ROOT_URLCONF=sys.modules[__name__],
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="test",
    INSTALLED_APPS=["quota.django"],
    MIDDLEWARE=[] if THROTTLED else ["quota.django.QuotaMiddleware"],
    REST_FRAMEWORK={
        "DEFAULT_THROTTLE_CLASSES": ["quota.django.drf.QuotaThrottle"] if THROTTLED else [],
        "DEFAULT_AUTHENTICATION_CLASSES": [],
        "UNAUTHENTICATED_USER": None,
    },
    QUOTA={"LEDGER": os.environ["QUOTA_STORE"], "ON_UNAVAILABLE": "deny"},
)
django.setup()

from django.core.asgi import get_asgi_application  # noqa: E402 -- after it is set up
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.urls import path  # noqa: E402
from rest_framework.decorators import api_view  # noqa: E402
from rest_framework.response import Response  # noqa: E402


@api_view(["GET"])
def pets(request):
    return Response("pets")


urlpatterns = [path("pets", pets)]
app = get_wsgi_application()
asgi = get_asgi_application()
