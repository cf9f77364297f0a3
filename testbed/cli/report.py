"""`testbed report`: print run folders' tables again, or side by side, or how a run came to its plans; and write an HTML page."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from rich.table import Table

from testbed import registry
from testbed.cli.app import app
from testbed.cli.console import note, out, print_json, verb
from testbed.cli.options import Json
from testbed.cli.report_sweep import print_sweep, sweep_facts
from testbed.cli.run import print_summary
from testbed.cli.run_several import document, print_pooled
from testbed.errors import InputError
from testbed.orchestrator import RunSummary, summaries, summarise
from testbed.report import Run, load, units
from testbed.report.compare import compare_lines, compare_table, differences
from testbed.report.curves import sparkline
from testbed.sweep.folder import is_sweep

Folders = Annotated[
    list[Path],
    typer.Argument(
        metavar="FOLDER...", help="Folders of runs, of several runs of one command, or of sweeps; several: side by side."
    ),
]
Html = Annotated[bool, typer.Option("--html", help="Also write a page to look at: report.html in the first folder, or --out.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where to write the page (implies --html).")]


@verb(app, "report")
def report(
    folders: Folders,
    plans: Annotated[
        bool, typer.Option("--plans", help="Also every plan and what it was made for, beside the backbone's rate.")
    ] = False,
    html: Html = False,
    target: Out = None,
    as_json: Json = False,
) -> None:
    """Print the table of a run or sweep again, finished or not, or several runs of a scenario side by side; and write a page."""
    if len(folders) == 1 and not (folders[0] / "manifest.json").exists() and (runs := summaries(folders[0])):
        _several(folders[0], runs, plans, as_json)
        if html or target is not None:
            own = [run.folder for run in runs.values()]
            note(f"a page to look at: {registry.report_writer('html')(own, target or folders[0] / 'report.html')}")
        return
    if plans and (len(folders) > 1 or is_sweep(folders[0])):
        raise InputError("--plans is for one run: leave the other folders out")
    page = html or target is not None
    if as_json:
        print_json(_facts(folders, plans))
    else:
        _print(folders, plans, must=not page)
    if page:
        note(f"a page to look at: {registry.report_writer('html')(folders, target)}")


def _several(folder: Path, runs: Mapping[str, RunSummary], plans: bool, as_json: bool) -> None:
    """What several runs of one command came to."""
    if plans:
        raise InputError(f"{folder} holds {len(runs)} runs ({', '.join(runs)}); --plans is for one: name its folder")
    if as_json:
        print_json(document(folder, runs, {}))
    else:
        print_pooled(folder, runs)


def _facts(folders: list[Path], plans: bool) -> Any:
    """One run's summary, differences of two runs, a sweep's aggregated cells; a list of these for more folders."""
    sweeps = [folder for folder in folders if is_sweep(folder)]
    runs = [summarise(folder) for folder in folders if folder not in sweeps]
    if len(folders) == 1 and runs:
        found: dict[str, Any] = runs[0].to_dict()
        if plans:
            found["plans"] = load(folders[0]).plans.to_dict(orient="records")
        return found
    if not sweeps and len(runs) == 2:
        return [found.to_dict() for found in differences(*runs)]
    every = [*(run.to_dict() for run in runs), *(sweep_facts(folder) for folder in sweeps)]
    return every[0] if len(every) == 1 else every


def _print(folders: list[Path], plans: bool, must: bool) -> None:
    """Tables of all folders. Runs that have nothing in common are an error where the comparison `must` be."""
    runs = [summarise(folder) for folder in folders if not is_sweep(folder)]
    for folder in folders:
        if is_sweep(folder):
            print_sweep(folder)
    if len(runs) > 1:
        for other in runs[1:]:
            try:
                _compare(runs[0], other)
            except InputError as error:
                if must:
                    raise
                note(str(error))
    elif runs:
        print_summary(runs[0])
    if plans:
        _plans(load(folders[0]))


def _plans(run: Run) -> None:
    for model, planner in run.plans[["model", "planner"]].drop_duplicates().itertuples(index=False):
        _timeline(run, model, planner)
    out.print(
        "\nPredicted: critical path of one request on an idle network of the state known then.\n"
        "Measured: median of the requests between this decision and the next, warm-up left out.",
        style="dim",
    )


def _compare(first: RunSummary, second: RunSummary) -> None:
    out.print(compare_table(first, second))
    for line in compare_lines(first, second):
        out.print(line, soft_wrap=True)


def _timeline(run: Run, model: str, planner: str) -> None:
    """The rate of the wide-area links over a session, and its plans below."""
    of = (run.links["model"] == model) & (run.links["planner"] == planner)
    wide = [str(name) for name in run.manifest.get("wide_area_links", [])]
    own = run.inferences[(run.inferences["model"] == model) & (run.inferences["planner"] == planner)]
    end_s = max(float((own["submitted_s"] + own["latency_s"]).max()), 1e-3) if len(own) else 1e-3
    out.print(f"\n[bold]{model}[/] by [bold]{planner}[/], {units.seconds(end_s)}")
    for name in wide:
        states = run.links[of & (run.links["link"] == name) & (run.links["direction"] == "up") & (run.links["kind"] == "state")]
        states = states[states["at_s"] <= end_s]
        if len(states) > 1:
            times, rates = states["at_s"].tolist(), states["rate_bps"].tolist()
            out.print(f"{name} up, to {units.rate(max(rates))}\n[cyan]{sparkline(times, rates, end_s, min(80, out.width))}[/]")
    table = Table(box=None, pad_edge=False, header_style="dim")
    plans = run.plans[(run.plans["model"] == model) & (run.plans["planner"] == planner)]
    headings = ("at", "device", "because", "touched", "planning", "predicted", "measured", "dev/edge/cloud", "tiled")
    kept = [i for i, heading in enumerate(headings) if out.width >= 100 or heading not in ("planning", "tiled")]
    for heading in (headings[i] for i in kept):
        left = heading in ("device", "because")
        table.add_column(
            heading, justify="left" if left else "right", no_wrap=heading != "because", min_width=7 if left else None
        )
    until: dict[str, float] = {}
    rows = []
    for record in reversed(plans.to_dict(orient="records")):
        device, at_s = str(record["device"]), float(record["at_s"])
        rows.append(_row(record, _measured(own[own["device"] == device], at_s, until.get(device, math.inf))))
        until[device] = at_s
    for row in reversed(rows):
        table.add_row(*(row[i] for i in kept))
    out.print(table)


def _measured(own: pd.DataFrame, start_s: float, end_s: float) -> str:
    """Median latency of the requests submitted in a span of time, warm-up left out, and how many they are."""
    found = own[(own["submitted_s"] >= start_s) & (own["submitted_s"] < end_s) & ~own["warmup"].astype(bool)][
        "latency_s"
    ].dropna()
    return f"{units.seconds(float(found.median()))} of {len(found)}" if len(found) else ""


def _row(record: Mapping[Hashable, Any], measured: str) -> list[str]:
    plan = record["plan"]  # None where nothing was installed
    counts = "/".join(str(plan["tiers"][1:].count(tier)) for tier in ("device", "edge", "cloud")) if plan else "as before"
    tiled = sum(len(stack["vertices"]) for stack in plan["stacks"]) if plan else 0
    change = record.get("change") or {}
    named = (
        [str(name) for names in change.values() if isinstance(names, list) for name in names] if isinstance(change, dict) else []
    )
    return [
        units.seconds(record["at_s"]),
        str(record["device"]),
        ", ".join(named) or str(record["reason"]),
        f"{len(record['touched'])} of {record['vertices']}",
        units.seconds(record["planning_time_s"]),
        units.seconds(record["predicted_latency_s"]),
        measured,
        counts,
        str(tiled) if tiled else "",
    ]
