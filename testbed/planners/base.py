"""The contract of a planner: what it is given, what it returns, and how it is asked to re-decide.

A planner author reads this file and writes one file; registration is an entry point of group "testbed.planners".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from d3node.calibration import Calibration
from d3node.graph import LayerGraph
from d3node.plan import Plan, Tier
from testbed.costs.network import NetworkState
from testbed.costs.table import Costs


@dataclass(frozen=True)
class Problem:
    """One planning problem: the requests of one device.

    `hosts` names the leading host of each tier; `edge_hosts` all edge hosts of the device's site, the leader first.
    `options` are the scenario's `[planning.options]`; `requests_per_s` is the rate at which this device's requests come, None
    where the next one waits for the answer (one at a time). `absent[host]`: vertices whose weights a host does not hold yet.
    `capacities` are the memory limits of hosts in bytes, where they have one (what counts as memory, and the check of every plan,
    is in `memory.py`). `leaders[host]`: the network as it is when that edge host leads, for planners that choose the leader.
    `devices` are the site's, this one first; `calibration` says how sure and right the model's exits are, if it has a data set.
    """

    graph: LayerGraph
    costs: Costs
    network: NetworkState
    hosts: dict[Tier, str]
    edge_hosts: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    requests_per_s: float | None = None
    absent: Mapping[str, frozenset[int]] = field(default_factory=dict)
    capacities: Mapping[str, float] = field(default_factory=dict)
    leaders: Mapping[str, NetworkState] = field(default_factory=dict)
    devices: tuple[str, ...] = ()
    calibration: Calibration | None = None

    def led_by(self, leader: str) -> Problem:
        """The same problem with another edge host as the leader; itself where nothing is known of that one."""
        if leader == self.hosts["edge"] or leader not in self.leaders:
            return self
        others = tuple(host for host in self.edge_hosts if host != leader)
        hosts: dict[Tier, str] = {**self.hosts, "edge": leader}
        return replace(self, network=self.leaders[leader], hosts=hosts, edge_hosts=(leader, *others))


@dataclass(frozen=True)
class Change:
    """What left its band since a plan was made: paths by name ("device_edge", "edge_cloud", "device_cloud", or a LAN host),
    hosts whose speed changed, and vertices whose time changed."""

    paths: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    vertices: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Decision:
    """A plan and how it came about: `touched` vertices were re-decided (all of them for a full plan); `objective_s` is D3's
    sum of compute and transfer seconds, as the planner saw it."""

    plan: Plan
    objective_s: float
    touched: frozenset[int]
    notes: dict[str, Any] = field(default_factory=dict)


class Planner(Protocol):
    """A planner. `replan` may look only at what changed; a planner without a partial form returns `plan(problem)`."""

    name: str

    def plan(self, problem: Problem) -> Decision: ...

    def replan(self, problem: Problem, current: Plan, change: Change) -> Decision: ...


@dataclass(frozen=True)
class Uploads:
    """What a server that starts without the model is sent while requests run: the weights of `parts`, one part after the other.

    The planner is asked for a new plan whenever a part has arrived (`Problem.absent` says what is still missing).
    """

    tier: Tier
    parts: tuple[tuple[int, ...], ...]


@runtime_checkable
class Uploader(Protocol):
    """What a planner may have besides: its server starts with no weights, and this says what it is sent in which order."""

    def uploads(self, problem: Problem) -> Uploads: ...


@runtime_checkable
class JointPlanner(Protocol):
    """What a planner may have besides: plans for all devices at once, by device. They may name other edge leaders than the
    problems do."""

    def plan_jointly(self, problems: Mapping[str, Problem]) -> Mapping[str, Decision]: ...
