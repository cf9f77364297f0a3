"""What security costs a request: authentication, the frames' checksum and TLS, as a share of the quickstart's shortest latency.

Agents in processes of their own, over loopback; plain and TLS alternate within one run. A request is a 224 x 224 image as
float32 from device to cloud, a small convolution there, and the answer back. On a busy machine look at the CPU time of both event
loops, which is what security adds where nothing overlaps; wall time is the median, and the best.
Connections are kept, so what is paid per connection (authentication, TLS's handshake) is paid once for every pair of hosts.
"""

from __future__ import annotations

import asyncio
import csv
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._agents import HOSTS, Pair, agents, ask, report, tls_files
from d3node import wire
from d3node.channel import Message, Payload
from d3node.model import ModelSpec, load_graph
from d3node.plan import Plan
from d3node.program import lower
from d3node.tcp import TcpTransport, split_address
from d3node.tls import Tls
from testbed.hosts import certificates

TITLE = "Security per request (target: authentication, checksum and TLS together under 3 % of quickstart latency)"
INFERENCES = 60
WARM_UP = 5
CONNECTIONS = 30
IMAGE = (1, 3, 224, 224)
MODEL = "benchmarks.security:small?input=1x3x224x224"


def small() -> Any:
    """A network whose computing takes next to nothing: one convolution of few values."""
    from torch import nn

    return nn.Sequential(nn.Conv2d(3, 4, 16, 32), nn.Flatten(), nn.Linear(196, 10))


def run() -> list[dict[str, Any]]:
    """Rows of what costs how much; `share` is of the shortest mean latency of the quickstart's models under D3."""
    latency_s = _quickstart_s()
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_measure(Path(folder), latency_s))


async def _measure(folder: Path, latency_s: float) -> list[dict[str, Any]]:
    secret = folder / "secret"
    secret.write_text(secrets.token_hex(16))
    certificates.init(folder / "tls", {name: ["127.0.0.1"] for name, _ in HOSTS})
    tls = Tls.load(*tls_files(folder / "tls", "orchestrator"))
    for kind in ("plain", "safe"):
        (folder / kind).mkdir()
    async with (
        agents(folder / "plain", secret, MODEL) as plain,
        agents(folder / "safe", secret, MODEL, folder / "tls") as safe,
    ):
        beside, cpu = await _requests({"plain": plain, "tls": safe})
        opened = await _connections(secret.read_bytes(), tls, plain.cloud, safe.cloud)
    checksum = _checksum()
    rows = [
        _row("a request, TLS against plain: wall time, median", beside["plain"], beside["tls"], latency_s),
        _row("a request, TLS against plain: wall time, best", [min(beside["plain"])], [min(beside["tls"])], latency_s),
        _row("a request, TLS against plain: CPU of both agents", [cpu["plain"]], [cpu["tls"]], latency_s),
        _row("checksum of the image's frame, at both ends", [0.0], checksum, latency_s),
        _row("a connection: proof of the secret against bare TCP", opened["bare"], opened["plain"], None),
        _row("a connection: proof and TLS against bare TCP", opened["bare"], opened["tls"], None),
    ]
    together = cpu["tls"] - cpu["plain"] + statistics.median(checksum)
    rows.append(_row("checksum and TLS together, CPU per request", [0.0], [together], latency_s))
    return rows


def _row(what: str, without: list[float], with_it: list[float], latency_s: float | None) -> dict[str, Any]:
    base, mine = statistics.median(without), statistics.median(with_it)
    return {
        "what": what,
        "without_ms": base * 1e3,
        "with_ms": mine * 1e3,
        "extra_ms": (mine - base) * 1e3,
        "ratio": mine / base if base else float("nan"),
        "quickstart_ms": latency_s * 1e3 if latency_s else float("nan"),
        "share": f"{(mine - base) / latency_s:.2%}" if latency_s else "",
        "samples": len(with_it),
    }


