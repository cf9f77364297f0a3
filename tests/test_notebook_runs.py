"""Runs that notebooks make on the spot."""

from __future__ import annotations

import asyncio

import pytest

from analysis import experiments, replanning, trust

SETTINGS = {"compute.tensors": "sizes", "requests.count": 2, "requests.warmup": 0, "planning.replan": "never"}


def test_a_run_can_be_made_where_an_event_loop_is_running_and_is_a_sweep_s_cell() -> None:
    async def notebook_cell() -> float:
        words = [f"{key}={value}" for key, value in SETTINGS.items()]
        results = experiments.run("paper", "model.names=alexnet", "planning.planners=d3", *words)
        assert results.manifest["verdict"] == "trusted"
        return float(results.answered["latency_s"].mean())

    (cell,) = experiments.sweep("paper", {"models": ["alexnet"], "planners": ["d3"]}, SETTINGS).itertuples()
    assert asyncio.run(notebook_cell()) == pytest.approx(cell.mean_s)


def test_ways_meet_the_same_requests_and_the_bound_is_below_them() -> None:
    ways = {way: replanning.WAYS[way] for way in ("never", "partial (D3)", "clairvoyant")}
    runs, least = replanning.runs("lte-like", 8, ways), replanning.bound("lte-like", 8)
    table = replanning.summary(runs, least).set_index(["model", "way"])
    assert (table["over_bound"] > 0.999).all()
    assert (table.xs("never", level="way")[["asked", "installed", "touched"]] == 0).all(axis=None)
    assert (table.xs("clairvoyant", level="way")["asked"] > 0).all()
    due = [results.answered["due_s"].tolist() for results in runs.values()]
    assert due[0] == due[1] == due[2]
    assert table.loc[("vgg16", "never"), "mean_ms"] == pytest.approx(
        1e3 * runs["never"].only(model="vgg16").answered["latency_s"].mean()
    )


def test_what_is_kept_of_the_kernel_is_what_the_commands_leave() -> None:
    found, source = trust.differences(measure=False)
    assert trust.PRODUCED["differences.csv"] in source
    share = (found["latency_s"] - found["latency_s_reference"]) / found["latency_s_reference"]
    assert found["latency_difference"].tolist() == pytest.approx(share.tolist(), abs=1e-9)
    links = trust.links()
    again = 100 * (links["measured_s"] - links["ideal_s"]) / links["ideal_s"]
    assert links["error_percent"].tolist() == pytest.approx(again.tolist(), abs=1e-4)
    assert set(links["start"]) == {"warm", "cold"}
