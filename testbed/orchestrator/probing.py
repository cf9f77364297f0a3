"""Active probes: one after the other on every path that matters, each of them a sample of the path's rate.

What is made of a sample is the observer's business. With recovery, smaller ones go over all paths that might be used, too, and an
answer that does not come is `reach.py`'s business.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from testbed.costs.network import MESSAGE_HEADER_BYTES, frame_bytes
from testbed.errors import AgentError
from testbed.orchestrator.account import Ledger
from testbed.orchestrator.observe import Observer
from testbed.orchestrator.reach import Reach
from testbed.orchestrator.replay import sleep_until
from testbed.orchestrator.stage import Stage
from testbed.orchestrator.truth import LinkKey
from testbed.orchestrator.world import Pair
from testbed.scenario.links import ResolvedLink
from topologies.layout import Layout

SMALL_BYTES = 64
"""What a probe carries that only asks whether the path is there."""


def takes_s(paths: Mapping[Pair, int], layout: Layout, links: Mapping[str, ResolvedLink]) -> dict[Pair, float]:
    """Seconds that a probe of each path may take there and back, with links as the scenario has them at second 0: on every one
    behind a probe of each path that crosses it."""
    ways = {pair: [(link.name, direction) for link, direction in layout.path(*pair)] for pair in paths}
    ahead: Counter[LinkKey] = Counter()
    for pair, size in paths.items():
        for key in ways[pair]:
            ahead[key] += int(frame_bytes(size + MESSAGE_HEADER_BYTES))

    def crossed_s(key: LinkKey) -> float:
        link = links[key[0]]
        rate_bps = (link.up if key[1] == "up" else link.down).rate_bps
        return link.up.delay_s + link.down.delay_s + (8.0 * ahead[key] / rate_bps if rate_bps > 0.0 else 0.0)

    return {pair: sum(crossed_s(key) for key in way) for pair, way in ways.items()}


class Probing:
    """The probes of one session. `names` are the session's, for its events; `healed` is told of broken paths that answer.
    `unanswered`: how many had no answer in good time."""

    def __init__(
        self,
        stage: Stage,
        names: dict[str, str],
        ledger: Ledger,
        observer: Observer,
        reach: Reach | None = None,
        healed: Callable[[Pair], None] = lambda _pair: None,
    ) -> None:
        self._stage = stage
        self._names = names
        self._ledger = ledger
        self.observer = observer
        self._reach = reach
        self._healed = healed
        self._loop = asyncio.get_running_loop()
        self._start = 0.0
        self._under_way: set[asyncio.Task[None]] = set()
        self.unanswered = 0

    def run(self, start: float) -> list[Coroutine[Any, Any, None]]:
        """Coroutines that probe one path each until they are cancelled; `start` is the loop time of scenario second 0."""
        self._start = start
        interval = self._stage.world.scenario.planning.probe_interval
        if interval is None:
            return []
        size = int(self._stage.world.scenario.planning.probe_size)
        paths: dict[Pair, int] = {}
        for site in self._stage.world.sites.values():
            paths[site.device, site.leader] = size
            paths[site.leader, site.cloud] = size
            if site.route == "direct":
                paths[site.device, site.cloud] = size
        if self._reach is not None:
            for site in self._stage.world.sites.values():
                for host in site.edge_hosts:
                    paths.setdefault((site.device, host), SMALL_BYTES)
                    paths.setdefault((host, site.cloud), SMALL_BYTES)
                    if host != site.leader:
                        paths.setdefault((site.leader, host), SMALL_BYTES)
                paths.setdefault((site.device, site.cloud), SMALL_BYTES)
            self._reach.takes_s.update(takes_s(paths, self._stage.world.layout, self._stage.world.links))
        return [self._probe(source, target, size, interval) for (source, target), size in paths.items()]

    async def last(self) -> None:
        """Wait for the probes that are under way, so that counters and accounts speak of the same bytes."""
        if self._under_way:
            await asyncio.gather(*self._under_way, return_exceptions=True)

    def close(self) -> None:
        """No answer is waited for any more."""
        for task in self._under_way:
            task.cancel()

    async def _probe(self, source: str, target: str, size: int, interval: float) -> None:
        """Probe one path again and again. A probe under way outlives the cancellation of this (see `last`)."""
        while True:
            if self._reach is not None:
                await self._stage.fleet.present.wait()
            begun = self._loop.time()
            if self._reach is not None:
                if source in self._reach.dead or target in self._reach.dead:
                    await sleep_until(begun + interval)
                    continue
                self._reach.asked((source, target), begun)
            patience_s = max(5.0 * interval, 1.0)
            if self._reach is not None:
                patience_s = max(patience_s, 2.0 * self._reach.probe_s((source, target)))
            task = asyncio.create_task(self._one(source, target, size, patience_s))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            await self._answered_or_broken(task, (source, target), interval)
            await sleep_until(begun + interval)

    async def _answered_or_broken(self, task: asyncio.Task[None], pair: Pair, interval: float) -> None:
        """Wait for a probe; on a broken path for one interval only, as it may be lost with its connection."""
        if self._reach is None:
            await asyncio.shield(task)
            return
        while not task.done():
            await asyncio.wait((task,), timeout=interval)
            if pair in self._reach.broken:
                return

    async def _one(self, source: str, target: str, size: int, patience: float) -> None:
        """Time one probe; one without an answer in good time tells an upper bound of the rate."""
        begun = self._loop.time()
        gap_s = end = None
        try:
            async with asyncio.timeout(patience):
                reply = await self._stage.fleet.clients[source].call("probe", {"peer": target, "size": size})
            took, nbytes = float(reply.fields["rtt_s"]), int(reply.fields["bytes"])
            gap_s, end = float(reply.fields["gap_s"]), float(reply.fields["end"])
            self._ledger.book_transfer(target, source, MESSAGE_HEADER_BYTES)
        except TimeoutError:
            took, nbytes = self._loop.time() - begun, size + MESSAGE_HEADER_BYTES
            self.unanswered += 1
        except AgentError as error:
            self.unanswered += 1
            if self._reach is None:
                self._stage.journal.emit("warning", text=f"probe from {source} to {target}: {error}", **self._names)
            return
        if end is not None or self._reach is None:  # where paths break, nobody knows what has crossed them
            self._ledger.book_transfer(source, target, nbytes)
        if self._reach is not None:
            broken = (source, target) in self._reach.broken  # how long that was says nothing of the rate
            if end is not None and self._reach.answered((source, target), took):
                self._healed((source, target))
            if broken or size <= SMALL_BYTES:
                return
        used = self.observer.probe(source, target, nbytes, took, gap_s, end)
        fields = {"source": source, "target": target, "at_s": begun - self._start, "bytes": nbytes, "seconds": took, "used": used}
        self._stage.journal.emit("probe", **self._names, **fields)
