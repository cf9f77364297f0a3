"""The backend `hosts`: real machines over their real network, each with `d3node serve` running as its operator set it up.

Nothing is started and nothing is installed: agents are found through an inventory (`testbed.hosts.inventory`), must be of this
version and have the scenario's models, and stay when the run is over. What a started session is, is in
`testbed.backends.hosts_session`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol, TypeVar

from d3node.clock import ScaledLoop, run
from testbed import registry
from testbed.backends.base import Session, Support
from testbed.backends.hosts_session import HostsSession
from testbed.backends.mininet_only import refusals
from testbed.backends.mininet_support import slowed
from testbed.errors import BackendError, InventoryError
from testbed.hosts import inventory as inventories
from testbed.hosts.inventory import Inventory
from testbed.scenario.links import links_of
from testbed.scenario.schema import Scenario

T = TypeVar("T")
PROCESS_FAULTS, LINK_FAULTS = ("kill", "hang"), ("down", "flap", "loss", "partition")


class Operator(Protocol):
    """Who may end, stop and start agents on their machines; a run itself may not."""

    def kill(self, host: str) -> None: ...

    def start(self, host: str) -> None:
        """Start an agent anew; returns when it listens."""
        ...

    def hang(self, host: str) -> None: ...

    def wake(self, host: str) -> None: ...


class HostsBackend:
    """`inventory`: read, or the file. `operator`: what faults that kill or hang agents need; without one they are refused.
    `run_left`: a run whose orchestrator has died; agents that still take it for there are not busy."""

    name = "hosts"

    def __init__(self, inventory: Inventory | Path | str | None = None, operator: Operator | None = None) -> None:
        self.inventory = inventory if isinstance(inventory, Inventory) or inventory is None else inventories.read(inventory)
        self._operator = operator
        self.run_left: str | None = None

    def support(self, scenario: Scenario) -> Support:
        """Whether the inventory has machines for the scenario, and what of it real machines cannot do. Reaches nobody."""
        if self.inventory is None:
            return Support(False, ["it needs an inventory of machines: --inventory FILE (testbed hosts init makes one)"])
        reasons: list[str] = []
        layout = registry.layout(scenario.topology)
        try:
            self.inventory.check(layout)
        except InventoryError as error:
            reasons += str(error).splitlines()
        if scenario.run.time_scale != 1.0:
            reasons.append("real machines cannot be slowed down: --set run.time_scale=1")
        if self.inventory.links == "real":
            reasons += _unshaped(scenario, [name for name, link in links_of(scenario, layout).items() if link.trace is not None])
        reasons += [*slowed(scenario), *refusals(scenario)]
        if any(fault.kind in PROCESS_FAULTS for fault in scenario.fault) and self._operator is None:
            reasons.append(
                "faults of kind kill and hang need a hold on the agents' processes, which their machines' operators have"
            )
        if any(fault.kind in ("corrupt", "truncate") for fault in scenario.fault):
            reasons.append(
                "faults of kind corrupt and truncate are for agents that a testbed starts; d3node serve takes no part in them"
            )
        return Support(not reasons, reasons)

    def run(self, scenario: Scenario, main: Callable[[Session], Awaitable[T]]) -> T:
        """Reach the agents, compare their clocks with this machine's, and run `main`. Raises BackendError, AgentError."""
        support = self.support(scenario)
        if not support.ok or self.inventory is None:
            raise BackendError("the hosts backend cannot run this scenario: " + "; ".join(support.reasons))
        return run(ScaledLoop(), self._session(self.inventory, scenario, main))

    async def _session(self, inventory: Inventory, scenario: Scenario, main: Callable[[Session], Awaitable[T]]) -> T:
        session = HostsSession(inventory, scenario, self._operator, self.run_left)
        try:
            await session.open()
            return await main(session)
        finally:
            await session.close()


def _unshaped(scenario: Scenario, traced: list[str]) -> list[str]:
    """What cannot be done on links that are left as they are."""
    reasons = []
    way = 'or links = "shaped" in the inventory, where the operators let their agents shape traffic'
    if traced:
        options = " ".join(f"--set links.{name}.trace=none" for name in traced)
        reasons.append(f"{', '.join(traced)}: nobody replays a trace on a real network: {options} and a rate, {way}")
    if scenario.planning.knowledge == "true":
        reasons.append(f"nobody knows the true state of a real network: --set planning.knowledge=estimated, {way}")
    if kinds := sorted({fault.kind for fault in scenario.fault if fault.kind in LINK_FAULTS}):
        reasons.append(f"faults of links ({', '.join(kinds)}) need links that can be changed: leave them out, {way}")
    return reasons
