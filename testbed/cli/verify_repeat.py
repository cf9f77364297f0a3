"""`testbed verify repeat`: one scenario several times, under load and as another user if asked, and what differs."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from testbed import registry
from testbed.cli.console import OK, REJECTED, note, out, print_json, verb
from testbed.cli.options import Json, Models, Overrides, Planners, ScenarioName, Seed, scenario_of
from testbed.cli.progress import RunProgress
from testbed.cli.verify import checks
from testbed.errors import InputError
from testbed.report import units
from testbed.verify import repeat as check

SHOWN = 20
"""Unequal figures that are listed."""

Times = Annotated[int, typer.Option("--times", metavar="N", help="How many runs in all.")]
Loaded = Annotated[bool, typer.Option("--loaded", help="During the second run, keep every core busy with something else.")]
Uid = Annotated[int | None, typer.Option("--uid", metavar="N", help="Do the last run as this ordinary user (root only).")]
BackendName = Annotated[str, typer.Option("--backend", metavar="NAME", help="The backend; one with a virtual clock repeats.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder, empty or new. Default: runs/repeat-SCENARIO-TIME.")]


@verb(checks, "repeat")
def repeat(
    scenario: ScenarioName,
    times: Times = 3,
    loaded: Loaded = False,
    uid: Uid = None,
    backend: BackendName = "vkernel",
    planners: Planners = None,
    models: Models = None,
    seed: Seed = None,
    overrides: Overrides = None,
    target: Out = None,
    as_json: Json = False,
) -> int:
    """Run one scenario several times: latencies within 1 ms, bytes and plans equal; exit code 3 where they are not."""
    conditions = check.plan_of(times, loaded, uid)
    wanted = scenario_of(scenario, overrides, planners, models, seed)
    for name in wanted.planning.planners:
        registry.check_known("testbed.planners", name)
    registry.check_known("testbed.backends", backend)
    support = registry.backend(backend).support(wanted)
    if not support.ok:
        raise InputError(f"backend {backend} cannot run this here:\n" + "\n".join(support.reasons))
    folder = target or Path("runs", f"repeat-{wanted.name}-{datetime.now():%Y%m%d-%H%M%S}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--out {folder}: exists and is not empty; results go to a folder of their own")

    def shown(words: str) -> RunProgress:
        note(words)
        return RunProgress(f"backend {backend}")

    found = check.repeat(wanted, backend, folder, conditions, shown)
    beyond = any(one.beyond for one in found)
    if as_json:
        print_json(check.document(found, folder))
        return REJECTED if beyond else OK
    table = Table(title=f"{wanted.name} on {backend}", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for heading in ("against the first run", "requests", "largest difference of a latency", "unequal bytes, plans, outcomes"):
        table.add_column(heading, justify="left" if heading.startswith("against") else "right", header_style="dim")
    for number, one in enumerate(found, 2):
        apart = units.seconds(one.latency_s) if one.latency_s else "0"
        table.add_row(f"run {number}, {one.conditions.words()}", str(one.requests), apart, str(len(one.unequal)))
    out.print(table)
    for number, one in enumerate(found, 2):
        if one.latency_s > check.LATENCY_LIMIT_S:
            out.print(f"run {number}: latency of {one.where}", style="red", markup=False)
        for text in one.unequal[:SHOWN]:
            out.print(f"run {number}: {text}", style="red", markup=False)
    limit = units.seconds(check.LATENCY_LIMIT_S)
    out.print(f"{'[red]it does not repeat[/]' if beyond else '[green]it repeats[/]'}: latencies within {limit}, all else equal")
    out.print(f"run folders: {folder}", soft_wrap=True, markup=False)
    return REJECTED if beyond else OK
