"""`testbed sweep`: carry out the cells of a sweep file, with progress; the same command again goes on."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from testbed.cli.app import app
from testbed.cli.console import FAILED, INTERRUPTED, OK, REJECTED, err, note, out, print_json, verb
from testbed.cli.options import Json
from testbed.cli.signals import termination_is_an_interrupt
from testbed.errors import InputError
from testbed.sweep.estimate import PROBES, Estimate, estimate
from testbed.sweep.execute import Outcome, execute
from testbed.sweep.folder import finished_keys
from testbed.sweep.plan import Plan, plan
from testbed.sweep.spec import read

PLAIN_EVERY_S = 10.0
"""Seconds between lines of progress where standard error is no terminal."""

SHOWN = 10
"""Failed cells listed; all of them are in cells.csv."""

File = Annotated[str, typer.Argument(metavar="FILE", help='A sweep file (.toml), or a shipped one such as "quickstart_sweep".')]
Out = Annotated[
    Path | None, typer.Option("--out", help="Folder of the sweep: new, or one to go on with. Default: runs/NAME-of-the-sweep.")
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Processes. Default: one a processor.")]
Dask = Annotated[
    str | None,
    typer.Option("--dask", metavar="ADDRESS", help="A Dask scheduler (tcp://host:8786) instead of processes here."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and a measured estimate of the time; leave nothing.")]
Probes = Annotated[int, typer.Option("--probes", min=0, help="Cells that a dry run tries.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Run the cells again that failed.")]
KeepRuns = Annotated[bool, typer.Option("--keep-runs", help="Keep a run folder of every cell, in runs/KEY (slower, large).")]


@verb(app, "sweep")
def sweep_command(
    file: File,
    target: Out = None,
    workers: Workers = None,
    dask: Dask = None,
    dry_run: DryRun = False,
    probes: Probes = PROBES,
    retry_failed: RetryFailed = False,
    keep_runs: KeepRuns = False,
    as_json: Json = False,
) -> int:
    """Run a scenario over models, planners, traces, parameters and seeds; the same command again goes on where it stopped."""
    if dask is not None and workers is not None:
        raise InputError("--workers is for processes of this machine; with --dask the cluster has its own number: leave it out")
    wanted = plan(read(file))
    folder = target or Path("runs", wanted.spec.name)
    if dry_run:
        return _dry(wanted, folder, workers, probes, as_json)
    try:
        with termination_is_an_interrupt(), SweepProgress() as progress:
            outcome = execute(wanted, folder, workers, dask, retry_failed, keep_runs, progress)
    except KeyboardInterrupt:
        err.print(
            f"[yellow]interrupted[/]; the cells that were done are kept in {folder}; the same command goes on", soft_wrap=True
        )
        return INTERRUPTED
    _print(outcome, as_json)
    if outcome.failures:
        return FAILED
    return REJECTED if outcome.rejected else OK


class SweepProgress:
    """A listener for `execute`: a bar with the time left on a terminal, a line now and then where standard error is none."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            console=err,
            transient=True,
            disable=not err.is_terminal,
            expand=True,
        )
        self._task: TaskID | None = None
        self._failed = 0
        self._said = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        """One event of the sweep (see `execute.Listener`)."""
        if event["event"] == "start":
            for text in event["notes"]:
                err.print(f"note: {text}", style="yellow", markup=False)
            kept = f"; {event['finished']} are finished already" if event["finished"] else ""
            kept += f", {event['failed']} failed (--retry-failed runs them again)" if event["failed"] else ""
            note(f"{event['todo']} of {event['cells']} cells to run, {event['workers']} at a time{kept}")
            self._task = self._bar.add_task("cells", total=event["todo"], left="")
            return
        row = event["row"]
        if row["status"] == "failed":
            self._failed += 1
            if self._failed <= SHOWN:
                err.print(f"failed: {_named(row)}: {row['error']}: {row['error_text']}", style="yellow", markup=False)
        failed = f", {self._failed} failed" if self._failed else ""
        text = f"{event['done'] / event['elapsed_s']:.1f} cells/s, {duration(event['left_s'])} left{failed}"
        if self._task is not None:
            self._bar.update(self._task, completed=event["done"], left=text)
        now = time.monotonic()
        if not err.is_terminal and (now - self._said >= PLAIN_EVERY_S or event["done"] == event["todo"]):
            self._said = now
            err.print(f"{event['done']}/{event['todo']} cells, {text}", markup=False)


