"""DINA in whole runs: many devices that share fog nodes, plans made jointly, failures named; over Mininet too."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from orchestration import SMALL, scenario
from planner_problems import spatial_graph
from test_dina import site

from testbed import registry
from testbed.backends.sim import SimBackend
from testbed.errors import RunError
from testbed.orchestrator import run
from testbed.orchestrator.world import prepare
from testbed.planners.base import Change, Decision, Problem
from testbed.planners.dina import Dina
from testbed.report.forecast import forecasts


def rows(folder: Path, name: str = "inferences.csv") -> list[dict[str, str]]:
    with (folder / name).open(newline="") as file:
        return [row for row in csv.DictReader(file) if row.get("warmup") != "true"]


def plans(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "plans.jsonl").read_text().splitlines()]


def several(**tables: Any) -> Any:
    """Three slow devices, three fog nodes of which one is much slower; AlexNet, sizes only."""
    base: dict[str, Any] = {
        "model": {"names": ["alexnet"]},
        "topology": {"devices": 3, "edges": 3},
        "links": {"access": {"rate": "80 Mbit/s"}, "lan": {"rate": "1 Gbit/s"}, "backbone": {"rate": "5 Mbit/s"}},
        "hosts": {"edge": {"profile": "jetson-tx2"}, "device": {"speed": 0.2}, "e2": {"speed": 0.3}},
        "requests": {"count": 20},
        "planning": {"planners": ["dina", "edge-only"]},
    }
    return scenario(**{**base, **tables})


def test_several_devices_share_the_fog_nodes_and_repeat_to_the_byte(tmp_path: Path) -> None:
    summary = run(several(), SimBackend(), tmp_path / "a")
    assert summary.verdict == "trusted", summary.failing
    run(several(), SimBackend(), tmp_path / "b")
    for file in ("inferences.csv", "links.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    first = [p for p in plans(tmp_path / "a") if p["planner"] == "dina" and p["reason"] == "first"]
    assert [p["device"] for p in first] == ["d1", "d2", "d3"]
    assert {p["replan"] for p in first} == {"joint"}
    assert sorted(p["plan"]["hosts"]["edge"] for p in first) == ["e1", "e2", "e3"]
    assert len({(p["plan"]["notes"]["rounds"], p["plan"]["notes"]["swaps"]) for p in first}) == 1
    # hosts are single servers of their own, so what was predicted for a request alone comes true for every device
    for record in first:
        own = [float(r["latency_s"]) for r in rows(tmp_path / "a") if (r["planner"], r["device"]) == ("dina", record["device"])]
        assert min(own) == pytest.approx(record["predicted_latency_s"], rel=0.1)


def test_a_joint_plan_beats_plans_that_do_not_know_of_each_other(tmp_path: Path) -> None:
    """Four devices on two nodes, one slow: `edge-only` serves two devices on each, whatever they are."""
    asked = several(topology={"devices": 4, "edges": 2}, hosts={"edge": {"profile": "jetson-tx2"}, "e2": {"speed": 0.2}})
    summary = run(asked, SimBackend(), tmp_path / "run")
    assert summary.verdict == "trusted", summary.failing
    dina, edge = summary.pairs
    assert dina.mean_s < edge.mean_s


def test_all_are_planned_anew_when_one_host_slows_down(tmp_path: Path) -> None:
    trace = tmp_path / "busy.csv"
    trace.write_text("time_s,cpu_share\n0,1.0\n2,0.1\n")
    hosts = {"edge": {"profile": "jetson-tx2"}, "device": {"speed": 0.2}, "e1": {"trace": str(trace)}}
    asked = several(
        topology={"devices": 2, "edges": 3},
        hosts=hosts,
        requests={"count": 60},
        planning={"planners": ["dina"], "knowledge": "true", "samples": 1},
    )
    summary = run(asked, SimBackend(), tmp_path / "run")
    assert summary.verdict == "trusted", summary.failing
    again = [p for p in plans(tmp_path / "run") if p["reason"] == "change"]
    assert [p["device"] for p in again[:2]] == ["d1", "d2"]
    assert {p["replan"] for p in again} == {"joint"}
    last = {p["device"]: p["plan"] for p in plans(tmp_path / "run") if p["plan"]}
    assert "e1" not in {plan["hosts"]["edge"] for plan in last.values()}


def test_sites_do_not_mix(tmp_path: Path) -> None:
    asked = several(
        topology={"name": "two_sites", "devices": 1, "edges": 2},
        links={"access": {"rate": "80 Mbit/s"}, "backbone-a": {"rate": "5 Mbit/s"}, "backbone-b": {"rate": "5 Mbit/s"}},
        hosts={"edge": {"profile": "jetson-tx2"}, "device": {"speed": 0.2}},
        planning={"planners": ["dina"]},
    )
    run(asked, SimBackend(), tmp_path / "run")
    for record in plans(tmp_path / "run"):
        letter = record["device"][1]
        assert record["plan"]["notes"]["nodes"] == [f"e{letter}1", f"e{letter}2"]


def test_testbed_plan_asks_a_joint_planner_once_for_all() -> None:
    asked = several()
    found = [item for item in forecasts(prepare(asked)) if item.planner == "dina"]
    assert sorted(item.decision.plan.hosts["edge"] for item in found) == ["e1", "e2", "e3"]
    for item in found:
        assert item.problem.hosts == item.decision.plan.hosts
        assert item.prediction.latency_s == pytest.approx(item.decision.plan.notes["expected_s"])


class Forgetful(Dina):
    def plan_jointly(self, problems: Mapping[str, Problem]) -> dict[str, Decision]:
        return dict(list(super().plan_jointly(problems).items())[1:])


class Broken(Dina):
    def plan_jointly(self, problems: Mapping[str, Problem]) -> dict[str, Decision]:
        raise KeyError("nobody")


@pytest.mark.parametrize(("planner", "words"), [(Forgetful(), "no part for d1"), (Broken(), "KeyError")])
def test_a_joint_planner_that_fails_ends_the_run_in_words(planner: Dina, words: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=words):
        run(several(), SimBackend(), tmp_path / "run", planners={"mine": planner})


def test_a_single_replan_is_a_whole_plan() -> None:
    problem = site(spatial_graph(random.Random(3), 5), 3)
    plan = Dina().plan(problem).plan
    assert Dina().replan(problem, plan, Change()).plan.same_placement(plan)


def test_another_leader_sees_the_network_from_its_own_place() -> None:
    problem = site(spatial_graph(random.Random(3), 3), 3)
    led = problem.led_by("e3")
    assert led.hosts["edge"] == "e3"
    assert led.edge_hosts == ("e3", "e1", "e2")
    assert led.network is problem.leaders["e3"]
    assert set(led.network.lan) == {"e1", "e2"}
    assert problem.led_by("e1") is problem
    assert problem.led_by("elsewhere") is problem


@pytest.mark.emulation
def test_over_mininet_two_devices_on_two_fog_nodes_get_the_whole_models_answers(tmp_path: Path) -> None:
    asked = scenario(
        model={"names": [SMALL]},
        topology={"devices": 2, "edges": 2},
        compute={"tensors": "real"},
        links={"access": {"rate": "20 Mbit/s"}, "lan": {"rate": "100 Mbit/s"}, "backbone": {"rate": "10 Mbit/s"}},
        hosts={"device": {"speed": 0.005}, "edge": {"speed": 0.05}},
        requests={"count": 4, "warmup": 1},
        planning={"planners": ["dina"], "knowledge": "true"},
    )
    run(asked, registry.backend("mininet"), tmp_path / "run")
    found = rows(tmp_path / "run")
    assert len(found) == 8
    assert all(row["correct"] == "true" and not row["error"] for row in found)
    assert all(float(row["compute_edge_s"]) > 0.0 for row in found)
    leaders = {p["device"]: p["plan"]["hosts"]["edge"] for p in plans(tmp_path / "run") if p["plan"]}
    assert sorted(leaders.values()) == ["e1", "e2"]
