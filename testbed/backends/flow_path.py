"""A way through the fluid model's network, for all streams that take it: hops beside the bottleneck, and totals of what was sent.

Who sends what and when is `flow_stream.py`'s business, what a link is `fairshare.py`'s.
"""

from __future__ import annotations

from testbed.backends.fairshare import FlowLink
from testbed.backends.flow_job import SEGMENT, Job

QUICK_ACKS = 16
"""Segments that Linux acknowledges one by one at the start of a connection, and again after a rest of more than a timeout."""


class FlowPath:
    """`forward` are the links that messages cross, `backward` those that their ACKs do. Whole messages are added up here, and
    on the links when somebody asks (`book`): a path has many messages and several links."""

    __slots__ = (
        "_acks", "_message_bytes", "_packets", "_rates_before", "_rates_behind", "_rates_version", "_wire_bytes", "backward",
        "forward",
    )  # fmt: skip

    def __init__(self, forward: tuple[FlowLink, ...], backward: tuple[FlowLink, ...]) -> None:
        self.forward = forward
        self.backward = backward
        self._rates_version = -1
        self._rates_before: list[float] = []
        self._rates_behind: list[float] = []
        self._wire_bytes = 0.0
        self._packets = 0
        self._message_bytes = 0
        self._acks = 0

    def hops_s(self, job: Job, rates_version: int) -> float:
        """Seconds that packets take to cross the hops that are not the bottleneck: stored and forwarded one at a time."""
        if rates_version != self._rates_version:
            self._rates_version = rates_version
            rates = [link.rate for link in self.forward]
            slowest = rates.index(min(rates))
            self._rates_before = [rate for rate in rates[:slowest] if rate > 0.0]
            self._rates_behind = [rate for rate in rates[slowest + 1 :] if rate > 0.0]
        seconds = 0.0
        for rate in self._rates_before:
            seconds += min(job.wire, SEGMENT) / rate  # the first packet
        for rate in self._rates_behind:
            seconds += (job.wire - (job.segments - 1) * SEGMENT) / rate  # the last one
        return seconds

    def count(self, job: Job) -> None:
        """Note that a message has been sent."""
        if job.drops:
            self.count_part(job, 1.0)
            return
        self._wire_bytes += job.wire
        self._packets += job.segments
        self._message_bytes += job.message_bytes
        if job.message_bytes:
            self._acks += _acks(job)

    def count_part(self, job: Job, share: float) -> None:
        """Note that this share of a message has been sent, and no more will be (1.0: all of it); with what was lost of it."""
        if share == 1.0:
            bytes_, packets, message_bytes, acks = job.wire, float(job.segments), job.message_bytes, _acks(job)
        else:
            bytes_, message_bytes = job.wire * share, int(job.message_bytes * share)
            packets = float(-(-int(bytes_) // SEGMENT))
            acks = int(packets) // 2
        for link in self.forward:
            link.data_bytes += bytes_
            link.data_packets += packets
            link.message_bytes += message_bytes
            if job.drops and link.loss:
                link.drops += job.drops * share * link.loss / sum([one.loss for one in self.forward])
        if job.message_bytes:
            for link in self.backward:
                link.acks += acks

    def book(self) -> None:
        """Bring the totals of the links up to date."""
        for link in self.forward:
            link.data_bytes += self._wire_bytes
            link.data_packets += self._packets
            link.message_bytes += self._message_bytes
        for link in self.backward:
            link.acks += self._acks
        self._wire_bytes = 0.0
        self._packets = self._message_bytes = self._acks = 0


def _acks(job: Job) -> int:
    """ACKs for all segments of a message: one for two, but for the quick ones."""
    quick = min(QUICK_ACKS, job.segments) if job.quick else 0
    return quick + (job.segments - quick + 1) // 2
