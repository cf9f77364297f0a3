"""Costs of a scenario's hosts: tier defaults, profiles, speeds, what planners are told, and CPU traces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from d3node.graph import LayerGraph, Operator, Vertex
from d3node.plan import TIERS
from testbed import registry
from testbed.costs.build import DEFAULT_PROFILE, costs_for, host_traces, predicted
from testbed.costs.devices import tier_costs
from testbed.costs.profile import GroupTime, Machine, ModelProfile, Profile, VertexTime
from testbed.errors import ScenarioError, TraceError
from testbed.scenario.load import build
from testbed.scenario.schema import Scenario
from topologies.layout import Layout

GRAPH = LayerGraph(
    "m",
    (
        Vertex(0, "input", "input", (), (1, 4), 16),
        Vertex(1, "c", "conv2d", (0,), (1, 2), 8, flops=30_000_000, operators=(Operator("c", "conv", (1, 2), 30_000_000),)),
        Vertex(2, "f", "linear", (1,), (1, 2), 8, flops=2_000, parameter_bytes=1_750_000),
    ),
    (2,),
)


def make(hosts: dict[str, Any], directory: Path | None = None) -> tuple[Scenario, Layout]:
    raw = {"name": "case", "model": {"names": ["m"]}, "links": {"backbone": {"rate": "10 Mbit/s"}}, "hosts": hosts}
    scenario = build(raw)
    if directory is not None:
        scenario = scenario.model_copy(update={"directory": str(directory)})
    return scenario, registry.layout(scenario.topology)


def costs(hosts: dict[str, Any], directory: Path | None = None, told: bool = False) -> Any:
    scenario, layout = make(hosts, directory)
    return (predicted if told else costs_for)(scenario, "m", GRAPH, layout)


def total(found: Any, tier: str, host: str | None = None) -> float:
    return float(found.run_s(range(3), tier, host))


def measured(seconds: float) -> Profile:
    machine = Machine(cpu="c", cores=1, threads=1, device="cpu", torch="t", platform="p")
    vertices = (
        VertexTime(name="input", operator="input", kind="other", seconds=0.0, quartiles_s=(0.0, 0.0)),
        VertexTime(name="c", operator="conv2d", kind="conv", seconds=seconds, quartiles_s=(seconds, seconds)),
        VertexTime(name="f", operator="linear", kind="dense", seconds=seconds, quartiles_s=(seconds, seconds)),
    )
    one = ModelProfile(model="m", rounds=1, warmup=0, operator_s=1e-6, whole_s=2 * seconds, vertices=vertices, groups=())
    return Profile(machine=machine, models={"m": one})


def test_without_tables_every_tier_has_its_default():
    found = costs({})
    for tier in TIERS:
        assert found.tiers[tier] == tier_costs(DEFAULT_PROFILE[tier], GRAPH)
    assert found.speed == {}


def test_a_tiers_table_sets_profile_and_speed_of_its_reference():
    found = costs({"edge": {"profile": "jetson-tx2", "speed": 0.5}})
    reference = tier_costs("jetson-tx2", GRAPH)
    for v in range(3):
        assert found.vertex_s(v, "edge") == pytest.approx(2 * reference.seconds(v))
        assert found.vertex_s(v, "edge", "e1") == pytest.approx(2 * reference.seconds(v))
    assert found.speed == {}


def test_a_hosts_speed_is_relative_to_its_profile_not_to_its_tier():
    found = costs({"edge": {"speed": 0.5}, "e2": {"speed": 0.25}})
    assert total(found, "edge", "e2") == pytest.approx(2 * total(found, "edge", "e1"))
    assert total(found, "edge", "e2") == pytest.approx(4 * total(costs({}), "edge"))


def test_a_host_with_another_profile_takes_that_profiles_time_for_the_whole_model():
    found = costs({"e2": {"profile": "raspberry-pi-4"}})
    pi = tier_costs("raspberry-pi-4", GRAPH)
    assert total(found, "edge", "e2") == pytest.approx(sum(pi.fixed_s) + sum(pi.scaled_s))
    assert total(found, "edge", "e1") == pytest.approx(total(costs({}), "edge"))


def test_profile_files_are_relative_to_the_scenario(tmp_path: Path):
    (tmp_path / "mine.json").write_text(measured(0.25).to_json())
    assert total(costs({"cloud": {"profile": "mine.json"}}, tmp_path), "cloud") == pytest.approx(0.5)


def test_planners_are_told_the_truth_unless_a_table_says_otherwise(tmp_path: Path):
    (tmp_path / "mine.json").write_text(measured(0.25).to_json())
    hosts = {"cloud": {"profile": "mine.json", "planner_profile": "tesla-t4"}, "e2": {"planner_profile": "jetson-tx2"}}
    truth, told = costs(hosts, tmp_path), costs(hosts, tmp_path, told=True)
    assert truth.tiers["device"] == told.tiers["device"]
    assert total(truth, "cloud") == pytest.approx(0.5)
    assert told.tiers["cloud"] == tier_costs("tesla-t4", GRAPH)
    assert truth.speed == {}
    assert set(told.speed) == {"e2"}
    assert costs({"edge": {"profile": "jetson-tx2"}}) == costs({"edge": {"profile": "jetson-tx2"}}, told=True)


def test_a_bad_profile_names_its_table(tmp_path: Path):
    (tmp_path / "other.json").write_text(measured(0.1).to_json().replace('"m"', '"n"'))
    (tmp_path / "junk.json").write_text("{}")
    for hosts, words in (
        ({"edge": {"profile": "jetson-tx"}}, r"\[hosts.edge\].*did you mean \"jetson-tx2\""),
        ({"e2": {"profile": "absent.json"}}, r"\[hosts.e2\].*absent.json: No such file"),
        ({"cloud": {"profile": "junk.json"}}, r"\[hosts.cloud\].*not a profile file"),
        ({"cloud": {"profile": "other.json"}}, r"\[hosts.cloud\].*\"m\" was not measured"),
        ({"e9": {"profile": "tesla-t4"}}, "e9"),
    ):
        with pytest.raises(ScenarioError, match=words):
            costs(hosts, tmp_path)


def test_host_traces_begin_at_their_offset(tmp_path: Path):
    scenario, layout = make({"edge": {"trace": "busy-edge"}, "e2": {"trace_offset": "10 s"}})
    found = host_traces(scenario, layout)
    assert set(found) == {host.name for host in layout.tier("edge")}
    assert found["e1"].at(0.0) == {"cpu_share": 1.0}
    assert found["e2"].at(0.0) == {"cpu_share": 0.5}
    assert found["e2"].at(4.5) == found["e1"].at(14.5) == {"cpu_share": 0.25}
    assert host_traces(*make({})) == {}


def test_a_host_trace_without_cpu_share_is_refused():
    with pytest.raises(TraceError, match="cpu_share"):
        host_traces(*make({"edge": {"trace": "lte-like"}}))


def test_group_effects_count_only_where_the_scenario_asks_for_them(tmp_path: Path):
    one = measured(0.25)
    group = GroupTime(first=1, last=2, seconds=0.3, sum_of_vertices_s=0.5, effect=0.6)
    known = one.model_copy(update={"models": {"m": one.models["m"].model_copy(update={"groups": (group,)})}})
    (tmp_path / "mine.json").write_text(known.to_json())
    scenario, layout = make({"cloud": {"profile": "mine.json"}}, tmp_path)
    asked = scenario.model_copy(update={"compute": scenario.compute.model_copy(update={"group_effects": True})})
    for wanted, alone in ((scenario, 0.15), (asked, 0.25)):  # calibrated to the whole, or as measured
        found = costs_for(wanted, "m", GRAPH, layout)
        assert found.run_s([1, 2], "cloud") == pytest.approx(0.3)
        assert found.run_s([1], "cloud") == pytest.approx(alone)