def duration(seconds: float) -> str:
    """A stretch of time, for people."""
    if seconds < 90.0:
        return f"{seconds:.0f} s"
    return f"{seconds / 60.0:.0f} min" if seconds < 5400.0 else f"{seconds / 3600.0:.1f} h"


def _dry(wanted: Plan, folder: Path, workers: int | None, probes: int, as_json: bool) -> int:
    done = finished_keys(folder, wanted)
    todo = [cell for cell in wanted.cells if cell.key not in done]
    count = workers or max(1, os.cpu_count() or 1)
    found = estimate(todo, wanted.spec.backend, count, probes)
    if as_json:
        print_json(
            {
                "name": wanted.spec.name,
                "backend": wanted.spec.backend,
                "axes": {name: list(values) for name, values in wanted.axes.items()},
                "cells": len(wanted.cells),
                "to_run": len(todo),
                "workers": count,
                "probes_s": list(found.probes_s),
                "estimate_s": found.seconds if found.probes_s else None,
                "failures": list(found.failures),
                "folder": str(folder),
            }
        )
        return OK
    table = Table(box=None, pad_edge=False)
    for heading in ("axis", "values", ""):
        table.add_column(heading, overflow="fold")
    for name, values in wanted.axes.items():
        table.add_row(name, str(len(values)), ", ".join(str(value) for value in values))
    out.print(table)
    out.print(f"cells     {len(wanted.cells)}, of which {len(todo)} are to be run in {folder}", markup=False, soft_wrap=True)
    out.print(f"time      {_words(found)}", markup=False, soft_wrap=True)
    for text in found.failures:
        out.print(f"failed    {text}", markup=False, soft_wrap=True)
    return OK


def _words(found: Estimate) -> str:
    if not found.probes_s:
        return "not estimated: no cell was tried"
    fast, slow = min(found.probes_s), max(found.probes_s)
    return (
        f"about {duration(found.seconds)} with {found.workers} workers, if none hinders another "
        f"({len(found.probes_s)} cells tried here: {fast:.2f} to {slow:.2f} s each)"
    )


def _print(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "folder": str(outcome.folder),
                "cells": outcome.cells,
                "finished": outcome.finished,
                "rejected": outcome.rejected,
                "ran": outcome.ran,
                "elapsed_s": outcome.elapsed_s,
                "failures": list(outcome.failures),
            }
        )
        return
    speed = (
        f" ({outcome.ran} now, in {duration(outcome.elapsed_s)}, {outcome.ran / outcome.elapsed_s:.1f}/s)" if outcome.ran else ""
    )
    out.print(f"cells     {outcome.finished} of {outcome.cells} finished{speed}", markup=False, soft_wrap=True)
    if outcome.rejected:
        out.print(f"rejected  {outcome.rejected} finished cells have the verdict rejected: see column verdict", soft_wrap=True)
    reasons: dict[str, int] = {}
    for row in outcome.failures:
        text = f"{row['error']}: {row['error_text']}"
        reasons[text] = reasons.get(text, 0) + 1
    for text, count in sorted(reasons.items(), key=lambda item: -item[1])[:SHOWN]:
        example = next(row for row in outcome.failures if f"{row['error']}: {row['error_text']}" == text)
        out.print(f"failed    {count} cells: {text} (such as {_named(example)})", markup=False, soft_wrap=True)
    out.print(f"table     {outcome.folder / 'cells.csv'}", markup=False, soft_wrap=True)
    out.print("read it   testbed.sweep.load(folder), a pandas frame", markup=False, soft_wrap=True)


def _named(row: dict[str, Any]) -> str:
    parameters = "" if row["parameters"] == "{}" else f", {row['parameters']}"
    return f"{row['model']} by {row['planner']}, seed {row['seed']}{parameters}"
