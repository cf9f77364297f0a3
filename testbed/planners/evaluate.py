"""What a plan would do for one request on an idle network: its critical path, by walking the programs that agents carry out.

Hosts are single servers that run their steps in order, each path sends one message at a time in the order they become ready,
sending overlaps with computing, tiles run in parallel behind the leader's LAN link, and every answer travels back to the
device. Several requests at once, fair sharing and TCP are the backends' business.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from d3node.graph import INPUT
from d3node.plan import TIERS, Plan, Tier
from d3node.program import Program, lower
from testbed.costs.network import MESSAGE_HEADER_BYTES, Path, frame_bytes
from testbed.planners.base import Problem
from testbed.planners.exit_paths import is_special, shares, walk
from testbed.planners.objective import objective_s
from testbed.planners.tile_steps import step_times

__all__ = ["Prediction", "critical_path", "objective_s"]


@dataclass(frozen=True)
class Prediction:
    """One request, alone. `latency_s`: from the input until the last answer is at the device. `backbone_bytes`: wire bytes of
    tensors from edge to cloud; `direct_bytes`: those from device to cloud (route "direct"). `busy_s[host]`: seconds of
    computing; `path_busy_s[path]`: seconds of sending; both bound the rate of requests. `answers_s[v]`: when each is there."""

    latency_s: float
    backbone_bytes: float
    direct_bytes: float = 0.0
    busy_s: dict[str, float] = field(default_factory=dict)
    path_busy_s: dict[str, float] = field(default_factory=dict)
    answers_s: dict[int, float] = field(default_factory=dict)

    @property
    def bottleneck_s(self) -> float:
        """Longest time that one request keeps a host or a path busy: with many requests none can follow faster."""
        return max([*self.busy_s.values(), *self.path_busy_s.values()], default=0.0)


class _Paths:
    """Queues of the directed paths: first come, first served."""

    def __init__(self) -> None:
        self.free: dict[str, float] = {}
        self.busy: dict[str, float] = {}
        self.bytes: dict[str, float] = {}

    def send(self, name: str, path: Path, payload_bytes: int, ready_s: float) -> float:
        """Arrival of a message that is ready at some time; calls per path must come in order of readiness."""
        wire = frame_bytes(payload_bytes + MESSAGE_HEADER_BYTES)
        seconds = path.transfer_s(payload_bytes) - path.delay_s
        left = max(ready_s, self.free.get(name, 0.0)) + seconds
        self.free[name] = left
        self.busy[name] = self.busy.get(name, 0.0) + seconds
        self.bytes[name] = self.bytes.get(name, 0.0) + wire
        return left + path.delay_s


_UP: dict[tuple[Tier, Tier], str] = {
    ("device", "edge"): "device_edge",
    ("edge", "cloud"): "edge_cloud",
    ("device", "cloud"): "device_cloud",
}


def critical_path(problem: Problem, plan: Plan) -> Prediction:
    """Predict one request under a legal plan (with exits: in expectation, by the rates that it tells). Raises PlanError for an
    illegal plan, PlannerError for an unknown LAN host."""
    graph, network = problem.graph, problem.network
    plan.check(graph)
    if is_special(plan):
        return _expected(problem, plan)
    programs = lower(graph, plan, network.route)
    links = {"device_edge": network.device_edge, "edge_cloud": network.edge_cloud, "device_cloud": network.device_cloud}
    tier_of = {host: tier for tier, host in plan.hosts.items()}
    paths = _Paths()
    busy: dict[str, float] = {}
    at: dict[Tier, dict[int, float]] = {tier: {} for tier in TIERS}
    at["device"][INPUT] = 0.0
    if plan.two_way:
        _both_ways(problem, programs, tier_of, paths, at, busy)
    for tier in TIERS:  # data only flows upwards, so lower tiers are complete before higher ones are looked at
        if tier not in programs or plan.two_way:
            continue
        program = programs[tier]
        _compute(problem, plan, program, at[tier], busy)
        for ready, v, target in sorted((at[tier][send.vertex], send.vertex, tier_of[send.host]) for send in program.sends):
            name = _UP[tier, target]
            at[target][v] = paths.send(name, links[name], graph[v].output_bytes, ready)
    answers = [(at[tier][v], v, tier) for tier, program in programs.items() for v in program.answers]
    back = {"edge": "device_edge", "cloud": "device_cloud"}
    arrived: dict[int, float] = {}
    for ready, v, tier in sorted(answers, key=lambda answer: answer[:2]):
        if tier == "device":
            arrived[v] = ready
        else:
            arrived[v] = paths.send(f"{back[tier]}:back", links[back[tier]], graph[v].output_bytes, ready)
    return Prediction(
        latency_s=max(arrived.values()),
        backbone_bytes=paths.bytes.get("edge_cloud", 0.0),
        direct_bytes=paths.bytes.get("device_cloud", 0.0),
        busy_s=busy,
        path_busy_s=paths.busy,
        answers_s=arrived,
    )


def _expected(problem: Problem, plan: Plan) -> Prediction:
    """Expected values over the exits at which requests end; of a plan without exits, its one outcome."""
    found = walk(problem, plan)
    latency = sum(p * s for p, s in zip(shares(plan), found.answered_s, strict=True)) or max(found.outputs_s.values())
    return Prediction(
        latency_s=latency,
        backbone_bytes=found.path_bytes.get("edge_cloud", 0.0),
        direct_bytes=found.path_bytes.get("device_cloud", 0.0),
        busy_s=found.busy_s,
        path_busy_s=found.path_busy_s,
        answers_s={e.vertex: s for e, s in zip(plan.exits, found.answered_s, strict=True)} or found.outputs_s,
    )


def _compute(problem: Problem, plan: Plan, program: Program, at: dict[int, float], busy: dict[str, float]) -> None:
    """Run a program's steps in order and note when every tensor of the tier exists."""
    free = 0.0
    for step in program.steps:
        start = max([free, *(at[u] for u in step.inputs)])
        if step.stack is None:
            seconds = problem.costs.run_s(step.vertices, program.tier, program.host)
            busy[program.host] = busy.get(program.host, 0.0) + seconds
        else:
            times = step_times(problem, plan, step)
            seconds = times.total_s
            for tile in times.tiles:
                busy[tile.host] = busy.get(tile.host, 0.0) + tile.compute_s
        free = start + seconds
        for v in step.outputs:
            at[v] = free


