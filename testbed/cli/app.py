"""The Typer application that the verbs register with."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    name="testbed",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="Decomposed DNN inference over device, edge and cloud, on an emulated network.",
    epilog="Exit codes: 0 done, 1 failed, 2 bad input, 3 done but the verdict is rejected, 130 interrupted.",
)


@app.callback()
def _main(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks (may stand behind any command).")] = False,
) -> None:
    """Decomposed DNN inference over device, edge and cloud, on an emulated network."""
