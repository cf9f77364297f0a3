"""Run and sweep folders as frames: the documented columns, figures that agree with the files, and what is missing is said."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from analysis_runs import make_run, make_sweep

import analysis
from analysis import phase, tables
from analysis.columns import CELLS, FRAMES
from testbed.errors import InputError
from testbed.orchestrator.account import union_s

DOCS = Path(__file__).resolve().parent.parent / "docs" / "analysis.md"
RUN_FRAMES = [name for name in FRAMES if name not in ("cells", "faults")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "mine")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sweep(tmp_path_factory.mktemp("sweeps") / "edges")


@pytest.fixture(scope="module")
def results(folder: Path) -> analysis.Results:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return analysis.load(folder)


def copied(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))


@pytest.mark.parametrize("name", FRAMES)
def test_docs_columns_and_frames_are_the_same(name: str, results: analysis.Results, swept: Path) -> None:
    section = DOCS.read_text().split(f"### `{name}`")[1].split("\n### ")[0]
    assert dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", section, flags=re.MULTILINE)) == FRAMES[name]
    if name == "cells":
        with pytest.warns(analysis.UnfinishedWarning, match="1 of 16 cells still to be run"):
            frame = analysis.load(swept).cells
        assert [column for column in frame.columns if column in CELLS] == list(CELLS)
        assert set(frame.columns) - set(CELLS) == {"topology.edges", "links.backbone.rate"}
    else:
        frame = getattr(results, name)
        assert list(frame.columns) == list(FRAMES[name])
    assert len(frame) > 0 or name == "faults", "tests/test_recovery.py has a run with faults"


class TestSteps:
    def test_a_requests_steps_add_up_to_its_row(self, results: analysis.Results) -> None:
        """The union of the computing spans of each tier, the messages' sizes, and the queue."""
        row = results.only(model="vgg16", planner="d3").answered.iloc[2]
        steps = tables.one_request(results.steps, "vgg16", "d3", int(row["request"]))
        compute = steps[steps["what"] == "compute"]
        for tier in ("device", "edge", "cloud"):
            spans = compute.loc[compute["tier"] == tier, ["start_s", "end_s"]].itertuples(index=False, name=None)
            assert union_s(list(spans)) == pytest.approx(row[f"compute_{tier}_s"], abs=1e-8)
        sent = steps[steps["what"] == "transfer"].groupby("leg")["message_bytes"].sum()
        for leg in ("access", "lan", "backbone"):
            assert sent.get(leg, 0.0) == row[f"{leg}_bytes"], leg
        assert compute["queue_s"].sum() == pytest.approx(row["queue_s"], abs=1e-8)
        assert sent["lan"] > 0  # tiles were sent

    def test_they_begin_with_the_request_and_end_with_the_answer(self, results: analysis.Results) -> None:
        ends = results.steps.assign(end=results.steps["offset_s"] + results.steps["duration_s"])
        keys = ["model", "planner", "request", "warmup"]
        last = ends.groupby(keys)["end"].max()
        latency = results.inferences.set_index(keys)["latency_s"]
        assert np.allclose(last.sort_index(), latency.sort_index(), atol=1e-6)
        assert (results.steps["offset_s"] > -1e-9).all()

    def test_vertices_of_computations_are_those_of_the_plan(self, results: analysis.Results) -> None:
        steps = tables.one_request(results.steps, "alexnet", "cloud-only", 0)
        plan = results.only(model="alexnet", planner="cloud-only").plans.iloc[0]
        compute = steps[steps["what"] == "compute"]
        assert compute["vertices"].tolist() == [f"1-{plan['vertices'] - 1}"]
        assert plan["structure"] == f"C{plan['vertices'] - 1}"

    def test_runs_without_them_can_be_read_and_say_so(self, folder: Path, tmp_path: Path) -> None:
        old = copied(folder, tmp_path / "old")
        (old / "steps.csv").unlink()
        with pytest.warns(analysis.UnfinishedWarning, match=r"no steps\.csv"):
            found = analysis.load(old)
        assert found.steps.empty
        assert list(found.steps.columns) == list(FRAMES["steps"])