def _quickstart_s() -> float:
    """The shortest mean latency of the quickstart's models under D3, in sim."""
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/run"
        options = ["--backend", "sim", "--planner", "d3", "--set", "compute.tensors=sizes", "--out", out]
        command = [sys.executable, "-m", "testbed.cli", "run", "quickstart", *options]
        subprocess.run(command, check=True, capture_output=True)
        by_model: dict[str, list[float]] = {}
        with open(f"{out}/inferences.csv", newline="") as file:
            for row in csv.DictReader(file):
                if row["latency_s"]:
                    by_model.setdefault(row["model"], []).append(float(row["latency_s"]))
    return min(statistics.mean(found) for found in by_model.values())


async def _requests(pairs: dict[str, Pair]) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Wall seconds of the same requests on pairs of agents, in turns, and CPU seconds of one."""
    graph = load_graph(ModelSpec(MODEL))
    tiers = ("device", *["cloud"] * (len(graph) - 1))
    plan = Plan("benchmark", MODEL, tiers, {"device": "d1", "edge": "e1", "cloud": "c1"}, (), 1)  # type: ignore[arg-type]
    for pair in pairs.values():
        for channel in pair.channels.values():
            steps = {tier: [0.0] * len(program.steps) for tier, program in lower(graph, plan).items()}
            await ask(channel, "install", plan=plan.to_dict(), steps_s=steps, tiles_s=[])
    taken: dict[str, list[float]] = {name: [] for name in pairs}
    cpu = dict.fromkeys(pairs, 0.0)
    for number in range(1, WARM_UP + INFERENCES + 1):
        order = list(pairs) if number % 2 else list(pairs)[::-1]
        for name in order:
            channels, before = pairs[name].channels, pairs[name].cpu_s()
            await channels["d1"].send(Message("submit", {"request": number, "epoch": 1, "input": 1, "deadline_s": 30.0}))
            for host, _ in HOSTS:
                await report(channels[host])
            done = await channels["d1"].receive()
            assert done.kind == "done", done.fields
            if number > WARM_UP:
                taken[name].append(done.fields["done_at"] - done.fields["submitted_at"])
                cpu[name] += (pairs[name].cpu_s() - before) / INFERENCES
    return taken, cpu


async def _connections(secret: bytes, tls: Tls, plain_at: str, safe_at: str) -> dict[str, list[float]]:
    """Seconds until a connection can be used."""

    async def bare() -> None:
        _, writer = await asyncio.open_connection(*split_address(plain_at))
        writer.transport.abort()

    async def ours(transport: TcpTransport, address: str) -> None:
        (await transport.connect(address)).abort()

    ways: dict[str, Callable[[], Any]] = {
        "bare": bare,
        "plain": lambda: ours(TcpTransport(secret), plain_at),
        "tls": lambda: ours(TcpTransport(secret, tls=tls), safe_at),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(CONNECTIONS + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            await way()
            if number:
                taken[name].append(time.perf_counter() - started)
    return taken


def _checksum() -> list[float]:
    """Seconds that the sender's and the receiver's sums over one image take."""
    data = memoryview(np.random.default_rng(0).random(IMAGE, np.float32)).cast("B")  # type: ignore[arg-type]
    message = Message(
        "tensor", {"request": 1, "epoch": 1, "vertex": 0, "device": "d1"}, (Payload("float32", IMAGE, len(data), data),)
    )
    taken = []
    for _ in range(INFERENCES):
        started = time.perf_counter()
        wire.encode_head(message, 1.0, sizes=True)
        without = time.perf_counter() - started
        started = time.perf_counter()
        head = wire.encode_head(message, 1.0)
        lengths = wire.decode_prefix(head[: wire.PREFIX_BYTES], wire.Limits())
        checksum = lengths.begin()
        checksum.add_header(head[wire.PREFIX_BYTES :])
        checksum.add(data)
        checksum.hold_against(lengths, sizes=False)
        taken.append(time.perf_counter() - started - without)
    return taken


if __name__ == "__main__":
    from rich.console import Console

    from benchmarks.__main__ import table

    Console(width=170).print(table(TITLE, run()))
