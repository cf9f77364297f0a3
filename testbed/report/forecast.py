"""What planners would decide for a scenario at one moment of its traces, and what their plans would cost; nothing is run.

The same planners, costs and network states as in a run (`orchestrator.world`), evaluated on the true costs; queues of several
requests, fair sharing and TCP are left to a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from d3node.plan import TIERS, Tier
from d3node.program import lower
from testbed import registry
from testbed.costs.table import Costs
from testbed.orchestrator.truth import TrueState
from testbed.orchestrator.walltime import timed
from testbed.orchestrator.world import ModelFacts, Site, World
from testbed.planners.base import Decision, JointPlanner, Problem
from testbed.planners.evaluate import Prediction, critical_path, objective_s
from testbed.planners.memory import check_capacities

BOUND = "optimal"
"""The planner that regret is taken against: the exact optimum without tiles."""


@dataclass(frozen=True)
class Crossing:
    """A tensor that a plan sends from one tier to a higher one: name of its vertex, payload bytes, seconds on an idle path."""

    vertex: int
    name: str
    source: Tier
    target: Tier
    payload_bytes: int
    seconds: float


@dataclass(frozen=True)
class Forecast:
    """One planner's plan for one model and device. All figures on the true costs: `objective_s` is D3's sum of compute and
    transfer, `prediction` the critical path, `regret` the objective over the untiled optimum's, less one (below 0: tiles
    gain)."""

    model: str
    device: str
    planner: str
    problem: Problem
    decision: Decision
    planning_s: float
    objective_s: float
    optimum_s: float
    prediction: Prediction

    @property
    def regret(self) -> float:
        """Share by which the plan's objective is above the exact optimum without tiles."""
        return self.objective_s / self.optimum_s - 1.0

    def vertices(self, tier: Tier) -> tuple[int, ...]:
        """Vertices on a tier, the input left out."""
        return tuple(v for v in self.decision.plan.part(tier) if v != 0)

    def crossings(self) -> list[Crossing]:
        """Every tensor that crosses from a tier to a higher one."""
        plan, graph = self.decision.plan, self.problem.graph
        tier_of = {host: tier for tier, host in plan.hosts.items()}
        programs = lower(graph, plan, self.problem.network.route)
        found = []
        for tier in TIERS:
            for send in programs[tier].sends if tier in programs else ():
                target, size = tier_of[send.host], graph[send.vertex].output_bytes
                seconds = self.problem.network.transfer_s(size, tier, target)
                found.append(Crossing(send.vertex, graph[send.vertex].name, tier, target, size, seconds))
        return found


def state_at(world: World, time_s: float) -> TrueState:
    """The true state of all links and hosts at a scenario time."""
    truth = TrueState(world.layout)
    for link in world.links.values():
        for direction in ("up", "down"):
            truth.set_link(link.name, direction, link.at(direction, time_s))
    for host in world.hosts.values():
        share = 1.0 if host.trace is None else host.trace.at(host.trace_offset_s + time_s)["cpu_share"]
        truth.set_share(host.name, share)
    return truth


def forecasts(world: World, time_s: float = 0.0) -> Iterator[Forecast]:
    """For every model, device and planner of a scenario, in order."""
    truth = state_at(world, time_s)
    bound = registry.planner(BOUND)
    for facts in world.models.values():
        asked = {
            site.device: _problem(world, site, facts, _shared(facts.told_costs, truth), truth) for site in world.sites.values()
        }
        together = {
            name: timed(lambda planner=planner, asked=asked: planner.plan_jointly(asked))  # type: ignore[misc]
            for name, planner in world.planners.items()
            if isinstance(planner, JointPlanner)
        }
        for site in world.sites.values():
            told = asked[site.device]
            true = replace(told, costs=_shared(facts.true_costs, truth))
            optimum_s = objective_s(replace(true, options={}), bound.plan(replace(true, options={})).plan)
            for name, planner in world.planners.items():
                if name in together:
                    decision, planning_s = together[name][0][site.device], together[name][1]
                else:
                    decision, planning_s = timed(lambda planner=planner, told=told: planner.plan(told))  # type: ignore[misc]
                check_capacities(told, decision.plan)
                led = true.led_by(decision.plan.hosts["edge"])
                yield Forecast(
                    model=facts.name,
                    device=site.device,
                    planner=name,
                    problem=led,
                    decision=decision,
                    planning_s=planning_s,
                    objective_s=objective_s(led, decision.plan),
                    optimum_s=optimum_s,
                    prediction=critical_path(led, decision.plan),
                )


def _problem(world: World, site: Site, facts: ModelFacts, costs: Costs, truth: TrueState) -> Problem:
    scenario = world.scenario
    return Problem(
        graph=facts.graph,
        costs=costs,
        network=truth.network(site),
        hosts=site.hosts,
        edge_hosts=site.edge_hosts,
        options=scenario.planning.options,
        requests_per_s=scenario.requests.rate,
        capacities=world.capacities,
        leaders={host: truth.network(site.led_by(host)) for host in site.edge_hosts},
        devices=site.devices,
        calibration=facts.calibration,
    )


def _shared(costs: Costs, truth: TrueState) -> Costs:
    """Costs of hosts that have only a share of their CPU free."""
    for host, share in truth.shares.items():
        if share != 1.0:
            costs = costs.with_speed(host, costs.speed.get(host, 1.0) * share)
    return costs
