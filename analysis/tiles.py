"""What tiles cost before they gain: the halo that tiles of a fused stack compute twice; and VSM by itself, as a planner.

`Vsm` leaves HPA out, so that tiles are seen alone: `--planner analysis/tiles.py:Vsm`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from d3node.graph import LayerGraph
from d3node.plan import Plan
from testbed.planners.base import Change, Decision, Problem
from testbed.planners.objective import objective_s
from testbed.planners.options import VSM_OPTIONS, read
from testbed.planners.prices import DEVICE, EDGE, make_plan, prices
from testbed.planners.stack_candidates import candidates
from testbed.planners.tile_geometry import Grid, areas
from testbed.planners.vsm import choose


class Vsm:
    """Everything on the edge tier, with VSM's own choice of stacks and grids. Options: those of VSM."""

    name = "vsm"

    def plan(self, problem: Problem) -> Decision:
        """VSM on the whole model."""
        ranks = [DEVICE, *[EDGE] * (len(problem.graph) - 1)]
        stacks, gain = choose(problem, read(problem, self.name, VSM_OPTIONS), [rank == EDGE for rank in ranks])
        plan = make_plan(self.name, problem, ranks, stacks, {"tiling_gain_s": gain})
        return Decision(plan, objective_s(problem, plan), prices(problem).facts.everything)

    def replan(self, problem: Problem, current: Plan, change: Change) -> Decision:
        """The same again."""
        return self.plan(problem)


def halo(graph: LayerGraph, grids: Sequence[tuple[int, int]]) -> pd.DataFrame:
    """What one fused stack from the model's first layer on computes in tiles, over what it computes whole: a row for each grid of
    equal tiles and each last layer. Columns `model`, `grid` ("2x4": rows x columns), `tiles`, `depth` (vertices in the stack),
    `layer` (its last one's name), `map` (that one's rows), `work` (1 = nothing twice; by FLOP), `largest` (the largest tile's
    FLOP over the whole stack's: its inverse bounds the speed-up on as many hosts)."""
    runs = candidates(graph)
    found = [Grid(grid, (1.0,) * grid[0], (1.0,) * grid[1], ("",) * (grid[0] * grid[1])) for grid in grids]
    needed = areas(graph, found)
    flops = np.array([float(vertex.flops) for vertex in graph])
    positions = np.array([vertex.rows * vertex.columns if len(vertex.output_shape) == 4 else 1 for vertex in graph])
    whole = np.cumsum(flops)
    rows, start = [], 0
    for grid in grids:
        stop = start + grid[0] * grid[1]
        for first, last, end in zip(runs.first, runs.last, runs.end_index, strict=True):
            if first == 1:
                tiles = (needed[1 : last + 1, end, start:stop] * (flops / positions)[1 : last + 1, None]).sum(axis=0)
                if whole[last] > 0:
                    shape = {"depth": int(last), "layer": graph[int(last)].name, "map": graph[int(last)].rows}
                    work = {"work": tiles.sum() / whole[last], "largest": tiles.max() / whole[last]}
                    rows.append({"model": graph.name, "grid": f"{grid[0]}x{grid[1]}", "tiles": stop - start, **shape, **work})
        start = stop
    return pd.DataFrame(rows).sort_values(["tiles", "grid", "depth"], kind="stable", ignore_index=True)
