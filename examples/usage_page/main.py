"""A Flask application that is limited, and the usage page beside it: python examples/usage_page/main.py."""

from flask import Flask
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from quota import Ledger, UsagePlan
from quota.web import usage_page
from quota.wsgi import QuotaMiddleware

ledger = Ledger()
ledger.add_plan(UsagePlan("free", "100/day, 5/s burst 10"))
key, secret = ledger.issue_key("Ada", plan="free")

site = Flask(__name__)


@site.get("/pets")
def pets() -> dict[str, list[str]]:
    """Answer what is limited."""
    return {"pets": ["Rex", "Mia"]}


limited = QuotaMiddleware(site.wsgi_app, ledger, on_unavailable="deny")
app = DispatcherMiddleware(limited, {"/usage": usage_page(ledger)})

if __name__ == "__main__":
    from wsgiref.simple_server import make_server

    print(f"http://127.0.0.1:8000/usage, and: curl -H 'x-api-key: {secret}' http://127.0.0.1:8000/pets")
    make_server("127.0.0.1", 8000, app).serve_forever()
