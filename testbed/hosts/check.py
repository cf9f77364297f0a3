"""Whether the machines of an inventory are ready: agents and versions, models, clocks, and the ways between them.

Measures with what the agents offer anyway, one thing after the other; leaves nothing changed behind. Agents that are busy with a
run are left alone but for their facts and clocks.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

from d3node import fingerprint
from d3node.clock import ScaledLoop, run
from d3node.errors import NodeError
from d3node.graph import LayerGraph
from d3node.model import ModelSpec, load_graph, load_model
from d3node.tcp import TcpTransport
from testbed import registry
from testbed.errors import AgentError
from testbed.hosts import certificates, reach
from testbed.hosts.clocks import HostClock, Line, measure
from testbed.hosts.inventory import Inventory
from testbed.names import label
from testbed.scenario.schema import Scenario

ROUND_TRIPS = 5
SIZES = (64 << 10, 1 << 20, 8 << 20)
LONG_ENOUGH_S = 0.2
"""A transfer that takes so long tells the rate; a quicker one is followed by a larger one."""
RENEW_DAYS = 30.0
"""Certificates that end sooner are worth a word."""


@dataclass(frozen=True, slots=True)
class Way:
    """What was measured from one machine to another: the quickest round trip in seconds, and bit/s of messages."""

    source: str
    target: str
    round_trip_s: float
    rate_bps: float


@dataclass
class Findings:
    """`problems` stand in the way of a run (with the scenario that was given); `notes` do not."""

    about: dict[str, reach.About] = field(default_factory=dict)
    clocks: dict[str, HostClock] = field(default_factory=dict)
    ways: list[Way] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "hosts": {
                host: {**about, "clock": self.clocks[host].facts() if host in self.clocks else None}
                for host, about in self.about.items()
            },
            "ways": [
                {"source": way.source, "target": way.target, "round_trip_s": way.round_trip_s, "rate_bps": way.rate_bps}
                for way in self.ways
            ],
            "problems": self.problems,
            "notes": self.notes,
        }


def check(inventory: Inventory, scenario: Scenario | None = None) -> Findings:
    """Look at all machines of an inventory, or at those that a scenario needs. Raises InventoryError, ModelError."""
    if scenario is not None:
        inventory.check(registry.layout(scenario.topology))
    return run(ScaledLoop(), _check(inventory, scenario))


async def _check(inventory: Inventory, scenario: Scenario | None) -> Findings:
    found = Findings()
    _certificate(inventory, found)
    names = list(inventory.hosts) if scenario is None else [host.name for host in registry.layout(scenario.topology).hosts]
    by = reach.transport(inventory)
    lines: dict[str, Line] = {}
    try:
        for name in names:
            try:
                line = lines[name] = await reach.dial(inventory, by, name)
                found.about[name] = (await line.ask("about")).fields
                found.about[name].pop("id", None)
                found.clocks[name] = HostClock()
                found.clocks[name].add(await measure(line))
            except (NodeError, AgentError) as error:
                found.problems.append(str(error))
                continue
            found.problems += reach.misfits(inventory.hosts[name], found.about[name])
            _note(inventory, name, found)
        if scenario is not None:
            found.problems += _models(scenario, found.about)
        free = [name for name in lines if name in found.about and not found.about[name]["busy"]]
        if len(free) == len(names):
            await _measure_ways(inventory, by, free, found)
        else:
            found.notes.append("the ways between machines were not measured: not every agent was there and free")
    finally:
        for line in lines.values():
            await line.close()
    return found


def _certificate(inventory: Inventory, found: Findings) -> None:
    if inventory.certificate is None:
        found.notes.append("connections are not encrypted: the inventory names no certificates")
        return
    left = certificates.days_left(inventory.certificate)
    if left <= 0.0:
        found.problems.append(f"{inventory.certificate}: is no longer valid since {-left:.0f} days; testbed hosts init --renew")
    elif left < RENEW_DAYS:
        found.notes.append(f"{inventory.certificate}: is valid for {left:.0f} more days; testbed hosts init --renew")


def _note(inventory: Inventory, name: str, found: Findings) -> None:
    about = found.about[name]
    if about.get("busy"):
        found.problems.append(f"{name}: its agent is busy with a run; one orchestrator at a time")
    if inventory.hosts[name].device == "cuda" and not str(about.get("device", "")).startswith("cuda"):
        reason = about.get("device_note") or "its agent was not started with --device cuda"
        found.notes.append(f"{name}: the inventory says cuda, but {reason}")
    first = next(iter(found.about.values()))
    if about.get("torch") != first.get("torch"):
        found.notes.append(
            f"{name}: has torch {about.get('torch')}, {next(iter(found.about))} has {first.get('torch')}: answers may differ in"
            " their last digits, which is allowed for"
        )


def _models(scenario: Scenario, about: dict[str, reach.About]) -> list[str]:
    """Models of the agents against what the scenario would load here."""
    graphs: dict[str, LayerGraph] = {}
    problems = []
    for name in scenario.model.names:
        spec = ModelSpec(name, scenario.model.seed, scenario.model.weights.get(name))
        if scenario.compute.tensors == "sizes":
            graphs[name] = load_graph(spec)
            continue
        model = load_model(spec)
        graphs[name] = model.graph
        here = fingerprint.of_model(model)["weights"]
        for host, facts in about.items():
            known = reach.loaded_as(facts, name)
            there = None if known is None else facts["models"][known]["weights"]
            if there is not None and there != here:
                problems.append(
                    f"{host}: its {label(name)!r} has other weights than the scenario's ({there[:12]} there,"
                    f" {str(here)[:12]} here): give both the same file (--weights MODEL=FILE, model.weights)"
                )
    return reach.lacking(scenario, about, graphs) + problems


async def _measure_ways(inventory: Inventory, by: TcpTransport, names: list[str], found: Findings) -> None:
    """Probes on the data plane, between any two machines, one after the other."""
    lines: dict[str, Line] = {}
    try:
        for name in names:
            lines[name] = await reach.dial(inventory, by, name)
            peers = {peer: inventory.hosts[peer].address(name) for peer in names if peer != name}
            sizes = bool(found.about[name]["sizes"])
            kind = {"mode": "modelled", "tensors": "sizes"} if sizes else {"mode": "measured", "tensors": "real"}
            await lines[name].ask("configure", peers=peers, **kind)
        for source, target in permutations(names, 2):
            try:
                found.ways.append(await _way(lines[source], source, target))
            except AgentError as error:
                found.problems.append(f"from {source} to {target} ({inventory.hosts[target].address(source)}): {error}")
    except (NodeError, AgentError) as error:
        found.problems.append(str(error))
    finally:
        for line in lines.values():
            await line.close()


async def _way(line: Line, source: str, target: str) -> Way:
    trips = [float((await line.ask("probe", peer=target, size=0, patience_s=15.0)).fields["rtt_s"]) for _ in range(ROUND_TRIPS)]
    quickest, rate = min(trips), 0.0
    for size in SIZES:
        fields = (await line.ask("probe", peer=target, size=size, patience_s=15.0)).fields
        took = max(float(fields["rtt_s"]) - quickest, 1e-6)
        rate = float(fields["bytes"]) * 8.0 / took
        if took >= LONG_ENOUGH_S:
            break
        await asyncio.sleep(0.0)
    return Way(source, target, quickest, rate)
