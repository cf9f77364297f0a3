"""Neurosurgeon, DADS and QDMP on small graphs whose best plan is worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planner_problems import random_problem
from test_planners_two_tiers import joined

from d3node.graph import LayerGraph, Vertex
from d3node.program import lower
from testbed.costs import devices
from testbed.costs.network import NetworkState, Path
from testbed.costs.table import Costs, TierCosts
from testbed.errors import PlannerError
from testbed.planners.base import Planner, Problem
from testbed.planners.dads import Dads
from testbed.planners.evaluate import critical_path
from testbed.planners.neurosurgeon import Neurosurgeon
from testbed.planners.options import TIER_PAIRS
from testbed.planners.qdmp import Qdmp


def timed_chain(low: list[float], high: list[float], sizes: list[int], rate_bps: float, delay_s: float = 0.0) -> Problem:
    """A chain with times for edge and cloud and one rate between them; the device is as the edge, its link takes no time."""
    vertices = [Vertex(0, "input", "input", (), (1, 3, 8, 8), sizes[0])]
    vertices += [Vertex(v, f"v{v}", "linear", (v - 1,), (1, 8), size) for v, size in enumerate(sizes[1:], start=1)]
    return timed(LayerGraph("chain", tuple(vertices), (len(sizes) - 1,)), low, high, rate_bps, delay_s)


def timed(graph: LayerGraph, low: list[float], high: list[float], rate_bps: float, delay_s: float = 0.0) -> Problem:
    zeros = (0.0,) * len(graph)
    tiers = {
        "device": TierCosts(zeros, (0.0, *low)),
        "edge": TierCosts(zeros, (0.0, *low)),
        "cloud": TierCosts(zeros, (0.0, *high)),
    }
    path = Path(rate_bps, delay_s)
    network = NetworkState(Path(1e12), path, path)
    return Problem(graph, Costs(tiers), network, {"device": "d1", "edge": "e1", "cloud": "c"}, ("e1",))  # type: ignore[arg-type]


def diamond(sizes: tuple[int, int, int, int]) -> LayerGraph:
    """input -> a; a -> b, c (two readers of one tensor); b, c -> the answer."""
    return LayerGraph(
        "diamond",
        (
            Vertex(0, "input", "input", (), (1, 3, 8, 8), sizes[0]),
            Vertex(1, "a", "linear", (0,), (1, 8), sizes[1]),
            Vertex(2, "b", "linear", (1,), (1, 8), sizes[2]),
            Vertex(3, "c", "linear", (1,), (1, 8), sizes[3]),
            Vertex(4, "d", "add", (2, 3), (1, 8), 10),
        ),
        (4,),
    )


@pytest.mark.parametrize("planner", [Dads(), Qdmp()])
def test_an_output_with_two_readers_is_paid_once(planner: Planner) -> None:
    """a's 100 kB at 8 Mbit/s take about 0.1 s; twice that would exceed the 0.15 s that the cloud saves on b, c and d."""
    problem = timed(diamond((500_000, 100_000, 100_000, 100_000)), [0.01, 0.06, 0.06, 0.06], [0.01] * 4, 8e6)
    decision = planner.plan(problem)
    assert decision.plan.tiers == ("device", "edge", "cloud", "cloud", "cloud")
    assert decision.objective_s == pytest.approx(0.04 + Path(8e6).transfer_s(100_000) + Path(1e12).transfer_s(500_000))


@pytest.mark.parametrize("planner", [Dads(), Qdmp()])
def test_no_data_flows_back_where_a_middle_layer_is_faster_below(planner: Planner) -> None:
    """papers: the printed graph of DSL has no reverse arcs, and would put c below while its producer b is above, for free."""
    problem = timed_chain([1.0, 1.0, 0.01], [0.1, 0.1, 0.5], [1_000, 1_000, 1_000, 10], 1e8)
    decision = planner.plan(problem)
    decision.plan.check(problem.graph)
    assert decision.plan.tiers == ("device", "cloud", "cloud", "cloud")


