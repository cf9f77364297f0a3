"""The cells that a sweep file spans, each with its resolved scenario and its key, checked before anything runs.

A cell is one model with one planner, one seed and one choice of every other axis. Its key is a digest of all that decides its
figures, so that equal keys mean equal cells, whatever sweep file they came from.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d3node import graph_cache
from d3node.model import ModelSpec, load_graph
from testbed import registry
from testbed.errors import BackendError, InputError, ScenarioError
from testbed.names import IN_FILE, label
from testbed.orchestrator import provenance
from testbed.orchestrator.world import prepare
from testbed.report.forecast import forecasts
from testbed.scenario.load import load
from testbed.scenario.plain import to_plain
from testbed.scenario.schema import Scenario
from testbed.sweep.spec import Spec, Value
from traces.load import shipped as shipped_traces

KEY_CHARACTERS = 24
"""Hexadecimal digits of a key: 96 bits."""


@dataclass(frozen=True)
class Cell:
    """One cell. `parameters` are the values of all axes but model, planner and seed, by key path, as the sweep file gives them;
    `setting` is the digest of the scenario without these three."""

    key: str
    model: str
    planner: str
    seed: int
    parameters: Mapping[str, Value]
    setting: str
    scenario: Scenario

    @property
    def trace(self) -> str:
        """Traces of the links, "none" where there is none; several are joined by a space as `link=trace`."""
        found = {name: table.trace for name, table in self.scenario.links.items() if table.trace is not None}
        return " ".join(found.values()) if len(found) < 2 else " ".join(f"{name}={trace}" for name, trace in found.items())

    def task(self) -> dict[str, Any]:
        """What a worker needs to know, as plain JSON."""
        return {"key": self.key, "setting": self.setting, "scenario": to_plain(self.scenario)}


@dataclass(frozen=True)
class Plan:
    """All cells of a sweep, each key once, seed by seed (so that the first part of an unfinished sweep is a smaller sweep)."""

    spec: Spec
    axes: Mapping[str, tuple[Value, ...]]
    cells: tuple[Cell, ...]
    versions: Mapping[str, str | None]


def plan(spec: Spec) -> Plan:
    """Span the cells and check them: every axis' values by themselves, against schema, layout, traces, profiles and models; every
    combination against the schema. Raises InputError, ModelError and BackendError, which name key and value."""
    registry.check_known("testbed.backends", spec.backend)
    axes = {**{f"links.{link}.trace": traces for link, traces in spec.axes.traces.items()}, **spec.axes.parameters}
    if len(axes) < len(spec.axes.traces) + len(spec.axes.parameters):
        raise ScenarioError(f"{spec.name}: a trace stands both in axes.traces and in axes.parameters")
    settings = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    scenarios = [_scenario(spec, setting) for setting in settings]
    base = scenarios[0]
    planners = base.planning.planners
    for name in planners:
        registry.check_known("testbed.planners", name)
    _check(spec, axes, settings, scenarios)
    seeds = spec.axes.seeds or (base.seed,)
    versions = provenance.versions()
    common = _digest({"backend": spec.backend, "versions": versions})
    models = {name: _model_digest(base, name) for name in base.model.names}
    asked = {name: _code_digest(name) for name in planners}
    digests = [_setting_digest(scenario) for scenario in scenarios]
    cells: dict[str, Cell] = {}
    for seed in seeds:
        for setting, scenario, digest in zip(settings, scenarios, digests, strict=True):
            for model in base.model.names:
                for planner in planners:
                    key = _digest([common, digest, models[model], asked[planner], seed])[:KEY_CHARACTERS]
                    if key in cells:
                        raise ScenarioError(f"{spec.name}: two cells are the same: {_words(setting)} says what another one does")
                    narrowed = _narrowed(scenario, model, planner, seed)
                    cells[key] = Cell(key, label(model), label(planner), seed, setting, digest, narrowed)
    named: dict[str, tuple[Value, ...]] = {"model": base.model.names, "planner": tuple(planners), **axes, "seed": seeds}
    return Plan(spec, named, tuple(cells.values()), versions)


def _scenario(spec: Spec, setting: Mapping[str, Value]) -> Scenario:
    """The scenario of one choice of axes, with all models and planners."""
    given = {**spec.set, **setting}
    if spec.axes.models is not None:
        given["model.names"] = [_beside(spec, name) for name in spec.axes.models]
    if spec.axes.planners is not None:
        given["planning.planners"] = [_beside(spec, name) for name in spec.axes.planners]
    overrides = [f"{key}={_toml(_traced(spec, key, value))}" for key, value in given.items()]
    try:
        return load(spec.base(), overrides)
    except ScenarioError as error:
        raise ScenarioError(str(error).replace("--set ", f"{spec.name}: ")) from None


def _beside(spec: Spec, name: str) -> str:
    """Files in a sweep file are relative to it, as those of a scenario are to the scenario."""
    file, _, attribute = name.rpartition(":") if IN_FILE in name else (name, "", "")
    if not (file.endswith(".pt2") or attribute):
        return name
    return str(Path(spec.directory, file)) + (f":{attribute}" if attribute else "")


def _traced(spec: Spec, key: str, value: Any) -> Any:
    if not isinstance(value, str) or key.rpartition(".")[2] not in ("trace", "profile", "planner_profile"):
        return value
    file, _, query = value.partition("?")
    here = Path(spec.directory, file)
    return str(here) + (f"?{query}" if query else "") if here.is_file() else value


def _check(
    spec: Spec,
    axes: Mapping[str, tuple[Value, ...]],
    settings: list[dict[str, Value]],
    scenarios: list[Scenario],
) -> None:
    """Resolve the first choice, and every one that differs from it in a single axis: each value of each axis once."""
    backend = registry.backend(spec.backend)
    first = settings[0]
    for setting, scenario in zip(settings, scenarios, strict=True):
        if sum(setting[key] != first[key] for key in axes) > 1:
            continue
        try:
            support = backend.support(scenario)
            if not support.ok:
                raise BackendError(f"backend {backend.name} cannot run this here: " + "; ".join(support.reasons))
            world = prepare(scenario)
            if scenario.planning.options:
                list(forecasts(world))  # a wrong option is found by asking
        except (InputError, BackendError) as error:
            raise type(error)(f"{spec.name}: with {_words(setting)}: {error}" if setting else str(error)) from error


def _narrowed(scenario: Scenario, model: str, planner: str, seed: int) -> Scenario:
    """The scenario for one model, planner and seed."""
    weights = {name: path for name, path in scenario.model.weights.items() if name == model}
    return scenario.model_copy(
        update={
            "seed": seed,
            "model": scenario.model.model_copy(update={"names": (model,), "weights": weights}),
            "planning": scenario.planning.model_copy(update={"planners": (planner,)}),
        }
    )


def _setting_digest(scenario: Scenario) -> str:
    """Of all that the scenario says but model, planner and seed, with the contents of the files that it names. What it is called,
    and where it lies, does not count."""
    plain = scenario.model_dump(mode="json", exclude={"name", "description", "directory", "seed"})
    for key in ("names", "weights"):
        del plain["model"][key]
    del plain["planning"]["planners"]
    tables = (*scenario.links.values(), *scenario.hosts.values(), scenario.requests)
    named = [value for table in tables for value in _file_names(table)]
    contents = {name: _content(scenario.directory, name) for name in sorted(set(named))}
    topology = [_code_digest(scenario.topology.name)] if IN_FILE in scenario.topology.name else []
    return _digest([plain, contents, *topology])


def _file_names(table: Any) -> Iterator[str]:
    for key in ("trace", "profile", "planner_profile"):
        if (value := getattr(table, key, None)) is not None:
            yield str(value)


def _content(directory: str, name: str) -> str | None:
    for path in (Path(directory, name), Path(directory, name.partition("?")[0]), shipped_traces().get(name.partition("?")[0])):
        if path is not None and path.is_file():
            return hashlib.sha256(path.read_bytes()).hexdigest()
    return None


def _model_digest(scenario: Scenario, name: str) -> str:
    weights = scenario.model.weights.get(name)
    load_graph(ModelSpec(name, seed=scenario.model.seed, weights=weights))  # so that workers find it in the cache
    content = None if weights is None else hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    return _digest([name, graph_cache.key(name), content])


def _code_digest(name: str) -> str:
    """Of a planner or topology: its name, and the file that it is in, if that is part of it."""
    path = Path(name.rpartition(":")[0])
    return _digest([name, hashlib.sha256(path.read_bytes()).hexdigest() if IN_FILE in name and path.is_file() else None])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _toml(value: Any) -> str:
    """A value as TOML, on one line (JSON's strings, numbers, booleans and lists are TOML's)."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def _words(setting: Mapping[str, Value]) -> str:
    return ", ".join(f"{key} = {json.dumps(value)}" for key, value in setting.items()) or "the base scenario"
