"""Runs whose process is killed, and that another process goes on with: what was finished stays, nothing is lost or doubled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from testbed.backends.sim import SimBackend
from testbed.cli import main
from testbed.errors import InputError, RunError
from testbed.orchestrator import resume, run, summarise
from testbed.orchestrator.checkpoints import Checkpoints
from testbed.report import load
from testbed.scenario.load import load as load_scenario

HERE = Path(__file__).resolve().parent
TABLES = ("inferences.csv", "steps.csv", "links.csv")
VERDICTS = {"trusted": 0, "degraded": 0, "rejected": 3}
KILLED = """
import os, signal, sys
from testbed import registry
from testbed.orchestrator import resume, run
from testbed.scenario.load import load
scenario, folder, backend, event, number, again = sys.argv[1:7]
seen = 0
def watch(told):
    global seen
    seen += told["event"] == event
    if seen == int(number):
        os.kill(os.getpid(), signal.SIGKILL)
if again == "again":
    resume(folder, registry.backend(backend), watch)
else:
    run(load(scenario), registry.backend(backend), folder, watch)
"""
SCENARIO = """
name = "killed"
[model]
names = ["alexnet"]
[topology]
edges = 2
devices = 2
[links.backbone]
trace = "lte-like"
loss = 0.01
[requests]
count = 6
arrival = "poisson"
rate = "4 /s"
[planning]
planners = ["d3", "hpa", "neurosurgeon", "cloud-only"]
probe_interval = "0.2 s"
[compute]
tensors = "sizes"
"""


def written(folder: Path, more: str = "") -> Path:
    (folder / "killed.toml").write_text(SCENARIO + more)
    return folder / "killed.toml"


def killed(scenario: Path, folder: Path, event: str, number: int, backend: str = "sim", again: bool = False) -> None:
    """Carry a run out in a process that dies with the so manieth event of a kind, without last words."""
    words = [str(scenario), str(folder), backend, event, str(number), "again" if again else "begin"]
    path = os.pathsep.join((str(HERE), str(HERE.parent)))
    found = subprocess.run([sys.executable, "-c", KILLED, *words], env={**os.environ, "PYTHONPATH": path}, check=False)
    assert found.returncode == -signal.SIGKILL


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {
        name: (folder / name).read_bytes() for name in (*TABLES, *(["faults.csv"] if (folder / "faults.csv").exists() else []))
    }


def plans(folder: Path) -> list[dict[str, Any]]:
    """Decisions, without what a stopwatch says."""
    records = [json.loads(line) for line in (folder / "plans.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key != "planning_time_s"} for record in records]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    run(load_scenario(written(folder)), SimBackend(), folder / "run")
    return folder / "run"


@pytest.mark.parametrize(
    ("event", "number", "session"),
    [
        ("progress", 20, 2),
        ("session", 2, 2),
        *(
            pytest.param(*one, marks=pytest.mark.long)
            for one in (("run", 1, 1), ("progress", 3, 1), ("session_end", 1, 1), ("progress", 52, 4), ("run_end", 1, None))
        ),
    ],
)
def test_a_killed_simulation_comes_to_the_rows_of_one_that_was_not(
    event: str, number: int, session: int | None, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    killed(written(tmp_path), folder, event, number)
    assert main(["run", str(folder), "--resume"]) == VERDICTS[summarise(whole).verdict]
    assert contents(folder) == contents(whole)
    assert plans(folder) == plans(whole)
    assert manifest(folder)["status"] == "finished"
    assert [entry["session"] for entry in manifest(folder).get("resumed", [])] == ([] if event == "run_end" else [session])


def test_what_finished_sessions_have_left_is_not_written_again(tmp_path: Path) -> None:
    scenario, folder = written(tmp_path), tmp_path / "run"
    killed(scenario, folder, "progress", 45)
    with (folder / "inferences.csv").open("rb") as held:  # the same file afterwards, with the same beginning
        sizes = Checkpoints(folder)
        kept = sizes.sizes["inferences.csv"]
        sizes.close()
        before = held.read(kept)
        resume(folder, SimBackend())
        held.seek(0)
        assert held.read(kept) == before
        assert os.fstat(held.fileno()).st_ino == (folder / "inferences.csv").stat().st_ino
    assert kept > 1000


def test_a_run_may_be_killed_again_and_again(whole: Path, tmp_path: Path) -> None:
    scenario, folder = written(tmp_path), tmp_path / "run"
    killed(scenario, folder, "progress", 16)
    killed(scenario, folder, "session_end", 2, again=True)
    killed(scenario, folder, "progress", 2, again=True)
    summary = resume(folder, SimBackend())
    assert summary.status == "finished"
    assert contents(folder) == contents(whole)
    assert [(entry["session"], entry["how"]) for entry in manifest(folder)["resumed"]] == [
        (2, "begun again"),
        (3, "begun again"),
        (3, "begun again"),
    ]
    assert manifest(folder)["started"] <= manifest(folder)["resumed"][0]["at"]
    events = load(folder).events
    assert len(events[events.event == "run"]) == 1
    assert len(events[events.event == "session_end"]) == 4


def test_the_verdict_speaks_of_all_sessions(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    killed(written(tmp_path), folder, "progress", 33)
    resume(folder, SimBackend())
    mine, theirs = (json.loads((path / "fidelity.json").read_text()) for path in (folder, whole))
    assert mine["sessions"] == theirs["sessions"]
    assert mine["verdict"] == theirs["verdict"]
    assert [pair.requests for pair in summarise(folder).pairs] == [12] * 4


def test_with_faults_a_killed_simulation_comes_to_the_same_rows(tmp_path: Path) -> None:
    more = '[[fault]]\nkind = "kill"\nat = "0.5 s"\nfor = "0.5 s"\nhost = "e2"\n'
    scenario = written(tmp_path, more)
    run(load_scenario(scenario), SimBackend(), tmp_path / "whole")
    killed(scenario, tmp_path / "run", "progress", 20)
    resume(tmp_path / "run", SimBackend())
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    assert "faults.csv" in contents(tmp_path / "run")


def test_a_finished_run_is_left_alone(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    assert main(["run", str(whole), "--resume"]) == VERDICTS[summarise(whole).verdict]
    assert "nothing to do" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == before


def test_a_run_that_is_alive_is_not_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    tried: list[int] = []

    def watch(told: dict[str, Any]) -> None:
        if told["event"] == "progress" and not tried:
            tried.append(main(["run", str(folder), "--resume"]))

    run(load_scenario(written(tmp_path)), SimBackend(), folder, watch)
    assert tried == [2]
    assert "a process that is alive" in capsys.readouterr().err


def test_a_failed_run_is_gone_on_with(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def fail(told: dict[str, Any]) -> None:
        if told["event"] == "progress" and told["done"] == 30:
            raise RunError("enough")

    with pytest.raises(RunError):
        run(load_scenario(written(tmp_path)), SimBackend(), folder, fail)
    assert manifest(folder)["status"] == "failed"
    resume(folder, SimBackend())
    assert contents(folder) == contents(whole)
    assert manifest(folder)["status"] == "finished"
    assert manifest(folder)["reason"] is None


def test_what_cannot_be_gone_on_with_is_said(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(whole), "--resume", "--seed", "3", "--backend", "sim"]) == 2
    assert "--backend, --seed" in capsys.readouterr().err
    for name in ("quickstart", str(written(tmp_path)), str(tmp_path)):
        assert main(["run", name, "--resume"]) == 2
        assert "run folder" in capsys.readouterr().err
    folder = tmp_path / "run"
    killed(written(tmp_path), folder, "progress", 20)
    (folder / "steps.csv").write_text("")
    assert main(["run", str(folder), "--resume"]) == 2
    assert "steps.csv lacks" in capsys.readouterr().err


def test_sessions_on_record_that_do_not_repeat_are_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    killed(written(tmp_path), folder, "progress", 20)
    text = (folder / "inferences.csv").read_text().splitlines(keepends=True)
    text[2] = text[2].replace(",d3,d2," if ",d3,d2," in text[2] else ",d3,d1,", ",d3,d9,")
    (folder / "inferences.csv").write_text("".join(text))
    with pytest.raises(RunError, match="does not come to what is on record"):
        resume(folder, SimBackend())


def test_a_folder_that_holds_nothing_yet_is_begun(whole: Path, tmp_path: Path) -> None:
    """Its process died before its files were made."""
    folder = tmp_path / "run"
    killed(written(tmp_path), folder, "run", 1)
    (folder / "checkpoints.jsonl").write_text("")
    (folder / "plans.jsonl").unlink()
    resume(folder, SimBackend())
    assert contents(folder) == contents(whole)


def test_two_writers_are_kept_apart(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    killed(written(tmp_path), folder, "progress", 3)
    first = Checkpoints(folder)
    with pytest.raises(InputError, match="alive"):
        Checkpoints(folder)
    first.close()
    Checkpoints(folder).close()
