"""`testbed run`: carry out a scenario on a backend, with progress, a run folder and a table at the end.

Several seeds or traces are several runs: `testbed.cli.run_several`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from testbed import registry
from testbed.backends.base import Backend
from testbed.backends.hosts import HostsBackend
from testbed.cli.app import app
from testbed.cli.console import INTERRUPTED, err, note, out, print_json, verb
from testbed.cli.options import Json, Models, Overrides, Planners, ScenarioName, Traces, with_traces
from testbed.cli.progress import RunProgress
from testbed.cli.run_several import exit_code, run_several
from testbed.cli.signals import termination_is_an_interrupt
from testbed.cli.watch import RunWatch
from testbed.errors import BackendError, InputError, TestbedError
from testbed.orchestrator import Listener, RunSummary, Task, finished, provenance, resume, run, summarise
from testbed.orchestrator.batch import capture_into
from testbed.orchestrator.world import prepare
from testbed.report import load
from testbed.report.forecast import forecasts
from testbed.report.tables import conditions, failure_lines, fault_lines, speedups, summary_table, verdict_lines
from testbed.scenario.load import load as load_scenario
from testbed.scenario.load import manifest_of
from testbed.scenario.schema import Scenario

HOSTS = HostsBackend.name
BackendName = Annotated[
    str | None,
    typer.Option(
        "--backend",
        metavar="NAME",
        help='A backend, or "auto": the most faithful one that can run this here. Default: auto; for a run folder, its own.',
    ),
]
Watch = Annotated[bool, typer.Option("--watch", help="Show links, hosts, latencies and the plan while it runs (on a terminal).")]
Seeds = Annotated[
    list[int] | None,
    typer.Option(
        "--seed",
        metavar="N",
        help="Seed of arrivals and images (model.seed is that of random weights); repeatable, one run each.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="Run folder, or that of several runs' folders; empty or new. Default: runs/SCENARIO-TIME."),
]
InventoryFile = Annotated[
    Path | None, typer.Option("--inventory", metavar="FILE", help="The machines of the hosts backend (testbed hosts init).")
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with the run of this run folder, which was killed, interrupted or failed: sessions that are over are kept.",
    ),
]
Capture = Annotated[bool, typer.Option("--capture", help="Also capture the packets of wide-area links (emulated networks).")]


@verb(app, "run")
def run_command(
    scenario: ScenarioName,
    backend: BackendName = None,
    inventory: InventoryFile = None,
    planners: Planners = None,
    models: Models = None,
    seeds: Seeds = None,
    traces: Traces = None,
    overrides: Overrides = None,
    target: Out = None,
    capture: Capture = False,
    watch: Watch = False,
    resumed: Resume = False,
    as_json: Json = False,
) -> int:
    """Run a scenario: inference times, backbone bytes and a verdict, for every model and planner.

    With several seeds or traces: once for each combination, into a folder each, and one table of all.
    """
    listener = RunWatch if watch and err.is_terminal else RunProgress
    if resumed:
        given: dict[str, object] = {
            "--backend": backend,
            "--planner": planners,
            "--model": models,
            "--seed": seeds,
            "--trace": traces,
        }
        given |= {"--set": overrides, "--out": target, "--capture": capture}
        return _resume(scenario, [name for name, value in given.items() if value], inventory, listener, as_json)
    earlier = manifest_of(scenario)
    variants = _variants(with_traces(scenario, traces, overrides, planners, models), seeds)
    wanted = next(iter(variants.values()))
    for name in wanted.planning.planners:
        registry.check_known("testbed.planners", name)
    folder = target or Path("runs", f"{wanted.name}-{datetime.now():%Y%m%d-%H%M%S}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--out {folder}: exists and is not empty; results of a run go to a folder of their own")
    if earlier is None:
        chosen, why = _backend(backend or "auto", wanted, inventory)
    else:
        chosen, why = _backend_of(earlier, backend, wanted, inventory)
        why = why if backend else "as in the earlier run"
    for one in variants.values():
        if one.planning.options:
            list(forecasts(prepare(one)))  # a wrong option should end the run before it starts, not at its planner's turn
    if capture:
        capture_into(chosen, folder)
    if len(variants) > 1:
        tasks = [Task(name, one, folder / name) for name, one in variants.items()]
        return run_several(tasks, chosen, listener(f"backend {chosen.name}: {why}"), capture, as_json)
    return _carried_out(
        lambda progress: run(wanted, chosen, folder, progress), listener(f"backend {chosen.name}: {why}"), folder, as_json
    )


def _resume(name: str, given: list[str], inventory: Path | None, listener: type[RunWatch | RunProgress], as_json: bool) -> int:
    """Go on with the run of a folder."""
    if given:
        raise InputError(f"{', '.join(given)}: a run that is gone on with stays as it was begun; leave that out with --resume")
    folder = Path(name)
    earlier = manifest_of(name) if folder.is_dir() else None
    if earlier is None:
        raise InputError(f"--resume goes on with a run folder; {name!r} is none (each of several runs has a folder of its own)")
    if finished(folder):
        note(f"{folder} is finished; there is nothing to do")
        summary = summarise(folder)
        print_json(summary.to_dict()) if as_json else print_summary(summary)
        return exit_code(summary)
    chosen, _ = _backend_of(earlier, None, load_scenario(folder), inventory)
    if (folder / "capture").is_dir():
        capture_into(chosen, folder, f"capture/resumed-{len(earlier.get('resumed', [])) + 1}")
    opening = listener(f"backend {chosen.name}: going on with {folder}")
    return _carried_out(lambda progress: resume(folder, chosen, progress), opening, folder, as_json)


def _carried_out(work: Callable[[Listener], RunSummary], shown: RunWatch | RunProgress, folder: Path, as_json: bool) -> int:
    """Carry a run out and print what came of it; the exit code."""
    try:
        with termination_is_an_interrupt(), shown as progress:
            summary = work(progress)
    except KeyboardInterrupt:
        return _interrupted(folder, as_json)
    except TestbedError:
        if (folder / "manifest.json").is_file():
            note(f"what was finished is kept in {folder}; testbed run {folder} --resume goes on")
        raise
    if as_json:
        print_json(summary.to_dict())
    else:
        print_summary(summary)
    return exit_code(summary)


def print_summary(summary: RunSummary) -> None:
    """Table, conditions, verdict, and where the folder is."""
    out.print(summary_table(summary, out.width))
    for line in speedups(summary):
        out.print(line, soft_wrap=True)
    if any(pair.failed for pair in summary.pairs):
        for line in failure_lines(load(summary.folder)):
            out.print(line, soft_wrap=True)
    if summary.manifest.get("scenario", {}).get("fault"):
        for line in fault_lines(load(summary.folder)):
            out.print(line, soft_wrap=True)
    facts = Table(show_header=False, box=None, pad_edge=False)
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, text in conditions(summary):
        facts.add_row(name, text)
    facts.add_row("run folder", str(summary.folder))
    out.print(facts)
    for line in verdict_lines(summary):
        out.print(line, soft_wrap=True)


def _backend(name: str, scenario: Scenario, inventory: Path | None) -> tuple[Backend, str]:
    if inventory is not None and name != HOSTS:
        raise InputError(f"--inventory {inventory}: is for --backend {HOSTS} (this is {name}); leave it out, or ask for that")
    if name == "auto":
        chosen, why = registry.choose_backend(scenario)
        return chosen, f"chosen by auto: {why}"
    chosen = HostsBackend(inventory) if name == HOSTS else registry.backend(name)
    support = chosen.support(scenario)
    if not support.ok:
        raise BackendError(f"backend {name} cannot run this here:\n" + "\n".join(support.reasons))
    return chosen, "as asked"


def _backend_of(earlier: dict[str, Any], asked: str | None, scenario: Scenario, inventory: Path | None) -> tuple[Backend, str]:
    """The backend of an earlier run (or another one, if asked), and what may keep this run from being the same."""
    name = asked or earlier["backend"]["name"]
    before = earlier["backend"].get("inventory") if name == HOSTS else None
    found = _backend(name, scenario, inventory or (Path(before) if before else None))
    _note_differences(earlier)
    return found


def _note_differences(earlier: dict[str, Any]) -> None:
    """Say what may keep a repeated run from being the same."""
    then, now = earlier.get("versions", {}), provenance.versions()
    for name in sorted(then.keys() & now.keys()):
        if then[name] != now[name]:
            note(f"the earlier run had {name} {then[name]}; this one has {now[name]}")
    before, here = ((state or {}).get("commit") for state in (earlier.get("git"), provenance.git_state()))
    if before and here and before != here:
        note(f"the earlier run was made at commit {before[:12]} of the testbed; this is {here[:12]}")


def _variants(by_trace: Mapping[str, Scenario], seeds: list[int] | None) -> dict[str, Scenario]:
    """What is to be run, by the names of the runs' folders: of trace and seed that which differs."""
    for place, seed in enumerate(seeds or ()):
        if seed in (seeds or ())[:place]:
            raise InputError(f"--seed {seed}: given twice; its second run would be the same as the first")
    found = {}
    for trace, scenario in by_trace.items():
        for seed in seeds or (scenario.seed,):
            parts = [trace] * (len(by_trace) > 1) + [f"seed-{seed}"] * (len(seeds or ()) > 1)
            found["-".join(parts)] = scenario.model_copy(update={"seed": seed})
    return found


def _interrupted(folder: Path, as_json: bool) -> int:
    err.print(
        f"[yellow]interrupted[/]; what was finished is kept in {folder}; testbed run {folder} --resume goes on", soft_wrap=True
    )
    if (folder / "inferences.csv").is_file():
        summary = summarise(folder)
        if as_json:
            print_json(summary.to_dict())
        elif any(pair.requests for pair in summary.pairs):
            print_summary(summary)
    return INTERRUPTED
