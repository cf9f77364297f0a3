"""What the agents' transport costs: one tensor against a bare socket, and a split AlexNet against a local one.

Everything that is compared alternates within one run, between processes over loopback; medians are reported.
`python -m benchmarks.transport` prints the table alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._agents import agents, ask, report
from d3node.channel import Channel, Message, Payload
from d3node.errors import ChannelClosed
from d3node.graph import LayerGraph
from d3node.model import ModelSpec, load_graph
from d3node.plan import Plan
from d3node.program import lower
from d3node.tcp import TcpTransport

TITLE = "Transport between agents (targets: 3.1 MiB at most 1.3x a bare socket; a split costs at most 3 ms beside compute)"
SHAPE = (1, 64, 112, 113)
"""A float32 tensor of 3.09 MiB."""
PAIRS = 5
"""Fresh processes and connections: where the system places them matters as much as what they do."""
ROUNDS = 40
WARM_UP = 10
SPLITS = {"behind the first pooling": 3, "behind the convolutions": 9}
INFERENCES = 25
STAMP = struct.Struct(">dQ")


def run() -> list[dict[str, Any]]:
    """Rows of both comparisons; `ratio` and `extra_ms` are against `compared_with`."""
    times: dict[str, list[float]] = {"agent": [], "fresh": [], "reused": []}
    for _ in range(PAIRS):
        asyncio.run(_tensor(times))
    what = f"{4 * np.prod(SHAPE) / 2**20:.2f} MiB tensor, one way"
    return [
        _row(what, "blocking recv_into, fresh memory", times["agent"], times["fresh"]),
        _row(what, "blocking recv_into, the same memory again", times["agent"], times["reused"]),
        *asyncio.run(_alexnet()),
    ]


def _row(what: str, other: str, ours: list[float], theirs: list[float]) -> dict[str, Any]:
    mine, base = statistics.median(ours), statistics.median(theirs)
    return {
        "what": what,
        "compared_with": other,
        "median_ms": mine * 1e3,
        "best_ms": min(ours) * 1e3,
        "other_ms": base * 1e3,
        "other_best_ms": min(theirs) * 1e3,
        "ratio": mine / base,
        "extra_ms": (mine - base) * 1e3,
        "samples": len(ours),
    }


# -- one tensor --------------------------------------------------------------------------------------------------------------


async def _tensor(times: dict[str, list[float]]) -> None:
    """One way, from before the first byte is written to the last byte in the tensor's memory; the clock is the machine's."""
    tensor = np.random.default_rng(0).random(SHAPE, np.float32)
    data = memoryview(tensor).cast("B")  # type: ignore[arg-type]
    payload = Payload("float32", SHAPE, tensor.nbytes, data)
    secret = secrets.token_hex(16)
    with _receiver("agent", secret) as agent, _receiver("fresh") as fresh, _receiver("reused") as reused:
        channel = await TcpTransport(secret.encode()).connect(f"127.0.0.1:{agent}")
        bare = {name: socket.create_connection(("127.0.0.1", port)) for name, port in (("fresh", fresh), ("reused", reused))}
        for round_ in range(WARM_UP + ROUNDS):
            order = ["agent", *bare]
            taken: dict[str, float] = {}
            for name in order[round_ % 3 :] + order[: round_ % 3]:
                if name == "agent":
                    fields = {"request": round_, "epoch": 1, "vertex": 3, "device": "d1"}
                    await channel.send(Message("tensor", fields, (payload,)))
                    taken[name] = float((await channel.receive()).fields["cpu_share"])
                else:
                    bare[name].sendall(STAMP.pack(time.monotonic(), tensor.nbytes))
                    bare[name].sendall(data)
                    taken[name] = STAMP.unpack(bare[name].recv(STAMP.size, socket.MSG_WAITALL))[0]
            if round_ >= WARM_UP:
                for name, seconds in taken.items():
                    times[name].append(seconds)
        for sock in bare.values():
            sock.close()
        await channel.close()


@contextlib.contextmanager
def _receiver(kind: str, secret: str = "") -> Iterator[int]:
    command = [sys.executable, "-m", "benchmarks.transport", "receive", kind, secret]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.communicate()


def _receive_bare(fresh: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        sock, _ = server.accept()
        room = np.empty(int(np.prod(SHAPE)), np.float32)
        while head := sock.recv(STAMP.size, socket.MSG_WAITALL):
            sent_at, size = STAMP.unpack(head)
            if fresh:
                room = np.empty(size // 4, np.float32)
            view = memoryview(room).cast("B")  # type: ignore[arg-type]
            while view:
                view = view[sock.recv_into(view) :]
            sock.sendall(STAMP.pack(time.monotonic() - sent_at, 0))


async def _receive_agent(secret: str) -> None:
    async def attend(channel: Channel) -> None:
        with contextlib.suppress(ChannelClosed):
            while True:
                transfer = (await channel.receive()).transfer
                assert transfer is not None
                await channel.send(Message("share", {"cpu_share": transfer.received_at - transfer.sent_at}))

    listener = await TcpTransport(secret.encode()).listen("127.0.0.1:0", attend)
    print(listener.address.rpartition(":")[2], flush=True)
    await asyncio.Event().wait()


# -- AlexNet -----------------------------------------------------------------------------------------------------------------


async def _alexnet() -> list[dict[str, Any]]:
    """Split over two agent processes (device and cloud), measured compute, against all of it in the device's process."""
    graph = load_graph(ModelSpec("alexnet"))
    plans = {0: _plan(graph, len(graph), 1)} | {cut: _plan(graph, cut, epoch) for epoch, cut in enumerate(SPLITS.values(), 2)}
    with tempfile.TemporaryDirectory() as folder:
        secret = Path(folder) / "secret"
        secret.write_text(secrets.token_hex(16))
        async with agents(Path(folder), secret, "alexnet") as pair:
            taken, compute = await _requests(pair.channels, graph, plans)
    rows = []
    for where, cut in SPLITS.items():
        what = f"AlexNet over two processes, {where}"
        rows.append(_row(what, "its own compute, both processes", taken[cut], compute[cut]))
        rows.append(_row(what, "AlexNet in one process", taken[cut], taken[0]))
    return rows


