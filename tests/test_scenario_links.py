"""Links and hosts are what the scenario's role and name tables say, and a table for something that is not there is an error."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from testbed import registry
from testbed.errors import BackendError, InputError, PlannerError, ScenarioError, TraceError
from testbed.scenario.links import DEFAULT_RATE_BPS, ResolvedLink, hosts_of, idle_words, links_of
from testbed.scenario.load import build, load
from testbed.scenario.schema import Scenario
from topologies.layout import Layout


def make(links: dict[str, Any], hosts: dict[str, Any] | None = None, **more: Any) -> tuple[Scenario, Layout]:
    raw = {"name": "case", "model": {"names": ["alexnet"]}, "links": links, "hosts": hosts or {}, **more}
    scenario = build(raw)
    return scenario, registry.layout(scenario.topology)


def resolved(links: dict[str, Any], **more: Any) -> dict[str, ResolvedLink]:
    return links_of(*make(links, **more))


@pytest.fixture
def steps(tmp_path: Path) -> str:
    path = tmp_path / "steps.csv"
    path.write_text("time_s,rate_mbps,delay_ms\n0,10,5\n1,20,6\n3,0,7\n")
    return str(path)


def test_a_name_overrides_its_role_key_by_key():
    found = resolved(
        {"backbone": {"rate": "10 Mbit/s"}, "lan": {"rate": "1 Gbit/s", "delay": "1 ms"}, "lan-e2": {"rate": "5 Mbit/s"}}
    )
    assert found["lan-e1"].up.rate_bps == 1e9
    assert found["lan-e2"].up.rate_bps == found["lan-e2"].down.rate_bps == 5e6
    assert found["lan-e2"].up.delay_s == pytest.approx(1e-3)


def test_every_link_of_the_layout_is_there_with_the_documented_defaults():
    scenario, layout = make({"backbone": {"rate": "10 Mbit/s", "rate_down": "40 Mbit/s", "queue": "100 kB", "loss": "1 %"}})
    found = links_of(scenario, layout)
    assert tuple(found) == layout.link_names
    assert found["access-d1"].up.rate_bps == DEFAULT_RATE_BPS["access"] == 84.95e6
    assert (found["backbone"].up.rate_bps, found["backbone"].down.rate_bps) == (10e6, 40e6)
    assert found["backbone"].queue_bytes == 100_000
    assert found["backbone"].up.loss == pytest.approx(0.01)


def test_a_link_without_a_rate_names_the_key_to_give():
    with pytest.raises(ScenarioError, match=r'link "backbone" has no rate .*\[links.backbone\]'):
        resolved({"lan": {"rate": "1 Gbit/s"}})
    with pytest.raises(ScenarioError, match=r'cellular-d1.*\[links.cellular\] or \[links."cellular-d1"\]'):
        resolved({"backbone": {"rate": "1 Mbit/s"}}, topology={"cellular": True})


def test_a_traced_direction_alone_leaves_the_other_without_a_rate(steps):
    with pytest.raises(ScenarioError, match="rate in the down direction"):
        resolved({"backbone": {"trace": steps, "trace_direction": "up"}})


def test_a_table_for_a_link_that_is_not_there_names_the_nearest():
    with pytest.raises(ScenarioError, match=r'\[links.lan-e9\].*did you mean "lan-e'):
        resolved({"backbone": {"rate": "1 Mbit/s"}, "lan-e9": {"rate": "1 Mbit/s"}})
    with pytest.raises(ScenarioError, match=r'\[links.backbon\].*did you mean "backbone"'):
        resolved({"backbon": {"rate": "1 Mbit/s"}})
    with pytest.raises(ScenarioError, match=r'\[hosts.clouds\].*did you mean "cloud"'):
        hosts_of(*make({"backbone": {"rate": "1 Mbit/s"}}, {"clouds": {"speed": 2.0}}))


def test_the_trace_gives_the_state_at_time_zero_and_all_later_ones(steps):
    trace = {"trace": steps, "trace_offset": "0.5 s", "trace_scale": 2.0, "loss": "1 %"}
    link = resolved({"backbone": {**trace, "trace_direction": "up", "rate_down": "9 Mbit/s"}})["backbone"]
    assert (link.up.rate_bps, link.up.delay_s, link.up.loss) == (20e6, 5e-3, 0.01)
    assert (link.down.rate_bps, link.down.delay_s) == (9e6, 0.0)
    assert [(t, s.rate_bps) for t, s in islice(link.steps("up"), 2)] == [(0.5, 40e6), (2.5, 0.0)]
    assert list(link.steps("down")) == []
    assert link.at("up", 1.0).delay_s == pytest.approx(6e-3)
    assert link.at("down", 1.0) == link.down


def test_a_trace_may_be_held_at_its_end_instead_of_looped(steps):
    link = resolved({"backbone": {"trace": steps, "trace_loop": False}})["backbone"]
    assert [t for t, _ in link.steps("down")] == [1.0, 3.0]
    assert not link.trace_loop


def test_a_missing_and_a_corrupt_trace_are_named_with_key_and_line(tmp_path):
    with pytest.raises(TraceError, match=r"links.backbone.trace: nix.csv: no such trace"):
        resolved({"backbone": {"trace": "nix.csv"}})
    (tmp_path / "bad.csv").write_text("time_s,rate_mbps\n0,10\n1,many\n")
    with pytest.raises(TraceError, match=r"links.backbone.trace: .*bad.csv, line 3"):
        resolved({"backbone": {"trace": str(tmp_path / "bad.csv")}})


def test_traces_are_looked_for_beside_the_scenario(steps):
    found = resolved({"backbone": {"trace": "steps.csv"}}, directory=str(Path(steps).parent))
    assert found["backbone"].trace is not None


@pytest.mark.parametrize("key", [{"trace_offset": "1 s"}, {"trace_scale": 2.0}, {"trace_loop": True}, {"trace_direction": "up"}])
def test_a_trace_option_without_a_trace_is_refused(key):
    with pytest.raises(ScenarioError, match="no trace: it would do nothing"):
        resolved({"backbone": {"rate": "1 Mbit/s", **key}})


def test_a_trace_of_the_wrong_kind_is_refused(steps):
    with pytest.raises(TraceError, match=r"hosts.e1.trace: .*needed here: cpu_share"):
        hosts_of(*make({"backbone": {"rate": "1 Mbit/s"}}, {"e1": {"trace": steps}}))
    with pytest.raises(TraceError, match=r"links.backbone.trace: .*needed here: rate_bps"):
        resolved({"backbone": {"rate": "1 Mbit/s", "trace": "busy-edge"}})


def test_hosts_take_tier_tables_and_their_own():
    hosts = {
        "edge": {"profile": "desktop-6core", "speed": 2.0},
        "e2": {"speed": 0.5, "trace": "busy-edge", "trace_offset": "3 s"},
    }
    found = hosts_of(*make({"backbone": {"rate": "1 Mbit/s"}}, hosts))
    assert (found["e1"].profile, found["e1"].speed, found["e1"].trace) == ("desktop-6core", 2.0, None)
    assert (found["e2"].profile, found["e2"].speed, found["e2"].trace_offset_s) == ("desktop-6core", 0.5, 3.0)
    assert found["e2"].trace is not None
    assert found["c1"].profile is None


def test_registered_names_are_listed_and_unknown_ones_name_the_nearest():
    assert {"hpa", "d3", "optimal"} <= set(registry.planners())
    assert {"sim", "mininet"} <= set(registry.backends())
    assert {"three_tier", "two_sites"} <= set(registry.topologies())
    with pytest.raises(PlannerError, match='unknown planner "optimum"; did you mean "optimal"'):
        registry.planner("optimum")
    with pytest.raises(BackendError, match='unknown backend "mininett"; did you mean "mininet"'):
        registry.backend("mininett")
    with pytest.raises(ScenarioError, match='unknown topology "three-teir"; did you mean "three_tier"'):
        registry.topology("three-teir")


def test_a_size_that_a_topology_cannot_have_is_bad_input():
    with pytest.raises(InputError, match=r"\[topology\]: .*cellular"):
        make({"backbone": {"rate": "1 Mbit/s"}}, topology={"name": "two_sites", "cellular": True})


def test_a_rate_that_a_trace_leaves_without_effect_is_mentioned_and_a_trace_can_be_taken_away() -> None:
    def links(*overrides: str) -> Mapping[str, ResolvedLink]:
        known = load("quickstart", overrides)
        return links_of(known, registry.layout(known.topology))

    assert idle_words(links()) == []
    (words,) = idle_words(links("links.backbone.rate=5 Mbit/s"))
    assert "the rate of backbone does nothing" in words
    plain = links("links.backbone.rate=5 Mbit/s", "links.backbone.trace=none")
    assert idle_words(plain) == []
    assert (plain["backbone"].up.rate_bps, plain["backbone"].down.rate_bps, plain["backbone"].trace) == (5e6, 40e6, None)
