"""What one stack of tiles costs: the VSM cost model, for a stack that is given.

The leader sends every other host the regions that its tile reads (one message a tile, one after the other through the
leader's LAN link), all hosts compute their tiles, and the tiles of the output map come back through the same link. A tile
pays the fixed cost of every operator and the scaled cost of the area that it really computes, its halo included. Choosing
stacks is in `vsm.py`, which prices thousands of them at once with the same model; the tests hold the two together.
"""

from __future__ import annotations

from dataclasses import dataclass

from d3node.graph import INPUT, LayerGraph
from d3node.intervals import area, reverse
from d3node.plan import Stack, Tile
from testbed.costs.network import MESSAGE_HEADER_BYTES, Path, frame_bytes
from testbed.costs.table import Costs
from testbed.errors import PlannerError
from testbed.planners.base import Problem


@dataclass(frozen=True, slots=True)
class TileTimes:
    """One tile, in seconds from the start of its stack: when its inputs are there, when it is computed, when it is back at
    the leader; `compute_s` on its host; bytes of its two messages (0 on the leader itself)."""

    tile: int
    host: str
    ready_s: float
    done_s: float
    back_s: float
    compute_s: float
    scatter_bytes: int
    gather_bytes: int


@dataclass(frozen=True)
class StackTimes:
    """A whole stack; tiles that cover nothing are left out."""

    total_s: float
    tiles: tuple[TileTimes, ...]


def bytes_per_position(graph: LayerGraph, v: int) -> float:
    """Bytes of one position of a map, all channels, as it travels between edge hosts (the input as float32 there)."""
    vertex = graph[v]
    positions = vertex.rows * vertex.columns
    if v == INPUT:
        elements = 1
        for length in vertex.output_shape:
            elements *= length
        return max(vertex.output_bytes, 4 * elements) / positions
    return vertex.output_bytes / positions


def lan_path(problem: Problem, host: str) -> Path:
    """Path between the leading edge host and another one. Raises PlannerError when the problem names none."""
    found = problem.network.lan.get(host)
    if found is None:
        known = ", ".join(sorted(problem.network.lan)) or "none"
        raise PlannerError(f"no LAN path from {problem.hosts['edge']!r} to {host!r}; known: {known}")
    return found


def tile_s(graph: LayerGraph, costs: Costs, stack: Stack, tile: Tile) -> float:
    """Seconds of one tile on its host: every operator's fixed part, and the scaled part of the area computed."""
    if tile.empty:
        return 0.0
    produced = reverse(graph, stack.vertices, (tile.rows, tile.columns)).produced
    return sum(
        costs.vertex_s(v, "edge", tile.host, area(produced[v]) / (graph[v].rows * graph[v].columns)) for v in stack.vertices
    )


def serialise_s(path: Path, payload_bytes: float) -> float:
    """Seconds that one message keeps a link busy."""
    return 8.0 * frame_bytes(payload_bytes + MESSAGE_HEADER_BYTES) / max(path.rate_bps, 1e3)


def stack_times(problem: Problem, stack: Stack) -> StackTimes:
    """Times of a stack by the cost model. Raises PlannerError for a host without a LAN path."""
    graph, leader = problem.graph, problem.hosts["edge"]
    uplink = 0.0
    free: dict[str, float] = {}
    computed: list[TileTimes] = []
    for index, tile in enumerate(stack.tiles):
        if tile.empty:
            continue
        compute_s = tile_s(graph, problem.costs, stack, tile)
        ready, scatter, gather = 0.0, 0, 0
        if tile.host != leader:
            path = lan_path(problem, tile.host)
            read = reverse(graph, stack.vertices, (tile.rows, tile.columns)).read
            scatter = round(sum(area(box) * bytes_per_position(graph, u) for u, box in read.items()))
            gather = round(area((tile.rows, tile.columns)) * bytes_per_position(graph, stack.output))
            uplink += serialise_s(path, scatter)
            ready = uplink + path.delay_s
        done = max(ready, free.get(tile.host, 0.0)) + compute_s
        free[tile.host] = done
        computed.append(TileTimes(index, tile.host, ready, done, done, compute_s, scatter, gather))
    downlink = 0.0
    finished: list[TileTimes] = []
    for times in sorted(computed, key=lambda t: (t.done_s + _delay(problem, t.host, leader), t.tile)):
        if times.host == leader:
            finished.append(times)
            continue
        path = lan_path(problem, times.host)
        downlink = max(downlink, times.done_s + path.delay_s) + serialise_s(path, times.gather_bytes)
        finished.append(
            TileTimes(
                times.tile,
                times.host,
                times.ready_s,
                times.done_s,
                downlink,
                times.compute_s,
                times.scatter_bytes,
                times.gather_bytes,
            )
        )
    finished.sort(key=lambda t: t.tile)
    return StackTimes(max((t.back_s for t in finished), default=0.0), tuple(finished))


def _delay(problem: Problem, host: str, leader: str) -> float:
    return 0.0 if host == leader else lan_path(problem, host).delay_s
