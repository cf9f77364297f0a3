"""The backend `mininet`: the scenario's network as Mininet hosts and switches on this kernel, in namespaces of their own.

The orchestrator stays outside; a helper process inside (`testbed.backends.emulation`) holds the network and the agents. Control
channels are Unix sockets on the inside's private tmpfs, reached through /proc, so they need no link. When either side dies the
kernel removes everything. What runs over the network is `d3node`'s; what the figures are worth, `testbed.backends.invariants`'.

`time_scale` k: rates are divided by k and delays multiplied; agents and orchestrator run on a clock that is k times slower, so
every time they report is in scenario seconds.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Protocol, TypeVar

from d3node.clock import ScaledLoop, run
from testbed import registry
from testbed.backends import isolation
from testbed.backends.base import Session, Support
from testbed.backends.cgroups import CpuLimits
from testbed.backends.emulated_session import EmulatedSession
from testbed.backends.mininet_support import missing
from testbed.backends.netspec import DIRECTIONS, AgentsSpec, EmulationSpec, NetworkSpec, scaled
from testbed.backends.netspec import queue_bytes as default_queue
from testbed.errors import BackendError
from testbed.scenario.links import ResolvedLink, hosts_of, links_of
from testbed.scenario.schema import Scenario
from topologies.addresses import address, assign
from topologies.layout import Direction, Layout

T = TypeVar("T")
DATA_PORT = 5700
_CONTROL_FOLDER = isolation.PRIVATE / "d3"
_LAST_WORDS = 2000


class Inside(Protocol):
    """The running inside: `root` is its file system as seen from here; `kill` ends everything in it at once."""

    @property
    def root(self) -> Path: ...

    def kill(self) -> None: ...


class MininetBackend:
    """See the module. `capture_dir`: where to write a pcap file per backbone link, or None for no capture."""

    name = "mininet"

    def __init__(self, capture_dir: Path | str | None = None) -> None:
        self.capture_dir = None if capture_dir is None else Path(capture_dir)

    def support(self, scenario: Scenario) -> Support:
        """Whether this machine can run the scenario; every missing thing is named with the way to get it."""
        links: dict[str, ResolvedLink] = links_of(scenario, registry.layout(scenario.topology))
        reasons = missing(scenario, links)
        return Support(not reasons, reasons)

    def run(self, scenario: Scenario, main: Callable[[Session], Awaitable[T]]) -> T:
        """Build the network, start the agents, and run `main` against them. Raises BackendError, AgentError."""
        support = self.support(scenario)
        if not support.ok:
            raise BackendError("the mininet backend cannot run this scenario here: " + "; ".join(support.reasons))
        layout = registry.layout(scenario.topology)
        secret = secrets.token_bytes(32)
        spec = self.spec(scenario, layout, secret)
        loop = ScaledLoop(scenario.run.time_scale)
        cpus = {name: host.cpus for name, host in hosts_of(scenario, layout).items() if host.cpus is not None}
        if not cpus:
            return run(loop, self._session(scenario, spec, secret, main))
        with CpuLimits(cpus) as limits:
            return run(loop, self._session(scenario, limited(spec, limits), secret, main, limits))

    def spec(self, scenario: Scenario, layout: Layout, secret: bytes) -> EmulationSpec:
        """What is built for a scenario."""
        links = links_of(scenario, layout)
        scale = scenario.run.time_scale
        keys = [(link, direction) for link in layout.link_names for direction in DIRECTIONS]
        captures = {}
        if self.capture_dir is not None:
            folder = self.capture_dir.resolve()
            captures = {link.name: str(folder / f"{link.name}.pcap") for link in layout.links if link.role == "backbone"}
        return EmulationSpec(
            network=NetworkSpec(
                layout=layout,
                states={(link, d): scaled(links[link].state(d), scale) for link, d in keys},
                queues={(link, d): _queue(links[link], d) for link, d in keys},
                offload=scenario.network.offload,
                slow_start_after_idle=scenario.network.slow_start_after_idle,
                congestion_control=scenario.network.congestion_control,
                seed=scenario.seed,
                switch=scenario.network.switch,
            ),
            agents=AgentsSpec(
                models=_models(scenario),
                threads=scenario.compute.threads,
                secret=secret.hex(),
                configs={
                    host.name: {
                        "name": host.name,
                        "tier": host.tier,
                        "mode": scenario.compute.mode,
                        "tensors": scenario.compute.tensors,
                        "threads": scenario.compute.threads,
                        "lag_interval_s": 0.1,
                        "faults": bool(scenario.fault),
                    }
                    for host in layout.hosts
                },
                data={host.name: _listen(layout, host.name) for host in layout.hosts},
                control={host.name: f"unix:{_CONTROL_FOLDER / host.name}.sock" for host in layout.hosts},
                time_scale=scale,
                tensors=scenario.compute.tensors,
            ),
            captures=captures,
        )

    async def _session(
        self,
        scenario: Scenario,
        spec: EmulationSpec,
        secret: bytes,
        main: Callable[[Session], Awaitable[T]],
        limits: CpuLimits | None = None,
    ) -> T:
        """Start the inside, run `main`, and end the inside whatever happens."""
        ours, theirs = socket.socketpair()
        with tempfile.TemporaryFile() as words:  # no name, so it cannot stay behind
            try:
                with theirs:
                    inside = self.start_inside(scenario, theirs, words, () if limits is None else (limits.descriptor,))
            except BaseException:
                ours.close()
                raise
            try:
                session = EmulatedSession(spec, scenario.run.time_scale, inside.root, secret, DATA_PORT, self.settle, limits)
                await session.open(ours, lambda: _tail(words))
                task = asyncio.ensure_future(main(session))
                watch = asyncio.ensure_future(session.ended())
                try:
                    await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
                    if not task.done():
                        task.cancel()
                        await asyncio.wait((task,))
                        raise watch.result()
                    return task.result()
                finally:
                    for one in (task, watch):
                        one.cancel()
                    await asyncio.gather(task, watch, return_exceptions=True)
                    await session.close()
            finally:
                inside.kill()

    async def settle(self) -> None:
        """Awaited before something is measured."""

    def start_inside(
        self, scenario: Scenario, channel: socket.socket, words: IO[bytes], descriptors: tuple[int, ...] = ()
    ) -> Inside:
        """Start the process that builds the network and serves `channel`; what it writes goes to `words`. It inherits
        `descriptors`."""
        return isolation.start(
            [sys.executable, "-m", "testbed.backends.emulation", str(channel.fileno())],
            pass_fds=(channel.fileno(), *descriptors),
            environment={
                "OMP_NUM_THREADS": str(scenario.compute.threads),
                "PYTHONPATH": os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path),  # users' models
            },
            stderr=words,
            stdout=words,
        )


def limited(spec: EmulationSpec, limits: CpuLimits) -> EmulationSpec:
    """The same, with agents that put themselves into their control groups."""
    assert spec.agents is not None
    return replace(spec, agents=replace(spec.agents, cgroups=limits.descriptor, limited=tuple(limits.cpus)))


def _models(scenario: Scenario) -> dict[str, dict[str, object]]:
    """Fields of `d3node.model.ModelSpec` by model name; files are looked for from the scenario's folder."""
    found: dict[str, dict[str, object]] = {}
    for name in scenario.model.names:
        source = name
        if name.endswith(".pt2"):
            source = str((Path(scenario.directory) / name).resolve())
        weights = scenario.model.weights.get(name)
        found[name] = {
            "source": source,
            "seed": scenario.model.seed,
            "weights": None if weights is None else str((Path(scenario.directory) / weights).resolve()),
        }
    return found


def _queue(link: ResolvedLink, direction: Direction) -> int:
    """Bytes of queue; from the highest rate that the link will have where the scenario says nothing. Bytes do not scale."""
    if link.queue_bytes is not None:
        return link.queue_bytes
    state = link.state(direction)
    rate, delay = state.rate_bps, state.delay_s
    if link.trace is not None and link.traced(direction):
        rate = max(link.trace.columns.get("rate_bps", (rate,)))
        delay = max(link.trace.columns.get("delay_s", (delay,)))
    return default_queue(rate, delay)


def _listen(layout: Layout, host: str) -> str:
    """A host with several addresses listens on all of them."""
    several = sum(name == host for name, _ in assign(layout)) > 1
    return f"0.0.0.0:{DATA_PORT}" if several else f"{address(layout, host, host)}:{DATA_PORT}"


def _tail(words: IO[bytes]) -> str:
    words.seek(0, 2)
    words.seek(max(0, words.tell() - _LAST_WORDS))
    return words.read().decode(errors="replace").strip()
