"""Plans of which a part is done already (`Plan.done`): only the rest is computed, and everything that it needs gets there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from agent_rig import chain, three_way, tiled
from hypothesis import given
from hypothesis import strategies as st
from orchestration import costs

from d3node.errors import PlanError
from d3node.exits import Exit
from d3node.graph import LayerGraph, Vertex
from d3node.plan import RANK, TIERS, Plan
from d3node.program import Route, lower
from testbed.orchestrator.prices import price

HOSTS: Any = {"device": "d1", "edge": "e1", "cloud": "c1"}
CHAIN = chain(7)


@st.composite
def half_done(draw: st.DrawFn) -> tuple[LayerGraph, Plan]:
    """A random graph, with a plan of which some vertices are done, on any tier; the others are not below what they read."""
    count = draw(st.integers(2, 9))
    vertices = [Vertex(0, "input", "input", (), (1, 4), 16)]
    for v in range(1, count):
        inputs = draw(st.sets(st.integers(0, v - 1), min_size=1, max_size=3))
        vertices.append(Vertex(v, f"v{v}", "add", tuple(sorted(inputs)), (1, 4), 16))
    ends = [v for v in range(count) if not any(v in other.inputs for other in vertices)]
    graph = LayerGraph("random", tuple(vertices), tuple(ends))
    done = tuple(sorted(draw(st.sets(st.integers(0, count - 1)))))
    ranks: list[int] = []
    for v in range(count):
        least = 0 if v in done else max((ranks[u] for u in graph[v].inputs), default=0)
        ranks.append(0 if v == 0 and v not in done else draw(st.integers(least, 2)))
    return graph, Plan("test", "random", tuple(TIERS[rank] for rank in ranks), HOSTS, done=done)


@given(half_done(), st.sampled_from(["relay", "direct"]))
def test_what_is_left_of_a_plan_can_be_computed_from_what_is_held(drawn: tuple[LayerGraph, Plan], route: Route) -> None:
    graph, plan = drawn
    plan.check(graph)
    programs = lower(graph, plan, route)
    have = {p.host: set(p.provides) | ({0} if p.tier == plan.tiers[0] == "device" else set()) for p in programs.values()}
    left = {p.host: list(p.steps) for p in programs.values()}
    computed: list[int] = []
    moved = True
    while moved:  # what is there is sent on, and steps run in their order
        moved = False
        for program in programs.values():
            for send in program.sends:
                if send.vertex in have[program.host] and send.vertex not in have[send.host]:
                    have[send.host].add(send.vertex)
                    moved = True
            steps = left[program.host]
            if steps and have[program.host].issuperset(steps[0].inputs):
                step = steps.pop(0)
                computed.extend(step.vertices)
                have[program.host].update(step.outputs)
                moved = True
    assert not any(left.values())
    assert sorted(computed) == [v for v in range(1, len(graph)) if v not in plan.done]
    for program in programs.values():
        assert have[program.host].issuperset(program.receives)
        assert have[program.host].issuperset(program.answers)
        assert RANK[program.tier] == 0 or program.steps or program.receives or program.provides
    answered = sorted(v for p in programs.values() for v in p.answers)
    assert answered == sorted(graph.outputs)


def test_without_anything_done_a_plan_is_written_as_ever() -> None:
    plan = three_way(CHAIN)
    assert "done" not in plan.to_dict()
    assert Plan.from_json(plan.to_json()) == plan
    resumed = replace(plan, done=(0, 1, 2))
    assert Plan.from_json(resumed.to_json()) == resumed
    assert not plan.same_placement(resumed)


def test_a_tensor_held_by_the_edge_is_sent_from_there_and_nothing_below_it_runs() -> None:
    plan = replace(three_way(CHAIN), done=(0, 1, 2, 3))
    programs = lower(CHAIN, plan)
    assert programs["device"].steps == programs["device"].sends == ()
    assert (programs["edge"].provides, programs["edge"].receives, programs["edge"].steps) == ((3,), (), ())
    assert [(send.vertex, send.host) for send in programs["edge"].sends] == [(3, "c1")]
    assert [step.vertices for step in programs["cloud"].steps] == [(4, 5, 6)]


def test_an_answer_that_exists_is_only_handed_over() -> None:
    programs = lower(CHAIN, replace(three_way(CHAIN), done=tuple(range(7))))
    assert set(programs) == {"device", "cloud"}
    assert (programs["cloud"].provides, programs["cloud"].answers, programs["cloud"].steps) == ((6,), (6,), ())


def test_the_edge_may_hold_the_input_of_a_stack_that_is_computed_again() -> None:
    plan = replace(tiled(CHAIN, (1, 2, 3), ("e1", "e2")), done=(0,))
    held = replace(plan, tiers=("edge", *plan.tiers[1:]))
    held.check(CHAIN)
    programs = lower(CHAIN, held)
    assert programs["device"].sends == ()
    assert (programs["edge"].provides, programs["edge"].receives, programs["edge"].steps[0].stack) == ((0,), (), 0)


def test_only_what_is_left_has_a_price() -> None:
    plan = replace(three_way(CHAIN), done=(0, 1, 2, 4))
    plan = replace(plan, tiers=(*plan.tiers[:4], "edge", *plan.tiers[5:]))
    programs = lower(CHAIN, plan)
    assert [step.vertices for step in programs["edge"].steps] == [(3,)]
    assert [step.vertices for step in programs["cloud"].steps] == [(5, 6)]
    found = price(CHAIN, plan, programs, costs(CHAIN, e1=0.5, c1=2.0))
    whole = price(CHAIN, three_way(CHAIN), lower(CHAIN, three_way(CHAIN)), costs(CHAIN, e1=0.5, c1=2.0))
    assert {tier: len(times) for tier, times in found.steps_s.items()} == {"device": 0, "edge": 1, "cloud": 1}
    assert found.steps_s["edge"] == [pytest.approx(whole.steps_s["edge"][0] / 2)]
    assert found.steps_s["cloud"] == [pytest.approx(whole.steps_s["cloud"][0] * 2 / 3)]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"done": (2, 1)}, "ascending"),
        ({"done": (9,)}, "ascending"),
        ({"done": (0, 1), "coding": "float16"}, "coded tensors"),
        ({"done": (1,), "exits": (Exit(6),)}, "exits"),
        ({"done": (1,), "two_way": True, "tiers": ("device",) * 7}, "two ways"),
        ({"done": (), "tiers": ("edge",) * 7}, "belongs to the device"),
        ({"done": (3,), "tiers": ("device", "cloud", "edge", "edge", "cloud", "cloud", "cloud")}, "device -> edge -> cloud"),
    ],
)
def test_what_cannot_be_gone_on_with_is_refused_in_words(change: dict[str, Any], text: str) -> None:
    with pytest.raises(PlanError, match=text):
        replace(three_way(CHAIN), **change).check(CHAIN)


def test_a_stack_is_computed_as_a_whole_or_not_at_all() -> None:
    with pytest.raises(PlanError, match="a vertex of it is done"):
        replace(tiled(CHAIN, (1, 2, 3), ("e1", "e2")), done=(0, 1)).check(CHAIN)
