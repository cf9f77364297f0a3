"""What is known of the network and the hosts: smoothed estimates from the requests' own transfers and times, or the truth.

Whether a change matters is `trigger.py`'s business. Sources of estimates: transfer and compute records of agents' reports, and
probes where the scenario asks for them; delays are taken from the state at scenario time 0 and not estimated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from d3node.plan import Tier
from testbed.costs.network import NetworkState, Path, frame_bytes
from testbed.costs.table import Costs
from testbed.orchestrator.account import Ledger
from testbed.orchestrator.epochs import Epoch
from testbed.orchestrator.prices import stack_seconds
from testbed.orchestrator.tracker import Request
from testbed.orchestrator.trigger import Key
from testbed.orchestrator.truth import TrueState
from testbed.orchestrator.world import ModelFacts, Site

SMALLEST_BYTES = 16_000
"""Transfers below this say more of delay and start-up than of rate, and are ignored."""

SHORTEST_S = 1e-6
"""Computations and transfers shorter than this are ignored."""

SETTLED = 0.01
"""Planners are told of a host's speed or a step's factor when it is this far (relative) from what they were last told: the
jitter of clocks is no news, and prices that planners keep stay good."""

LAN_SETTLED = 0.15
"""The same for rates between edge hosts: which tiles were on the same links at the same time is only roughly known."""

REMEMBERED = 16
"""Transfers of a connection whose ends are kept, to see what queued behind what."""

SAME_FACTOR = 1e-4
"""A step whose share of its host's time is this close to the expected one has not drifted."""

Pair = tuple[str, str]


@dataclass(slots=True)
class Flow:
    """One transfer large enough to tell a rate; `start` is moved behind what was queued before it on the same connection."""

    source: str
    target: str
    start: float
    end: float
    framed_bytes: float


