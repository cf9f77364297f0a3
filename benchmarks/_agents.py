"""Agents in processes of their own, a device's and a cloud's, over loopback: started, configured and asked."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d3node.channel import Channel, Message
from d3node.tcp import TcpTransport

HOSTS = (("d1", "device"), ("c1", "cloud"))


@dataclass(frozen=True)
class Pair:
    """Two agents: their control channels, their processes, and where the cloud listens."""

    channels: dict[str, Channel]
    processes: list[int]
    cloud: str

    def cpu_s(self) -> float:
        """CPU time of both so far."""
        return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in self.processes) / 1e9


@contextlib.asynccontextmanager
async def agents(folder: Path, secret: Path, model: str, tls: Path | None = None) -> AsyncIterator[Pair]:
    """A device's and a cloud's process, with their control sockets in a folder; `tls`: where `tls_files` are."""
    with contextlib.ExitStack() as stack:
        processes: dict[str, subprocess.Popen[str]] = {}
        for name, tier in HOSTS:
            where = ["--listen", "127.0.0.1:0", "--control", f"unix:{folder}/{name}", "--secret-file", str(secret)]
            if tls is not None:
                ca, certificate, key = tls_files(tls, name)
                where += ["--tls-ca", str(ca), "--tls-certificate", str(certificate), "--tls-key", str(key)]
            command = [sys.executable, "-m", "d3node.cli", "serve", "--name", name, "--tier", tier, "--model", model, *where]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
            stack.callback(process.communicate)
            stack.callback(process.terminate)
            processes[name] = process
        peers = {}
        for name, process in processes.items():
            assert process.stdout is not None
            peers[name] = process.stdout.readline().split(" on ")[1].split(",")[0]
        transport = TcpTransport(secret.read_bytes())
        channels: dict[str, Channel] = {name: await transport.connect(f"unix:{folder}/{name}") for name in processes}
        for channel in channels.values():
            await ask(channel, "configure", peers=peers, mode="measured", tensors="real", route="direct")
        yield Pair(channels, [process.pid for process in processes.values()], peers["c1"])
        for channel in channels.values():
            await channel.close()


def tls_files(folder: Path, name: str) -> tuple[Path, Path, Path]:
    """Authority, certificate and key of a host."""
    return folder / "ca.pem", folder / f"{name}.pem", folder / f"{name}.key"


async def ask(channel: Channel, kind: str, **fields: Any) -> None:
    """An order that must be answered with ok."""
    await channel.send(Message(kind, {"id": 1, **fields}))
    answer = await channel.receive()
    assert answer.kind == "ok", answer.fields


async def report(channel: Channel) -> list[dict[str, Any]]:
    """The records of the report that comes next."""
    message = await channel.receive()
    assert message.kind == "report", message
    records: list[dict[str, Any]] = message.fields["records"]
    return records
