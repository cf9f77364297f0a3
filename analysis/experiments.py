"""Runs and sweeps made on the spot, for notebooks: what `testbed run` and `testbed sweep` do, straight into frames.

Their folders are temporary; make those that are to be kept with the command line. A run has an event loop of its own, and a
notebook has one already: so it goes to a thread.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd

import testbed.sweep
from analysis.results import Results, load
from testbed import registry
from testbed.orchestrator import run as carry_out
from testbed.planners.base import Planner
from testbed.scenario.load import load as read_scenario


def run(scenario: str, *settings: str, backend: str = "sim", planners: Mapping[str, Planner] | None = None) -> Results:
    """A run of a shipped scenario or a scenario file, with settings as after `--set`; `planners` replace the scenario's.

    Errors are those of `testbed run` (InputError, RunError).
    """
    chosen = read_scenario(scenario, list(settings))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as thread:
        path = Path(folder) / Path(scenario).stem
        thread.submit(carry_out, chosen, registry.backend(backend), path, planners=planners).result()
        return load(path)


def sweep(
    scenario: str, axes: Mapping[str, Any], settings: Mapping[str, Any] | None = None, backend: str = "sim", workers: int = 1
) -> pd.DataFrame:
    """The cells of a sweep (docs/sweeps.md): `axes` and `settings` are the tables `[axes]` and `[set]` of a sweep file.

    Errors are those of `testbed sweep`.
    """
    spec = testbed.sweep.Spec.model_validate(
        {"name": Path(scenario).stem, "scenario": scenario, "backend": backend, "set": settings or {}, "axes": axes}
    )
    with tempfile.TemporaryDirectory() as folder:
        testbed.sweep.execute(testbed.sweep.plan(spec), folder, workers=workers)
        return load(folder).cells
