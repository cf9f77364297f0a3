"""What the orchestrator's tests share: small scenarios, layouts, costs, and agents that are not there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from d3node.channel import Message
from d3node.clock import VirtualLoop
from d3node.clock import run as run_on
from d3node.errors import ChannelClosed
from d3node.graph import LayerGraph, Spatial, Vertex
from testbed import registry
from testbed.backends.base import LinkCounters
from testbed.costs.table import Costs, TierCosts
from testbed.orchestrator.world import ModelFacts, Site, sites_of
from testbed.scenario.schema import Scenario, TopologyTable
from topologies.layout import Layout

T = TypeVar("T")

SMALL = "model_blocks:Residual"
"""A network that captures in no time, with a residual block; real tensors."""


def virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time."""
    return run_on(VirtualLoop(), main)


def scenario(**tables: Any) -> Scenario:
    """A small scenario; keyword arguments replace keys of its tables."""
    base: dict[str, Any] = {
        "name": "test",
        "seed": 3,
        "model": {"names": [SMALL]},
        "topology": {"devices": 1, "edges": 2},
        "links": {"access": {"rate": "50 Mbit/s", "delay": "2 ms"}, "backbone": {"rate": "20 Mbit/s", "delay": "10 ms"}},
        "compute": {"tensors": "sizes"},
        "requests": {"count": 5, "warmup": 1},
        "planning": {"planners": ["hpa"]},
    }
    for name, table in tables.items():
        base[name] = {**base.get(name, {}), **table} if isinstance(table, dict) and name != "links" else table
    return Scenario.model_validate(base)


def swinging(folder: Path, high: str = "60e6", low: str = "1e6", period: int = 6) -> str:
    """A backbone trace that swings between two rates (bit/s); returns its path."""
    path = folder / "swinging.csv"
    rows = [f"{i * period},{high if i % 2 == 0 else low}" for i in range(4)]
    path.write_text("\n".join(["time_s,rate_bps", *rows]) + "\n")
    return str(path)


def layout(devices: int = 1, edges: int = 3, name: str = "three_tier") -> Layout:
    return registry.layout(TopologyTable(name=name, devices=devices, edges=edges))


def chain(lengths: int = 3) -> LayerGraph:
    """Input and spatial vertices one behind the other, 16x16 maps of 64 kB."""
    spatial = Spatial("window", (3, 3), (1, 1), (1, 1))
    vertices = [Vertex(0, "input", "input", (), (1, 3, 16, 16), 100_000)]
    vertices += [
        Vertex(i, f"conv{i}", "conv2d", (i - 1,), (1, 64, 16, 16), 65536, 10**6, 0, spatial) for i in range(1, lengths + 1)
    ]
    return LayerGraph("chain", tuple(vertices), (lengths,))


def costs(graph: LayerGraph, **speed: float) -> Costs:
    """Device 40 ms, edge 10 ms, cloud 1 ms a vertex; a tenth of it fixed."""
    seconds = {"device": 0.04, "edge": 0.01, "cloud": 0.001}
    tiers = {
        tier: TierCosts((0.0, *[s * 0.1] * (len(graph) - 1)), (0.0, *[s * 0.9] * (len(graph) - 1)), "test")
        for tier, s in seconds.items()
    }
    return Costs(tiers, speed=dict(speed))  # type: ignore[arg-type]


def facts(graph: LayerGraph, **speed: float) -> ModelFacts:
    known = costs(graph, **speed)
    return ModelFacts(graph.name, graph, known, known)


def site(where: Layout, device: str = "d1") -> Site:
    return sites_of(where, "relay")[device]


class FakeChannel:
    """The orchestrator's end of a control channel whose agent is a function from message to replies."""

    peer = "fake"
    bytes_sent = 0
    bytes_received = 0

    def __init__(self, agent: Callable[[Message], list[Message]]) -> None:
        self.sent: list[Message] = []
        self.agent = agent
        self.inbox: asyncio.Queue[Message | None] = asyncio.Queue()

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        for reply in self.agent(message):
            self.inbox.put_nowait(reply)

    async def receive(self) -> Message:
        message = await self.inbox.get()
        if message is None:
            raise ChannelClosed("the peer is gone")
        return message

    def drop(self) -> None:
        """The agent dies."""
        self.inbox.put_nowait(None)

    async def close(self) -> None: ...

    def abort(self) -> None: ...


def agree(message: Message) -> list[Message]:
    """Say ok to every call."""
    return [Message("ok", {"id": message.fields["id"]})] if "id" in message.fields else []


class FakeSession:
    """Control channels to agents that are functions; links that note what is asked of them."""

    def __init__(self, where: Layout, agent: Callable[[Message], list[Message]] = agree) -> None:
        self.layout = where
        self.channels = {host.name: FakeChannel(agent) for host in where.hosts}
        self.applied: list[tuple[str, str, Any]] = []

    def address(self, host: str, peer: str) -> str:
        return f"fake:{host}"

    async def control(self, host: str) -> FakeChannel:
        return self.channels[host]

    async def apply_link(self, link: str, direction: str, state: Any) -> None:
        self.applied.append((link, direction, state))

    async def counters(self) -> dict[Any, LinkCounters]:
        return {}

    async def invariants(self) -> list[Any]:
        return []

    async def kill(self, host: str) -> None:
        self.channels[host].drop()

    def describe(self) -> dict[str, Any]:
        return {}
