"""What the fluid model has of Linux's TCP beside windows: losses, drawn one by one from the run's seed, and where HyStart ends.

When a stream sends what, and how fast, is `flow_stream.py`'s business.
"""

from __future__ import annotations

import random
from math import inf, log1p

from testbed.costs.network import FRAME_OVERHEAD, SEGMENT_PAYLOAD

ACK_TRAIN_S = 0.002
"""ACKs that come closer than this are one train to HyStart."""
REDUCTION, FRIENDLY_GROWTH = 0.7, 0.53
"""CUBIC where losses are frequent: the window times 0.7 for a round with losses, then 0.53 segments more for each round
(RFC 9438, 4.3 and 4.6)."""
UNCONGESTED_GROWTH = 20.0
"""Until the first loss, Linux's CUBIC adds at least a segment for so many acknowledged ones (tcp_cubic.c, `bictcp_update`)."""
REORDERING = 0.25
"""RACK waits for this share of a round trip before it takes a segment for lost (RFC 8985)."""
TAIL_SEGMENTS, PROBE_ROUNDS = 3, 2.0
"""A loss among the last segments of a message is found by a probe after two round trips (TLP, RFC 8985)."""


class Losses:
    """The losses of one stream. The same seed and stream number give the same losses, whatever other streams do."""

    __slots__ = ("_clear", "_probability", "_random")

    def __init__(self, seed: int, number: int) -> None:
        self._random = random.Random(f"{seed}/{number}")
        self._probability = 0.0
        self._clear = inf

    def draw(self, segments: int, probability: float) -> list[int]:
        """Which of the next so many segments are lost, counted from 0."""
        if probability != self._probability:
            self._probability = probability
            self._clear = self._gap()
        found = []
        while self._clear < segments:
            found.append(int(self._clear))
            self._clear += 1 + self._gap()
        self._clear -= segments
        return found

    def _gap(self) -> float:
        """Segments until the next loss (geometric)."""
        if self._probability < 1e-12:
            return inf
        if self._probability >= 1.0:
            return 0
        return int(log1p(-self._random.random()) / log1p(-self._probability))


def repair_s(behind: int, segment_s: float, round_s: float) -> float:
    """How much later than its last segment a message is whole, if the last of its losses had so many segments `behind` it.

    `segment_s`: seconds that a segment takes to be sent; `round_s`: a round trip. What is sent again is not lost again here.
    """
    if behind < TAIL_SEGMENTS:
        return PROBE_ROUNDS * round_s
    return max(0.0, (1.0 + REORDERING) * round_s - behind * segment_s)


def hystart_bytes(rate: float, rtt_s: float) -> float:
    """Window (bytes) at which slow start ends without a loss, about (Ha and Rhee, "Hybrid slow start", 2011; Linux tcp_cubic.c).

    `rate`: the narrowest link's, in bytes/s. Where ACKs come close enough to be a train, it ends when the train is half a round
    trip long: between once and one and a half times what the path holds. Where they do not, when queues have added an eighth of
    the round trip (4 to 16 ms), which is noticed a round or two late: between twice and four times what the path and that queue
    hold. Taken in the middle.
    """
    if rate * ACK_TRAIN_S >= 2.0 * (SEGMENT_PAYLOAD + FRAME_OVERHEAD):
        return 1.25 * rate * rtt_s
    return 3.0 * rate * (rtt_s + min(max(rtt_s / 8.0, 0.004), 0.016))
