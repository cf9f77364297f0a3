"""A network at the level of flows: messages on connections share links as they share queues, under TCP's start-up and framing.

A stream is one direction of a connection; it sends its messages one after the other. What the model has: the rate, delay and
loss of every link on the path, changed at any moment with exact new finish times (rate 0 stalls, and what was left is sent
when the rate returns); 66 bytes of headers for every 1448 of payload; store and forward of packets at each hop; an initial
window of 10 segments and slow start (RFC 6928, RFC 5681) in rounds of one RTT; the window kept while a connection is warm.

Streams that share a link share it as they share its queue: a message that is small waits behind what large ones have there.
Losses are drawn one by one from the seed (`flow_tcp.py`): each costs a segment sent again, a smaller window, and at the end of
a message the time until it is noticed.

What it approximates or leaves out (the kernel-based backends have it): what rivals have in a queue is estimated, and the same
for all alike; without losses there is no congestion avoidance: once a window fills the pipe, it stays; a burst that is larger
than a queue is held back, not dropped; ACKs are counted on the way back (66 bytes for two segments, and for each of the first
16 after a rest) but take no capacity there and wait in no queue; lost ACKs and segments lost twice. How far all this is from a
kernel is measured in docs/backends.md. Channels and messages are left to `sim_channels.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import copy_context
from itertools import count

from d3node.clock import VirtualLoop
from testbed.backends.base import LinkCounters
from testbed.backends.fairshare import FlowLink, component, max_min
from testbed.backends.flow_job import SEGMENT
from testbed.backends.flow_path import FlowPath
from testbed.backends.flow_stream import Stream
from testbed.costs.network import FRAME_OVERHEAD
from testbed.scenario.state import LinkState
from topologies.layout import Direction, Layout

LinkKey = tuple[str, Direction]


class FlowNetwork:
    """Every link direction of a layout, and the streams over them. `loop` gives the time; events run on it."""

    def __init__(
        self,
        loop: VirtualLoop,
        layout: Layout,
        states: Mapping[LinkKey, LinkState],
        queue_bytes: Mapping[LinkKey, int] | None = None,
        slow_start_after_idle: bool = False,
        seed: int = 0,
    ) -> None:
        self.loop = loop
        self.seed = seed
        self._numbers = count(1)
        self.layout = layout
        self.slow_start_after_idle = slow_start_after_idle
        self.context = copy_context()
        self.version = 0
        self.rates_version = 0
        queues = queue_bytes or {}
        self.links: dict[LinkKey, FlowLink] = {
            (link.name, direction): FlowLink(
                link.name, direction, states[link.name, direction], queues.get((link.name, direction)), loop.time()
            )
            for link in layout.links
            for direction in ("up", "down")
        }
        self._streams: dict[Stream, None] = {}
        self._paths: dict[tuple[str, str], FlowPath] = {}
        self._changed: dict[FlowLink, None] = {}

    def connect(self, source: str, target: str) -> tuple[Stream, Stream]:
        """The two directions of a new connection between two different hosts. Nothing is sent yet."""
        pair = Stream(self, self._path(source, target)), Stream(self, self._path(target, source))
        self._streams.update(dict.fromkeys(pair))
        return pair

    def _path(self, source: str, target: str) -> FlowPath:
        found = self._paths.get((source, target))
        if found is None:
            there, back = (
                tuple(self.links[link.name, direction] for link, direction in self.layout.path(*ends))
                for ends in ((source, target), (target, source))
            )
            found = self._paths[source, target] = FlowPath(there, back)
            for before, link, behind in zip((None, *there), there, (*there[1:], None), strict=False):
                link.between(before, behind)
        return found

    def next_number(self) -> int:
        """The number of a new stream."""
        return next(self._numbers)

    def forget(self, stream: Stream) -> None:
        """Let go of a stream that sends nothing more."""
        self._streams.pop(stream, None)

    def apply(self, name: str, direction: Direction, state: LinkState) -> None:
        """Change one direction of a link from now on. Raises KeyError for a link that is not there."""
        link = self.links[name, direction]
        now = self.loop.time()
        if (link.delay, link.loss) != (state.delay_s, state.loss):
            self.version += 1
        if link.rate != state.rate_bps / 8.0:
            self.rates_version += 1
        link.change(state, now)
        touched: dict[FlowLink, None] = {link: None} if link.streams else {}
        for near in dict.fromkeys((link, *link.before, *link.behind)):
            if near is not None and near.judge() and near.streams:  # its streams decide no more through it, or from now on
                touched.update(dict.fromkeys((near, *(crossed for stream in near.streams for crossed in stream.forward))))
        if touched:
            self.share(tuple(touched))

    def share(self, links: tuple[FlowLink, ...]) -> None:
        """Give every stream whose share can depend on these links its max-min fair rate, when this moment's events are over."""
        if not self._changed:
            self.loop.call_soon(self._share, context=self.context)
        self._changed.update(dict.fromkeys(links))

    def _share(self) -> None:
        changed, self._changed = self._changed, {}
        streams = component(changed)
        if streams:
            now = self.loop.time()
            for stream, rate in zip(streams, max_min(streams), strict=True):
                stream.set_rate(rate, now)

    def counters(self) -> dict[LinkKey, LinkCounters]:
        """Totals of every link direction, messages that are half sent included."""
        partly = self._booked()
        found = {}
        for key, link in self.links.items():
            wire, message = partly.get(link, (0.0, 0.0))
            found[key] = LinkCounters(
                wire_bytes=int(link.data_bytes + wire) + FRAME_OVERHEAD * link.acks,
                packets=int(link.data_packets + wire / SEGMENT) + link.acks,
                drops=0,  # a message never meets a full queue
                lost=int(link.drops),
                message_bytes=link.message_bytes + int(message),
            )
        return found

    def utilisation(self) -> tuple[float, str]:
        """Greatest share that a link direction has carried of what it could have, and its name (ACKs are free here)."""
        now = self.loop.time()
        partly = self._booked()
        worst, name = 0.0, ""
        for link in self.links.values():
            offered = link.offered_bytes(now)
            if offered > 0.0:
                share = (link.data_bytes + partly.get(link, (0.0, 0.0))[0]) / offered
                if share > worst:
                    worst, name = share, f"{link.name} {link.direction}"
        return worst, name

    def busy(self) -> list[Stream]:
        """Streams with a message that has not left in full."""
        return [stream for stream in self._streams if stream.busy]

    def _booked(self) -> dict[FlowLink, tuple[float, float]]:
        """Bring the totals of all links up to date; what has been sent of messages that are not in them, in bytes on the wire
        and of the message."""
        for path in self._paths.values():
            path.book()
        now = self.loop.time()
        partly: dict[FlowLink, tuple[float, float]] = {}
        for stream in self._streams:
            if stream.busy:
                wire, message = stream.half_sent(now)
                for link in stream.forward:
                    before = partly.get(link, (0.0, 0.0))
                    partly[link] = (before[0] + wire, before[1] + message)
        return partly
