"""A DAG as a chain: the vertices that every path from input to answer passes, and the blocks between them.

IONN (Jeong et al., SoCC 2018) cuts a model only behind such vertices: the dominators of the output. What lies between two of them
runs in one place.
"""

from __future__ import annotations

from d3node.graph import INPUT, LayerGraph


def dominators(graph: LayerGraph) -> tuple[int, ...]:
    """The input, and every vertex behind which its own tensor is all that is still needed, ascending. O(vertices).

    In a graph in which every vertex leads to the only output, these are the output's dominators: whatever the topological
    order, nothing jumps over such a vertex.
    """
    found, reach = [], 0
    for v, last in enumerate(graph.last_use):
        if reach <= v and (v not in graph.outputs or v == len(graph) - 1):
            found.append(v)
        reach = max(reach, last)
    return tuple(found)


def blocks(graph: LayerGraph) -> tuple[tuple[int, ...], ...]:
    """The vertices between neighbouring dominators, the later one included; the input is in none. Together: all others.

    What one block gives to the next is the tensor of its last vertex. A graph with several outputs ends in a block that
    holds all of them that do not lie on the chain.
    """
    ends = [v for v in dominators(graph) if v != INPUT]
    if not ends or ends[-1] != len(graph) - 1:
        ends.append(len(graph) - 1)
    starts = [INPUT + 1, *(end + 1 for end in ends[:-1])]
    return tuple(tuple(range(start, end + 1)) for start, end in zip(starts, ends, strict=True) if start <= end)
