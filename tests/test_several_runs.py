"""Several seeds and traces in one command: a run folder each, as if run alone, one table with all, and none stops the others."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from cli_words import refused, said
from test_bad_input import SCENARIO

from testbed.backends.sim import SimBackend
from testbed.cli.run_several import exit_code
from testbed.errors import InputError
from testbed.orchestrator import Task, pooled, run_many, summaries, summarise
from testbed.report import load
from testbed.scenario.load import load as read


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.chdir(tmp_path)
    for name, rate in (("slow", 5), ("fast", 50)):
        (tmp_path / f"{name}.csv").write_text(f"time_s,rate_mbps\n0,{rate}\n10,{rate}\n")
    (tmp_path / "s.toml").write_text(SCENARIO)
    return tmp_path / "s.toml"


POISSON = ("--set", "requests.arrival=poisson", "--set", "requests.rate=1.5 /s", "--set", "requests.count=4")


def test_each_combination_has_the_folder_and_the_bytes_of_a_run_alone(capsys: Any, file: Path) -> None:
    words = ("run", file, "--backend", "sim", *POISSON)
    out, err = said(
        capsys, *words, "--seed", "3", "--seed", "8", "--trace", "slow.csv", "--trace", "fast.csv", "--out", "all", code=0
    )
    names = ["slow.csv-seed-3", "slow.csv-seed-8", "fast.csv-seed-3", "fast.csv-seed-8"]
    assert sorted(entry.name for entry in Path("all").iterdir()) == sorted(names)
    assert "4 runs together, and each" in out
    assert all(out.count(name) == len(load("all/" + names[0]).manifest["planners"]) for name in names)
    assert "run 3 of 4: fast.csv-seed-3" in err
    said(capsys, *words, "--seed", "8", "--trace", "slow.csv", "--out", "alone", code=0)
    for name in ("inferences.csv", "links.csv"):
        assert Path("alone", name).read_bytes() == Path("all/slow.csv-seed-8", name).read_bytes()
    assert Path("alone/inferences.csv").read_bytes() != Path("all/slow.csv-seed-3/inferences.csv").read_bytes()
    again, _ = said(capsys, "report", "all", code=0)
    assert sorted(again.split()) == sorted(out.split())


def test_figures_of_all_together_are_those_of_their_requests(capsys: Any, file: Path) -> None:
    out, _ = said(
        capsys, "run", file, "--backend", "sim", *POISSON, "--seed", "1", "--seed", "2", "--out", "all", "--json", code=0
    )
    found = json.loads(out)
    assert [one["name"] for one in found["runs"]] == ["seed-1", "seed-2"]
    for pair in found["pooled"]:
        rows = [load(f"all/seed-{seed}").answered for seed in (1, 2)]
        latencies = [x for run in rows for x in run[(run.model == pair["model"]) & (run.planner == pair["planner"])].latency_s]
        assert pair["requests"] == len(latencies) == 8
        assert pair["mean_s"] == pytest.approx(sum(latencies) / 8)
        assert pair["p50_s"] == pytest.approx(median(latencies))
    first = summarise("all/seed-1")
    once, twice = pooled([first], Path("all")), pooled([first, first], Path("all"))
    assert once.pairs == first.pairs
    assert [pair.p50_s for pair in twice.pairs] == [pair.p50_s for pair in first.pairs]
    assert [pair.backbone_wire_bytes for pair in twice.pairs] == [2 * (pair.backbone_wire_bytes or 0) for pair in first.pairs]
    assert exit_code(once) == 0


def test_a_run_that_fails_stops_no_other(file: Path) -> None:
    Path("out/second").mkdir(parents=True)
    Path("out/second/mine.txt").write_text("not to be touched")
    events: list[dict[str, Any]] = []
    tasks = [Task(name, read(str(file)), Path("out", name)) for name in ("first", "second", "third")]
    ended = run_many(tasks, SimBackend(), events.append)
    assert isinstance(ended[1].error, InputError)
    assert [one.summary is None for one in ended] == [False, True, False]
    assert [event["name"] for event in events if event["event"] == "task_failed"] == ["second"]
    assert list(summaries(Path("out"))) == ["first", "third"]


def test_what_cannot_be_told_apart_is_refused(capsys: Any, file: Path) -> None:
    words = ("run", str(file), "--backend", "sim", "--out", "out")
    assert "given twice" in refused(capsys, *words, "--seed", "1", "--seed", "1")
    Path("other").mkdir()
    Path("other/slow.csv").write_bytes(Path("slow.csv").read_bytes())
    assert "rename one file" in refused(capsys, *words, "--trace", "slow.csv", "--trace", "other/slow.csv")
    assert not Path("out").exists()
