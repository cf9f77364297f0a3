"""Run a set of vertices of a captured model: any convex set is a part, from its boundary tensors to its boundary tensors.

The whole model is the part of all vertices, so whole and parts make the same calls on the same layouts in the same order
and agree bit for bit (same machine, same number of threads: the caller's business). Tiles are in `d3node.tiles`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from d3node.errors import ComputeError
from d3node.graph import INPUT
from d3node.instructions import Program, run, settled


def run_part(program: Program, vertices: Collection[int], tensors: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Outputs of a part, by vertex: what somebody outside the part needs, or the model answers with.

    `tensors` has the part's boundary inputs, by vertex, with the shapes of the graph (further entries are ignored). The
    input vertex may be in `vertices`; its tensor is taken from `tensors`. Tensors are freed after their last use inside the part.
    Raises ComputeError for a missing or misshapen tensor, and where an operator fails.
    """
    graph = program.graph
    members = sorted(set(vertices))
    inputs, outputs = graph.boundary(members)
    last: dict[int, int] = {}
    for v in members:
        for producer in graph[v].inputs:
            last[producer] = v
    values: dict[int, Tensor] = {}
    for u in inputs if INPUT not in members else (INPUT, *inputs):
        if u not in tensors:
            raise ComputeError(
                f"a part of {graph.name!r} needs the tensor of {graph[u].name!r} (vertex {u}), which was not given"
            )
        values[u] = checked(program, u, tensors[u])
    keep = set(outputs)
    with torch.inference_mode():
        for v in members:
            if v == INPUT:
                continue
            vertex = graph[v]
            try:
                values[v] = run(program.codes[v], [values[u] for u in vertex.inputs], program.constants)
            except (RuntimeError, ValueError, TypeError) as error:
                raise ComputeError(f"{vertex.name!r} (vertex {v}) of {graph.name!r} failed: {error}") from error
            for producer in vertex.inputs:
                if last[producer] == v and producer not in keep:
                    del values[producer]
    return {v: values[v] for v in outputs}


def checked(program: Program, vertex: int, tensor: Tensor) -> Tensor:
    """The tensor, settled for the kernels. Raises ComputeError unless it has the shape of that vertex's output."""
    expected = program.graph[vertex].output_shape
    if tuple(tensor.shape) != expected:
        raise ComputeError(
            f"the tensor of {program.graph[vertex].name!r} (vertex {vertex}) of {program.graph.name!r} has shape"
            f" {tuple(tensor.shape)} instead of {expected}"
        )
    return settled(tensor)
