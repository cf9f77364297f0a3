"""An edge LAN on paper: hosts that compute one thing at a time, messages that queue at both ends, events in order of time.

The ground of the cost models of tiles that are fetched or handed over (`pool_times.py`, `chain_times.py`), where who does what
next depends on when things arrive. Fair sharing and TCP are the backends' business.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

from testbed.costs.network import Path
from testbed.planners.base import Problem
from testbed.planners.tiling import lan_path, serialise_s

Call = Callable[[], None]


class Lan:
    """Events from second 0 on. `computed_s[host]` adds up what `compute` was told, `sent_bytes` the payloads of all messages."""

    def __init__(self, problem: Problem) -> None:
        self.now = 0.0
        self.computed_s: dict[str, float] = {}
        self.sent_bytes = 0
        self._problem = problem
        self._leader = problem.hosts["edge"]
        self._events: list[tuple[float, int, Call]] = []
        self._order = count()
        self._out: dict[str, float] = {}
        self._in: dict[str, float] = {}

    def path(self, source: str, target: str) -> Path:
        """The path between two edge hosts. Of two that do not lead only their paths to the leader are known: the narrower rate,
        the mean of the delays (exact where all hosts hang on one switch by equal links)."""
        if source == self._leader:
            return lan_path(self._problem, target)
        if target == self._leader:
            return lan_path(self._problem, source)
        one, other = lan_path(self._problem, source), lan_path(self._problem, target)
        return Path(min(one.rate_bps, other.rate_bps), (one.delay_s + other.delay_s) / 2.0)

    def send(self, source: str, target: str, payload_bytes: int, then: Call) -> None:
        """Send a message now; `then` is called when all of it is there. It queues behind what its ends still send and receive."""
        path = self.path(source, target)
        seconds = serialise_s(path, payload_bytes)
        left = self._out[source] = max(self.now, self._out.get(source, 0.0)) + seconds
        there = self._in[target] = max(left + path.delay_s, self._in.get(target, 0.0) + seconds)
        self.sent_bytes += payload_bytes
        self._at(there, then)

    def compute(self, host: str, seconds: float, then: Call) -> None:
        """Compute from now on; the caller keeps a host from doing two things at a time."""
        self.computed_s[host] = self.computed_s.get(host, 0.0) + seconds
        self._at(self.now + seconds, then)

    def run(self) -> float:
        """Carry out everything; the second of the last event."""
        while self._events:
            self.now, _, call = heapq.heappop(self._events)
            call()
        return self.now

    def _at(self, time: float, call: Call) -> None:
        heapq.heappush(self._events, (time, next(self._order), call))
