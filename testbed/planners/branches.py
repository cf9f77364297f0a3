"""A network with exits cut in two: the candidates that SPINN and Edgent choose among.

The main path is what the last output needs; everything else is an exit's head and goes where its last input is computed. At a cut
all tensors that are needed behind it travel, so networks need not be chains (the standard generalisation).
"""

from __future__ import annotations

from d3node.exits import Exit, stages
from d3node.graph import INPUT, LayerGraph
from testbed.planners.prices import DEVICE


def outputs_in_order(graph: LayerGraph) -> tuple[int, ...]:
    """A network's outputs, the first exit first."""
    return tuple(sorted(set(graph.outputs)))


def path_to(graph: LayerGraph, output: int) -> tuple[int, ...]:
    """Vertices that an output needs, ascending, without the input."""
    stage = stages(graph, (Exit(output),))
    return tuple(v for v in range(1, len(graph)) if stage[v] == 0)


def cut_ranks(graph: LayerGraph, main: tuple[int, ...], count: int, rear: int) -> list[int]:
    """Ranks of all vertices when the first `count` of a main path are on the device and its others on the rank `rear`."""
    ranks = [DEVICE] * len(graph)
    front, members = set(main[:count]), set(main)
    for vertex in graph.vertices[1:]:
        v = vertex.index
        if v in members:
            ranks[v] = DEVICE if v in front else rear
        else:
            ranks[v] = max(ranks[u] for u in vertex.inputs)
            if vertex.inputs == (INPUT,) and count == 0:
                ranks[v] = rear
    return ranks


def after_relu(graph: LayerGraph, v: int) -> bool:
    """Whether a vertex's tensor comes out of a ReLU: not negative, with many zeros."""
    operators = graph[v].operators
    return bool(operators) and "relu" in operators[-1].target
