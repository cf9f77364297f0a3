"""`testbed verify links` and `testbed verify replay`: what a backend's links are worth, as tables, CSV files and plots."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from testbed.cli.console import OK, REJECTED, err, note, out, print_json, verb
from testbed.cli.options import Json
from testbed.cli.verify import checks
from testbed.errors import InputError
from testbed.report import units
from testbed.scenario.units import parse
from testbed.verify import figures, links, replay

LinkBackend = Annotated[str, typer.Option("--backend", help=f"One of {', '.join(links.BACKENDS)}.")]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Folder for table, plot and manifest; one of its own if absent.")
]


def quantities(kind: str, text: str) -> list[float]:
    """ "1,10,30 Mbit/s" as SI values: what has no unit has that of the last one. Raises InputError."""
    parts = [part.strip() for part in text.split(",")]
    unit = parts[-1].lstrip("0123456789.eE+-").strip()
    try:
        return [parse(kind, part if part.lstrip("0123456789.").strip() else f"{part} {unit}") for part in parts]
    except ValueError as error:
        raise InputError(f"{text!r}: {error}") from error


@verb(checks, "links")
def verify_links(
    backend: LinkBackend = "vkernel",
    rates: Annotated[str, typer.Option("--rates", help="Rates of the link.")] = "1,10,30,100,500 Mbit/s",
    delays: Annotated[str, typer.Option("--delays", help="One-way delays of the link.")] = "0,5,50 ms",
    sizes: Annotated[str, typer.Option("--sizes", help="Bytes of the messages.")] = "1,10,100,1000,10000 kB",
    folder: Out = None,
    as_json: Json = False,
) -> int:
    """How long messages take over one link, against what its rate and delay say. Exit code 3 where links are less exact than
    promised: messages on warm connections are off by at most 0.1 % in the median, and by 0.5 % at worst."""
    target = _folder(folder, f"links-{backend}")
    with _Bar("cells") as bar:
        matrix = links.run(
            backend,
            quantities("rate", rates),
            quantities("duration", delays),
            [int(size) for size in quantities("size", sizes)],
            bar,
        )
    links.write_csv(matrix, target / "links.csv")
    _manifest(target, backend=backend, facts=matrix.facts, problems=matrix.problems)
    _plot(lambda: figures.links(matrix, target / "links.png"))
    if as_json:
        cells = [{**asdict(cell), "error": cell.error} for cell in matrix.cells]
        limits = {"median": links.MEDIAN_LIMIT, "worst": links.WORST_LIMIT}
        summary = {start: {"median": matrix.median(start), "worst": abs(matrix.worst(start).error)} for start in ("warm", "cold")}
        print_json(
            {
                "backend": backend,
                "limits": limits,
                "errors": summary,
                "problems": matrix.problems,
                "cells": cells,
                "folder": str(target),
            }
        )
    else:
        for start in ("warm", "cold"):
            out.print(_links_table(matrix, start))
            worst = matrix.worst(start)
            out.print(
                f"{start}: median error {_share(matrix.median(start))}, worst {_share(worst.error)} "
                f"({units.size(worst.size_bytes)} at {units.rate(worst.rate_bps)}, {units.seconds(worst.delay_s)})"
            )
        out.print(f"table, plot and manifest: {target}", soft_wrap=True)
    return _judge(matrix.problems, as_json)


@verb(checks, "replay")
def verify_replay(
    traces: Annotated[
        list[str], typer.Argument(metavar="TRACE...", help="Traces as a scenario names them; mahimahi and others.")
    ],
    backend: Annotated[str, typer.Option("--backend", help=f"One of {', '.join(replay.BACKENDS)}.")] = "vkernel",
    duration: Annotated[str, typer.Option("--duration", help="How much of each trace.")] = "60 s",
    delay: Annotated[str, typer.Option("--delay", help="One-way delay of the link.")] = "10 ms",
    congestion: Annotated[str, typer.Option("--congestion-control", help="Of the greedy flow: cubic or bbr.")] = "cubic",
    folder: Out = None,
    as_json: Json = False,
) -> int:
    """Whether a greedy flow gets what each trace allows, outages included. Exit code 3 where it does not: all bytes within 1 %,
    the median window of 200 ms within 3 %, every step within 1 ms."""
    (seconds,), (delay_s,) = quantities("duration", duration), quantities("duration", delay)
    target = _folder(folder, f"replay-{backend}")
    with _Bar("traces") as bar:
        found = replay.run(traces, backend, seconds, delay_s, congestion, bar)
    problems = [problem for followed in found for problem in followed.problems]
    for number, followed in enumerate(found, 1):
        name = f"{number:02d}-{Path(followed.trace.partition('?')[0]).name.replace(':', '-')}"
        replay.write_csv(followed, target / f"{name}.csv")
        _plot(lambda followed=followed, name=name: figures.replay(followed, target / f"{name}.png"))  # type: ignore[misc]
    _manifest(target, backend=backend, traces=[_followed(one) for one in found], facts=found[0].facts, problems=problems)
    if as_json:
        print_json({"backend": backend, "problems": problems, "traces": [_followed(one) for one in found], "folder": str(target)})
    else:
        out.print(_replay_table(found))
        out.print(f"windows and plots: {target}", soft_wrap=True)
    return _judge(problems, as_json)


def _followed(followed: replay.Followed) -> dict[str, Any]:
    fields = {key: value for key, value in asdict(followed).items() if key not in ("allowed", "delivered", "facts")}
    return {**fields, "cumulative_error": followed.cumulative, "median_window_error": followed.window}


def _folder(given: Path | None, name: str) -> Path:
    folder = given or Path("runs", f"{name}-{datetime.now():%Y%m%d-%H%M%S}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--out {folder}: exists and is not empty; results go to a folder of their own")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _manifest(folder: Path, **facts: Any) -> None:
    command = ["testbed", *sys.argv[1:]]
    (folder / "manifest.json").write_text(json.dumps({"command": command, **facts}, indent=2) + "\n", encoding="utf-8")


def _plot(draw: Callable[[], None]) -> None:
    if figures.available():
        draw()
    else:
        note("no plot: matplotlib is missing (pip install 'd3-testbed[analysis]')")


def _judge(problems: list[str], as_json: bool) -> int:
    for problem in problems if not as_json else ():
        err.print(problem, style="red", markup=False, soft_wrap=True)
    return REJECTED if problems else OK


def _links_table(matrix: links.Matrix, start: str) -> Table:
    table = Table(
        box=None, pad_edge=False, header_style="bold", title=f"{start} connections", title_justify="left", title_style="bold"
    )
    for heading in ("rate", "delay", "message", "ideal" if start == "warm" else "model", "measured", "error"):
        table.add_column(heading, justify="right", no_wrap=True)
    before = None
    for cell in matrix.of(start):
        group = (cell.rate_bps, cell.delay_s)
        shown = (units.rate(cell.rate_bps), units.seconds(cell.delay_s)) if group != before else ("", "")
        wrong = start == "warm" and abs(cell.error) > links.WORST_LIMIT
        error = f"[red]{_share(cell.error)}[/]" if wrong else _share(cell.error)
        table.add_row(*shown, units.size(cell.size_bytes), _ms(cell.ideal_s), _ms(cell.measured_s), error)
        before = group
    return table


def _replay_table(found: list[replay.Followed]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in (
        "trace",
        "flow",
        "allowed",
        "all bytes",
        "read",
        "median window",
        "steps",
        "latest",
        "outages",
        "bytes in them",
        "drops",
    ):
        table.add_column(heading, justify="left" if heading in ("trace", "flow") else "right", overflow="fold")
    for one in found:
        table.add_row(
            one.trace,
            one.congestion,
            units.size(sum(one.allowed)),
            f"{one.cumulative * 100:+.2f} %",
            f"{(one.read_bytes / sum(one.allowed) - 1.0) * 100:+.2f} %",
            f"{one.window * 100:.2f} %",
            str(one.steps),
            f"{one.late_s * 1e6:.0f} µs",
            str(one.outages),
            str(one.outage_bytes),
            str(one.dropped_frames),
        )
    return table


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.4f} ms"


def _share(error: float) -> str:
    return f"{error * 100:+.4f} %"


class _Bar:
    """Progress on a terminal; on other outputs a line for each thing done."""

    def __init__(self, what: str) -> None:
        self._what = what
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=err, transient=True, disable=not err.is_terminal, expand=True)
        self._task: TaskID | None = None

    def __enter__(self) -> _Bar:
        self._bar.start()
        self._task = self._bar.add_task(self._what, total=None)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        """An event of the measuring job."""
        if "done" in event and self._task is not None:
            self._bar.update(self._task, completed=event["done"], total=event["total"])
