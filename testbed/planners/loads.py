"""What one request takes of every resource, as sums over vertices and tensors: busy seconds of hosts and links, parameter bytes.

A resource is additive: every vertex adds what its tier costs there, every tensor what its hops cost. A non-negative mix of
resources is additive again and can be handed to the minimum cut or to HPA as if it were seconds; `lagrange.py` does that.

Busy seconds are the time that one request keeps a host or one direction of a link occupied (propagation delay does not occupy
anything); their maximum, the bottleneck, is the shortest time between two requests that can be sustained. Links are full
duplex, so answers on their way back have resources of their own. Paths are taken as links of their own, as everywhere in
planning: where "device_cloud" and "edge_cloud" share a physical link (route "direct" without a cellular uplink), or several
devices share a host, the sustained rate is lower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from testbed.costs.network import Path
from testbed.planners.base import Problem
from testbed.planners.prices import CLOUD, DEVICE, EDGE, Prices, rest_of

Row = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Resource:
    """An additive resource: `compute[rank, v]` of vertex v at a rank; `up`, `across`, `far` of a tensor from device to edge,
    edge to cloud, device to cloud (with route "relay" `far` is always the sum of both)."""

    name: str
    compute: Row
    up: Row
    across: Row
    far: Row

    def of(self, priced: Prices, ranks: Sequence[int]) -> float:
        """What a legal placement takes of it."""
        return self.used(usage(priced, ranks))

    def used(self, use: Usage) -> float:
        """What a placement takes of it."""
        own = self.compute[use.ranks, np.arange(len(use.ranks))].sum()
        return float(own + self.up @ use.up + self.across @ use.across + self.far @ use.far)


@dataclass(frozen=True)
class Usage:
    """A placement: ranks of the vertices, and 1 for every tensor that crosses (with "relay" `far` is none: up and across are)."""

    ranks: npt.NDArray[np.int64]
    up: Row
    across: Row
    far: Row


def usage(priced: Prices, ranks: Sequence[int]) -> Usage:
    """Which tensors a legal placement moves."""
    own = np.asarray(ranks, dtype=np.int64)
    size = len(own)
    at_edge, at_cloud = np.zeros(size), np.zeros(size)
    for u, consumers in enumerate(priced.facts.consumers):
        for w in consumers:
            if ranks[w] == EDGE:
                at_edge[u] = 1.0
            elif ranks[w] == CLOUD:
                at_cloud[u] = 1.0
    device, edge = own == DEVICE, own == EDGE
    if priced.relay:
        return Usage(own, device * np.maximum(at_edge, at_cloud), (device | edge) * at_cloud, np.zeros(size))
    return Usage(own, device * at_edge, edge * at_cloud, device * at_cloud)


def _resource(name: str, size: int, relay: bool, **rows: Row) -> Resource:
    zero = np.zeros(size)
    compute = np.stack([rows.get(key, zero) for key in ("device", "edge", "cloud")])
    up, across = rows.get("up", zero), rows.get("across", zero)
    return Resource(name, compute, up, across, up + across if relay else rows.get("far", zero))


def cost(priced: Prices) -> Resource:
    """D3's objective itself, in seconds."""
    up, across, far = (np.asarray(row) for row in (priced.hop[DEVICE][EDGE], priced.hop[EDGE][CLOUD], priced.hop[DEVICE][CLOUD]))
    return Resource("objective", np.asarray(priced.compute, dtype=np.float64), up, across, far)


def busy(problem: Problem, priced: Prices) -> tuple[Resource, ...]:
    """Busy seconds of the three leading hosts, the paths up, and the paths back (only those that can be used)."""
    size, relay, network = len(problem.graph), priced.relay, problem.network
    wire = np.asarray(priced.facts.wire_bits)

    def sending(path: Path) -> Row:
        return wire / max(path.rate_bps, 1e3)

    answers = np.zeros(size)
    answers[list(problem.graph.outputs)] = 1.0
    compute = [np.asarray(row, dtype=np.float64) for row in priced.compute]
    found = [
        _resource("device", size, relay, device=compute[DEVICE]),
        _resource("edge", size, relay, edge=compute[EDGE]),
        _resource("cloud", size, relay, cloud=compute[CLOUD]),
        _resource("device_edge", size, relay, up=sending(network.device_edge)),
        _resource("edge_cloud", size, relay, across=sending(network.edge_cloud)),
        _resource("device_edge:back", size, relay, edge=answers * sending(network.device_edge)),
        _resource("device_cloud:back", size, relay, cloud=answers * sending(network.device_cloud)),
    ]
    if not relay:
        found.insert(5, _resource("device_cloud", size, relay, far=sending(network.device_cloud)))
    return tuple(found)


def parameters(problem: Problem, priced: Prices, rank: int) -> Resource:
    """Parameter bytes on one tier."""
    rows = np.array([vertex.parameter_bytes for vertex in problem.graph], dtype=np.float64)
    return _resource(f"parameters {rank}", len(rows), priced.relay, **{("device", "edge", "cloud")[rank]: rows})


def mix(name: str, parts: Sequence[tuple[float, Resource]]) -> Resource:
    """A weighted sum of resources; the weights are not negative."""
    first = parts[0][1]
    compute, up, across, far = np.zeros_like(first.compute), *(np.zeros_like(first.up) for _ in range(3))
    for weight, part in parts:
        compute += weight * part.compute
        up, across, far = up + weight * part.up, across + weight * part.across, far + weight * part.far
    return Resource(name, compute, up, across, far)


def as_prices(priced: Prices, resource: Resource, look_ahead: bool = False) -> Prices:
    """The resource as the prices of the same problem, for minimum cuts and full passes (what only sweeps use, `times` and `line`,
    is that of `priced`); `rest` is worked out only for who needs it."""
    rows = resource.compute.tolist()
    up, across, far = resource.up.tolist(), resource.across.tolist(), resource.far.tolist()
    hop: tuple[tuple[list[float], ...], ...] = (([], up, far), ([], [], across), ([], [], []))
    rest = priced.rest
    if look_ahead:
        rest = (rest_of(priced.facts, rows[0]), rest_of(priced.facts, rows[1]), rest_of(priced.facts, rows[2]))
    return replace(priced, compute=(rows[0], rows[1], rows[2]), rest=rest, hop=hop)


@dataclass(frozen=True)
class Loads:
    """Busy seconds of one request by resource."""

    seconds: dict[str, float]

    @property
    def bottleneck_s(self) -> float:
        """The largest: with many requests none can follow faster."""
        return max(self.seconds.values())

    @property
    def bottleneck(self) -> str:
        """Which resource that is."""
        return max(self.seconds, key=lambda name: self.seconds[name])


def loads(resources: Sequence[Resource], priced: Prices, ranks: Sequence[int]) -> Loads:
    """Loads of a legal placement."""
    use = usage(priced, ranks)
    return Loads({resource.name: resource.used(use) for resource in resources})