def _both_ways(
    problem: Problem,
    programs: dict[Tier, Program],
    tier_of: dict[str, Tier],
    paths: _Paths,
    at: dict[Tier, dict[int, float]],
    busy: dict[str, float],
) -> None:
    """The same where tensors also come back to the device: every tier runs its steps as soon as their inputs are there."""
    graph, network = problem.graph, problem.network
    links = {"device_edge": network.device_edge, "edge_cloud": network.edge_cloud, "device_cloud": network.device_cloud}
    free: dict[Tier, float] = dict.fromkeys(programs, 0.0)
    done: dict[Tier, int] = dict.fromkeys(programs, 0)

    def there(v: int, tier: Tier, ready: float) -> None:
        at[tier][v] = ready
        for send in programs[tier].sends:
            if send.vertex == v:
                target = tier_of[send.host]
                name = _UP[tier, target] if target != "device" else _UP["device", tier]
                queue = name if target != "device" else f"{name}:back"
                there(v, target, paths.send(queue, links[name], graph[v].output_bytes, ready))

    there(INPUT, "device", 0.0)
    moved = True
    while moved:
        moved = False
        for tier, program in programs.items():
            while done[tier] < len(program.steps) and all(u in at[tier] for u in program.steps[done[tier]].inputs):
                step = program.steps[done[tier]]
                seconds = problem.costs.run_s(step.vertices, tier, program.host)
                busy[program.host] = busy.get(program.host, 0.0) + seconds
                free[tier] = max([free[tier], *(at[tier][u] for u in step.inputs)]) + seconds
                done[tier], moved = done[tier] + 1, True
                for v in step.outputs:
                    there(v, tier, free[tier])
