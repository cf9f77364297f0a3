"""Backend `sim`: agents in this process, on a flow-level network, in virtual time. Needs nothing but pip, and repeats exactly.

The agents' code is the one that real hosts run; the network's model is in `flow.py`, its channels in `sim_channels.py`.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, TypeVar

from d3node import clock
from d3node.agent import AgentConfig, serve
from d3node.channel import Channel
from d3node.graph import LayerGraph
from d3node.model import Model, ModelSpec, load_graph, load_model
from testbed import registry
from testbed.backends.base import Invariant, LinkCounters, Session, Support
from testbed.backends.flow import FlowNetwork
from testbed.backends.flow_job import SEGMENT
from testbed.backends.flow_stream import INITIAL_WINDOW, MIN_RTO
from testbed.backends.mininet_only import refusals
from testbed.backends.netspec import queue_bytes
from testbed.backends.sim_channels import Fabric
from testbed.backends.sim_transport import SimTransport
from testbed.errors import AgentError, BackendError
from testbed.scenario.links import ResolvedLink, links_of
from testbed.scenario.schema import Scenario
from testbed.scenario.state import LinkState
from topologies.layout import Direction, Host, Layout

T = TypeVar("T")
log = logging.getLogger("testbed.sim")

COLLECT_AFTER = 20_000
"""Objects more than before after which Python looks for garbage while sizes are simulated (its default: 700)."""


class SimBackend:
    """Runs scenarios in virtual time. `strict` sends every header through the wire format (slower; for conformance tests).

    `run.time_scale` does nothing here: virtual time cannot be too fast for the machine.
    """

    name = "sim"

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict

    def support(self, scenario: Scenario) -> Support:
        """Every machine will do; only measured compute times do not exist in virtual time."""
        if scenario.compute.mode == "measured":
            return Support(
                False,
                [
                    'compute.mode = "measured": no virtual time passes while torch computes; set compute.mode = "modelled"'
                    " (after `testbed profile`, if this machine's own times are wanted), or use --backend mininet"
                ],
            )
        if reasons := refusals(scenario):
            return Support(False, reasons)
        shaky = [key for key, table in scenario.links.items() if table.jitter]
        if shaky:
            overrides = " ".join(f"--set links.{key}.jitter='0 s'" for key in shaky)
            text = f"jitter on {', '.join(shaky)}: the flow model has no single frames that could be late"
            return Support(False, [f"{text}; use --backend vkernel, or set it to 0 ({overrides})"])
        return Support(True)

    def run(self, scenario: Scenario, main: Callable[[Session], Awaitable[T]]) -> T:
        """Start an agent on every host of the scenario's layout, run `main` on it, and end the agents, whatever happens.

        Raises BackendError for a scenario that it does not support, AgentError if an agent cannot start.
        """
        support = self.support(scenario)
        if not support.ok:
            raise BackendError("; ".join(support.reasons))
        layout = registry.layout(scenario.topology)
        links = links_of(scenario, layout)
        states = {(name, direction): link.state(direction) for name, link in links.items() for direction in _DIRECTIONS}
        queues = {(name, direction): _queue(link, direction) for name, link in links.items() for direction in _DIRECTIONS}
        models = _models(scenario)
        loop = clock.VirtualLoop()

        async def body() -> T:
            network = FlowNetwork(loop, layout, states, queues, scenario.network.slow_start_after_idle, scenario.seed)
            session = SimSession(scenario, Fabric(network, self.strict))
            try:
                await session.start(models)
                return await main(session)
            finally:
                await session.stop()

        with _collecting_seldom() if scenario.compute.tensors == "sizes" else nullcontext():
            return clock.run(loop, body())


@contextmanager
def _collecting_seldom() -> Iterator[None]:
    """Have Python look for garbage that refers to itself after so many more objects only: what a simulated network is made of
    lives to the end of the run, and what a request leaves goes by itself."""
    before = gc.get_threshold()
    if before[0]:
        gc.set_threshold(max(before[0], COLLECT_AFTER), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


class SimSession:
    """A started network of agents in virtual time."""

    repeats_exactly: Literal[True] = True

    def __init__(self, scenario: Scenario, fabric: Fabric) -> None:
        self.layout: Layout = fabric.network.layout
        self.fabric = fabric
        self.crashed: dict[str, str] = {}
        self._scenario = scenario
        self._network = fabric.network
        self._orchestrator = SimTransport(fabric, "orchestrator", free=True)
        self._models: Mapping[str, Model | LayerGraph] = {}
        self._agents: dict[str, asyncio.Task[None]] = {}

    async def start(self, models: Mapping[str, Model | LayerGraph]) -> None:
        """Start the agents; returns when all of them listen. Raises AgentError if one cannot."""
        self._models = models
        for host in self.layout.hosts:
            await self._start(host)

    async def _start(self, host: Host) -> None:
        compute = self._scenario.compute
        loop = self.fabric.loop
        config = AgentConfig(
            name=host.name,
            tier=host.tier,
            mode=compute.mode,
            tensors=compute.tensors,
            threads=compute.threads,
            inline_compute=True,
            route=self._scenario.network.route,
            input_encoding=self._scenario.model.input_encoding,
            faults=bool(self._scenario.fault),
        )
        data, control = SimTransport(self.fabric, host.name), SimTransport(self.fabric, host.name, free=True)
        ready = loop.create_future()
        agent = serve(
            config,
            self._models,
            data,
            f"sim:{host.name}",
            control,
            f"control:{host.name}",
            ready=lambda *_: ready.set_result(None),
        )
        task = loop.create_task(agent, name=f"agent {host.name}", context=data.context)
        self._agents[host.name] = task
        task.add_done_callback(lambda done: self._ended(host.name, done))
        await asyncio.wait((task, ready), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            raise AgentError(f"the agent of {host.name} did not start: {self.crashed.get(host.name, 'it ended at once')}")

    async def stop(self) -> None:
        """End every agent."""
        tasks = [task for task in self._agents.values() if not task.done()]
        for task in tasks:
            task.cancel()
        for host in self._agents:
            self.fabric.loop.go_on(host)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def kill(self, host: str) -> None:
        """End an agent at once, as if its process had been killed: no last words, connections reset, nobody listens."""
        self.fabric.take_down(host)
        task = self._agents[host]
        task.cancel()
        self.fabric.loop.go_on(host)
        await asyncio.wait((task,))

    async def restart(self, host: str) -> None:
        """Start an agent anew, which knows nothing of what was; one that is still there is killed first. Raises AgentError."""
        await self.kill(host)
        self.fabric.bring_up(host)
        await self._start(self.layout.by_name[host])

    async def hang(self, host: str) -> None:
        """Let an agent stand still: nothing of it runs, and its timers come late, as after SIGSTOP.

        As with a kernel, its messages that were handed over arrive, what comes in waits, and a handshake gets as far as SYN-ACK.
        Unlike a kernel's, what waits is bounded by no receive buffer, and the data of a message that was being sent are all
        handed over.
        """
        if host not in self.fabric.down:
            self.fabric.loop.halt(host)

    async def wake(self, host: str) -> None:
        """Let it go on with all that has come due."""
        self.fabric.loop.go_on(host)

    def address(self, host: str, peer: str) -> str:
        """Data-plane address of a host; the same for every peer (the layout says which links lead there)."""
        return f"sim:{host}"

    async def control(self, host: str) -> Channel:
        """A control channel to a host's agent; free, and of no delay. Raises ChannelError if nobody listens any more."""
        return await self._orchestrator.connect(f"control:{host}")

    async def apply_link(self, link: str, direction: Direction, state: LinkState) -> None:
        """Change a link from this moment on, for messages on their way too."""
        self._network.apply(link, direction, state)

    async def counters(self) -> dict[tuple[str, Direction], LinkCounters]:
        """Totals of every link direction, exact for messages sent in full."""
        return self._network.counters()

    async def invariants(self) -> list[Invariant]:
        """What must hold if the simulation itself is right, and whether every agent is still there."""
        fabric = self.fabric
        load, where = self._network.utilisation()
        missing = fabric.sent_bytes - fabric.received_bytes - fabric.dropped_bytes - fabric.in_flight_bytes
        return [
            Invariant("link_rate", "ok" if load <= 1.0 + 1e-9 else "rejected", load, 1.0, f"busiest: {where}" if where else ""),
            Invariant("delivered_bytes", "rejected" if missing else "ok", float(missing), 0.0, "sent but never delivered"),
            Invariant(
                "undelivered_bytes",
                "degraded" if fabric.dropped_bytes else "ok",
                float(fabric.dropped_bytes),
                0.0,
                f"arrived at closed connections; {fabric.in_flight} message(s) on their way now",
            ),
            Invariant(
                "agents_alive",
                "rejected" if self.crashed else "ok",
                float(len(self.crashed)),
                0.0,
                "; ".join(f"{name}: {text}" for name, text in self.crashed.items()),
            ),
        ]

    def describe(self) -> dict[str, Any]:
        """Facts for the manifest: what the network model is, and what it makes of the scenario's settings."""
        network = self._scenario.network
        return {
            "backend": "sim",
            "clock": "virtual",
            "network": "flow-level: max-min share over every link of the path, weighted by what is in the queue",
            "segment_bytes": SEGMENT,
            "initial_window_bytes": INITIAL_WINDOW,
            "slow_start_after_idle": network.slow_start_after_idle,
            "minimum_rto_s": MIN_RTO,
            "congestion_control": f"slow start; under loss like Reno-friendly CUBIC; {network.congestion_control} not modelled",
            "offload": "none",
            "queue": "bounds the window of a stream that fills the pipe; rivals wait behind what others have in it; no drops",
            "loss": "drawn from the seed; sent again, window reduced as by CUBIC, a tail loss found by a probe",
            "acks": "66 bytes for two segments (each of the first 16 after a rest), counted on the way back, taking no room",
            "time_scale": "ignored: virtual time",
            "strict_headers": self.fabric.strict,
        }

    def _ended(self, host: str, task: asyncio.Task[None]) -> None:
        """An agent's task is over: if it failed, its host is down from now on."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the agent of %s failed", host, exc_info=error)
            self.crashed[host] = f"{type(error).__name__}: {error}"
            self.fabric.take_down(host)


_DIRECTIONS: tuple[Direction, Direction] = ("up", "down")


def _queue(link: ResolvedLink, direction: Direction) -> int:
    """Bytes of queue: the scenario's, or what the emulated backends give a link of this rate (the highest of its trace)."""
    if link.queue_bytes is not None:
        return link.queue_bytes
    state = link.state(direction)
    columns = link.trace.columns if link.trace is not None and link.traced(direction) else {}
    return queue_bytes(max(columns.get("rate_bps", (state.rate_bps,))), max(columns.get("delay_s", (state.delay_s,))))


def _models(scenario: Scenario) -> dict[str, Model | LayerGraph]:
    """Every model of the scenario once, for all agents: with weights, or the graph alone where only sizes travel."""
    found: dict[str, Model | LayerGraph] = {}
    for name in scenario.model.names:
        spec = ModelSpec(name, seed=scenario.model.seed, weights=scenario.model.weights.get(name))
        found[name] = load_model(spec) if scenario.compute.tensors == "real" else load_graph(spec)
    return found
