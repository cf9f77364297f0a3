"""`verify repeat`: what must be equal and is not is named; a run in the time-travel kernel repeats, whatever the machine does."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conformance import scenario as conformance

from testbed.cli import main
from testbed.errors import InputError, RunError
from testbed.kernel import cache
from testbed.scenario.schema import Scenario
from testbed.verify import repeat as check
from testbed.verify.repeat import Conditions

NOBODY = 65534

SCENARIO = f"""
name = "small"
[model]
names = ["{conformance.MODEL}"]
[topology]
name = "three_tier"
devices = 1
edges = 2
[links.access]
rate = "40 Mbit/s"
delay = "2 ms"
[links.lan]
rate = "100 Mbit/s"
[links.backbone]
trace = "generate:lte?seed=3"
trace_scale = 0.1
delay = "10 ms"
[compute]
tensors = "sizes"
[requests]
count = 3
[planning]
planners = ["cloud-only", "hpa"]
"""


@pytest.fixture
def scenario_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SCENARIO)
    return path


@pytest.fixture
def two_runs(scenario_file: Path, tmp_path: Path) -> Path:
    import tomllib

    scenario = Scenario.model_validate(tomllib.loads(SCENARIO))
    (found,) = check.repeat(scenario, "sim", tmp_path / "runs", [Conditions(), Conditions()])
    assert (found.latency_s, found.unequal, found.beyond) == (0.0, (), False)
    assert found.requests == 8
    return tmp_path / "runs"


def edit_rows(path: Path, change: Callable[[list[dict[str, str]]], None]) -> None:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = list(rows[0])
    change(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def edit_lines(path: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def against_first(runs: Path) -> check.Difference:
    return check.difference(runs / "1", runs / "2", Conditions(loaded=True))


def test_a_latency_that_is_more_than_a_millisecond_off_is_named(two_runs: Path) -> None:
    def later(by: float) -> Callable[[list[dict[str, str]]], None]:
        return lambda rows: rows[2].update(latency_s=f"{float(rows[2]['latency_s']) + by:.9f}")

    edit_rows(two_runs / "2" / "inferences.csv", later(0.0009))
    found = against_first(two_runs)
    assert found.latency_s == pytest.approx(0.0009)
    assert not found.beyond
    edit_rows(two_runs / "2" / "inferences.csv", later(0.0009))
    found = against_first(two_runs)
    assert found.beyond
    assert found.where.startswith(f"{conformance.MODEL} by cloud-only, d1's request 1")


def test_a_byte_a_frame_and_an_outcome_must_be_equal(two_runs: Path) -> None:
    edit_rows(two_runs / "2" / "inferences.csv", lambda rows: rows[1].update(backbone_bytes="1", error="Lost"))

    def totals(rows: list[dict[str, str]]) -> None:
        next(row for row in rows if row["kind"] == "total" and row["link"] == "backbone").update(packets="7")

    edit_rows(two_runs / "2" / "links.csv", totals)
    found = against_first(two_runs)
    assert found.beyond
    assert [text.partition(": ")[2].partition(" ")[0] for text in found.unequal] == ["packets", "error", "backbone_bytes"]


def test_decisions_must_be_equal_and_at_the_same_time(two_runs: Path) -> None:
    def other_plan(lines: list[dict[str, Any]]) -> None:
        lines[0]["planning_time_s"] = 99.0  # a stopwatch's
        lines[0]["plan"]["tiers"][-1] = "edge"
        lines[-1]["at_s"] += 0.01

    edit_lines(two_runs / "2" / "plans.jsonl", other_plan)
    found = against_first(two_runs)
    assert len(found.unequal) == 2
    assert "decision 1" in found.unequal[0]
    assert "plan differs" in found.unequal[0]
    assert "at second" in found.unequal[1]
    edit_lines(two_runs / "2" / "plans.jsonl", lambda lines: lines.pop())
    assert any("decisions of planners" in text for text in against_first(two_runs).unequal)


def test_runs_of_other_requests_cannot_be_compared(two_runs: Path) -> None:
    edit_rows(two_runs / "2" / "inferences.csv", lambda rows: rows.pop() and None)
    with pytest.raises(RunError, match="same requests"):
        against_first(two_runs)


def test_conditions_are_spread_over_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert [one.words() for one in check.plan_of(3, True, 7)] == ["plain", "all cores loaded", "as uid 7"]
    assert [one.words() for one in check.plan_of(2, True, 7)] == ["plain", "all cores loaded and as uid 7"]
    assert [one.words() for one in check.plan_of(2, False, None)] == ["plain", "plain"]
    with pytest.raises(InputError, match="--times 1"):
        check.plan_of(1, False, None)
    with pytest.raises(InputError, match="ordinary user"):
        check.plan_of(2, False, 0)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(InputError, match="only root"):
        check.plan_of(2, False, 7)


def test_the_command_says_whether_it_repeats(
    scenario_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["verify", "repeat", str(scenario_file), "--times", "2", "--backend", "sim"]
    assert main([*arguments, "--out", str(tmp_path / "a"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["repeats"]
    assert [run["latency_s"] for run in found["runs"]] == [0.0]
    monkeypatch.setattr(check, "LATENCY_LIMIT_S", -1.0)
    assert main([*arguments, "--out", str(tmp_path / "b")]) == 3
    assert "it does not repeat" in capsys.readouterr().out
    assert main([*arguments, "--out", str(tmp_path / "b")]) == 2


@pytest.mark.long
@pytest.mark.skipif(cache.installed() is None, reason="the time-travel kernel is not built: testbed kernel build")
def test_a_run_in_the_kernel_repeats_under_load_and_as_another_user(
    scenario_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only root can become another user; as an ordinary one every test here runs as one."""
    other = ["--uid", str(NOBODY)] if os.geteuid() == 0 else []
    arguments = ["verify", "repeat", str(scenario_file), "--times", "2", "--loaded", *other, "--out", str(tmp_path / "runs")]
    assert main([*arguments, "--json"]) == 0, capsys.readouterr()
    (found,) = json.loads(capsys.readouterr().out)["runs"]
    assert found["conditions"] == {"loaded": True, "uid": NOBODY if other else None}
    assert found["latency_s"] <= check.LATENCY_LIMIT_S
    assert found["unequal"] == []
