"""`testbed plan`: all planners at once, regret by objective on truth and belief, and pictures that tell why a cut is there."""

from __future__ import annotations

import json
import random
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from orchestration import scenario
from planner_problems import random_graph

from d3node.model import ModelSpec, load_graph
from d3node.plan import RANK, TIERS
from testbed import registry
from testbed.cli import main
from testbed.errors import CapacityError
from testbed.orchestrator.world import prepare
from testbed.planners.evaluate import critical_path, objective_s
from testbed.planners.limited import moved
from testbed.report.drawing import draw
from testbed.report.explain import explain, sentences
from testbed.report.forecast import Forecast, Refusal, forecasts
from testbed.report.layered import BOX, lay_out
from testbed.report.yardstick import OBJECTIVES

SVG = "{http://www.w3.org/2000/svg}"
MODEL = "model_blocks:Residual"
SCENARIO = f"""
[model]
names = ["{MODEL}"]

[topology]
devices = 1
edges = 2

[links.backbone]
rate = "20 Mbit/s"
delay = "10 ms"

[hosts.e1]
memory = "20 kB"

[compute]
tensors = "sizes"

[planning]
planners = ["d3"]
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "small.toml"
    path.write_text(SCENARIO)
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    try:
        code = main(list(words))
    except SystemExit as end:
        code = end.code
    said = capsys.readouterr()
    return int(code or 0), said.out, said.err


def test_all_planners_are_asked_and_those_that_cannot_say_so(capsys, file):
    code, out, _ = run(capsys, "plan", file, "--planner", "all", "--json")
    assert code == 0
    facts = json.loads(out)
    planned, refused = (
        {plan["planner"] for plan in facts["plans"]},
        {item["planner"]: item["reason"] for item in facts["refusals"]},
    )
    assert planned | set(refused) == set(registry.planners())
    assert {"capacitated", "optimal", "device-only"} <= planned
    assert "host e1 needs" in refused["edge-only"]
    assert "its limit is 0.0 MB" in refused["edge-only"]
    assert all(plan["regret"] >= -1e-9 for plan in facts["plans"] if not plan["plan"]["stacks"])


def test_a_named_planner_beyond_a_limit_ends_with_code_2(capsys, file, tmp_path):
    for words in (("plan", file), ("run", file, "--backend", "sim", "--out", str(tmp_path / "out"))):
        code, _, err = run(capsys, *words, "--planner", "edge-only")
        assert code == 2
        assert "host e1 needs" in err


def found(**tables: object) -> dict[str, Forecast]:
    return {item.planner: item for item in forecasts(prepare(scenario(**tables)))}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_regret_is_against_the_optimum_of_each_objective(objective):
    planners = ["cloud-only", "device-only", "optimal", "optimal-throughput", "optimal-critical-path"]
    world = prepare(scenario(planning={"planners": planners}))
    items = {item.planner: item for item in forecasts(world, 0.0, objective)}
    best = {"latency": "optimal"}.get(objective, f"optimal-{objective}")
    assert items[best].bound.reached
    assert items[best].regret == pytest.approx(0.0, abs=1e-5)
    assert all(item.regret >= -1e-6 for item in items.values())
    assert max(item.regret for item in items.values()) > 0.01


def test_regret_on_what_was_told_is_not_that_on_the_truth():
    hosts = {"edge": {"profile": "jetson-tx2", "planner_profile": "raspberry-pi-4"}}
    item = found(model={"names": ["resnet18"]}, hosts=hosts, planning={"planners": ["optimal"]})["optimal"]
    assert item.told != item.problem
    assert item.regret_told == pytest.approx(0.0, abs=1e-9)
    assert item.regret > 0.0


def test_limits_that_nothing_keeps_leave_no_bound_to_hold_plans_against():
    refusals: list[Refusal] = []
    world = prepare(scenario(hosts={"device": {"memory": "1 kB"}}, planning={"planners": ["device-only", "cloud-only"]}))
    with pytest.raises(CapacityError, match="no placement fits"):
        list(forecasts(world, 0.0, "latency", refusals))  # not even the input fits


def test_neighbours_of_a_cut_are_priced_as_they_would_cost():
    for planner in ("edge-only", "cloud-only"):
        item = found(planning={"planners": [planner]})[planner]
        told = explain(item)
        assert [b.crossing.vertex for b in told.boundaries] == [0] * len(told.boundaries)
        for boundary in told.boundaries:
            assert boundary.earlier is None  # the input stays
            later = boundary.later
            assert later is not None
            assert later.vertex == boundary.consumer
            assert later.tier == boundary.crossing.source
        assert "all on one tier" in sentences(told)[0]


def test_shifts_are_legal_plans_at_their_own_price():
    item = found(planning={"planners": ["random"], "options": {"random_seed": 5}})["random"]
    told = explain(item)
    for boundary in told.boundaries:
        for shift in (boundary.earlier, boundary.later):
            if shift is None:
                continue
            ranks = moved(item.problem.graph, [RANK[t] for t in item.decision.plan.tiers], shift.vertex, RANK[shift.tier])
            other = replace(item.decision.plan, tiers=tuple(TIERS[rank] for rank in ranks))
            other.check(item.problem.graph)
            expected = objective_s(item.told, other) - objective_s(item.told, item.decision.plan)
            assert shift.objective_s == pytest.approx(expected, abs=1e-12)
            slower = critical_path(item.told, other).latency_s - critical_path(item.told, item.decision.plan).latency_s
            assert shift.latency_s == pytest.approx(slower, abs=1e-12)


def test_the_picture_has_every_vertex_and_every_crossing(capsys, file, tmp_path):
    folder = tmp_path / "pictures"
    code, out, _ = run(capsys, "plan", file, "--planner", "cloud-only", "--planner", "optimal", "--explain", str(folder))
    assert code == 0
    assert "(1) device → edge: input" in out
    assert "all on one tier" in out
    pictures = sorted(folder.glob("*.svg"))
    assert [path.name for path in pictures] == ["model_blocks_Residual-d1-cloud_only.svg", "model_blocks_Residual-d1-optimal.svg"]
    item = found(planning={"planners": ["cloud-only"]})["cloud-only"]
    for path in pictures:
        root = ET.fromstring(path.read_text())
        boxes = root.findall(f".//{SVG}g/{SVG}title")
        assert len(boxes) == len(item.problem.graph)
        assert "model_blocks:Residual" in "".join(root.itertext())
    assert 'stroke="#c81e3c"' in draw(explain(item))


def test_plans_of_every_planner_can_be_explained_and_drawn(capsys, tmp_path):
    path = tmp_path / "free.toml"
    path.write_text(SCENARIO.replace('[hosts.e1]\nmemory = "20 kB"\n', ""))
    folder = tmp_path / "pictures"
    code, out, _ = run(capsys, "plan", str(path), "--planner", "all", "--explain", str(folder), "--json")
    assert code == 0
    plans = json.loads(out)["plans"]
    assert len(plans) == len(list(folder.glob("*.svg"))) > 10
    for plan in plans:
        crosses = len(set(plan["plan"]["tiers"])) > 1
        assert crosses == any(line.startswith("(1)") for line in plan["explanation"])


@pytest.mark.parametrize("name", ["alexnet", "resnet18", "inception_v4"])
def test_no_two_boxes_overlap(name):
    graph = load_graph(ModelSpec(name))
    check_page(graph)


def test_no_two_boxes_overlap_in_odd_graphs():
    for seed in range(30):
        check_page(random_graph(random.Random(seed), 2 + seed))


def check_page(graph):
    page = lay_out(graph)
    centres = [page.centre[v, graph.levels[v]] for v in range(len(graph))]
    for i, (x, y) in enumerate(centres):
        assert BOX[0] / 2 - 1e-6 <= x <= page.width - BOX[0] / 2 + 1e-6
        assert BOX[1] / 2 - 1e-6 <= y <= page.height - BOX[1] / 2 + 1e-6
        for other_x, other_y in centres[i + 1 :]:
            assert abs(x - other_x) >= BOX[0] or abs(y - other_y) >= BOX[1]
    assert set(page.routes) == set(graph.edges)
    for (u, w), route in page.routes.items():
        assert [level for _, level in route] == list(range(graph.levels[u], graph.levels[w] + 1))


def test_an_unknown_yardstick_is_refused(capsys, file):
    code, _, err = run(capsys, "plan", file, "--yardstick", "troughput")
    assert code == 2
    assert 'did you mean "throughput"' in err
