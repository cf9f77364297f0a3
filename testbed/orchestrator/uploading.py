"""Servers that start without the model: their weights are uploaded over the data plane while requests run.

What is uploaded in which order is the planner's decision (`planners.base.Uploader`), how it travels is `d3node.weights`'.
Whenever a part has arrived, the device's planner is asked for a plan that uses it. Planners without `uploads` are not touched by
any of this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
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

LONGEST_S = 7 * 86400.0
"""No upload takes longer; one whose peer is gone ends by itself."""

PATIENCE_S = 5.0
"""How long the end of a session waits for servers to take their own weights back."""


@dataclass
class _Job:
    """One device's uploads; `network` is what the device knew of it before the first (IONN measures it once)."""

    device: str
    server: str
    planner: DevicePlanner
    parts: tuple[tuple[int, ...], ...]
    network: NetworkState


class Uploading:
    """The uploads of one session. `note` is told of every part that has arrived."""

    def __init__(
        self,
        planners: Mapping[str, DevicePlanner],
        planner: Planner,
        model: ModelFacts,
        fleet: Fleet,
        ledger: Ledger,
        note: Callable[..., None],
    ) -> None:
        self._planners = planners
        self._planner = planner
        self._model = model
        self._fleet = fleet
        self._ledger = ledger
        self._note = note
        self._jobs: list[_Job] = []
        self._held: list[str] = []
        self._tasks: set[asyncio.Task[Message]] = set()

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
            planner.absent = {server: frozenset(range(1, len(graph)))}
            self._held.append(server)
            await self._fleet.clients[server].call("hold", {"model": self._model.name, "vertices": []})

    async def run(self) -> None:
        """Upload everything, part after part. May be cancelled: `settle` then ends what is under way."""
        await asyncio.gather(*(self._try(job) for job in self._jobs))

    async def settle(self) -> None:
        """End the uploads under way behind the piece that is being sent, so that what links counted is accounted for."""
        if not self._tasks:
            return
        for job in self._jobs:
            await self._fleet.clients[job.device].call("stop")
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def restore(self) -> None:
        """Give the servers their own weights back; whoever is gone is left alone."""
        for server in self._held:
            with suppress(TestbedError, NodeError, TimeoutError):
                await self._fleet.clients[server].call("hold", {"model": self._model.name, "vertices": None}, PATIENCE_S)

    async def _try(self, job: _Job) -> None:
        """Upload for one device; where it or its server is lost, what has not arrived stays away."""
        try:
            await self._upload(job)
        except AgentError:
            if not self._fleet.recovery:
                raise

    async def _upload(self, job: _Job) -> None:
        for number, part in enumerate(job.parts):
            fields = {"peer": job.server, "model": self._model.name, "vertices": list(part)}
            task = asyncio.create_task(self._fleet.clients[job.device].call("upload", fields, LONGEST_S))
            self._tasks.add(task)
            task.add_done_callback(lambda done, job=job, number=number: self._arrived(job, number, done))  # type: ignore[misc]
            reply = await asyncio.shield(task)
            weighty = {v for v in part if self._model.graph[v].parameters}
            if lacking := weighty - set(reply.fields["vertices"]):
                raise RunError(f"{job.server} did not take the weights of the vertices {sorted(lacking)} of {self._model.name!r}")
            away = job.planner.absent[job.server] - set(part)
            job.planner.absent = {job.server: away}
            await job.planner.again("weights", job.network)

    def _arrived(self, job: _Job, number: int, task: asyncio.Task[Message]) -> None:
        """Book what a call says, also of one that was stopped."""
        self._tasks.discard(task)
        if task.cancelled() or isinstance(task.exception(), AgentError):
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
