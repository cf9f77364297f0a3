"""`testbed traces`: the shipped traces, what is in them, one made up, and one written out: converted, cut, scaled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from testbed.cli.app import app
from testbed.cli.console import out, print_json, verb
from testbed.cli.options import Json
from testbed.errors import TraceError
from testbed.names import suggestion
from testbed.report import units
from testbed.report.curves import sparkline, summary
from traces.errors import TraceFormatError
from traces.generate import PREFIX, generate
from traces.load import load, shipped
from traces.presets import PRESETS, Preset
from traces.statistics import statistics
from traces.trace import Trace
from traces.write import WRITERS, to_csv

traces = typer.Typer(help="Traces of rate, delay, loss and free CPU: list, show, convert.", no_args_is_help=True)
app.add_typer(traces, name="traces")

_HELP = 'A file, a shipped name, or a specification such as "generate:lte?seed=3&duration=60".'
Name = Annotated[str, typer.Argument(metavar="TRACE", help=_HELP)]
SHOWN: dict[str, tuple[str, Callable[[float], str]]] = {
    "rate_bps": ("rate", units.rate),
    "delay_s": ("delay", units.seconds),
    "loss": ("loss", units.percent),
    "cpu_share": ("CPU share", units.percent),
    "requests_per_s": ("requests", lambda rate: f"{rate:.3g} /s"),
}


To = Annotated[str, typer.Option("--to", metavar="FORMAT", help=f"Format to write: {', '.join(WRITERS)}.")]
Target = Annotated[Path | None, typer.Option("--out", help="File to write; standard output if absent.")]


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
def show(
    names: Annotated[list[str], typer.Argument(metavar="TRACE...", help=_HELP)],
    png: Annotated[Path | None, typer.Option("--png", help="Also draw them into this picture.")] = None,
    as_json: Json = False,
) -> None:
    """Figures and a picture of traces."""
    found = [_load(name) for name in names]
    if as_json:
        facts = [_facts(trace) for trace in found]
        print_json(facts[0] if len(facts) == 1 else facts)
    else:
        for trace in found:
            _show(trace)
    if png is not None:
        _draw(found, png)


def _show(trace: Trace) -> None:
    facts = _facts(trace)
    ending = "then again" if trace.loop else "then its last row for ever"
    out.print(f"[bold]{trace.name}[/bold]  {units.seconds(trace.period_s)} in {facts['steps']} steps, {ending}", soft_wrap=True)
    for column, figures in facts["columns"].items():
        what, unit = SHOWN[column]
        picture = sparkline(trace.times_s, trace.columns[column], trace.period_s, width=min(80, out.width - 2))
        out.print(f"\n[bold]{what}[/bold]\n[cyan]{picture}[/cyan]")
        table = Table(box=None, pad_edge=False, header_style="dim")
        for label in ("least", "5 %", "median", "mean", "95 %", "most", "at zero"):
            table.add_column(label, no_wrap=True)
        cells = [unit(figures[key]) for key in ("min", "p5", "p50", "mean", "p95", "max")]
        table.add_row(*cells, units.percent(figures["zero_share"]))
        out.print(table)


def _draw(found: list[Trace], target: Path) -> None:
    """A row of the picture for every column that any of them has."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TraceError("--png needs matplotlib: pip install 'd3-testbed[analysis]'") from error
    scale = {"rate_bps": ("rate in Mbit/s", 1e6), "delay_s": ("delay in ms", 1e-3), "loss": ("loss in %", 0.01)}
    columns = [column for column in SHOWN if any(column in trace.columns for trace in found)]
    figure = Figure(figsize=(8.0, 2.6 * len(columns)), layout="constrained")
    for row, column in enumerate(columns, start=1):
        axes = figure.add_subplot(len(columns), 1, row)
        label, unit = scale.get(column, (SHOWN[column][0], 1.0))
        for trace in found:
            if column in trace.columns:
                values = [value / unit for value in trace.columns[column]]
                axes.step([*trace.times_s, trace.period_s], [*values, values[-1]], where="post", label=trace.name, linewidth=1.0)
        axes.set(xlabel="time in s", ylabel=label, ylim=(0.0, None))
        axes.legend(loc="upper right", fontsize="small")
    try:
        figure.savefig(target, dpi=150)
    except (OSError, ValueError) as error:
        raise TraceError(f"--png {target}: cannot be written: {error}") from error


