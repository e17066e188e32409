"""What is particular to WSGI: late starts, write(), close(), error pages, and the server's variables."""

from __future__ import annotations

import sys

import pytest

from quota import AsyncLedger
from quota.errors import InvalidValue
from quota.wsgi import QuotaMiddleware
from web import Boom, environ, ledger, wsgi

TEXT = [("Content-Type", "text/plain")]


def used(made, secret):
    return sum(record.used for record in made.usage(made.peek(secret).key))


def middleware(app, limits="3/day", **settings):
    made, secret = ledger(limits)
    return QuotaMiddleware(app, made, **{"on_unavailable": "deny", **settings}), made, secret


def hello(request, start_response):
    start_response("200 OK", list(TEXT))
    return [b"hi"]


@pytest.mark.parametrize("charge", ["arrival", "success", "response"])
def test_valid_on_both_sides(charge):
    """wsgiref's validator finds no fault, neither as the server's nor as the application's neighbour."""
    from wsgiref.validate import validator

    app, _, secret = middleware(validator(hello), charge=charge)
    answers = [wsgi(app, headers={"x-api-key": secret}) for _ in range(4)] + [wsgi(app), wsgi(app, "HEAD")]
    assert [answer.status for answer in answers] == [200, 200, 200, 429, 403, 403]


@pytest.mark.parametrize(("status", "kept"), [("200 OK", 1), ("500 Oops", 0)])
def test_generator_that_starts_late(status, kept):
    """An application may start its response only when its body is read; it is settled by that status."""

    def late(request, start_response):
        start_response(status, list(TEXT))
        yield b"late"

    app, made, secret = middleware(late, charge="success")
    answer = wsgi(app, headers={"x-api-key": secret})
    assert answer.body == b"late"
    assert "RateLimit" in answer
    assert used(made, secret) == kept


def test_write():
    """The callable that start_response returns still writes."""

    def old(request, start_response):
        start_response("200 OK", list(TEXT))(b"written")
        return []

    app, _, secret = middleware(old, charge="success")
    assert wsgi(app, headers={"x-api-key": secret}).messages == [b"written"]


def test_error_page():
    """An application that replaces its started response by an error page is settled by the error."""

    def page(request, start_response):
        start_response("200 OK", list(TEXT))
        try:
            raise Boom
        except Boom:
            start_response("500 Oops", list(TEXT), sys.exc_info())
        return [b"sorry"]

    app, made, secret = middleware(page, charge="success")
    assert wsgi(app, headers={"x-api-key": secret}).status == 500
    assert used(made, secret) == 0


def test_closed_once_and_settled_after():
    """The application's body is closed, once, and may say in close() what was used."""
    closed = []

    class Body:
        def __init__(self, request):
            self.request = request

        def __iter__(self):
            return iter([b"x"])

        def close(self):
            closed.append(True)
            self.request["quota.actual"] = 2

    def app(request, start_response):
        start_response("200 OK", list(TEXT))
        return Body(request)

    front, made, secret = middleware(app, charge="response")
    wsgi(front, headers={"x-api-key": secret})
    assert closed == [True]
    assert used(made, secret) == 2


def test_close_that_raises():
    """A close() that raises is still settled, and the error goes on to the server."""

    class Body(list):
        def close(self):
            raise Boom

    def app(request, start_response):
        start_response("200 OK", list(TEXT))
        return Body([b"x"])

    front, made, secret = middleware(app, charge="success")
    with pytest.raises(Boom):
        wsgi(front, headers={"x-api-key": secret}, check=False)
    assert used(made, secret) == 1


def test_failure_is_given_back_before_its_answer():
    """What a failing response held is back before the client has read the answer: a retry is not refused."""
    app, made, secret = middleware(
        lambda request, start: (start("500 Oops", list(TEXT)), [b"a", b"b"])[1], "1/day", charge="success"
    )
    chunks = iter(app(environ(headers={"x-api-key": secret}), lambda *args: None))
    assert next(chunks) == b"a"
    assert made.peek(secret).allowed


def test_body_is_handed_through():
    """Charged on arrival, the server gets the very body of the application, whose kind it may know (wsgi.file_wrapper)."""
    body = [b"file"]
    app, _, secret = middleware(lambda request, start: (start("200 OK", list(TEXT)), body)[1])
    assert app(environ(headers={"x-api-key": secret}), lambda *args: None) is body


def test_server_variables_are_redacted():
    """gunicorn and others log RAW_URI or REQUEST_URI: the secret is hidden there too, and only there."""
    app, _, secret = middleware(hello, key="?key")
    url = f"/a?b=1&key={secret}&c=?x"
    answer = wsgi(app, query=url[3:], RAW_URI=url, REQUEST_URI="/plain")
    assert answer.environ["RAW_URI"] == f"/a?b=1&key=****{secret[-4:]}&c=?x"
    assert answer.environ["QUERY_STRING"] == f"b=1&key=****{secret[-4:]}&c=?x"
    assert answer.environ["REQUEST_URI"] == "/plain"
    assert secret not in repr(answer.environ)


def test_path_is_text():
    """The path is named as the plan writes it, though WSGI hands UTF-8 as Latin-1."""
    made, secret = ledger("9/day", costs={"GET /é": 5})
    app = QuotaMiddleware(hello, made, on_unavailable="deny")
    wsgi(app, path="/é".encode().decode("latin-1"), headers={"x-api-key": secret})
    assert used(made, secret) == 5


@pytest.mark.parametrize("path", ["\xff\xfe", "Ā", "/\ud800"])
def test_path_that_is_no_text(path):
    """A path that is no UTF-8 is no error."""
    app, _, secret = middleware(hello)
    assert wsgi(app, path="/" + path, headers={"x-api-key": secret}).status == 200


def test_async_ledger():
    """An AsyncLedger is refused when the middleware is made: nobody would await it."""
    with pytest.raises(InvalidValue, match="a Ledger"):
        QuotaMiddleware(hello, AsyncLedger(), on_unavailable="deny")
