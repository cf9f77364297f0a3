"""Everything a run needs that does not change during it: graphs, costs, resolved links and hosts, and who serves whom.

Built once from a scenario; starting the network is the backend's business, changing it `replay.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from d3node import calibration, train
from d3node.calibration import Calibration
from d3node.graph import LayerGraph
from d3node.model import ModelSpec, load_graph
from d3node.plan import Tier
from d3node.program import Route
from testbed import registry
from testbed.costs.build import costs_for, predicted
from testbed.costs.table import Costs
from testbed.errors import ScenarioError
from testbed.names import label
from testbed.planners.base import Planner
from testbed.scenario.demand import demand_of
from testbed.scenario.faults import check_faults
from testbed.scenario.links import ResolvedHost, ResolvedLink, hosts_of, links_of
from testbed.scenario.schema import Scenario
from topologies import addresses
from topologies.layout import Layout
from traces.trace import Trace

Pair = tuple[str, str]
"""Two hosts: where messages come from, and where they go."""


@dataclass(frozen=True)
class Site:
    """The hosts that serve one device; `edge_hosts` lists the leader first, then the other edge hosts of the device's site,
    `devices` the site's devices, this one first."""

    device: str
    edge_hosts: tuple[str, ...]
    cloud: str
    route: Route
    devices: tuple[str, ...] = ()

    @property
    def leader(self) -> str:
        """The edge host that leads the edge tier for this device."""
        return self.edge_hosts[0]

    def led_by(self, leader: str) -> Site:
        """The same site with another of its edge hosts as the leader."""
        return replace(self, edge_hosts=(leader, *(host for host in self.edge_hosts if host != leader)))

    @property
    def places(self) -> dict[str, str]:
        """What each host is for the device: "device", "edge 0" (the leader), "edge 1", "cloud", and other devices "device 1"."""
        edges = {host: f"edge {k}" for k, host in enumerate(self.edge_hosts)}
        mates = {host: f"device {k}" for k, host in enumerate(self.devices[1:], start=1)}
        return {self.device: "device", **edges, self.cloud: "cloud", **mates}

    @property
    def hosts(self) -> dict[Tier, str]:
        """Leading host of each tier."""
        return {"device": self.device, "edge": self.leader, "cloud": self.cloud}

    @cached_property
    def pairs(self) -> Mapping[str, Pair]:
        """Hosts at the ends of every path that matters to the device's planner."""
        found = {"device_edge": (self.device, self.leader), "edge_cloud": (self.leader, self.cloud)}
        if self.route == "direct":
            found["device_cloud"] = (self.device, self.cloud)
        found.update({host: (self.leader, host) for host in self.edge_hosts[1:]})
        return found


@dataclass(frozen=True)
class ModelFacts:
    """One model: its graph with the input as it travels, the true costs, and the costs that planners are told; what was measured
    of its exits, if it has a data set. `name` is the scenario's, `label` what results call it."""

    name: str
    graph: LayerGraph
    true_costs: Costs
    told_costs: Costs
    calibration: Calibration | None = None

    @property
    def label(self) -> str:
        """The name, without a file's folder."""
        return label(self.name)


