"""The plan on which a begun request goes on: legal, computes what is lacking, and nothing that is held."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from orchestration import chain

from d3node.graph import LayerGraph, Vertex
from d3node.plan import RANK, TIERS, Plan, Stack, Tier, Tile
from d3node.program import lower_all
from testbed.orchestrator.resume import resumable, resumed

HOSTS: dict[Tier, str] = {"device": "d1", "edge": "e1", "cloud": "c1"}


def dag(seed: int, size: int = 9) -> LayerGraph:
    """A random graph in which every vertex has one to three inputs; its outputs are what nobody reads."""
    draw = random.Random(seed)
    vertices = [Vertex(0, "input", "input", (), (1, 8), 32)]
    for v in range(1, size):
        inputs = tuple(sorted(draw.sample(range(v), min(v, draw.randint(1, 3)))))
        vertices.append(Vertex(v, f"v{v}", "add", inputs, (1, 8), 32, 10))
    read = {u for vertex in vertices for u in vertex.inputs}
    return LayerGraph(f"dag{seed}", tuple(vertices), tuple(v for v in range(size) if v not in read))


def placed(graph: LayerGraph, seed: int) -> Plan:
    """A random plan whose data flows one way."""
    draw = random.Random(seed)
    ranks = [0]
    for vertex in list(graph)[1:]:
        ranks.append(max(draw.choice((0, 0, 1, 1, 2)), *(ranks[u] for u in vertex.inputs)))
    return Plan("test", graph.name, tuple(TIERS[rank] for rank in ranks), HOSTS, epoch=1)


def carried_out(graph: LayerGraph, plan: Plan, held: Mapping[Tier, set[int]]) -> set[int]:
    """Carry a plan's programs out with what is held; the vertices computed. Fails where something is lacking."""
    programs = {program.host: program for program in lower_all(graph, plan)}
    have: dict[str, set[int]] = {host: set() for host in programs}
    answered: set[int] = set()
    computed: set[int] = set()
    for host, program in programs.items():
        assert set(program.provides) <= held.get(program.tier, set()) | ({0} if program.tier == "device" else set())
        have[host] |= set(program.provides) | ({0} if program.tier == "device" and 0 not in plan.done else set())
    for _ in range(len(graph) + 3):
        for host, program in programs.items():
            for step in program.steps:
                for v in step.vertices:
                    if set(graph[v].inputs) <= have[host] and v not in have[host]:
                        assert v not in computed, "computed twice"
                        computed.add(v)
                        have[host].add(v)
            for send in program.sends:
                if send.vertex in have[host]:
                    have[send.host].add(send.vertex)
            answered |= set(program.answers) & have[host]
    assert answered == set(graph.outputs)
    return computed


@given(seed=st.integers(0, 10_000), data=st.data())
def test_any_holdings_give_a_legal_plan_that_answers_and_computes_only_what_is_lacking(seed: int, data: st.DataObject) -> None:
    graph = dag(seed)
    plan = placed(graph, data.draw(st.integers(0, 10_000)))
    vertices = st.sets(st.integers(0, len(graph) - 1))
    held: dict[Tier, set[int]] = {tier: data.draw(vertices) for tier in TIERS}
    found = resumed(graph, plan, held)
    found.check(graph)
    computed = carried_out(graph, found, held)
    everything = set().union(*held.values())
    assert not computed & everything, "what is held is not computed again"
    lacking = set(graph.outputs)
    for v in reversed(range(len(graph))):
        if v in lacking and v not in everything:
            lacking |= set(graph[v].inputs)
    assert computed == lacking - everything - {0}
    for v in computed:
        assert RANK[found.tiers[v]] >= RANK[plan.tiers[v]], "nothing goes on below its place in the plan"


def test_with_nothing_held_it_is_the_plan_itself() -> None:
    graph = dag(1)
    plan = placed(graph, 2)
    assert resumed(graph, plan, {}) is plan
    assert resumed(graph, plan, {"device": {0}}) is plan


def test_it_goes_on_at_the_boundary_that_still_holds_the_tensor() -> None:
    graph = chain(4)
    plan = Plan("t", "chain", ("device", "device", "edge", "edge", "cloud"), HOSTS, epoch=1)
    edge = resumed(graph, plan, {"device": {1}, "edge": {1, 2}})
    assert (edge.done, carried_out(graph, edge, {"edge": {2}})) == ((1, 2), {3, 4})
    device = resumed(graph, plan, {"device": {1}})
    assert (device.done, carried_out(graph, device, {"device": {1}})) == ((1,), {2, 3, 4})


def test_the_input_is_not_sent_again_to_a_host_that_has_it() -> None:
    graph = chain(3)
    plan = Plan("t", "chain", ("device", "edge", "edge", "cloud"), HOSTS, epoch=1)
    found = resumed(graph, plan, {"edge": {0}})
    assert (found.tiers[0], found.done) == ("edge", (0,))
    assert not [send for program in lower_all(graph, found) for send in program.sends if send.vertex == 0]


def stacked(graph: LayerGraph) -> Plan:
    tiles = (Tile("e1", (0, 8), (0, 16)), Tile("e2", (8, 16), (0, 16)))
    stacks = (Stack((1, 2), (2, 1), tiles), Stack((3, 4), (2, 1), tiles))
    return Plan("t", "chain", ("device", "edge", "edge", "edge", "edge", "cloud"), HOSTS, stacks, epoch=1)


@pytest.mark.parametrize(("held", "outputs"), [({0}, [2, 4]), ({2}, [4]), ({1}, [4]), ({3}, [])])
def test_stacks_that_have_not_begun_stay_stacks(held: set[int], outputs: list[int]) -> None:
    graph = chain(5)
    found = resumed(graph, stacked(graph), {"edge": held})
    found.check(graph)
    assert [stack.output for stack in found.stacks] == outputs


def test_lossy_and_two_way_plans_begin_again() -> None:
    graph = chain(2)
    plan = Plan("t", "chain", ("device", "edge", "device"), HOSTS, epoch=1, two_way=True)
    assert not resumable(plan)
    assert resumed(graph, plan, {"edge": {1}}) is plan
