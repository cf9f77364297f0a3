"""Active probes: one after the other on every path that matters, each of them a sample of the path's rate.

What is made of a sample is the observer's business. With recovery, smaller ones go over all paths that might be used, too, and an
answer that does not come is `reach.py`'s business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from testbed.costs.network import MESSAGE_HEADER_BYTES
from testbed.errors import AgentError
from testbed.orchestrator.account import Ledger
from testbed.orchestrator.observe import Observer
from testbed.orchestrator.reach import Reach
from testbed.orchestrator.replay import sleep_until
from testbed.orchestrator.stage import Stage
from testbed.orchestrator.world import Pair

SMALL_BYTES = 64
"""What a probe carries that only asks whether the path is there."""


class Probing:
    """The probes of one session. `names` are the session's, for its events; `healed` is told of broken paths that answer."""

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
            task = asyncio.create_task(self._one(source, target, size, max(5.0 * interval, 1.0)))
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
        except AgentError as error:
            if self._reach is None:
                self._stage.journal.emit("warning", text=f"probe from {source} to {target}: {error}", **self._names)
            return
        self._ledger.book_transfer(source, target, nbytes)
        if self._reach is not None:
            broken = (source, target) in self._reach.broken  # how long that was says nothing of the rate
            if end is not None and self._reach.answered((source, target)):
                self._healed((source, target))
            if broken or size <= SMALL_BYTES:
                return
        used = self.observer.probe(source, target, nbytes, took, gap_s, end)
        fields = {"source": source, "target": target, "at_s": begun - self._start, "bytes": nbytes, "seconds": took, "used": used}
        self._stage.journal.emit("probe", **self._names, **fields)
