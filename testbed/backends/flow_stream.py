"""One direction of a TCP connection in the fluid model: a FIFO of messages, sent in rounds of a window, framed in segments.

The network and what it approximates are described in `flow.py`; links and fair shares are in `fairshare.py`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from math import inf, sqrt
from typing import TYPE_CHECKING

from testbed.backends.fairshare import FlowLink
from testbed.costs.network import FRAME_OVERHEAD, SEGMENT_PAYLOAD, frame_bytes

if TYPE_CHECKING:
    from testbed.backends.flow import FlowNetwork

SEGMENT = SEGMENT_PAYLOAD + FRAME_OVERHEAD
INITIAL_WINDOW = 10 * SEGMENT
"""Wire bytes that a new connection may have in flight: 10 segments (RFC 6928, and Linux)."""
SYN_BYTES = 74
"""Frame of a SYN or SYN-ACK with Linux's options."""
MIN_RTO = 0.2
"""Linux's least retransmission timeout: a connection idle for longer than RTT + this counts as idle (RFC 2861)."""

Callback = Callable[[], None]


class _Job:
    """A message on its way, or a packet without payload (`message_bytes` 0) that opens or closes the connection."""

    __slots__ = ("delivered", "message_bytes", "segments", "sent", "wire")

    def __init__(self, message_bytes: int, wire: float, segments: int, sent: Callback | None, delivered: Callback) -> None:
        self.message_bytes = message_bytes
        self.wire = wire
        self.segments = segments
        self.sent = sent
        self.delivered = delivered


