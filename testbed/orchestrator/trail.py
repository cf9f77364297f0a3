"""What a session leaves on record as it goes, for an orchestrator that takes it over: plans, submissions, and its second 0.

Only where agents outlive the orchestrator. Every record is with the operating system before any agent hears of what it says;
times are the machine's (CLOCK_REALTIME), which another process can read. What is made of it is in `takeover.py`.
"""

from __future__ import annotations

import asyncio

from d3node.plan import Plan
from d3node.program import Route
from testbed.orchestrator.checkpoints import Checkpoints
from testbed.orchestrator.epochs import Epoch
from testbed.orchestrator.tracker import Request
from testbed.orchestrator.walltime import wall_s


class Trail:
    """The trail of a run's sessions, in its checkpoints; without them none is left."""

    def __init__(self, checkpoints: Checkpoints | None = None) -> None:
        self._checkpoints = checkpoints

    def zero(self, start: float) -> None:
        """Scenario second 0 was at loop time `start`."""
        self._add({"what": "zero", "wall": wall_at(start)})

    def plan(self, plan: Plan, route: Route) -> None:
        """A plan is about to be installed."""
        if self._checkpoints is not None:
            self._add({"what": "plan", "epoch": plan.epoch, "plan": {**plan.to_dict(), "notes": {}}, "route": route})

    def submitting(self, request: Request, epoch: Epoch) -> None:
        """A request is about to be submitted."""
        if self._checkpoints is None:
            return
        due, submitted = wall_at(request.due_at), wall_at(request.submitted_at)
        named = {"request": request.wire_id, "device": request.device, "number": request.number, "warmup": request.warmup}
        self._add({"what": "submit", **named, "epoch": epoch.number, "input": request.input, "due": due, "submitted": submitted})

    def moving(self, request: Request, epoch: Epoch, planned: Epoch, lost_s: float) -> None:
        """A request is about to go on under another epoch, `lost_s` after its loss was known."""
        if self._checkpoints is not None:
            counts = {"recoveries": request.recoveries + 1, "recovered_s": request.recovered_s + lost_s}
            numbers = {"epoch": epoch.number, "planned": planned.number}
            self._add({"what": "move", "request": request.wire_id, **numbers, **counts})

    def _add(self, record: dict[str, object]) -> None:
        if self._checkpoints is not None:
            self._checkpoints.add(record, sync=False)


def wall_at(moment: float) -> float:
    """The machine's clock at a moment of the loop's."""
    return wall_s() + moment - asyncio.get_running_loop().time()


def moment_at(wall: float) -> float:
    """The loop's time at a moment of the machine's clock."""
    return asyncio.get_running_loop().time() + wall - wall_s()
