"""Figures of a ledger for Prometheus: ``instrument(ledger)``. Needs prometheus-client (the extra ``metrics``).

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
from .decision import Decision, Reason
from .errors import InvalidValue, QuotaError, StoreBusy, StoreUnavailable
from .ledger.aio import AsyncLedger
from .ledger.sync import Ledger
from .limit import REQUESTS

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Bounds of the histogram's buckets: from a call within a process to a store that is waited for until its timeout."""

Method = Callable[..., Any]
OK = Reason.OK.value
_NOTHING: Mapping[str, int] = MappingProxyType({})
Answered = Callable[[Any, str], None]
"""Told of a call that was answered, and of which api it was."""
Ended = Callable[[Any, QuotaError | None, tuple[Any, ...], float], None]
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

    def consumed(self, decision: Any, api: str) -> None:
        """Count a decision and its units; of a plain admission without working out the whole answer."""
        if not decision.allowed or getattr(decision, "_amounts", None) is None:  # what is told again has no amounts
            self._decided(decision, api)
            self._admitted(decision)
            return
        plan = decision.plan.id
        takes = decision._room.takes(decision)
        for unit, units in takes.items():
            self._of(self._units, plan, unit).inc(units)
        self._of(self._decisions, plan, api, OK).inc()

    def reserved(self, held: Any, api: str) -> None:
        """Count a decision; its units are counted as they are spent and committed."""
        self._decided(held.decision, api)

    def settled(self, _answer: Any, _error: Any, args: tuple[Any, ...], _seconds: float) -> None:
        """Count what became of a reservation, whoever made it, at once or tried again."""
        held, op, answer = args
        if op == "spend":
            self._admitted(answer if isinstance(answer, Decision) else answer[0])
        elif op == "commit":
            self._admitted(answer, held.spent)

    def unsettled(self, _answer: Any, error: Any, _args: Any, _seconds: float) -> None:
        """Count a reservation that could not be settled at once."""
        if isinstance(error, (StoreBusy, StoreUnavailable)):
            self._unsettled.inc()

    def asked(self, _answer: Any, _error: Any, args: tuple[Any, ...], seconds: float) -> None:
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
    _replace(ledger, "consume", _answering, figures.consumed)
    figures.calls.add(vars(ledger)["consume"])
    _replace(ledger, "acquire", _answering, figures.consumed)
    _replace(ledger, "reserve", _answering, figures.reserved)
    _replace(ledger, "_settle", _ending, figures.unsettled)
    _replace(ledger, "_done", _ending, figures.settled)
    store: Any = ledger.store
    while hasattr(store, "store"):
        store = store.store
    if store not in figures.stores:
        figures.stores.add(store)
        _replace(store, "apply", _ending, figures.asked)


def _replace(owner: Any, name: str, watched: Callable[[Method, Any], Method], told: Answered | Ended) -> None:
    """Watch one object's method; its class and other objects keep theirs."""
    method = getattr(owner, name)
    vars(owner)[name] = functools.wraps(method)(watched(method, told))


def _answering(method: Method, answered: Answered) -> Method:
    """Watch what is answered: a call that raises decided nothing. Most calls come by here, so no clock is read."""

    def call(*args: Any, api: str = "", **named: Any) -> Any:
        answer = method(*args, api=api, **named)
        answered(answer, api)
        return answer

    async def waiting(*args: Any, api: str = "", **named: Any) -> Any:
        answer = await method(*args, api=api, **named)
        answered(answer, api)
        return answer

    return waiting if iscoroutinefunction(method) else call


def _ending(method: Method, ended: Ended) -> Method:
    """Watch how calls end, and time them."""

    def call(*args: Any) -> Any:
        start = monotonic()
        try:
            answer = method(*args)
        except QuotaError as error:
            ended(None, error, args, monotonic() - start)
            raise
        ended(answer, None, args, monotonic() - start)
        return answer

    async def waiting(*args: Any) -> Any:
        start = monotonic()
        try:
            answer = await method(*args)
        except QuotaError as error:
            ended(None, error, args, monotonic() - start)
            raise
        ended(answer, None, args, monotonic() - start)
        return answer

    return waiting if iscoroutinefunction(method) else call
