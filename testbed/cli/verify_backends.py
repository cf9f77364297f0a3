"""`testbed verify backends`: one scenario in two backends, and how far apart they are, per model and planner."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.markup import escape
from rich.table import Table

from testbed import registry
from testbed.cli.console import OK, REJECTED, note, out, print_json, verb
from testbed.cli.options import Json, Models, Overrides, Planners, ScenarioName, Seed, Traces, with_traces
from testbed.cli.progress import RunProgress
from testbed.cli.verify import checks
from testbed.errors import InputError
from testbed.report import units
from testbed.verify import backends as check
from testbed.verify import difference_plot
from testbed.verify.differences import Spread

Names = Annotated[str, typer.Option("--backends", metavar="NAME,NAME", help="Which two; the second one is the reference.")]
Each = Annotated[bool, typer.Option("--each", help="Also every request.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder, empty or new. Default: runs/against-SCENARIO-TIME.")]


@verb(checks, "backends")
def backends(
    scenario: ScenarioName,
    names: Names = "sim,vkernel",
    planners: Planners = None,
    models: Models = None,
    traces: Traces = None,
    seed: Seed = None,
    overrides: Overrides = None,
    each: Each = False,
    target: Out = None,
    as_json: Json = False,
) -> int:
    """Run one scenario in two backends: differences of latencies and backbone bytes; exit code 3 beyond the limits."""
    chosen = check.check_names([name.strip() for name in names.split(",")])
    wanted = with_traces(scenario, traces, overrides, planners, models, seed)
    for name in next(iter(wanted.values())).planning.planners:
        registry.check_known("testbed.planners", name)
    for one in wanted.values():
        for name in chosen:
            support = registry.backend(name).support(one)
            if not support.ok:
                raise InputError(f"backend {name} cannot run this here:\n" + "\n".join(support.reasons))
    first = next(iter(wanted.values()))
    folder = target or Path("runs", f"against-{first.name}-{datetime.now():%Y%m%d-%H%M%S}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--out {folder}: exists and is not empty; results go to a folder of their own")
    found = check.compare(wanted, chosen, folder, lambda name: RunProgress(f"backend {name}"))
    requests = check.requests_of(found)
    requests.to_csv(folder / "differences.csv", index=False)
    if difference_plot.can_plot():
        difference_plot.save(requests, chosen, check.LATENCY_LIMIT, folder / "differences.png")
    else:
        note("no plot: pip install 'd3-testbed[analysis]'")
    beyond = [text for comparison in found for text in comparison.beyond()]
    if as_json:
        print_json(check.document(chosen, found, each))
        return REJECTED if beyond else OK
    for comparison in found:
        out.print(_table(comparison, chosen, first.name))
        if each:
            out.print(_requests(comparison.requests, chosen))
    for text in beyond:
        out.print(text, style="red", markup=False)
    limits = f"median latency difference at most {check.LATENCY_LIMIT * 100:g} %, bytes at most {check.BYTES_LIMIT * 100:g} %"
    out.print(f"{'[red]beyond[/]' if beyond else '[green]within[/]'} the limits: {limits}", soft_wrap=True)
    out.print(f"runs, differences.csv and the plot: {folder}", soft_wrap=True, markup=False)
    return REJECTED if beyond else OK


def _table(comparison: check.Comparison, names: tuple[str, str], scenario: str) -> Table:
    title = f"{scenario}: {names[0]} against {names[1]}" + (f", backbone follows {comparison.name}" if comparison.name else "")
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for heading in ("latency\nmedian", "\np95", "\nworst", "\nsigned", "backbone\nbytes", "\nworst", "\nframes", "other\nplan"):
        table.add_column(heading, justify="right", vertical="bottom", no_wrap=True, header_style="dim")
    model = ""
    for session in comparison.sessions:
        if session.model != model:
            model = session.model
            table.add_row(f"[bold]{escape(model)}[/]")
        table.add_row(
            escape(f"  {session.planner}"),
            *(_percent(value) for value in (session.latency.median, session.latency.p95, session.latency.worst)),
            _percent(session.bias, signed=True),
            _percent(session.volume_difference, signed=True),
            _percent(session.backbone.worst),
            _percent(session.wire_difference, signed=True),
            f"{session.other_plan} of {session.requests}",
        )
        if 0 < session.other_plan < session.answered:
            table.add_row("    same plan", *_same_plan(session.latency_same_plan, session.backbone_same_plan), style="dim")
    return table


def _same_plan(latency: Spread, backbone: Spread) -> list[str]:
    worded = [_percent(value) for value in (latency.median, latency.p95, latency.worst)]
    return [*worded, "", "", _percent(backbone.worst), "", ""]


def _requests(requests: pd.DataFrame, names: tuple[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("model", "planner", "device", "request", "plan"):
        table.add_column(heading, no_wrap=True)
    for heading in (*names, "difference", "backbone"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in requests.to_dict(orient="records"):
        latencies = (row["latency_s"], row["latency_s_reference"])
        table.add_row(
            escape(str(row["model"])),
            escape(str(row["planner"])),
            str(row["device"]),
            f"{row['request']}{' (warm-up)' if row['warmup'] else ''}",
            "same" if row["same_plan"] else "other",
            *("–" if math.isnan(value) else units.seconds(value) for value in latencies),
            _percent(row["latency_difference"], signed=True),
            _percent(row["backbone_difference"], signed=True),
        )
    return table


def _percent(value: float, signed: bool = False) -> str:
    if math.isnan(value):
        return "–"
    return f"{value * 100:{'+' if signed else ''}.2f} %" if value else "0"
