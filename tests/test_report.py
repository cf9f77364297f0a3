"""Run folders are read back as data frames, cut-off ones too; curves and quantities say what they stand for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from testbed import registry
from testbed.errors import InputError
from testbed.orchestrator import run, summarise
from testbed.report import load, units
from testbed.report.compare import compare_lines, compare_table, differences
from testbed.report.curves import binned, sparkline, summary
from testbed.report.tables import summary_table
from testbed.scenario.load import build


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    raw = {
        "name": "tiny",
        "model": {"names": ["alexnet"]},
        "topology": {"edges": 1},
        "links": {"backbone": {"rate": "20 Mbit/s"}},
        "compute": {"tensors": "sizes"},
        "requests": {"count": 3, "warmup": 2},
        "planning": {"planners": ["cloud-only", "hpa"]},
    }
    path = tmp_path_factory.mktemp("run") / "out"
    run(build(raw), registry.backend("sim"), path)
    return path


@pytest.fixture(scope="module")
def slower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    raw = {
        "name": "tiny",
        "model": {"names": ["alexnet"]},
        "topology": {"edges": 1},
        "links": {"backbone": {"rate": "10 Mbit/s"}},
        "compute": {"tensors": "sizes"},
        "requests": {"count": 3, "warmup": 2},
        "planning": {"planners": ["hpa", "edge-only", "cloud-only"]},
    }
    path = tmp_path_factory.mktemp("run") / "slower"
    run(build(raw), registry.backend("sim"), path)
    return path


def copied(folder: Path, target: Path) -> Path:
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def test_columns_have_types_and_warmup_is_told_apart(folder):
    found = load(folder)
    assert len(found.inferences) == 2 * (3 + 2)
    assert len(found.measured) == len(found.answered) == 2 * 3
    assert found.inferences["latency_s"].dtype == "float64"
    assert found.inferences["warmup"].dtype == "boolean"
    assert found.inferences["correct"].isna().all()  # only sizes travelled
    assert (found.plans["vertices"] == 13).all()


class TestSideBySide:
    def test_a_run_does_not_differ_from_itself(self, folder):
        found = differences(summarise(folder), summarise(folder))
        assert [(d.first.planner, d.latency, d.backbone) for d in found] == [("cloud-only", 0, 0), ("hpa", 0, 0)]

    def test_what_both_have_is_matched_by_name_and_differences_are_shares_of_the_first(self, folder, slower):
        fast, slow = summarise(folder), summarise(slower)
        cloud = differences(fast, slow)[0]
        assert (cloud.first.planner, cloud.second.planner) == ("cloud-only", "cloud-only")
        assert cloud.latency == pytest.approx(cloud.second.p50_s / cloud.first.p50_s - 1)
        assert cloud.latency > 0.3
        assert cloud.backbone == 0
        assert "largest difference of median latency: +" in next(compare_lines(fast, slow))
        assert compare_table(fast, slow).row_count == 3

    def test_runs_without_anything_in_common_are_refused(self, folder):
        other = summarise(folder)
        alone = replace(other, pairs=[replace(other.pairs[0], planner="mine")])
        with pytest.raises(InputError, match="no model and planner in common"):
            differences(other, alone)


def test_what_an_abrupt_end_cut_short_is_left_out(folder, tmp_path):
    cut = copied(folder, tmp_path / "cut")
    for name in ("plans.jsonl", "events.jsonl"):
        text = (cut / name).read_text()
        (cut / name).write_text(text[:-10])
    (cut / "fidelity.json").unlink()
    found = load(cut)
    assert len(found.plans) == len(load(folder).plans) - 1
    assert found.verdict == "unfinished"


def test_damage_is_named_with_its_file(folder, tmp_path):
    bad = copied(folder, tmp_path / "bad")
    (bad / "plans.jsonl").write_text('{"a": 1}\nnot json\n{"a": 2}\n')
    with pytest.raises(InputError, match=r"plans.jsonl, line 2"):
        load(bad)
    bad = copied(folder, tmp_path / "worse")
    (bad / "inferences.csv").write_text("model,planner\na,b\n")
    with pytest.raises(InputError, match=r"inferences.csv: column 'device' is missing"):
        load(bad)
    with pytest.raises(InputError, match="no such run folder"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("width", [70, 80, 100, 140])
def test_the_table_fits_the_screen_and_keeps_what_matters(folder, width):
    from rich.console import Console

    from testbed.orchestrator import summarise

    console = Console(width=width, force_terminal=False)
    with console.capture() as captured:
        console.print(summary_table(summarise(folder), width))
    text = captured.get()
    assert "…" not in text
    assert all(len(line) <= width for line in text.splitlines())
    for word in ("p50", "p95", "speed-up", "backbone", "trusted", "cloud-only"):
        assert word in text
    assert ("mean" in text) == (width == 140)


def test_a_curve_is_weighted_by_time():
    assert binned([0.0, 1.0, 3.0], [4.0, 0.0, 8.0], 4.0, 2) == pytest.approx([2.0, 4.0])
    figures = summary([0.0, 1.0, 3.0], [4.0, 0.0, 8.0], 4.0)
    assert figures["mean"] == pytest.approx(3.0)
    assert figures["zero_share"] == pytest.approx(0.5)
    assert (figures["min"], figures["p50"], figures["max"]) == (0.0, 0.0, 8.0)
    assert sparkline([0.0, 1.0, 2.0], [0.0, 5.0, 10.0], 3.0, 3) == " ▅█"
    assert sparkline([0.0], [0.0], 1.0, 4) == "▁▁▁▁"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (units.size(602_201), "602 kB"),
        (units.size(999), "999 B"),
        (units.size(0), "0 B"),
        (units.rate(84.95e6), "85.0 Mbit/s"),
        (units.rate(1e9), "1.00 Gbit/s"),
        (units.seconds(0.0844), "84.4 ms"),
        (units.seconds(2.61), "2.61 s"),
        (units.seconds(123e-6), "123 µs"),
        (units.operations(30.94e9), "30.9 GFLOP"),
    ],
)
def test_quantities_read_well(text, expected):
    assert text == expected
