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

from d3node import accelerator
from d3node.agent import AgentConfig, serve
from d3node.egress import Egress, ShapingError
from d3node.errors import ChannelError, ModelError, NodeError
from d3node.facts import gather
from d3node.model import ModelSpec, load_graph, load_model
from d3node.service import notify
from d3node.site import Site
from d3node.tcp import KEEPALIVE_S, TcpTransport, split_address
from d3node.tls import ORCHESTRATOR, Tls, refuse_plain

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
    name: Annotated[str, typer.Option(help="This host's name in plans; with TLS, in its certificate.")],
    tier: Annotated[str, typer.Option(help="device, edge or cloud.")],
    model: Annotated[
        list[str] | None,
        typer.Option(help="To load: zoo name, module:factory, file.py:factory or .pt2 file. Repeatable."),
    ] = None,
    model_path: Annotated[
        list[Path] | None,
        typer.Option(help="Folder that model files (.pt2, .safetensors) must lie in; no other code is loaded then. Repeatable."),
    ] = None,
    tls_ca: Annotated[Path | None, typer.Option(help="Certificate of the authority whose hosts may take part (PEM).")] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="This host's certificate (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key (PEM, unencrypted, readable by its owner alone).")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Listen without TLS where other machines can reach it.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of random weights.")] = 0,
    weights: Annotated[list[str] | None, typer.Option(help="MODEL=FILE: real weights (.safetensors). Repeatable.")] = None,
    sizes: Annotated[bool, typer.Option("--sizes", help="Load layer graphs only: sizes travel instead of tensors.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    device: Annotated[str, typer.Option(help="What computes: cpu, or cuda for a GPU (the CPU where there is none).")] = "cpu",
    allow_shaping: Annotated[
        str | None,
        typer.Option(metavar="INTERFACE", help="Let orchestrators shape what leaves this interface (root; restored at the end)."),
    ] = None,
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
        tls = _tls(tls_ca, tls_certificate, tls_key)
        for address in (listen, control):
            refuse_plain(address, tls, plain)
        if threads == 1:
            os.environ.setdefault("OMP_NUM_THREADS", "1")
        if device not in ("cpu", "cuda") or (sizes and device != "cpu"):
            raise BadInput(f"--device {device}: choose cpu or cuda" + (" (not with --sizes, which computes nothing)" * sizes))
        specs = _specs(model or [], seed, _weights(weights or [], model or []), model_path or [])
        chosen = accelerator.choose(device)  # type: ignore[arg-type]
        if chosen.note:
            typer.echo(f"d3node: {chosen.note}", err=True)
        models = _load(specs, sizes, chosen.device)
        egress = None if allow_shaping is None else Egress(allow_shaping)
        facts = gather(specs, models, sizes=sizes, threads=threads, time_scale=time_scale, chosen=chosen, shaping=allow_shaping)
        config = AgentConfig(
            name=name,
            tier=tier,  # type: ignore[arg-type]
            tensors="sizes" if sizes else "real",
            threads=threads,
            lag_interval_s=0.1,
            exit_with_control=exit_with_control,
        )
        data = TcpTransport(secret, congestion_control, sizes=sizes, tls=tls)
        orders = TcpTransport(secret, sizes=sizes, tls=tls, keepalive_s=KEEPALIVE_S, admits=ORCHESTRATOR)
        try:
            _run(config, models, data, listen, orders, control, time_scale, Site(facts, egress))
        finally:
            if egress is not None:
                egress.close()
    except (BadInput, ChannelError, ModelError, ShapingError) as error:
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
    site: Site,
) -> None:
    from d3node.clock import ScaledLoop

    gc.collect()
    gc.freeze()  # torch and the models stay for good: looking at their million objects again and again costs pauses

    def ready(data_at: str, control_at: str) -> None:
        typer.echo(f"{config.name} ({config.tier}) serves {', '.join(models) or 'no model'} on {data_at}, control {control_at}")
        sys.stdout.flush()
        notify("READY=1")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(serve(config, models, data, data_address, control, control_address, ready=ready, site=site))

        def stop() -> None:
            notify("STOPPING=1")
            task.cancel()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
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


def _tls(ca: Path | None, certificate: Path | None, key: Path | None) -> Tls | None:
    if ca is None and certificate is None and key is None:
        return None
    if ca is None or certificate is None or key is None:
        raise BadInput("--tls-ca, --tls-certificate and --tls-key go together")
    return Tls.load(ca, certificate, key)


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


def _specs(names: list[str], seed: int, weights: Mapping[str, str], folders: list[Path]) -> dict[str, ModelSpec]:
    """What to load. Raises BadInput for files outside the folders that are allowed, if any are named."""
    allowed = [folder.resolve() for folder in folders]
    for folder in allowed:
        if not folder.is_dir():
            raise BadInput(f"--model-path {folder}: there is no such folder")
    for name in names if allowed else ():
        if ".py:" in name or (":" in name and not name.endswith(".pt2")):
            raise BadInput(f"--model {name}: with --model-path no other code is loaded than the zoo's; export it to a .pt2 file")
        for file in (name if name.endswith(".pt2") else None, weights.get(name)):
            if file is not None and not any(Path(file).resolve().is_relative_to(folder) for folder in allowed):
                raise BadInput(f"{file}: lies outside of the folders of --model-path ({', '.join(map(str, allowed))})")
    return {name: ModelSpec(name, seed, weights.get(name)) for name in names}


def _load(specs: Mapping[str, ModelSpec], sizes: bool, device: str) -> dict[str, Any]:
    if sizes:
        return {name: load_graph(spec) for name, spec in specs.items()}
    models = {name: load_model(spec) for name, spec in specs.items()}
    return models if device == "cpu" else {name: accelerator.PlacedModel(model, device) for name, model in models.items()}


def main() -> None:
    """Entry point of the `d3node` command."""
    app()


if __name__ == "__main__":
    main()
