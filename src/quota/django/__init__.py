"""Usage plans in a Django project (extra ``django``): ``MIDDLEWARE``, ``limited`` for views, ``manage.py quota``.

``settings.QUOTA`` names the ledger and has the settings of ``quota.wsgi.QuotaMiddleware``, in capitals.
``"quota.django"`` in ``INSTALLED_APPS`` adds the command and the system checks; ``quota.django.drf`` is for the REST
framework.
"""

from .middleware import QuotaMiddleware
from .views import limited

__all__ = ["QuotaMiddleware", "limited"]
