"""Planners, backends and topologies by name, found through package entry points so that other packages can ship theirs.

Names are listed without importing anything; a class or function is imported when it is asked for. Groups:
"testbed.planners", "testbed.backends", "testbed.topologies", "testbed.reports" (see pyproject.toml).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, cast

from testbed.backends.base import Backend
from testbed.errors import BackendError, InputError, PlannerError, ScenarioError, TestbedError
from testbed.names import IN_FILE, label, suggestion
from testbed.planners.base import Planner
from testbed.planners.function import FunctionPlanner, takes_a_problem
from testbed.scenario.schema import Scenario, TopologyTable
from topologies.layout import Layout

TopologyBuilder = Callable[[TopologyTable], Layout]
ReportWriter = Callable[[Sequence[Path], Path | None], Path]
"""Writes a report about folders of runs and sweeps to a file (None: in the first folder, under its usual name); that file."""

_GROUPS: dict[str, tuple[str, type[TestbedError]]] = {
    "testbed.planners": ("planner", PlannerError),
    "testbed.backends": ("backend", BackendError),
    "testbed.topologies": ("topology", ScenarioError),
    "testbed.reports": ("report", InputError),
}

_IN_FILES = ("testbed.planners", "testbed.topologies")
"""Groups whose members may also be given as a file and a name in it."""

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
    """A planner by name, or from a file: "path.py:Class" or "path.py:function". Raises PlannerError for an unknown one."""
    kind = _named("testbed.planners", name)
    if takes_a_problem(kind):
        return FunctionPlanner(label(name), kind)
    try:
        made = kind()
    except TypeError as cause:
        raise PlannerError(f'planner "{name}" cannot be loaded: it must be made without arguments: {cause}') from cause
    if not all(callable(getattr(made, method, None)) for method in ("plan", "replan")):
        raise PlannerError(f'planner "{name}" needs methods plan and replan (see testbed/planners/base.py)')
    return cast(Planner, made)


def backend(name: str) -> Backend:
    """A backend by name. Raises BackendError for an unknown one."""
    return cast(Backend, _load("testbed.backends", name)())


def choose_backend(scenario: Scenario) -> tuple[Backend, str]:
    """The most faithful backend that can run a scenario here, and why it is that one. Raises BackendError if none can.

    Who asks for sizes instead of tensors asks for speed, and gets the simulator; an emulated network has to be asked for by name.
    """
    passed: list[str] = []
    if scenario.compute.tensors == "sizes":
        return backend("sim"), 'compute.tensors = "sizes" is for many fast runs'
    for name in (name for name in MOST_FAITHFUL_FIRST if name in _found("testbed.backends")):
        candidate = backend(name)
        support = candidate.support(scenario)
        if support.ok:
            return candidate, "; ".join(passed) or "the most faithful one that is installed"
        passed.append(f"{name} cannot run this here: {'; '.join(support.reasons)}")
    raise BackendError("no backend can run this scenario here:\n" + "\n".join(passed))


def topology(name: str) -> TopologyBuilder:
    """The function that builds a layout from a `[topology]` table, by name or from a file ("path.py:function").

    Raises ScenarioError for an unknown one.
    """
    return cast(TopologyBuilder, _named("testbed.topologies", name))


def report_writer(name: str) -> ReportWriter:
    """The writer of a kind of report file. Raises InputError for an unknown one, or one that needs packages that are not here."""
    return cast(ReportWriter, _load("testbed.reports", name))


def layout(table: TopologyTable) -> Layout:
    """The layout of a `[topology]` table. Raises ScenarioError for an unknown name, or sizes it cannot have."""
    build = topology(table.name)
    try:
        found = build(table)
    except ValueError as error:
        raise ScenarioError(f"[topology]: {error}") from error
    except Exception as error:
        if IN_FILE not in table.name:
            raise
        raise ScenarioError(f'topology "{label(table.name)}": it failed: {type(error).__name__}: {error}') from error
    if not isinstance(found, Layout):
        raise ScenarioError(
            f'topology "{label(table.name)}": it returned {type(found).__name__}, not a Layout (see topologies/layout.py)'
        )
    try:
        found.check()
    except ValueError as error:
        raise ScenarioError(f"[topology]: {error}") from error
    return found


def check_known(group: str, name: str) -> None:
    """Raise the group's error, naming the nearest known name, unless `name` is registered or in a file. No imports."""
    if group in _IN_FILES and IN_FILE in name:
        return
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
        extra = f"; pip install 'd3-testbed[{','.join(point.extras)}]'" if point.extras else ""
        raise InputError(f'{kind} "{name}" ({point.module}:{point.attr}) cannot be imported: {cause}{extra}') from cause


def _named(group: str, name: str) -> Callable[..., Any]:
    return _from_file(group, name) if IN_FILE in name else cast(Callable[..., Any], _load(group, name))


def _from_file(group: str, name: str) -> Callable[..., Any]:
    """The class or function of "path.py:NAME"."""
    kind, wrong = _GROUPS[group]
    path, _, attribute = name.rpartition(":")
    spec = spec_from_file_location(f"{Path(path).stem}_{abs(hash(path))}", path)
    if spec is None or spec.loader is None:
        raise wrong(f'{kind} "{name}" cannot be loaded: {path} is no Python file')
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
        found = getattr(module, attribute)
    except Exception as cause:
        raise wrong(f'{kind} "{name}" cannot be loaded: {type(cause).__name__}: {cause}') from cause
    if not callable(found):
        raise wrong(f'{kind} "{name}" cannot be loaded: {attribute} is neither a class nor a function')
    return cast(Callable[..., Any], found)
