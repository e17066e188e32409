"""Figures of a ledger for Prometheus: ``instrument(ledger)``. Needs prometheus-client (``pip install quota[metrics]``).

No metric has a label of a key, an account, a route or an address: the number of series grows with plans, apis, units
and reasons alone. A ledger that is not instrumented pays nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from inspect import iscoroutinefunction
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily

from .clock import monotonic
from .decision import Decision
from .errors import InvalidValue, QuotaError, StoreBusy, StoreUnavailable
from .ledger.aio import AsyncLedger
from .ledger.sync import Ledger
from .limit import REQUESTS

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Bounds of the histogram's buckets: from a call within a process to a store that is waited for until its timeout."""

Method = Callable[..., Any]
_NOTHING: Mapping[str, int] = MappingProxyType({})
Ended = Callable[[Any, QuotaError | None, tuple[Any, ...], Mapping[str, Any], float], None]
"""Told of a call that ended: its answer, its error, its arguments, and the seconds it took."""


class _Figures:
    """The metrics of one registry, shared by the ledgers that are instrumented on it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.ledgers: WeakSet[Any] = WeakSet()
        self.calls: WeakSet[Any] = WeakSet()
        self.stores: WeakSet[Any] = WeakSet()
        self._series: dict[tuple[Any, ...], Any] = {}
        self._decisions = Counter(
            "quota_decisions", "Calls that were decided.", ("plan", "api", "reason"), registry=registry
        )
        self._units = Counter("quota_units", "Units that were admitted.", ("plan", "unit"), registry=registry)
        self._seconds = Histogram(
            "quota_store_seconds", "Seconds that requests to the store took.", ("operation",),
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self._unsettled = Counter(
            "quota_settlements_failed", "Reservations whose commit or cancel was not written.", registry=registry
        )
        registry.register(self)

    def describe(self) -> list[GaugeMetricFamily]:
        """Name what ``collect`` adds, so that a registry need not collect to know."""
        return [_leased({}), _away(0)]

    def collect(self) -> list[GaugeMetricFamily]:
        """Read what stands at this moment."""
        units: dict[str, int] = {}
        away = 0
        for ledger in list(self.ledgers):
            breaker = ledger._breaker or getattr(ledger.store, "_breaker", None)
            away += breaker is not None and breaker.open
            for unit, left in getattr(ledger.store, "outstanding", dict)().items():
                units[unit] = units.get(unit, 0) + left
        return [_leased(units), _away(away)]

    def _of(self, metric: Any, *labels: str) -> Any:
        """The series of these labels: the library's own look-up takes a lock and checks them each time."""
        series = self._series.get((metric, labels))
        if series is None:
            series = self._series[metric, labels] = metric.labels(*labels)
        return series

    def _decided(self, decision: Decision, api: str) -> None:
        plan = decision.plan
        # An api that no plan governs is the caller's word: it gets no series.
        labels = (plan.id, api) if plan is not None else ("", "")
        self._of(self._decisions, *labels, decision.reason.value).inc()

    def _admitted(self, decision: Decision, before: Mapping[str, int] = _NOTHING) -> None:
        """Count the units of a decision, less those that were counted before."""
        plan = decision.plan
        if decision.allowed and plan is not None and not decision.replayed:
            cost = decision.cost
            for unit, units in ({REQUESTS: cost} if isinstance(cost, int) else cost).items():
                self._of(self._units, plan.id, unit).inc(units - before.get(unit, 0))

    def consumed(self, decision: Any, _error: Any, _args: Any, named: Mapping[str, Any], _seconds: float) -> None:
        """Count a decision and its units."""
        if decision is not None:
            self._decided(decision, named.get("api", ""))
            self._admitted(decision)

    def reserved(self, held: Any, _error: Any, _args: Any, named: Mapping[str, Any], _seconds: float) -> None:
        """Count a decision; its units are counted as they are spent and committed."""
        if held is not None:
            self._decided(held.decision, named.get("api", ""))

    def settled(self, _answer: Any, _error: Any, args: tuple[Any, ...], _named: Any, _seconds: float) -> None:
        """Count what became of a reservation, whoever made it, at once or tried again."""
        held, op, answer = args
        if op == "spend":
            self._admitted(answer if isinstance(answer, Decision) else answer[0])
        elif op == "commit":
            self._admitted(answer, held.spent)

    def unsettled(self, _answer: Any, error: Any, _args: Any, _named: Any, _seconds: float) -> None:
        """Count a reservation that could not be settled at once."""
        if isinstance(error, (StoreBusy, StoreUnavailable)):
            self._unsettled.inc()

    def asked(self, _answer: Any, _error: Any, args: tuple[Any, ...], _named: Any, seconds: float) -> None:
        """Time a request to the store."""
        self._of(self._seconds, args[0].op).observe(seconds)


