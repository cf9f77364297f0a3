"""IONN: chains of dominators, shortest paths, upload rounds, and runs in which the server fills up while queries are answered."""

from __future__ import annotations

import csv
import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
from orchestration import SMALL, scenario
from planner_problems import random_graph, random_problem

from d3node.graph import LayerGraph, Parameter, Vertex
from d3node.model import ModelSpec, load_graph
from d3node.weights import PIECE_BYTES, chunk_bytes, parameters_of
from testbed import registry
from testbed.backends.sim import SimBackend
from testbed.costs.network import NetworkState
from testbed.costs.network import Path as NetworkPath
from testbed.costs.table import Costs, TierCosts
from testbed.errors import PlannerError
from testbed.orchestrator import run
from testbed.planners.base import Problem
from testbed.planners.dominators import blocks, dominators
from testbed.planners.evaluate import critical_path, objective_s
from testbed.planners.ionn import ExecutionGraph, Ionn, IonnAllAtOnce, execution_graph
from testbed.report.tables import summary_table
from testbed.scenario.schema import Scenario

# -- the chain ---------------------------------------------------------------------------------------------------------------


def on_all_paths(graph: LayerGraph) -> list[int]:
    """By definition: vertices without which no output can be reached from the input."""
    found = []
    for v in range(len(graph)):
        reached = {0} - {v}
        for u in range(1, len(graph)):
            if u != v and any(p in reached for p in graph[u].inputs):
                reached.add(u)
        if not reached.intersection(graph.outputs) or v in (0,):
            found.append(v)
    return found


@pytest.mark.parametrize("seed", range(60))
def test_dominators_are_the_vertices_that_every_path_passes(seed: int) -> None:
    """Of graphs with one output, to which every vertex leads (others are joined by a last vertex)."""
    graph = random_graph(random.Random(seed), 4 + seed % 8)
    ends = tuple(v for v in range(len(graph)) if not graph.successors[v])
    joined = Vertex(len(graph), "join", "cat", ends, (1, 4), 16)
    graph = LayerGraph("joined", (*graph.vertices, joined), (len(graph),))
    assert list(dominators(graph)) == on_all_paths(graph)
    together = [v for block in blocks(graph) for v in block]
    assert together == list(range(1, len(graph)))
    for block in blocks(graph)[:-1]:
        assert graph.live_set(block[-1]) == (block[-1],)


def test_residual_blocks_become_one_block_each() -> None:
    graph = load_graph(ModelSpec("resnet18"))
    found = blocks(graph)
    assert len(dominators(graph)) == len(found) + 1
    inside = [block for block in found if len(block) > 1]
    assert len(inside) == 8  # ResNet-18's eight residual blocks; a chain has none
    assert all(len(block) == 1 for block in blocks(load_graph(ModelSpec("alexnet"))))


# -- paths -------------------------------------------------------------------------------------------------------------------


def random_execution(seed: int, size: int) -> ExecutionGraph:
    rng = random.Random(seed)

    def draw(count: int, scale: float) -> tuple[float, ...]:
        return tuple(rng.expovariate(1.0) * scale for _ in range(count))

    parts = tuple((i + 1,) for i in range(size))
    return ExecutionGraph(parts, draw(size, 1.0), draw(size, 0.1), draw(size, 3.0), draw(size, 0.3), draw(size + 1, 0.3))


@pytest.mark.parametrize("seed", range(40))
def test_the_shortest_path_is_the_best_of_all_ways_to_share_the_blocks(seed: int) -> None:
    found = random_execution(seed, 1 + seed % 8)
    size = len(found.blocks)
    for scale in (0.0, 0.03, 1.0):
        missing = {i for i in range(size) if random.Random(seed * 31 + i).random() < 0.3}
        for forbidden in (set(), missing):
            ways = [w for w in itertools.product((False, True), repeat=size) if not any(w[i] for i in forbidden)]
            path = found.shortest(scale, forbidden)
            assert path in ways
            assert found.cost(path, scale) == pytest.approx(min(found.cost(way, scale) for way in ways))


