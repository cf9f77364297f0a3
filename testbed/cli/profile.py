"""`testbed profile`: measure models on this machine, write a profile that scenarios can name, and compare predictions with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from d3node.model import ModelSpec, load_graph
from testbed.cli.app import app
from testbed.cli.console import err, note, out, print_json, verb
from testbed.cli.options import Json
from testbed.costs import devices, predict, predict_rate
from testbed.costs.profile import Profile, load, save
from testbed.costs.table import TierCosts
from testbed.errors import InputError
from testbed.names import label
from testbed.report import units

profile = typer.Typer(help="Compute times: measure this machine, described devices, predictors.", no_args_is_help=True)
app.add_typer(profile, name="profile")

SourceName = Annotated[str, typer.Argument(metavar="MODEL", help="Zoo name, module:factory, file.py:factory or .pt2 file.")]
_KINDS = "A described device, or a file: device (.toml), profile or predictor (.json)."
Against = Annotated[str, typer.Option("--with", metavar="PROFILE", help=_KINDS)]
DeviceName = Annotated[str | None, typer.Argument(metavar="DEVICE", help="One of them, in full.")]
FileName = Annotated[Path, typer.Argument(metavar="PROFILE", help="A file written by `testbed profile measure`.")]


@verb(profile, "measure")
def measure(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Zoo names, module:factory, file.py:factory or .pt2 files.")
    ],
    target: Annotated[Path, typer.Option("--out", help="Profile file to write; models already in it are kept.")],
    threads: Annotated[int, typer.Option("--threads", min=1, help="torch.set_num_threads.")] = 1,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Measured rounds; medians are kept.")] = 10,
    warmup: Annotated[int, typer.Option("--warmup", min=0, help="Rounds before them.")] = 2,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    as_json: Json = False,
) -> None:
    """Measure every vertex of models, alone and in groups, with torch's real kernels on this machine."""
    from testbed.costs.measure import profile_model

    if device not in ("cpu", "cuda"):
        raise InputError(f'--device {device}: "cpu" or "cuda"')
    if target.exists():
        load(target)  # an existing file must be a profile before minutes are spent
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as bar:
        for name in models:
            task = bar.add_task(name, total=warmup + rounds)
            measured = profile_model(
                ModelSpec(name),
                threads=threads,
                device="cuda" if device == "cuda" else "cpu",
                rounds=rounds,
                warmup=warmup,
                progress=lambda done, total, task=task: bar.update(task, completed=done, total=total),  # type: ignore[misc]
            )
            save(measured, target)
            note(f"{name}: {units.seconds(measured.models[name].whole_s)} for the whole model")
    result = load(target)
    if as_json:
        print_json(_facts(result))
        return
    out.print(_measured(result))
    out.print(f'To use it: [bold]profile = "{target}"[/bold] in a table such as \\[hosts.edge] of a scenario.')


@verb(profile, "show")
def show(file: FileName, as_json: Json = False) -> None:
    """What is in a profile file, and how well a regression would predict each model from the others."""
    found = load(file)
    if as_json:
        print_json(_facts(found))
        return
    out.print(_measured(found))
    held_out = predict.cross_validated(predict.samples_of(found))
    if held_out:
        table = Table(title="Each model predicted from the others", title_justify="left", title_style="bold")
        table.add_column("model")
        table.add_column("error of the sum", justify="right")
        table.add_column("mean absolute error by kind of vertex", overflow="fold")
        for name, error in held_out.items():
            kinds = ", ".join(f"{kind} {share * 100:.0f} %" for kind, share in error.mape.items())
            table.add_row(name, f"{error.total_error * 100:+.0f} %", kinds)
        out.print(table)


@verb(profile, "fit")
def fit(
    file: FileName,
    target: Annotated[Path, typer.Option("--out", help="Predictor file (.json) to write.")],
    form: Annotated[
        str, typer.Option("--form", help="seconds: linear in sizes; rate: Neurosurgeon's, linear or logarithmic.")
    ] = ("seconds"),
) -> None:
    """Fit the latency regression to a profile; the file can stand as a host's `planner_profile` or `profile`."""
    if form not in ("seconds", "rate"):
        raise InputError(f'--form {form}: "seconds" or "rate"')
    found = load(file)
    source = f"fitted to {', '.join(found.models)}"
    table = Table(title=f"{target}", title_justify="left", title_style="bold")
    headings: tuple[str, ...]
    rows: list[tuple[str, ...]]
    if form == "rate":
        rates = predict_rate.fit(predict.samples_of(found), source)
        text = rates.to_json()
        headings = ("kind", "samples", "form", "mean absolute error", "left out", "left out, other form")
        rows = [
            (kind, str(model.samples), model.form, *map(_share, (model.mape, model.held_out, model.other_form)))
            for kind, model in rates.kinds.items()
        ]
    else:
        predictor = predict.fit(predict.samples_of(found), source=source)
        text = predictor.to_json()
        headings = ("kind", "samples", "R²", "mean absolute error")
        rows = [(kind, str(m.samples), f"{m.r2:.3f}", units.percent(m.mape)) for kind, m in predictor.kinds.items()]
    target.write_text(text, encoding="utf-8")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("kind", "form") else "right")
    for row in rows:
        table.add_row(*row)
    out.print(table)


