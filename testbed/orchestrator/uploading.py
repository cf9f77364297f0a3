"""Servers that start without the model: their weights are uploaded over the data plane while requests run.

What is uploaded in which order is the planner's decision (`planners.base.Uploader`), how it travels is `d3node.weights`'.
Whenever a part has arrived, the device's planner is asked for a plan that uses it. Planners without `uploads` are not touched by
any of this.

Where the scenario recovers from faults, a server that was lost is asked what it holds before it counts as back (nothing, if it
was started again), and what it lacks is uploaded again in the same order. While it is lost it holds nothing, as far as plans go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from d3node.channel import Message
from d3node.errors import NodeError
from testbed.costs.network import NetworkState
from testbed.errors import AgentError, PlannerError, RunError, TestbedError
from testbed.orchestrator.account import Ledger
from testbed.orchestrator.control import Fleet
from testbed.orchestrator.planning import DevicePlanner
from testbed.orchestrator.world import ModelFacts
from testbed.planners.base import Planner, Uploader
from testbed.scenario.faults import RecoveryTable

LONGEST_S = 7 * 86400.0
"""No upload takes longer; one whose peer is gone ends by itself."""

PATIENCE_S = 5.0
"""How long the end of a session waits for servers to take their own weights back."""


@dataclass(eq=False)
class _Job:
    """One device's uploads; `network` is what the device knew of it before the first (IONN measures it once). `doubtful`: one of
    the two hosts was lost, or an upload was cut short, so that what the server holds, and what is being sent, is not known."""

    device: str
    server: str
    planner: DevicePlanner
    parts: tuple[tuple[int, ...], ...]
    network: NetworkState
    doubtful: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def away(self) -> frozenset[int]:
        """Vertices whose weights the server does not hold."""
        return self.planner.absent[self.server]

    @away.setter
    def away(self, vertices: frozenset[int]) -> None:
        self.planner.absent = {**self.planner.absent, self.server: vertices}


class Uploading:
    """The uploads of one session. `note` is told of every part that has arrived; `cut_short` counts calls that ended without an
    account of what was sent."""

    def __init__(
        self,
        planners: Mapping[str, DevicePlanner],
        planner: Planner,
        model: ModelFacts,
        fleet: Fleet,
        ledger: Ledger,
        note: Callable[..., None],
        table: RecoveryTable,
    ) -> None:
        self._planners = planners
        self._planner = planner
        self._model = model
        self._fleet = fleet
        self._ledger = ledger
        self._note = note
        self._table = table
        self._jobs: list[_Job] = []
        self._held: list[str] = []
        self._tasks: set[asyncio.Task[Message]] = set()
        self._stops: set[asyncio.Task[None]] = set()
        self.cut_short = 0

    async def begin(self) -> None:
        """Take the weights away from the servers. Raises PlannerError where two devices would share one, AgentError."""
        if not isinstance(self._planner, Uploader):
            return
        graph = self._model.graph
        for device, planner in self._planners.items():
            problem = planner.problem()
            uploads = self._planner.uploads(problem)
            server = problem.hosts[uploads.tier]
            if any(job.server == server for job in self._jobs):
                raise PlannerError(
                    f"planner {self._planner.name!r} serves one client: {device} and {self._jobs[0].device} would upload"
                    f" to the same host {server}; set topology.devices = 1"
                )
            self._jobs.append(_Job(device, server, planner, uploads.parts, problem.network))
            everything = frozenset(range(1, len(graph)))
            planner.absent = dict.fromkeys((server, *(problem.edge_hosts if uploads.tier == "edge" else ())), everything)
            self._held.append(server)
            await self._fleet.clients[server].call("hold", {"model": self._model.name, "vertices": []})

    async def run(self) -> None:
        """Upload everything, part after part. May be cancelled: `settle` then ends what is under way."""
        await asyncio.gather(*((self._keep_at if self._fleet.recovery else self._upload)(job) for job in self._jobs))

    def lost(self, host: str) -> None:
        """A host is lost; a server holds nothing until it is back."""
        for job in self._jobs:
            if host in (job.server, job.device):
                job.doubtful = True
                job.news.set()
            if host == job.server:
                job.away = frozenset(range(1, len(self._model.graph)))
                task = asyncio.create_task(self._abandon(job))  # whatever is being sent to it, or waits there for an answer
                self._stops.add(task)
                task.add_done_callback(self._stops.discard)

    async def welcome(self, host: str) -> None:
        """A host is back, or hears from another orchestrator: ask it what it holds. Raises AgentError."""
        for job in self._jobs:
            if host in (job.server, job.device):
                job.doubtful = True
                job.news.set()
            if host == job.server:
                await self._take_stock(job)

    async def settle(self) -> None:
        """End the uploads under way behind the piece that is being sent, so that what links counted is accounted for."""
        await asyncio.gather(*self._stops)
        if not self._tasks:
            return
        for job in self._jobs:
            if job.doubtful:
                await self._abandon(job)
            else:
                await self._fleet.clients[job.device].call("stop")
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def restore(self) -> None:
        """Give the servers their own weights back; whoever is gone is left alone."""
        self._jobs.clear()
        for task in self._stops:
            task.cancel()
        for server in self._held:
            with suppress(TestbedError, NodeError, TimeoutError):
                await self._fleet.clients[server].call("hold", {"model": self._model.name, "vertices": None}, PATIENCE_S)

    async def _keep_at(self, job: _Job) -> None:
        """Upload for one device, again after each loss."""
        while True:
            job.news.clear()
            try:
                if job.doubtful:
                    await self._begin_again(job)
                await self._upload(job)
            except AgentError:
                job.doubtful = True
                await asyncio.sleep(self._table.heartbeat)
            else:
                await job.news.wait()

    async def _begin_again(self, job: _Job) -> None:
        """Wait until both hosts are there and the device is sending nothing, and plan with what the server holds."""
        while not self._fleet.present.is_set() or {job.device, job.server} & self._fleet.dead.keys():
            await asyncio.sleep(self._table.heartbeat)
        job.doubtful = False
        await self._fleet.clients[job.device].call("stop", {"peer": job.server}, self._table.detect)
        await self._take_stock(job)
        await job.planner.again("weights", job.network)

    async def _abandon(self, job: _Job) -> None:
        """Have the device end its uploads to the server at once, if it can hear that."""
        with suppress(AgentError):
            await self._fleet.clients[job.device].call("stop", {"peer": job.server}, self._table.detect)

    async def _take_stock(self, job: _Job) -> None:
        """Ask the server what it holds: what it kept, or nothing, as if it had started without the model. Raises AgentError."""
        fields = {"model": self._model.name, "vertices": [], "keep": True}
        reply = await self._fleet.clients[job.server].call("hold", fields, self._table.detect)
        here = self._weighty(reply.fields["vertices"])
        whole = [set(part) for part in job.parts if here.intersection(part) == self._weighty(part)]
        job.away = frozenset(range(1, len(self._model.graph))).difference(here, *(whole if here else ()))

    def _weighty(self, vertices: Iterable[int]) -> set[int]:
        return {v for v in vertices if self._model.graph[v].parameters}

    async def _upload(self, job: _Job) -> None:
        for number, part in enumerate(job.parts):
            if not (lacking := [v for v in part if v in job.away]):
                continue
            fields = {"peer": job.server, "model": self._model.name, "vertices": lacking}
            task = asyncio.create_task(self._fleet.clients[job.device].call("upload", fields, LONGEST_S))
            self._tasks.add(task)
            task.add_done_callback(lambda done, job=job, number=number: self._arrived(job, number, done))  # type: ignore[misc]
            reply = await asyncio.shield(task)
            if job.doubtful:
                raise AgentError(f"{job.server} or {job.device} was lost during an upload")
            if missing := self._weighty(lacking) - set(reply.fields["vertices"]):
                raise RunError(f"{job.server} did not take the weights of the vertices {sorted(missing)} of {self._model.name!r}")
            job.away -= set(part)
            await job.planner.again("weights", job.network)

    def _arrived(self, job: _Job, number: int, task: asyncio.Task[Message]) -> None:
        """Book what a call says, also of one that was stopped."""
        self._tasks.discard(task)
        if task.cancelled() or isinstance(task.exception(), AgentError):
            self.cut_short += 1
            return
        fields: dict[str, Any] = task.result().fields
        total = self._ledger.book_weights(job.device, job.server, fields["sizes"])
        self._ledger.book_transfer(job.server, job.device, fields["reply_bytes"])
        self._note(
            device=job.device,
            server=job.server,
            part=number,
            parts=len(job.parts),
            vertices=list(fields["vertices"]),
            bytes=total,
            start=fields["start"],
            end=fields["end"],
        )