Seconds = dict[int, list[float]]
"""By where the model is cut."""


async def _requests(channels: dict[str, Channel], graph: LayerGraph, plans: dict[int, Plan]) -> tuple[Seconds, Seconds]:
    """Seconds that requests took under each plan, in turns, and seconds of computing in them."""
    taken: Seconds = {cut: [] for cut in plans}
    compute: Seconds = {cut: [] for cut in plans}
    for channel in channels.values():
        for plan in plans.values():
            steps = {tier: [0.0] * len(program.steps) for tier, program in lower(graph, plan).items()}
            await ask(channel, "install", plan=plan.to_dict(), steps_s=steps, tiles_s=[])
    request = 0
    for round_ in range(3 + INFERENCES):
        for cut, plan in plans.items():
            request += 1
            fields = {"request": request, "epoch": plan.epoch, "input": 1, "deadline_s": 30.0}
            await channels["d1"].send(Message("submit", fields))
            busy = 0.0
            for name in ("d1", "c1")[: 2 if cut else 1]:
                busy += sum(r["end"] - r["start"] for r in await report(channels[name]) if r["what"] == "compute")
            done = await channels["d1"].receive()
            assert done.kind == "done", done.fields
            if round_ >= 3:
                taken[cut].append(done.fields["done_at"] - done.fields["submitted_at"])
                compute[cut].append(busy)
    return taken, compute


def _plan(graph: LayerGraph, cut: int, epoch: int) -> Plan:
    tiers = tuple("device" if v < cut else "cloud" for v in range(len(graph)))
    return Plan("benchmark", "alexnet", tiers, {"device": "d1", "edge": "e1", "cloud": "c1"}, (), epoch)  # type: ignore[arg-type]


if __name__ == "__main__":
    if sys.argv[1:2] == ["receive"]:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_receive_agent(sys.argv[3])) if sys.argv[2] == "agent" else _receive_bare(sys.argv[2] == "fresh")
    else:
        from rich.console import Console

        from benchmarks.__main__ import table

        Console().print(table(TITLE, run()))
