"""One direction of a link as the fluid model sees it, and the weighted max-min fair shares of the streams that cross such links.

Who sends what and when is `flow.py`'s business.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf
from typing import Protocol

from testbed.scenario.state import LinkState
from topologies.layout import Direction

MANY = 8
"""Links that another one joins, from which on it may be left out where it cannot bind (see `FlowLink`)."""


class Crossing(Protocol):
    """What a link knows of a stream that crosses it."""

    @property
    def forward(self) -> tuple[FlowLink, ...]:
        """The links it crosses, in order."""
        ...

    @property
    def weight(self) -> int:
        """Bytes (1 or more) that it has in the queue: packets there are served in the order in which they came, so streams share
        a link as they share its queue."""
        ...

    def set_rate(self, rate: float, now: float) -> None:
        """Send at another rate (bytes/s) from now on."""
        ...


class FlowLink:
    """One direction of a link: its state, the streams that are sending over it now, and totals of those that have.

    `rate` is in bytes/s; `streams` keeps the order of arrival, so that nothing depends on hashes. Totals are wire bytes and
    packets of data, ACKs (which take no capacity in this model), message bytes, and packets lost.

    `binding` is False where the links before it on all paths, or those behind it, cannot fill it together, whatever is sent: then
    it decides no stream's share. So sites that share nothing but the cloud's wide connection are shared out one by one. (Only
    links that join `MANY` others are left out: among a few it saves nothing.)
    """

    __slots__ = (
        "acks", "before", "behind", "binding", "data_bytes", "data_packets", "delay", "direction", "drops", "loss",
        "message_bytes", "name", "offered", "queue_bytes", "rate", "since", "streams",
    )  # fmt: skip

    def __init__(self, name: str, direction: Direction, state: LinkState, queue_bytes: int | None, now: float) -> None:
        self.name = name
        self.direction = direction
        self.rate = state.rate_bps / 8.0
        self.delay = state.delay_s
        self.loss = state.loss
        self.queue_bytes = queue_bytes
        self.streams: dict[Crossing, None] = {}
        self.before: dict[FlowLink | None, None] = {}
        self.behind: dict[FlowLink | None, None] = {}
        self.binding = True
        self.data_bytes = 0.0
        self.data_packets = 0.0
        self.message_bytes = 0
        self.acks = 0
        self.drops = 0.0
        self.offered = 0.0
        self.since = now

    def offered_bytes(self, now: float) -> float:
        """Bytes that the link could have carried since it was made."""
        return self.offered + (self.rate * (now - self.since) if now > self.since else 0.0)

    def between(self, before: FlowLink | None, behind: FlowLink | None) -> None:
        """Note that a path leads here from one link and on to another (None: it begins, or ends, with this link)."""
        if before not in self.before or behind not in self.behind:
            self.before[before] = self.behind[behind] = None
            self.judge()

    def judge(self) -> bool:
        """Decide whether the link can be what holds a stream back; whether that has changed."""
        least = min(_together(links) for links in (self.before, self.behind))
        many = max(len(self.before), len(self.behind)) >= MANY
        binding, self.binding = self.binding, not (many and least < self.rate * (1.0 - 1e-9))
        return binding != self.binding

    def change(self, state: LinkState, now: float) -> None:
        """Take another state from `now` on. Who sends over the link must be re-planned by the caller."""
        self.offered = self.offered_bytes(now)
        self.since = now
        self.rate = state.rate_bps / 8.0
        self.delay = state.delay_s
        self.loss = state.loss


def _together(links: Iterable[FlowLink | None]) -> float:
    """Rate of several links in all; without limit where a path has none there."""
    return sum([inf if link is None else link.rate for link in links])


def component(links: Iterable[FlowLink]) -> list[Crossing]:
    """Streams whose share can depend on these links: those on them, those that share any link with these, and so on."""
    found: dict[Crossing, None] = {}
    seen: set[FlowLink] = set()
    todo = list(links)
    while todo:
        link = todo.pop()
        if link.binding and link not in seen:
            seen.add(link)
            for stream in link.streams:
                if stream not in found:
                    found[stream] = None
                    todo.extend(stream.forward)
    return list(found)


def max_min(streams: Sequence[Crossing]) -> list[float]:
    """Weighted max-min fair rates (bytes/s) of streams, by progressive filling (Bertsekas and Gallager, Data Networks, 6.5.2).

    The link that can give its streams least for their weight fixes their rates; what they leave on other links is shared by the
    rest. The streams must be all that cross their binding links.
    """
    if len(streams) == 1:
        return [min([link.rate for link in streams[0].forward])]
    left: dict[FlowLink, float] = {}
    waiting: dict[FlowLink, int] = {}
    weights: dict[Crossing, int] = {}
    for stream in streams:
        weight = weights[stream] = stream.weight
        for link in stream.forward:
            if link in waiting:
                waiting[link] += weight
            elif link.binding:
                left[link] = link.rate
                waiting[link] = weight
    rates: dict[Crossing, float] = {}
    while len(rates) < len(streams):
        share, tightest = -1.0, None
        for link, weight in waiting.items():
            if weight and (tightest is None or left[link] / weight < share):
                share, tightest = left[link] / weight, link
        assert tightest is not None
        share = max(share, 0.0)
        for stream in tightest.streams:
            if stream not in rates:
                weight = weights[stream]
                rate = rates[stream] = share * weight
                for link in stream.forward:
                    if link.binding:
                        waiting[link] -= weight
                        if rate != inf:
                            left[link] -= rate
    return [rates[stream] for stream in streams]
