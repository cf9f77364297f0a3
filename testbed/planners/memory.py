"""How much memory a plan needs on every host, and the one check of a plan against the hosts' limits.

Need of a host = parameter bytes of the vertices that it computes + the peak of the bytes of the tensors that it holds for one
request. What it holds when (our definition; every step errs towards more):

- its own output from the moment it is computed, a received tensor from the start (it may come early);
- until its last reader on this host; to the end when it is sent on, relayed or an answer (it may wait for the link).

The input counts as float32, however it travels. A stack's inner maps exist only as tiles: the leader holds the output twice
(tiles and whole) and its own tile's maps, another edge host the parameters of its stacks and the maps of its largest tile.
Vertices that other devices compute (`Plan.placed`) count there, each with its output.
Left out: the runtime itself, an operator's scratch memory, and further requests in flight (each has tensors of its own).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from d3node.graph import INPUT, LayerGraph
from d3node.intervals import area, reverse
from d3node.plan import RANK, TIERS, Plan, Stack, Tile
from testbed.errors import CapacityError
from testbed.planners.base import Problem
from testbed.planners.tiling import bytes_per_position


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that one host needs: of parameters, and of tensors at the worst moment, which is when `at` is computed."""

    parameters: float
    tensors: float
    at: int

    @property
    def total(self) -> float:
        """Bytes in all."""
        return self.parameters + self.tensors


def held_bytes(graph: LayerGraph, v: int) -> int:
    """Bytes of a vertex' output in memory (the input as float32, whatever it travels as)."""
    vertex = graph[v]
    if v != INPUT:
        return vertex.output_bytes
    elements = 1
    for length in vertex.output_shape:
        elements *= length
    return max(vertex.output_bytes, 4 * elements)


def tier_needs(graph: LayerGraph, ranks: Sequence[int], relay: bool, stacks: Sequence[Stack] = ()) -> tuple[Need, Need, Need]:
    """Needs of the three leading hosts under a legal placement; parameters of stacks count for all of the edge tier here."""
    size = len(graph)
    moment = list(range(size))
    inner: set[int] = set()
    for stack in stacks:
        inner.update(stack.vertices[:-1])
        for v in stack.vertices:
            moment[v] = stack.output
    steps = [[0.0] * (size + 2) for _ in TIERS]
    answers = set(graph.outputs)
    for u, consumers in enumerate(graph.successors):
        if u in inner:
            continue
        own, size_b = ranks[u], held_bytes(graph, u)
        last = [-1, -1, -1]
        for w in consumers:
            last[ranks[w]] = max(last[ranks[w]], moment[w])
        elsewhere = [rank for rank in range(3) if rank != own and last[rank] >= 0]
        _hold(steps[own], size_b, moment[u], size if elsewhere or u in answers else max(last[own], moment[u]))
        through = relay and own != 1 and last[2 - own] >= 0
        if through and last[1] < 0:
            elsewhere.append(1)
        for rank in elsewhere:
            _hold(steps[rank], size_b, 0, size if rank == 1 and through else last[rank])
    parameters = [0.0, 0.0, 0.0]
    for vertex in graph:
        parameters[ranks[vertex.index]] += vertex.parameter_bytes
    needs = []
    for rank in range(3):
        held, most, at = 0.0, 0.0, 0
        for position in range(size + 1):
            held += steps[rank][position]
            if held > most:
                most, at = held, position
        needs.append(Need(parameters[rank], most, min(at, size - 1)))
    return needs[0], needs[1], needs[2]


def _hold(steps: list[float], size_b: float, first: int, last: int) -> None:
    steps[first] += size_b
    steps[last + 1] -= size_b


