"""Sweep speed: `sim` cells of 20 requests (sizes only) per second, in this process and on two workers.

Target: 10,000 in 10 minutes on 2 cores, which is 16.7/s or 0.12 CPU seconds a cell. CPU seconds are given beside wall-clock: on a
shared machine they differ, and only the first say what a quiet one would do.
"""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from testbed import sweep
from testbed.sweep.cell import run_cell
from testbed.sweep.spec import Axes, Spec

TITLE = "Sweep: cells of 20 requests, sizes only (target: 0.12 CPU seconds a cell)"
TARGET_CELLS = 10_000
COMMON = {"compute.tensors": "sizes", "requests.count": 20}
AXES = Axes.model_validate(
    {
        "models": ["alexnet", "resnet18"],
        "planners": ["cloud-only", "hpa", "d3", "neurosurgeon", "optimal"],
        "parameters": {"hosts.edge.speed": [0.5, 1.0]},
        "seeds": 3,
    }
)
CASES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("paper: fixed rates, closed loop", "paper", {}),
    ("replan: LTE-like trace, 29 s, probes and re-planning", "replan", {}),
    ("quickstart: LTE-like trace, 133 s, probes and re-planning", "quickstart", {}),
)


def run() -> list[dict[str, Any]]:
    """60 cells a case; those of two workers with their start (imports) in the wall-clock time."""
    return [_row(what, scenario, more) for what, scenario, more in CASES]


def _row(what: str, scenario: str, more: dict[str, Any]) -> dict[str, Any]:
    spec = Spec(name="bench", scenario=scenario, set={**COMMON, **more}, axes=AXES)
    begun = time.process_time()
    plan = sweep.plan(spec)
    planned = time.process_time() - begun
    run_cell(plan.cells[0].task(), "sim", None)
    wall, cpu = time.perf_counter(), time.process_time()
    for cell in plan.cells:
        assert run_cell(cell.task(), "sim", None)["status"] == "finished"
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    count = len(plan.cells)
    before, parent = _children_s(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        outcome = sweep.execute(plan, Path(folder) / "sweep", workers=2)
    used = _children_s() - before + time.process_time() - parent
    assert outcome.finished == count
    return {
        "sweep": what,
        "cells": count,
        "1 process: cells/s": count / wall,
        "CPU ms a cell": 1000.0 * cpu / count,
        "2 workers: cells/s": count / outcome.elapsed_s,
        "CPU ms a cell, starts included": 1000.0 * used / count,
        "plan, CPU ms a cell": 1000.0 * planned / count,
        "10,000 cells on 2 quiet cores, min": TARGET_CELLS * cpu / count / 2.0 / 60.0,
    }


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
