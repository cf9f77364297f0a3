"""Link states, and the time a tensor takes between two tiers.

One place for framing: a TCP segment carries 1448 bytes of payload in 1514 bytes of Ethernet frame (timestamps on).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from d3node.plan import RANK, Tier
from d3node.program import Route
from testbed.scenario.state import LinkState as LinkState

SEGMENT_PAYLOAD = 1448
FRAME_OVERHEAD = 66
MESSAGE_HEADER_BYTES = 160
"""About what prefix and header of one message take; planners add it to every tensor."""


def frame_bytes(payload_bytes: float) -> float:
    """Bytes on the wire for a TCP payload: 66 bytes of Ethernet, IP and TCP headers per 1448 bytes begun."""
    return payload_bytes + FRAME_OVERHEAD * -(-int(payload_bytes) // SEGMENT_PAYLOAD)


@dataclass(frozen=True, slots=True)
class Path:
    """What a message meets between two hosts: the narrowest rate and the summed one-way delay of the links on the way."""

    rate_bps: float
    delay_s: float = 0.0

    def transfer_s(self, payload_bytes: int) -> float:
        """Seconds from first byte sent to last byte received, idle and warm. An outage counts as 1 kbit/s."""
        wire = frame_bytes(payload_bytes + MESSAGE_HEADER_BYTES)
        return self.delay_s + wire * 8.0 / max(self.rate_bps, 1e3)


@dataclass(frozen=True)
class NetworkState:
    """What a planner knows of the network for one device: paths between its tiers' leading hosts, and within the edge LAN.

    `lan[host]` is the path between the leading edge host and another edge host. With route "relay" device -> cloud costs
    device -> edge plus edge -> cloud; with route "direct" it costs `device_cloud`.
    """

    device_edge: Path
    edge_cloud: Path
    device_cloud: Path
    lan: dict[str, Path] = field(default_factory=dict)
    route: Route = "relay"

    def hops(self, source: Tier, target: Tier) -> tuple[Path, ...]:
        """Paths that a tensor takes one after the other from a tier to a higher one; none within a tier. What comes back to the
        device does so in one connection, as answers do, and is taken to meet the path's rate towards the cloud."""
        if source == target:
            return ()
        if target == "device":
            return (self.device_edge,) if source == "edge" else (self.device_cloud,)
        if RANK[source] > RANK[target]:
            return ()
        if (source, target) == ("device", "edge"):
            return (self.device_edge,)
        if (source, target) == ("edge", "cloud"):
            return (self.edge_cloud,)
        return (self.device_edge, self.edge_cloud) if self.route == "relay" else (self.device_cloud,)

    def transfer_s(self, payload_bytes: int, source: Tier, target: Tier) -> float:
        """Seconds to move a tensor between tiers (sum over store-and-forward hops)."""
        return sum(path.transfer_s(payload_bytes) for path in self.hops(source, target))

    def with_path(self, name: str, path: Path) -> NetworkState:
        """A copy with one of "device_edge", "edge_cloud", "device_cloud" or a host of the LAN replaced."""
        if name in ("device_edge", "edge_cloud", "device_cloud"):
            return replace(self, **{name: path})  # type: ignore[arg-type]
        return replace(self, lan={**self.lan, name: path})
