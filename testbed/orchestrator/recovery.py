"""What is done about lost hosts, in one session: plans without them, and requests in flight that go on without them.

Who is lost is `liveness.py`'s and `reach.py`'s business, the plan that a request goes on with `resume.py`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Protocol

from d3node.channel import Message
from d3node.errors import PlanError
from d3node.plan import TIERS, Tier
from testbed.costs.network import MESSAGE_HEADER_BYTES, frame_bytes
from testbed.errors import AgentError
from testbed.orchestrator import joint
from testbed.orchestrator.beside import together
from testbed.orchestrator.epochs import Epoch
from testbed.orchestrator.faults import Faults
from testbed.orchestrator.liveness import Liveness
from testbed.orchestrator.observe import Observer
from testbed.orchestrator.planning import DevicePlanner
from testbed.orchestrator.reach import Reach
from testbed.orchestrator.replay import sleep_until
from testbed.orchestrator.resume import resumable, resumed
from testbed.orchestrator.stage import Stage
from testbed.orchestrator.tracker import Request, Tracker
from testbed.orchestrator.world import ModelFacts, Pair
from testbed.planners.base import JointPlanner

RESTORE_S = 30.0
"""How long a session that is over waits for the hosts that its faults have taken away."""

PATIENCE = 2.0
"""A probe behind tensors may take so many times as long as these should, before the path counts as broken."""


class Told(Protocol):
    """What recovery needs of its session."""

    model: ModelFacts
    tracker: Tracker
    observer: Observer
    planners: dict[str, DevicePlanner]
    joint: JointPlanner | None
    faults: Faults


class Recovery:
    """Keeps a session going. `names` are the session's, for its events; `start` is the loop time of scenario second 0."""

    def __init__(self, stage: Stage, names: dict[str, str], session: Told) -> None:
        self._stage = stage
        self._names = names
        self._session = session
        self._loop = asyncio.get_running_loop()
        table = stage.world.scenario.recovery
        self._table = table
        self._resumes = stage.world.scenario.recovers == "resume"
        self.start = self._loop.time()
        self.reach = Reach(stage.fleet.dead)
        hosts = [host.name for host in stage.world.layout.hosts]
        self._liveness = Liveness(stage.fleet, hosts, table.heartbeat, table.detect, self._back)
        self._news = asyncio.Event()
        self._planned = asyncio.Event()
        self._late: set[asyncio.Task[None]] = set()

    # -- what comes in ----------------------------------------------------------------------------------------------------

    def lost(self, host: str) -> None:
        """An agent is gone."""
        self.reach.forget(host)
        self._session.tracker.host_missed(host, self._loop.time())
        self._session.faults.noticed(host, unreachable=False)
        for planner in self._session.planners.values():
            planner.void(host, self._stage.fleet.dead[host])
        self._emit("host_lost", host=host, text=self._stage.fleet.dead[host])
        self._news.set()

    def _back(self, host: str) -> None:
        self._emit("host_back", host=host)
        self._news.set()

    def healed(self, pair: Pair) -> None:
        """A broken path has answered."""
        self._emit("path_back", source=pair[0], target=pair[1])
        self._news.set()

    def stranded(self, message: Message) -> None:
        """A host cannot go on with a request. Where nobody else knows of the loss, it may be known in a moment."""
        fields = message.fields
        self.reach.cut_off(fields["host"], fields["lost"])
        for request in self._session.tracker.flying:
            if request.wire_id == fields["request"] and request.epoch.number == fields["epoch"] and request.lost_at is None:
                request.lost_at = self._loop.time()
                self._session.faults.noticed(str(fields["lost"]), unreachable=False)
                self._emit("stranded", host=fields["host"], lost=fields["lost"], device=request.device, request=request.number)
                self._loop.call_later(0.0 if fields["lost"] in self.reach.dead else self._table.heartbeat, self._news.set)

    def over(self, request: Request) -> None:
        """A request has ended: hosts are told with the next heartbeat, and keep nothing of it."""
        self.ended((request.wire_id,))

    def ended(self, numbers: Iterable[int]) -> None:
        """The same, of requests by their numbers on the wire."""
        for told in self._liveness.over.values():
            told.extend(numbers)

    # -- at work ----------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Watch, plan and resume until cancelled."""
        await together(self._liveness.run(), self._watch_paths(), self._act())

    async def restore(self) -> None:
        """The faults are undone: have every host back, for those who come next. Raises AgentError."""
        for task in self._late:
            task.cancel()
        if not self._stage.fleet.present.is_set():
            await self._stage.fleet.come_back()
        await self._liveness.whole(RESTORE_S)

    def usable(self, device: str) -> bool:
        """Whether a device's plan can be carried out, as far as is known."""
        return device not in self.reach.dead and self._session.planners[device].blocked is None

    def hold_back(self, request: Request) -> None:
        """There is no plan for a request: it gets one detection period, and ends with an error if there is none then."""

        async def later() -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._table.detect):
                    while not self.usable(request.device):
                        await self._planned.wait()
            planner = self._session.planners[request.device]
            if self.usable(request.device):
                await self._session.tracker.start(request, planner.epoch)
            elif request.device in self.reach.dead:
                self._session.tracker.end(request, "AgentError", self.reach.dead[request.device], self._loop.time())
            else:
                text = planner.blocked or "there is no plan"
                self._session.tracker.end(request, "HostUnreachable", text, self._loop.time())

        task = asyncio.create_task(later())
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    def started(self, request: Request) -> None:
        """A request has been submitted: with a plan, perhaps, that lost a host at that moment."""
        if any(host in self.reach.dead for host in request.epoch.hosts):
            request.lost_at = self._loop.time()
            self._news.set()

    async def _watch_paths(self) -> None:
        while True:
            begun = self._loop.time()
            for source, target in self.reach.overdue(begun, self._patience_s) if self._stage.fleet.present.is_set() else []:
                self._emit("path_lost", source=source, target=target)
                for host in (target, source):
                    self._session.faults.noticed(host, unreachable=True)
                self._news.set()
            await sleep_until(begun + self._table.heartbeat)

    def _patience_s(self, pair: Pair) -> float:
        """How long a probe may take: `detect`, or longer where probes take long, and the tensors of requests in flight before it,
        on what is known of the rate."""
        detect_s = max(self._table.detect, PATIENCE * self.reach.probe_s(pair))
        nbytes = 0.0
        graph = self._session.model.graph
        for request in self._session.tracker.flying:
            for program in request.epoch.programs.values():
                if program.host == pair[0]:
                    nbytes += sum(graph[send.vertex].output_bytes for send in program.sends if send.host == pair[1])
        if not nbytes:
            return detect_s
        rate_bps = max(self._session.observer.rate_bps(*pair), 1e3)
        return detect_s + PATIENCE * frame_bytes(nbytes + MESSAGE_HEADER_BYTES) * 8.0 / rate_bps

    async def _act(self) -> None:
        while True:
            await self._news.wait()
            await self._stage.fleet.present.wait()
            self._news.clear()
            await self._replan()
            waiting = [request for request in self._session.tracker.flying if self._is_lost(request)]
            await asyncio.gather(*(self._go_on(request) for request in waiting))

    async def _replan(self) -> None:
        sites = self._stage.world.sites
        planners = self._session.planners
        concerned = [d for d, planner in planners.items() if planner.sees(self.reach.view(sites[d])) and d not in self.reach.dead]
        if not concerned:
            return
        if self._session.joint is not None:
            await joint.again(planners, self._session.joint, "hosts")
        else:
            for device in concerned:
                await planners[device].again("hosts")
        if all(self.usable(device) for device in planners if device not in self.reach.dead):
            self._session.faults.replanned()
        self._planned.set()  # whoever waits looks again
        self._planned.clear()

    def _is_lost(self, request: Request) -> bool:
        planner = self._session.planners[request.device]
        missing = planner.view.missing
        return request.lost_at is not None or any(host in missing for host in request.epoch.hosts)

    # -- requests in flight -------------------------------------------------------------------------------------------------

    async def _go_on(self, request: Request) -> None:
        """Let one request go on under another epoch, or leave it waiting for a plan, until its deadline."""
        planner, tracker = self._session.planners[request.device], self._session.tracker
        if request.lost_at is None:
            request.lost_at = self._loop.time()
        if not self.usable(request.device) or request.timer is None:
            return
        if request.recoveries >= self._table.attempts:
            text = f"it lost a host {request.recoveries + 1} times; recovery.attempts = {self._table.attempts}"
            tracker.give_up(request, "RecoveryFailed", text)
            return
        was, target = request.epoch, planner.epoch
        try:
            epoch = await self._epoch_for(request, was, target, planner)
        except (AgentError, PlanError) as error:
            self._emit("warning", text=f"request {request.number} of {request.device} waits: {error}")
            return
        self._stage.epochs.enter(epoch)  # until it is the request's, it must not be retired
        try:
            if epoch is not target:
                self._stage.epochs.supersede(epoch)
            await self._move(request, was, epoch, target)
        finally:
            self._stage.epochs.leave(epoch)

    async def _epoch_for(self, request: Request, was: Epoch, target: Epoch, planner: DevicePlanner) -> Epoch:
        """An epoch to go on with: the device's own where nothing is saved by another."""
        graph, plan = self._session.model.graph, target.plan
        if self._resumes and resumable(plan) and resumable(was.plan):
            found = resumed(graph, plan, await self._held(request, was, target))
            plan = found if planner.has_weights(found) else plan
        if plan is target.plan and target is not was:
            return target
        return await self._stage.epochs.install(graph, plan, self._session.model.true_costs, planner.view.site.route)

    async def _held(self, request: Request, was: Epoch, target: Epoch) -> dict[Tier, frozenset[int]]:
        """What the leading hosts of the plan to come have of a request."""

        async def of(host: str) -> frozenset[int]:
            if host in self.reach.dead:
                return frozenset()
            fields = {"request": request.wire_id, "epoch": was.number}
            try:
                reply = await self._stage.fleet.clients[host].call("held", fields, self._table.detect)
            except AgentError:
                return frozenset()
            return frozenset(int(v) for v in reply.fields["vertices"])

        missing = self._session.planners[request.device].view.missing
        tiers = [tier for tier in TIERS if target.plan.hosts[tier] not in missing]
        found = await asyncio.gather(*(of(target.plan.hosts[tier]) for tier in tiers))
        return dict(zip(tiers, found, strict=True))

    async def _move(self, request: Request, was: Epoch, epoch: Epoch, target: Epoch) -> None:
        tracker, clients = self._session.tracker, self._stage.fleet.clients
        now = self._loop.time()
        left_s = tracker.left_s(request)
        if request.ended.is_set() or left_s <= 0.0:
            return
        fields: dict[str, Any] = {"request": request.wire_id, "was": was.number, "epoch": epoch.number, "input": request.input}
        fields["deadline_s"] = left_s
        by_host = {program.host: list(program.provides) for program in epoch.programs.values()}
        lost_at = now if request.lost_at is None else request.lost_at
        self._stage.trail.moving(request, epoch, target, now - lost_at)
        try:
            await clients[request.device].call(
                "resume", {**fields, "provide": by_host.get(request.device, [])}, self._table.detect
            )
        except AgentError as error:  # it has ended meanwhile, or the device is lost: its end is on its way
            self._emit("warning", text=f"request {request.number} of {request.device} does not go on: {error}")
            return
        if request.ended.is_set():
            return
        tracker.moved(request, epoch, target, self._loop.time())
        others = dict.fromkeys(self._concerned(was, epoch))
        others.pop(request.device, None)
        told = await asyncio.gather(
            *(clients[host].call("resume", {**fields, "provide": by_host.get(host, [])}, self._table.detect) for host in others),
            return_exceptions=True,
        )
        submit = {"request": request.wire_id, "epoch": epoch.number, "input": request.input, "deadline_s": left_s}
        for other in epoch.contributors:
            await clients[other].send("submit", submit)
        failed = [
            host for host, reply in zip(others, told, strict=True) if isinstance(reply, BaseException) and by_host.get(host)
        ]
        self._session.faults.resumed()
        self._emit(
            "resumed",
            device=request.device,
            request=request.number,
            epoch=epoch.number,
            was=was.number,
            done=len(epoch.plan.done),
            after_s=self._loop.time() - lost_at,
        )
        if failed:  # what they held is gone: once more, with what is left
            request.lost_at = self._loop.time()
            self._news.set()

    def _concerned(self, was: Epoch, epoch: Epoch) -> list[str]:
        """Living hosts that lead under the new epoch, or had a part in the old one."""
        hosts = [*(program.host for program in epoch.programs.values()), *was.hosts]
        return [host for host in dict.fromkeys(hosts) if host not in self.reach.dead]

    def _emit(self, event: str, **fields: Any) -> None:
        self._stage.journal.emit(event, **self._names, at_s=self._loop.time() - self.start, **fields)
