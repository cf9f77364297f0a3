"""Runs that notebooks make on the spot."""

from __future__ import annotations

import asyncio

import pytest

from analysis import experiments

SETTINGS = {"compute.tensors": "sizes", "requests.count": 2, "requests.warmup": 0, "planning.replan": "never"}


def test_a_run_can_be_made_where_an_event_loop_is_running_and_is_a_sweep_s_cell() -> None:
    async def notebook_cell() -> float:
        words = [f"{key}={value}" for key, value in SETTINGS.items()]
        results = experiments.run("paper", "model.names=alexnet", "planning.planners=d3", *words)
        assert results.manifest["verdict"] == "trusted"
        return float(results.answered["latency_s"].mean())

    (cell,) = experiments.sweep("paper", {"models": ["alexnet"], "planners": ["d3"]}, SETTINGS).itertuples()
    assert asyncio.run(notebook_cell()) == pytest.approx(cell.mean_s)
