"""SPINN, Edgent and DDNN as planners: worked examples, and exhaustive search over exit, cut and threshold written anew."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest

from d3node.calibration import Calibration
from d3node.exits import Exit, measured
from d3node.graph import LayerGraph, Operator, Vertex
from d3node.plan import Plan
from testbed.costs.network import NetworkState, Path
from testbed.costs.table import Costs, TierCosts
from testbed.errors import PlannerError
from testbed.planners.base import Change, Problem
from testbed.planners.ddnn import Ddnn, traffic_bytes, views_of
from testbed.planners.edgent import Edgent
from testbed.planners.evaluate import critical_path, objective_s
from testbed.planners.spinn import THRESHOLDS, Spinn

RELU = (Operator("r", "aten.relu.default", (1, 16, 4, 4), 0),)


def branchy(blocks: int) -> LayerGraph:
    """A chain of blocks with a head behind each; block i is vertex 2i-1, its head 2i."""
    vertices = [Vertex(0, "input", "input", (), (1, 1, 16, 16), 1024)]
    for block in range(1, blocks + 1):
        before = max(0, 2 * block - 3) if block > 1 else 0
        vertices.append(Vertex(2 * block - 1, f"b{block}", "conv2d", (before,), (1, 16, 4, 4), 4096 // block, operators=RELU))
        vertices.append(Vertex(2 * block, f"h{block}", "linear", (2 * block - 1,), (1, 4), 16))
    return LayerGraph("branchy", tuple(vertices), tuple(range(2, 2 * blocks + 1, 2)))


def problem(seed: int, blocks: int, samples: int = 60) -> Problem:
    """Random times, rates and scores; later exits are surer and more often right."""
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    graph = branchy(blocks)
    tiers = {}
    for tier, pace in (("device", 0.02), ("edge", 0.004), ("cloud", 0.001)):
        seconds = (0.0, *(pace * rng.uniform(0.2, 2.0) for _ in graph.vertices[1:]))
        tiers[tier] = TierCosts((0.0,) * len(graph), seconds, "random")
    network = NetworkState(
        Path(rng.uniform(1e6, 2e7), 0.002), Path(rng.uniform(2e5, 5e6), 0.01), Path(rng.uniform(2e5, 5e6), 0.012)
    )
    labels = numbers.integers(0, 4, samples)
    scores = numbers.normal(size=(samples, blocks, 4)).astype(np.float32)
    for exit_ in range(blocks):
        scores[np.arange(samples), exit_, labels] += 1.5 * (exit_ + 1)
    coded = tuple(vertex.output_bytes // 6 for vertex in graph)
    return Problem(
        graph=graph,
        costs=Costs(tiers),  # type: ignore[arg-type]
        network=network,
        hosts={"device": "d1", "edge": "e1", "cloud": "c1"},
        edge_hosts=("e1",),
        calibration=Calibration(scores, labels.astype(np.int64), coded),
    )


def sample_latency(known: Problem, cut: int, last: int, server: str, coded: bool) -> float:
    """One request that ends at exit `last` (0-based), by hand: block by block, head by head, one transfer, one answer."""
    graph, costs = known.graph, known.costs
    total = 0.0
    for block in range(1, last + 2):
        if block == cut + 1:  # the input or the last block's map crosses, whatever exit decided before
            v = 2 * cut - 1 if cut else 0
            size = known.calibration.coded[v] if coded else graph[v].output_bytes  # type: ignore[union-attr]
            total += known.network.transfer_s(size, "device", server)  # type: ignore[arg-type]
        tier = "device" if block <= cut else server
        total += costs.vertex_s(2 * block - 1, tier, known.hosts[tier])  # type: ignore[arg-type,index]
        total += costs.vertex_s(2 * block, tier, known.hosts[tier])  # type: ignore[arg-type,index]
    if last + 1 > cut:
        back = known.network.device_edge if server == "edge" else known.network.device_cloud
        total += back.transfer_s(16)
    return total


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("server", ["cloud", "edge"])
def test_spinn_finds_what_trying_every_split_and_threshold_sample_by_sample_finds(seed: int, server: str) -> None:
    known = replace(problem(seed, 2 + seed % 3), options={"spinn": {"server": server, "slack": 0.0, "accuracy_loss": 5}})
    calibration = known.calibration
    assert calibration is not None
    blocks = len(known.graph.outputs)
    confidence = measured(calibration.scores, "confidence")
    right = calibration.scores.argmax(2) == calibration.labels[:, None]
    best: tuple[float, int, float] | None = None
    for cut, threshold in itertools.product(range(blocks + 1), THRESHOLDS):
        ends = [next((k for k in range(blocks - 1) if row[k] >= threshold), blocks - 1) for row in confidence]
        accuracy = np.mean([right[i, k] for i, k in enumerate(ends)])
        latency = float(np.mean([sample_latency(known, cut, k, server, coded=True) for k in ends]))
        if right[:, -1].mean() - accuracy <= 0.05 + 1e-12 and (best is None or latency < best[0] - 1e-12):
            best = latency, cut, threshold
    assert best is not None
    decision = Spinn().plan(known)
    decision.plan.check(known.graph)
    assert critical_path(known, decision.plan).latency_s == pytest.approx(best[0])
    assert decision.plan.notes["expected_accuracy"] >= right[:, -1].mean() - 0.05 - 1e-12


@pytest.mark.parametrize("seed", range(12))
def test_edgent_takes_the_largest_exit_whose_best_cut_is_in_time(seed: int) -> None:
    known = problem(100 + seed, 2 + seed % 3)
    blocks = len(known.graph.outputs)

    def least(exit_: int) -> float:
        """min over p of A(i, p), with only this exit's head computed."""
        found = []
        for cut in range(exit_ + 3):  # the last cut has the head on the device as well
            heads = sum(
                known.costs.vertex_s(2 * block, "device" if block <= cut else "edge", "d1" if block <= cut else "e1")
                for block in range(1, exit_ + 1)
            )
            base = sample_latency(known, min(cut, exit_ + 1), exit_, "edge", coded=False) - heads
            if cut == exit_ + 1:  # the head alone goes to the edge
                head = 2 * exit_ + 2
                base += known.costs.vertex_s(head, "edge") - known.costs.vertex_s(head, "device")
                base += known.network.transfer_s(known.graph[head - 1].output_bytes, "device", "edge")
                base += known.network.device_edge.transfer_s(16)
            found.append(base)
        return min(found)

    bounds = [least(exit_) for exit_ in range(blocks)]
    for deadline_s in (*(b * 1.0001 for b in bounds), *(b * 0.9999 for b in bounds)):
        asked = replace(known, options={"edgent": {"deadline_ms": deadline_s * 1e3}})
        wanted = [exit_ for exit_ in range(blocks) if bounds[exit_] <= deadline_s]
        if not wanted:
            with pytest.raises(PlannerError, match=r"no exit .* meets deadline_ms"):
                Edgent().plan(asked)
            continue
        plan = Edgent().plan(asked).plan
        plan.check(known.graph)
        assert plan.exits == (Exit(known.graph.outputs[max(wanted)], local=plan.exits[0].local),)
        assert critical_path(asked, plan).latency_s == pytest.approx(bounds[max(wanted)])


