"""A run as it goes: what its events (`orchestrator.journal`, `orchestrator.live`) add up to at this moment.

Nothing is drawn here (`live_view.py` does) and no clock is read: all times are scenario seconds of the events.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from testbed.orchestrator.overload import REFUSED

WINDOW_S = 10.0
"""Scenario seconds that utilisation is taken over."""
KEPT_S = 120.0
"""Scenario seconds of rates and spans that are remembered."""
LATENCIES = 400
EVENTS = 50


@dataclass
class LinkNow:
    """One direction of a link: its state, its past rates, and the messages that crossed it (start, end, framed bytes)."""

    role: str
    rate_bps: float = 0.0
    delay_s: float = 0.0
    loss: float = 0.0
    times: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    sent: deque[tuple[float, float, float]] = field(default_factory=deque)
    framed_bytes: float = 0.0
    changes: int = 0

    def use(self, now: float) -> float | None:
        """Share of what the link could have carried in the last `WINDOW_S` that messages of finished requests took; None where
        it could have carried nothing."""
        start = max(0.0, now - WINDOW_S)
        capacity = 0.0
        for i, rate in enumerate(self.rates):
            until = self.times[i + 1] if i + 1 < len(self.times) else now
            capacity += rate * max(0.0, min(until, now) - max(self.times[i], start))
        if capacity <= 0.0:
            return None
        carried = sum(framed * _overlap(begun, ended, start, now) for begun, ended, framed in self.sent)
        return carried * 8.0 / capacity


@dataclass
class HostNow:
    """A host: its free CPU share, when it computed, how long the last request waited for it."""

    tier: str
    cpu_share: float = 1.0
    busy: deque[tuple[float, float]] = field(default_factory=deque)
    busy_s: float = 0.0
    queued_s: float = 0.0

    def utilisation(self, now: float) -> float:
        """Share of the last `WINDOW_S` in which it computed for requests that are over."""
        start = max(0.0, now - WINDOW_S)
        if now <= start:
            return 0.0
        return sum(max(0.0, min(ended, now) - max(begun, start)) for begun, ended in self.busy) / (now - start)


class Live:
    """Takes events one by one. All that a session has told is forgotten when the next one begins."""

    def __init__(self) -> None:
        self.scenario = self.backend = ""
        self.sessions = self.number = 0
        self.model = self.planner = ""
        self.done = self.total = 0
        self.phase = "starting"
        self.at_s = 0.0
        self.flying = 0
        self.failed = 0
        self.links: dict[tuple[str, str], LinkNow] = {}
        self.hosts: dict[str, HostNow] = {}
        self.latencies: deque[float | None] = deque(maxlen=LATENCIES)
        self.last: dict[str, Any] = {}
        self.plans: dict[str, dict[str, Any]] = {}
        self.changes = 0
        self.news: deque[str] = deque(maxlen=EVENTS)
        self._roles: Mapping[str, str] = {}
        self._tiers: Mapping[str, str] = {}

    def take(self, event: Mapping[str, Any]) -> None:
        """One event of a run; those of no interest here are passed over."""
        handler = getattr(self, f"_on_{event['event']}", None)
        if handler is not None:
            handler(event)

    def _on_booting(self, _event: Mapping[str, Any]) -> None:
        self.phase = "booting the time-travel kernel"

    def _on_loading(self, _event: Mapping[str, Any]) -> None:
        self.phase = "importing what runs in it"

    def _on_run(self, event: Mapping[str, Any]) -> None:
        self.scenario, self.backend = event["scenario"], event["backend"]
        self.sessions, self.total = event["sessions"], event["requests"]
        self._roles, self._tiers = event["links"], event["hosts"]
        self.phase = "starting the network"

    def _on_session(self, event: Mapping[str, Any]) -> None:
        self.model, self.planner, self.number = event["model"], event["planner"], event["number"]
        self.links = {(name, way): LinkNow(role) for name, role in self._roles.items() for way in ("up", "down")}
        self.hosts = {name: HostNow(tier) for name, tier in self._tiers.items()}
        for spent in (self.latencies, self.plans, self.news):
            spent.clear()
        self.last = {}
        self.changes = self.failed = self.flying = 0
        self.at_s = 0.0
        self.phase = "warm-up"

    def _on_measure(self, _event: Mapping[str, Any]) -> None:
        """The replay begins: times start again at 0."""
        self.phase = "measuring"
        self.at_s = 0.0
        for link in self.links.values():
            link.sent.clear()
            link.framed_bytes = 0.0
        for host in self.hosts.values():
            host.busy.clear()
            host.busy_s = host.queued_s = 0.0

    def _on_link(self, event: Mapping[str, Any]) -> None:
        link = self.links[event["link"], event["direction"]]
        if link.times and event["rate_bps"] != link.rate_bps:
            link.changes += 1
        link.rate_bps, link.delay_s, link.loss = event["rate_bps"], event["delay_s"], event["loss"]
        link.times.append(event["at_s"])
        link.rates.append(event["rate_bps"])
        while len(link.times) > 2 and link.times[1] < event["at_s"] - KEPT_S:
            del link.times[0], link.rates[0]
        self._reach(event["at_s"])

    def _on_host(self, event: Mapping[str, Any]) -> None:
        self.hosts[event["host"]].cpu_share = event["cpu_share"]
        self._reach(event["at_s"])

    def _on_plan(self, event: Mapping[str, Any]) -> None:
        if event["installed"]:
            self.plans[event["device"]] = dict(event)
            if event["reason"] != "first":
                self.changes += 1
                why = "weights have arrived" if event["reason"] == "weights" else "conditions have changed"
                self._say(event["at_s"], f"new plan for {event['device']}: {why}, {event['touched']} vertices decided anew")
        self._reach(event["at_s"])

    def _on_progress(self, event: Mapping[str, Any]) -> None:
        self.done, self.flying = event["done"], event["flying"]
        self.last = dict(event)
        self._reach(event["at_s"])
        for host, begun, ended, _ in event["work"]:
            self.hosts[host].busy.append((begun, ended))
            self.hosts[host].busy_s += ended - begun
        for name, host_now in self.hosts.items():
            waits = [queued for host, _, _, queued in event["work"] if host == name]
            host_now.queued_s = sum(waits) if waits else host_now.queued_s
            _forget(host_now.busy, self.at_s)
        for link, direction, begun, ended, framed in event["sent"]:
            known = self.links[link, direction]
            known.sent.append((begun, ended, framed))
            known.framed_bytes += framed
            _forget(known.sent, self.at_s)
        if not event["warmup"]:
            self.latencies.append(event["latency_s"])
        if event["error"]:
            self.failed += not event["warmup"]
            ended = "was shed" if event["error"] in REFUSED else "failed"
            self._say(event["at_s"], f"request {event['request']} of {event['device']} {ended}: {event['error']}")

    def _on_upload(self, event: Mapping[str, Any]) -> None:
        self._say(event["end_s"], "a part of the model has arrived at a server")

    def _on_warning(self, event: Mapping[str, Any]) -> None:
        self.news.append(f"warning: {event['text']}")

    def _on_session_end(self, _event: Mapping[str, Any]) -> None:
        self.phase = "session over"

    def _reach(self, at_s: float) -> None:
        self.at_s = max(self.at_s, at_s)

    def _say(self, at_s: float, text: str) -> None:
        self.news.append(f"{at_s:8.1f} s  {text}")


def _overlap(begun: float, ended: float, start: float, end: float) -> float:
    """Share of a span that lies in a window."""
    if ended <= begun:
        return 1.0 if start <= begun <= end else 0.0
    return max(0.0, min(ended, end) - max(begun, start)) / (ended - begun)


def _forget(spans: deque[Any], now: float) -> None:
    while spans and spans[0][1] < now - KEPT_S:
        spans.popleft()
