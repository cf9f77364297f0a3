"""Tensors and tiles that came before their plan: they wait for it, for a bounded time and in bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from d3node.bounds import Bounds
from d3node.channel import Message
from d3node.errors import NodeError, PlanError
from d3node.wire import payload_bytes

TurnAway = Callable[[Message, NodeError], None]


@dataclass(slots=True)
class _Waiting:
    timer: asyncio.TimerHandle
    messages: list[tuple[str, Message]] = field(default_factory=list)


class Parking:
    """Messages by the epoch that they wait for. `turn_away(message, error)` is called for those that wait in vain."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop, bounds: Bounds, turn_away: TurnAway) -> None:
        self._name = name
        self._loop = loop
        self._bounds = bounds
        self._turn_away = turn_away
        self._epochs: dict[int, _Waiting] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return sum(len(waiting.messages) for waiting in self._epochs.values())

    def park(self, peer: str, message: Message) -> None:
        """Let a message wait for its plan, or turn it away where there is no room."""
        number: int = message.fields["epoch"]
        size = payload_bytes(message)
        if self._bytes + size > self._bounds.park_bytes:
            self._turn_away(message, PlanError(f"{self._name} holds more tensors without a plan than it has room for"))
            return
        waiting = self._epochs.get(number)
        if waiting is None:
            timer = self._loop.call_later(self._bounds.park_s, self._expire, number)
            waiting = self._epochs[number] = _Waiting(timer)
        waiting.messages.append((peer, message))
        self._bytes += size

    def take(self, number: int) -> list[tuple[str, Message]]:
        """What has waited for a plan, in the order in which it came; it waits no longer."""
        waiting = self._epochs.pop(number, None)
        if waiting is None:
            return []
        waiting.timer.cancel()
        self._bytes -= sum(payload_bytes(message) for _, message in waiting.messages)
        return waiting.messages

    def clear(self) -> None:
        """Forget everything."""
        for waiting in self._epochs.values():
            waiting.timer.cancel()
        self._epochs.clear()
        self._bytes = 0

    def _expire(self, number: int) -> None:
        for _, message in self.take(number):
            text = f"epoch {number} was not installed on {self._name} within {self._bounds.park_s:g} s"
            self._turn_away(message, PlanError(text))
