"""MoDNN (Mao et al., DATE 2017): every layer in one-dimensional strips by node speed, with an exchange after each.

BODP, "biased one-dimensional partition": strips along the longer dimension, as wide as their node is fast; after every layer
the group owner passes the borders on. Options: `modnn_exchange`: "borders" (what DeepThings' measurements of it imply; stacks
of one vertex that hand over by way of the leader) or "maps" (map-reduce to the letter: every map whole to the owner and out
again); `max_hosts`, `edge_part`. Dense layers stay whole on the owner: the paper's spectral co-clustering (MSCC) needs sparse
weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from d3node.plan import Handover, Stack
from testbed.planners.base import Problem
from testbed.planners.tilers import Tiler, is_window, linked, runs, strips, wide, workers


class MoDNN(Tiler):
    """Strips of single layers."""

    name = "modnn"

    def stacks(
        self, problem: Problem, values: dict[str, Any], on_edge: Sequence[bool]
    ) -> tuple[tuple[Stack, ...], dict[str, Any]]:
        """One stack for each layer. With "maps" joins of branches are left to the owner, who has all of their inputs."""
        graph = problem.graph
        hosts, speeds = workers(problem, values)
        notes = {"exchange": values["modnn_exchange"], "hosts": hosts}
        if len(hosts) < 2:
            return (), notes
        found: list[Stack] = []
        for run in runs(graph, on_edge):
            if values["modnn_exchange"] == "maps":
                found += [strips(graph, (v,), hosts, speeds, wide(graph, v)) for v in run if is_window(graph, v)]
            elif any(is_window(graph, v) for v in run):
                columns = wide(graph, run[0])  # one dimension for the run: a border would be the whole map otherwise

                def cut(block: Sequence[int], handover: Handover, columns: bool = columns) -> Stack:
                    return strips(graph, block, hosts, speeds, columns, handover)

                found += linked([(v,) for v in run], cut, "relay")
        return tuple(found), notes