def test_a_service_level_that_nothing_keeps_is_named_and_a_running_plan_goes_on() -> None:
    known = replace(problem(3, 3), options={"deadline_ms": 0.5, "spinn": {"accuracy_loss": 0}})
    with pytest.raises(PlannerError, match=r"spinn: no split and threshold keeps deadline_ms=0.5 and accuracy_loss=0"):
        Spinn().plan(known)
    for planner in (Spinn(), Edgent()):
        current = planner.plan(replace(known, options={"deadline_ms": 1e5, "accuracy_loss": 100})).plan
        decision = planner.replan(known, current, Change())
        assert decision.plan.notes["limits_kept" if planner.name == "spinn" else "in_time"] is False


def test_a_deadline_and_the_accuracy_are_traded_as_the_user_orders() -> None:
    known = problem(5, 4)

    def expected(**options: object) -> Plan:
        return Spinn().plan(replace(known, options={"spinn": {"slack": 0.0, "accuracy_loss": 100, **options}})).plan

    fast, accurate, idle = (expected(priority=word) for word in ("latency", "accuracy", "server"))
    assert critical_path(known, fast).latency_s <= critical_path(known, accurate).latency_s
    assert accurate.notes["expected_accuracy"] >= fast.notes["expected_accuracy"]
    assert critical_path(known, idle).busy_s.get("c1", 0.0) == 0.0
    bound = critical_path(known, fast).latency_s * 1.2
    within = expected(priority="accuracy", deadline_ms=bound * 1e3)
    assert critical_path(known, within).latency_s <= bound * 1.0001


