"""Runs on emulated networks whose process is killed: the network ends with it, finished sessions stay, another goes on."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from test_resumed_runs import killed, manifest

from testbed.cli import main
from testbed.kernel import cache

SCENARIO = """
name = "killed"
[model]
names = ["alexnet"]
[topology]
edges = 2
[links.backbone]
rate = "50 Mbit/s"
[requests]
count = 4
warmup = 1
[planning]
planners = ["cloud-only", "d3"]
[compute]
tensors = "sizes"
"""
BUILT = pytest.mark.skipif(cache.installed() is None, reason="the time-travel kernel is not built: testbed kernel build")


def rows(folder: Path, planner: str) -> list[dict[str, str]]:
    with (folder / "inferences.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["planner"] == planner and row["warmup"] == "false"]


@pytest.mark.parametrize(
    "backend",
    [
        pytest.param("mininet", marks=pytest.mark.emulation),
        pytest.param("vkernel", marks=[pytest.mark.long, BUILT]),
    ],
)
def test_a_killed_run_is_gone_on_with(backend: str, tmp_path: Path) -> None:
    (tmp_path / "killed.toml").write_text(SCENARIO)
    folder = tmp_path / "run"
    killed(tmp_path / "killed.toml", folder, "progress", 7, backend)  # in the middle of the second session
    before = rows(folder, "cloud-only")
    assert len(before) == 4
    assert main(["run", str(folder), "--resume"]) in (0, 3)  # a busy machine's verdict is not what this is about
    assert rows(folder, "cloud-only") == before
    assert [(row["request"], row["error"]) for row in rows(folder, "d3")] == [(str(n), "") for n in range(4)]
    assert manifest(folder)["status"] == "finished"
    assert [(entry["session"], entry["how"]) for entry in manifest(folder)["resumed"]] == [(2, "begun again")]