def worked() -> Problem:
    """Three layers: light and slow, heavy and quick, light and slow again. 10 Mbit/s, no delay; weights of 10 kB, 1 MB, 10 kB."""

    def weights(v: int, nbytes: int) -> tuple[Parameter, ...]:
        return (Parameter(f"w{v}", "float32", (nbytes // 4,), nbytes),)

    vertices = [Vertex(0, "input", "input", (), (1, 3, 8, 8), 40_000)]
    for v, nbytes in ((1, 10_000), (2, 1_000_000), (3, 10_000)):
        vertices.append(
            Vertex(v, f"l{v}", "linear", (v - 1,), (1, 10), 1_000, parameter_bytes=nbytes, parameters=weights(v, nbytes))
        )
    graph = LayerGraph("worked", tuple(vertices), (3,))
    zeros = (0.0,) * 4
    tiers: Any = {
        "device": TierCosts(zeros, (0.0, 1.0, 0.2, 1.0), "t"),
        "edge": TierCosts(zeros, (0.0, 0.1, 0.02, 0.1), "t"),
        "cloud": TierCosts(zeros, (0.0, 0.01, 0.002, 0.01), "t"),
    }
    path = NetworkPath(10e6)
    network = NetworkState(path, path, path, {}, "direct")
    return Problem(graph, Costs(tiers), network, {"device": "d1", "edge": "e1", "cloud": "c1"}, ("e1",))


def test_the_worked_example_uploads_the_cheap_gains_first_and_takes_the_middle_back() -> None:
    """At first the 0.8 s of the heavy layer's upload do not pay for 0.2 s of work, so the client keeps it, between two layers on
    the server; with the upload at half price, again and again, it does."""
    problem = worked()
    uploads = Ionn().uploads(problem)
    assert uploads.tier == "cloud"
    assert uploads.parts == ((1, 3), (2,))
    heavy = Problem(problem.graph, problem.costs, problem.network, problem.hosts, ("e1",), {"ionn_k": 0.01})
    assert Ionn().uploads(heavy).parts == ((1, 3), (2,))  # two rounds: at the full price and at a hundredth
    assert IonnAllAtOnce().uploads(problem).parts == ((1, 2, 3),)


def test_a_query_uses_what_the_server_holds() -> None:
    problem = worked()
    everything = frozenset({1, 2, 3})
    tiers = {
        away: Ionn().plan(Problem(**{**vars(problem), "absent": {"c1": away}})).plan
        for away in (everything, frozenset({2}), frozenset())
    }
    assert tiers[everything].tiers == ("device",) * 4
    assert tiers[frozenset({2})].tiers == ("device", "cloud", "device", "cloud")
    assert tiers[frozenset({2})].two_way
    assert tiers[frozenset()].tiers == ("device", "cloud", "cloud", "cloud")
    assert not tiers[frozenset()].two_way
    latencies = [critical_path(problem, plan).latency_s for plan in tiers.values()]
    assert latencies == sorted(latencies, reverse=True)


@pytest.mark.parametrize("server", ["cloud", "edge"])
@pytest.mark.parametrize("seed", range(12))
def test_the_plan_costs_what_the_path_says(seed: int, server: str) -> None:
    """The path's length, the plan's objective and (nothing overlaps in a chain) its critical path are one figure."""
    problem = random_problem(seed, route="direct", size=8)
    options = {"ionn_server": server}
    problem = Problem(problem.graph, problem.costs, problem.network, problem.hosts, problem.edge_hosts, options)
    decision = Ionn().plan(problem)
    found = execution_graph(problem, server)  # type: ignore[arg-type]
    path = [decision.plan.tiers[block[-1]] == server for block in found.blocks]
    ways = itertools.product((False, True), repeat=len(path))
    assert decision.plan.notes["path_s"] == pytest.approx(min(found.cost(way) for way in ways))
    back = found.down[-1] if path[-1] else 0.0
    assert objective_s(problem, decision.plan) == pytest.approx(decision.plan.notes["path_s"] - back)


def test_ionn_keeps_its_plan_when_conditions_change() -> None:
    from testbed.planners.base import Change

    problem = worked()
    plan = Ionn().plan(problem).plan
    decision = Ionn().replan(problem, plan, Change(paths=frozenset({"device_cloud"})))
    assert decision.plan is plan
    assert decision.touched == frozenset()


# -- runs --------------------------------------------------------------------------------------------------------------------


def uploading(**tables: Any) -> Scenario:
    """AlexNet on a client of 1.3 s and a server of almost nothing, 80 Mbit/s; sizes only."""
    base: dict[str, Any] = {
        "model": {"names": ["alexnet"]},
        "topology": {"devices": 1, "edges": 1},
        "links": {"access": {"rate": "80 Mbit/s"}, "backbone": {"rate": "1 Gbit/s"}},
        "hosts": {"device": {"speed": 0.175}},
        "requests": {"count": 40, "warmup": 1, "think_time": "0.5 s"},
        "planning": {"planners": ["ionn"]},
    }
    return scenario(**{**base, **tables})


SLOW: dict[str, Any] = {
    "links": {"access": {"rate": "0.2 Mbit/s"}, "backbone": {"rate": "10 Mbit/s"}},
    "hosts": {"device": {"speed": 0.005}},
}
"""The small model takes 0.7 s on the device, its input half a second to the server, its weights a little more."""


def rows(folder: Path, name: str = "inferences.csv") -> list[dict[str, str]]:
    with (folder / name).open(newline="") as file:
        return [row for row in csv.DictReader(file) if row.get("warmup") != "true"]


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    return [e for e in map(json.loads, (folder / "events.jsonl").read_text().splitlines()) if e["event"] == name]


def test_latency_falls_while_the_model_is_uploaded_and_every_byte_is_accounted_for(tmp_path: Path) -> None:
    summary = run(uploading(), SimBackend(), tmp_path / "run")
    assert summary.verdict == "trusted", summary.failing
    found = rows(tmp_path / "run")
    by_epoch = {epoch: list(group) for epoch, group in itertools.groupby(found, key=lambda row: int(row["epoch"]))}
    assert len(by_epoch) >= 3
    best = [min(float(row["latency_s"]) for row in group) for group in by_epoch.values()]
    assert best == sorted(best, reverse=True)
    assert best[0] == pytest.approx(1.3, rel=0.02)
    assert best[-1] < 0.1
    # what a query shares the link with makes it slower: one that runs beside an upload is slower than the same plan alone
    last = [float(row["latency_s"]) for row in by_epoch[max(by_epoch)]]
    middle = [row for epoch, group in by_epoch.items() if 1 < epoch < max(by_epoch) for row in group]
    assert middle
    assert max(last) < min(float(row["latency_s"]) for row in middle)
    sent = [int(row["weights_bytes"]) for row in found]
    assert sent == sorted(sent)
    assert sent[0] == 0
    graph = load_graph(ModelSpec("alexnet"))
    uploads = events(tmp_path / "run", "upload")
    uploaded = [v for event in uploads for v in event["vertices"]]
    assert len(set(uploaded)) == len(uploaded)
    chunks = [chunk_bytes(parameters_of(graph, (v,))) for v in uploaded]
    messages = sum(-(-size // PIECE_BYTES) for size in chunks) + len(uploads)
    assert sum(chunks) < sent[-1] < sum(chunks) + 160 * messages
    assert sum(graph[v].parameter_bytes for v in uploaded) < sum(chunks)
    totals = {(row["link"], row["direction"]): row for row in rows(tmp_path / "run", "links.csv") if row["kind"] == "total"}
    for link in ("access-d1", "backbone"):
        assert int(totals[link, "up"]["weights_bytes"]) == sent[-1] == summary.pairs[0].weights_bytes
        assert int(totals[link, "down"]["weights_bytes"]) == 0
    assert int(totals["lan-e1", "up"]["weights_bytes"]) == 0  # weights go straight to the server, whatever the route
    assert float(totals["access-d1", "up"]["wire_bytes"]) > float(totals["access-d1", "up"]["message_bytes"]) > sent[-1]


def test_queries_beside_an_upload_are_slower_than_the_same_queries_alone(tmp_path: Path) -> None:
    """While the rest of the model is on its way a query's tensors get a share of the link, later all of it."""
    count = {"requests": {"count": 60, "warmup": 0, "think_time": "0.1 s"}}
    run(uploading(**count, planning={"planners": ["ionn"], "options": {"ionn_k": 0.1}}), SimBackend(), tmp_path / "run")
    ends = [event["end_s"] for event in events(tmp_path / "run", "upload")]
    found = [row for row in rows(tmp_path / "run") if int(row["access_bytes"])]
    during = [float(row["transfer_access_s"]) for row in found if float(row["submitted_s"]) < ends[-1]]
    after = [float(row["transfer_access_s"]) for row in found if float(row["submitted_s"]) > ends[-1]]
    assert len(during) >= 3
    assert len(after) >= 3
    sizes = [int(row["access_bytes"]) for row in found]
    assert min(during) / max(sizes) > 1.5 * max(after) / min(sizes)


def test_ionn_beats_all_at_once_on_the_way_and_ends_where_it_does(tmp_path: Path) -> None:
    planners = {"planners": ["ionn", "ionn-all", "device-only"]}
    summary = run(uploading(planning=planners), SimBackend(), tmp_path / "run")
    assert summary.verdict == "trusted", summary.failing
    ionn, together, local = summary.pairs
    assert ionn.mean_s < together.mean_s < local.mean_s
    assert local.weights_bytes == 0
    found = rows(tmp_path / "run")
    first, second = ([r for r in found if r["planner"] == name] for name in ("ionn", "ionn-all"))
    assert {float(r["latency_s"]) for r in second if r["weights_bytes"] == "0"} == {float(second[0]["latency_s"])}
    assert float(first[-1]["latency_s"]) == pytest.approx(float(second[-1]["latency_s"]), rel=0.05)


def test_real_tensors_in_sim_give_the_whole_models_answers_from_the_weights_that_came(tmp_path: Path) -> None:
    """The server's own weights are taken away; the next planner finds them again."""
    asked = scenario(
        compute={"tensors": "real"},
        **SLOW,
        requests={"count": 12, "warmup": 1, "think_time": "0.05 s"},
        planning={"planners": ["ionn", "ionn-all", "cloud-only"]},
    )
    summary = run(asked, SimBackend(strict=True), tmp_path / "run")
    assert summary.verdict == "trusted", summary.failing
    found = rows(tmp_path / "run")
    assert all(row["correct"] == "true" and row["max_rel_error"] == "0.000e+00" for row in found)
    for name in ("ionn", "ionn-all"):
        own = [row for row in found if row["planner"] == name]
        assert float(own[0]["compute_cloud_s"]) == 0.0
        assert float(own[-1]["compute_cloud_s"]) > 0.0
        assert int(own[-1]["weights_bytes"]) > 0


@pytest.mark.parametrize("server", ["cloud", "edge"])
def test_a_run_that_ends_before_the_upload_is_trusted_too(server: str, tmp_path: Path) -> None:
    """What was sent of it is in the accounts, to the last piece."""
    asked = uploading(requests={"count": 2, "warmup": 0}, planning={"planners": ["ionn-all"], "options": {"ionn_server": server}})
    summary = run(asked, SimBackend(), tmp_path / "run")
    assert summary.verdict == "trusted", summary.failing
    totals = {(row["link"], row["direction"]): row for row in rows(tmp_path / "run", "links.csv") if row["kind"] == "total"}
    carried = int(totals["access-d1", "up"]["weights_bytes"])
    assert 10 * PIECE_BYTES < carried < 60 * PIECE_BYTES
    assert carried <= float(totals["access-d1", "up"]["wire_bytes"]) < 1.08 * carried
    assert (int(totals["backbone", "up"]["weights_bytes"]) > 0) == (server == "cloud")
    assert events(tmp_path / "run", "upload")[0]["bytes"] == carried


def test_two_clients_of_one_server_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(PlannerError, match=r"serves one client.*topology\.devices = 1"):
        run(uploading(topology={"devices": 2, "edges": 1}), SimBackend(), tmp_path / "run")


def test_the_same_scenario_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(uploading(requests={"count": 8}), SimBackend(), tmp_path / name)
    for file in ("inferences.csv", "links.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert events(tmp_path / "a", "upload") == events(tmp_path / "b", "upload")


def test_the_summary_shows_what_was_sent_of_weights_where_anything_was(tmp_path: Path) -> None:
    for planner in ("ionn-all", "device-only"):
        summary = run(uploading(requests={"count": 25}, planning={"planners": [planner]}), SimBackend(), tmp_path / planner)
        headings = [str(column.header) for column in summary_table(summary, 200).columns]
        assert ("weights\nsent" in headings) == (planner == "ionn-all")
        assert (summary.pairs[0].weights_bytes > 200e6) == (planner == "ionn-all")


@pytest.mark.emulation
def test_over_mininet_the_server_fills_up_while_real_queries_are_answered(tmp_path: Path) -> None:
    asked = scenario(
        model={"names": [SMALL]},
        topology={"devices": 1, "edges": 1},
        compute={"tensors": "real"},
        **SLOW,
        requests={"count": 5, "warmup": 1, "think_time": "0.05 s"},
        planning={"planners": ["ionn"], "knowledge": "true"},
    )
    summary = run(asked, registry.backend("mininet"), tmp_path / "run")
    found = rows(tmp_path / "run")
    assert not [row["error_text"] for row in found if row["error"]]
    assert all(row["correct"] == "true" for row in found)
    assert float(found[0]["compute_cloud_s"]) == 0.0 < float(found[-1]["compute_cloud_s"])
    uploads = events(tmp_path / "run", "upload")
    assert sum(event["bytes"] for event in uploads) == int(found[-1]["weights_bytes"]) == summary.pairs[0].weights_bytes
    failing = [text for text in summary.failing if "bytes" in text]
    assert not failing