def test_neurosurgeon_by_hand() -> None:
    """1 Mbit/s: the input takes 0.84 s, a's 10 kB 0.086 s. Cut behind a: 0.2 + 0.086 + 0.1 = 0.386 s; all above: 1.02; all
    below: 1.2."""
    problem = timed_chain([0.2, 0.5, 0.5], [0.02, 0.05, 0.05], [100_000, 10_000, 60_000, 10], 1e6)
    decision = Neurosurgeon().plan(replace(problem, options={"tiers": "edge-cloud"}))
    assert decision.plan.tiers == ("device", "edge", "cloud", "cloud")
    assert decision.plan.notes["cut"] == "v1"
    transfer = Path(1e6).transfer_s(10_000) + Path(1e12).transfer_s(100_000)
    assert decision.objective_s == pytest.approx(0.2 + transfer + 0.1)


def test_all_live_tensors_cross_the_cut() -> None:
    """Behind b both a and b are alive. DSL may leave c on the low tier instead; one cut of the order may not."""
    problem = timed(diamond((500_000, 10_000, 10, 10)), [0.01, 0.01, 1.0, 1.0], [0.01, 0.5, 0.01, 0.01], 8e6)
    cut = Neurosurgeon().plan(replace(problem, options={"tiers": "edge-cloud"})).plan
    assert cut.tiers == ("device", "edge", "edge", "cloud", "cloud")
    sends = {send.vertex for send in lower(problem.graph, cut)["edge"].sends}
    assert sends == {1, 2}


def test_a_loaded_server_keeps_layers_on_the_device() -> None:
    problem = timed_chain([0.2, 0.2], [0.02, 0.02], [10_000, 10_000, 10], 1e7)
    idle = Neurosurgeon().plan(problem)
    loaded = Neurosurgeon().plan(replace(problem, options={"server_load": 20.0}))
    assert set(idle.plan.tiers[1:]) == {"cloud"}
    assert set(loaded.plan.tiers) == {"device"}
    observed = replace(problem, costs=problem.costs.with_speed("c", 0.05))
    assert Neurosurgeon().plan(observed).plan.tiers == loaded.plan.tiers


def test_latency_and_energy_choose_differently_and_the_radio_matters() -> None:
    """Wi-Fi at 10 Mbit/s draws 283.17 x 10 + 132.86 mW: 0.25 J for the input, 0.025 J for v1's output, where each layer takes a
    device of 0.5 W 0.05 J: cut behind v1. 3G takes 0.081 J for v1's output: all on the device. 50 W: all in the cloud."""
    problem = timed_chain([0.1, 0.1], [0.01, 0.01], [100_000, 10_000, 10], 1e7)
    problem = replace(problem, network=replace(problem.network, device_edge=Path(1e7), edge_cloud=Path(1e12)))
    energy = {"neurosurgeon_objective": "energy", "device_power_w": 0.5}
    assert set(Neurosurgeon().plan(problem).plan.tiers[1:]) == {"cloud"}
    assert Neurosurgeon().plan(replace(problem, options=energy)).plan.tiers[1:] == ("device", "cloud")
    wire_bits = Path(1.0).transfer_s(10_000) * 1e3  # below 1 kbit/s a path counts as 1 kbit/s
    spent = Neurosurgeon().plan(replace(problem, options=energy)).plan.notes["energy_j"]
    assert spent == pytest.approx(0.1 * 0.5 + (283.17 * 10 + 132.86) / 1e3 * wire_bits / 1e7)
    strong = Neurosurgeon().plan(replace(problem, options={**energy, "device_power_w": 50.0}))
    assert set(strong.plan.tiers[1:]) == {"cloud"}
    by_3g = Neurosurgeon().plan(replace(problem, options={**energy, "radio": "3g"}))
    assert set(by_3g.plan.tiers) == {"device"}


def test_the_power_of_a_device_comes_from_its_description_or_must_be_given() -> None:
    graph = diamond((1_000, 1_000, 1_000, 1_000))
    pi, tx2 = devices.tier_costs("raspberry-pi-4", graph), devices.tier_costs("jetson-tx2", graph)
    assert pi.power_w == devices.describe("raspberry-pi-4").power.active_w  # type: ignore[union-attr]
    problem = replace(random_problem(1), graph=graph, options={"neurosurgeon_objective": "energy"})
    known = replace(problem, costs=Costs({"device": pi, "edge": tx2, "cloud": tx2}))
    assert Neurosurgeon().plan(known).plan.notes["energy_j"] > 0.0
    unknown = replace(problem, costs=Costs({"device": tx2, "edge": tx2, "cloud": tx2}))
    with pytest.raises(PlannerError, match="device_power_w"):
        Neurosurgeon().plan(unknown)
    with pytest.raises(PlannerError, match="leaves out"):
        Neurosurgeon().plan(replace(known, options={"neurosurgeon_objective": "energy", "tiers": "edge-cloud"}))


