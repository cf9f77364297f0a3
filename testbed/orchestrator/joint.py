"""Deciding for all devices of a session: each by itself, or, where the planner can (`planners.base.JointPlanner`), all at once.

What one device is asked and what becomes of an answer is `planning.py`'s business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from testbed.errors import RunError, TestbedError
from testbed.orchestrator.planning import DevicePlanner
from testbed.orchestrator.trigger import Key
from testbed.orchestrator.walltime import timed
from testbed.orchestrator.world import Pair
from testbed.planners.base import Change, Decision, JointPlanner, Problem


async def first(planners: Mapping[str, DevicePlanner], joint: JointPlanner | None) -> None:
    """Make and install the first plan of every device, by a joint planner if there is one."""
    if joint is not None:
        await _decide(planners, joint, {})
        return
    for device in planners.values():
        await device.first()


async def again(planners: Mapping[str, DevicePlanner], joint: JointPlanner, reason: str) -> None:
    """Decide anew for all devices, for another reason than a change of conditions."""
    await _decide(planners, joint, {}, reason)


async def tick(
    planners: Mapping[str, DevicePlanner], joint: JointPlanner | None, fresh: set[Key | Pair] | None, news: bool = True
) -> None:
    """One turn of the control loop; without `news` only devices that are watching a value look again. A joint planner is asked
    again, in full, when any device's conditions have changed."""
    looking = {name: device for name, device in planners.items() if news or device.watching}
    if joint is None:
        for device in looking.values():
            await device.tick(fresh)
        return
    changes = {name: device.change(fresh) for name, device in looking.items()}
    if any(change is not None for change in changes.values()):
        await _decide(planners, joint, changes)


async def _decide(
    planners: Mapping[str, DevicePlanner], planner: JointPlanner, changes: Mapping[str, Change | None], reason: str = "first"
) -> None:
    problems = {name: device.problem() for name, device in planners.items()}
    decisions, seconds = await _ask(planner, problems)
    if missing := problems.keys() - decisions.keys():
        raise RunError(f"the joint plan has no part for {', '.join(sorted(missing))}")
    reason = "change" if changes else reason
    for name, device in planners.items():
        await device.take(problems[name], decisions[name], seconds, changes.get(name), reason)


async def _ask(planner: JointPlanner, problems: Mapping[str, Problem]) -> tuple[Mapping[str, Decision], float]:
    """Ask beside the event loop where its clock is real, so that replay and requests go on meanwhile."""
    loop = asyncio.get_running_loop()
    try:
        return await loop.run_in_executor(None, lambda: timed(lambda: planner.plan_jointly(problems)))
    except (TestbedError, asyncio.CancelledError):
        raise
    except Exception as error:  # planners are anybody's code
        raise RunError(f"planning jointly failed: {type(error).__name__}: {error}") from error