@verb(traces, "presets")
def presets(
    duration: Annotated[int, typer.Option("--duration", min=600, help="Seconds that are made up for each.")] = 20_000,
    seed: Annotated[int, typer.Option("--seed", help="Of what is made up.")] = 0,
    as_json: Json = False,
) -> None:
    """The generator's presets: the statistics that they were calibrated on, and those of what is generated."""
    found = {name: (preset, statistics(generate(preset, seed, duration))) for name, preset in PRESETS.items()}
    if as_json:
        print_json(
            {
                name: {"source": preset.source, "target": _targets(preset), "generated": asdict(made)}
                for name, (preset, made) in found.items()
            }
        )
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("preset", "mean", "variation", "autocorrelation 1 s", "5 s", "outage share", "outage mean", "longest"):
        table.add_column(heading, justify="left" if heading == "preset" else "right")
    for name, (preset, made) in found.items():
        target = _targets(preset)
        pairs = [f"{target[key]:.2f} | {getattr(made, key):.2f}" for key in ("cv", "autocorrelation_1s", "autocorrelation_5s")]
        outages = [f"{units.percent(preset.outage_share)} | {units.percent(made.outage_share)}"]
        outages += [f"{preset.outage_mean_s:.1f} | {made.outage_mean_s:.1f} s", f"{made.outage_max_s:g} s"]
        table.add_row(name, units.rate(made.mean_bps), *pairs, *(outages if preset.outage_share else ["none", "", ""]))
    out.print(table)
    out.print(f"target | generated in {duration:,} s of seed {seed}; the mean is met exactly. Sources: --json", style="dim")


def _targets(preset: Preset) -> dict[str, float]:
    kept = ("mean_bps", "cv", "autocorrelation_1s", "autocorrelation_5s", "outage_share", "outage_mean_s")
    return {key: value for key, value in asdict(preset).items() if key in kept}


@verb(traces, "generate")
def generate_trace(
    preset: Annotated[str, typer.Argument(metavar="PRESET", help=f"{', '.join(PRESETS)}.")],
    seed: Annotated[int, typer.Option("--seed", help="Another seed, another trace.")] = 0,
    duration: Annotated[str, typer.Option("--duration", help="Such as 120, 250ms or 2min; seconds without a unit.")] = "60",
    step: Annotated[str, typer.Option("--step", help="Length of a row.")] = "1",
    mean: Annotated[str | None, typer.Option("--mean", help="Mean rate, such as 8Mbit; the preset's if absent.")] = None,
    outages: Annotated[bool, typer.Option(help="With the preset's outages, or without any.")] = True,
    to: To = "csv",
    target: Target = None,
) -> None:
    """Make up a trace with the statistics of a kind of link, and write it (a scenario can name it, as generate:PRESET?seed=N)."""
    options = {"seed": str(seed), "duration": duration, "step": step, "outages": "yes" if outages else "no"}
    options |= {} if mean is None else {"mean": mean}
    name = f"{PREFIX}{preset}?" + "&".join(f"{key}={value}" for key, value in options.items())
    _write(_load(name), to, target, name)


@verb(traces, "convert")
def convert(name: Name, to: To = "csv", target: Target = None) -> None:
    """Write a trace in another format."""
    _write(_load(name), to, target, name)


@verb(traces, "cut")
def cut(
    name: Name,
    start: Annotated[float, typer.Option("--from", min=0.0, help="Seconds into the trace.")] = 0.0,
    end: Annotated[float | None, typer.Option("--until", min=0.0, help="Seconds into the trace; its end if absent.")] = None,
    to: To = "csv",
    target: Target = None,
) -> None:
    """Write a part of a trace; its time starts at 0 again."""
    trace = _load(name)
    try:
        part = trace.cut(start, trace.period_s if end is None else end)
    except ValueError as error:
        raise TraceError(str(error)) from error
    _write(part, to, target, f"{name}, {start:g} s to {part.period_s + start:g} s")


@verb(traces, "scale")
def scale(
    name: Name,
    by: Annotated[float, typer.Option("--by", min=0.0, help="Factor.")],
    column: Annotated[str, typer.Option("--column", help="rate, delay or loss.")] = "rate",
    to: To = "csv",
    target: Target = None,
) -> None:
    """Write a trace with one column multiplied."""
    trace = _load(name)
    chosen = {"rate": "rate_bps", "delay": "delay_s", "loss": "loss"}.get(column, column)
    if chosen not in trace.columns:
        raise TraceError(f"--column {column}: trace {trace.name!r} has {', '.join(trace.columns)}")
    _write(trace.scaled(chosen, by), to, target, f"{name}, {column} times {by:g}")


def _write(trace: Trace, to: str, target: Path | None, comment: str) -> None:
    if to not in WRITERS:
        raise TraceError(f"--to {to}: unknown format{suggestion(to, WRITERS)}")
    try:
        text = to_csv(trace, [comment]) if to == "csv" else WRITERS[to](trace)
    except ValueError as error:
        raise TraceError(str(error)) from error
    if target is None:
        out.file.write(text)
        return
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise TraceError(f"--out {target}: cannot be written: {error.strerror}") from error


def _load(name: str) -> Trace:
    try:
        return load(name)
    except TraceFormatError as error:
        raise TraceError(str(error)) from error


def _facts(trace: Trace) -> dict[str, Any]:
    columns = {column: summary(trace.times_s, values, trace.period_s) for column, values in trace.columns.items()}
    return {"name": trace.name, "period_s": trace.period_s, "steps": len(trace.times_s), "loop": trace.loop, "columns": columns}