class Observer:
    """Beliefs of one session (one model, one planner). `smoothing` is the weight of the newest sample."""

    def __init__(self, model: ModelFacts, truth: TrueState, ledger: Ledger, knowledge: str, smoothing: float) -> None:
        self._model = model
        self._truth = truth
        self._ledger = ledger
        self.clairvoyant = knowledge == "true"
        self._weight = smoothing
        self._nominal = replace(truth, links=dict(truth.links), shares=dict(truth.shares))
        self._networks: dict[Pair, NetworkState] = {}
        self._delays: dict[Pair, float] = {}
        self._rates: dict[Pair, float] = {}
        self._speeds: dict[str, float] = {}
        self._factors: dict[tuple[int, Tier], float] = {}
        self._reference: dict[tuple[object, ...], float] = {}
        self._fresh: set[Key | Pair] = set()
        self._seen_version = -1
        self._told_rates: dict[Pair, float] = {}
        self._told_speeds: dict[str, float] = {}
        self._told_factors: dict[tuple[int, Tier], float] = {}
        self._ends: dict[Pair, deque[float]] = {}
        self.samples = 0

    # -- what planners are told -------------------------------------------------------------------------------------------

    def network(self, site: Site) -> NetworkState:
        """The network as believed (or known) for one device."""
        if self.clairvoyant:
            return self._truth.network(site)
        state = self._networks.get((site.device, site.leader))
        if state is None:
            state = self._networks[site.device, site.leader] = self._nominal.network(site)
        for name, (source, target) in _pairs(site).items():
            rate = self._told_rates.get((source, target))
            if rate is not None:
                known = state.lan[name] if name in state.lan else getattr(state, name)
                state = state.with_path(name, Path(rate, known.delay_s))
        return state

    def costs(self) -> Costs:
        """Compute costs as believed (or known)."""
        told = self._model.told_costs
        if self.clairvoyant:
            shares = {host: share * told.speed.get(host, 1.0) for host, share in self._truth.shares.items()}
            return replace(told, speed={**told.speed, **shares})
        factors = {key: factor * told.factor.get(key, 1.0) for key, factor in self._told_factors.items()}
        return replace(told, speed={**told.speed, **self._told_speeds}, factor={**told.factor, **factors})

    def values(self, site: Site) -> dict[Key, float]:
        """All values that a trigger watches for one device."""
        network, costs = self.network(site), self.costs()
        found: dict[Key, float] = {}
        for name in _pairs(site):
            path: Path = network.lan[name] if name in network.lan else getattr(network, name)
            found["rate", name] = path.rate_bps
            found["delay", name] = path.delay_s
        for host in (site.device, *site.edge_hosts, site.cloud):
            found["speed", host] = costs.speed.get(host, 1.0)
        for (v, _), factor in self._told_factors.items():
            found["factor", v] = factor
        return found

    def take_fresh(self) -> set[Key | Pair] | None:
        """What was sampled since the last call: hosts, vertices, and pairs of hosts; None: look at everything."""
        if self.clairvoyant:
            return None
        fresh, self._fresh = self._fresh, set()
        return fresh

    @property
    def changed(self) -> bool:
        """Whether the truth has changed since this was last asked (for clairvoyance only)."""
        changed = self._truth.version != self._seen_version
        self._seen_version = self._truth.version
        return changed

    def keys(self, site: Site, fresh: set[Key | Pair]) -> list[Key]:
        """The keys of one device's values that fresh samples bear on."""
        found: list[Key] = [("rate", name) for name, pair in _pairs(site).items() if pair in fresh]
        found += [("speed", host) for host in (site.device, *site.edge_hosts, site.cloud) if ("speed", host) in fresh]
        found += [("factor", v) for (v, _) in self._told_factors if ("factor", v) in fresh]
        return found

    # -- samples ----------------------------------------------------------------------------------------------------------

    def probe(
        self, source: str, target: str, nbytes: int, seconds: float, gap_s: float | None = None, end: float | None = None
    ) -> bool:
        """A probe of some bytes took this long from first byte sent to the reply's arrival. Whether that is taken as a sample.

        `gap_s`: between the message before it on its connection and the probe, at the receiver; `end`: when that had it.
        A probe that came closer behind that message than its own way takes had queued behind it. It says next to nothing of
        the rate (a 16 kB probe behind a 150 kB tensor looks ten times too slow), and the tensor's transfer will say it better.
        """
        there = self._delay_s((source, target))
        took = seconds - there - self._delay_s((target, source))
        if end is not None:
            self._ends_of((source, target)).append(end - there)
        if took <= SHORTEST_S or (gap_s is not None and gap_s < took):
            return False
        self._sample_rate((source, target), frame_bytes(nbytes) * 8.0 / took)
        return True

    def request(self, request: Request) -> None:
        """Learn from the reports of one request that is over."""
        if self.clairvoyant:
            return
        flows: list[Flow] = []
        for report in request.reports:
            host, times = report["host"], []
            for record in report["records"]:
                if record["what"] == "transfer":
                    if record["bytes"] >= SMALLEST_BYTES:
                        framed = frame_bytes(record["bytes"])
                        flows.append(Flow(record["peer"], host, record["start"], record["end"], framed))
                elif record["end"] - record["start"] > SHORTEST_S:
                    times.append(record)
            if times:
                self._learn_times(request.epoch, host, times)
        if flows:
            self._learn_rates(flows)

    def _learn_rates(self, flows: list[Flow]) -> None:
        """A path's rate is its nominal rate times expected over observed time. What is expected counts what other transfers of
        the request put on the same links meanwhile; so tiles that are scattered at once do not look like a slow network."""
        flows.sort(key=lambda flow: flow.end)
        kept = []
        for flow in flows:
            pair = (flow.source, flow.target)
            delay = self._delay_s(pair)
            flow.end -= delay
            ends = self._ends_of(pair)
            flow.start = max([flow.start, *(end for end in ends if end < flow.end)])
            ends.append(flow.end)
            if flow.end - flow.start > SHORTEST_S:
                kept.append(flow)
        for flow in kept:
            rate = flow.framed_bytes * 8.0 / (flow.end - flow.start)
            rivals = [other for other in kept if other is not flow and other.start < flow.end and flow.start < other.end]
            if rivals:
                rate *= self._crowding(flow, rivals)
            self._sample_rate((flow.source, flow.target), rate)

    def _ends_of(self, pair: Pair) -> deque[float]:
        found = self._ends.get(pair)
        if found is None:
            found = self._ends[pair] = deque(maxlen=REMEMBERED)
        return found

    def _delay_s(self, pair: Pair) -> float:
        found = self._delays.get(pair)
        if found is None:
            found = self._delays[pair] = self._nominal.path(*pair).delay_s
        return found

    def _crowding(self, flow: Flow, rivals: Sequence[Flow]) -> float:
        """How much longer a transfer should take for the rivals on its links, by the links' nominal rates (1: no longer)."""
        links = self._ledger.route(flow.source, flow.target).links
        alone = crowded = 0.0
        for key in links:
            rate = max(self._nominal.links[key].rate_bps, 1e3)
            total = flow.framed_bytes
            for other in rivals:
                if key in self._ledger.route(other.source, other.target).links:
                    overlap = min(flow.end, other.end) - max(flow.start, other.start)
                    total += other.framed_bytes * overlap / (other.end - other.start)
            alone = max(alone, flow.framed_bytes / rate)
            crowded = max(crowded, total / rate)
        return crowded / alone

    def _sample_rate(self, pair: Pair, rate_bps: float) -> None:
        source, target = pair
        tiers = self._truth.layout.by_name
        within = tiers[source].tier == tiers[target].tier
        for known in [pair, (target, source)] if within else [pair]:
            before = self._rates.get(known)
            if before is None:
                before = self._told_rates[known] = self._nominal.path(*known).rate_bps
            now = self._rates[known] = before + self._weight * (rate_bps - before)
            if not within or _is_news(now, self._told_rates[known], LAN_SETTLED):
                self._told_rates[known] = now
            self._fresh.add(known)
        self.samples += 1

    def _learn_times(self, epoch: Epoch, host: str, records: list[dict[str, Any]]) -> None:
        """The host's speed is reference over observed seconds of all its work for the request; a step that took more or less
        of that time than its part has drifted by itself."""
        tier = self._truth.layout.by_name[host].tier
        references = [self._reference_s(epoch, tier, host, record) for record in records]
        expected = sum(references)
        observed = sum(record["end"] - record["start"] for record in records)
        if expected <= SHORTEST_S:
            return
        speed = expected / observed
        nominal = self._model.told_costs.speed.get(host, 1.0)
        before = self._speeds.get(host, nominal)
        now = self._speeds[host] = before + self._weight * (speed - before)
        if _is_news(now, self._told_speeds.get(host, nominal)):
            self._told_speeds[host] = now
        self._fresh.add(("speed", host))
        self.samples += 1
        if len(records) < 2:
            return
        for record, reference in zip(records, references, strict=True):
            if reference > SHORTEST_S:
                self._learn_factor(tier, record, (record["end"] - record["start"]) * speed / reference)

    def _learn_factor(self, tier: Tier, record: dict[str, Any], factor: float) -> None:
        first = (record["vertices"][0], tier)
        if abs(factor - 1.0) < SAME_FACTOR and first not in self._factors:
            return
        for v in record["vertices"]:
            before = self._factors.get((v, tier), 1.0)
            now = self._factors[v, tier] = before + self._weight * (factor - before)
            if _is_news(now, self._told_factors.get((v, tier), 1.0)):
                self._told_factors[v, tier] = now
            self._fresh.add(("factor", v))

    def _reference_s(self, epoch: Epoch, tier: Tier, host: str, record: dict[str, Any]) -> float:
        """Seconds that a step or tile should take on the tier's reference host."""
        told = self._model.told_costs
        if "positions" in record:  # a tile that was fetched: by whom, and how much of it, is different every time
            maps = [(v, n / (self._model.graph[v].rows * self._model.graph[v].columns)) for v, n in _positions(record)]
            return sum(told.vertex_s(v, tier, None, share) for v, share in maps)
        tiled = "tile" in record
        key = (epoch.number, tier, record["stack"], record["tile"]) if tiled else (epoch.number, host, record["step"])
        found = self._reference.get(key)
        if found is None:
            if tiled:
                stack = epoch.plan.stacks[record["stack"]]
                seconds = stack_seconds(self._model.graph, stack, told)[record["tile"]]
                found = seconds * told.speed.get(host, 1.0)
            else:
                found = told.run_s(record["vertices"], tier)
            self._reference[key] = found
        return found


def _positions(record: dict[str, Any]) -> list[tuple[int, int]]:
    """(vertex, positions) of what a fetched tile really computed."""
    return [(v, n) for v, n in zip(record["vertices"], record["positions"], strict=True) if n]


def _is_news(value: float, told: float, settled: float = SETTLED) -> bool:
    return abs(value - told) > settled * told


@cache
def _pairs(site: Site) -> Mapping[str, Pair]:
    """Hosts at the ends of every path that matters to a device's planner."""
    found = {"device_edge": (site.device, site.leader), "edge_cloud": (site.leader, site.cloud)}
    if site.route == "direct":
        found["device_cloud"] = (site.device, site.cloud)
    found.update({host: (site.leader, host) for host in site.edge_hosts[1:]})
    return found
