"""A started session on real machines: control channels whose times are by this machine's clock, and what agents can tell.

The network is what it is, or what the agents shape it into (`testbed.backends.hosts_shaping`). Clocks are measured at the start,
from time to time, and at the end, over connections of their own (`testbed.hosts.clocks`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from d3node.channel import Channel
from d3node.errors import NodeError
from d3node.model import ModelSpec, load_graph
from d3node.tcp import split_address
from testbed import registry
from testbed.backends import hosts_shaping, invariants
from testbed.backends.base import Invariant, LinkCounters
from testbed.backends.hosts_channel import HostChannel
from testbed.errors import AgentError, BackendError
from testbed.hosts import reach
from testbed.hosts.clocks import HostClock, Line, measure
from testbed.hosts.inventory import Inventory
from testbed.scenario.links import links_of
from testbed.scenario.schema import Scenario
from testbed.scenario.state import LinkState
from topologies.layout import Direction

if TYPE_CHECKING:
    from testbed.backends.hosts import Operator

log = logging.getLogger("testbed.hosts")
MEASURE_EVERY_S = 10.0
CLOCK_UNCERTAINTY_S = 0.001
"""More than this, and transfers of a few milliseconds are not known from clocks that far apart."""


class HostsSession:
    """A `Session` on the machines of an inventory. `open` before anything else, `close` in any case. `run`: one
    that may have left agents busy, without an orchestrator."""

    def __init__(
        self, inventory: Inventory, scenario: Scenario, operator: Operator | None = None, run: str | None = None
    ) -> None:
        self.layout = registry.layout(scenario.topology)
        self.clocks: dict[str, HostClock] = {}
        self.deaths: dict[str, str] = {}
        self.answer_tolerance = 0.0
        self._inventory = inventory
        self._scenario = scenario
        self._operator = operator
        self._asked_for: set[str] = set()
        self._begun: set[str] = set()
        self._run = run
        self._transport = reach.transport(inventory)
        self._lines: dict[str, Line] = {}
        self._about: dict[str, reach.About] = {}
        self._crossed = hosts_shaping.paths(self.layout)
        self._states: dict[hosts_shaping.Key, LinkState] = {}
        self._shaped: dict[hosts_shaping.Pair, LinkState] = {}
        self._keeper: asyncio.Task[None] | None = None

    @property
    def _shaping(self) -> bool:
        return self._inventory.links == "shaped"

    async def open(self) -> None:
        """Reach every agent, compare versions and models, measure clocks, shape links. Raises BackendError, all in one."""
        names = [host.name for host in self.layout.hosts]
        found = await asyncio.gather(*(self._reach(name) for name in names), return_exceptions=True)
        problems = []
        for name, error in zip(names, found, strict=True):
            if isinstance(error, NodeError | AgentError):
                problems.append(str(error))
            elif isinstance(error, BaseException):
                raise error
            else:
                problems += reach.misfits(self._inventory.hosts[name], self._about[name])
                if self._about[name].get("busy") and (self._run is None or self._about[name].get("run") != self._run):
                    problems.append(f"{name}: its agent is busy with another run; one orchestrator at a time")
        if not problems:
            specs = {name: ModelSpec(name, self._scenario.model.seed) for name in self._scenario.model.names}
            problems = reach.lacking(self._scenario, self._about, {name: load_graph(spec) for name, spec in specs.items()})
        if problems:
            raise BackendError("these machines cannot run the scenario:\n" + "\n".join(problems))
        if not reach.alike(self._about.values()):
            from d3node.accelerator import GPU_TOLERANCE

            self.answer_tolerance = GPU_TOLERANCE
        await self._measure_clocks()
        for host, line in self._lines.items():
            for model in self._scenario.model.names:  # a run that was broken off may have left it with some of its weights
                await line.ask("hold", model=reach.loaded_as(self._about[host], model), vertices=None)
        if self._shaping:
            for link in links_of(self._scenario, self.layout).values():
                self._states[link.name, "up"], self._states[link.name, "down"] = link.up, link.down
            for pair in self._crossed:
                await self._shape(pair)
        self._keeper = asyncio.create_task(self._keep_measuring())

    async def close(self) -> None:
        """End the connections; agents stop shaping and wait for the next orchestrator."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        for line in self._lines.values():
            with suppress(NodeError, OSError):
                await line.close()

    # -- the contract of `Session` -------------------------------------------------------------------------------------------

    def address(self, host: str, peer: str) -> str:
        """Data-plane address of `host` as `peer` must dial it."""
        return self._inventory.hosts[host].address(peer)

    async def control(self, host: str) -> Channel:
        """A control channel to a host's agent, whose times are by our clock."""
        models = {name: known for name in self._scenario.model.names if (known := reach.loaded_as(self._about[host], name))}
        inner = await self._transport.connect(self._inventory.hosts[host].control)
        return HostChannel(host, inner, self.clocks, models, self._lost, self._begun, self._run)

    async def apply_link(self, link: str, direction: Direction, state: LinkState) -> None:
        """Have every machine that sends over a link shape its paths anew; in force on return. Raises BackendError."""
        if not self._shaping:
            raise BackendError(f'{link}: links of real machines stay as they are, but for an inventory with links = "shaped"')
        self._states[link, direction] = state
        changed = [pair for pair, keys in self._crossed.items() if (link, direction) in keys]
        await asyncio.gather(*(self._shape(pair) for pair in changed))

    async def counters(self) -> dict[tuple[str, Direction], LinkCounters]:
        """What agents counted of shaped traffic; nothing where links are left as they are."""
        return hosts_shaping.by_link(self._crossed, await self._carried()) if self._shaping else {}

    async def invariants(self) -> list[Invariant]:
        """Measures the clocks a last time, so that drifts are known from start to end."""
        with suppress(NodeError, AgentError):
            await self._measure_clocks()
        return [self._clock_uncertainty(), invariants.agents_alive(self.deaths), self._devices(), await self._links()]

    async def kill(self, host: str) -> None:
        """See `Session`; by the operator."""
        self._asked_for.add(host)
        await self._by_operator("kill", host)

    async def restart(self, host: str) -> None:
        """See `Session`; by the operator."""
        self._asked_for.add(host)
        await self._by_operator("start", host)
        await self._line(host, anew=True)

    async def hang(self, host: str) -> None:
        """See `Session`; by the operator."""
        self._asked_for.add(host)
        await self._by_operator("hang", host)

    async def wake(self, host: str) -> None:
        """See `Session`; by the operator."""
        await self._by_operator("wake", host)

    def begin(self, run: str) -> None:
        """See `Outliving`."""
        self._run = run
        self._begun.clear()

    def take_over(self) -> None:
        """See `Outliving`."""
        self._begun.update(self._about)

    def gone(self, run: str) -> str:
        """See `Outliving`."""
        if self._shaping:
            return "agents shape links only as long as an orchestrator is connected"
        strange = sorted(name for name, about in self._about.items() if about.get("run") != run)
        return f"{', '.join(strange)}: the agent was started anew, or has served another run" if strange else ""

    def describe(self) -> dict[str, Any]:
        """Facts for the manifest."""
        kept = ("d3node", "torch", "python", "machine", "system", "threads", "device", "device_note", "shaping")
        return {
            "inventory": str(self._inventory.path.resolve()),
            "tls": self._inventory.ca is not None,
            "links": self._inventory.links,
            "time_scale": 1.0,
            "congestion_control": "each machine's own, or as its agent was told",
            "answer_tolerance": self.answer_tolerance,
            "machines": {name: {key: about.get(key) for key in kept} for name, about in self._about.items()},
        }

    def clock_facts(self) -> dict[str, Any]:
        """What was measured of each machine's clock so far."""
        return {name: clock.facts() for name, clock in self.clocks.items()}

    # -- agents and clocks ---------------------------------------------------------------------------------------------------

    async def _reach(self, host: str) -> None:
        line = self._lines[host] = await reach.dial(self._inventory, self._transport, host)
        self._about[host] = (await line.ask("about")).fields

    async def _line(self, host: str, anew: bool = False) -> Line:
        """The connection beside a run's own; dialled again where it was lost. Raises AgentError."""
        if anew and (line := self._lines.pop(host, None)) is not None:
            await line.close()
        if host not in self._lines:
            line = self._lines[host] = await reach.dial(self._inventory, self._transport, host)
            for pair in [pair for pair in self._shaped if pair[0] == host]:  # an agent shapes for as long as its asker is there
                del self._shaped[pair]
                await self._shape(pair)
            return line
        return self._lines[host]

    async def _measure_clocks(self) -> None:
        """One machine after the other, so that exchanges do not wait for each other here. Raises for the first that fails."""
        failed: Exception | None = None
        for host in self.layout.hosts:
            try:
                found = await measure(await self._line(host.name))
            except (NodeError, AgentError) as error:
                failed = error
                if (line := self._lines.pop(host.name, None)) is not None:
                    await line.close()
                continue
            self.clocks.setdefault(host.name, HostClock()).add(found)
        if failed is not None:
            raise failed

    async def _keep_measuring(self) -> None:
        while True:
            await asyncio.sleep(MEASURE_EVERY_S)
            try:
                await self._measure_clocks()
            except (NodeError, AgentError, BackendError) as error:  # its control channel tells of that, if it is for good
                log.info("a clock could not be measured: %s", error)

    def _lost(self, host: str, reason: str) -> None:
        if host not in self._asked_for:
            self.deaths[host] = f"the connection with the agent of {host} ended: {reason}"

    async def _by_operator(self, what: str, host: str) -> None:
        if self._operator is None:
            raise BackendError(f"{what} {host}: only the machine's operator has a hold on its agent's process")
        await asyncio.get_running_loop().run_in_executor(None, getattr(self._operator, what), host)

    # -- links ---------------------------------------------------------------------------------------------------------------

    async def _shape(self, pair: hosts_shaping.Pair) -> None:
        state = hosts_shaping.path_state(self._crossed[pair], self._states)
        if self._shaped.get(pair) == state:
            return
        source, target = pair
        try:
            await (await self._line(source)).ask(
                "shape",
                address=self._place(target, source),
                rate_bps=state.rate_bps,
                delay_s=state.delay_s,
                jitter_s=state.jitter_s,
                loss=state.loss,
            )
        except (NodeError, AgentError) as error:
            raise BackendError(f"the way from {source} to {target} cannot be shaped: {error}") from error
        self._shaped[pair] = state

    def _place(self, host: str, peer: str) -> str:
        return split_address(self.address(host, peer))[0]

    async def _carried(self) -> dict[hosts_shaping.Pair, tuple[int, int, int]]:
        found: dict[hosts_shaping.Pair, tuple[int, int, int]] = {}
        for source in {source for source, _ in self._crossed}:
            counted: Mapping[str, Any] = (await (await self._line(source)).ask("carried")).fields["addresses"]
            for target in (b for a, b in self._crossed if a == source):
                nbytes, packets, drops = counted.get(self._place(target, source), (0, 0, 0))
                found[source, target] = nbytes, packets, drops
        return found

    # -- what can be told of fidelity ----------------------------------------------------------------------------------------

    def _clock_uncertainty(self) -> Invariant:
        host, clock = max(self.clocks.items(), key=lambda item: item[1].uncertainty_s)
        worst, drift = clock.uncertainty_s, max((abs(clock.drift) for clock in self.clocks.values()), default=0.0)
        detail = (
            f"that of {host} is known to within {worst * 1e3:.3f} ms, the fastest drift is {drift * 1e6:.1f} ppm: transfer times"
            " between machines may be wrong by as much, latencies of requests are by one clock"
        )
        level = "ok" if worst <= CLOCK_UNCERTAINTY_S else "degraded"
        return Invariant("clock_uncertainty", level, worst, CLOCK_UNCERTAINTY_S, detail)  # type: ignore[arg-type]

    def _devices(self) -> Invariant:
        wrong = [
            f"{host.name}: {self._about[host.name].get('device_note') or 'its agent was not started with --device cuda'}"
            for host in self.layout.hosts
            if self._inventory.hosts[host.name].device == "cuda"
            and not str(self._about[host.name].get("device", "")).startswith("cuda")
        ]
        detail = "; ".join(wrong) or "every machine computes on the device that the inventory names"
        return Invariant("devices", "degraded" if wrong else "ok", float(len(wrong)), 0.0, detail)

    async def _links(self) -> Invariant:
        if not self._shaping:
            detail = (
                "left as they are: their bytes are not counted, and the scenario's rates and delays were first estimates only"
            )
            return Invariant("links", "ok", None, None, detail)
        many = hosts_shaping.shared(self._crossed, await self._carried())
        words = [f"{key[0]} {key[1]} by {', '.join(names)}" for key, names in many.items() if self._narrow(key)]
        detail = f"used by several machines, each of which had its whole rate: {'; '.join(words)}" if words else "shaped as asked"
        return Invariant("links", "degraded" if words else "ok", float(len(words)), 0.0, detail)

    def _narrow(self, key: hosts_shaping.Key) -> bool:
        """Whether a link direction is the slowest of any path that crosses it."""
        paths = [keys for keys in self._crossed.values() if key in keys]
        return any(hosts_shaping.path_state(keys, self._states).rate_bps == self._states[key].rate_bps for keys in paths)
