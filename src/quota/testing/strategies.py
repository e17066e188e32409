"""All that the machine plays with: small plans, few names, and steps of time that meet their boundaries."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from hypothesis import strategies as st

from ..limit import Concurrency, Cost, Limit, Quota, Throttle
from ..plan import UsagePlan
from .windows import DAY

START = datetime(2026, 1, 29, 23, 40, tzinfo=timezone.utc)

PERIODS = st.sampled_from(["minute", "hour", "day", "week", "month"])
ODD_PERIODS = [
    "hour in Asia/Kolkata", "day in Asia/Kolkata", "month in Asia/Kolkata", "day from 2026-01-05T09:17:23+00:00",
    "month from 2025-10-31T23:50:00+00:00",
]  # fmt: skip
"""Windows that begin on no hour or day of UTC."""
MANY = 10**12
EVER = [Quota(MANY - 1, "100 year", unit=unit, name=f"all {unit}") for unit in ("requests", "tokens")]
"""All that counts everything, and refuses nothing."""
REQUESTS = st.just("requests")
UNITS = st.sampled_from(["requests", "requests", "tokens"])
SUBJECTS = st.sampled_from(["key", "key", "account"])


def _limits(
    *, quotas: bool = True, throttles: bool = True, units: st.SearchStrategy[str] = REQUESTS,
    by: st.SearchStrategy[str] = st.just("key"), names: tuple[str | None, ...] = (None,), most: int = 3,
    slots: bool = False,
) -> st.SearchStrategy[list[Limit]]:  # fmt: skip
    quota = st.builds(
        lambda limit, period, overage, **more: Quota(limit, period, overage=overage if limit else 0, **more),
        st.integers(0, 12), PERIODS, st.sampled_from([0, 0, 3]), unit=units, by=by, name=st.sampled_from(names),
    )  # fmt: skip
    throttle = st.builds(
        Throttle, st.sampled_from(["1", "3", "0.5", "1/3", "7", "0"]), st.sampled_from(["second", "minute"]),
        burst=st.integers(0, 6), unit=units, by=by, name=st.sampled_from(names),
    )  # fmt: skip
    concurrency = st.builds(Concurrency, st.integers(0, 4), by=by, name=st.sampled_from(names))
    kinds: list[Any] = [quota] * (2 if quotas else 0) + [throttle] * (1 if throttles else 0)
    kinds += [concurrency] * (2 if slots else 0)
    return st.lists(st.one_of(kinds), max_size=most, unique_by=lambda limit: limit.name)


# Each history looks at one corner of the world or at all of it: bugs hide where few things meet often.
FOCUS = {
    "all": _limits(units=UNITS, by=SUBJECTS, names=(None, None, "x", "y"), slots=True),
    "plain": _limits(throttles=False),
    "throttled": _limits(quotas=False, names=(None, None, "x"), most=2),
    "both": _limits(),
    "one name": _limits(throttles=False, names=("x",), most=1),
    "accounts": _limits(by=SUBJECTS, names=(None, "x")),
    "audited": _limits(units=UNITS).map(lambda limits: [*limits, *EVER]),
    "odd windows": st.tuples(
        *(
            st.builds(Quota, st.integers(1, 12), st.just(period), name=st.just(f"odd {number}"))
            for number, period in enumerate(ODD_PERIODS)
        )
    ).map(list),
    "several apis": _limits(by=SUBJECTS, names=(None, "x"), slots=True),
    "in flight": _limits(by=SUBJECTS, names=(None, "x"), slots=True),
    "toggled": _limits(quotas=False, by=SUBJECTS, names=(None, None, "x"), most=2),
}
COSTS = st.one_of(
    st.none(),
    st.integers(1, 4).map(lambda n: {"requests": n}),
    st.fixed_dictionaries({"requests": st.integers(0, 2), "tokens": st.integers(1, 4)}),
)
TTLS = st.sampled_from([1, 5_000_000, 7200_000_000, 3 * DAY])
APIS = st.sampled_from(["", "", "", "b"])
ROUTES = st.sampled_from([None, None, "r", "s"])
PLAN_IDS = st.sampled_from(["p", "q", "b", "w"])
KEY_IDS = st.sampled_from(["k1", "k1", "k1", "k2", "k3"])  # the first is there from the beginning
ACCOUNTED = ("accounts", "all", "audited", "in flight", "one name")
"""The corners of the world that have accounts above accounts."""
ACCOUNT_IDS = st.sampled_from(["team", "team", "org", "top", "side"])
UPPER_IDS = st.sampled_from(["u", "v", "x"])  # plans of accounts; the last one governs another api
LATER = st.sampled_from([None, None, 1, 20_000_000, 3_600_000_000, DAY, "period_end", "period_end"])
"""The instants of changes of plan: at once, so many microseconds from now, or at a period's end."""
REQUEST_IDS = st.sampled_from([None, None, None, "once", "twice"])
STEPS = st.sampled_from([
    0, 1, 999_999, 1_000_000, 20_000_000, 60_000_000, 1_200_000_000, 3_600_000_000, 12 * 3_600_000_000, DAY, 5 * DAY,
    40 * DAY, -1, -30_000_000, -299_999_999, -400_000_000,
])  # fmt: skip


@st.composite
def plans(draw: st.DrawFn, focus: str) -> UsagePlan:
    """A small plan; the third one governs another api, and the fourth one both, or that one.

    Not where older readings would be needed than records keep: such a plan counts too much for the rest of a window.
    """
    ids = ["p", "q", "b"] if focus in ("audited", "odd windows") else ["p", "b", "w", "w", "w", "w"]
    id_ = draw(st.sampled_from(ids) if focus in ("audited", "odd windows", "several apis") else PLAN_IDS)
    both, other = ("", "b"), ("b",)
    named: dict[str, list[tuple[str, ...]]] = {"b": [other], "w": [both, both, both, other]}
    apis = named.get(id_, [("",)])
    limits = FOCUS[focus]
    odd = focus in ("all", "accounts", "toggled", "odd windows", "in flight", "several apis")
    routes = {"r": draw(limits)} if odd and draw(st.booleans()) else {}
    dear: list[Cost] = [2, {"tokens": 1}]
    costs = {"s": draw(st.sampled_from(dear))} if odd and draw(st.booleans()) else {}
    alerts = draw(st.sampled_from([(80, 100), (), (50,)]))
    own = draw(limits)
    if any(1 in (getattr(limit, "limit", 0), getattr(limit, "burst", 0)) for limit in own):
        costs = {}  # a call that costs two could never be admitted, and the plan says so
    return UsagePlan(id_, own, apis=draw(st.sampled_from(apis)), routes=routes, costs=costs, alerts=alerts)


@st.composite
def upper_plans(draw: st.DrawFn, focus: str) -> UsagePlan:
    """A small plan of an account. Its throttle is the same in all of them: what a change does to one is the keys' part."""
    id_ = draw(UPPER_IDS)
    limits = draw(_limits(throttles=False, units=UNITS, names=(None, "x"), most=2, slots=focus in ("all", "in flight")))
    flow: list[Limit] = [Throttle("3", "minute", burst=6, name="flow")] if focus == "all" and id_ == "u" else []
    routes = {"r": draw(_limits(throttles=False, most=1))} if draw(st.booleans()) else {}
    alerts = draw(st.sampled_from([(80, 100), ()]))
    return UsagePlan(id_, [*limits, *flow], api="b" if id_ == "x" else "", routes=routes, alerts=alerts)