def host_needs(problem: Problem, plan: Plan) -> dict[str, Need]:
    """Need of every host that takes part in a legal plan."""
    graph = problem.graph
    ranks = [RANK[tier] for tier in plan.tiers]
    found = dict(zip(TIERS, tier_needs(graph, ranks, problem.network.route == "relay", plan.stacks), strict=True))
    needs = {plan.hosts[tier]: found[tier] for tier in TIERS if found[tier].total > 0.0 or tier == "device"}
    device = plan.hosts["device"]
    for v, host in plan.placed:
        if host != device:
            own, there = needs[device], needs.get(host, Need(0.0, 0.0, v))
            needs[device] = Need(own.parameters - graph[v].parameter_bytes, own.tensors, own.at)
            needs[host] = Need(there.parameters + graph[v].parameter_bytes, there.tensors + held_bytes(graph, v), v)
    if not plan.stacks:
        return needs
    leader = plan.hosts["edge"]
    tiled = {v for stack in plan.stacks for v in stack.vertices}
    computes: dict[str, set[int]] = {leader: {v for v in plan.part("edge") if v not in tiled}}
    peaks: dict[str, tuple[float, int]] = {}
    extra, at = 0.0, needs[leader].at
    for stack in plan.stacks:
        joined = 0.0
        sizes = {tile: tile_bytes(graph, stack, tile) for tile in stack.tiles if not tile.empty}
        for tile, size_b in sizes.items():
            computes.setdefault(tile.host, set()).update(stack.vertices)
            peak = max(sizes.values()) if stack.stealing else size_b  # an idle host may take any tile
            if tile.host == leader:
                joined = max(joined, peak)
            elif peak > peaks.get(tile.host, (0.0, 0))[0]:
                peaks[tile.host] = (peak, stack.output)
        joined += held_bytes(graph, stack.output)
        if joined > extra:
            extra, at = joined, stack.output
    parameters = {host: float(sum(graph[v].parameter_bytes for v in vertices)) for host, vertices in computes.items()}
    needs[leader] = Need(parameters[leader], needs[leader].tensors + extra, at)
    for host, (peak, output) in peaks.items():
        needs[host] = Need(parameters[host], peak, output)
    return needs


def tile_bytes(graph: LayerGraph, stack: Stack, tile: Tile) -> float:
    """Peak bytes of the maps of one tile: the pieces that it reads, and what it computes until its last reader in the stack."""
    if tile.empty:
        return 0.0
    regions = reverse(graph, stack.vertices, (tile.rows, tile.columns))
    members = set(stack.vertices)
    first, last, size_b = {}, {}, {}
    for u, box in (*regions.read.items(), *regions.produced.items()):
        readers = [w for w in graph.successors[u] if w in members]
        first[u] = u if u in members else -1
        last[u] = max(readers, default=stack.output)
        size_b[u] = area(box) * bytes_per_position(graph, u)
    return max(sum(size_b[u] for u in size_b if first[u] <= v <= last[u]) for v in stack.vertices)


def check_capacities(problem: Problem, plan: Plan) -> None:
    """The one check of a plan against memory limits, of all planners.

    Raises CapacityError naming the host that lacks most, its need and limit; PlanError for an illegal plan.
    """
    if problem.capacities:
        plan.check(problem.graph)
        needs = host_needs(problem, plan)
        short = [(need.total - limit, host) for host, need in needs.items() if need.total > (limit := limit_of(problem, host))]
        if short:
            host = max(short)[1]
            raise CapacityError(
                f"planner {plan.planner!r} on {plan.model!r}: host {host} needs {words(problem.graph, needs[host])},"
                f" its limit is {megabytes(limit_of(problem, host))}; planners 'capacitated' and 'optimal' keep to limits"
                f" where that is possible, or give hosts.{host}.memory more"
            )


def limit_of(problem: Problem, host: str) -> float:
    """Memory limit of a host in bytes; infinite without one."""
    capacities: Mapping[str, float] = problem.capacities
    return capacities.get(host, float("inf"))


def words(graph: LayerGraph, need: Need) -> str:
    """A need in words."""
    return (
        f"{megabytes(need.total)} ({megabytes(need.parameters)} of parameters and, when {graph[need.at].name!r} is computed,"
        f" {megabytes(need.tensors)} of tensors)"
    )


def megabytes(size_b: float) -> str:
    """Bytes for people."""
    return f"{size_b / 1e6:,.1f} MB"
