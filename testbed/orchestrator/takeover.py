"""Taking a session over whose orchestrator has died, where agents outlive it: from its trail, its rows, and what agents say.

Requests under way go on where they are; what is said of them again is told from news by the tracker. What was due meanwhile is
submitted late by the session itself (`pair.py`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d3node.channel import Message
from d3node.plan import Plan
from d3node.program import Route
from testbed.backends.base import Outliving, Session
from testbed.errors import RunError
from testbed.orchestrator import joint, overload
from testbed.orchestrator.account import Ledger
from testbed.orchestrator.again import Again, rows_of
from testbed.orchestrator.epochs import Epoch
from testbed.orchestrator.fidelity import PairFacts
from testbed.orchestrator.results import writing
from testbed.orchestrator.stage import Stage
from testbed.orchestrator.tracker import Request
from testbed.orchestrator.trail import moment_at
from testbed.orchestrator.walltime import wall_s
from testbed.orchestrator.world import World
from testbed.planners.base import Uploader

if TYPE_CHECKING:
    from testbed.orchestrator.pair import PairRun

Key = tuple[str, int, bool]
"""Device, number, and whether it is a warm-up request."""


def hindrance(again: Again, world: World, session: Session) -> str:
    """Why the session under way cannot be taken over, and has to be begun again; empty where it can."""
    checkpoints, scenario = again.checkpoints, world.scenario
    zero = next((record for record in checkpoints.since if record["what"] == "zero"), None)
    if not isinstance(session, Outliving) or again.over >= len(world.pairs):
        return "its network and agents ended with the process that ran it"
    if scenario.recovers == "none":
        return 'without recovery agents keep nothing for another orchestrator ([recovery] mode = "resume")'
    if zero is None:
        return "it had not reached its second 0"
    if scenario.fault:
        return "what its faults had done by then is not on record"
    if isinstance(world.planners[world.pairs[again.over][1]], Uploader):
        return "its planner uploads weights, and which have arrived is not on record"
    if any(host.trace is not None for host in world.hosts.values()):
        return "hosts follow traces of their speed, which nobody has replayed meanwhile"
    if not checkpoints.same_boot or wall_s() < zero["wall"]:
        return "this machine was started anew, or its clock set back"
    return session.gone(checkpoints.run)


@dataclass(frozen=True)
class Left:
    """What is on record of the session under way: the machine's time at its second 0, its plans, what was submitted and moved to
    other plans (by number on the wire), and its rows."""

    zero: float
    plans: Mapping[int, tuple[Plan, Route]]
    submitted: Mapping[int, Mapping[str, Any]]
    moved: Mapping[int, Mapping[str, Any]]
    rows: list[dict[str, str]]
    steps: list[dict[str, str]]

    @property
    def ended(self) -> set[Key]:
        """Requests that have a row."""
        return {_key_of_row(row) for row in self.rows}

    @property
    def open(self) -> dict[int, Mapping[str, Any]]:
        """Requests that have been submitted, as far as is known, and have no row."""
        ended = self.ended
        return {wire: one for wire, one in self.submitted.items() if _key(one) not in ended}

    def made(self, device: str) -> set[int]:
        """Numbers of a device's measured requests that were submitted or have ended."""
        keys = self.ended | {_key(one) for one in self.submitted.values()}
        return {number for name, number, warmup in keys if name == device and not warmup}


def read(again: Again, world: World) -> Left:
    """Read it, and take away what a row lacks that was being written. Raises RunError."""
    again.folder.mend()
    model, planner = world.pairs[again.over]
    names = {"model": world.models[model].label, "planner": planner}
    records = again.checkpoints.since
    left = Left(
        zero=next(record["wall"] for record in records if record["what"] == "zero"),
        plans={r["epoch"]: (Plan.from_dict(r["plan"]), r["route"]) for r in records if r["what"] == "plan"},
        submitted={r["request"]: r for r in records if r["what"] == "submit"},
        moved={r["request"]: r for r in records if r["what"] == "move"},
        rows=rows_of(again.folder.path / "inferences.csv", names),
        steps=[],
    )
    left.steps.extend(_steps(again.folder.path / "steps.csv", names, left.ended))
    return left


def _steps(path: Path, names: Mapping[str, str], ended: set[Key]) -> list[dict[str, str]]:
    """A session's steps; those of a last request that has no row yet go: it will have both."""
    found = rows_of(path, names)
    whole = len(found)
    while whole and _key_of_row(found[whole - 1]) not in ended:
        whole -= 1
    if whole < len(found):
        lines = path.read_bytes().splitlines(keepends=True)
        with writing(path):
            os.truncate(path, sum(len(line) for line in lines[: len(lines) - (len(found) - whole)]))
    return found[:whole]


def _key(record: Mapping[str, Any]) -> Key:
    return record["device"], record["number"], record["warmup"]


def _key_of_row(row: Mapping[str, str]) -> Key:
    return row["device"], int(row["request"]), row["warmup"] == "true"