def views() -> LayerGraph:
    """Two views of two vertices each; scores joined, maps joined, an edge exit and a cloud exit."""
    sign = (Operator("s", "aten.sign.default", (1, 4, 8, 8), 0),)
    inputs = ((), (0,), (1,), (0,), (3,), (2,), (4,), (5, 6), (2, 4), (8,), (8,), (10,))
    shapes = {2: (1, 4, 8, 8), 4: (1, 4, 8, 8), 8: (1, 8, 4, 4)}
    vertices = tuple(
        Vertex(
            v, f"v{v}", "x", inputs[v], shapes.get(v, (1, 3)), 1024 if v in shapes else 12, operators=sign if v in shapes else ()
        )
        for v in range(12)
    )
    return LayerGraph("views", vertices, (7, 9, 11))


def test_ddnn_places_views_on_their_devices_and_an_exit_at_each_border() -> None:
    graph = views()
    tiers = {tier: TierCosts((0.0,) * 12, (0.0, *[0.001] * 11), "flat") for tier in ("device", "edge", "cloud")}
    known = replace(problem(1, 2), graph=graph, costs=Costs(tiers), devices=("d1", "d2"), calibration=None)  # type: ignore[arg-type]
    assert views_of(graph) == [(1, 2, 5), (3, 4, 6)]
    plan = Ddnn().plan(known).plan
    plan.check(graph)
    assert plan.part("device") == (0, 1, 2, 3, 4, 5, 6)
    assert plan.placed == ((3, "d2"), (4, "d2"), (6, "d2"))
    assert [plan.tiers[e.vertex] for e in plan.exits] == ["edge", "edge", "cloud"]
    assert [(e.metric, e.threshold, e.local) for e in plan.exits] == [
        ("entropy", 0.8, True),
        ("entropy", 0.8, False),
        ("entropy", None, False),
    ]
    assert plan.coding == "sign-bits"
    assert plan.notes["formula_bytes"] == traffic_bytes(3, 0.5, 256) == 4 * 3 + 0.5 * 256 / 8
    with pytest.raises(PlannerError, match="2 views, but the site only 1 devices"):
        Ddnn().plan(replace(known, devices=("d1",)))


def test_predictions_expect_exits_by_their_rates() -> None:
    known = problem(7, 2)
    graph = known.graph
    tiers = ("device", "device", "device", "cloud", "cloud")
    base = Plan("t", "branchy", tiers, known.hosts)  # type: ignore[arg-type]
    found = {rate: replace(base, exits=(Exit(2, "confidence", 0.9, rate=rate), Exit(4))) for rate in (0.0, 0.25, 1.0)}
    never, some, always = (critical_path(known, found[rate]) for rate in (0.0, 0.25, 1.0))
    assert some.latency_s == pytest.approx(0.25 * always.latency_s + 0.75 * never.latency_s)
    assert some.backbone_bytes == pytest.approx(0.75 * never.backbone_bytes)
    assert always.backbone_bytes == 0.0
    assert always.latency_s == pytest.approx(known.costs.run_s((1, 2), "device", "d1"))
    assert objective_s(known, found[0.25]) == pytest.approx(
        0.25 * objective_s(known, found[1.0]) + 0.75 * objective_s(known, found[0.0])
    )
    small = replace(found[0.0], coding="int8-shuffle-deflate", coded_bytes=((1, 100),))
    assert critical_path(known, small).backbone_bytes < never.backbone_bytes / 3
    assert graph[1].output_bytes == 4096
