"""An edge LAN on paper: hosts that compute one thing at a time, messages that share links at both ends, events in order of time.

The ground of the cost models of tiles that are fetched or handed over (`pool_times.py`, `chain_times.py`), where who does what
next depends on when things arrive. Between two hosts there is one connection, which sends one message after the other; the
connections that are sending share a host's link evenly (max-min fair), as TCP's do in the long run. Windows, losses and who
got more of a queue are the backends' business.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from testbed.costs.network import MESSAGE_HEADER_BYTES, Path, frame_bytes
from testbed.planners.base import Problem
from testbed.planners.tiling import lan_path, leader_bps

Call = Callable[[], None]


@dataclass(slots=True)
class _Message:
    """Bits that are still to be sent, and what is called when all of them have arrived."""

    bits: float
    then: Call


_End = tuple[str, str]
"""One direction of a host's link: ("out", host) or ("in", host)."""

_NOTHING_LEFT = 1e-3
"""Bits below which a message has been sent: sums of floats."""


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
        self._sending: dict[tuple[str, str], deque[_Message]] = {}
        self._rates: dict[tuple[str, str], float] = {}
        self._since = 0.0
        self._shares = 0

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
        """Send a message now; `then` is called when all of it is there. It queues behind earlier ones of its connection."""
        self.path(source, target)  # known?
        self.sent_bytes += payload_bytes
        waiting = self._sending.setdefault((source, target), deque())
        waiting.append(_Message(8.0 * frame_bytes(payload_bytes + MESSAGE_HEADER_BYTES), then))
        if len(waiting) == 1:
            self._progress()
            self._share()

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

    def _progress(self) -> None:
        """Account for what has been sent at the present rates."""
        for connection, rate in self._rates.items():
            self._sending[connection][0].bits -= rate * (self.now - self._since)
        self._since = self.now

    def _share(self) -> None:
        """Share the links anew, and come back when the next message has been sent."""
        self._rates = self._max_min([connection for connection, waiting in self._sending.items() if waiting])
        self._shares += 1
        if self._rates:
            shares = self._shares
            soonest = min(max(0.0, self._sending[connection][0].bits) / rate for connection, rate in self._rates.items())
            self._at(self.now + soonest, lambda: self._sent(shares))

    def _sent(self, shares: int) -> None:
        """A message has been sent, unless the links have been shared anew since that was foreseen."""
        if shares != self._shares:
            return
        self._progress()
        for connection in self._rates:
            waiting = self._sending[connection]
            if waiting[0].bits <= _NOTHING_LEFT:
                self._at(self.now + self.path(*connection).delay_s, waiting.popleft().then)
        self._share()

    def _max_min(self, connections: list[tuple[str, str]]) -> dict[tuple[str, str], float]:
        """Max-min fair rates in bit/s, by progressive filling."""
        crossing: dict[_End, list[tuple[str, str]]] = {}
        for connection in connections:
            for end in zip(("out", "in"), connection, strict=True):
                crossing.setdefault(end, []).append(connection)
        left = {end: self._rate(end[1]) for end in crossing}
        rates: dict[tuple[str, str], float] = {}
        while len(rates) < len(connections):
            tightest = min(crossing, key=lambda end: left[end] / len(crossing[end]))
            share = left[tightest] / len(crossing[tightest])
            for connection in list(crossing[tightest]):
                rates[connection] = share
                for end in zip(("out", "in"), connection, strict=True):
                    left[end] = max(left[end] - share, 0.0)
                    crossing[end].remove(connection)
            crossing = {end: those for end, those in crossing.items() if those}
        return rates

    def _rate(self, host: str) -> float:
        """Of a host's link."""
        if host == self._leader:
            return leader_bps(self._problem)
        return max(lan_path(self._problem, host).rate_bps, 1e3)

    def _at(self, time: float, call: Call) -> None:
        heapq.heappush(self._events, (time, next(self._order), call))
