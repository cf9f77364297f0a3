"""What becomes of requests that are too many: shed at their source, kept waiting before a host or refused by it, and how a closed
loop then waits.

A request that is shed never leaves the orchestrator: it has a row, an error and no bytes. How hosts refuse is `d3node.requests`'
business, how requests wait before them that of `d3node.windows`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from d3node.plan import RANK
from testbed.scenario.schema import Scenario
from topologies.layout import Host

SHED = "Shed"
REFUSED = frozenset((SHED, "Overloaded"))
"""Errors of requests that were refused because there were too many. They are counted by themselves: nothing went wrong."""

PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.6
"""How long a closed loop waits after a refusal before it asks again: doubled with every refusal in a row."""


def pause_s(refusals: int) -> float:
    """Seconds that a closed loop waits after so many refusals in a row; 0 after none."""
    return min(LONGEST_PAUSE_S, PAUSE_S * 2.0 ** (min(refusals, 16) - 1)) if refusals else 0.0


def in_flight(scenario: Scenario, host: Host) -> dict[str, int]:
    """The field of `configure` with how many requests a host takes part in at a time; none where the scenario says nothing."""
    tables = [scenario.hosts[key] for key in (host.name, host.tier) if key in scenario.hosts]
    return next(({"in_flight": table.in_flight} for table in tables if table.in_flight is not None), {})


def windows(scenario: Scenario, host: Host, peers: Iterable[Host]) -> dict[str, dict[str, int]]:
    """The field of `configure` with how many requests of a host its peers of higher tiers take at a time; none where the scenario
    says nothing."""
    limits = {}
    for peer in peers:
        tables = [scenario.hosts[key] for key in (peer.name, peer.tier) if key in scenario.hosts]
        backlog = next((table.backlog for table in tables if table.backlog is not None), None)
        if backlog is not None and RANK[peer.tier] > RANK[host.tier]:
            limits[peer.name] = backlog
    return {"windows": limits} if limits else {}


class Intake:
    """How many requests of each device are under way; `most` None: as many as come."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._under_way: Counter[str] = Counter()

    def admit(self, device: str) -> str | None:
        """Take one more on, or say why not."""
        if self._most is not None and self._under_way[device] >= self._most:
            return f"device {device} has {self._most} requests in flight or waiting, the most that requests.queue allows"
        self._under_way[device] += 1
        return None

    def leave(self, device: str) -> None:
        """One that was admitted has ended."""
        self._under_way[device] -= 1
