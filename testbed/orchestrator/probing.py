"""Active probes: one after the other on every path that matters, each of them a sample of the path's rate.

What is made of a sample is the observer's business; whether a path leads anywhere at all, the reachability's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from testbed.costs.network import MESSAGE_HEADER_BYTES
from testbed.errors import AgentError
from testbed.orchestrator.account import Ledger
from testbed.orchestrator.observe import Observer
from testbed.orchestrator.replay import sleep_until
from testbed.orchestrator.stage import Stage
from testbed.orchestrator.world import Pair


class Probing:
    """The probes of one session. `names` are the session's, for its events."""

    def __init__(self, stage: Stage, names: dict[str, str], ledger: Ledger, observer: Observer) -> None:
        self._stage = stage
        self._names = names
        self._ledger = ledger
        self.observer = observer
        self._loop = asyncio.get_running_loop()
        self._start = 0.0
        self._under_way: set[asyncio.Task[None]] = set()

    def run(self, start: float) -> list[Coroutine[Any, Any, None]]:
        """Coroutines that probe one path each until they are cancelled; `start` is the loop time of scenario second 0."""
        self._start = start
        interval = self._stage.world.scenario.planning.probe_interval
        if interval is None:
            return []
        paths: dict[Pair, None] = {}
        for site in self._stage.world.sites.values():
            paths[site.device, site.leader] = None
            paths[site.leader, site.cloud] = None
            if site.route == "direct":
                paths[site.device, site.cloud] = None
        return [self._probe(source, target, interval) for source, target in paths]

    async def last(self) -> None:
        """Wait for the probes that are under way, so that counters and accounts speak of the same bytes."""
        if self._under_way:
            await asyncio.gather(*self._under_way, return_exceptions=True)

    def close(self) -> None:
        """No answer is waited for any more."""
        for task in self._under_way:
            task.cancel()

    async def _probe(self, source: str, target: str, interval: float) -> None:
        """Probe one path again and again. A probe under way outlives the cancellation of this (see `last`)."""
        while True:
            begun = self._loop.time()
            task = asyncio.create_task(self._one(source, target, max(5.0 * interval, 1.0)))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            await asyncio.shield(task)
            await sleep_until(begun + interval)

    async def _one(self, source: str, target: str, patience: float) -> None:
        """Time one probe; one without an answer in good time tells an upper bound of the rate."""
        size = int(self._stage.world.scenario.planning.probe_size)
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
            self._stage.journal.emit("warning", text=f"probe from {source} to {target}: {error}", **self._names)
            return
        self._ledger.book_transfer(source, target, nbytes)
        used = self.observer.probe(source, target, nbytes, took, gap_s, end)
        fields = {"source": source, "target": target, "at_s": begun - self._start, "bytes": nbytes, "seconds": took, "used": used}
        self._stage.journal.emit("probe", **self._names, **fields)
