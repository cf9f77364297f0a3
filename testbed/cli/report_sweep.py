"""A sweep's folder on the terminal: mean latency of every planner in every setting, seeds taken together."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from testbed.cli.console import out
from testbed.report import units
from testbed.sweep import load
from testbed.sweep.aggregate import aggregate, settings

SHOWN = 10
"""Reasons of failed cells that are listed; all of them are in cells.csv."""


def sweep_facts(folder: Path) -> dict[str, Any]:
    """A sweep as plain JSON: its cells by status, and its aggregated rows."""
    cells = load(folder)
    rows = aggregate(cells).to_dict(orient="records")
    finite = [{str(k): None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()} for row in rows]
    return {"folder": str(folder), "cells": {str(k): int(v) for k, v in cells["status"].value_counts().items()}, "rows": finite}


def print_sweep(folder: Path) -> None:
    """The table, and why cells failed. Raises InputError for a folder that cannot be read."""
    cells = load(folder)
    names, means = settings(cells), aggregate(cells)
    planners = [str(name) for name in dict.fromkeys(means["planner"])]
    table = Table(title=f"{folder}: mean latency", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in ("model", *names):
        table.add_column(escape(name), overflow="fold", header_style="dim")
    for planner in planners:
        table.add_column(escape(planner), justify="right", no_wrap=True, header_style="dim")
    for place, own in means.groupby(["model", *names], sort=False):
        found = {str(row["planner"]): row for row in own.to_dict(orient="records")}
        best = min((row["mean_s"] for row in found.values() if math.isfinite(row["mean_s"])), default=math.nan)
        table.add_row(*(escape(str(value)) for value in place), *(_cell(found.get(planner), best) for planner in planners))
    out.print(table)
    counts = cells["status"].value_counts().to_dict()
    out.print("cells     " + ", ".join(f"{number} {status}" for status, number in counts.items()))
    failed = cells[cells["status"] == "failed"]
    for (error, words), rows in list(failed.groupby(["error", "error_text"], sort=False))[:SHOWN]:
        first = rows.iloc[0]
        such = f"{first['model']} by {first['planner']}, seed {first['seed']}"
        out.print(f"failed    {len(rows)} cells: {error}: {words} (such as {such})", markup=False, soft_wrap=True)


def _cell(row: dict[Any, Any] | None, best: float) -> str:
    """A mean with its standard deviation over seeds, bold where no planner is faster."""
    if row is None or not math.isfinite(row["mean_s"]):
        return "–"
    text = units.seconds(row["mean_s"])
    if row["spread_s"] > 0.0:
        text += f" ± {units.seconds(row['spread_s'])}"
    return f"[bold]{text}[/]" if row["mean_s"] == best else text
