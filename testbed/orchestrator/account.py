"""From the reports of a request's hosts to the figures of its row, and to bytes per link.

Pure arithmetic over the records of `d3node.protocol`; times of different hosts are comparable where they share a clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from d3node.plan import Tier
from testbed.costs.network import frame_bytes
from testbed.orchestrator.truth import LinkKey
from topologies.layout import Layout

WIDE_AREA_ROLES = frozenset({"backbone", "cellular"})
"""Roles of links whose traffic counts as backbone bytes: the ways out of a site."""

Span = tuple[float, float]

Leg = Literal["access", "lan", "backbone", "return"]


def union_s(spans: Sequence[Span]) -> float:
    """Seconds covered by at least one of the spans."""
    if len(spans) == 1:
        return spans[0][1] - spans[0][0]
    total, reach = 0.0, float("-inf")
    for start, end in sorted(spans):
        if end > reach:
            total += end - max(start, reach)
            reach = end
    return total


@dataclass(frozen=True, slots=True)
class Route:
    """How messages between two hosts are booked: the tiers of the ends, the links crossed, whether they leave the site, and
    which of a latency's transfer times counts them."""

    source: Tier
    target: Tier
    links: tuple[LinkKey, ...]
    wide: bool
    leg: Leg


def _leg(source: Tier, target: Tier) -> Leg:
    """Which of a latency's transfer times counts a message from one tier to another."""
    if target == "device":
        return "return"
    if target == "cloud":
        return "backbone"
    return "access" if source == "device" else "lan"


@dataclass(slots=True)
class LinkBytes:
    """Messages that crossed a link direction, by the receivers' reports: their bytes, and with framing of their own;
    `weights_bytes` are those of weights among `message_bytes`."""

    messages: int = 0
    message_bytes: int = 0
    framed_bytes: float = 0.0
    weights_bytes: int = 0


@dataclass(slots=True)
class Figures:
    """What the reports say of one request. Seconds are times during which at least one host or transfer of the kind was busy;
    `queue_s` and `overrun_s` are sums. `sent_bytes` and `received_bytes` are all hosts' own totals; `tiles` counts by host."""

    queue_s: float = 0.0
    compute_s: dict[Tier, float] = field(default_factory=lambda: {"device": 0.0, "edge": 0.0, "cloud": 0.0})
    transfer_access_s: float = 0.0
    transfer_lan_s: float = 0.0
    transfer_backbone_s: float = 0.0
    transfer_return_s: float = 0.0
    backbone_bytes: int = 0
    access_bytes: int = 0
    lan_bytes: int = 0
    overrun_s: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0
    tiles: dict[str, int] = field(default_factory=dict)


class Ledger:
    """Books reports; `weights_bytes` is what servers have been sent of models.

    `links` holds the totals per link direction since the ledger was opened; `compute_s` and `overrun_s` leave
    warm-up requests out, whose times are in no figure either (the first run of a model is slower than any later one)."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._routes: dict[tuple[str, str], Route] = {}
        self._booked: dict[tuple[str, str], tuple[Route, list[LinkBytes]]] = {}
        self.links: dict[LinkKey, LinkBytes] = {}
        self.compute_s = 0.0
        self.overrun_s = 0.0
        self.weights_bytes = 0

    def tier(self, host: str) -> Tier:
        """The tier of a host."""
        return self._layout.by_name[host].tier

    def route(self, source: str, target: str) -> Route:
        """How messages from one host to another are booked."""
        found = self._routes.get((source, target))
        if found is None:
            hops = self._layout.path(source, target)
            tiers = self.tier(source), self.tier(target)
            found = self._routes[source, target] = Route(
                source=tiers[0],
                target=tiers[1],
                links=tuple((link.name, direction) for link, direction in hops),
                wide=any(link.role in WIDE_AREA_ROLES for link, _ in hops),
                leg=_leg(*tiers),
            )
        return found

    def book_transfer(self, source: str, target: str, nbytes: int) -> Route:
        """Book one message on every link that it crossed."""
        found = self._booked.get((source, target))
        if found is None:
            route = self.route(source, target)
            found = self._booked[source, target] = route, [self.links.setdefault(key, LinkBytes()) for key in route.links]
        route, entries = found
        framed = frame_bytes(nbytes)
        for entry in entries:
            entry.messages += 1
            entry.message_bytes += nbytes
            entry.framed_bytes += framed
        return route

    def book_weights(self, source: str, target: str, sizes: Sequence[Sequence[int]]) -> int:
        """Book messages with weights, given as (bytes of one, how many): on their links, and in `weights_bytes`; their bytes."""
        total = 0
        for nbytes, count in sizes:
            for _ in range(count):
                self.book_transfer(source, target, nbytes)
            total += nbytes * count
        for key in self.route(source, target).links:
            self.links.setdefault(key, LinkBytes()).weights_bytes += total
        self.weights_bytes += total
        return total

    def book(self, reports: Sequence[dict[str, Any]], warmup: bool = False) -> Figures:
        """Book all reports of one request, and sum them up for its row."""
        figures = Figures()
        compute: dict[Tier, list[Span]] = {}
        access: list[Span] = []
        lan: list[Span] = []
        backbone: list[Span] = []
        back: list[Span] = []
        for report in reports:
            host = report["host"]
            tier = self._layout.by_name[host].tier
            figures.sent_bytes += report["bytes_sent"]
            figures.received_bytes += report["bytes_received"]
            for record in report["records"]:
                span = (record["start"], record["end"])
                if record["what"] == "compute":
                    figures.queue_s += record["queued_s"]
                    figures.overrun_s += record["overrun_s"]
                    if "tile" in record:
                        figures.tiles[host] = figures.tiles.get(host, 0) + 1
                    self.compute_s += 0.0 if warmup else span[1] - span[0]
                    compute.setdefault(tier, []).append(span)
                    continue
                nbytes = record["bytes"]
                route = self.book_transfer(record["peer"], host, nbytes)
                leg = route.leg
                if leg == "return":
                    back.append(span)
                elif leg == "backbone":
                    backbone.append(span)
                    figures.backbone_bytes += nbytes if route.wide else 0
                elif leg == "access":
                    access.append(span)
                    figures.access_bytes += nbytes
                else:
                    lan.append(span)
                    figures.lan_bytes += nbytes
        for tier, spans in compute.items():
            figures.compute_s[tier] = union_s(spans)
        figures.transfer_access_s = union_s(access) if access else 0.0
        figures.transfer_lan_s = union_s(lan) if lan else 0.0
        figures.transfer_backbone_s = union_s(backbone) if backbone else 0.0
        figures.transfer_return_s = union_s(back) if back else 0.0
        self.overrun_s += 0.0 if warmup else figures.overrun_s
        return figures
