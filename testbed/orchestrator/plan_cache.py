"""Plans by the state that they were made for, so that a state which comes back needs no planner.

JointDNN keeps such a table for a battery of network states (Eshratifar et al., section on run time); here it fills as a run goes.
When to look is `planning.py`'s business.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping

from d3node.plan import Plan
from testbed.orchestrator.trigger import FLOOR, Key

State = tuple[tuple[Key, int], ...]


class PlanCache:
    """At most `size` plans, the least recently used forgotten first. States are told apart by steps of `band` on a log scale."""

    def __init__(self, size: int, band: float) -> None:
        self._size = size
        self._step = math.log1p(max(band, 0.01))
        self._plans: OrderedDict[State, Plan] = OrderedDict()

    def state(self, values: Mapping[Key, float]) -> State:
        """The cell that the values fall into."""
        cells = ((key, round(math.log(max(value, FLOOR[key[0]])) / self._step)) for key, value in values.items())
        return tuple(sorted(cells, key=repr))

    def find(self, values: Mapping[Key, float]) -> Plan | None:
        """The plan that was made for this state last, or None."""
        state = self.state(values)
        plan = self._plans.get(state)
        if plan is not None:
            self._plans.move_to_end(state)
        return plan

    def keep(self, values: Mapping[Key, float], plan: Plan) -> None:
        """Remember a plan for this state."""
        if self._size:
            state = self.state(values)
            self._plans[state] = plan
            self._plans.move_to_end(state)
            while len(self._plans) > self._size:
                self._plans.popitem(last=False)