@dataclass(frozen=True)
class World:
    """What a run works on. `sites` is keyed by device, in the layout's order; `demand` is how a device's requests
    come over time, where a trace says that."""

    scenario: Scenario
    layout: Layout
    links: Mapping[str, ResolvedLink]
    hosts: Mapping[str, ResolvedHost]
    models: Mapping[str, ModelFacts]
    planners: Mapping[str, Planner]
    sites: Mapping[str, Site]
    demand: Trace | None = None
    notes: Mapping[str, object] = field(default_factory=dict)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(model, planner) of every session, in order."""
        return [(model, planner) for model in self.models for planner in self.planners]

    @property
    def capacities(self) -> dict[str, float]:
        """Memory limits of the hosts that have one, in bytes."""
        return {host.name: host.memory_bytes for host in self.hosts.values() if host.memory_bytes is not None}


def sites_of(layout: Layout, route: Route, origins: int | None = None) -> dict[str, Site]:
    """Who serves whom: the devices of a site get its edge hosts as leaders in turn (device i gets host i modulo their number).
    With `origins` only the first so many devices of each site make requests."""
    clouds = layout.tier("cloud")
    if not clouds:
        raise ScenarioError(f"topology {layout.name!r} has no cloud host")
    found: dict[str, Site] = {}
    served: dict[str, int] = {}
    for device in layout.tier("device"):
        edges = [host.name for host in layout.tier("edge", device.site)]
        if not edges:
            raise ScenarioError(f"topology {layout.name!r}: site {device.site!r} has a device but no edge host")
        if origins is not None and served.get(device.site, 0) >= origins:
            continue
        mates = [host.name for host in layout.tier("device", device.site)]
        first = served.get(device.site, 0) % len(edges)
        served[device.site] = served.get(device.site, 0) + 1
        order = (edges[first], *edges[:first], *edges[first + 1 :])
        found[device.name] = Site(
            device.name, order, clouds[0].name, route, (device.name, *(name for name in mates if name != device.name))
        )
    return found


def travelling_input(graph: LayerGraph, encoding: str) -> LayerGraph:
    """The graph with the bytes of its input as the scenario lets it travel (a uint8 image is one byte per value)."""
    if encoding != "uint8":
        return graph
    values = 1
    for size in graph[0].output_shape:
        values *= size
    return graph.with_input_bytes(values)


def _planners(scenario: Scenario) -> dict[str, Planner]:
    found: dict[str, Planner] = {}
    for name in dict.fromkeys(scenario.planning.planners):
        if (called := label(name)) in found:
            raise ScenarioError(f"planning.planners: two planners would be called {called!r} in the results; rename one file")
        found[called] = registry.planner(name)
    return found


def prepare(scenario: Scenario, planners: Mapping[str, Planner] | None = None) -> World:
    """Resolve a scenario. `planners` replaces the registered ones (name -> planner). Errors are the user's (InputError)."""
    layout = _addressed(registry.layout(scenario.topology))
    check_faults(scenario.fault, layout)
    models: dict[str, ModelFacts] = {}
    for name in scenario.model.names:
        spec = ModelSpec(name, seed=scenario.model.seed, weights=scenario.model.weights.get(name))
        graph = travelling_input(load_graph(spec), scenario.model.input_encoding)
        truth = costs_for(scenario, label(name), graph, layout)
        told = truth if scenario.planning.knowledge == "true" else predicted(scenario, label(name), graph, layout)
        measured = calibration.load(name, spec.seed, spec.weights) if train.is_trained(name) else None
        if any(label(name) == facts.label for facts in models.values()):
            raise ScenarioError(f"model.names: two models would be called {label(name)!r} in the results; rename one file")
        models[name] = ModelFacts(name, graph, truth, told, measured)
    return World(
        scenario=scenario,
        layout=layout,
        links=links_of(scenario, layout),
        hosts=hosts_of(scenario, layout),
        models=models,
        planners=planners or _planners(scenario),
        sites=sites_of(layout, scenario.network.route, scenario.requests.origins),
        demand=demand_of(scenario),
    )


def _addressed(layout: Layout) -> Layout:
    """The layout itself. Raises ScenarioError for one whose hosts no network can address, also where nothing is emulated."""
    try:
        addresses.assign(layout)
    except ValueError as error:
        raise ScenarioError(f"[topology]: {error}") from error
    return layout


def for_session(world: World, scenario: Scenario) -> World:
    """The same world for a scenario that differs in seed and planners only: graphs, costs and traces are kept, planners made anew
    (one that has been used may remember)."""
    return replace(world, scenario=scenario, planners=_planners(scenario))
