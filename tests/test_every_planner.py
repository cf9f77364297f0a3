"""Every registered planner runs real tensors, in `sim` and over Mininet; lossless ones give the whole model's answer."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from conformance import scenario as conformance

from testbed import registry
from testbed.backends.base import Backend
from testbed.backends.mininet import MininetBackend
from testbed.backends.sim import SimBackend
from testbed.orchestrator import run
from testbed.scenario.schema import Scenario

WITH_EXITS = ("spinn", "ddnn", "edgent")
"""These need a network with exits; their own tests run them (test_exit*.py)."""

ONE_CLIENT = ("ionn", "ionn-all")
"""IONN serves one client at a time (its own restriction)."""

LOSSLESS = [name for name in registry.planners() if name not in WITH_EXITS]


def scenario(planners: list[str], devices: int) -> Scenario:
    """Three edge hosts and a cloud; no delays, so that every kernel can run it."""
    return Scenario.model_validate(
        {
            "name": "every",
            "model": {"names": [conformance.MODEL]},
            "topology": {"devices": devices, "edges": 3},
            "links": {
                "access": {"rate": "40 Mbit/s", "delay": "0 s"},
                "lan": {"rate": "200 Mbit/s", "delay": "0 s"},
                "backbone": {"rate": "20 Mbit/s", "delay": "0 s"},
            },
            "requests": {"count": 2, "warmup": 0, "arrival": "fixed", "rate": "4 /s"},
            "planning": {"planners": planners, "probe_interval": "0.2 s"},
        }
    )


def checked(backend: Backend, folder: Path, planners: list[str], devices: int) -> None:
    """A run of some planners: every request of every one answered, and rightly."""
    run(scenario(planners, devices), backend, folder)
    with (folder / "inferences.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["error"] for row in rows if row["error"]] == []
    assert {row["planner"] for row in rows} == set(planners)
    assert len(rows) == len(planners) * devices * 2
    wrong = sorted({row["planner"] for row in rows if row["correct"] != "true"})
    assert wrong == []
    sessions = json.loads((folder / "fidelity.json").read_text())["sessions"]
    broken = {i["name"] for session in sessions for i in session["invariants"] if i["level"] != "ok"}
    assert not broken & {"answers", "failed_requests", "one_ending_each", "sender_receiver_bytes"}


@pytest.mark.parametrize("name", LOSSLESS)
def test_every_planner_gives_the_whole_models_answer_in_sim(tmp_path: Path, name: str) -> None:
    checked(SimBackend(), tmp_path / "run", [name], devices=1 if name in ONE_CLIENT else 2)


@pytest.mark.emulation
@pytest.mark.slow
def test_every_planner_gives_the_whole_models_answer_over_mininet(tmp_path: Path) -> None:
    checked(MininetBackend(), tmp_path / "two", [name for name in LOSSLESS if name not in ONE_CLIENT], devices=2)
    checked(MininetBackend(), tmp_path / "one", [name for name in LOSSLESS if name in ONE_CLIENT], devices=1)
