"""DeepThings (Zhao, Barijough, Gerstlauer, TCAD 2018): a fused grid of tiles that idle hosts steal, with reuse of overlaps.

The first layers are one stack of a fixed depth, cut into a fixed grid of equal tiles (FTP); the gateway (our edge leader) holds
the queue, joins the tiles and runs the other layers. The tiles' regions are our exact ones: the paper's ranges assume padding
of half an odd kernel and pools without overlap or padding (`ftp_range`; the tests show what they miss). Options:
`deepthings_depth`: vertices to fuse at most (16, the paper's layers of YOLOv2; the deepest run with one output within them is
taken), `deepthings_rows` and `deepthings_columns` (3 x 3, the paper's coarsest), `stealing` and `reuse` ("on"; without stealing
a host fetches only the tiles that it was assigned, in turn: the paper's work sharing), `max_hosts`, `edge_part`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from d3node.graph import Pair, Spatial
from d3node.intervals import grid_boxes
from d3node.plan import Stack, Tile
from d3node.pool import Geometry
from d3node.stacks import with_inputs
from testbed.planners.base import Problem
from testbed.planners.tilers import Tiler, workers


class DeepThings(Tiler):
    """Fused tile partition with work stealing and reuse."""

    name = "deepthings"

    def stacks(
        self, problem: Problem, values: dict[str, Any], on_edge: Sequence[bool]
    ) -> tuple[tuple[Stack, ...], dict[str, Any]]:
        """One stack at the beginning of the edge part."""
        graph = problem.graph
        hosts, _ = workers(problem, values)
        vertices = fused(problem, on_edge, int(values["deepthings_depth"]))
        grid = (int(values["deepthings_rows"]), int(values["deepthings_columns"]))
        notes = {"hosts": hosts, "depth": len(vertices), "grid": list(grid)}
        if len(hosts) < 2 or not vertices:
            return (), notes
        output = graph[vertices[-1]]
        boxes = grid_boxes(output.rows, output.columns, [1.0] * grid[0], [1.0] * grid[1])
        how = {"stealing": values["stealing"] == "on", "reuse": values["reuse"] == "on"}
        unassigned = Stack(vertices, grid, tuple(Tile(hosts[0], *box) for box in boxes), **how)
        owners = {tile: hosts[i % len(hosts)] for i, tile in enumerate(Geometry(graph, unassigned).order())}
        tiles = tuple(Tile(owners.get(i, hosts[0]), *box) for i, box in enumerate(boxes))
        return (Stack(vertices, grid, tiles, **how),), notes


def fused(problem: Problem, on_edge: Sequence[bool], depth: int) -> tuple[int, ...]:
    """The deepest run with one output that begins at the first tileable vertex of an edge part, of at most `depth` vertices."""
    found: tuple[int, ...] = ()
    first = None
    for stack, _ in with_inputs(problem.graph, [v for v, here in enumerate(on_edge) if here], max_inputs=None):
        first = stack[0] if first is None else min(first, stack[0])
        if stack[0] == first and len(found) < len(stack) <= depth:
            found = stack
    return found


def ftp_range(spatial: Spatial, axis: int, span: Pair, length: int) -> Pair:
    """The input range that the paper prints for an output range (half-open here): for a convolution S x1 - floor(F/2) to
    S x2 + floor(F/2), for a pool S x1 to S x2 + S - 1, inclusive. Only for the comparison: nothing is computed with it."""
    stride, kernel = spatial.stride[axis], spatial.kernel[axis]
    low, high = span[0] * stride, (span[1] - 1) * stride
    return (max(0, low - kernel // 2), min(length - 1, high + kernel // 2) + 1)