class Stream:
    """One direction of a connection: a FIFO of messages, sent at its fair share of the path, under a TCP window.

    The window is kept in rounds: from the first byte of a round, `cwnd` wire bytes may leave at the fair share; if they have
    left before the first of them can be acknowledged, the stream stalls until then. A round that used its window adds as much
    to it (slow start).
    """

    __slots__ = (
        "_arrived", "_delay", "_inflation", "_job", "_last", "_left", "_limited", "_loss", "_network", "_rate", "_remaining",
        "_round", "_round_s", "_rtt", "_since", "_stalled", "_timer", "_version", "_waiting", "backward", "cwnd", "forward",
    )  # fmt: skip

    def __init__(self, network: FlowNetwork, forward: tuple[FlowLink, ...], backward: tuple[FlowLink, ...]) -> None:
        self.forward = forward
        self.backward = backward
        self.cwnd: float = INITIAL_WINDOW
        self._network = network
        self._waiting: deque[_Job] = deque()
        self._job: _Job | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stalled = False
        self._limited = False
        self._remaining = 0.0
        self._rate = 0.0
        self._left: float = INITIAL_WINDOW
        self._round = -inf
        self._since = self._last = self._arrived = network.loop.time()
        self._version = -1
        self._refresh()

    def send(self, message_bytes: int, sent: Callback | None, delivered: Callback) -> None:
        """Queue a message: `sent` is called when its last byte leaves the sender, `delivered` when that byte has arrived."""
        self._enqueue(_Job(message_bytes, frame_bytes(message_bytes), -(-message_bytes // SEGMENT_PAYLOAD), sent, delivered))

    def signal(self, delivered: Callback, wire_bytes: int = FRAME_OVERHEAD) -> None:
        """Queue a packet without payload (SYN, ACK, FIN)."""
        self._enqueue(_Job(0, wire_bytes, 1, None, delivered))

    def cancel(self) -> None:
        """Forget every message that has not left in full."""
        if self._job is not None:
            self._settle(self._network.loop.time())
            self._count(self._job, 1.0 - self._remaining / (self._job.wire * self._inflation))
            self._drop_timer()
            self._job = None
            if self._stalled:
                self._stalled = False
            else:
                self._leave()
        self._waiting.clear()

    def reset(self, delivered: Callback) -> None:
        """Forget every message that has not left in full, and send a packet that says so (RST)."""
        self.cancel()
        self._left = max(self._left, SEGMENT)
        self.signal(delivered)

    @property
    def busy(self) -> bool:
        """True while a message has not left in full."""
        return self._job is not None

    @property
    def rtt(self) -> float:
        """Round-trip time of the idle path, in seconds, without the time that packets take to be sent."""
        self._refresh()
        return self._rtt

    def half_sent(self, now: float) -> tuple[float, float]:
        """Wire bytes and message bytes that have left of the message being sent."""
        if self._job is None:
            return 0.0, 0.0
        whole = self._job.wire * self._inflation
        sent = whole - self._remaining + (self._rate * (now - self._since) if now > self._since else 0.0)
        return min(sent, whole), self._job.message_bytes * min(sent / whole, 1.0)

    # -- one message after the other

    def _enqueue(self, job: _Job) -> None:
        self._waiting.append(job)
        if self._job is None:
            self._refresh()
            now = self._network.loop.time()
            if job.message_bytes and now >= self._round + self._round_s:
                if self._network.slow_start_after_idle:
                    self._forget_window(now - self._last)
                self._new_round(now)
            self._begin(now)
            if not self._exhausted_at(now):
                self._join(now)

    def _begin(self, now: float) -> None:
        self._job = self._waiting.popleft()
        self._remaining = self._job.wire * self._inflation
        self._since = now

    def _finish(self) -> None:
        """The last byte of a message leaves."""
        job = self._job
        assert job is not None
        now = self._network.loop.time()
        self._left -= self._remaining if job.message_bytes else 0.0
        self._last = now
        self._timer = None
        self._count(job, 1.0)
        self._grow_to_pipe(job)
        self._arrived = max(self._arrived, now + self._delay + self._hops_s(job))
        self._network.loop.call_at(self._arrived, job.delivered, context=self._network.context)
        if self._waiting:
            self._refresh()
            self._begin(now)
            if self._exhausted_at(now):
                self._leave()
            else:
                self._limit()
                self._schedule(now)
        else:
            self._job = None
            self._leave()
        if job.sent is not None:
            job.sent()

    def _hops_s(self, job: _Job) -> float:
        """Seconds that packets take to cross the hops that are not the bottleneck: stored and forwarded one at a time."""
        links = self.forward
        if len(links) == 1:
            return 0.0
        slowest = min([link.rate for link in links])
        before, behind = min(job.wire, SEGMENT), job.wire - (job.segments - 1) * SEGMENT  # the first packet, and the last
        seconds = 0.0
        passed = False
        for link in links:
            if not passed and link.rate == slowest:
                passed = True
            elif link.rate > 0.0:
                seconds += (behind if passed else before) / link.rate
        return seconds

    def _count(self, job: _Job, share: float) -> None:
        """Add (a share of) a message to the totals of the links it crosses."""
        whole = share == 1.0
        bytes_ = job.wire * self._inflation * share
        packets = job.segments * self._inflation * share if whole else float(-(-int(bytes_) // SEGMENT))
        message_bytes = job.message_bytes if whole else int(job.message_bytes * share)
        acks = (job.segments + 1) // 2 if whole else int(packets) // 2
        for link in self.forward:
            link.data_bytes += bytes_
            link.data_packets += packets
            link.message_bytes += message_bytes
            if link.loss:
                link.drops += packets * link.loss
        if job.message_bytes:
            for link in self.backward:
                link.acks += acks

    # -- the share of the path

    def _join(self, now: float) -> None:
        alone = True
        for link in self.forward:
            alone = alone and not link.streams
            link.streams[self] = None
        if alone:
            self.set_rate(min([link.rate for link in self.forward]), now)
        else:
            self._network.share(self.forward)

    def _leave(self) -> None:
        self._rate = 0.0
        shared = False
        for link in self.forward:
            del link.streams[self]
            shared = shared or bool(link.streams)
        if shared:
            self._network.share(self.forward)

    def set_rate(self, rate: float, now: float) -> None:
        """Go on at another rate (bytes/s) from `now` on; called by the network only."""
        if rate != self._rate or self._timer is None:
            self._settle(now)
            self._rate = rate
            self._limit()
            self._schedule(now)

    def _settle(self, now: float) -> None:
        if now > self._since:
            sent = min(self._rate * (now - self._since), self._remaining)
            self._remaining -= sent
            self._left -= sent
            self._since = now

    def _schedule(self, now: float) -> None:
        self._drop_timer()
        if self._rate > 0.0 or self._remaining < 1e-6:  # what rounding left over does not wait for the end of an outage
            if self._limited and self._left < self._remaining:
                when, event = now + max(self._left, 0.0) / self._rate, self._exhaust
            else:
                when, event = now + (self._remaining / self._rate if self._rate > 0.0 else 0.0), self._finish
            self._timer = self._network.loop.call_at(when, event, context=self._network.context)

    def _drop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- the window

    def _limit(self) -> None:
        """Decide whether the window holds the stream back at its present rate."""
        if self._rtt <= 0.0:
            return
        self._round_s = self._rtt + sum([SEGMENT / link.rate for link in self.forward if link.rate > 0.0])
        limited = self.cwnd < self._rate * self._round_s
        if limited and not self._limited and self._left < self.cwnd:
            # It filled the pipe until now, acknowledged all along: what is in flight is the last RTT's worth.
            self._left = max(self._left, 0.0)
        self._limited = limited

    def _exhausted_at(self, now: float) -> bool:
        """Stall if the window is used up before its first byte can be acknowledged."""
        if not self._limited or self._left >= 1.0:
            return False
        self._timer_to_resume(now)
        return True

    def _timer_to_resume(self, now: float) -> None:
        self._stalled = True
        self._timer = self._network.loop.call_at(
            max(now, self._round + self._round_s), self._resume, context=self._network.context
        )

    def _exhaust(self) -> None:
        """The window is used up in the middle of a message."""
        now = self._network.loop.time()
        self._remaining -= max(self._left, 0.0)
        self._left = 0.0
        self._since = now
        self._timer = None
        if now >= self._round + self._round_s:
            self._new_round(now)
            self._limit()
            self._schedule(now)
        else:
            self._leave()
            self._timer_to_resume(now)

    def _resume(self) -> None:
        """The first byte of the round is acknowledged: the next round starts."""
        now = self._network.loop.time()
        self._stalled = False
        self._timer = None
        self._since = now
        self._refresh()
        self._new_round(now)
        self._join(now)

    def _new_round(self, now: float) -> None:
        used = min(self.cwnd - self._left, self.cwnd)
        if self.cwnd < 2.0 * used:  # Linux: a window that was not used does not grow
            self.cwnd = min(self.cwnd + used, self._loss_window())
        self._left = self.cwnd
        self._round = now

    def _grow_to_pipe(self, job: _Job) -> None:
        """A stream that the window did not hold back for a round has filled the pipe and the queue before it."""
        if not self._limited and self._rtt > 0.0 and self._rate < inf and job.wire > self.cwnd:
            pipe = self._rate * self._rtt
            queue = min([pipe if link.queue_bytes is None else link.queue_bytes for link in self.forward])
            self.cwnd = min(max(self.cwnd, pipe + queue), self._loss_window())

    def _forget_window(self, idle_s: float) -> None:
        """Linux's `tcp_cwnd_restart` (RFC 2861): halve the window for every timeout spent idle."""
        timeout = self._rtt + MIN_RTO
        while idle_s > timeout and self.cwnd > INITIAL_WINDOW:
            idle_s -= timeout
            self.cwnd = max(self.cwnd / 2.0, INITIAL_WINDOW)
            self._left = self.cwnd

    def _loss_window(self) -> float:
        """Wire bytes per RTT that loss leaves, on average (Padhye et al., SIGCOMM 1998, equation 30, one ACK per segment):

        MSS / (RTT sqrt(2p/3) + RTO min(1, 3 sqrt(3p/8)) p (1 + 32 p^2)), times RTT; at least two segments.
        """
        p = self._loss
        if p <= 0.0:
            return inf
        rtt = max(self._round_s, 1e-3)
        per_segment = rtt * sqrt(2.0 * p / 3.0) + (rtt + MIN_RTO) * min(1.0, 3.0 * sqrt(3.0 * p / 8.0)) * p * (1.0 + 32.0 * p * p)
        return max(SEGMENT * rtt / per_segment, 2.0 * SEGMENT)

    def _refresh(self) -> None:
        """Take over changed delays and losses."""
        if self._version == self._network.version:
            return
        self._version = self._network.version
        self._delay = sum(link.delay for link in self.forward)
        self._rtt = self._delay + sum(link.delay for link in self.backward)
        through = 1.0
        for link in self.forward:
            through *= 1.0 - link.loss
        self._loss = 1.0 - through
        self._inflation = 1.0 / through
        self._round_s = self._rtt
        self._limited = self._limited and self._rtt > 0.0
        if self._loss > 0.0:
            self.cwnd = min(self.cwnd, self._loss_window())
