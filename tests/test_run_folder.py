"""The run folder: whole lines only, documents replaced in one step, every column explained, summaries that follow from rows."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from testbed.errors import InputError
from testbed.orchestrator.columns import FAULTS, INFERENCES, LINKS, RECOVERED, STEPS
from testbed.orchestrator.folder import RunFolder
from testbed.orchestrator.results import Lines, Table, write_json
from testbed.orchestrator.summary import percentile, summarise

DOCS = Path(__file__).resolve().parent.parent / "docs" / "run_folder.md"


def row(planner: str, number: int, latency: float | None, **more: str) -> dict[str, str]:
    found = {
        "model": "m",
        "planner": planner,
        "device": "d1",
        "request": str(number),
        "warmup": "false",
        "backbone_bytes": "1000",
    }
    found |= {"latency_s": "" if latency is None else f"{latency:.9f}", "error": "" if latency is not None else "ComputeError"}
    return {**found, **more}


def plan(planner: str, reason: str, touched: int, installed: bool, seconds: float) -> dict[str, object]:
    base = {"model": "m", "planner": planner, "device": "d1", "vertices": 9, "planning_time_s": seconds}
    return {**base, "reason": reason, "touched": list(range(touched)), "installed": installed}


def filled(path: Path) -> RunFolder:
    folder = RunFolder(path)
    folder.save_manifest(status="finished", seed=1, scenario={"name": "s"}, backend={"name": "sim"}, wide_area_links=["backbone"])
    folder.inferences.add(row("slow", 0, 99.0, warmup="true"))
    for i in range(4):
        folder.inferences.add(row("slow", i, 0.4 + 0.1 * i))
        folder.inferences.add(row("fast", i, 0.1 if i else None, correct="true", max_rel_error="2.000e-07"))
    folder.links.add(
        {"model": "m", "planner": "fast", "link": "backbone", "direction": "up", "kind": "total", "wire_bytes": 5000}
    )
    folder.links.add({"model": "m", "planner": "fast", "link": "access-d1", "direction": "up", "kind": "total", "wire_bytes": 7})
    for record in (
        plan("fast", "first", 9, True, 0.5),
        plan("fast", "change", 2, True, 0.001),
        plan("fast", "change", 3, False, 0.003),
        plan("slow", "first", 9, True, 0.1),
    ):
        folder.plans.add(record)
    return folder


def test_the_summary_follows_from_the_files(tmp_path: Path) -> None:
    folder = filled(tmp_path / "run")
    folder.save_fidelity(
        {"verdict": "degraded", "failing": ["x"], "sessions": [{"model": "m", "planner": "fast", "verdict": "trusted"}]}
    )
    folder.close()
    found = summarise(tmp_path / "run")
    slow, fast = found.pairs
    assert (found.verdict, found.failing, found.status, found.backend) == ("degraded", ["x"], "finished", "sim")
    assert (slow.mean_s, slow.p50_s, slow.p95_s) == (pytest.approx(0.55), pytest.approx(0.55), pytest.approx(0.685))
    assert (fast.requests, fast.failed, fast.mean_s) == (4, 1, pytest.approx(0.1))
    assert fast.speedup == {"slow": pytest.approx(5.5)}
    assert (fast.backbone_bytes, fast.backbone_wire_bytes, slow.backbone_wire_bytes) == (1000, 5000, None)
    assert (fast.replans, fast.plan_changes, fast.touched_vertices, fast.vertices) == (2, 1, 5, 9)
    assert (fast.planning_time_s, fast.first_planning_time_s) == (pytest.approx(0.002), 0.5)
    assert math.isnan(slow.planning_time_s)
    assert (fast.max_rel_error, fast.verdict, slow.verdict) == (2e-7, "trusted", "rejected")
    json.dumps(found.to_dict(), allow_nan=False)


def test_rows_can_be_read_while_the_run_goes_on(tmp_path: Path) -> None:
    folder = filled(tmp_path / "run")
    text = (tmp_path / "run" / "inferences.csv").read_text()
    assert text.endswith("\n")
    assert len(text.splitlines()) == 10
    assert summarise(tmp_path / "run").verdict == "rejected", "there is no verdict yet"
    folder.close()


def test_what_an_error_says_cannot_break_a_row(tmp_path: Path) -> None:
    table = Table(tmp_path / "t.csv", {"a": "", "b": ""})
    table.add({"a": 'says "no",\nloudly', "b": 1})
    table.close()
    assert (tmp_path / "t.csv").read_text() == 'a,b\n"says ""no"",\nloudly",1\n'


def test_a_row_of_another_length_is_refused(tmp_path: Path) -> None:
    table = Table(tmp_path / "t.csv", {"a": "", "b": ""})
    with pytest.raises(ValueError, match="3 values for 2 columns"):
        table.add_values([1, 2, 3])
    table.close()


def test_documents_are_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})

    class Bad:
        def __str__(self) -> str:
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        write_json(path, {"a": 2, "b": Bad()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_numbers_that_json_lacks_become_words(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "x.jsonl")
    lines.add({"a": math.inf, "b": {3, 1}, 5: (1.5,)})
    lines.close()
    assert json.loads((tmp_path / "x.jsonl").read_text()) == {"a": "inf", "b": [1, 3], "5": [1.5]}


@pytest.mark.parametrize("broken", ["manifest.json", "inferences.csv"])
def test_a_folder_without_a_run_is_named(tmp_path: Path, broken: str) -> None:
    filled(tmp_path / "run").close()
    (tmp_path / "run" / broken).unlink()
    with pytest.raises(InputError, match="not a run folder"):
        summarise(tmp_path / "run")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        RunFolder(tmp_path / "file" / "run")


@pytest.mark.parametrize(
    ("columns", "heading"),
    [(INFERENCES | RECOVERED, "inferences.csv"), (STEPS, "steps.csv"), (LINKS, "links.csv"), (FAULTS, "faults.csv")],
)
def test_every_column_is_documented(columns: dict[str, str], heading: str) -> None:
    section = DOCS.read_text().split(f"## `{heading}`")[1].split("\n## ")[0]
    assert dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", section, flags=re.MULTILINE)) == columns


@pytest.mark.parametrize(("share", "value"), [(0.0, 1.0), (0.5, 2.5), (0.95, 3.85), (1.0, 4.0)])
def test_percentiles_are_interpolated(share: float, value: float) -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], share) == pytest.approx(value)
