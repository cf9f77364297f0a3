"""Everything on one tier: the three plain baselines. The input vertex stays on the device."""

from __future__ import annotations

from d3node.plan import Plan
from testbed.planners.base import Change, Decision, Problem
from testbed.planners.options import read
from testbed.planners.prices import CLOUD, DEVICE, EDGE, make_plan, prices


class _SingleTier:
    """All vertices but the input on one tier, whatever it costs."""

    name: str
    rank: int

    def plan(self, problem: Problem) -> Decision:
        """The one plan there is."""
        read(problem, self.name)
        ranks = [self.rank] * len(problem.graph)
        ranks[0] = DEVICE
        priced = prices(problem)
        return Decision(make_plan(self.name, problem, ranks), priced.objective(ranks), priced.facts.everything)

    def replan(self, problem: Problem, current: Plan, change: Change) -> Decision:
        """Nothing to decide: the same placement, at its new price."""
        decision = self.plan(problem)
        touched = frozenset() if decision.plan.same_placement(current) else decision.touched
        return Decision(decision.plan, decision.objective_s, touched)


class DeviceOnly(_SingleTier):
    """The whole model on the device; nothing travels."""

    name = "device-only"
    rank = DEVICE


class EdgeOnly(_SingleTier):
    """The whole model on the leading edge host; only the input travels."""

    name = "edge-only"
    rank = EDGE


class CloudOnly(_SingleTier):
    """The whole model in the cloud; the input crosses every link on the way."""

    name = "cloud-only"
    rank = CLOUD
