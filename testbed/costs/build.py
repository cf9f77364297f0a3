"""Costs of a model on the hosts of a scenario: the truth (what hosts take) and what planners are told.

A host's profile is a device description's name, a device description of one's own (`.toml`), a profile file of
`testbed profile`, or a predictor file (`.json`); a tier's default is D3's testbed. Other modules read those files.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from d3node.graph import LayerGraph
from d3node.plan import TIERS, Tier
from testbed.costs import devices, predict, predict_rate, profile
from testbed.costs.table import Costs, TierCosts
from testbed.errors import InputError, ScenarioError
from testbed.names import suggestion
from testbed.scenario.links import hosts_of
from testbed.scenario.schema import HostTable, Scenario
from topologies.layout import Layout
from traces.trace import Trace

DEFAULT_PROFILE: dict[Tier, str] = {"device": "raspberry-pi-4", "edge": "desktop-6core", "cloud": "rtx-2080-ti"}
"""The machines of D3's own testbed: Raspberry Pi 4B, Intel i7-8700, RTX 2080 Ti."""


def costs_for(scenario: Scenario, model_name: str, graph: LayerGraph, layout: Layout) -> Costs:
    """What every vertex takes on every tier and host (the truth of a run with `mode = "modelled"`).

    A tier's figures are those of `[hosts.TIER]`'s profile and speed. A host with a profile of its own gets a speed relative
    to its tier: the ratio of the two profiles' times for the whole model (a single number cannot follow them layer by
    layer). Raises ScenarioError naming the table, for a profile that is unknown, unreadable, or lacks the model.
    """
    return _costs(scenario, model_name, graph, layout, told=False)


def predicted(scenario: Scenario, model_name: str, graph: LayerGraph, layout: Layout) -> Costs:
    """What planners are told: the truth, except for hosts and tiers whose table has a `planner_profile`."""
    return _costs(scenario, model_name, graph, layout, told=True)


def host_traces(scenario: Scenario, layout: Layout) -> dict[str, Trace]:
    """The CPU-share trace of every host that has one; time 0 of the trace is time 0 of the scenario, its offset applied.

    Raises TraceError for a trace that is missing, cannot be read, or has no `cpu_share`.
    """
    hosts = hosts_of(scenario, layout).values()
    return {host.name: host.trace.shifted(host.trace_offset_s) for host in hosts if host.trace is not None}


def load_profile(name: str, directory: str | Path, model_name: str, graph: LayerGraph) -> TierCosts:
    """Costs of a model from a profile's name or file (relative to `directory`). Raises InputError."""
    if name in devices.known():
        return devices.tier_costs(name, graph)
    path = Path(directory) / name
    if path.suffix == ".toml":
        return devices.tier_costs(path, graph)
    if path.suffix != ".json":
        raise InputError(
            f'unknown profile "{name}": neither a described device nor a .json or .toml file'
            f"{suggestion(name, devices.known(), 'described devices')}"
        )
    text = profile.read_text(path)
    if _format(text) == predict.FORMAT:
        return predict.Predictor.from_json(text, str(path)).tier_costs(graph)
    if _format(text) == predict_rate.FORMAT:
        return predict_rate.RatePredictor.from_json(text, str(path)).tier_costs(graph)
    return profile.Profile.from_json(text, str(path)).tier_costs(model_name, graph)


def _costs(scenario: Scenario, model_name: str, graph: LayerGraph, layout: Layout, told: bool) -> Costs:
    loaded: dict[str, TierCosts] = {}

    def of(name: str, where: str) -> TierCosts:
        if name not in loaded:
            try:
                found = load_profile(name, scenario.directory, model_name, graph)
                loaded[name] = found if scenario.compute.group_effects else replace(found, effects=())
            except InputError as error:
                raise ScenarioError(f"[hosts.{where}]: {error}") from error
        return loaded[name]

    resolved = hosts_of(scenario, layout)
    tiers: dict[Tier, TierCosts] = {}
    speed: dict[str, float] = {}
    for tier in TIERS:
        tables = [scenario.hosts[tier]] if tier in scenario.hosts else []
        reference = of(_profile_name(tier, tables, told), tier)
        tier_speed = next((table.speed for table in tables if table.speed is not None), 1.0)
        tiers[tier] = _faster(reference, tier_speed)
        for host in layout.tier(tier):
            own = [*tables, *([scenario.hosts[host.name]] if host.name in scenario.hosts else [])]
            costs = of(_profile_name(tier, own, told), host.name)
            ratio = 1.0 if costs is reference else _total_s(reference) / _total_s(costs)
            relative = ratio * resolved[host.name].speed / tier_speed
            if relative != 1.0:
                speed[host.name] = relative
    return Costs(tiers, speed)


def _profile_name(tier: Tier, tables: list[HostTable], told: bool) -> str:
    """The last table that names a profile decides; among one table's, planners are told `planner_profile` first."""
    name = DEFAULT_PROFILE[tier]
    for table in tables:
        name = (table.planner_profile if told else None) or table.profile or name
    return name


def _total_s(costs: TierCosts) -> float:
    return sum(costs.fixed_s) + sum(costs.scaled_s)


def _faster(costs: TierCosts, speed: float) -> TierCosts:
    if speed == 1.0:
        return costs
    return TierCosts(
        tuple(seconds / speed for seconds in costs.fixed_s),
        tuple(seconds / speed for seconds in costs.scaled_s),
        source=f"{costs.source}, {speed:g} times as fast",
        power_w=costs.power_w,
        effects=costs.effects,
    )


def _format(text: str) -> object:
    try:
        raw = json.loads(text)
    except ValueError:
        return None
    return raw.get("format") if isinstance(raw, dict) else None
