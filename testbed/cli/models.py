"""`testbed models`: the zoo, and the layers of one model."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table

from d3node.describe import Row, describe
from d3node.graph import Pair
from d3node.model import ModelSpec, load_graph
from d3node.zoo import ZOO
from testbed.cli.app import app
from testbed.cli.console import kept, out, print_json, verb
from testbed.cli.options import Json
from testbed.report import units

_NAME = "Zoo name, module:factory, file.py:factory or .pt2 file; the zoo if absent."


@verb(app, "models")
def models(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help=_NAME)] = None,
    as_json: Json = False,
) -> None:
    """The model zoo, or one model's layers with shapes, bytes, FLOPs and receptive fields."""
    if name is None:
        found = [_summary(each, describe(load_graph(ModelSpec(each)))) for each in ZOO]
        if as_json:
            print_json(found)
        else:
            _print_zoo(found)
        return
    rows = describe(load_graph(ModelSpec(name)))
    if as_json:
        print_json({**_summary(name, rows), "layers": [{**asdict(row), "tileable": row.tileable} for row in rows]})
        return
    _print_layers(name, rows)


def _summary(name: str, rows: list[Row]) -> dict[str, Any]:
    return {
        "name": name,
        "input_shape": rows[0].output_shape,
        "vertices": len(rows) - 1,
        "tileable": sum(row.tileable for row in rows[1:]),
        "flops": sum(row.flops for row in rows),
        "parameter_bytes": sum(row.parameter_bytes for row in rows),
        "largest_tensor_bytes": max(row.output_bytes for row in rows),
    }


def _print_zoo(found: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("model", "input", "vertices", "tileable", "operations", "parameters", "largest\ntensor"):
        table.add_column(heading, justify="left" if heading in ("model", "input") else "right", no_wrap=True, vertical="bottom")
    for each in found:
        table.add_row(
            each["name"],
            _shape(each["input_shape"]),
            str(each["vertices"]),
            str(each["tileable"]),
            units.operations(each["flops"]),
            units.size(each["parameter_bytes"]),
            units.size(each["largest_tensor_bytes"]),
        )
    out.print(table)
    out.print("Also: module:factory, file.py:factory, and .pt2 files of torch.export.", style="dim")


def _print_layers(name: str, rows: list[Row]) -> None:
    total = _summary(name, rows)
    out.print(
        f"[bold]{name}[/bold]: {total['vertices']} vertices, {units.operations(total['flops'])}, "
        f"{units.size(total['parameter_bytes'])} of parameters; operators behind + are fused"
    )
    number = {row.name: row.index for row in rows}
    cells = [_cells(row, [number[name] for name in row.inputs]) for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = kept(_HEADINGS, cells, ("parameters", "FLOP", "bytes"))
    for heading in (_HEADINGS[i] for i in columns):
        right = heading in ("#", "bytes", "FLOP", "parameters")
        widest = {"from": 12, "operators": 14}.get(heading)
        fold = heading in ("from", "operators", "vertex")
        table.add_column(heading, justify="right" if right else "left", overflow="fold", no_wrap=not fold, max_width=widest)
    for row in cells:
        table.add_row(*(row[i] for i in columns))
    out.print(table)
    out.print(
        "From: the producers' numbers, empty where it is the line above. Window: kernel, then stride /, padding +, dilation *\n"
        "where they are not 1, 0, 1; – marks a vertex that cannot be tiled. Field/jump: input positions seen by one output\n"
        "position, and input positions between neighbours.",
        style="dim",
        soft_wrap=True,
    )


_HEADINGS = ("#", "vertex", "operators", "from", "output", "bytes", "FLOP", "parameters", "window", "field/jump")
_SHORT = {"conv2d": "conv", "batch_norm": "bn", "max_pool2d": "maxpool", "avg_pool2d": "avgpool", "adaptive_avg_pool2d": "gap"}


def _cells(row: Row, inputs: list[int]) -> tuple[str, ...]:
    return (
        str(row.index),
        row.name,
        "+".join(_SHORT.get(operator, operator) for operator in (row.operator, *row.fused)),
        "" if inputs == [row.index - 1] else ", ".join(map(str, inputs)),
        _shape(row.output_shape),
        units.size(row.output_bytes),
        units.operations(row.flops).removesuffix("FLOP") if row.flops else "",
        units.size(row.parameter_bytes) if row.parameter_bytes else "",
        _window(row),
        f"{_pair(row.field)}/{_pair(row.jump)}" if row.field and row.jump and row.index else "",
    )


def _window(row: Row) -> str:
    if row.kernel is None:
        return row.kind or "–"
    text = _pair(row.kernel)
    for mark, pair, plain in (("/", row.stride, (1, 1)), ("+", row.padding, (0, 0)), ("*", row.dilation, (1, 1))):
        if pair is not None and pair != plain:
            text += f" {mark}{_pair(pair)}"
    return text


def _pair(pair: Pair | None) -> str:
    if pair is None:
        return ""
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}x{pair[1]}"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape[1:] if len(shape) > 1) or "x".join(map(str, shape))
