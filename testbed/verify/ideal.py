"""How long one message takes over an idle path, by arithmetic: a bound for warm connections, a model of slow start for cold ones.

Both know the path only as rates and delays. What is measured, and how far it may be off, is `testbed.verify.links`' business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from testbed.costs.network import FRAME_OVERHEAD, SEGMENT_PAYLOAD
from testbed.scenario.state import LinkState

INITIAL_WINDOW = 10
"""Segments that a new connection may have in flight (RFC 6928, and Linux)."""

QUICK_ACKS = 16
"""Linux acknowledges so many first segments of a connection one by one, and every second one after that."""

HYSTART_GAP_S, HYSTART_LEAST_DELAY_S, HYSTART_MOST_DELAY_S = 0.002, 0.004, 0.016
HYSTART_WINDOW, HYSTART_SAMPLES = 16, 8
"""Constants of HyStart (Ha and Rhee, "Taming the elephants", 2011) as Linux's tcp_cubic.c has them."""

GROWTH_DIVISOR = 20
"""Until its first loss CUBIC adds at least one segment for so many acknowledged (tcp_cubic.c: "increase cwnd 5% per RTT")."""


def frames(size: int) -> list[int]:
    """Bytes of every frame that carries a message: 66 of headers and at most 1448 of payload."""
    full, rest = divmod(size, SEGMENT_PAYLOAD)
    return [SEGMENT_PAYLOAD + FRAME_OVERHEAD] * full + ([rest + FRAME_OVERHEAD] if rest else [])


def warm_s(size: int, path: Sequence[LinkState]) -> float:
    """Seconds of a message whose window is no limit: all frames at the slowest link's rate, the first (before it) and the last
    one (behind it) stored and forwarded at the others, and every delay once."""
    sent = frames(size)
    narrow = min(range(len(path)), key=lambda hop: path[hop].rate_bps)
    seconds = sum(sent) * 8.0 / path[narrow].rate_bps
    for hop, link in enumerate(path):
        seconds += link.delay_s
        if hop != narrow:
            seconds += (sent[0] if hop < narrow else sent[-1]) * 8.0 / link.rate_bps
    return seconds


@dataclass
class _Window:
    """The sender's congestion window: slow start, HyStart, then CUBIC before its first loss. Seconds and segments."""

    least_rtt_s: float
    size: float = INITIAL_WINDOW
    slow: bool = True
    acknowledged: int = 0
    round_end: int = 0
    round_start: float = 0.0
    last_ack: float = 0.0
    samples: int = 0
    round_rtt_s: float = float("inf")

    def ack(self, now: float, upto: int, rtt_s: float, sent: int) -> None:
        """An acknowledgement of all segments before `upto` arrives when `sent` have left; `rtt_s` is that of the newest of them.

        A sender that uses less than half of its window lets it be (tcp_is_cwnd_limited)."""
        gained = upto - self.acknowledged
        in_flight = sent - self.acknowledged
        self.acknowledged = upto
        self.least_rtt_s = min(self.least_rtt_s, rtt_s)
        if self.slow:
            self._hystart(now, upto, rtt_s, sent)
            if self.size < 2 * in_flight or in_flight >= int(self.size):
                self.size += gained
        elif in_flight >= int(self.size):
            self.size += gained / GROWTH_DIVISOR

    def _hystart(self, now: float, upto: int, rtt_s: float, sent: int) -> None:
        if upto > self.round_end:
            self.round_end, self.round_start, self.last_ack = sent, now, now
            self.samples, self.round_rtt_s = 0, float("inf")
        if self.size < HYSTART_WINDOW:
            return
        if now - self.last_ack <= HYSTART_GAP_S:
            self.last_ack = now
            self.slow = now - self.round_start <= self.least_rtt_s / 2
        self.round_rtt_s = min(self.round_rtt_s, rtt_s)
        if self.samples < HYSTART_SAMPLES:
            self.samples += 1
        else:
            slack = min(max(self.least_rtt_s / 8, HYSTART_LEAST_DELAY_S), HYSTART_MOST_DELAY_S)
            self.slow = self.slow and self.round_rtt_s <= self.least_rtt_s + slack


class _Pipe:
    """A path as a row of queues that are never full."""

    def __init__(self, path: Sequence[LinkState]) -> None:
        self._path = path
        self._free = [0.0] * len(path)

    def carry(self, at: float, frame_bytes: int) -> float:
        """When a frame that enters at a time has arrived. Frames enter in order."""
        for hop, link in enumerate(self._path):
            at = self._free[hop] = max(at, self._free[hop]) + frame_bytes * 8.0 / link.rate_bps
            at += link.delay_s
        return at


def cold_s(size: int, forward: Sequence[LinkState], backward: Sequence[LinkState]) -> float:
    """Seconds of the first message of a connection whose handshake is over: the initial window, slow start up to where HyStart
    ends it, five per cent more in every round trip after that.

    Our model, frame by frame: queues are never full, nothing is lost, the receiver's window is no limit, and a delayed
    acknowledgement never comes too late to matter.
    """
    sent = frames(size)
    there, back = _Pipe(forward), _Pipe(backward)
    syn_s = sum(link.delay_s + 74 * 8.0 / link.rate_bps for link in (*forward, *backward))
    window = _Window(least_rtt_s=syn_s)
    acks: deque[tuple[float, int, float]] = deque()  # arrival, segments acknowledged, when the newest of them had left
    now, arrived, count, unanswered = 0.0, 0.0, 0, 0
    while count < len(sent):
        while count < len(sent) and count - window.acknowledged < int(window.size):
            arrived = there.carry(now, sent[count])
            count += 1
            unanswered += 1
            if count <= QUICK_ACKS or unanswered >= 2 or count == len(sent):
                acks.append((back.carry(arrived, FRAME_OVERHEAD), count, now))
                unanswered = 0
        if count < len(sent):
            if not acks:  # a single segment waits for company until the receiver's timer of 40 ms
                acks.append((back.carry(arrived + 0.04, FRAME_OVERHEAD), count, now))
                unanswered = 0
            now, upto, left = acks.popleft()
            window.ack(now, upto, now - left, count)
    return arrived
