"""Which hosts can be used: what the control plane says of hosts, and what probes say of paths, made into a device's view.

A path is broken while a probe on it has gone unanswered for too long; the next answer heals it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from d3node.graph import LayerGraph
from d3node.plan import Plan
from d3node.program import lower_all
from testbed.costs.network import NetworkState, Path
from testbed.orchestrator.world import Pair, Site


@dataclass(frozen=True)
class View:
    """What one device may plan with: its `site` without hosts that cannot be used (the first edge host stays, as a name, where
    none is left), why others of its hosts are `missing`, and the paths of a `NetworkState` that lead nowhere."""

    site: Site
    missing: Mapping[str, str] = field(default_factory=dict)
    cut: frozenset[str] = frozenset()
    broken: frozenset[Pair] = frozenset()

    @property
    def narrowed(self) -> bool:
        """Whether anything is missing."""
        return bool(self.missing or self.broken)

    def lacking(self, graph: LayerGraph, plan: Plan) -> str | None:
        """Why a plan cannot be carried out as things are; None where it can."""
        if not self.narrowed:
            return None
        programs = lower_all(graph, plan, self.site.route)
        hosts = [program.host for program in programs]
        hosts += [tile.host for stack in plan.stacks for tile in stack.tiles]
        lost = next((host for host in hosts if host in self.missing), None)
        if lost is not None:
            return f"the plan of {plan.planner!r} needs {lost}: {self.missing[lost]}"
        for program in programs:
            targets = {send.host for send in program.sends} | (
                {plan.hosts["device"]} if program.answers or program.exits else set()
            )
            for target in sorted(targets):
                if (program.host, target) in self.broken or (target, program.host) in self.broken:
                    return (
                        f"the plan of {plan.planner!r} needs the path from {program.host} to {target}: probes of it go unanswered"
                    )
        return None

    def seen(self, network: NetworkState) -> NetworkState:
        """A state of the network with the paths that lead nowhere as outages."""
        for name in sorted(self.cut):
            path: Path = getattr(network, name)
            network = network.with_path(name, Path(0.0, path.delay_s))
        return network


class Reach:
    """What is known of hosts and paths in one session. `dead`: lost hosts and the reasons, kept up to date by the fleet.
    `takes_s`: how long a probe of a path may take where nothing is wrong, by the scenario."""

    def __init__(self, dead: Mapping[str, str]) -> None:
        self.dead = dead
        self.broken: set[Pair] = set()
        self.takes_s: dict[Pair, float] = {}
        self._took: dict[Pair, float] = {}
        self._asked: dict[Pair, float] = {}

    def asked(self, pair: Pair, now: float) -> None:
        """A probe has been sent."""
        self._asked.setdefault(pair, now)

    def answered(self, pair: Pair, took_s: float) -> bool:
        """A probe is answered after so long; whether that heals the path."""
        self._asked.pop(pair, None)
        self._took[pair] = took_s
        healed = pair in self.broken
        self.broken.discard(pair)
        return healed

    def anew(self) -> None:
        """Nothing is known of any path."""
        self._asked.clear()
        self._took.clear()
        self.broken.clear()

    def cut_off(self, a: str, b: str) -> None:
        """The connections between two hosts are lost, and the probes on them."""
        self._asked.pop((a, b), None)
        self._asked.pop((b, a), None)

    def forget(self, host: str) -> None:
        """A host is lost: probes of it say nothing of paths."""
        for pair in [pair for pair in self._asked if host in pair]:
            del self._asked[pair]
        self.broken = {pair for pair in self.broken if host not in pair}

    def probe_s(self, pair: Pair) -> float:
        """How long a probe of a path takes where nothing is wrong: by the scenario, or as long as the last one, which is more."""
        return max(self.takes_s.get(pair, 0.0), self._took.get(pair, 0.0))

    def overdue(self, now: float, patience_s: Callable[[Pair], float]) -> list[Pair]:
        """Paths that are broken from now on: the oldest unanswered probe is older than there is patience."""
        found = [pair for pair, since in self._asked.items() if pair not in self.broken and now - since >= patience_s(pair)]
        self.broken.update(found)
        return found

    def ok(self, a: str, b: str) -> bool:
        """Whether two hosts may reach each other, as far as is known."""
        return (a, b) not in self.broken and (b, a) not in self.broken

    def view(self, site: Site) -> View:
        """What a device of this (whole) site may plan with."""
        device, cloud = site.device, site.cloud
        reachable = [host for host in site.edge_hosts if host not in self.dead and self.ok(device, host)]
        upward = cloud not in self.dead and self.ok(device, cloud)
        if upward:  # a leader that can reach the cloud leads
            reachable.sort(key=lambda host: not self.ok(host, cloud))
        leader = reachable[0] if reachable else site.leader
        edges = [host for host in reachable if host == leader or self.ok(leader, host)]
        relays = bool(edges) and upward and self.ok(leader, cloud)
        cut = set()
        if not edges:
            cut |= {"device_edge", "edge_cloud"}
        if not relays:
            cut.add("edge_cloud")
        if not upward:
            cut |= {"edge_cloud", "device_cloud"}
        missing = {
            host: self._why(host) for host in (*site.edge_hosts, cloud) if host not in edges and (host != cloud or not upward)
        }
        if device in self.dead:
            missing[device] = self.dead[device]
        mine = {device, cloud, *site.edge_hosts}
        broken = frozenset(pair for pair in self.broken if mine.issuperset(pair))
        mates = tuple(name for name in site.devices if name == device or name not in self.dead)
        missing.update({name: self.dead[name] for name in site.devices if name in self.dead})
        if not missing and not broken:
            return View(site)
        route = "direct" if upward and not relays else site.route
        narrowed = replace(site, edge_hosts=tuple(edges or [leader]), route=route, devices=mates)
        return View(narrowed, missing, frozenset(cut), broken)

    def _why(self, host: str) -> str:
        return self.dead.get(host, f"{host} is out of reach: probes of the path go unanswered")
