"""A whole run: every model of a scenario with every planner, one after the other, on one started network, into one folder.

The clock and the network are the backend's; what happens in one session is in `pair.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from d3node.errors import ModelError, NodeError
from testbed.backends.base import Backend, Carrier, Exact, Invariant, LimitsCpu, ManyMachines, Outliving, Session
from testbed.errors import BackendError, RunError, TestbedError
from testbed.orchestrator import fidelity, live, provenance
from testbed.orchestrator.account import WIDE_AREA_ROLES
from testbed.orchestrator.again import Again, begin_again
from testbed.orchestrator.control import Fleet
from testbed.orchestrator.epochs import Epochs
from testbed.orchestrator.fidelity import PairFacts
from testbed.orchestrator.folder import RunFolder
from testbed.orchestrator.journal import Journal, Listener
from testbed.orchestrator.loads import input_seeds
from testbed.orchestrator.pair import PairRun
from testbed.orchestrator.repeated import repeat
from testbed.orchestrator.replay import Replay
from testbed.orchestrator.results import FORMAT, Recorder
from testbed.orchestrator.stage import Stage
from testbed.orchestrator.summary import RunSummary, summarise
from testbed.orchestrator.takeover import Takeover, hindrance
from testbed.orchestrator.trail import Trail
from testbed.orchestrator.truth import TrueState
from testbed.orchestrator.verify import Verifier
from testbed.orchestrator.walltime import WallLimit, now_utc
from testbed.orchestrator.world import World, prepare
from testbed.planners.base import Planner
from testbed.scenario.links import idle_words
from testbed.scenario.load import load, manifest_of
from testbed.scenario.schema import Scenario


def run(
    scenario: Scenario,
    backend: Backend | Carrier,
    out_dir: Path | str,
    listener: Listener | None = None,
    planners: Mapping[str, Planner] | None = None,
) -> RunSummary:
    """Run a scenario on a backend and leave a run folder at `out_dir` (made; must be empty or absent).

    `planners` (name -> planner) replaces the scenario's. Raises InputError and BackendError before anything is started,
    AgentError or RunError when the run could not be completed, KeyboardInterrupt when it was interrupted; in these cases the
    folder holds every row that was finished, and its manifest says "failed" or "interrupted".
    """
    return carry_out(scenario, backend, Path(out_dir), listener, planners, False)


def resume(
    folder: Path | str,
    backend: Backend | Carrier,
    listener: Listener | None = None,
    planners: Mapping[str, Planner] | None = None,
) -> RunSummary:
    """Go on with a run that did not reach its end, because its process died, was interrupted or failed.

    Sessions that are over stay as they are; the one under way is begun again. A run that is finished is left alone. `planners` as
    for `run`; the scenario is the folder's own. Raises InputError for a folder without a run, or whose run a living process
    carries out; otherwise as `run`.
    """
    path = Path(folder)
    if finished(path):
        return summarise(path)
    return carry_out(load(path), backend, path, listener, planners, True)


def finished(folder: Path) -> bool:
    """Whether a run has reached its end. Raises ScenarioError for a folder that holds none."""
    manifest = manifest_of(folder)
    return manifest is not None and manifest.get("status") == "finished"


def carry_out(
    scenario: Scenario,
    backend: Backend | Carrier,
    path: Path,
    listener: Listener | None,
    planners: Mapping[str, Planner] | None,
    resumed: bool,
) -> RunSummary:
    """Run a scenario into a folder, or go on with the run that it holds; see `run` and `resume`."""
    support = backend.support(scenario)
    if not support.ok:
        raise BackendError(f"backend {backend.name!r} cannot run this scenario here: " + "; ".join(support.reasons))
    if isinstance(backend, Carrier):
        if planners is not None:
            raise BackendError(f"backend {backend.name!r} knows planners by their registered names only")
        from testbed.orchestrator import carried

        return carried.run(scenario, backend, path, listener, resumed)
    world = prepare(scenario, planners)
    folder = RunFolder(path, scenario.faulty, resumed)
    again = Again(folder) if resumed else None
    if again is not None and hasattr(backend, "run_left"):
        backend.run_left = folder.checkpoints.run if folder.checkpoints.begun else None
    journal = Journal(folder.events, listener)
    pairs: list[PairFacts] = folder.checkpoints.facts
    invariants: list[Invariant] = []
    status, reason = "failed", ""
    try:
        folder.save_manifest(**(_facts(world, backend) if again is None else {"status": "running", "reason": None}))
        _announce(world, backend, folder, journal)
        backend.run(scenario, lambda session: main(world, session, folder, journal, pairs, invariants, again))
        status = "finished"
    except KeyboardInterrupt:
        status, reason = "interrupted", "the run was interrupted"
        raise
    except TestbedError as error:
        reason = str(error)
        raise
    except ModelError as error:  # weights that do not fit, say: bad input, as anywhere else
        reason = str(error)
        raise
    except NodeError as error:
        reason = f"{type(error).__name__}: {error}"
        raise RunError(f"the run could not be completed: {reason}") from error
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"
        raise
    finally:
        unfinished = None if status == "finished" else reason or status
        verdict = fidelity.document(pairs, invariants, unfinished)
        try:
            folder.save_fidelity(verdict)
            folder.save_manifest(status=status, reason=reason or None, ended=now_utc(), verdict=verdict["verdict"])
            journal.emit("run_end", status=status, verdict=verdict["verdict"])
        finally:
            folder.close()
    return summarise(folder.path)


async def main(
    world: World,
    session: Session,
    folder: Recorder,
    journal: Journal,
    pairs: list[PairFacts],
    invariants: list[Invariant],
    again: Again | None = None,
) -> None:
    """What runs inside the backend, under its clock."""
    scenario = world.scenario
    over = 0 if again is None else again.over
    fleet = Fleet(session)
    truth = TrueState(world.layout)
    for link in world.links.values():  # what the backend builds is the state at time 0
        truth.links[link.name, "up"], truth.links[link.name, "down"] = link.up, link.down
    taken = _under_way(world, session, fleet, folder, again, journal)
    try:
        agents = await fleet.open(scenario)
        folder.save_manifest(backend={"name": folder.manifest["backend"]["name"], **session.describe()}, agents=agents)
        stage = Stage(
            world=world,
            session=session,
            fleet=fleet,
            epochs=Epochs(fleet, scenario.network.route, scenario.seed),
            truth=truth,
            replay=Replay(
                world.links,
                world.hosts,
                truth,
                session.apply_link,
                partial(_share, fleet, session),
                on_step=lambda step: live.tell_step(journal, step),
            ),
            folder=folder,
            journal=journal,
            verifier=Verifier(session.answer_tolerance if isinstance(session, ManyMachines) else 0.0),
            limit=WallLimit(scenario.run.wall_limit),
            trail=Trail(
                folder.checkpoints
                if isinstance(folder, RunFolder) and isinstance(session, Outliving) and fleet.recovery
                else None
            ),
            facts=pairs,
        )
        stage.epochs.note = stage.trail.plan
        if again is not None:
            journal.done = sum(facts.over for facts in pairs) + (0 if taken is None else len(taken.left.rows))
            if not isinstance(session, Exact):
                stage.epochs.last = again.checkpoints.used_epochs
        for number, (model, planner) in enumerate(world.pairs, 1):
            names = {"model": world.models[model].label, "planner": planner}
            tell = journal.emit if number > over else journal.live
            if number > over or isinstance(session, Exact):
                tell("session", **names, number=number, sessions=len(world.pairs))
                if scenario.compute.tensors == "real":
                    cloud = next(iter(world.sites.values())).cloud
                    await stage.verifier.fetch(fleet, cloud, model, input_seeds(scenario))
            if number > over:
                await PairRun(stage, model, planner, taken if number == over + 1 else None).run()
                folder.session_over(pairs[-1], stage.epochs.last)
            elif again is not None and isinstance(session, Exact):
                await repeat(stage, model, planner, pairs[number - 1], again.folder.path)
        invariants.extend(await session.invariants())
        if isinstance(session, LimitsCpu) and (throttling := session.throttling()):
            folder.save_manifest(throttling=throttling)
        if isinstance(session, ManyMachines):
            folder.save_manifest(clocks=session.clock_facts())
    finally:
        await fleet.close()


def _under_way(
    world: World, session: Session, fleet: Fleet, folder: Recorder, again: Again | None, journal: Journal
) -> Takeover | None:
    """Before agents are configured: what becomes of the session under way in a run that is gone on with."""
    taken = None
    if again is not None:
        why = hindrance(again, world, session)
        if why:
            told = begin_again(again, world, session, why)
        else:
            taken = Takeover(again, world)
            text = f"{len(taken.left.open)} requests were under way, {len(taken.left.rows)} had ended"
            told = again.note(world, "taken over", text)
            fleet.on_push = taken.hear
        journal.emit("run_resumed", **told)
    if isinstance(session, Outliving) and isinstance(folder, RunFolder):
        session.begin(folder.checkpoints.run)
        if taken is not None:
            session.take_over()
    return taken


async def _share(fleet: Fleet, session: Session, host: str, share: float) -> None:
    """Leave a host this share of its CPU: modelled times follow what its agent is told, measured ones what it may take."""
    await fleet.share(host, share)
    if isinstance(session, LimitsCpu):
        await session.cpu_share(host, share)


def _announce(world: World, backend: Backend, folder: RunFolder, journal: Journal) -> None:
    requests = world.scenario.requests
    journal.total = (requests.count + requests.warmup) * len(world.sites) * len(world.pairs)
    tell = journal.live if folder.checkpoints.begun else journal.emit  # then it is on record
    tell(
        "run",
        scenario=world.scenario.name,
        backend=backend.name,
        folder=str(folder.path),
        sessions=len(world.pairs),
        requests=journal.total,
        **live.stage(world.layout),
    )
    for text in idle_words(world.links):
        tell("warning", text=text)
    folder.begin()


def _facts(world: World, backend: Backend) -> dict[str, Any]:
    """The manifest as it stands before the start."""
    scenario = world.scenario
    return {
        "format": FORMAT,
        "status": "running",
        "started": now_utc(),
        "scenario": scenario.model_dump(mode="json"),
        "planners": list(world.planners),
        "seed": scenario.seed,
        "backend": {"name": backend.name},
        "input_encoding": scenario.model.input_encoding,
        "route": scenario.network.route,
        "congestion_control": scenario.network.congestion_control,
        "offload": scenario.network.offload,
        "time_scale": scenario.run.time_scale,
        "wide_area_links": [link.name for link in world.layout.links if link.role in WIDE_AREA_ROLES],
        "leaders": {device: site.leader for device, site in world.sites.items()},
        "costs": {
            model.label: {tier: costs.source for tier, costs in model.true_costs.tiers.items()} for model in world.models.values()
        },
        "told_costs": {
            model.label: {tier: costs.source for tier, costs in model.told_costs.tiers.items()} for model in world.models.values()
        },
        "versions": provenance.versions(),
        "machine": provenance.machine(),
        "git": provenance.git_state(),
    }
