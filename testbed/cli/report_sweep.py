"""A sweep's folder on the terminal: mean latency of every planner in every setting, seeds taken together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pandas import DataFrame
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from testbed.cli.console import out
from testbed.report import units
from testbed.sweep import load
from testbed.sweep.aggregate import aggregate, settings

WIDE = 1000
"""Characters in a line of a terminal without limits."""
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
    table = _table(folder, names, means, spread=True)
    if wide := Measurement.get(out, out.options.update(width=WIDE), table).maximum > out.width:
        table = _table(folder, names, means, spread=False)
    out.print(table)
    if wide:
        out.print("means over seeds; their spread is on the page that --html writes, and in --json", style="dim")
    counts = cells["status"].value_counts().to_dict()
    out.print("cells     " + ", ".join(f"{number} {status}" for status, number in counts.items()))
    failed = cells[cells["status"] == "failed"]
    for (error, words), rows in list(failed.groupby(["error", "error_text"], sort=False))[:SHOWN]:
        first = rows.iloc[0]
        such = f"{first['model']} by {first['planner']}, seed {first['seed']}"
        out.print(f"failed    {len(rows)} cells: {error}: {words} (such as {such})", markup=False, soft_wrap=True)


def _table(folder: Path, names: Sequence[str], means: DataFrame, spread: bool) -> Table:
    """A row for each setting, a column for each planner; the settings fold where the terminal is narrow, figures never do."""
    planners = [str(name) for name in dict.fromkeys(means["planner"])]
    table = Table(title=f"{folder}: mean latency", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in ("model", *names):
        table.add_column(escape(name), overflow="fold", min_width=8, header_style="dim")
    for planner in planners:
        table.add_column(escape(planner), justify="right", no_wrap=True, min_width=7, header_style="dim")
    for place, own in means.groupby(["model", *names], sort=False):
        found = {str(row["planner"]): row for row in own.to_dict(orient="records")}
        best = min((row["mean_s"] for row in found.values() if math.isfinite(row["mean_s"])), default=math.nan)
        cells = (_cell(found.get(planner), best, spread) for planner in planners)
        table.add_row(*(escape(str(value)) for value in place), *cells)
    return table


def _cell(row: dict[Any, Any] | None, best: float, spread: bool) -> str:
    """A mean, with its standard deviation over seeds if asked, bold where no planner is faster."""
    if row is None or not math.isfinite(row["mean_s"]):
        return "–"
    text = units.seconds(row["mean_s"])
    if spread and row["spread_s"] > 0.0:
        text += f" ± {units.seconds(row['spread_s'])}"
    return f"[bold]{text}[/]" if row["mean_s"] == best else text
