"""Which sets of vertices can be a stack: runs of the topological order with one output, worked out once per graph.

What a stack is says `d3node.stacks`. Of its runs those that read a tensor which some vertex before them also turns into input
of the run (half a residual block) are left out here, so that one reverse walk from the last vertex serves all its runs. Which
of them are worth tiling is `vsm.py`'s business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt

from d3node.graph import LayerGraph
from d3node.stacks import with_inputs

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


class Run(Protocol):
    """Something that covers the vertices from `first` to the index it is filed under."""

    @property
    def first(self) -> int: ...


AnyRun = TypeVar("AnyRun", bound=Run)


def walked_back(taken: Sequence[AnyRun | None]) -> list[AnyRun]:
    """The runs of a dynamic programme's best end, in order; `taken[v + 1]` is the run that ends with vertex v there, if any."""
    picked: list[AnyRun] = []
    v = len(taken) - 1
    while v > 0:
        run = taken[v]
        if run is None:
            v -= 1
        else:
            picked.append(run)
            v = run.first
    return picked[::-1]


def _enumerate(graph: LayerGraph) -> Candidates:
    runs = []
    before: list[int] = [0] * len(graph)  # bit sets: ancestors of every vertex
    consumers = [sum(1 << w for w in found) for found in graph.successors]
    for vertex in graph:
        for u in vertex.inputs:
            before[vertex.index] |= before[u] | 1 << u
    for stack, reads in with_inputs(graph, max_inputs=None):
        ahead = before[stack[-1]] & ((1 << stack[0]) - 1)
        if not any(consumers[u] & ahead for u in reads):
            runs.append((stack[0], stack[-1], reads))
    width = max((len(reads) for _, _, reads in runs), default=1)
    table = np.full((len(runs), width), -1, dtype=np.int64)
    for i, (_, _, reads) in enumerate(runs):
        table[i, : len(reads)] = reads
    last = np.array([e for _, e, _ in runs], dtype=np.int64)
    ends, index = np.unique(last, return_inverse=True)
    return Candidates(np.array([p for p, _, _ in runs], dtype=np.int64), last, ends, index.astype(np.int64), table)
