"""The leased store: the contract, what is exact and when, what a lease delays, what goes to the store at once."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from quota import Quota, UsagePlan
from quota.stores.leased import LeasedStore
from quota.stores.memory import MemoryStore
from quota.testing import APIS, KEY_IDS, REQUEST_IDS, Machine, machine

START = 1_773_144_000_000_000
SECOND = 1_000_000


TestSmallLimits = machine(lambda: LeasedStore(MemoryStore())).TestCase
TestSmallLimits.settings = settings(stateful_step_count=40)
TestSmallLimitsLeased = machine(lambda: LeasedStore(MemoryStore(), share=1)).TestCase
TestSmallLimitsLeased.settings = settings(stateful_step_count=40)


class OneHolder(Machine):
    """Limits large enough to lease: one process alone must answer as though there were no leases.

    Each key is always presented in the same way, on one course and in one unit: what it holds otherwise is another
    lease, and leased units count as used to all but their holder.
    """

    open = staticmethod(lambda: LeasedStore(MemoryStore(), share=0.5))

    def _replace(self, plan):
        large = [
            Quota(limit.limit * 50, limit.period, name=limit.name, overage=limit.overage)
            for limit in plan.limits if isinstance(limit, Quota)
        ]  # fmt: skip
        names = {limit.name: limit for limit in large}
        super()._replace(UsagePlan(plan.id, list(names.values()), api=plan.api, alerts=plan.alerts))

    @rule(id_=KEY_IDS, cost=st.sampled_from([None, {"requests": 1}, {"requests": 3}]), api=APIS, request_id=REQUEST_IDS)
    def consume(self, id_, cost, api, request_id):
        Machine.consume(self, id_, cost, api, None, request_id)

    @rule(id_=KEY_IDS, times=st.integers(1, 60))
    def hammer(self, id_, times):
        Machine.hammer(self, id_, times, known=False)


TestOneHolder = OneHolder.TestCase
TestOneHolder.settings = settings(stateful_step_count=40)
