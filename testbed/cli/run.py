"""`testbed run`: carry out a scenario on a backend, with progress, a run folder and a table at the end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from testbed import registry
from testbed.backends.base import Backend
from testbed.cli.app import app
from testbed.cli.console import FAILED, INTERRUPTED, OK, REJECTED, err, note, out, print_json, verb
from testbed.cli.options import Json, Models, Overrides, Planners, ScenarioName, Seed, scenario_of
from testbed.cli.progress import RunProgress
from testbed.cli.watch import RunWatch
from testbed.errors import BackendError, InputError, TestbedError
from testbed.orchestrator import RunSummary, provenance, run, summarise
from testbed.orchestrator.world import prepare
from testbed.report import load
from testbed.report.forecast import forecasts
from testbed.report.tables import conditions, failure_lines, speedups, summary_table, verdict_lines
from testbed.scenario.load import manifest_of
from testbed.scenario.schema import Scenario

BackendName = Annotated[
    str | None,
    typer.Option(
        "--backend",
        metavar="NAME",
        help='A backend, or "auto": the most faithful one that can run this here. Default: auto; for a run folder, its own.',
    ),
]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder, empty or new. Default: runs/SCENARIO-TIME.")]
Watch = Annotated[bool, typer.Option("--watch", help="Show links, hosts, latencies and the plan while it runs (on a terminal).")]
Capture = Annotated[bool, typer.Option("--capture", help="Also capture the packets of wide-area links (emulated networks).")]


@verb(app, "run")
def run_command(
    scenario: ScenarioName,
    backend: BackendName = None,
    planners: Planners = None,
    models: Models = None,
    seed: Seed = None,
    overrides: Overrides = None,
    target: Out = None,
    capture: Capture = False,
    watch: Watch = False,
    as_json: Json = False,
) -> int:
    """Run a scenario: inference times, backbone bytes and a verdict, for every model and planner."""
    earlier = manifest_of(scenario)
    wanted = scenario_of(scenario, overrides, planners, models, seed)
    for name in wanted.planning.planners:
        registry.check_known("testbed.planners", name)
    folder = target or Path("runs", f"{wanted.name}-{datetime.now():%Y%m%d-%H%M%S}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--out {folder}: exists and is not empty; results of a run go to a folder of their own")
    if earlier is None:
        chosen, why = _backend(backend or "auto", wanted)
    else:
        chosen, why = _backend(backend or earlier["backend"]["name"], wanted)
        why = why if backend else "as in the earlier run"
        _note_differences(earlier)
    if wanted.planning.options:
        list(forecasts(prepare(wanted)))  # a wrong option should end the run before it starts, not at its planner's turn
    if capture:
        _capture(chosen, folder)
    try:
        listener = RunWatch if watch and err.is_terminal else RunProgress
        with termination_is_an_interrupt(), listener(f"backend {chosen.name}: {why}") as progress:
            summary = run(wanted, chosen, folder, progress)
    except KeyboardInterrupt:
        return _interrupted(folder, as_json)
    except TestbedError:
        if (folder / "manifest.json").is_file():
            note(f"what was finished is kept in {folder}")
        raise
    if as_json:
        print_json(summary.to_dict())
    else:
        print_summary(summary)
    return exit_code(summary)


def exit_code(summary: RunSummary) -> int:
    """0 for a run to be trusted or degraded, 3 for a rejected one, 1 where nothing was answered at all."""
    if summary.pairs and all(pair.failed == pair.requests for pair in summary.pairs):
        return FAILED
    return REJECTED if summary.verdict == "rejected" else OK


def print_summary(summary: RunSummary) -> None:
    """Table, conditions, verdict, and where the folder is."""
    out.print(summary_table(summary, out.width))
    for line in speedups(summary):
        out.print(line, soft_wrap=True)
    if any(pair.failed for pair in summary.pairs):
        for line in failure_lines(load(summary.folder)):
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


def _backend(name: str, scenario: Scenario) -> tuple[Backend, str]:
    if name == "auto":
        chosen, why = registry.choose_backend(scenario)
        return chosen, f"chosen by auto: {why}"
    chosen = registry.backend(name)
    support = chosen.support(scenario)
    if not support.ok:
        raise BackendError(f"backend {name} cannot run this here:\n" + "\n".join(support.reasons))
    return chosen, "as asked"


def _note_differences(earlier: dict[str, Any]) -> None:
    """Say what may keep a repeated run from being the same."""
    then, now = earlier.get("versions", {}), provenance.versions()
    for name in sorted(then.keys() & now.keys()):
        if then[name] != now[name]:
            note(f"the earlier run had {name} {then[name]}; this one has {now[name]}")
    before, here = ((state or {}).get("commit") for state in (earlier.get("git"), provenance.git_state()))
    if before and here and before != here:
        note(f"the earlier run was made at commit {before[:12]} of the testbed; this is {here[:12]}")


def _capture(backend: Backend, folder: Path) -> None:
    """Tell a backend that can where to put packet captures; an emulated one has a `capture_dir`."""
    if not hasattr(backend, "capture_dir"):
        raise BackendError(f"--capture: backend {backend.name} has no packets to capture; leave it out, or use --backend mininet")
    backend.capture_dir = folder / "capture"


@contextmanager
def termination_is_an_interrupt() -> Iterator[None]:
    """SIGTERM (`timeout`, batch systems) ends a run as Ctrl-C does: rows kept, status "interrupted"."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupts = signal.getsignal(signal.SIGINT)
    if interrupts is signal.SIG_IGN:  # a script's background job; the event loop cancels cleanly only under Python's own handler
        signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupts)


def _interrupted(folder: Path, as_json: bool) -> int:
    err.print(f"[yellow]interrupted[/]; what was finished is kept in {folder}")
    if (folder / "inferences.csv").is_file():
        summary = summarise(folder)
        if as_json:
            print_json(summary.to_dict())
        elif any(pair.requests for pair in summary.pairs):
            print_summary(summary)
    return INTERRUPTED
