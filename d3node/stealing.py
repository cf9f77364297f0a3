"""Idle hosts that fetch tiles: whose turn it is on the host that fetches, and what a stack of such tiles is for each host.

DeepThings (TCAD 2018) lets idle hosts ask a gateway for a busy one, steal from it, and sleep after a vain attempt. Ours ask the
edge leader, which holds the queues of all its requests, and do not have to poll: the leader says when there is something to take
and when no longer. The order of dealing is in `d3node.pool`, the messages are sent by `d3node.execute` and `d3node.hand`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from d3node.compute import ComputeQueue, Job
from d3node.errors import PlanError
from d3node.graph import LayerGraph
from d3node.pool import Geometry
from d3node.reuse import PartialRegion


@dataclass(frozen=True, slots=True)
class PoolWork:
    """A stack whose tiles are fetched, for one host. `rates`: of each vertex the fixed seconds here, and the seconds of its whole
    map on top (None: compute is measured)."""

    index: int
    geometry: Geometry
    vertices: tuple[int, ...]
    rates: tuple[tuple[float, float], ...] | None

    def seconds(self, region: PartialRegion) -> float | None:
        """Modelled seconds of a tile on this host."""
        if self.rates is None:
            return None
        graph = self.geometry.graph
        total = 0.0
        for v, (fixed, scaled) in zip(self.vertices, self.rates, strict=True):
            positions = region.positions()[v]
            if positions:
                total += fixed + scaled * positions / (graph[v].rows * graph[v].columns)
        return total


def rates_of(
    graph: LayerGraph, vertices_s: Sequence[Mapping[str, Any] | None] | None, index: int, host: str, vertices: Sequence[int]
) -> tuple[tuple[float, float], ...]:
    """A host's rates for the vertices of a stack, from `install`. Raises PlanError where they are missing or make no sense."""
    try:
        given = (vertices_s or ())[index] or {}
        rates = tuple((float(fixed), float(scaled)) for fixed, scaled in given[host])
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise PlanError(f"no times were given for the vertices of stack {index} on {host}") from error
    if len(rates) != len(vertices) or any(not (fixed >= 0.0 and scaled >= 0.0) for fixed, scaled in rates):
        raise PlanError(f"the times given for the {len(vertices)} vertices of stack {index} on {host} do not fit")
    return rates


@dataclass(eq=False)
class Offer:
    """A pool that this host may take from. `ask` is called when it is its turn; it ends with `Thief.done` or `Thief.withdraw`.
    `home`: the pool is this host's own, of a request that it leads."""

    owner: Any
    stack: int
    ask: Callable[[], None]
    home: bool = False
    working: bool = False


class Thief:
    """Takes tiles when its host has nothing else to do: one at a time, of its own pools while they have some (only who is idle
    steals), then in turn from everybody else who offers some."""

    ended = False
    """As an owner of jobs (`d3node.compute.Owner`): the host itself never ends."""

    def __init__(self, compute: ComputeQueue) -> None:
        self._compute = compute
        self._offers: deque[Offer] = deque()
        self._current: Offer | None = None
        self._waiting = False

    def offer(self, offer: Offer) -> None:
        """There is something to take."""
        self._offers.append(offer)
        self._seek()

    def withdraw(self, offer: Offer) -> None:
        """There is nothing left to take; a tile that has been taken is still computed."""
        if offer in self._offers:
            self._offers.remove(offer)
        if self._current is offer and not offer.working:
            self._current = None
            self._seek()

    @property
    def created(self) -> float:
        """As old as the oldest request with tiles to take."""
        return min((offer.owner.created for offer in self._offers), default=0.0)

    def done(self, offer: Offer) -> None:
        """The tile that was taken is computed."""
        offer.working = False
        if self._current is offer:
            self._current = None
            self._seek()

    def forget(self, owner: Any) -> None:
        """A request is over, whatever it was doing."""
        if not self._offers and self._current is None:
            return
        self._offers = deque(offer for offer in self._offers if offer.owner is not owner)
        if self._current is not None and self._current.owner is owner:
            self._current = None
            self._seek()

    def _seek(self) -> None:
        """Get in line with all other work of the host: when the turn comes, the host is idle."""
        if self._offers and self._current is None and not self._waiting:
            self._waiting = True
            self._compute.submit(Job(self, 0.0, None, self._turn, counted=False))

    def _turn(self, _: Job) -> None:
        self._waiting = False
        if self._offers and self._current is None:
            offer = self._current = next((offer for offer in self._offers if offer.home), self._offers[0])
            self._offers.remove(offer)
            self._offers.append(offer)
            offer.ask()
