"""A shop for uWSGI that has used its ledger by the time its workers are forked: QUOTA_STORE and QUOTA_SECRET name both."""

from __future__ import annotations

import os

from quota import Ledger
from quota.wsgi import QuotaMiddleware

ledger = Ledger(os.environ["QUOTA_STORE"])
for _ in range(100):
    assert ledger.consume(os.environ["QUOTA_SECRET"])


def shop(environ, start_response):
    start_response("200 OK", [("content-type", "text/plain")])
    return [str(os.getpid()).encode()]


application = QuotaMiddleware(shop, ledger, on_unavailable="deny", charge="arrival")
