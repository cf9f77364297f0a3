"""Which sets of vertices can be a stack: runs of the topological order with one output, worked out once per graph.

A run [p..e] qualifies when all its vertices are spatial and only e is used outside it. That makes it convex. Runs that read
a tensor which some vertex before p also turns into input of the run (half a residual block) are left out, so that one
reverse walk from e serves all its runs. Which of them are worth tiling is `vsm.py`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from d3node.graph import LayerGraph

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Candidates:
    """All candidate runs of a graph: `first[i]` to `last[i]`; `ends` are the distinct last vertices, ascending, and
    `end_index[i]` says which one is `last[i]`; `reads[i]` are the producers outside, padded with -1."""

    first: Ints
    last: Ints
    ends: Ints
    end_index: Ints
    reads: Ints


def candidates(graph: LayerGraph) -> Candidates:
    """Candidates of a graph, kept on it."""
    found = graph.__dict__.get("_planner_stacks")
    if found is None:
        found = _enumerate(graph)
        graph.__dict__["_planner_stacks"] = found
    return cast(Candidates, found)


def _enumerate(graph: LayerGraph) -> Candidates:
    size = len(graph)
    producers, consumers, ancestors = [0] * size, [0] * size, [0] * size
    for vertex in graph:
        v = vertex.index
        ancestors[v] = 1 << v
        for u in vertex.inputs:
            producers[v] |= 1 << u
            consumers[u] |= 1 << v
            ancestors[v] |= ancestors[u]
    runs: list[tuple[int, int, tuple[int, ...]]] = []
    outputs = set(graph.outputs)
    for e in range(1, size):
        if graph[e].spatial is None or (not consumers[e] and e not in outputs):
            continue
        members = needs = 0
        for p in range(e, 0, -1):
            if graph[p].spatial is None or (p != e and not (consumers[p] and graph.last_use[p] <= e)):
                break
            members |= 1 << p
            needs |= producers[p]
            reads = _bits(needs & ~members)
            before = ancestors[e] & ((1 << p) - 1)
            if not any(consumers[u] & before for u in reads):
                runs.append((p, e, reads))
    width = max((len(reads) for _, _, reads in runs), default=1)
    table = np.full((len(runs), width), -1, dtype=np.int64)
    for i, (_, _, reads) in enumerate(runs):
        table[i, : len(reads)] = reads
    last = np.array([e for _, e, _ in runs], dtype=np.int64)
    ends, index = np.unique(last, return_inverse=True)
    return Candidates(np.array([p for p, _, _ in runs], dtype=np.int64), last, ends, index.astype(np.int64), table)


def _bits(mask: int) -> tuple[int, ...]:
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return tuple(found)
