"""`testbed traces`: the shipped traces, what is in one, and one written out in another format."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from testbed.cli.app import app
from testbed.cli.console import out, print_json, verb
from testbed.cli.options import Json
from testbed.errors import TraceError
from testbed.report import units
from testbed.report.curves import sparkline, summary
from traces.errors import TraceFormatError
from traces.load import load, shipped
from traces.presets import PRESETS
from traces.trace import Trace
from traces.write import to_csv, to_mahimahi

traces = typer.Typer(help="Traces of rate, delay, loss and free CPU: list, show, convert.", no_args_is_help=True)
app.add_typer(traces, name="traces")

_HELP = 'A file, a shipped name, or a specification such as "generate:lte?seed=3&duration=60".'
Name = Annotated[str, typer.Argument(metavar="TRACE", help=_HELP)]
SHOWN: dict[str, tuple[str, Callable[[float], str]]] = {
    "rate_bps": ("rate", units.rate),
    "delay_s": ("delay", units.seconds),
    "loss": ("loss", units.percent),
    "cpu_share": ("CPU share", units.percent),
}


class Format(StrEnum):
    """Formats that a trace can be written in."""

    csv = "csv"
    mahimahi = "mahimahi"


@verb(traces, "list")
def list_traces(as_json: Json = False) -> None:
    """The shipped traces, and the presets of the generator."""
    found = {name: _facts(_load(name)) for name in shipped()}
    if as_json:
        print_json({"shipped": found, "presets": sorted(PRESETS)})
        return
    table = Table(box=None, pad_edge=False, show_header=True, header_style="bold")
    for heading in ("trace", "period", "steps", "what", "mean", "least", "most"):
        table.add_column(heading, justify="left" if heading in ("trace", "what") else "right", no_wrap=True)
    for name, facts in found.items():
        for column, figures in facts["columns"].items():
            what, unit = SHOWN[column]
            row = (unit(figures[key]) for key in ("mean", "min", "max"))
            table.add_row(name, units.seconds(facts["period_s"]), str(facts["steps"]), what, *row)
    out.print(table)
    out.print(f"Made up on request: {', '.join(f'generate:{name}' for name in sorted(PRESETS))}", style="dim")


@verb(traces, "show")
def show(name: Name, as_json: Json = False) -> None:
    """Figures and a picture of one trace."""
    trace = _load(name)
    facts = _facts(trace)
    if as_json:
        print_json(facts)
        return
    ending = "then again" if trace.loop else "then its last row for ever"
    out.print(f"[bold]{trace.name}[/bold]  {units.seconds(trace.period_s)} in {facts['steps']} steps, {ending}", soft_wrap=True)
    for column, figures in facts["columns"].items():
        what, unit = SHOWN[column]
        picture = sparkline(trace.times_s, trace.columns[column], trace.period_s, width=min(80, out.width - 2))
        out.print(f"\n[bold]{what}[/bold]\n[cyan]{picture}[/cyan]")
        table = Table(box=None, pad_edge=False, header_style="dim")
        for label in ("least", "5 %", "median", "mean", "95 %", "most", "time at zero"):
            table.add_column(label, no_wrap=True)
        cells = [unit(figures[key]) for key in ("min", "p5", "p50", "mean", "p95", "max")]
        table.add_row(*cells, units.percent(figures["zero_share"]))
        out.print(table)


@verb(traces, "convert")
def convert(
    name: Name,
    to: Annotated[Format, typer.Option("--to", help="Format to write.")] = Format.csv,
    target: Annotated[Path | None, typer.Option("--out", help="File to write; standard output if absent.")] = None,
) -> None:
    """Write a trace in another format; also the way to keep a generated one."""
    trace = _load(name)
    try:
        text = to_csv(trace, [name]) if to is Format.csv else to_mahimahi(trace)
    except ValueError as error:
        raise TraceError(str(error)) from error
    if target is None:
        out.file.write(text)
    else:
        target.write_text(text, encoding="utf-8")


def _load(name: str) -> Trace:
    try:
        return load(name)
    except TraceFormatError as error:
        raise TraceError(str(error)) from error


def _facts(trace: Trace) -> dict[str, Any]:
    columns = {column: summary(trace.times_s, values, trace.period_s) for column, values in trace.columns.items()}
    return {"name": trace.name, "period_s": trace.period_s, "steps": len(trace.times_s), "loop": trace.loop, "columns": columns}
