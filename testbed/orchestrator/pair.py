"""One session of a run: one model with one planner, from its first plan to its last request, with the traces from their start.

The network and the agents are there already and stay; sessions follow one another on them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from d3node.errors import NodeError
from testbed.backends.base import Settles
from testbed.errors import AgentError, RunError, TestbedError
from testbed.orchestrator import joint, live, overload, rows, steps
from testbed.orchestrator.account import Ledger
from testbed.orchestrator.faults import Faults, Outage
from testbed.orchestrator.fidelity import PairFacts
from testbed.orchestrator.link_records import Counters, LinkRecords
from testbed.orchestrator.loads import arrivals, input_seed
from testbed.orchestrator.observe import Observer
from testbed.orchestrator.plan_cache import PlanCache
from testbed.orchestrator.planning import DevicePlanner
from testbed.orchestrator.probing import Probing
from testbed.orchestrator.recovery import Recovery
from testbed.orchestrator.replay import sleep_until
from testbed.orchestrator.stage import Stage
from testbed.orchestrator.takeover import Takeover
from testbed.orchestrator.tracker import Request, Tracker
from testbed.orchestrator.uploading import Uploading
from testbed.orchestrator.world import Site
from testbed.planners.base import JointPlanner
from testbed.scenario.demand import mean_rate

PATIENCE_S = 5.0
"""How long a session that has failed waits for its last counters."""


class PairRun:
    """Runs one (model, planner) session. `facts` are complete when `run` has returned or raised. `taken`: another orchestrator
    has begun the session, and died."""

    def __init__(self, stage: Stage, model: str, planner: str, taken: Takeover | None = None) -> None:
        self._stage = stage
        self._taken = taken
        self._scenario = stage.world.scenario
        self.model = stage.world.models[model]
        self._planner = planner
        self._planner_object = stage.world.planners[planner]
        self.joint: JointPlanner | None = self._planner_object if isinstance(self._planner_object, JointPlanner) else None
        self._names = {"model": self.model.label, "planner": planner}
        self._loop = asyncio.get_running_loop()
        self._start = self._loop.time()
        self._ledger = Ledger(stage.world.layout)
        self._trouble: asyncio.Future[None] = self._loop.create_future()
        self._trouble.add_done_callback(lambda future: future.cancelled() or future.exception())  # it may go unread
        self._caches: dict[tuple[int, int], PlanCache] = {}
        self.facts = PairFacts(self.model.label, planner)
        self._records = LinkRecords(stage, self._names, self._ledger, self.facts)
        self.faults = Faults(stage, self._names, Outage(self._leave, self._come_back))
        self.recovery = Recovery(stage, self._names, self) if stage.fleet.recovery else None

    async def run(self) -> None:
        """Run it. Raises AgentError, RunError; whatever happens, all rows of requests that were made are written."""
        stage = self._stage
        stage.facts.append(self.facts)
        await stage.replay.reset()
        if self._taken is not None and self._taken.states_written():
            stage.replay.done = []
        if isinstance(stage.session, Settles):
            await stage.session.settle()
            self._start = self._loop.time()
        before = await stage.session.counters()
        planning = self._scenario.planning
        self.observer = Observer(self.model, stage.truth, self._ledger, planning.knowledge, planning.smoothing)
        recovery = self.recovery
        told = () if recovery is None else (recovery.reach, recovery.healed)
        self._probing = Probing(stage, self._names, self._ledger, self.observer, *told)
        requests = self._scenario.requests
        self.tracker = Tracker(stage.fleet, stage.epochs, requests.deadline, self._over, requests.queue)
        self.tracker.note = stage.trail.submitting
        whole = False
        if self._taken is None:
            stage.fleet.on_push = self._push
        stage.fleet.on_lost = self._lost
        self.planners = {device: self._planner_of(site) for device, site in stage.world.sites.items()}
        table = self._scenario.recovery
        self._uploading = Uploading(
            self.planners, self._planner_object, self.model, stage.fleet, self._ledger, self._uploaded, table
        )
        stage.fleet.welcome = self._uploading.welcome
        try:
            await self._uploading.begin()
            if self._taken is None:
                await joint.first(self.planners, self.joint)
                await self._while_well(self._warm_up(), *self._recovering())
                self._start = self._loop.time()
                stage.trail.zero(self._start)
            else:
                self._start = self._taken.start()
                await self._taken.carry(self, stage, self._ledger, self._push)
            stage.journal.live("measure", **self._names)
            beside = (stage.replay.run(self._start), self._control(), self._uploading.run(), *self._probing.run(self._start))
            await self._while_well(self._measure(), *beside, self.faults.run(self._start), *self._recovering())
            await self.faults.undo()
            if recovery is not None:
                await recovery.restore()
            await self._probing.last()
            await self._uploading.settle()
            whole = True
        except asyncio.CancelledError:
            self.tracker.abandon("Interrupted", "the run was interrupted")
            raise
        except Exception:
            with suppress(TestbedError, NodeError, OSError):
                await self.faults.undo()
            await self._finish_what_flies()
            raise
        finally:
            self._probing.close()
            for planner in self.planners.values():
                planner.close()
            await self._uploading.restore()
            self._note_tracker()
            self._records.states()
            self._records.shares()
            self.faults.write()
            if not whole:
                await self._write_last_totals(before)
        await stage.epochs.settle()
        self._records.totals(before, await stage.session.counters(), self._since_start())
        stage.journal.emit("session_end", **self._names, requests=self.facts.requests, failed=self.facts.failed)

    # -- requests ---------------------------------------------------------------------------------------------------------

    async def _warm_up(self) -> None:
        async def one(device: str) -> None:
            for number in range(self._scenario.requests.warmup):
                request = await self._submit(device, number, True, self._loop.time())
                await request.ended.wait()

        await asyncio.gather(*(one(device) for device in self.planners))
        await self.tracker.drain()

    async def _measure(self) -> None:
        await asyncio.gather(*(self._drive(device) for device in self.planners))
        await self.tracker.drain()

    async def _drive(self, device: str) -> None:
        requests = self._scenario.requests
        moments = arrivals(self._scenario, device, self._stage.world.demand)
        made = set() if self._taken is None else self._taken.left.made(device)
        if moments is not None:
            for number, moment in ((number, moment) for number, moment in enumerate(moments) if number not in made):
                await sleep_until(self._start + moment)
                await self._submit(device, number, False, self._start + moment)
            return
        for end in [] if self._taken is None else self._taken.pending.get(device, ()):
            await end.wait()
        refusals = 0
        for number in (number for number in range(requests.count) if number not in made):
            request = await self._submit(device, number, False, self._loop.time())
            await request.ended.wait()
            refusals = refusals + 1 if request.error in overload.REFUSED else 0
            if refusals:
                await asyncio.sleep(overload.pause_s(refusals))
            if requests.think_time > 0.0:
                await asyncio.sleep(requests.think_time)

    async def _submit(self, device: str, number: int, warmup: bool, due_at: float) -> Request:
        if self._stage.limit.passed():
            raise RunError(f"the run was stopped at its limit of {self._stage.limit.limit_s:g} s (run.wall_limit)")
        if self._trouble.done():  # no new requests, also in a loop whose requests fail at once
            await self._trouble
        await self._stage.fleet.present.wait()
        epoch, recovery = self.planners[device].epoch, self.recovery
        seed, sent = input_seed(self._scenario, number), self._ledger.weights_bytes
        request = self.tracker.expect(number, device, epoch, seed, warmup, due_at, sent)
        if request.ended.is_set():
            pass  # shed
        elif recovery is not None and not recovery.usable(device):
            recovery.hold_back(request)
        else:
            await self.tracker.start(request, epoch)
            if recovery is not None:
                recovery.started(request)
        if not warmup:
            self.faults.submitted(number)
        return request

    def _push(self, host: str, message: Any) -> None:
        try:
            if message.kind == "stranded" and self.recovery is not None:
                self.recovery.stranded(message)
            else:
                self.tracker.push(host, message)
        except Exception as error:  # in the reader's task nobody would see it
            self._fail(error)

    def _over(self, request: Request) -> None:
        figures = self._ledger.book(request.reports, request.warmup)
        self.observer.request(request)
        if self.recovery is not None:
            self.recovery.over(request)
        name = self.model.name
        facts = self.facts
        verdict = None
        if request.error in overload.REFUSED:
            facts.shed += 1
            facts.cut_short += request.error != overload.SHED
        elif request.error:
            facts.failed += 1
        else:
            if request.fallback or request.absent or request.recoveries:
                facts.cut_short += 1
            else:
                facts.unbalanced_bytes += abs(figures.sent_bytes - figures.received_bytes)
            if request.epoch.plan.lossless:
                verdict = self._stage.verifier.check(name, request.input, request.answer, request.epoch.tiled)
            if verdict is not None:
                facts.checked += 1
                facts.wrong += not verdict.correct
                facts.max_rel_error = max(facts.max_rel_error, verdict.max_rel_error)
        told = self._stage.verifier.classify(name, request.input, request.answer)
        row = rows.inference(self.model.label, self._planner, request, self._start, figures, verdict, told, self._scenario.faulty)
        if (sink := self._stage.folder.steps) is not None:
            sink.add_lines(steps.of_request(self.model.label, self._planner, request, self._start, self._ledger))
        self._stage.folder.inferences.add_values(row)  # the request's end: nothing of it is written after that
        flying = self.tracker.submitted - self.tracker.over
        self._stage.journal.progress(self._names, lambda: live.request(request, self._start, self._ledger, flying))

    # -- control loop -----------------------------------------------------------------------------------------------------

    def _planner_of(self, site: Site) -> DevicePlanner:
        return DevicePlanner(
            site=site,
            model=self.model,
            name=self._planner,
            planner=self._planner_object,
            table=self._scenario.planning,
            observer=self.observer,
            epochs=self._stage.epochs,
            record=self._planned,
            requests_per_s=mean_rate(self._scenario, self._stage.world.demand),
            capacities=self._stage.world.capacities,
            cache=self._cache_of(site),
        )

    def _cache_of(self, site: Site) -> PlanCache | None:
        """One cache of plans for all devices whose sites are alike; None (each has its own) where hosts have limits of memory."""
        if self._stage.world.capacities:
            return None
        table = self._scenario.planning
        alike = (len(site.edge_hosts), len(site.devices))
        return self._caches.setdefault(alike, PlanCache(table.plan_cache, table.band))

    def _planned(self, record: dict[str, Any]) -> None:
        at_s = self._loop.time() - self._start if record["reason"] != "first" else 0.0
        self._stage.folder.plans.add({**self._names, "at_s": at_s, **record})
        kept = ("device", "epoch", "reason", "installed", "vertices", "planning_time_s", "predicted_latency_s")
        brief = {key: record[key] for key in kept} | (live.shape(record["plan"]) if record["plan"] else {})
        self._stage.journal.emit("plan", **self._names, at_s=at_s, touched=len(record["touched"]), **brief)

    def _uploaded(self, **fields: Any) -> None:
        for moment in ("start", "end"):
            fields[f"{moment}_s"] = fields.pop(moment) - self._start
        self._stage.journal.emit("upload", **self._names, **fields)

    async def _control(self) -> None:
        interval = self._scenario.planning.interval
        watched = self._scenario.planning.replan != "never"
        turn = 0
        while True:
            turn = max(turn + 1, int((self._loop.time() - self._start) / interval))
            due = self._start + turn * interval
            await sleep_until(due)
            self.facts.loop_late_s = max(self.facts.loop_late_s, self._loop.time() - due)
            self._records.states()  # a long run keeps none of them
            if self._stage.limit.passed():
                raise RunError(f"the run was stopped at its limit of {self._stage.limit.limit_s:g} s (run.wall_limit)")
            if not watched or not self._stage.fleet.present.is_set():
                continue
            if self.observer.clairvoyant:
                await joint.tick(self.planners, self.joint, None, self.observer.changed)
            elif fresh := self.observer.take_fresh():
                await joint.tick(self.planners, self.joint, fresh)

    def _since_start(self) -> float:
        return self._loop.time() - self._start

    # -- trouble ----------------------------------------------------------------------------------------------------------

    def _recovering(self) -> list[Coroutine[Any, Any, None]]:
        if self.recovery is None:
            return []
        self.recovery.start = self._start
        return [self.recovery.run()]

    async def _leave(self) -> None:
        """The orchestrator dies."""
        self._stage.fleet.leave()

    async def _come_back(self) -> None:
        """Another orchestrator takes over, which knows of requests in flight and of installed plans, and of nothing else."""
        self.observer = self._probing.observer = self.observer.anew()
        if self.recovery is not None:
            self.recovery.reach.anew()
        await self._stage.fleet.come_back()
        for planner in self.planners.values():
            planner.forget(self.observer)
        if self.joint is not None:
            await joint.again(self.planners, self.joint, "orchestrator")
            return
        for planner in self.planners.values():
            await planner.again("orchestrator")

    def _lost(self, host: str) -> None:
        if self.recovery is not None:
            self._uploading.lost(host)
            self.recovery.lost(host)
            return
        self.tracker.host_lost(host)
        self._fail(AgentError(self._stage.fleet.dead[host]))

    def _fail(self, error: Exception) -> None:
        if not self._trouble.done():
            self._trouble.set_exception(error)

    async def _while_well(self, work: Coroutine[Any, Any, None], *beside: Coroutine[Any, Any, None]) -> None:
        """Do the work, with other coroutines beside it that are cancelled when it is done; the first failure ends it all."""
        main = asyncio.create_task(work)
        others = [asyncio.create_task(coroutine) for coroutine in beside]
        waiting: set[asyncio.Future[None]] = {main, *others, self._trouble}
        try:
            while not main.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for future in done:
                    future.result()
            main.result()
        finally:
            for task in (main, *others):
                task.cancel()
            for task in (main, *others):
                with suppress(asyncio.CancelledError, Exception):
                    await task

    async def _finish_what_flies(self) -> None:
        """After a failure: let the requests that can still end do so, within their deadlines."""
        try:
            await self.tracker.drain()
        except asyncio.CancelledError:
            self.tracker.abandon("Interrupted", "the run was interrupted")
            raise

    # -- records ----------------------------------------------------------------------------------------------------------

    def _note_tracker(self) -> None:
        facts, tracker = self.facts, self.tracker
        self._ledger.book(tracker.late_reports)
        facts.requests, facts.over = tracker.submitted, tracker.over
        facts.cut_short += self._probing.unanswered if self.recovery is not None else 0
        facts.stray_ends, facts.missing_reports = tracker.stray, tracker.unreported
        facts.cut_short += self._uploading.cut_short
        facts.compute_s, facts.overrun_s = self._ledger.compute_s, self._ledger.overrun_s

    async def _write_last_totals(self, before: Counters) -> None:
        """Totals of a session that failed or was interrupted, where the backend can still tell. Nothing is judged by them: what
        was on its way is counted and never reported."""
        with suppress(TestbedError, NodeError, OSError, TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                after = await self._stage.session.counters()
            self._records.totals(before, after, self._since_start(), judged=False)
