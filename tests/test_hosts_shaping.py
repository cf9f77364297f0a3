"""Where operators let agents shape, links of real machines are what the scenario says; and nothing of it stays."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from shaped_machines import RATE_BPS, SIZE

HERE = Path(__file__).parent
FREE_BYTES = 70_000
"""A token bucket lets one frame through for free, and one of the loopback interface holds 64 KiB; and the burst beside it."""
pytestmark = [pytest.mark.emulation, pytest.mark.long]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shaped")


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        ["unshare", "-n", sys.executable, str(HERE / "shaped_machines.py"), str(folder)],
        env={**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_shaping_needs_the_leave_of_every_operator(found: dict[str, Any]) -> None:
    assert any("needs shaping = true for d1, e1, e2, c1" in reason for reason in found["refused"])
    for host in ("d1", "e2", "c1"):
        assert f"{host}: the inventory says shaping = true, but its agent was not started with --allow-shaping" in found["unable"]


def test_a_path_has_the_rate_of_its_links_and_follows_changes(found: dict[str, Any]) -> None:
    least = (SIZE - FREE_BYTES) * 8 / RATE_BPS
    assert min(found["up_s"]) >= least
    assert least / 4 <= min(found["faster_s"]) < least
    assert found["lan_s"] < least
    assert found["outage"] == "held"
    assert found["after_s"] > 0.0
    assert found["counted"] >= 3 * SIZE


def test_what_was_shaped_is_told_and_given_back(found: dict[str, Any]) -> None:
    assert found["invariants"]["links"][0] in ("ok", "degraded")
    assert found["released"] == found["restored"] == found["before"]
    assert found["ended"] == 0


def test_a_trace_is_replayed_and_bytes_are_counted(found: dict[str, Any], folder: Path) -> None:
    assert found["errors"] == []
    with (folder / "run" / "links.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["link"] == "backbone" and row["direction"] == "up"]
    assert len([row for row in rows if row["kind"] == "state"]) >= 1
    (total,) = (row for row in rows if row["kind"] == "total")
    assert int(total["wire_bytes"]) > 0
