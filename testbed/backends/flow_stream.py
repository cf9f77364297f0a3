"""One direction of a TCP connection in the fluid model: a FIFO of messages, sent in rounds of a window, framed in segments.

The network and what it approximates are described in `flow.py`; links and fair shares are in `fairshare.py`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from math import inf
from typing import TYPE_CHECKING

from testbed.backends.flow_job import SEGMENT, Callback, Job
from testbed.backends.flow_path import QUICK_ACKS, FlowPath
from testbed.backends.flow_tcp import FRIENDLY_GROWTH, REDUCTION, UNCONGESTED_GROWTH, Losses, hystart_bytes
from testbed.costs.network import FRAME_OVERHEAD, SEGMENT_PAYLOAD, frame_bytes

if TYPE_CHECKING:
    from testbed.backends.flow import FlowNetwork

INITIAL_WINDOW = 10 * SEGMENT
"""Wire bytes that a new connection may have in flight: 10 segments (RFC 6928, and Linux)."""
SYN_BYTES = 74
"""Frame of a SYN or SYN-ACK with Linux's options."""
MIN_RTO = 0.2
"""Linux's least retransmission timeout: a connection idle for longer than RTT + this counts as idle (RFC 2861)."""


class Stream:
    """One direction of a connection: a FIFO of messages, sent at its fair share of the path, under a TCP window.

    The window is kept in rounds: from the first byte of a round, `cwnd` wire bytes may leave at the fair share; if they have
    left before the first of them can be acknowledged, the stream stalls until then. A round that used its window adds as much
    to it until slow start ends (`flow_tcp`), and a twentieth from then on.
    """

    __slots__ = (
        "_arrived", "_avoiding", "_delay", "_heard", "_job", "_last", "_left", "_limited", "_loss", "_losses",
        "_narrowest", "_network", "_path", "_rate", "_rates_version", "_remaining", "_round", "_round_s", "_rtt", "_segments_s",
        "_since", "_stalled", "_threshold", "_timer", "_used", "_version", "_waiting", "backward", "cwnd", "forward",
    )  # fmt: skip

    def __init__(self, network: FlowNetwork, path: FlowPath) -> None:
        self.forward = path.forward
        self.backward = path.backward
        self._path = path
        self.cwnd: float = INITIAL_WINDOW
        self._network = network
        self._losses = Losses(network.seed, network.next_number())
        self._avoiding = False
        self._threshold = inf
        self._used = 0.0
        self._narrowest = inf
        self._segments_s = 0.0
        self._rates_version = -1
        self._waiting: deque[Job] = deque()
        self._job: Job | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stalled = False
        self._limited = False
        self._remaining = 0.0
        self._rate = 0.0
        self._left: float = INITIAL_WINDOW
        self._round = -inf
        self._since = self._last = self._arrived = network.loop.time()
        self._heard = -inf
        self._version = -1
        self._refresh()

    def send(self, message_bytes: int, sent: Callback | None, delivered: Callback) -> None:
        """Queue a message: `sent` is called when its last byte leaves the sender, `delivered` when that byte has arrived."""
        self._enqueue(Job(message_bytes, frame_bytes(message_bytes), -(-message_bytes // SEGMENT_PAYLOAD), sent, delivered))

    def signal(self, delivered: Callback, wire_bytes: int = FRAME_OVERHEAD) -> None:
        """Queue a packet without payload (SYN, ACK, FIN)."""
        self._enqueue(Job(0, wire_bytes, 1, None, delivered))

    def cancel(self) -> None:
        """Forget every message that has not left in full."""
        if self._job is not None:
            self._settle(self._network.loop.time())
            self._path.count_part(self._job, 1.0 - self._remaining / self._job.wire)
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
    def weight(self) -> int:
        """Bytes of it that wait in the queue of its narrowest link: what it has to set against its rivals there (`fairshare`).

        A small message is there at once, and has its place until it is through. Of a larger one there is what slow start has let
        out so far, less what the path holds, and no more than Linux's HyStart (`flow_tcp`) lets build up.
        """
        job = self._job
        if job is None or self._rtt <= 0.0:
            return INITIAL_WINDOW
        wire, narrowest = job.wire, self._narrowest
        if wire <= INITIAL_WINDOW or narrowest == inf:
            return int(wire)
        out = max(self.cwnd, (self.cwnd + wire - self._remaining) / 2.0)  # each byte acknowledged has let out two
        out = min(out, max(INITIAL_WINDOW, hystart_bytes(narrowest, self._rtt)))
        return int(max(min(out - narrowest * self._rtt, self._remaining), SEGMENT) if wire > out else wire)

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
        whole = self._job.wire
        sent = whole - self._remaining + (self._rate * (now - self._since) if now > self._since else 0.0)
        return min(sent, whole), self._job.message_bytes * min(sent / whole, 1.0)

    # -- one message after the other

    def _enqueue(self, job: Job) -> None:
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
        self._job.quick = now - self._heard > self._rtt + MIN_RTO
        if self._loss > 0.0 and self._job.message_bytes:
            segment_s = SEGMENT / self._narrowest if self._narrowest > 0.0 else 0.0
            lost = self._losses.draw(self._job.segments, self._loss)
            self._avoiding = self._job.lose(lost, segment_s, max(self._round_s, self._rtt)) or self._avoiding
        self._remaining = self._job.wire
        self._since = now

    def _finish(self) -> None:
        """The last byte of a message leaves."""
        job = self._job
        assert job is not None
        now = self._network.loop.time()
        self._left -= self._remaining if job.message_bytes else 0.0
        self._last = now
        if job.message_bytes:
            self._heard = now
        self._timer = None
        self._path.count(job)
        self._grow_to_pipe(job)
        if job.lost and job.noticed(job.wire):
            self._reduce()
        hops_s = self._path.hops_s(job, self._network.rates_version)
        self._arrived = max(self._arrived, now + self._delay + hops_s + job.repair_s)
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

    # -- the share of the path

    def _join(self, now: float) -> None:
        alone = True
        for link in self.forward:
            alone = alone and not link.streams
            link.streams[self] = None
        if self._rates_version != self._network.rates_version:
            self._refresh_rates()
        if alone:
            self.set_rate(self._narrowest, now)
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
            sent = self._rate * (now - self._since)
            if sent > self._remaining:
                sent = self._remaining
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
        if self._rates_version != self._network.rates_version:
            self._refresh_rates()
        self._round_s = self._rtt + self._segments_s
        if self.cwnd > QUICK_ACKS * SEGMENT and self._narrowest > 0.0:
            self._round_s += SEGMENT / self._narrowest  # behind the quick ones, the first ACK is for two segments
        limited = self.cwnd < self._rate * self._round_s or self._avoiding
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
        when = max(now, self._round + self._round_s)
        self._timer = self._network.loop.call_at(when, self._resume, context=self._network.context)

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
        if self._job is not None and self._job.lost and self._job.noticed(self._job.wire - self._remaining):
            self._reduce()  # once for all losses of a round
        elif self.cwnd < 2.0 * max(used, self._used + used / 2.0):  # Linux: not beyond twice what was on its way at once
            self._grow(used)
        self._used = used
        self._left = self.cwnd
        self._round = now

    def _reduce(self) -> None:
        self.cwnd = max(REDUCTION * self.cwnd, 2.0 * SEGMENT)

    def _grow(self, acknowledged: float) -> None:
        """As Linux does for so many bytes: slow start up to where HyStart ends it, then a share of them (`flow_tcp`)."""
        if self._avoiding:
            self.cwnd += FRIENDLY_GROWTH * SEGMENT * acknowledged / self.cwnd
        elif self.cwnd >= self._threshold:
            self.cwnd += acknowledged / UNCONGESTED_GROWTH
        else:
            end = min(max(self.cwnd, QUICK_ACKS * SEGMENT, hystart_bytes(self._narrowest, self._rtt)), self._threshold)
            if self.cwnd + acknowledged >= end:
                self._threshold = end
            self.cwnd = min(self.cwnd + acknowledged, end)

    def _grow_to_pipe(self, job: Job) -> None:
        """A stream that the window did not hold back for a round has filled the pipe and the queue before it."""
        if not (self._limited or self._avoiding) and self._rtt > 0.0 and self._rate < inf and job.wire > self.cwnd:
            pipe = self._rate * self._rtt
            queue = min([pipe if link.queue_bytes is None else link.queue_bytes for link in self.forward])
            if self.cwnd < pipe + queue:
                self._grow(job.wire)
                self.cwnd = min(self.cwnd, pipe + queue)

    def _forget_window(self, idle_s: float) -> None:
        """Linux's `tcp_cwnd_restart` (RFC 2861): halve the window for every timeout spent idle."""
        timeout = self._rtt + MIN_RTO
        if idle_s > timeout and self._threshold < inf:
            self._threshold = max(self._threshold, 0.75 * self.cwnd)
        while idle_s > timeout and self.cwnd > INITIAL_WINDOW:
            idle_s -= timeout
            self.cwnd = max(self.cwnd / 2.0, INITIAL_WINDOW)
            self._left = self.cwnd

    def _refresh_rates(self) -> None:
        """Take over changed rates."""
        self._rates_version = self._network.rates_version
        rates = [link.rate for link in self.forward]
        self._narrowest = min(rates)
        self._segments_s = sum([SEGMENT / rate for rate in rates if rate > 0.0])

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
        self._round_s = self._rtt
        self._limited = self._limited and self._rtt > 0.0
        self._avoiding = self._avoiding and self._loss > 0.0
