"""Plans by the state that they were made for, so that a state which comes back needs no planner.

JointDNN keeps such a table for a battery of network states (Eshratifar et al., section on run time); here it fills as a run goes.
When to look is `planning.py`'s business.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType

from d3node.plan import Plan
from testbed.orchestrator.trigger import FLOOR, Key

NOWHERE: Mapping[str, str] = MappingProxyType({})
State = tuple[tuple[Key, int], ...]


class PlanCache:
    """At most `size` plans, the least recently used forgotten first. States are told apart by steps of `band` on a log scale,
    and hosts by their places, so that devices of sites that are alike can share a cache."""

    def __init__(self, size: int, band: float) -> None:
        self._size = size
        self._step = math.log1p(max(band, 0.01))
        self._plans: OrderedDict[State, Plan] = OrderedDict()

    def state(self, values: Mapping[Key, float], places: Mapping[str, str]) -> State:
        """The cell that the values fall into, hosts called by their places."""
        cells = []
        for (kind, name), value in values.items():
            key = (kind, places.get(name, name) if isinstance(name, str) else name)
            cells.append((key, round(math.log(max(value, FLOOR[kind])) / self._step)))
        return tuple(sorted(cells, key=repr))

    def find(self, values: Mapping[Key, float], places: Mapping[str, str] = NOWHERE) -> Plan | None:
        """The plan that was made for this state last, for the hosts in these places (host -> place), or None."""
        if not self._size:
            return None
        state = self.state(values, places)
        plan = self._plans.get(state)
        if plan is None:
            return None
        self._plans.move_to_end(state)
        return plan.renamed({place: host for host, place in places.items()})

    def keep(self, values: Mapping[Key, float], plan: Plan, places: Mapping[str, str] = NOWHERE) -> None:
        """Remember a plan for this state."""
        if self._size:
            state = self.state(values, places)
            self._plans[state] = plan.renamed(places)
            self._plans.move_to_end(state)
            while len(self._plans) > self._size:
                self._plans.popitem(last=False)