def test_the_papers_restriction_to_chains_can_be_kept() -> None:
    chain = timed_chain([0.1], [0.1], [10, 10], 1e6)
    assert Neurosurgeon().plan(replace(chain, options={"neurosurgeon_graphs": "chains"}))
    graph = timed(diamond((10, 10, 10, 10)), [0.1] * 4, [0.1] * 4, 1e6)
    with pytest.raises(PlannerError, match="no chain"):
        Neurosurgeon().plan(replace(graph, options={"neurosurgeon_graphs": "chains"}))


def test_dads_changes_from_light_to_heavy_with_the_request_rate() -> None:
    """Least sum: all above (0.9 s, of which the path 0.84). Least stage: v1 below (0.5 s), 0.09 s on the path, 0.03 above."""
    problem = timed_chain([0.5, 0.5], [0.03, 0.03], [100_000, 10_000, 10], 1e6)
    assert Dads().plan(problem).plan.notes["algorithm"] == "dsl"
    light = Dads().plan(replace(problem, requests_per_s=1.0)).plan
    assert light.notes["algorithm"] == "dsl"
    problem = timed_chain([0.85, 0.5], [0.03, 0.03], [100_000, 10_000, 10], 1e6)
    light = Dads().plan(replace(problem, requests_per_s=1.0)).plan
    assert (light.notes["algorithm"], light.tiers[1]) == ("dsl", "cloud")
    slow_middle = timed_chain([0.6, 0.5], [0.2, 0.2], [70_000, 10_000, 10], 1e6)
    light = Dads().plan(replace(slow_middle, requests_per_s=0.5)).plan
    assert light.notes["algorithm"] == "dsl"
    heavy = Dads().plan(replace(slow_middle, requests_per_s=10.0)).plan
    assert heavy.notes["algorithm"] == "dsh"
    assert heavy.notes["overloaded"]
    assert max(heavy.notes["stages_s"]) <= max(light.notes["stages_s"])


def test_load_can_be_forced_either_way() -> None:
    problem = timed_chain([0.6, 0.5], [0.2, 0.2], [70_000, 10_000, 10], 1e6)
    assert Dads().plan(replace(problem, options={"load": "heavy"})).plan.notes["algorithm"] == "dsh"
    forced = replace(problem, requests_per_s=10.0, options={"load": "light"})
    assert Dads().plan(forced).plan.notes["algorithm"] == "dsl"


def test_the_stages_of_dads_are_the_bottlenecks_of_the_critical_path() -> None:
    problem = random_problem(11, size=8)
    for tiers in TIER_PAIRS:
        plan = Dads().plan(replace(problem, options={"tiers": tiers, "load": "heavy"})).plan
        busy = critical_path(problem, plan)
        low, _, high = plan.notes["stages_s"]
        hosts = [plan.hosts[t] for t in tiers.split("-")]  # type: ignore[index]
        assert [busy.busy_s.get(host, 0.0) for host in hosts] == pytest.approx([low, high])


def test_qdmp_cuts_no_block_of_a_chain_and_few_of_a_long_graph() -> None:
    chain = timed_chain([5.0, 1.0, 1.0], [0.1, 0.1, 0.1], [100_000, 100, 100, 10], 1e6)
    assert Qdmp().plan(chain).plan.notes["vertices_cut"] == 0
    assert Qdmp().plan(chain).objective_s == pytest.approx(Dads().plan(chain).objective_s)
    shares: list[float] = []
    for seed in range(20):
        problem = replace(joined(seed, 12), options={"tiers": "device-cloud"})
        shares.append(Qdmp().plan(problem).plan.notes["vertices_cut"] / len(problem.graph))
    assert sum(shares) / len(shares) < 0.25
