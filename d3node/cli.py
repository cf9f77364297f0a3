"""The `d3node` command: one verb, `serve`, which runs the agent of one host. The only place on the node side that prints.

Exit codes: 0 done (asked to shut down, SIGTERM or Ctrl-C), 1 failed, 2 bad input (model, address, secret; what is wrong is said).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from d3node.agent import AgentConfig, serve
from d3node.errors import ChannelError, ModelError, NodeError
from d3node.tcp import TcpTransport, split_address

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
SECRET_BYTES = 16


class BadInput(Exception):
    """Something the user gave cannot be used; the text says what and what to do."""


@app.callback()
def d3node() -> None:
    """A host of the D3 testbed."""


@app.command("serve")
def serve_command(
    listen: Annotated[str, typer.Option(help='Data plane: "HOST:PORT" to listen on (port 0: any free one).')],
    control: Annotated[str, typer.Option(help='Control plane: "HOST:PORT" or "unix:/path".')],
    secret_file: Annotated[Path, typer.Option(help="File with the run's shared secret, 16 bytes or more.")],
    name: Annotated[str, typer.Option(help="This host's name in plans.")],
    tier: Annotated[str, typer.Option(help="device, edge or cloud.")],
    model: Annotated[
        list[str] | None,
        typer.Option(help="To load: zoo name, module:factory, file.py:factory or .pt2 file. Repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of random weights.")] = 0,
    weights: Annotated[list[str] | None, typer.Option(help="MODEL=FILE: real weights (.safetensors). Repeatable.")] = None,
    sizes: Annotated[bool, typer.Option("--sizes", help="Load layer graphs only: sizes travel instead of tensors.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    congestion_control: Annotated[str | None, typer.Option(help="TCP congestion control; the system's own if absent.")] = None,
    time_scale: Annotated[float, typer.Option(help="Slow the agent's clock down by this factor.")] = 1.0,
    exit_with_control: Annotated[
        bool, typer.Option("--exit-with-control", help="Stop when the orchestrator's connection ends.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say what happens on standard error.")] = False,
) -> None:
    """Run the node agent of one host until it is told to shut down, or SIGTERM or Ctrl-C comes."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format=f"%(asctime)s {name} %(levelname)s %(message)s"
    )
    try:
        if tier not in ("device", "edge", "cloud"):
            raise BadInput(f"--tier {tier}: choose device, edge or cloud")
        if not time_scale > 0:
            raise BadInput(f"--time-scale {time_scale}: must be above 0")
        secret = _secret(secret_file)
        for address in (listen, control):
            if not address.startswith("unix:"):
                split_address(address)
        if threads == 1:
            os.environ.setdefault("OMP_NUM_THREADS", "1")
        models = _load(model or [], seed, _weights(weights or [], model or []), sizes)
        config = AgentConfig(
            name=name,
            tier=tier,  # type: ignore[arg-type]
            tensors="sizes" if sizes else "real",
            threads=threads,
            lag_interval_s=0.1,
            exit_with_control=exit_with_control,
        )
        data, orders = TcpTransport(secret, congestion_control, sizes=sizes), TcpTransport(secret, sizes=sizes)
        _run(config, models, data, listen, orders, control, time_scale)
    except (BadInput, ChannelError, ModelError) as error:
        typer.echo(f"d3node: {error}", err=True)
        raise typer.Exit(2) from None
    except NodeError as error:
        typer.echo(f"d3node: {error}", err=True)
        raise typer.Exit(1) from None


def _run(
    config: AgentConfig,
    models: Mapping[str, Any],
    data: TcpTransport,
    data_address: str,
    control: TcpTransport,
    control_address: str,
    time_scale: float,
) -> None:
    from d3node.clock import ScaledLoop

    gc.collect()
    gc.freeze()  # torch and the models stay for good: looking at their million objects again and again costs pauses

    def ready(data_at: str, control_at: str) -> None:
        typer.echo(f"{config.name} ({config.tier}) serves {', '.join(models) or 'no model'} on {data_at}, control {control_at}")
        sys.stdout.flush()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(serve(config, models, data, data_address, control, control_address, ready=ready))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await task

    with asyncio.Runner(loop_factory=lambda: ScaledLoop(time_scale)) as runner:
        runner.run(main())


def _secret(path: Path) -> bytes:
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise BadInput(f"--secret-file {path}: {error.strerror}") from error
    if len(secret) < SECRET_BYTES:
        raise BadInput(f"--secret-file {path}: {len(secret)} bytes; a secret has {SECRET_BYTES} or more")
    return secret


def _weights(given: list[str], models: list[str]) -> dict[str, str]:
    found = {}
    for item in given:
        name, equals, path = item.partition("=")
        if not equals or name not in models:
            raise BadInput(f"--weights {item}: give MODEL=FILE for a model named with --model ({', '.join(models) or 'none'})")
        if not Path(path).is_file():
            raise BadInput(f"--weights {item}: there is no file {path}")
        found[name] = path
    return found


def _load(names: list[str], seed: int, weights: Mapping[str, str], sizes: bool) -> dict[str, Any]:
    from d3node.model import ModelSpec, load_graph, load_model

    specs = {name: ModelSpec(name, seed, weights.get(name)) for name in names}
    return {name: load_graph(spec) if sizes else load_model(spec) for name, spec in specs.items()}


def main() -> None:
    """Entry point of the `d3node` command."""
    app()


if __name__ == "__main__":
    main()
