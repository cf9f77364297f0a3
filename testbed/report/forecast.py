"""What planners would decide for a scenario at one moment of its traces, and what their plans would cost; nothing is run.

The same planners, costs and network states as in a run (`orchestrator.world`), evaluated on the true costs; queues of several
requests, fair sharing and TCP are left to a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from d3node.plan import TIERS, Tier
from d3node.program import lower
from testbed.costs.table import Costs
from testbed.errors import InputError
from testbed.orchestrator.truth import TrueState
from testbed.orchestrator.walltime import timed
from testbed.orchestrator.world import ModelFacts, Site, World
from testbed.planners.base import Decision, JointPlanner, Planner, Problem
from testbed.planners.evaluate import Prediction, critical_path, objective_s
from testbed.planners.memory import check_capacities
from testbed.report.yardstick import Bound, Objective, bound, value_s
from testbed.scenario.demand import mean_rate


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
    """One planner's plan for one model and device. `problem` has the true costs, `told` those that planners are told; the plan is
    made on `told`, and all figures but `regret_told` are on the truth. `objective_s` is D3's sum of compute and transfer,
    `prediction` the critical path. `value_s` is what the yardstick's objective says, `bound` the least of it that is possible
    without tiles, `regret` the share between them (below 0: tiles gain)."""

    model: str
    device: str
    planner: str
    problem: Problem
    told: Problem
    decision: Decision
    planning_s: float
    objective_s: float
    prediction: Prediction
    value_s: float
    bound: Bound
    regret_told: float

    @property
    def regret(self) -> float:
        """Share by which the plan's value is above the exact optimum without tiles."""
        return self.value_s / self.bound.seconds - 1.0 if self.bound.seconds > 0.0 else 0.0

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


@dataclass(frozen=True)
class Refusal:
    """A planner that cannot plan for a model and device, and what it says."""

    model: str
    device: str
    planner: str
    reason: str


def forecasts(
    world: World, time_s: float = 0.0, objective: Objective = "latency", refusals: list[Refusal] | None = None
) -> Iterator[Forecast]:
    """For every model, device and planner of a scenario, in order; `objective` is the yardstick's.

    A planner that cannot plan this raises (InputError), or goes to `refusals` where that is given.
    """
    truth = state_at(world, time_s)
    for facts in world.models.values():
        asked = problems_at(world, facts.name, truth)
        together: dict[str, tuple[dict[str, Decision], float] | InputError] = {}
        for name, planner in world.planners.items():
            if isinstance(planner, JointPlanner):
                try:
                    together[name] = timed(lambda planner=planner, asked=asked: planner.plan_jointly(asked))  # type: ignore[misc]
                except InputError as error:
                    together[name] = error
        for site in world.sites.values():
            told = asked[site.device]
            true = told if facts.told_costs == facts.true_costs else replace(told, costs=_shared(facts.true_costs, truth))
            bounds = [bound(problem, objective) for problem in ([true] if true is told else [true, told])]
            for name, planner in world.planners.items():
                try:
                    decision, planning_s = _decided(planner, told, together.get(name), site.device)
                    check_capacities(told, decision.plan)
                except InputError as error:
                    if refusals is None:
                        raise
                    refusals.append(Refusal(facts.label, site.device, name, str(error)))
                    continue
                plan = decision.plan
                believed = told.led_by(plan.hosts["edge"])
                led = believed if true is told else true.led_by(plan.hosts["edge"])
                prediction = critical_path(led, plan)
                value = value_s(led, plan, prediction, objective)
                promised = value if true is told else value_s(believed, plan, critical_path(believed, plan), objective)
                yield Forecast(
                    model=facts.label,
                    device=site.device,
                    planner=name,
                    problem=led,
                    told=believed,
                    decision=decision,
                    planning_s=planning_s,
                    objective_s=objective_s(led, plan),
                    prediction=prediction,
                    value_s=value,
                    bound=bounds[0],
                    regret_told=promised / bounds[-1].seconds - 1.0 if bounds[-1].seconds > 0.0 else 0.0,
                )


def _decided(
    planner: Planner, told: Problem, together: tuple[dict[str, Decision], float] | InputError | None, device: str
) -> tuple[Decision, float]:
    """A planner's decision for one device, and how long it took (together for all of them where it plans jointly)."""
    if isinstance(together, InputError):
        raise together
    if together is not None:
        return together[0][device], together[1]
    return timed(lambda: planner.plan(told))


def problems_at(world: World, model: str, truth: TrueState | None = None) -> dict[str, Problem]:
    """What planners are asked for one model, by device, in a state of links and hosts (that of time 0 if none is given)."""
    truth = truth or state_at(world, 0.0)
    facts = world.models[model]
    costs = _shared(facts.told_costs, truth)
    return {site.device: _problem(world, site, facts, costs, truth) for site in world.sites.values()}


def _problem(world: World, site: Site, facts: ModelFacts, costs: Costs, truth: TrueState) -> Problem:
    scenario = world.scenario
    return Problem(
        graph=facts.graph,
        costs=costs,
        network=truth.network(site),
        hosts=site.hosts,
        edge_hosts=site.edge_hosts,
        options=scenario.planning.options,
        requests_per_s=mean_rate(scenario, world.demand),
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
