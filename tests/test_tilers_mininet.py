"""Tiles that are fetched and handed over, with real tensors on Mininet's links: exact answers, work where there is idleness."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from orchestration import scenario

from testbed.backends.mininet import MininetBackend
from testbed.orchestrator import run


@pytest.mark.emulation
@pytest.mark.slow
def test_on_a_real_network_a_slow_host_fetches_fewer_tiles_and_every_answer_is_exact(tmp_path: Path) -> None:
    """e3 has a tenth of its CPU, which no planner knows; links without delay, as netem may be missing."""
    (tmp_path / "share.csv").write_text("time_s,cpu_share\n0,0.1\n")
    asked = scenario(
        topology={"devices": 1, "edges": 3},
        links={"access": {"rate": "50 Mbit/s"}, "backbone": {"rate": "20 Mbit/s"}},
        hosts={"edge": {"profile": "raspberry-pi-4"}, "e3": {"trace": str(tmp_path / "share.csv")}},
        compute={"tensors": "real"},
        requests={"count": 2, "warmup": 0},
        planning={
            "planners": ["modnn", "deepthings", "coedge"],
            "replan": "never",
            "options": {"deepthings_rows": 4, "deepthings_columns": 4},
        },
        run={"time_scale": 20.0},
    )
    run(asked, MininetBackend(), tmp_path / "run")
    with (tmp_path / "run" / "inferences.csv").open(newline="") as file:
        found = [row for row in csv.DictReader(file) if row["warmup"] == "false"]
    assert [row["error"] for row in found] == [""] * 6
    assert {row["correct"] for row in found} == {"true"}
    for row in found:
        tiles = {host: int(count) for host, count in (pair.split(":") for pair in row["tiles"].split())}
        assert set(tiles) <= {"e1", "e2", "e3"}
        if row["planner"] == "deepthings":
            assert sum(tiles.values()) == 16
            assert tiles.get("e3", 0) < min(tiles["e1"], tiles["e2"])
