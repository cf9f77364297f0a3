"""What an orchestrator hears of requests, kept for the next one: what nobody was there to hear, and what died with who heard it.

Only where requests recover from lost hosts. What was told of a request is kept until `ping` says that it is over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from d3node.channel import Message


class Told:
    """Messages about requests, the latest `most` of each kind: told, and not told yet."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._later: deque[Message] = deque(maxlen=most)
        self._told: dict[int | str, list[Message]] = {}  # the request that was spoken of first comes first
        self._count = 0

    def later(self, message: Message) -> None:
        """Nobody is connected: the next orchestrator hears it first of all."""
        self._later.append(message)

    def waiting(self) -> Iterator[Message]:
        """What waits for an orchestrator, which hears it now."""
        while self._later:
            message = self._later.popleft()
            self.told(message)
            yield message

    def told(self, message: Message) -> None:
        """An orchestrator hears this."""
        self._told.setdefault(message.fields["request"], []).append(message)
        self._count += 1
        while self._count > self._most:
            self.over((next(iter(self._told)),))

    def again(self, request: int | str) -> list[Message]:
        """What was told of a request, to be told again."""
        return [Message(m.kind, {**m.fields, "again": True}, m.payloads) for m in self._told.get(request, ())]

    def over(self, requests: Sequence[Any]) -> None:
        """These requests have ended, and the orchestrator has everything on record."""
        for request in requests:
            self._count -= len(self._told.pop(request, ()))

    def clear(self) -> None:
        """Nothing is to be told any more."""
        self._later.clear()
        self._told.clear()
        self._count = 0
