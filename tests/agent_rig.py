"""Agents and an orchestrator's end in one process, over Unix sockets or in memory: what the agent tests share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from d3node.agent import AgentConfig, serve
from d3node.channel import Channel, Handler, Message, Payload, Transfer, Transport
from d3node.errors import ChannelClosed, ChannelError
from d3node.graph import LayerGraph, Spatial, Vertex
from d3node.plan import Plan, Stack, Tile
from d3node.program import lower
from d3node.tcp import TcpTransport
from d3node.wire import Limits, wire_size

SECRET = b"a secret of the tests"
LIMITS = Limits(handshake_s=60.0, stall_s=60.0)
PATIENCE_S = 60.0
"""For what must come about, also on a real clock and a machine with other work."""


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
        return await asyncio.wait_for(future, PATIENCE_S)

    async def tell(self, kind: str, **fields: Any) -> None:
        await self.channel.send(Message(kind, fields))

    async def wait(self, count: int = 1, kinds: Sequence[str] = ("done", "failed")) -> list[Message]:
        """The first `count` events of some kinds, as soon as they are there."""
        async with asyncio.timeout(PATIENCE_S):
            while len(found := [e for e in self.events if e.kind in kinds]) < count:
                self._news.clear()
                await self._news.wait()
        return found

    async def close(self) -> None:
        self._reader.cancel()
        await self.channel.close()


class MemoryChannel:
    """One end of a pair of queues; messages take `delay_s`, in order."""

    def __init__(self, peer: str, delay_s: float) -> None:
        self.peer = peer
        self.bytes_sent = self.bytes_received = 0
        self.other: MemoryChannel | None = None
        self._delay_s = delay_s
        self._queue: asyncio.Queue[Message | None] = asyncio.Queue()
        self._ended = False

    async def send(self, message: Message) -> None:
        if self.other is None or self.other._ended:
            raise ChannelClosed(f"{self.peer} is gone")
        size = wire_size(message)
        self.bytes_sent += size
        loop = asyncio.get_running_loop()
        stamped = replace(message, transfer=Transfer(loop.time(), loop.time() + self._delay_s, size))
        loop.call_later(self._delay_s, self.other._queue.put_nowait, stamped)

    async def receive(self) -> Message:
        message = None if self._ended else await self._queue.get()
        if message is None:
            self._ended = True
            raise ChannelClosed(f"{self.peer} closed the connection")
        assert message.transfer is not None
        self.bytes_received += message.transfer.wire_bytes
        return message

    def spoil(self, how: str) -> None:
        raise NotImplementedError("queues in memory have no frames to spoil")

    async def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        self._ended = True
        self._queue.put_nowait(None)
        if self.other is not None and not self.other._ended:
            asyncio.get_running_loop().call_later(self._delay_s, self.other._queue.put_nowait, None)


class MemoryTransport:
    """A network in memory, for virtual time; `delay_s` one way, no limit of rate."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self._delay_s = delay_s
        self._handlers: dict[str, tuple[Handler, set[asyncio.Task[None]]]] = {}

    async def connect(self, address: str, *, deadline_s: float = 10.0) -> Channel:
        if address not in self._handlers:
            raise ChannelError(f"cannot connect to {address}: nobody is there")
        handler, tasks = self._handlers[address]
        near, far = MemoryChannel(address, self._delay_s), MemoryChannel("somebody", self._delay_s)
        near.other, far.other = far, near

        async def attend() -> None:
            try:
                await handler(far)
            finally:
                far.abort()

        tasks.add(asyncio.get_running_loop().create_task(attend()))
        return near

    async def listen(self, address: str, handler: Handler) -> MemoryListener:
        self._handlers[address] = (handler, set())
        return MemoryListener(address, self._handlers)


class MemoryListener:
    def __init__(self, address: str, handlers: dict[str, tuple[Handler, set[asyncio.Task[None]]]]) -> None:
        self.address = address
        self._handlers = handlers

    async def close(self) -> None:
        _, tasks = self._handlers.pop(self.address)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Rig:
    """Running agents by name."""

    def __init__(self, folder: Path | str, transport: Transport | None = None) -> None:
        self.folder = folder
        self.transport = transport or TcpTransport(SECRET, limits=LIMITS)
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.remotes: dict[str, Remote] = {}
        self.addresses: dict[str, str] = {}
        self._control: dict[str, str] = {}

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
        self._control[config.name] = ready.result()[1]
        await self.connect()

    async def connect(self) -> None:
        """Connect to the control plane of every living agent that has no orchestrator's end here."""
        for name in sorted(self.tasks.keys() - self.remotes.keys()):
            self.remotes[name] = Remote(name, await self.transport.connect(self._control[name]))

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
    folder: Path | None,
    models: Mapping[str, Any],
    names: Sequence[str] = ("d1", "e1", "c1"),
    delay_s: float = 0.0,
    transport: Transport | None = None,
    **config: Any,
) -> AsyncIterator[Rig]:
    """Agents d*, e* and c* over a folder of sockets, or in memory when `folder` is None; not configured yet."""
    made = Rig(folder or "memory", transport if folder else MemoryTransport(delay_s))
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
