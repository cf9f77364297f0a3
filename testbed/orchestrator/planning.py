"""Planning for one device: the first plan, and a new one whenever the trigger says that conditions have changed.

Planners are pure functions; this file asks them, keeps the stopwatch, and has a changed plan installed as a new epoch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from d3node.errors import PlanError
from d3node.plan import Plan
from testbed.costs.network import NetworkState
from testbed.errors import AgentError, PlannerError, RunError, TestbedError
from testbed.orchestrator.epochs import Epoch, Epochs
from testbed.orchestrator.observe import Observer
from testbed.orchestrator.plan_cache import PlanCache
from testbed.orchestrator.reach import View
from testbed.orchestrator.trigger import Cusum, Key, Trigger
from testbed.orchestrator.walltime import timed
from testbed.orchestrator.world import ModelFacts, Pair, Site
from testbed.planners.base import Change, Decision, JointPlanner, Planner, Problem
from testbed.planners.evaluate import critical_path
from testbed.planners.memory import check_capacities
from testbed.planners.objective import objective_s
from testbed.scenario.schema import PlanningTable

Record = Callable[[dict[str, Any]], None]


class DevicePlanner:
    """Keeps one device's plan fit for the conditions. `epoch` is the one that new requests use; `absent` is what its planner is
    told of weights that hosts do not hold.

    With recovery it plans for a `view` of its site, without hosts that are missing. `blocked` says why there is no plan that can
    do without them; then `epoch` is the last one that was of use.
    """

    def __init__(
        self,
        site: Site,
        model: ModelFacts,
        name: str,
        planner: Planner,
        table: PlanningTable,
        observer: Observer,
        epochs: Epochs,
        record: Record,
        requests_per_s: float | None = None,
        capacities: Mapping[str, float] | None = None,
        cache: PlanCache | None = None,
    ) -> None:
        self._site = site
        self._model = model
        self._name = name
        self._planner = planner
        self._joint = isinstance(planner, JointPlanner)
        self._table = table
        self._observer = observer
        self._epochs = epochs
        self._record = record
        self._requests_per_s = requests_per_s
        self._trigger = (Cusum if table.detector == "cusum" else Trigger)(table.band, table.samples)
        self._cache = PlanCache(table.plan_cache, table.band) if cache is None else cache
        self._capacities = capacities or {}
        self._epoch: Epoch | None = None
        self._deciding = asyncio.Lock()
        self._recovery = epochs.fleet.recovery
        self.view = View(site)
        self.blocked: str | None = None
        self.absent: Mapping[str, frozenset[int]] = {}

    @property
    def epoch(self) -> Epoch:
        """The installed plan for new requests."""
        assert self._epoch is not None, "first() has not been awaited"
        return self._epoch

    async def first(self) -> None:
        """Make and install the first plan."""
        await self._decide(None)

    async def again(self, reason: str, network: NetworkState | None = None) -> None:
        """Make a plan from scratch, in the network as known or given, for another reason than a change of conditions."""
        await self._decide(None, reason, network)

    def has_weights(self, plan: Plan) -> bool:
        """Whether its hosts have the weights of all that they compute."""
        done = set(plan.done)
        return not any(v not in done and v in self.absent.get(plan.hosts[tier], ()) for v, tier in enumerate(plan.tiers))

    def void(self, host: str, reason: str) -> None:
        """A host is lost, and the installed plan with it, also when it comes back."""
        if self._epoch is not None and host in self._epoch.hosts:
            self.blocked = reason

    def forget(self, observer: Observer) -> None:
        """Everything that was learned is lost, but for the installed plan."""
        self._observer = observer
        self._trigger = (Cusum if self._table.detector == "cusum" else Trigger)(self._table.band, self._table.samples)
        self._cache = PlanCache(self._table.plan_cache, self._table.band)

    def sees(self, view: View) -> bool:
        """Hosts and paths are as in this view from now on; whether that is news, and needs a new plan."""
        if view == self.view and self.blocked is None:
            return False
        self.view, self._site = view, view.site
        return True

    async def tick(self, fresh: set[Key | Pair] | None) -> None:
        """One turn of the control loop; `fresh` is what was sampled since the last (None: everything)."""
        change = self.change(fresh)
        if change is not None:
            await self._decide(change)

    def change(self, fresh: set[Key | Pair] | None) -> Change | None:
        """What has changed so much, for so long, that this device needs a new plan."""
        if self._table.replan == "never" or (fresh is not None and not fresh):
            return None
        keys = None if fresh is None else self._observer.keys(self._site, fresh)
        if keys is not None and not keys:
            return None
        return self._trigger.sample(self._observer.values(self._site), keys)

    @property
    def watching(self) -> bool:
        """True while some value is outside its band."""
        return self._trigger.watching

    def close(self) -> None:
        """No more requests: the installed plan is retired once its last one is over."""
        if self._epoch is not None:
            self._epochs.supersede(self._epoch)

    def problem(self, network: NetworkState | None = None) -> Problem:
        """What the planner is asked now, with what is known of the network (or a network as given)."""
        return Problem(
            graph=self._model.graph,
            costs=self._observer.costs(),
            network=self.view.seen(network or self._observer.network(self._site)),
            hosts=self._site.hosts,
            edge_hosts=self._site.edge_hosts,
            options=self._table.options,
            requests_per_s=self._requests_per_s,
            absent=self.absent,
            capacities=self._capacities,
            leaders=self._leaders() if self._joint else {},
            devices=self._site.devices,
            calibration=self._model.calibration,
        )

    def _leaders(self) -> dict[str, NetworkState]:
        """What is known of the network, with every edge host as the leader."""
        led = {host: self._observer.network(self._site.led_by(host)) for host in sorted(self._site.edge_hosts)}
        return {host: self.view.seen(network) for host, network in led.items()}

    async def take(self, problem: Problem, decision: Decision, seconds: float, change: Change | None, reason: str) -> None:
        """Use a decision that was made for several devices at once, in `seconds` for all of them."""
        async with self._deciding:
            await self._install(problem, decision, seconds, change, reason, "joint")
            self._trigger.reset(self._observer.values(self._site))

    async def _decide(self, change: Change | None, reason: str = "first", network: NetworkState | None = None) -> None:
        async with self._deciding:
            problem, why = self.problem(network), "change" if change is not None else reason
            try:
                await self._adopt(problem, change, why)
            except TestbedError as error:
                if self._epoch is None or not self._recovery:
                    raise
                if self.view.narrowed:
                    self.blocked = f"there is no plan without the hosts that are missing: {error}"
                    return
                if not isinstance(error, PlannerError):
                    raise
                plan = self._epoch.plan  # a planner's limits cannot be kept for now: no reason to end the run
                kept = Decision(plan, objective_s(problem, plan), frozenset())
                await self._install(problem, kept, 0.0, change, why, "kept")

    async def _adopt(self, problem: Problem, change: Change | None, reason: str) -> None:
        values = self._observer.values(self._site)
        usual = (
            not problem.absent and not self.view.narrowed
        )  # weights that are coming in, hosts that are missing: no plan to keep
        cache = self._cache if usual else PlanCache(0, self._table.band)
        places = self._site.places
        known, seconds = timed(lambda: cache.find(values, places))
        if known is None:
            decision, seconds = await self._ask(problem, change)
            cache.keep(values, decision.plan, places)
        else:
            decision = Decision(known, objective_s(problem, known), frozenset())
        self._trigger.reset(values, change if self._table.replan == "partial" else None)
        how = "cache" if known is not None else "full" if change is None else self._table.replan
        await self._install(problem, decision, seconds, change, reason, how)

    async def _install(
        self, problem: Problem, decision: Decision, seconds: float, change: Change | None, reason: str, how: str
    ) -> None:
        """Install a decision's plan where it differs from the present one (and is worth it), and record the decision."""
        current = self._epoch
        differs = current is None or not decision.plan.same_placement(current.plan)
        bound = current is None or change is None or how == "joint"  # of a joint decision nobody keeps his old part
        before, lacking = self.blocked, self.view.lacking(self._model.graph, decision.plan)
        differs = (differs or before is not None) and lacking is None
        installed = differs and (bound or (current is not None and self._is_worth_it(problem, decision.plan, current.plan)))
        if installed:
            try:
                check_capacities(problem, decision.plan)
                route = self.view.site.route
                self._epoch = await self._epochs.install(self._model.graph, decision.plan, self._model.true_costs, route)
            except AgentError as error:
                if not self._recovery or current is None:
                    raise
                self.blocked = str(error)  # a host is lost that nobody knew of: there will be another view
                return
            except PlanError as error:
                raise RunError(f"planner {self._name!r} made an illegal plan for {self._model.name!r}: {error}") from error
            if current is not None:
                self._epochs.supersede(current)
            if (leader := self._epoch.plan.hosts["edge"]) in self._site.edge_hosts:
                self._site = self._site.led_by(leader)
        if self.blocked is before:  # or else a host was lost while the plan was installed
            self.blocked = lacking
        plan = self.epoch.plan if self.blocked is None else decision.plan
        problem = problem.led_by(plan.hosts["edge"])
        self._record(
            {
                **self._account(problem, decision, plan, change, reason, seconds),
                "replan": how,
                "installed": installed,
                "held": differs and not installed,
                "plan": self.epoch.plan.to_dict() if installed else None,
                **({"blocked": self.blocked} if self.blocked is not None else {}),
            }
        )

    def _is_worth_it(self, problem: Problem, new: Plan, current: Plan) -> bool:
        """Whether a new plan is better than the present one, both as the planner sees the world now, by the hysteresis."""
        if self._table.hysteresis == 0.0:
            return True
        new_s, current_s = (critical_path(problem.led_by(plan.hosts["edge"]), plan).latency_s for plan in (new, current))
        return new_s < (1.0 - self._table.hysteresis) * current_s

    async def _ask(self, problem: Problem, change: Change | None) -> tuple[Decision, float]:
        """Ask the planner, beside the event loop where its clock is real, so that replay and requests go on meanwhile."""
        current = self._epoch
        try:
            if change is None or current is None or self._table.replan == "full" or self.blocked is not None:
                return await _aside(lambda: timed(lambda: self._planner.plan(problem)))
            return await _aside(lambda: timed(lambda: self._planner.replan(problem, current.plan, change)))
        except (TestbedError, asyncio.CancelledError):
            raise
        except Exception as error:  # planners are anybody's code
            what = f"{type(error).__name__}: {error}"
            raise RunError(f"planner {self._name!r} failed on {self._model.name!r}: {what}") from error

    def _account(
        self, problem: Problem, decision: Decision, plan: Plan, change: Change | None, reason: str, seconds: float
    ) -> dict[str, Any]:
        predicted = critical_path(problem, plan)
        return {
            "device": self._site.device,
            "epoch": self.epoch.number,
            "reason": reason,
            "change": None if change is None else _plain(change),
            "touched": sorted(decision.touched),
            "vertices": len(problem.graph),
            "planning_time_s": seconds,
            "objective_s": decision.objective_s,
            "predicted_latency_s": predicted.latency_s,
            "predicted_backbone_bytes": predicted.backbone_bytes,
            "values": {f"{kind}:{name}": value for (kind, name), value in self._trigger.values.items()},
        }


async def _aside(call: Callable[[], tuple[Decision, float]]) -> tuple[Decision, float]:
    return await asyncio.get_running_loop().run_in_executor(None, call)


def _plain(change: Change) -> Mapping[str, Any]:
    return {"paths": sorted(change.paths), "hosts": sorted(change.hosts), "vertices": sorted(change.vertices)}
