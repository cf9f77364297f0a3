"""Tensors that a request may have to go on from: what a host has sent to others, or had in hand when its part ended.

Only where requests recover from lost hosts. Bounded in time, bytes and requests: the request that was added to longest ago goes
first, and would then have to go on from elsewhere, or from its input. Source of the idea: CESSNA (SoCC 2020), which replays from
the last state that survived, not from the beginning.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from d3node.bounds import Bounds
from d3node.channel import Payload


class _Tensors(dict[int, Payload]):
    """The tensors of one request, and when the last one was added."""

    since = 0.0

    @property
    def nbytes(self) -> int:
        return sum(payload.nbytes for payload in self.values())


class Kept:
    """By request, then by vertex: the tensor of a vertex is the same under every plan of a request."""

    def __init__(self, loop: asyncio.AbstractEventLoop, bounds: Bounds) -> None:
        self.nbytes = 0
        self._loop = loop
        self._bounds = bounds
        self._requests: dict[int | str, _Tensors] = {}  # the one that was added to longest ago comes first
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._requests)

    def put(self, request: int | str, tensors: Mapping[int, Payload]) -> None:
        """Keep some tensors of a request."""
        if not tensors:
            return
        known = self._requests.pop(request, None)
        known = self._requests[request] = _Tensors() if known is None else known
        self.nbytes -= known.nbytes
        known.update(tensors)
        known.since = self._loop.time()
        self.nbytes += known.nbytes
        while len(self._requests) > self._bounds.kept_requests or self.nbytes > self._bounds.kept_bytes:
            self.drop(next(iter(self._requests)))
        if self._timer is None and self._requests:
            self._timer = self._loop.call_later(self._bounds.kept_s, self._expire)

    def of(self, request: int | str) -> Mapping[int, Payload]:
        """What is kept of a request."""
        return self._requests.get(request, {})

    def drop(self, request: int | str) -> None:
        """The request is over."""
        if (tensors := self._requests.pop(request, None)) is not None:
            self.nbytes -= tensors.nbytes

    def clear(self) -> None:
        """Keep nothing."""
        self._requests.clear()
        self.nbytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._requests:
            request, tensors = next(iter(self._requests.items()))
            if now < tensors.since + self._bounds.kept_s:
                self._timer = self._loop.call_at(tensors.since + self._bounds.kept_s, self._expire)
                return
            self.drop(request)