def test_link_states_follow_one_another_without_gaps(results: analysis.Results) -> None:
    for _, states in results.links.groupby(["model", "planner", "link", "direction"]):
        assert states["at_s"].iloc[0] == 0.0
        assert (states["at_s"].to_numpy()[1:] == states["until_s"].to_numpy()[:-1]).all()
    ends = results.links.groupby(["model", "planner", "link", "direction"])["until_s"].max()
    totals = results.link_totals.set_index(["model", "planner", "link", "direction"])["duration_s"]
    assert (ends.sort_index() == totals.sort_index()).all()


def test_a_decision_that_changed_nothing_keeps_the_shape_of_the_plan_before(results: analysis.Results) -> None:
    plans = results.only(model="vgg16", planner="d3").plans
    assert set(plans["installed"]) == {True, False}
    assert (plans["device_vertices"] + plans["edge_vertices"] + plans["cloud_vertices"] == plans["vertices"] - 1).all()
    shapes = plans["structure"].where(plans["installed"]).ffill()
    assert (plans["structure"] == shapes).all()
    assert shapes.nunique() > 1


class TestSeveralFolders:
    def test_rows_are_told_apart_by_name(self, folder: Path, tmp_path: Path) -> None:
        other = copied(folder, tmp_path / "other")
        both = analysis.load(folder, other)
        alone = analysis.load(folder)
        for name in RUN_FRAMES:
            assert len(getattr(both, name)) == 2 * len(getattr(alone, name))
            assert set(getattr(both, name)["run"]) == {"mine", "other"}
        assert len(both.only(run="other").inferences) == len(alone.inferences)
        assert set(both.manifests) == {"mine", "other"}
        with pytest.raises(InputError, match="2 folders were read"):
            _ = both.manifest

    def test_equal_names_are_made_longer_or_refused(self, folder: Path, tmp_path: Path) -> None:
        other = copied(folder, tmp_path / "mine")
        assert set(analysis.load(folder, other).manifests) == {f"{folder.parent.name}/mine", f"{tmp_path.name}/mine"}
        assert set(analysis.load(folder, other, names=["a", "b"]).manifests) == {"a", "b"}
        with pytest.raises(InputError, match="two folders would have one name"):
            analysis.load(folder, folder)

    def test_runs_and_sweeps_go_together(self, folder: Path, swept: Path) -> None:
        with pytest.warns(analysis.UnfinishedWarning):
            found = analysis.load(folder, swept)
        assert (len(found.cells), set(found.cells["sweep"])) == (16, {"edges"})
        assert set(found.models) == {"alexnet", "vgg16"}
        with pytest.raises(InputError, match="--keep-runs"):
            analysis.load(swept, runs=True)


class TestWhatIsMissing:
    def test_a_run_that_was_killed_is_read_as_far_as_it_got(self, folder: Path, tmp_path: Path) -> None:
        cut = copied(folder, tmp_path / "cut")
        (cut / "fidelity.json").unlink()
        manifest = json.loads((cut / "manifest.json").read_text())
        (cut / "manifest.json").write_text(json.dumps({**manifest, "status": "running"}))
        rows = (cut / "inferences.csv").read_text().splitlines(keepends=True)
        (cut / "inferences.csv").write_text("".join(rows[:8]))
        with pytest.warns(analysis.UnfinishedWarning, match="still running, or was killed; it has 7 rows"):
            found = analysis.load(cut)
        assert (len(found.inferences), len(found.fidelity), len(found.notes)) == (7, 0, 1)

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda path: shutil.rmtree(path), "no such run folder"),
            (lambda path: (path / "manifest.json").unlink(), "has no manifest.json"),
            (lambda path: (path / "manifest.json").write_text("{"), "manifest.json: cannot be read"),
            (lambda path: (path / "steps.csv").write_text("a,b\n1,2\n"), "steps.csv: column 'model' is missing"),
        ],
    )
    def test_what_is_no_run_is_refused_by_name(self, damage, message: str, folder: Path, tmp_path: Path) -> None:
        bad = copied(folder, tmp_path / "bad")
        damage(bad)
        with pytest.raises(InputError, match=message):
            analysis.load(bad)

    def test_nothing_to_load_and_unknown_values(self, results: analysis.Results) -> None:
        with pytest.raises(InputError, match="at least one"):
            analysis.load()
        with pytest.raises(InputError, match=r'planner \'d4\'; did you mean "d3"'):
            results.only(planner="d4")
        with pytest.raises(InputError, match="no frame has a column 'plannr'"):
            results.only(plannr="d3")


