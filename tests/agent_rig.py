"""Agents and an orchestrator's end in one process, over Unix sockets: what the agent tests share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from d3node.agent import AgentConfig, serve
from d3node.channel import Channel, Message, Payload
from d3node.errors import ChannelError
from d3node.graph import LayerGraph, Spatial, Vertex
from d3node.plan import Plan, Stack, Tile
from d3node.program import lower
from d3node.tcp import TcpTransport
from d3node.wire import Limits

SECRET = b"a secret of the tests"
LIMITS = Limits(handshake_s=1.0, stall_s=2.0)


class Remote:
    """The orchestrator's end of one agent's control channel."""

    def __init__(self, name: str, channel: Channel) -> None:
        self.name = name
        self.channel = channel
        self.events: list[Message] = []
        self._answers: dict[int, asyncio.Future[Message]] = {}
        self._count = 0
        self._news = asyncio.Event()
        self._reader = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        with contextlib.suppress(ChannelError):
            while True:
                message = await self.channel.receive()
                future = self._answers.pop(message.fields.get("id", -1), None)
                if future is not None:
                    future.set_result(message)
                else:
                    self.events.append(message)
                    self._news.set()

    async def ask(self, kind: str, **fields: Any) -> Message:
        self._count += 1
        future = self._answers[self._count] = asyncio.get_running_loop().create_future()
        await self.channel.send(Message(kind, {"id": self._count, **fields}))
        return await asyncio.wait_for(future, 20)

    async def tell(self, kind: str, **fields: Any) -> None:
        await self.channel.send(Message(kind, fields))

    async def wait(self, count: int = 1, kinds: Sequence[str] = ("done", "failed")) -> list[Message]:
        """The first `count` events of some kinds, as soon as they are there."""
        async with asyncio.timeout(20):
            while len(found := [e for e in self.events if e.kind in kinds]) < count:
                self._news.clear()
                await self._news.wait()
        return found

    async def close(self) -> None:
        self._reader.cancel()
        await self.channel.close()


class Rig:
    """Running agents by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.transport = TcpTransport(SECRET, limits=LIMITS)
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.remotes: dict[str, Remote] = {}
        self.addresses: dict[str, str] = {}

    async def start(self, config: AgentConfig, models: Mapping[str, Any]) -> None:
        ready = asyncio.get_running_loop().create_future()
        data, control = (f"unix:{self.folder}/{config.name}-{plane}" for plane in ("data", "control"))
        self.tasks[config.name] = asyncio.get_running_loop().create_task(
            serve(config, models, self.transport, data, self.transport, control, ready=lambda d, c: ready.set_result((d, c)))
        )
        await asyncio.wait({self.tasks[config.name], ready}, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            self.tasks[config.name].result()
        self.addresses[config.name] = ready.result()[0]
        self.remotes[config.name] = Remote(config.name, await self.transport.connect(ready.result()[1]))

    async def configure(self, **more: Any) -> None:
        fields = {"peers": self.addresses, "mode": "modelled", "tensors": "sizes", **more}
        for remote in self.remotes.values():
            answer = await remote.ask("configure", **fields)
            assert answer.kind == "ok", answer

    async def install(self, graph: LayerGraph, plan: Plan, seconds: float = 0.0, hosts: Sequence[str] = ()) -> None:
        for name in hosts or self.remotes:
            answer = await self.remotes[name].ask("install", **timed(graph, plan, seconds))
            assert answer.kind == "ok", answer

    async def kill(self, name: str) -> None:
        """End an agent without any last words of its own."""
        task = self.tasks.pop(name)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        for remote in self.remotes.values():
            await remote.close()
        for name in list(self.tasks):
            await self.kill(name)


@contextlib.asynccontextmanager
async def rig(
    folder: Path, models: Mapping[str, Any], names: Sequence[str] = ("d1", "e1", "c1"), **config: Any
) -> AsyncIterator[Rig]:
    """Agents d*, e* and c* over a folder of sockets; not configured yet."""
    made = Rig(folder)
    tiers = {"d": "device", "e": "edge", "c": "cloud"}
    try:
        for name in names:
            base = AgentConfig(name=name, tier=tiers[name[0]])  # type: ignore[arg-type]
            await made.start(replace(base, **config), models)
        yield made
    finally:
        await made.close()


def timed(graph: LayerGraph, plan: Plan, seconds: float) -> dict[str, Any]:
    """The fields of `install`, every step and tile taking `seconds`."""
    return {
        "plan": plan.to_dict(),
        "steps_s": {tier: [seconds] * len(program.steps) for tier, program in lower(graph, plan).items()},
        "tiles_s": [[seconds] * len(stack.tiles) for stack in plan.stacks],
    }


def chain(count: int = 6, size: int = 16, channels: int = 3, name: str = "chain") -> LayerGraph:
    """input -> 3x3 convolutions of equal shape -> ...; the last vertex is the answer."""
    shape = (1, channels, size, size)
    nbytes = 4 * channels * size * size
    spatial = Spatial("window", (3, 3), (1, 1), (1, 1))
    vertices = [Vertex(0, "input", "input", (), shape, nbytes)]
    vertices += [Vertex(v, f"conv{v}", "conv2d", (v - 1,), shape, nbytes, spatial=spatial) for v in range(1, count)]
    return LayerGraph(name, tuple(vertices), (count - 1,))


def three_way(graph: LayerGraph, epoch: int = 1, device: int = 2, edge: int = 4, device_name: str = "d1") -> Plan:
    """Vertices below `device` on the device, below `edge` on the edge, the rest in the cloud."""
    tiers = tuple("device" if v < device else "edge" if v < edge else "cloud" for v in range(len(graph)))
    hosts = {"device": device_name, "edge": "e1", "cloud": "c1"}
    return Plan("test", graph.name, tiers, hosts, (), epoch)  # type: ignore[arg-type]


def tiled(graph: LayerGraph, vertices: Sequence[int], hosts: Sequence[str], epoch: int = 1, device: int = 1) -> Plan:
    """A plan whose edge stack is cut in rows, one tile per host."""
    rows, columns = graph[vertices[-1]].rows, graph[vertices[-1]].columns
    edges = [rows * i // len(hosts) for i in range(len(hosts) + 1)]
    tiles = tuple(Tile(host, (edges[i], edges[i + 1]), (0, columns)) for i, host in enumerate(hosts))
    plan = three_way(graph, epoch, device, max(vertices) + 1)
    return replace(plan, stacks=(Stack(tuple(vertices), (len(hosts), 1), tiles),))


def data_of(message: Message) -> list[bytes]:
    return [bytes(payload.data or b"") for payload in message.payloads]


def payload(data: bytes, dtype: str = "uint8", shape: tuple[int, ...] | None = None) -> Payload:
    return Payload(dtype, shape if shape is not None else (len(data),), len(data), memoryview(data))
