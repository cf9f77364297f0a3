"""A message on its way in the fluid model, with the segments of it that are lost and what that costs.

When it is sent, and how fast, is `flow_stream.py`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from testbed.backends.flow_tcp import repair_s
from testbed.costs.network import FRAME_OVERHEAD, SEGMENT_PAYLOAD

SEGMENT = SEGMENT_PAYLOAD + FRAME_OVERHEAD
Callback = Callable[[], None]


class Job:
    """A message, or a packet without payload (`message_bytes` 0) that opens or closes the connection.

    `wire` and `segments` count what is sent again, `lost` are bytes after which a loss has happened that was not noticed yet,
    `repair_s` is how much later than its last byte the message is whole, `quick` whether its first segments are acknowledged
    one by one.
    """

    __slots__ = ("delivered", "drops", "lost", "message_bytes", "quick", "repair_s", "segments", "sent", "wire")

    def __init__(self, message_bytes: int, wire: float, segments: int, sent: Callback | None, delivered: Callback) -> None:
        self.message_bytes = message_bytes
        self.wire = wire
        self.segments = segments
        self.sent = sent
        self.delivered = delivered
        self.quick = False
        self.drops = 0
        self.lost: Sequence[float] = ()
        self.repair_s = 0.0

    def lose(self, lost: Sequence[int], segment_s: float, round_s: float) -> bool:
        """Have these segments (counted from 0) lost, and sent again behind the others; whether there are any."""
        if not lost:
            return False
        self.repair_s = repair_s(self.segments - 1 - lost[-1], segment_s, round_s)
        self.lost = [float(SEGMENT * (position + 1)) for position in lost]
        self.drops = len(lost)
        self.wire += min(self.wire, SEGMENT) * len(lost)
        self.segments += len(lost)
        return True

    def noticed(self, sent: float) -> bool:
        """Whether there were losses among the bytes that have been sent; each is noticed once."""
        left = [position for position in self.lost if position > sent]
        found = len(left) < len(self.lost)
        self.lost = left
        return found
