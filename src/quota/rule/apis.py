"""Meters that count several apis together, by their names: the sum of what each api's own meter counts."""

from __future__ import annotations

from collections.abc import Iterable

_BETWEEN = "\n"
"""Between the apis in the name of a meter that counts several: in no api's own name."""


def together(apis: Iterable[str]) -> str:
    """Name the meter that counts what is taken of several apis; of one it is the api's own."""
    return _BETWEEN.join(sorted(apis))


def several(apis: str) -> bool:
    """Tell whether a meter counts more than one api."""
    return _BETWEEN in apis


def counts(apis: str, api: str) -> bool:
    """Tell whether a meter counts what is taken of an api, alone or with others."""
    return apis == api or (_BETWEEN in apis and api in apis.split(_BETWEEN))


def overlap(apis: str, others: str) -> bool:
    """Tell whether two meters have an api in common."""
    return any(counts(apis, api) for api in others.split(_BETWEEN))
