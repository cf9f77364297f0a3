"""What has come in on one connection and nobody has taken yet, and whether more may be read.

Three things stop reading: bytes that wait here, the memory that all connections of a transport share (`d3node.admission.Budget`),
and too many messages a second. The socket and the frames are `d3node.stream`'s business.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from d3node.admission import Budget
from d3node.channel import Message
from d3node.wire import Limits

SLOWED_S: Final = 0.05
"""How long a peer is not read that sends more messages than it may."""


class Inbox:
    """Messages of one connection in their order. `stop()` is called when nothing more may be read for now, `go_on()` when
    it may.

    `paused`: nothing may be read. `nbytes`: bytes of the messages that wait here; `held`: memory taken for them and for the frame
    that is being received. `ended`: set by the owner when the connection has an error, so that nobody is slowed down any more.
    """

    def __init__(self, limits: Limits, budget: Budget, stop: Callable[[], None], go_on: Callable[[], None]) -> None:
        self.paused = False
        self.ended = False
        self.nbytes = 0
        self.held = 0
        self._limits = limits
        self._budget = budget
        self._stop = stop
        self._go_on = go_on
        self._loop = asyncio.get_running_loop()
        self._messages: deque[tuple[Message, int]] = deque()
        self._waiting_for = 0
        self._slowed = False
        self._tokens = limits.messages_at_once
        self._counted_at = self._loop.time()

    def __len__(self) -> int:
        return len(self._messages)

    def grant(self, size: int) -> bool:
        """Leave to take memory for a frame of so many bytes; without it nothing more is read until some was given back."""
        if self.nbytes and self.nbytes + size > self._limits.buffered_bytes:
            self._waiting_for = size
            self._pause()
            return False
        if not self._budget.ask(size):
            self._budget.wait(self.retry)
            self._pause()
            return False
        self._waiting_for = 0
        self.held += size
        return True

    def put(self, message: Message, size: int) -> None:
        """A message of so many bytes, which were granted, is complete."""
        self._messages.append((message, size))
        self.nbytes += size
        self._tokens -= 1.0
        if self._tokens < 1.0:
            self._slow_down()
        if self.nbytes >= self._limits.buffered_bytes:
            self._pause()

    def take(self) -> Message:
        """The message that came first; its memory is given back."""
        message, size = self._messages.popleft()
        self.nbytes -= size
        self._release(size)
        self.retry()
        return message

    def retry(self) -> None:
        """Go on if that may be, where reading has stopped."""
        if not self.paused or (self._slowed and not self.ended) or self.nbytes >= self._limits.buffered_bytes:
            return
        if self._messages and self.nbytes + self._waiting_for > self._limits.buffered_bytes:
            return
        self.paused = False
        self._go_on()

    def clear(self) -> None:
        """Drop what waits here: nobody will take it. Reading may go on then, to find the end of the stream."""
        self._messages.clear()
        self.nbytes = 0

    def release(self) -> None:
        """Give all memory back, that of messages that still wait here included."""
        self._release(self.held)

    def end(self) -> None:
        """Nothing more comes in: give back what no message here stands for, and wait for no memory."""
        self._budget.forget(self.retry)
        self._release(self.held - self.nbytes)

    def _release(self, size: int) -> None:
        size = min(size, self.held)
        if size > 0:
            self.held -= size
            self._budget.give(size)

    def _pause(self) -> None:
        self.paused = True
        self._stop()

    def _slow_down(self) -> None:
        """Hold a peer that sends more messages than it may: it is not read for a while."""
        limits, now = self._limits, self._loop.time()
        self._tokens = min(limits.messages_at_once, self._tokens + (now - self._counted_at) * limits.messages_per_s)
        self._counted_at = now
        if self._tokens < 1.0 and not self._slowed:
            self._slowed = True
            self._pause()
            self._loop.call_later(SLOWED_S, self._slow_no_more)

    def _slow_no_more(self) -> None:
        self._slowed = False
        self._slow_down()
        if not self._slowed:
            self.retry()
