"""What a plan with exits, coded tensors or several devices would do for one request on an idle network, and in expectation.

The same walk as `evaluate.critical_path`, stage by stage: what lies behind an exit starts when the exit has decided. Other
devices' access paths are taken to be like the first device's; coding takes no time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from d3node.codec import coded_bytes
from d3node.exits import reaching
from d3node.graph import INPUT, LayerGraph
from d3node.plan import RANK, Plan, Tier
from d3node.program import Program, lower_all
from testbed.costs.network import MESSAGE_HEADER_BYTES, Path, frame_bytes
from testbed.planners.base import Problem
from testbed.planners.tile_steps import step_times


@dataclass
class Walk:
    """Times of one request that passes every exit but the last. `decided_s[k]`: when exit k has its scores; `answered_s[k]`: when
    the device has them, if it ends there; `busy_s[host]` and bytes per path are expected values."""

    decided_s: list[float] = field(default_factory=list)
    answered_s: list[float] = field(default_factory=list)
    busy_s: dict[str, float] = field(default_factory=dict)
    path_busy_s: dict[str, float] = field(default_factory=dict)
    path_bytes: dict[str, float] = field(default_factory=dict)
    outputs_s: dict[int, float] = field(default_factory=dict)


def is_special(plan: Plan) -> bool:
    """Whether a plan needs this walk."""
    return bool(plan.exits or plan.placed) or plan.coding != "float32"


def sent_bytes(graph: LayerGraph, plan: Plan, v: int) -> int:
    """Expected bytes of a vertex's tensor as the plan lets it travel between tiers."""
    vertex = graph[v]
    if plan.coding == "float32" or (plan.coding == "sign-bits" and (v == INPUT or len(vertex.output_shape) < 4)):
        return vertex.output_bytes
    known = dict(plan.coded_bytes).get(v)
    return known if known is not None else coded_bytes(vertex.output_bytes // 4, plan.coding)


def shares(plan: Plan) -> tuple[float, ...]:
    """Expected share of requests that end at each exit."""
    reach = reaching(plan.exits)
    return tuple(reach[k] - reach[k + 1] for k in range(len(plan.exits)))


def walk(problem: Problem, plan: Plan) -> Walk:
    """Walk a legal plan's programs."""
    graph, network = problem.graph, problem.network
    programs = sorted(lower_all(graph, plan, network.route), key=lambda p: (RANK[p.tier], p.host != plan.hosts[p.tier]))
    reach = reaching(plan.exits)
    found = Walk()
    queues = _Queues(found)
    at: dict[str, dict[int, float]] = {program.host: {INPUT: 0.0} if program.tier == "device" else {} for program in programs}
    free: dict[str, float] = dict.fromkeys(at, 0.0)
    gate: dict[str, float] = dict.fromkeys(at, 0.0)
    tier_of: dict[str, Tier] = {program.host: program.tier for program in programs}
    for stage in range(max(1, len(plan.exits))):
        for program in programs:
            here = program.host
            _compute(problem, plan, program, stage, at[here], free, gate[here], found, reach[stage])
            ready = sorted((max(at[here][s.vertex], gate[here]), s.vertex, s.host) for s in program.sends if s.after == stage)
            for moment, v, host in ready:
                name, path = _path(problem, plan, program, tier_of[host])
                at[host][v] = queues.send(name, path, sent_bytes(graph, plan, v), moment, reach[stage])
        if plan.exits:
            _decide(problem, plan, programs, stage, at, gate, found)
    for program in programs:
        for v in program.answers:
            found.outputs_s[v] = at[program.host][v] + _back_s(problem, program.tier, graph[v].output_bytes)
    return found


class _Queues:
    """Directed paths, first come, first served; busy times and bytes are weighted by how often they come to pass."""

    def __init__(self, found: Walk) -> None:
        self._found = found
        self._free: dict[str, float] = {}

    def send(self, name: str, path: Path, payload_bytes: int, ready_s: float, share: float) -> float:
        seconds = path.transfer_s(payload_bytes) - path.delay_s
        left = max(ready_s, self._free.get(name, 0.0)) + seconds
        self._free[name] = left
        wire = frame_bytes(payload_bytes + MESSAGE_HEADER_BYTES)
        self._found.path_busy_s[name] = self._found.path_busy_s.get(name, 0.0) + seconds * share
        self._found.path_bytes[name] = self._found.path_bytes.get(name, 0.0) + wire * share
        return left + path.delay_s


def _compute(
    problem: Problem,
    plan: Plan,
    program: Program,
    stage: int,
    at: dict[int, float],
    free: dict[str, float],
    gate_s: float,
    found: Walk,
    share: float,
) -> None:
    for step in program.steps:
        if step.after != stage:
            continue
        start = max([free[program.host], gate_s, *(at[u] for u in step.inputs)])
        if step.stack is None:
            seconds = problem.costs.run_s(step.vertices, program.tier, program.host)
            found.busy_s[program.host] = found.busy_s.get(program.host, 0.0) + seconds * share
        else:
            times = step_times(problem, plan, step)
            seconds = times.total_s
            for tile in times.tiles:
                found.busy_s[tile.host] = found.busy_s.get(tile.host, 0.0) + tile.compute_s * share
        free[program.host] = start + seconds
        for v in step.outputs:
            at[v] = start + seconds


def _decide(
    problem: Problem,
    plan: Plan,
    programs: list[Program],
    number: int,
    at: dict[str, dict[int, float]],
    gate: dict[str, float],
    found: Walk,
) -> None:
    vertex = plan.exits[number].vertex
    for program in programs:
        if number not in program.exits:
            continue
        decided = at[program.host][vertex]
        found.decided_s.append(decided)
        found.answered_s.append(decided + _back_s(problem, program.tier, problem.graph[vertex].output_bytes))
        gate[program.host] = max(gate[program.host], decided)
        for told, host in program.tells:
            if told == number:
                gate[host] = max(gate[host], decided + _back_s(problem, program.tier, 0))


def _path(problem: Problem, plan: Plan, program: Program, target: Tier) -> tuple[str, Path]:
    network = problem.network
    if program.tier == "edge":
        return "edge_cloud", network.edge_cloud
    name, path = ("device_edge", network.device_edge) if target == "edge" else ("device_cloud", network.device_cloud)
    return (name if program.host == plan.hosts["device"] else f"{name}:{program.host}"), path


def _back_s(problem: Problem, tier: Tier, payload_bytes: int) -> float:
    """Seconds of an answer's way to the device."""
    if tier == "device":
        return 0.0
    path = problem.network.device_edge if tier == "edge" else problem.network.device_cloud
    return path.transfer_s(payload_bytes)