def _leased(units: Mapping[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily("quota_leased_units", "Units on lease that are not spent yet.", labels=["unit"])
    for unit, left in units.items():
        family.add_metric([unit], left)
    return family


def _away(ledgers: int) -> GaugeMetricFamily:
    return GaugeMetricFamily("quota_store_away", "Ledgers whose store is away.", value=ledgers)


_registries: WeakKeyDictionary[CollectorRegistry, _Figures] = WeakKeyDictionary()


def instrument(ledger: Ledger | AsyncLedger, registry: CollectorRegistry | None = None) -> None:
    """Count what a ledger decides, from now on, on a Prometheus registry (by default the process's own).

    Counters: ``quota_decisions_total`` by plan, api and reason (``consume``, ``require``, ``acquire`` and ``reserve``;
    ``peek`` is none), ``quota_units_total`` by plan and unit (of a reservation as it is spent and committed),
    ``quota_settlements_failed_total``. Histogram: ``quota_store_seconds`` by operation, with leases of the store behind
    them. Gauges: ``quota_leased_units`` by unit, ``quota_store_away``. A second call for the same ledger and registry
    changes nothing, nor does one for its view (``acting``).

    Raises:
        InvalidValue: for a ledger or a registry that is none.
    """
    if not isinstance(ledger, (Ledger, AsyncLedger)):
        raise InvalidValue("ledger", ledger, "a Ledger or an AsyncLedger")
    registry = REGISTRY if registry is None else registry
    if not isinstance(registry, CollectorRegistry):
        raise InvalidValue("registry", registry, "a prometheus_client.CollectorRegistry")
    figures = _registries.get(registry)
    if figures is None:
        figures = _registries[registry] = _Figures(registry)
    call = vars(ledger).get("consume")
    while call is not None:  # a view (acting) has the watched methods of its ledger already
        if call in figures.calls:
            return
        call = getattr(call, "__wrapped__", None)
    figures.ledgers.add(ledger)
    _watch(ledger, "consume", figures.consumed)
    figures.calls.add(vars(ledger)["consume"])
    _watch(ledger, "acquire", figures.consumed)
    _watch(ledger, "reserve", figures.reserved)
    _watch(ledger, "_settle", figures.unsettled)
    _watch(ledger, "_done", figures.settled)
    store: Any = ledger.store
    while hasattr(store, "store"):
        store = store.store
    if store not in figures.stores:
        figures.stores.add(store)
        _watch(store, "apply", figures.asked)


def _watch(owner: Any, name: str, ended: Ended) -> None:
    """Watch one object's method; its class and other objects keep theirs."""
    method = getattr(owner, name)
    vars(owner)[name] = functools.wraps(method)(_watched(method, ended))


def _watched(method: Method, ended: Ended) -> Method:
    def call(*args: Any, **named: Any) -> Any:
        start = monotonic()
        try:
            answer = method(*args, **named)
        except QuotaError as error:
            ended(None, error, args, named, monotonic() - start)
            raise
        ended(answer, None, args, named, monotonic() - start)
        return answer

    async def waiting(*args: Any, **named: Any) -> Any:
        start = monotonic()
        try:
            answer = await method(*args, **named)
        except QuotaError as error:
            ended(None, error, args, named, monotonic() - start)
            raise
        ended(answer, None, args, named, monotonic() - start)
        return answer

    return waiting if iscoroutinefunction(method) else call
