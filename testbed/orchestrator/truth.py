"""The true state of links and hosts at this moment of a replay, and what it means for the paths of one device.

Only replay changes it; what is merely believed of the network is `observe.py`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from testbed.costs.network import NetworkState, Path
from testbed.orchestrator.world import Site
from testbed.scenario.state import LinkState
from topologies.layout import Direction, Layout

LinkKey = tuple[str, Direction]


@dataclass
class TrueState:
    """State of every link direction and CPU share of every host; `version` counts changes."""

    layout: Layout
    links: dict[LinkKey, LinkState] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    version: int = 0

    def set_link(self, link: str, direction: Direction, state: LinkState) -> None:
        """A link direction has changed."""
        self.links[link, direction] = state
        self.version += 1

    def set_share(self, host: str, share: float) -> None:
        """A host's free CPU share has changed."""
        self.shares[host] = share
        self.version += 1

    def path(self, source: str, target: str) -> Path:
        """Narrowest rate and summed delay of the links from one host to another."""
        states = [self.links[link.name, direction] for link, direction in self.layout.path(source, target)]
        return Path(min(s.rate_bps for s in states), sum(s.delay_s for s in states))

    def network(self, site: Site) -> NetworkState:
        """The network as one device's planner would see it, were everything known."""
        lan = {}
        for host in site.edge_hosts[1:]:
            there, back = self.path(site.leader, host), self.path(host, site.leader)
            lan[host] = Path(min(there.rate_bps, back.rate_bps), max(there.delay_s, back.delay_s))
        return NetworkState(
            device_edge=self.path(site.device, site.leader),
            edge_cloud=self.path(site.leader, site.cloud),
            device_cloud=self.path(site.device, site.cloud),
            lan=lan,
            route=site.route,
        )