class TestTables:
    def test_speedups_and_regrets_are_ratios_of_means(self, results: analysis.Results) -> None:
        means = results.answered.groupby(["model", "planner"])["latency_s"].mean()
        for row in tables.speedups(results.inferences).itertuples():
            assert row.speedup == pytest.approx(means[row.model, "cloud-only"] / means[row.model, row.planner])
        for row in tables.regrets(results.inferences).itertuples():
            assert row.regret == pytest.approx(means[row.model, row.planner] / means[row.model, "optimal"] - 1.0)

    def test_cells_of_a_sweep_are_compared_within_their_network(self, swept: Path) -> None:
        with pytest.warns(analysis.UnfinishedWarning):
            cells = analysis.load(swept).cells
        by = ["model", "links.backbone.rate", "topology.edges"]
        found = tables.speedups(cells, by=by)
        assert len(found) == 8
        assert (found.loc[found["planner"] == "cloud-only", "speedup"] == 1.0).all()
        slow, fast = (found[found["links.backbone.rate"] == rate]["speedup"].max() for rate in ("4 Mbit/s", "40 Mbit/s"))
        assert slow > fast > 1.0

    def test_a_base_that_was_not_run_is_refused(self, results: analysis.Results) -> None:
        with pytest.raises(InputError, match="'cloud' was not run; did you mean \"cloud-only\""):
            tables.speedups(results.inferences, base="cloud")
        some = results.inferences[(results.inferences["planner"] != "hpa") | (results.inferences["model"] == "vgg16")]
        with pytest.raises(InputError, match="'hpa' has no figure for model 'alexnet'"):
            tables.speedups(some, base="hpa")

    def test_the_summary_counts_what_failed(self, results: analysis.Results) -> None:
        rows = results.inferences.copy()
        chosen = (rows["planner"] == "d3") & (rows["model"] == "vgg16") & (rows["request"] == 1)
        rows.loc[chosen & ~rows["warmup"], "latency_s"] = np.nan
        table = tables.summary(rows)
        assert (table.loc[("vgg16", "d3"), "requests"], table.loc[("vgg16", "d3"), "failed"]) == (5, 1)
        assert table["failed"].sum() == 1

    def test_one_request_must_be_one(self, results: analysis.Results) -> None:
        with pytest.raises(InputError, match="no steps of request 99"):
            tables.one_request(results.steps, "vgg16", "d3", 99)
        twice = pd.concat([results.steps, results.steps.assign(run="again")])
        with pytest.raises(InputError, match="steps of several runs"):
            tables.one_request(twice, "vgg16", "d3", 1)


def test_a_phase_grid_has_the_optimum_of_every_pair_of_rates() -> None:
    grid = phase.grid("replan", "alexnet", [1e6, 1e8], [1e6, 1e9])
    assert list(grid.columns) == list(phase.GRID)
    by = grid.set_index(["access_bps", "backbone_bps"])
    assert by.loc[(1e6, 1e6), "tiers"] == "device"  # nothing is worth the way
    assert by.loc[(1e8, 1e9), "cloud_vertices"] > 0
    assert by.loc[(1e8, 1e9), "latency_s"] < by.loc[(1e8, 1e6), "latency_s"]
    assert (grid["gain"] == grid["best_single_s"] / grid["latency_s"]).all()
