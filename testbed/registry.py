"""Planners, backends and topologies by name, found through package entry points so that other packages can ship theirs.

Names are listed without importing anything; a class or function is imported when it is asked for. Groups:
"testbed.planners", "testbed.backends", "testbed.topologies" (see pyproject.toml).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast

from testbed.backends.base import Backend
from testbed.errors import BackendError, InputError, PlannerError, ScenarioError, TestbedError
from testbed.names import suggestion
from testbed.planners.base import Planner
from testbed.scenario.schema import Scenario, TopologyTable
from topologies.layout import Layout

TopologyBuilder = Callable[[TopologyTable], Layout]

_GROUPS: dict[str, tuple[str, type[TestbedError]]] = {
    "testbed.planners": ("planner", PlannerError),
    "testbed.backends": ("backend", BackendError),
    "testbed.topologies": ("topology", ScenarioError),
}

MOST_FAITHFUL_FIRST = ("vkernel", "mininet", "sim")
"""Order in which `--backend auto` tries backends; "hosts" needs an inventory and is never taken unasked."""


@cache
def _found(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}


def planners() -> tuple[str, ...]:
    """Names of all registered planners."""
    return tuple(sorted(_found("testbed.planners")))


def backends() -> tuple[str, ...]:
    """Names of all registered backends."""
    return tuple(sorted(_found("testbed.backends")))


def topologies() -> tuple[str, ...]:
    """Names of all registered topologies."""
    return tuple(sorted(_found("testbed.topologies")))


def planner(name: str) -> Planner:
    """A planner by name. Raises PlannerError for an unknown one."""
    return cast(Planner, _load("testbed.planners", name)())


def backend(name: str) -> Backend:
    """A backend by name. Raises BackendError for an unknown one."""
    return cast(Backend, _load("testbed.backends", name)())


def choose_backend(scenario: Scenario) -> tuple[Backend, str]:
    """The most faithful backend that can run a scenario here, and why it is that one. Raises BackendError if none can."""
    passed: list[str] = []
    for name in (name for name in MOST_FAITHFUL_FIRST if name in _found("testbed.backends")):
        candidate = backend(name)
        support = candidate.support(scenario)
        if support.ok:
            return candidate, "; ".join(passed) or "the most faithful one that is installed"
        passed.append(f"{name} cannot run this here: {'; '.join(support.reasons)}")
    raise BackendError("no backend can run this scenario here:\n" + "\n".join(passed))


def topology(name: str) -> TopologyBuilder:
    """The function that builds a layout from a `[topology]` table. Raises ScenarioError for an unknown name."""
    return cast(TopologyBuilder, _load("testbed.topologies", name))


def layout(table: TopologyTable) -> Layout:
    """The layout of a `[topology]` table. Raises ScenarioError for an unknown name, or sizes it cannot have."""
    try:
        return topology(table.name)(table)
    except ValueError as error:
        raise ScenarioError(f"[topology]: {error}") from error


def check_known(group: str, name: str) -> None:
    """Raise the group's error, naming the nearest known name, unless `name` is registered; imports nothing."""
    if name not in _found(group):
        kind, error = _GROUPS[group]
        raise error(f'unknown {kind} "{name}"{suggestion(name, _found(group))}')


def _load(group: str, name: str) -> Any:
    check_known(group, name)
    point = _found(group)[name]
    try:
        return point.load()
    except (ImportError, AttributeError) as cause:
        kind = _GROUPS[group][0]
        raise InputError(f'{kind} "{name}" ({point.value}) cannot be imported: {cause}') from cause
