"""Real machines' agents outlive an orchestrator that is killed: another one takes its session over, and no request is lost."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from machines import SMALL, Machines, machines

from testbed.backends.hosts import HostsBackend
from testbed.cli import main
from testbed.orchestrator import resume
from testbed.report import load

HERE = Path(__file__).resolve().parent
KILLED = """
import os, signal, sys
from testbed.backends.hosts import HostsBackend
from testbed.orchestrator import recovery, results, resume, run, tracker, trail
from testbed.scenario.load import load
scenario, folder, inventory, where, number, again = sys.argv[1:7]
left = int(number)
def die():
    os.kill(os.getpid(), signal.SIGKILL)
def counted(holds=True):
    global left
    left -= bool(holds)
    return holds and left == 0
def behind(owner, name, holds=lambda *a: True):
    real = getattr(owner, name)
    def call(self, *given):
        found = real(self, *given)
        if holds(*given) and counted():
            die()
        return found
    setattr(owner, name, call)
measured = []
zero = trail.Trail.zero
trail.Trail.zero = lambda self, start: (measured.append(1), zero(self, start))[1]
def now(*_):
    return len(measured) == 2 or again == "again"
if where == "about to submit":
    behind(trail.Trail, "submitting", now)
elif where == "submitted":
    real = tracker.Tracker.start
    async def start(self, *given):
        await real(self, *given)
        if now() and counted():
            die()
    tracker.Tracker.start = start
elif where == "told":
    push = tracker.Tracker.push
    tracker.Tracker.push = lambda self, host, message: (
        die() if now() and message.kind == "done" and counted() else push(self, host, message)
    )
elif where == "half written":
    behind(results.Table, "add_lines", now)
elif where == "written":
    behind(results.Table, "add_values", now)
elif where == "warming up":
    behind(trail.Trail, "submitting", lambda *a: len(measured) == 1)
backend = HostsBackend(inventory)
resume(folder, backend) if again == "again" else run(load(scenario), backend, folder)
"""
COUNT = 12
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    with machines(tmp_path_factory.mktemp("lab") / "made", 41, offsets={"d1": 50.0, "e1": -7.5}) as started:
        yield started


def written(folder: Path, arrival: str = 'arrival = "fixed"\nrate = "8 /s"', recovery: str = 'mode = "resume"') -> Path:
    """Three sessions; the second is the one that is cut off."""
    path = folder / "lost.toml"
    path.write_text(
        f'name = "lost"\n[model]\nnames = ["{SMALL}"]\n[topology]\nedges = 2\n[links.backbone]\nrate = "50 Mbit/s"\n'
        f'[compute]\nmode = "measured"\n[requests]\ncount = {COUNT}\ndeadline = "60 s"\n{arrival}\n[recovery]\n{recovery}\n'
        'heartbeat = "0.2 s"\ndetect = "5 s"\n[planning]\nplanners = ["hpa", "d3", "cloud-only"]\n'
    )
    return path


def killed(scenario: Path, folder: Path, lab: Machines, where: str, number: int, again: bool = False) -> None:
    words = [str(scenario), str(folder), str(lab.inventory), where, str(number), "again" if again else "begin"]
    path = os.pathsep.join((str(HERE), str(HERE.parent)))
    given = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    found = subprocess.run([sys.executable, "-c", KILLED, *words], env=given, check=False)
    assert found.returncode == -signal.SIGKILL


def rows(folder: Path, name: str = "inferences.csv") -> list[dict[str, str]]:
    with (folder / name).open() as file:
        return list(csv.DictReader(file))


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


def hold_it_to_its_promise(folder: Path, before: bytes) -> None:
    """Every request of every session has ended once, with the whole model's answer; what was on record is as it was."""
    found = rows(folder)
    assert (folder / "inferences.csv").read_bytes().startswith(before)
    counts = Counter((row["planner"], row["device"], row["request"], row["warmup"]) for row in found)
    assert set(counts.values()) == {1}
    measured = Counter(row["planner"] for row in found if row["warmup"] == "false")
    assert measured == {"hpa": COUNT, "d3": COUNT, "cloud-only": COUNT}
    assert [row["error_text"] for row in found if row["error"]] == []
    assert {row["correct"] for row in found} == {"true"}
    steps = rows(folder, "steps.csv")
    assert {(row["planner"], row["request"], row["warmup"]) for row in steps} == {
        (row["planner"], row["request"], row["warmup"]) for row in found
    }
    told = Counter(tuple(row.values()) for row in steps)
    assert set(told.values()) == {1}
    fidelity = json.loads((folder / "fidelity.json").read_text())
    for session in fidelity["sessions"]:
        assert next(i for i in session["invariants"] if i["name"] == "one_ending_each")["level"] == "ok"
        assert session["facts"]["requests"] == session["facts"]["over"] == COUNT + 1
        assert session["facts"]["checked"] == COUNT + 1
    run = load(folder)
    assert len(run.measured) == 3 * COUNT
    assert manifest(folder)["status"] == "finished"


