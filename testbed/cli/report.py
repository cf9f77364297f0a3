"""`testbed report`: print a run folder's table again, how it came to its plans, or two runs side by side."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from rich.table import Table

from testbed.cli.app import app
from testbed.cli.console import out, print_json, verb
from testbed.cli.options import Json
from testbed.cli.run import print_summary
from testbed.errors import InputError
from testbed.orchestrator import RunSummary, summarise
from testbed.report import Run, load, units
from testbed.report.compare import compare_lines, compare_table, differences
from testbed.report.curves import sparkline

Folder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
Other = Annotated[Path | None, typer.Argument(metavar="[RUN]", help="A second one, to be shown beside the first.")]


@verb(app, "report")
def report(
    folder: Folder,
    other: Other = None,
    plans: Annotated[
        bool, typer.Option("--plans", help="Also every plan and what it was made for, beside the backbone's rate.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print the table of a run folder again, finished or not; or what two runs of one scenario have in common, side by side."""
    summary = summarise(folder)
    if other is not None:
        if plans:
            raise InputError("--plans is for one run: leave the second folder out")
        _compare(summary, summarise(other), as_json)
        return
    if as_json:
        found: dict[str, Any] = summary.to_dict()
        if plans:
            found["plans"] = load(folder).plans.to_dict(orient="records")
        print_json(found)
        return
    print_summary(summary)
    if plans:
        run = load(folder)
        for model, planner in run.plans[["model", "planner"]].drop_duplicates().itertuples(index=False):
            _timeline(run, model, planner)
        out.print(
            "\nPredicted: critical path of one request on an idle network of the state known then.\n"
            "Measured: median of the requests between this decision and the next, warm-up left out.",
            style="dim",
        )


def _compare(first: RunSummary, second: RunSummary, as_json: bool) -> None:
    if as_json:
        print_json([found.to_dict() for found in differences(first, second)])
        return
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
