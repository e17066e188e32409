"""Answers to the preflights of browsers (Fetch, section 3.3). Pure."""

from __future__ import annotations

import re

_TOKENS = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+([ \t]*,[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+)*\Z")


def allowed_across_origins(method: str, names: str) -> dict[str, str]:
    """The headers that answer a CORS preflight (Fetch, section 3.3): every origin, without its cookies.

    ``method`` and ``names`` are what it asks for; they are granted if they are what a browser sends.
    """
    asked = {"Access-Control-Allow-Methods": method, "Access-Control-Allow-Headers": names}
    return {
        "Access-Control-Allow-Origin": "*",
        **{field: text for field, text in asked.items() if len(text) <= 1024 and _TOKENS.match(text)},
        "Access-Control-Max-Age": "600",
        "Vary": "Access-Control-Request-Method, Access-Control-Request-Headers",
    }