@pytest.mark.parametrize(
    ("where", "number"),
    [
        ("about to submit", 4),
        ("told", 3),
        *(pytest.param(*one, marks=pytest.mark.long) for one in (("submitted", 5), ("half written", 3), ("written", 5))),
    ],
)
def test_another_process_takes_a_session_over_and_every_request_ends_once(
    where: str, number: int, lab: Machines, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    killed(written(tmp_path), folder, lab, where, number)
    before = (folder / "inferences.csv").read_bytes()
    time.sleep(1.0)  # what is due meanwhile is late
    assert main(["run", str(folder), "--resume", "--inventory", str(lab.inventory)]) in (0, 3)
    hold_it_to_its_promise(folder, before)
    (entry,) = manifest(folder)["resumed"]
    assert (entry["session"], entry["planner"], entry["how"]) == (2, "d3", "taken over")
    late = [float(row["submitted_s"]) - float(row["due_s"]) for row in rows(folder) if row["planner"] == "d3"]
    assert max(late) > 0.5
    epochs = {
        planner: {int(r["epoch"]) for r in rows(folder) if r["planner"] == planner} for planner in ("hpa", "d3", "cloud-only")
    }
    assert max(epochs["hpa"]) < min(epochs["d3"]) <= max(epochs["d3"]) < min(epochs["cloud-only"])


@pytest.mark.long
def test_a_closed_loop_goes_on_behind_the_request_that_was_under_way(lab: Machines, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    killed(written(tmp_path, arrival=""), folder, lab, "submitted", 4)
    before = (folder / "inferences.csv").read_bytes()
    resume(folder, HostsBackend(lab.inventory))
    hold_it_to_its_promise(folder, before)
    assert [entry["how"] for entry in manifest(folder)["resumed"]] == ["taken over"]


@pytest.mark.long
def test_who_took_over_may_be_killed_too(lab: Machines, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    killed(written(tmp_path), folder, lab, "told", 2)
    killed(written(tmp_path), folder, lab, "submitted", 3, again=True)
    killed(written(tmp_path), folder, lab, "told", 2, again=True)
    before = (folder / "inferences.csv").read_bytes()
    resume(folder, HostsBackend(lab.inventory))
    hold_it_to_its_promise(folder, before)
    assert [entry["how"] for entry in manifest(folder)["resumed"]] == ["taken over"] * 3


@pytest.mark.parametrize(
    "hindrance", [pytest.param(one, marks=pytest.mark.long) for one in ("another agent", "no recovery", "warm-up")]
)
def test_what_cannot_be_taken_over_is_begun_again_and_says_why(hindrance: str, lab: Machines, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    scenario = written(tmp_path, recovery='mode = "none"') if hindrance == "no recovery" else written(tmp_path)
    killed(scenario, folder, lab, *(("warming up", COUNT + 1) if hindrance == "warm-up" else ("written", 4)))
    sessions = [json.loads(line) for line in (folder / "checkpoints.jsonl").read_text().splitlines()]
    kept = [record for record in sessions if record["what"] == "session"]
    before = (folder / "inferences.csv").read_bytes()[: kept[-1]["sizes"]["inferences.csv"]]
    if hindrance == "another agent":
        lab.start("e1")
    resume(folder, HostsBackend(lab.inventory))
    hold_it_to_its_promise(folder, before)
    (entry,) = manifest(folder)["resumed"]
    assert (entry["session"], entry["how"]) == (2, "begun again")
    words = {"no recovery": "without recovery", "warm-up": "second 0", "another agent": "e1: the agent was started anew"}
    assert words[hindrance] in entry["why"]
    (event,) = load(folder).events.query("event == 'run_resumed'").to_dict(orient="records")
    assert event["why"] == entry["why"]
