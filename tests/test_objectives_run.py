"""The new objectives and memory limits in real runs: right answers, limits kept, and a rate that only the split plan sustains."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from orchestration import scenario

from testbed.backends.sim import SimBackend
from testbed.errors import CapacityError
from testbed.orchestrator import run
from testbed.scenario.load import load

PLANNERS = ["optimal-throughput", "hpa-throughput", "optimal-critical-path", "capacitated"]


def test_every_new_planner_gives_the_whole_models_answer(tmp_path: Path):
    """A device that cannot hold the model, an edge that can, real tensors."""
    chosen = scenario(
        planning={"planners": PLANNERS},
        compute={"tensors": "real"},
        requests={"count": 3, "warmup": 1},
        hosts={"device": {"memory": "40 kB"}, "edge": {"profile": "raspberry-pi-4", "memory": "200 kB"}},
    )
    summary = run(chosen, SimBackend(), tmp_path / "run")
    assert summary.verdict == "trusted"
    frame = pd.read_csv(tmp_path / "run" / "inferences.csv")
    assert set(frame["planner"]) == set(PLANNERS)
    assert frame["error"].isna().all()
    assert frame[~frame["warmup"]]["correct"].all()


def test_a_plan_beyond_a_limit_is_not_installed(tmp_path: Path):
    chosen = scenario(planning={"planners": ["edge-only"]}, hosts={"e1": {"memory": "10 kB"}})
    with pytest.raises(CapacityError, match=r"host e1 needs .* its limit is"):
        run(chosen, SimBackend(), tmp_path / "run")


def test_under_load_the_split_sustains_what_the_fastest_plan_does_not(tmp_path: Path):
    words = ["requests.count=160", 'planning.planners=["optimal", "hpa-throughput", "optimal-throughput"]']

    def medians(rate: str, name: str) -> tuple[dict[str, float], dict[str, float]]:
        run(load("under_load", [*words, f'requests.rate="{rate}"', "requests.arrival=fixed"]), SimBackend(), tmp_path / name)
        frame = pd.read_csv(tmp_path / name / "inferences.csv")
        frame = frame[~frame["warmup"]]
        early, late = frame[frame["request"] < 60], frame[frame["request"] > 120]
        return (
            early.groupby("planner")["latency_s"].median().to_dict(),
            late.groupby("planner")["latency_s"].median().to_dict(),
        )

    early, late = medians("5 /s", "light")
    assert late == pytest.approx(early, rel=1e-3)
    assert late["optimal"] < 0.6 * late["optimal-throughput"]  # alone, the single tier is far ahead
    early, late = medians("70 /s", "heavy")
    assert late["optimal"] > 2.0 * early["optimal"]  # its queue grows
    assert late["optimal-throughput"] == pytest.approx(early["optimal-throughput"], rel=0.05)  # this one's does not
    assert late["optimal-throughput"] < 0.1 * late["optimal"]
    assert late["hpa-throughput"] == pytest.approx(late["optimal-throughput"])
