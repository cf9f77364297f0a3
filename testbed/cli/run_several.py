"""Several runs of `testbed run`: progress of all, one table with each of them and all together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from testbed.backends.base import Backend
from testbed.cli.console import FAILED, INTERRUPTED, OK, REJECTED, err, out, print_json
from testbed.cli.progress import RunProgress
from testbed.cli.signals import termination_is_an_interrupt
from testbed.cli.watch import RunWatch
from testbed.orchestrator import RunSummary, Task, pooled, run_many, summaries
from testbed.report import load
from testbed.report.tables import conditions, failure_lines, pooled_table, speedups, verdict_lines


def run_several(tasks: Sequence[Task], backend: Backend, shown: RunProgress | RunWatch, capture: bool, as_json: bool) -> int:
    """Carry out the tasks and print what came of them; the exit code: that of the worst, 1 where one failed."""
    folder = tasks[0].folder.parent
    failed: dict[str, str] = {}
    interrupted = False
    try:
        with termination_is_an_interrupt(), shown as progress:
            ended = run_many(tasks, backend, progress, capture)
        failed = {one.task.name: str(one.error) for one in ended if one.error is not None}
    except KeyboardInterrupt:
        interrupted = True
        err.print(f"[yellow]interrupted[/]; what was finished is kept in {folder}")
    runs = summaries(folder)
    if as_json:
        print_json(document(folder, runs, failed))
    elif runs:
        print_pooled(folder, runs)
    if interrupted:
        return INTERRUPTED
    codes = {exit_code(run) for run in runs.values()}
    return FAILED if failed or FAILED in codes else REJECTED if REJECTED in codes else OK


def exit_code(summary: RunSummary) -> int:
    """0 for a run to be trusted or degraded, 3 for a rejected one, 1 where nothing was answered at all."""
    if summary.pairs and all(pair.failed == pair.requests for pair in summary.pairs):
        return FAILED
    return REJECTED if summary.verdict == "rejected" else OK


def print_pooled(folder: Path, runs: Mapping[str, RunSummary]) -> None:
    """One table, what the figures depend on, and the verdict of all together."""
    pool = pooled(list(runs.values()), folder)
    out.print(pooled_table(pool, runs, out.width))
    for line in speedups(pool):
        out.print(line, soft_wrap=True)
    for run in runs.values():
        if any(pair.failed for pair in run.pairs):
            for line in failure_lines(load(run.folder)):
                out.print(f"{run.folder.name}: {line}", soft_wrap=True)
    facts = Table(show_header=False, box=None, pad_edge=False)
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, text in conditions(pool):
        if name != "seed":
            facts.add_row(name, text)
    facts.add_row("seeds", ", ".join(dict.fromkeys(str(run.seed) for run in runs.values())))
    facts.add_row("run folders", f"{folder}, one for each run, by its name")
    out.print(facts)
    for line in verdict_lines(pool):
        out.print(line, soft_wrap=True)


def document(folder: Path, runs: Mapping[str, RunSummary], failed: Mapping[str, str]) -> dict[str, object]:
    """Plain JSON types: every run, and the sessions of all of them together."""
    return {
        "folder": str(folder),
        "runs": [{"name": name, **run.to_dict()} for name, run in runs.items()],
        "pooled": pooled(list(runs.values()), folder).to_dict()["pairs"] if runs else [],
        "failed": dict(failed),
    }
