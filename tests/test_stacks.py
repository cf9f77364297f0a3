"""Candidate stacks are exactly the legal ones, on any subset of vertices; descriptions add up geometry along them."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from d3node.describe import describe
from d3node.graph import LayerGraph, Spatial, Vertex
from d3node.stacks import maximal_stacks, stacks


def made(inputs: list[tuple[int, ...]], flat: frozenset[int] = frozenset()) -> LayerGraph:
    """A graph from the producers of vertices 1, 2, ..., `flat` ones not tileable; what nobody reads is an answer."""
    vertices = [Vertex(0, "input", "input", (), (1, 3, 32, 32), 12288)]
    for i, producers in enumerate(inputs, start=1):
        spatial = None if i in flat else Spatial("window", (3, 3), (2 if i == 1 else 1, 1), (1, 1), (1, 2))
        vertices.append(Vertex(i, f"v{i}", "conv2d", producers, (1, 8, 16, 16), 8192, spatial=spatial))
    used = {u for producers in inputs for u in producers}
    return LayerGraph("made", tuple(vertices), tuple(v for v in range(1, len(vertices)) if v not in used))


@st.composite
def graphs(draw: st.DrawFn) -> LayerGraph:
    inputs = []
    for i in range(1, draw(st.integers(1, 8)) + 1):
        producers = draw(st.sets(st.integers(max(0, i - 3), i - 1), min_size=1, max_size=3))
        inputs.append(tuple(sorted(producers)))
    flat = draw(st.frozensets(st.integers(1, len(inputs)), max_size=2))
    return made(inputs, flat)


@settings(max_examples=200, deadline=None)
@given(graph=graphs(), data=st.data())
def test_candidates_are_exactly_the_legal_consecutive_runs(graph: LayerGraph, data: st.DataObject) -> None:
    within = data.draw(st.none() | st.sets(st.integers(0, len(graph) - 1)))
    members = sorted(set(range(len(graph)) if within is None else within) - {0})
    legal = set()
    for start, end in combinations(range(len(members) + 1), 2):
        run = tuple(members[start:end])
        inputs, outputs = graph.boundary(run)
        if all(graph[v].spatial for v in run) and graph.is_convex(run) and outputs == (run[-1],):
            legal.add((run, len(inputs)))
    assert sorted(stacks(graph, within, max_inputs=None)) == sorted(run for run, _ in legal)
    assert sorted(stacks(graph, within)) == sorted(run for run, count in legal if count == 1)


def test_a_block_can_be_a_stack_but_not_half_a_block() -> None:
    graph = made([(0,), (1,), (2,), (1,), (3, 4), (5,)])  # v1, then v2-v3 beside v4, joined in v5
    found = stacks(graph)
    assert (2, 3, 4, 5) in found
    assert (1, 2, 3, 4, 5, 6) in found
    assert (2, 3) in found
    assert (3, 4, 5) not in found  # two tensors come in
    assert (3, 4, 5) in stacks(graph, max_inputs=2)
    assert (1, 2, 3) not in stacks(graph, max_inputs=None)  # v1 is also used by v4
    assert maximal_stacks(graph) == [(1, 2, 3, 4, 5, 6)]
    assert maximal_stacks(graph, within=(2, 3, 6)) == [(2, 3), (6,)]


def test_description_adds_up_receptive_fields() -> None:
    graph = made([(0,), (1,), (2,), (1,), (3, 4), (5,)], frozenset({6}))
    rows = describe(graph)
    assert [row.index for row in rows] == list(range(7))
    assert rows[1].field == (3, 5)
    assert rows[1].jump == (2, 1)
    assert rows[2].field == (3 + 2 * 2, 5 + 4)
    assert rows[2].jump == (2, 1)
    assert rows[5].field == (3 + 3 * 2 * 2, 5 + 3 * 4)  # over the longer branch
    assert rows[6].field is None
    assert not rows[6].tileable
    assert rows[2].kernel == (3, 3)
    assert rows[2].dilation == (1, 2)
    assert rows[2].inputs == ("v1",)
