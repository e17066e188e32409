"""Where keys, plans and counts live: one folder for each engine. ``open_store`` opens the one that a URL names."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..errors import InvalidValue


def open_store(url: str, *, asynchronous: bool = False) -> Any:
    """The store that a URL names: ``memory://``, ``sqlite:///path``, ``postgresql://...``, ``redis://...``.

    ``leased+`` before any of the last three: spent from leases (``LeasedStore``).
    A store takes its own options out of the query and hands the rest to its driver. ``asynchronous``: the twin of a
    remote store that ``AsyncLedger`` awaits. Raises ``InvalidValue`` for a URL that names no store, and
    ``ModuleNotFoundError`` that says what to install where its driver is missing.
    """
    from .urls import check_url, shown_url, split_url  # noqa: PLC0415 -- in memory there is no URL

    scheme, separator, _ = url.partition(":")
    scheme = scheme.lower()
    engine = _STORES.get(scheme.removeprefix("leased+")) if separator else None
    if engine is None:
        raise InvalidValue("store", shown_url(url), f"a URL as in sqlite:///usage.db, of {', '.join(sorted(_STORES))}")
    needs = _DRIVERS.get(engine, {})  # modules -> what pip calls them
    if needs and not url[len(scheme) :].startswith("://"):
        raise InvalidValue("store", shown_url(url), f"{scheme}:// and what follows")
    if needs:
        check_url(url)
    elif scheme.startswith("leased+") and split_url(shown_url(url))[0].netloc:
        raise InvalidValue("store", shown_url(url), f"no host, user or password: {engine}:// is of this machine")
    try:
        module = import_module(f".{engine}", __package__)
    except ImportError as error:
        name = error.name or next(iter(needs), "")  # psycopg without libpq names nothing
        if name.partition(".")[0] not in needs:
            raise
        text = f"{scheme}:// needs {' and '.join(needs)}: pip install {' '.join(needs.values())}"
        raise ModuleNotFoundError(text, name=name) from None
    if scheme.startswith("leased+"):
        module = import_module(".leased", __package__)
    return module.open_url(url, asynchronous=asynchronous)


_STORES = {
    "memory": "memory", "sqlite": "sqlite", "postgresql": "postgres", "postgres": "postgres", "redis": "redis",
    "rediss": "redis", "unix": "redis", "valkey": "redis", "valkeys": "redis",
}  # fmt: skip
_DRIVERS = {"redis": {"redis": "redis"}, "postgres": {"psycopg": "'psycopg[binary]'", "psycopg_pool": "psycopg-pool"}}
