"""Reaching the agents of an inventory: connections, what agents tell of themselves, and what of that stands in a run's way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from d3node import fingerprint
from d3node.errors import AuthenticationError, NodeError
from d3node.facts import installed
from d3node.graph import LayerGraph
from d3node.protocol import VERSION
from d3node.tcp import KEEPALIVE_S, TcpTransport
from d3node.tls import Tls
from testbed.errors import AgentError, InventoryError
from testbed.hosts.clocks import Line
from testbed.hosts.inventory import Inventory, Machine
from testbed.names import label
from testbed.scenario.schema import Scenario

DIAL_S = 5.0
"""How long an agent may take to take a connection."""
About = dict[str, Any]


def transport(inventory: Inventory) -> TcpTransport:
    """What dials the agents of an inventory. Raises InventoryError."""
    tls = None
    if inventory.ca is not None and inventory.certificate is not None and inventory.key is not None:
        try:
            tls = Tls.load(inventory.ca, inventory.certificate, inventory.key)
        except AuthenticationError as error:
            raise InventoryError(f"{inventory.path}: {error}") from error
    return TcpTransport(inventory.read_secret(), tls=tls, keepalive_s=KEEPALIVE_S)


async def dial(inventory: Inventory, by: TcpTransport, host: str) -> Line:
    """A control connection of one's own to a host's agent. Raises AgentError that says what may be wrong."""
    machine = inventory.hosts[host]
    try:
        return Line(host, await by.connect(machine.control, deadline_s=DIAL_S))
    except (NodeError, OSError) as error:
        raise AgentError(f"{host}: no agent can be reached at {machine.control}: {error}{_advice(str(error))}") from error


def _advice(words: str) -> str:
    if "versions differ" in words:
        return f" (this machine has d3-testbed {installed()}, protocol {VERSION}: pip install d3-testbed=={installed()} there)"
    if "Connect call failed" in words or "did not answer" in words:
        return " (is d3node serve running there, and does no firewall keep us out?)"
    return ""


def misfits(machine: Machine, about: About) -> list[str]:
    """Why an agent is not the one of the inventory, or is not of this testbed's version; empty where it is."""
    found = []
    name = machine.name
    if about.get("protocol") != VERSION or about.get("d3node") != installed():
        found.append(
            f"{name}: its agent is of d3-testbed {about.get('d3node', '?')} (protocol {about.get('protocol', '?')}), this machine"
            f" has {installed()} (protocol {VERSION}): pip install d3-testbed=={installed()} there, and restart the agent"
        )
    for key, wanted in (("name", name), ("tier", machine.tier)):
        if about.get(key) != wanted:
            found.append(f"{name}: the agent at {machine.control} has {key} {about.get(key)!r} instead of {wanted!r} (--{key})")
    if about.get("time_scale", 1.0) != 1.0:
        found.append(f"{name}: its agent's clock is slowed down by {about['time_scale']:g}; start it without --time-scale")
    if machine.shaping and not about.get("shaping"):
        found.append(f"{name}: the inventory says shaping = true, but its agent was not started with --allow-shaping INTERFACE")
    return found


def loaded_as(about: About, model: str) -> str | None:
    """The name under which an agent has a scenario's model: the same, or that of a file that is called so; None if it has not."""
    models: Mapping[str, Any] = about.get("models", {})
    if model in models:
        return model
    called = [name for name in models if label(name) == label(model)]
    return called[0] if len(called) == 1 else None


def lacking(scenario: Scenario, about: Mapping[str, About], graphs: Mapping[str, LayerGraph]) -> list[str]:
    """Why agents cannot serve a scenario's models (`graphs`: as the scenario would load them); empty where they can."""
    found = []
    for model, graph in graphs.items():
        known, weights = fingerprint.structure(graph), {}
        for host, facts in about.items():
            name = loaded_as(facts, model)
            if name is None:
                has = ", ".join(facts.get("models", {})) or "none"
                found.append(
                    f"{host}: has not loaded {label(model)!r} (it has: {has}); restart its agent with --model {label(model)}"
                )
                continue
            there = facts["models"][name]
            if there["structure"] != known:
                found.append(
                    f"{host}: its {label(model)!r} is another network than the scenario's ({there['structure'][:12]} there,"
                    f" {known[:12]} here): the same file and the same versions of torch, torchvision and timm give the same"
                )
            if scenario.compute.tensors == "real":
                if there["weights"] is None:
                    found.append(f"{host}: has only the layer graph of {label(model)!r}; restart its agent without --sizes")
                    continue
                weights[host] = there["weights"]
                if there["own_weights"] != (model in scenario.model.weights):
                    where = "model.weights" if there["own_weights"] else "--weights"
                    found.append(
                        f"{host}: its {label(model)!r} and the scenario's do not both have weights of a file; give {where}"
                    )
                elif not there["own_weights"] and there["seed"] != scenario.model.seed:
                    found.append(
                        f"{host}: its {label(model)!r} has weights of seed {there['seed']}, the scenario's of seed"
                        f" {scenario.model.seed}; restart its agent with --seed {scenario.model.seed}"
                    )
        if len(set(weights.values())) > 1:
            groups = [
                f"{', '.join(h for h in weights if weights[h] == one)}: {one[:12]}" for one in sorted(set(weights.values()))
            ]
            found.append(
                f"{label(model)!r} has other weights on some hosts than on others ({'; '.join(groups)}); random ones may"
                " differ between kinds of processors: give all of them the same file"
                " (--weights MODEL=FILE, and model.weights in the scenario)"
            )
    return found


def alike(abouts: Iterable[About]) -> bool:
    """Whether all agents round alike: the same kind of processor, device, torch and threads."""
    return len({(a.get("machine"), a.get("device"), a.get("torch"), a.get("threads")) for a in abouts}) <= 1
