"""`testbed verify`: the group of checks, and the one that decomposing a model loses nothing (parts bit for bit, tiles within the
stated tolerance). The others are in files of their own beside this one.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.table import Table
from typer.core import TyperGroup

from d3node.model import ModelSpec
from d3node.zoo import ZOO, kind_of
from testbed.cli.app import app
from testbed.cli.console import FAILED, OK, err, out, print_json, verb
from testbed.cli.options import Json

ModelNames = Annotated[
    list[str] | None,
    typer.Argument(metavar="[MODEL]...", help="Zoo names, module:factory, file.py:factory or .pt2 files; the zoo if absent."),
]
Everything = Annotated[bool, typer.Option("--all", help="Every cut, 200 assignments, every candidate stack (slow).")]


class _ModelsByDefault(TyperGroup):
    """`testbed verify alexnet` is `testbed verify models alexnet`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Called by click with what follows `verify`."""
        named = bool(args) and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if named else ["models", *args])


checks = typer.Typer(
    cls=_ModelsByDefault, help="Check what the testbed promises. Without a check's name: models, which lose nothing by being cut."
)
app.add_typer(checks, name="verify")


@verb(checks, "models")
def models(
    names: ModelNames = None,
    everything: Everything = False,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the random weights.")] = 0,
    weights: Annotated[Path | None, typer.Option("--weights", help="Real weights (.safetensors).")] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="torch.set_num_threads.")] = 1,
    as_json: Json = False,
) -> int:
    """Check parts and tiles of models against the whole model; exit code 1 where a promise is broken."""
    wanted = names or list(ZOO)
    for name in wanted:
        kind_of(name)
    import torch

    from d3node import verify as lossless

    torch.set_num_threads(threads)
    found: list[dict[str, Any]] = []
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("model", "check", "cases", "failed", "worst deviation", "seconds"):
        table.add_column(heading, justify="left" if heading in ("model", "check") else "right", no_wrap=True)
    with Live(table, console=err, transient=True, auto_refresh=err.is_terminal) as live:
        for name in wanted:
            for finding in lossless.verify(ModelSpec(name, seed, str(weights) if weights else None), everything):
                failed = len(finding.failures)
                mark = f"[red]{failed}[/]" if failed else "0"
                shown = name if not found or found[-1]["model"] != name else ""
                table.add_row(shown, finding.check, str(finding.count), mark, f"{finding.worst:.1e}", f"{finding.seconds:.1f}")
                found.append({"model": name, **asdict(finding)})
                live.refresh()
    if as_json:
        print_json(found)
    else:
        out.print(table)
        for item in found:
            for text in item["failures"][:5]:
                out.print(f"{item['model']}, {item['check']}: {text}", style="red", markup=False)
    return FAILED if any(item["failures"] for item in found) else OK
