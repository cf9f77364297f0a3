"""Probes where paths may break: a slow path is not a broken one, and what has not crossed a link is not on its account."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_runs import fault, faulty
from orchestration import layout, scenario

from testbed.orchestrator.probing import SMALL_BYTES, takes_s
from testbed.scenario.links import links_of

RADIO = {"access": {"rate": "250 kbit/s", "delay": "5 ms"}, "backbone": {"rate": "1 Mbit/s", "delay": "20 ms"}}


@pytest.mark.parametrize("route", ["relay", "direct"])
def test_a_path_on_which_probes_take_longer_than_detection_is_not_broken(tmp_path: Path, route: str) -> None:
    """64 kB take 2.1 s of a sensor's radio, and probes of other paths wait behind them."""
    outcome = faulty(
        tmp_path / "run",
        fault("slow", at="1 s", host="e2", factor=1.1),
        links=RADIO,
        network={"route": route},
        requests={"count": 4},
        planning={"planners": ["device-only"], "probe_interval": "0.5 s", "probe_size": "64 kB"},
    )
    assert not outcome.of("path_lost")
    assert not outcome.errors
    assert [event for event in outcome.of("probe") if event["source"] == "d1"]


def test_a_path_that_has_become_slow_is_broken_once_and_then_known(tmp_path: Path) -> None:
    """Of a trace nobody knows beforehand; the first late answer tells."""
    trace = tmp_path / "falls.csv"
    trace.write_text("time_s,rate_bps\n0,30e6\n2,300e3\n")
    outcome = faulty(
        tmp_path / "run",
        fault("slow", at="1 s", host="e2", factor=1.1),
        links={"access": {"rate": "50 Mbit/s"}, "backbone": {"rate": "30 Mbit/s", "trace": str(trace), "trace_loop": False}},
        requests={"count": 30, "think_time": "0.3 s"},
        planning={"planners": ["edge-only"], "probe_interval": "0.5 s", "probe_size": "64 kB"},
    )
    assert not outcome.errors
    lost = [event["at_s"] for event in outcome.of("path_lost") if (event["source"], event["target"]) == ("e1", "c1")]
    assert len(lost) <= 1, lost
    assert float(outcome.rows[-1]["submitted_s"]) > 8.0


@pytest.mark.parametrize(
    "cause", [fault("down", link="backbone", **{"for": "4 s"}), fault("kill", host="e1", **{"for": "0.1 s"})]
)
def test_probes_that_never_arrived_are_not_booked(tmp_path: Path, cause: dict[str, str]) -> None:
    outcome = faulty(
        tmp_path / "run",
        cause,
        links={"access": {"rate": "20 Mbit/s"}, "backbone": {"rate": "1 Mbit/s"}},
        requests={"count": 20, "think_time": "0.3 s"},
        planning={"planners": ["edge-only"], "probe_interval": "0.5 s", "probe_size": "64 kB"},
    )
    (session,) = outcome.fidelity["sessions"]
    (found,) = [one for one in session["invariants"] if one["name"] == "backbone_bytes"]
    assert found["level"] == "ok", found


def test_what_is_lost_on_another_link_and_crosses_the_backbone_again_is_no_gap(tmp_path: Path) -> None:
    outcome = faulty(
        tmp_path / "run",
        fault("loss", at="0 s", link="lan-e1", loss="85 %", **{"for": "10 s"}),
        requests={"count": 12},
        planning={"planners": ["device-only"], "probe_interval": "0.5 s", "probe_size": "16 kB"},
    )
    assert outcome.fidelity["verdict"] == "trusted"


def test_how_long_a_probe_may_take_counts_every_probe_that_shares_a_link() -> None:
    asked, of = scenario(links=RADIO, topology={"devices": 1, "edges": 1}), layout(edges=1)
    both = takes_s({("d1", "e1"): 64_000, ("d1", "c1"): SMALL_BYTES}, of, links_of(asked, of))
    alone = takes_s({("d1", "c1"): SMALL_BYTES}, of, links_of(asked, of))
    assert both["d1", "e1"] == pytest.approx(64_000 * 8 / 250e3, rel=0.06)
    assert both["d1", "c1"] > both["d1", "e1"] > 10 * alone["d1", "c1"]
