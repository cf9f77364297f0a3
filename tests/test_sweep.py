"""Sweeps: every cell once, the same figures however it is run, little lost when killed, mistakes found before the start."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from testbed import registry, sweep
from testbed.cli import main
from testbed.errors import InputError
from testbed.orchestrator import run
from testbed.orchestrator.memory import measure
from testbed.orchestrator.world import prepare
from testbed.report import load as load_run
from testbed.sweep.cell import run_cell
from testbed.sweep.columns import CELLS, WALL_CLOCK
from testbed.sweep.estimate import estimate
from testbed.sweep.folder import SweepFolder
from testbed.sweep.spec import shipped

ROOT = Path(__file__).resolve().parent.parent
BROKEN = """
import os
from testbed.planners.single import CloudOnly

class Broken(CloudOnly):
    def plan(self, *given, **named):
        raise RuntimeError("this planner\\nis broken")

class Deadly(CloudOnly):
    def plan(self, *given, **named):
        os._exit(9)
"""

SWEEP = """
name = "small"
scenario = "quickstart"
[set]
"compute.tensors" = "sizes"
"requests.count" = {count}
"planning.probe_interval" = "2 s"
[axes]
models = ["alexnet"]
planners = {planners}
traces = ["lte-like", "none"]
seeds = {seeds}
[axes.parameters]
"links.backbone.delay" = ["5 ms", "40 ms"]
"""


def sweep_file(
    folder: Path, count: int = 2, planners: tuple[str, ...] = ("cloud-only", "hpa"), seeds: int = 1, more: str = ""
) -> Path:
    file = folder / "small.toml"
    text = SWEEP.format(count=count, planners=json.dumps(planners), seeds=seeds)
    # without a trace the backbone needs a rate
    file.write_text(text.replace('"planning.probe', '"links.backbone.rate" = "9 Mbit/s"\n"planning.probe'))
    return file


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "cells.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def figures(folder: Path) -> dict[str, dict[str, str]]:
    """What a repetition must reproduce, by key."""
    return {row["key"]: {name: value for name, value in row.items() if name not in WALL_CLOCK} for row in rows(folder)}


def in_process(plan: sweep.Plan) -> dict[str, dict]:
    return {cell.key: run_cell(cell.task(), plan.spec.backend, None) for cell in plan.cells}


def test_a_cell_has_the_figures_of_a_run_with_a_folder(tmp_path):
    plan = sweep.plan(sweep.read(sweep_file(tmp_path, planners=("d3",))))
    for cell in plan.cells[:2]:
        found = run_cell(cell.task(), "sim", None)
        summary = run(cell.scenario, registry.backend("sim"), tmp_path / cell.key).pairs[0]
        assert found["status"] == "finished"
        for name in (
            "mean_s",
            "p95_s",
            "backbone_bytes",
            "backbone_wire_bytes",
            "replans",
            "plan_changes",
            "requests",
            "verdict",
        ):
            assert found[name] == getattr(summary, name), name
        assert found["transfer_backbone_s"] == pytest.approx(load_run(tmp_path / cell.key).answered.transfer_backbone_s.mean())


def test_a_run_in_memory_has_the_rows_of_the_folder(tmp_path):
    cell = sweep.plan(sweep.read(sweep_file(tmp_path))).cells[0]
    run(cell.scenario, registry.backend("sim"), tmp_path / "run")
    with (tmp_path / "run" / "inferences.csv").open(newline="") as file:
        assert measure(prepare(cell.scenario), registry.backend("sim")).inferences == list(csv.DictReader(file))


def test_a_cell_does_not_depend_on_those_before_it(tmp_path):
    plan = sweep.plan(sweep.read(sweep_file(tmp_path)))
    forward = in_process(plan)
    for cell in reversed(plan.cells):
        again = run_cell(cell.task(), "sim", None)
        assert {n: v for n, v in again.items() if n not in WALL_CLOCK} == {
            n: v for n, v in forward[cell.key].items() if n not in WALL_CLOCK
        }


def test_a_sweep_runs_every_cell_once_and_again_none(tmp_path):
    file, folder = sweep_file(tmp_path), tmp_path / "out"
    plan = sweep.plan(sweep.read(file))
    first = sweep.execute(plan, folder, workers=2)
    assert (first.cells, first.finished, first.ran, first.failures) == (8, 8, 8, ())
    before = (folder / "cells.csv").read_bytes()
    again = sweep.execute(sweep.plan(sweep.read(file)), folder, workers=2)
    assert (again.finished, again.ran) == (8, 0)
    assert (folder / "cells.csv").read_bytes() == before
    direct = in_process(plan)
    for key, row in figures(folder).items():
        assert float(row["mean_s"]) == direct[key]["mean_s"]
    frame = sweep.load(folder)
    assert list(frame["key"]) == [cell.key for cell in plan.cells]
    assert set(frame["links.backbone.delay"]) == {"5 ms", "40 ms"}
    assert set(CELLS) - {"parameters"} <= set(frame.columns)
    assert frame.groupby("links.backbone.delay").mean_s.mean().is_monotonic_decreasing  # "40 ms" sorts first


def test_a_longer_axis_adds_only_its_cells(tmp_path):
    folder = tmp_path / "out"
    sweep.execute(sweep.plan(sweep.read(sweep_file(tmp_path))), folder, workers=1)
    more = sweep.execute(sweep.plan(sweep.read(sweep_file(tmp_path, seeds=2))), folder, workers=1)
    assert (more.cells, more.ran) == (16, 8)
    sweep.execute(sweep.plan(sweep.read(sweep_file(tmp_path, planners=("hpa",)))), folder, workers=1)
    assert set(sweep.load(folder).planner) == {"hpa"}  # what the file no longer has is left out


def test_keys_tell_apart_what_decides_the_figures_and_nothing_else(tmp_path):
    def keys(**change):
        return {cell.key for cell in sweep.plan(sweep.read(sweep_file(tmp_path, **change))).cells}

    assert keys() == keys()
    assert not keys() & keys(count=3)
    assert keys() < keys(seeds=2)
    trace = tmp_path / "mine.csv"
    trace.write_text("time_s,rate_bps\n0,5e6\n1,6e6\n")
    named = sweep_file(tmp_path)
    named.write_text(named.read_text().replace('"lte-like"', '"mine.csv"'))
    before = {cell.key for cell in sweep.plan(sweep.read(named)).cells}
    trace.write_text("time_s,rate_bps\n0,5e6\n1,7e6\n")
    after = {cell.key for cell in sweep.plan(sweep.read(named)).cells}
    assert len(before & after) == 4  # those without the trace


def test_killed_outright_a_sweep_loses_at_most_the_running_cells(tmp_path):
    file, folder = sweep_file(tmp_path, count=4, seeds=3), tmp_path / "out"
    command = [sys.executable, "-m", "testbed.cli", "sweep", str(file), "--out", str(folder), "--workers", "2"]
    child = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        until(lambda: (folder / "cells.csv").is_file() and len((folder / "cells.csv").read_bytes().splitlines()) > 4, child)
        workers = {int(row["worker"].rpartition(":")[2]) for row in rows(folder)}
    finally:
        child.kill()
        child.wait()
    kept = rows(folder)
    assert 3 <= len(kept) < 24
    until(lambda: not any(alive(pid) for pid in workers))
    with (folder / "cells.csv").open("a") as table:
        table.write("0123,finis")  # as an abrupt end may leave it
    outcome = sweep.execute(sweep.plan(sweep.read(file)), folder, workers=1)
    assert (outcome.finished, outcome.ran) == (24, 24 - len(kept))
    assert rows(folder)[: len(kept)] == kept
    assert len({row["key"] for row in rows(folder)}) == len(rows(folder)) == 24


def test_interrupted_a_sweep_says_how_to_go_on(tmp_path):
    file, folder = sweep_file(tmp_path, count=4, seeds=3), tmp_path / "out"
    command = [sys.executable, "-m", "testbed.cli", "sweep", str(file), "--out", str(folder), "--workers", "1"]
    child = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    until(lambda: (folder / "cells.csv").is_file() and len((folder / "cells.csv").read_bytes().splitlines()) > 2, child)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=120)
    assert child.returncode == 130
    assert "the same command goes on" in said
    kept = len(rows(folder))
    assert sweep.load(folder).status.value_counts()["pending"] == 24 - kept
    assert '"status": "interrupted"' in (folder / "manifest.json").read_text()


def test_failed_cells_say_why_and_are_retried_on_request(tmp_path, capsys):
    (tmp_path / "own.py").write_text(BROKEN)
    file, folder = sweep_file(tmp_path, planners=("cloud-only", "own.py:Broken")), tmp_path / "out"
    assert main(["sweep", str(file), "--out", str(folder), "--workers", "1"]) == 1
    out = capsys.readouterr().out
    assert "failed    4 cells: RunError: planner 'own.py:Broken' failed" in out
    assert "this planner | is broken" in out
    frame = sweep.load(folder)
    assert set(frame[frame.status == "failed"].planner) == {"own.py:Broken"}
    assert frame[frame.status == "failed"].mean_s.isna().all()
    plan = sweep.plan(sweep.read(file))
    assert sweep.execute(plan, folder, workers=1).ran == 0
    assert sweep.execute(plan, folder, workers=1, retry_failed=True).ran == 4
    assert len(sweep.load(folder)) == 8


def test_a_cell_that_ends_its_process_takes_no_other_with_it(tmp_path):
    (tmp_path / "own.py").write_text(BROKEN)
    file = sweep_file(tmp_path, planners=("own.py:Deadly", "hpa"))
    file.write_text(file.read_text().replace('"5 ms", ', "").replace(', "none"', ""))
    outcome = sweep.execute(sweep.plan(sweep.read(file)), tmp_path / "out", workers=2)
    assert outcome.finished == 1
    assert [row["error"] for row in outcome.failures] == ["WorkerDied"]


def test_two_processes_do_not_write_to_one_folder(tmp_path):
    plan = sweep.plan(sweep.read(sweep_file(tmp_path, planners=("hpa",))))
    held = SweepFolder(tmp_path / "out", plan)
    try:
        with pytest.raises(InputError, match="another process runs this sweep"):
            sweep.execute(plan, tmp_path / "out", workers=1)
    finally:
        held.close()


def test_a_run_folder_of_every_cell_is_kept_on_request(tmp_path):
    file = sweep_file(tmp_path, planners=("hpa",))
    file.write_text(file.read_text().replace('"5 ms", ', "").replace(', "none"', ""))
    plan = sweep.plan(sweep.read(file))
    sweep.execute(plan, tmp_path / "out", workers=1, keep_runs=True)
    (cell,) = plan.cells
    kept = load_run(tmp_path / "out" / "runs" / cell.key)
    assert sweep.load(tmp_path / "out").mean_s[0] == pytest.approx(kept.answered.latency_s.mean())


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[axes]", "[axis]", 'small.toml:8: unknown key "axis"; did you mean "axes"'),
        ("seeds =", "seed =", 'unknown key "axes.seed"; did you mean "seeds"'),
        ('"hpa"', '"hpaa"', 'unknown planner "hpaa"; did you mean "hpa"'),
        ('"alexnet"', '"alexnett"', "alexnet"),
        ('["5 ms", "40 ms"]', "[]", "an empty axis"),
        ("seeds = 1", "seeds = 0", "an empty axis"),
        ('["5 ms", "40 ms"]', '["5 ms", "5 ms"]', "stands there twice"),
        ('["5 ms", "40 ms"]', '["5 ms", "0.005 s"]', "two cells are the same"),
        ('["5 ms", "40 ms"]', '["5 ms", "fast"]', "links.backbone.delay"),
        ('["5 ms", "40 ms"]', '["5 ms", [1]]', "a value of an axis is"),
        ('"links.backbone.delay" =', '"links.backbon.delay" =', "backbon"),
        ('"links.backbone.delay" =', '"links.backbone.dela" =', 'unknown key "dela"'),
        ('"links.backbone.delay" =', '"seed" =', "axes.seeds"),
        ('"lte-like"', '"lte-lik"', "no such trace"),
        ('scenario = "quickstart"', 'scenario = "quickstar"', 'did you mean "quickstart"'),
        ('scenario = "quickstart"', "", "scenario is missing"),
        ('scenario = "quickstart"', 'scenario = "quickstart"\nbackend = "ns3"', 'unknown backend "ns3"'),
        ('name = "small"', "name = ", "not valid TOML"),
    ],
)
def test_mistakes_are_named_before_anything_runs(tmp_path, capsys, old, new, says):
    file = sweep_file(tmp_path)
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1).lstrip())
    folder = tmp_path / "out"
    assert main(["sweep", str(file), "--out", str(folder)]) == 2
    assert says in capsys.readouterr().err
    assert not folder.exists()


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path, capsys):
    file, folder = sweep_file(tmp_path), tmp_path / "out"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    assert main(["sweep", str(file), "--out", str(folder)]) == 2
    assert [entry.name for entry in folder.iterdir()] == ["thesis.txt"]
    assert main(["sweep", "no-such-sweep"]) == 2
    assert "quickstart_sweep" in capsys.readouterr().err


def test_a_dry_run_measures_and_leaves_nothing(tmp_path, capsys):
    file, folder = sweep_file(tmp_path), tmp_path / "out"
    assert main(["sweep", str(file), "--out", str(folder), "--dry-run", "--workers", "2", "--probes", "2"]) == 0
    out = capsys.readouterr().out
    assert "cells     8, of which 8" in out
    assert "2 cells tried here" in out
    assert main(["sweep", str(file), "--out", str(folder), "--dry-run", "--probes", "0"]) == 0
    assert "not estimated" in capsys.readouterr().out
    assert not folder.exists()
    cells = sweep.plan(sweep.read(file)).cells
    found = estimate(cells, "sim", 2, 2)
    assert found.seconds == pytest.approx(sum(found.probes_s) / 2 * 8 / 2)


def test_shipped_sweeps_make_plans():
    assert "quickstart_sweep" in shipped()
    for name in shipped():
        assert sweep.plan(sweep.read(name)).cells


def test_the_page_shows_commands_that_work(tmp_path, monkeypatch, capsys):
    """Those of docs/sweeps.md, in their order, on a small sweep file of the same name as the page's."""
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "sweeps.md").read_text()
    (block,) = re.findall(r"^```toml\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    Path("mine.toml").write_text(block)
    assert len(sweep.plan(sweep.read("mine.toml")).cells) == 36
    Path("mine.toml").write_text(block.replace("seeds = 3", "seeds = 1").replace('"requests.count" = 20', '"requests.count" = 2'))
    blocks = re.findall(r"^```sh\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    commands = [re.sub(r"\s+#.*$", "", line) for text in blocks for line in text.splitlines() if "mine.toml" in line]
    assert len(commands) >= 3
    for command in (command for command in commands if "--dask" not in command):
        assert main(shlex.split(command)[1:]) == 0, command
        assert "cells " in capsys.readouterr().out
    assert (sweep.load("runs/mine").status == "finished").all()
    (python,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    found: dict[str, object] = {}
    exec(python, found)
    assert len(found["cells"]) == 12
    assert set(re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)) == set(CELLS)


def until(condition, child: subprocess.Popen | None = None, patience_s: float = 120.0) -> None:
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end
        assert child is None or child.poll() is None
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_figures(tmp_path):
    distributed = pytest.importorskip("distributed", reason="needs the extra cluster (in dev)")
    file = sweep_file(tmp_path, planners=("hpa",))
    plan = sweep.plan(sweep.read(file))
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        outcome = sweep.execute(plan, tmp_path / "dask", dask=cluster.scheduler_address)
        again = sweep.execute(plan, tmp_path / "dask", dask=cluster.scheduler_address)
    assert (outcome.finished, outcome.failures, again.ran) == (4, (), 0)
    sweep.execute(plan, tmp_path / "here", workers=1)
    assert figures(tmp_path / "dask") == figures(tmp_path / "here")
    assert {row["worker"] for row in rows(tmp_path / "dask")}.isdisjoint({row["worker"] for row in rows(tmp_path / "here")})


def test_without_a_scheduler_or_dask_the_way_out_is_named(tmp_path, monkeypatch, capsys):
    file = sweep_file(tmp_path, planners=("hpa",))
    assert main(["sweep", str(file), "--dask", "tcp://127.0.0.1:1", "--out", str(tmp_path / "out"), "--workers", "2"]) == 2
    assert "leave it out" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert main(["sweep", str(file), "--dask", "tcp://127.0.0.1:1", "--out", str(tmp_path / "out")]) == 2
    assert "d3-testbed[cluster]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
