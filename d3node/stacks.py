"""Which runs of vertices can be a stack of tiles: pure graph code for planners, without torch and without costs.

A stack is convex, spatial throughout, and has one output vertex, its last; how deep one should be is the planners' question.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from d3node.graph import INPUT, LayerGraph


def stacks(graph: LayerGraph, within: Collection[int] | None = None, max_inputs: int | None = 1) -> list[tuple[int, ...]]:
    """All candidate stacks among the vertices `within`; see `with_inputs`."""
    return [stack for stack, _ in with_inputs(graph, within, max_inputs)]


def with_inputs(
    graph: LayerGraph, within: Collection[int] | None = None, max_inputs: int | None = 1
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """All candidate stacks among the vertices `within` (all by default), by ascending last vertex, then ascending depth; each
    with the producers outside that it reads, ascending.

    A candidate is a consecutive run (in topological order) of the given vertices, all spatial, whose only tensor used
    outside is the last vertex's, and which reads at most `max_inputs` tensors from outside (None: any number). With one
    input these are exactly the sub-graphs between a single entry and a single exit: runs of a chain, branches of a block,
    whole blocks, and runs of blocks. The work is proportional to the total length of the candidates and the failed runs.
    """
    members = sorted(set(range(len(graph)) if within is None else within) - {INPUT})
    convex = within is None or graph.is_convex(members)
    for run in _segments(graph, members):
        reach = _reaches(graph, run)
        for end in range(len(run)):
            outside: set[int] = set()
            for start in range(end, -1, -1):
                if start < end and reach[start] > end:
                    break  # used outside, and so for every longer run
                outside.discard(run[start])
                outside.update(graph[run[start]].inputs)
                if max_inputs is None or len(outside) <= max_inputs:
                    stack = run[start : end + 1]
                    if convex or graph.is_convex(stack):
                        yield stack, tuple(sorted(outside))


def maximal_stacks(graph: LayerGraph, within: Collection[int] | None = None, max_inputs: int | None = 1) -> list[tuple[int, ...]]:
    """The candidates that no other candidate contains, ascending and disjoint where `max_inputs` is 1."""
    kept: list[tuple[int, ...]] = []
    for stack in sorted(stacks(graph, within, max_inputs), key=lambda s: (s[0], -s[-1])):
        if not any(set(stack) <= set(longer) for longer in kept):
            kept.append(stack)
    return kept


def _segments(graph: LayerGraph, members: list[int]) -> Iterator[tuple[int, ...]]:
    """Consecutive spatial members; a member that cannot be tiled ends a segment."""
    run: list[int] = []
    for v in members:
        if graph[v].spatial is not None:
            run.append(v)
        elif run:
            yield tuple(run)
            run = []
    if run:
        yield tuple(run)


def _reaches(graph: LayerGraph, run: tuple[int, ...]) -> list[float]:
    """For every place of a run the place of the last consumer; infinite where somebody outside the run consumes."""
    place = {v: i for i, v in enumerate(run)}
    answers = set(graph.outputs)
    reach = []
    for v in run:
        consumers = graph.successors[v]
        inside = v not in answers and all(c in place for c in consumers)
        reach.append(float(max((place[c] for c in consumers), default=0)) if inside else float("inf"))
    return reach
