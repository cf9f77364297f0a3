"""What one stack of tiles costs: the VSM cost model, for a stack that is given.

The leader sends every other host the regions that its tile reads, all at once: they share the leader's LAN link, so on a slow
LAN nobody has his before the others (`fair_link.py`). All hosts compute their tiles, and the tiles of the output map come back
through the same link, the other way. A tile
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
from testbed.planners.fair_link import Message, through_s


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


def leader_bps(problem: Problem) -> float:
    """Rate of the leader's LAN link. Paths to the leader are all that is known: at least that of the fastest of them."""
    return max(max((path.rate_bps for path in problem.network.lan.values()), default=0.0), 1e3)


def stack_times(problem: Problem, stack: Stack) -> StackTimes:
    """Times of a stack by the cost model. Raises PlannerError for a host without a LAN path."""
    graph, leader = problem.graph, problem.hosts["edge"]
    tiles = [(index, tile) for index, tile in enumerate(stack.tiles) if not tile.empty]
    paths = {tile.host: lan_path(problem, tile.host) for _, tile in tiles if tile.host != leader}
    rates = {host: max(path.rate_bps, 1e3) for host, path in paths.items()}
    scatter, gather = {}, {}
    for index, tile in tiles:
        if tile.host != leader:
            read = reverse(graph, stack.vertices, (tile.rows, tile.columns)).read
            scatter[index] = round(sum(area(box) * bytes_per_position(graph, u) for u, box in read.items()))
            gather[index] = round(area((tile.rows, tile.columns)) * bytes_per_position(graph, stack.output))
    sent = _through(problem, rates, [(stack.tiles[i].host, 0.0, size) for i, size in scatter.items()])
    ready = {i: at + paths[stack.tiles[i].host].delay_s for i, at in zip(scatter, sent, strict=True)}
    free: dict[str, float] = {}
    compute, done = {}, {}
    for index, tile in sorted(tiles, key=lambda found: (ready.get(found[0], 0.0), found[0])):
        compute[index] = tile_s(graph, problem.costs, stack, tile)
        done[index] = free[tile.host] = max(ready.get(index, 0.0), free.get(tile.host, 0.0)) + compute[index]
    arriving = [(stack.tiles[i].host, done[i] + paths[stack.tiles[i].host].delay_s, size) for i, size in gather.items()]
    back = dict(zip(gather, _through(problem, rates, arriving), strict=True))
    times = tuple(
        TileTimes(
            i,
            tile.host,
            ready.get(i, 0.0),
            done[i],
            back.get(i, done[i]),
            compute[i],
            scatter.get(i, 0),
            gather.get(i, 0),
        )
        for i, tile in tiles
    )
    return StackTimes(max((t.back_s for t in times), default=0.0), times)


def _through(problem: Problem, rates: dict[str, float], messages: list[tuple[str, float, int]]) -> list[float]:
    """Seconds at which messages (host, ready, payload) have crossed the leader's link."""
    sized = [Message(host, ready, 8.0 * frame_bytes(size + MESSAGE_HEADER_BYTES)) for host, ready, size in messages]
    return through_s(sized, rates, leader_bps(problem))