def _share(value: float | None) -> str:
    return "" if value is None else units.percent(value)


@verb(profile, "compare")
def compare(
    file: FileName,
    model: SourceName,
    against: Annotated[
        str, typer.Option("--with", help="A described device, or a file: device (.toml), profile or predictor (.json).")
    ],
    layers: Annotated[bool, typer.Option("--layers", help="One row per vertex, not only the sum.")] = False,
    as_json: Json = False,
) -> None:
    """Predicted against measured times of one model."""
    from testbed.costs.build import load_profile

    graph = load_graph(ModelSpec(model))
    measured: TierCosts = load(file).tier_costs(label(model), graph)
    rows = predict.compare(graph, load_profile(against, ".", label(model), graph), measured)
    if as_json:
        print_json([{"vertex": r.vertex, "name": r.name, "kind": r.kind, **_pair(r)} for r in rows])
        return
    table = Table(title=f"{model}: {against} against {file}", title_justify="left", title_style="bold")
    for heading in ("vertex", "kind", "predicted", "measured", "error"):
        table.add_column(heading, justify="left" if heading in ("vertex", "kind") else "right")
    for row in rows if layers else rows[-1:]:
        error = "" if row.measured_s == 0.0 else f"{row.error * 100:+.0f} %"
        table.add_row(row.name, row.kind, units.seconds(row.predicted_s), units.seconds(row.measured_s), error)
    out.print(table)


@verb(profile, "devices")
def list_devices(
    name: Annotated[str | None, typer.Argument(metavar="DEVICE", help="One of them.")] = None, as_json: Json = False
) -> None:
    """The described devices: hardware, rates, where each figure comes from and what to mistrust."""
    found = [devices.describe(each) for each in ([name] if name else devices.known())]
    if as_json:
        print_json([each.model_dump() for each in found])
        return
    if name is None:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("device", "hardware", "software", "convolution", "dense", "operator", "basis"):
            table.add_column(heading, overflow="fold")
        for each in found:
            rates = (f"{each.convolution.gflop_per_s:g} GFLOP/s", f"{each.dense.gbyte_per_s:g} GB/s", f"{each.operator.us:g} µs")
            table.add_row(each.name, each.hardware, each.software, *rates, each.basis)
        out.print(table)
        return
    each = found[0]
    out.print(f"[bold]{each.name}[/bold]: {each.hardware}; {each.software}; {each.basis}", soft_wrap=True)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    table.add_row("convolution", f"{each.convolution.gflop_per_s:g} GFLOP/s", each.convolution.source)
    table.add_row("dense layers", f"{each.dense.gbyte_per_s:g} GB/s", each.dense.source)
    table.add_row("per operator", f"{each.operator.us:g} µs", each.operator.source)
    out.print(table)
    out.print(each.fit.summary)
    for weak in each.fit.weak:
        out.print(f"  - {weak}", markup=False)


def _measured(found: Profile) -> Table:
    machine = found.machine
    on = machine.cpu if machine.device == "cpu" else machine.device
    table = Table(title=f"{on}, {machine.threads} thread(s), torch {machine.torch}", title_justify="left", title_style="bold")
    for heading in ("model", "whole", "sum of vertices", "per operator", "vertices", "rounds"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for name, each in found.models.items():
        times = (units.seconds(each.whole_s), units.seconds(each.sum_of_vertices_s), units.seconds(each.operator_s))
        table.add_row(name, *times, str(len(each.vertices) - 1), str(each.rounds))
    return table


def _pair(row: predict.Comparison) -> dict[str, Any]:
    error = None if row.measured_s == 0.0 else row.error
    return {"predicted_s": row.predicted_s, "measured_s": row.measured_s, "error": error}


def _facts(found: Profile) -> dict[str, Any]:
    held_out = predict.cross_validated(predict.samples_of(found))
    return {
        "machine": found.machine.model_dump(),
        "models": {
            name: {
                "whole_s": each.whole_s,
                "sum_of_vertices_s": each.sum_of_vertices_s,
                "operator_s": each.operator_s,
                "vertices": len(each.vertices) - 1,
                "rounds": each.rounds,
                "held_out_error": held_out[name].total_error if name in held_out else None,
            }
            for name, each in found.models.items()
        },
    }