def _book(left: Left, ledger: Ledger, facts: PairFacts) -> None:
    """What the rows and steps on record add to the session's account. Bytes that no step tells of (probes) are lost."""
    for step in left.steps:
        if step["what"] == "transfer":
            ledger.book_transfer(step["peer"], step["host"], int(step["message_bytes"]))
        elif step["warmup"] != "true":
            ledger.compute_s += float(step["end_s"]) - float(step["start_s"])
    for row in left.rows:
        ledger.overrun_s += float(row["overrun_s"]) if row["warmup"] != "true" else 0.0
        if row["error"] in overload.REFUSED:
            facts.shed += 1
            facts.cut_short += row["error"] != overload.SHED
        elif row["error"]:
            facts.failed += 1
        elif row["fallback"] == "true" or row["absent_devices"] not in ("", "0") or row["recoveries"] not in ("", "0"):
            facts.cut_short += 1
        if row["correct"]:
            facts.checked += 1
            facts.wrong += row["correct"] == "false"
            facts.max_rel_error = max(facts.max_rel_error, float(row["max_rel_error"]))


class Takeover:
    """Takes a session over. Made before agents are connected to: what they say first waits here for the session. `pending`: ends
    of requests under way, by device. Raises RunError."""

    def __init__(self, again: Again, world: World) -> None:
        self.left = read(again, world)
        self._links, self._before = again.folder.path / "links.csv", again.checkpoints.sizes["links.csv"]
        self._settled = int(again.checkpoints.over[-1]["epoch"]) if again.checkpoints.over else 0
        self.early: list[tuple[str, Message]] = []
        self.pending: dict[str, list[asyncio.Event]] = {}

    def hear(self, host: str, message: Message) -> None:
        """An agent says something of a request before the session is ready for it."""
        self.early.append((host, message))

    def start(self) -> float:
        """The loop's time of the session's second 0."""
        return moment_at(self.left.zero)

    def states_written(self) -> bool:
        """Whether the links' first states are on record."""
        return self._links.stat().st_size > self._before

    async def carry(self, session: PairRun, stage: Stage, ledger: Ledger, push: Callable[[str, Message], None]) -> None:
        """Make plans, and follow the requests under way from now on. Raises AgentError, RunError."""
        left, tracker, epochs, graph = self.left, session.tracker, stage.epochs, session.model.graph
        _book(left, ledger, session.facts)
        tracker.submitted, tracker.over = len(left.rows), len(left.rows)
        tracker.ids = count(max(left.submitted, default=0) + 1)
        tracker.settled = self._settled
        if session.recovery is not None:
            session.recovery.ended(left.submitted.keys() - left.open.keys())
        if session.joint is not None:
            await joint.again(session.planners, session.joint, "orchestrator")
        else:
            for planner in session.planners.values():
                await planner.again("orchestrator")
        hosts = [host.name for host in stage.world.layout.hosts]
        told = await stage.fleet.call_all(hosts, "tell", {host: {"requests": list(left.open)} for host in hosts})
        under = {int(wire): int(epoch) for reply in told.values() for wire, epoch in reply.fields["running"]}
        for _, message in self.early:
            if message.kind in ("done", "failed"):
                under.setdefault(message.fields["request"], message.fields["epoch"])
        unknown = []
        for wire, record in left.open.items():
            request = self._request(wire, record, under.get(wire, record["epoch"]), stage, session)
            tracker.take_over(request)
            self.pending.setdefault(request.device, []).append(request.ended)
            if wire not in under:
                unknown.append(request)
        stage.fleet.on_push = push
        for host, message in self.early:
            push(host, message)
        for request in unknown:  # it was about to be submitted
            if not request.ended.is_set():
                await tracker.start(request, session.planners[request.device].epoch)
        for number, (plan, route) in left.plans.items():
            if (epoch := epochs.installed.get(number)) is not None:
                epochs.supersede(epoch)
            else:
                await epochs.retire(graph, plan, route)

    def _request(self, wire: int, record: Mapping[str, Any], number: int, stage: Stage, session: PairRun) -> Request:
        """A request under way, which is under the plan of that number by now."""
        move = self.left.moved.get(wire)
        moved = move is not None and move["epoch"] == number
        request = Request(
            wire_id=wire,
            number=record["number"],
            device=record["device"],
            epoch=self._epoch(number, stage, session),
            warmup=record["warmup"],
            input=record["input"],
            due_at=moment_at(record["due"]),
            submitted_at=moment_at(record["submitted"]),
            ended=asyncio.Event(),
        )
        request.epochs.add(record["epoch"])
        if move is not None and moved:
            request.recoveries, request.recovered_s = move["recoveries"], move["recovered_s"]
            if move["planned"] != number:
                request.planned = self._epoch(move["planned"], stage, session)
        return request

    def _epoch(self, number: int, stage: Stage, session: PairRun) -> Epoch:
        if (known := stage.epochs.installed.get(number)) is not None:
            return known
        if number not in self.left.plans:
            raise RunError(f"an agent speaks of plan {number}, which is not on record; carry the run out anew")
        plan, route = self.left.plans[number]
        return stage.epochs.take_over(session.model.graph, plan, route)
