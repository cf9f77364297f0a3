"""What is known of the network and the hosts: smoothed estimates from the requests' own transfers and times, or the truth.

Whether a change matters is `trigger.py`'s business. Sources of estimates: transfer and compute records of agents' reports, and
probes where the scenario asks for them; delays are taken from the state at scenario time 0 and not estimated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

from d3node.plan import Tier
from testbed.costs.network import NetworkState, Path, frame_bytes
from testbed.costs.table import Costs
from testbed.orchestrator.account import Ledger
from testbed.orchestrator.epochs import Epoch
from testbed.orchestrator.prices import stack_seconds
from testbed.orchestrator.tracker import Request
from testbed.orchestrator.trigger import Key
from testbed.orchestrator.truth import LinkKey, TrueState
from testbed.orchestrator.world import ModelFacts, Pair, Site

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


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """What is known of one directed pair of hosts: the delay, the nominal rates of the links between them (1 kbit/s at least),
    the narrowest of them, and the ends of the last transfers. `tells`: the pairs that a sample speaks for (on a LAN both
    directions)."""

    delay_s: float
    links: Mapping[LinkKey, float]
    narrowest: float
    tells: tuple[Pair, ...]
    ends: deque[float]
    _shared: dict[Way, tuple[LinkKey, ...]] = field(default_factory=dict)

    def shared(self, other: Way) -> tuple[LinkKey, ...]:
        """The links that both have."""
        found = self._shared.get(other)
        if found is None:
            found = self._shared[other] = tuple(key for key in self.links if key in other.links)
        return found


@dataclass(slots=True)
class Flow:
    """One transfer large enough to tell a rate; `start` is moved behind what was queued before it on the same connection, `end`
    is when its last byte left (it `arrived` a delay later)."""

    way: Way
    arrived: float
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
        self._networks: dict[tuple[str, ...], NetworkState] = {}
        self._ways: dict[Pair, Way] = {}
        self._rates: dict[Pair, float] = {}
        self._speeds: dict[str, float] = {}
        self._factors: dict[tuple[int, Tier], float] = {}
        self._reference: dict[tuple[object, ...], float] = {}
        self._fresh: set[Key | Pair] = set()
        self._seen_version = -1
        self._told_rates: dict[Pair, float] = {}
        self._told_speeds: dict[str, float] = {}
        self._told_factors: dict[tuple[int, Tier], float] = {}
        self.samples = 0

    def anew(self) -> Observer:
        """One that has learned nothing yet."""
        fresh = Observer(self._model, self._truth, self._ledger, "true" if self.clairvoyant else "estimated", self._weight)
        fresh._nominal = self._nominal
        return fresh

    # -- what planners are told -------------------------------------------------------------------------------------------

    def network(self, site: Site) -> NetworkState:
        """The network as believed (or known) for one device."""
        if self.clairvoyant:
            return self._truth.network(site)
        known_as = (site.device, *site.edge_hosts, site.route)
        state = self._networks.get(known_as)
        if state is None:
            state = self._nominal.network(site)
        for name, pair in site.pairs.items():
            rate = self._told_rates.get(pair)
            if rate is not None and rate != (known := _path(state, name)).rate_bps:
                state = state.with_path(name, Path(rate, known.delay_s))
        self._networks[known_as] = state
        return state

    def costs(self) -> Costs:
        """Compute costs as believed (or known)."""
        told = self._model.told_costs
        if self.clairvoyant:
            return replace(told, speed=self._speed_told())
        factors = {key: factor * told.factor.get(key, 1.0) for key, factor in self._told_factors.items()}
        return replace(told, speed=self._speed_told(), factor={**told.factor, **factors})

    def _speed_told(self) -> dict[str, float]:
        """Relative speed of hosts as believed (or known)."""
        nominal = self._model.told_costs.speed
        if self.clairvoyant:
            return {**nominal, **{host: share * nominal.get(host, 1.0) for host, share in self._truth.shares.items()}}
        return {**nominal, **self._told_speeds}

    def values(self, site: Site) -> dict[Key, float]:
        """All values that a trigger watches for one device."""
        network = self.network(site)
        found: dict[Key, float] = {}
        for name in site.pairs:
            path = _path(network, name)
            found["rate", name] = path.rate_bps
            found["delay", name] = path.delay_s
        for host in (site.device, *site.edge_hosts, site.cloud):
            found["speed", host] = self._speed(host)
        for (v, _), factor in self._told_factors.items():
            found["factor", v] = factor
        return found

    def _speed(self, host: str) -> float:
        """A host's speed as in `costs`, where one host is asked for and a fleet may have a thousand."""
        nominal = self._model.told_costs.speed.get(host, 1.0)
        if self.clairvoyant:
            return self._truth.shares.get(host, 1.0) * nominal
        return self._told_speeds.get(host, nominal)

    def rate_bps(self, source: str, target: str) -> float:
        """The rate of a path as believed (or known)."""
        if self.clairvoyant:
            return self._truth.path(source, target).rate_bps
        return self._told_rates.get((source, target), self._nominal.path(source, target).rate_bps)

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
        found: list[Key] = [("rate", name) for name, pair in site.pairs.items() if pair in fresh]
        found += [("speed", host) for host in (site.device, *site.edge_hosts, site.cloud) if ("speed", host) in fresh]
        if self._told_factors:
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
        way = self._way(source, target)
        took = seconds - way.delay_s - self._way(target, source).delay_s
        if end is not None:
            way.ends.append(end - way.delay_s)
        if took <= SHORTEST_S or (gap_s is not None and gap_s < took):
            return False
        self._sample_rate(way, frame_bytes(nbytes) * 8.0 / took)
        return True

    def request(self, request: Request) -> None:
        """Learn from the reports of one request that is over."""
        if self.clairvoyant or request.recoveries:  # whose work is of several plans
            return
        flows: list[Flow] = []
        for report in request.reports:
            host, times = report["host"], []
            for record in report["records"]:
                start, end = record["start"], record["end"]
                if record["what"] == "transfer":
                    if (nbytes := record["bytes"]) >= SMALLEST_BYTES:
                        way = self._ways.get((record["peer"], host)) or self._way(record["peer"], host)
                        flows.append(Flow(way, end, start, end - way.delay_s, frame_bytes(nbytes)))
                elif end - start > SHORTEST_S:
                    times.append(record)
            if times:
                self._learn_times(request.epoch, host, times)
        if flows:
            self._learn_rates(flows)

    def _learn_rates(self, flows: list[Flow]) -> None:
        """A path's rate is its nominal rate times expected over observed time. What is expected counts what other transfers of
        the request put on the same links meanwhile; so tiles that are scattered at once do not look like a slow network."""
        flows.sort(key=attrgetter("arrived"))
        kept = []
        for flow in flows:
            start, end = flow.start, flow.end
            ends = flow.way.ends
            if max(ends, default=start) > start:
                flow.start = start = max([start, *[before for before in ends if before < end]])
            ends.append(end)
            if end - start > SHORTEST_S:
                kept.append(flow)
        for flow in kept:
            start, end = flow.start, flow.end
            rivals = [other for other in kept if other.start < end and start < other.end and other is not flow]
            rate = flow.framed_bytes * 8.0 / (end - start)
            if rivals:
                rate *= _crowding(flow, rivals)
            self._sample_rate(flow.way, rate)

    def _way(self, source: str, target: str) -> Way:
        found = self._ways.get((source, target))
        if found is None:
            nominal, route = self._nominal, self._ledger.route(source, target)
            pair = source, target
            links = {key: max(nominal.links[key].rate_bps, 1e3) for key in route.links}
            found = self._ways[pair] = Way(
                delay_s=nominal.path(source, target).delay_s,
                links=links,
                narrowest=min(links.values()),
                tells=(pair, (target, source)) if route.source == route.target else (pair,),
                ends=deque(maxlen=REMEMBERED),
            )
        return found

    def _sample_rate(self, way: Way, rate_bps: float) -> None:
        within = len(way.tells) > 1
        for pair in way.tells:
            before = self._rates.get(pair)
            if before is None:
                before = self._told_rates[pair] = self._nominal.path(*pair).rate_bps
            now = self._rates[pair] = before + self._weight * (rate_bps - before)
            if not within or _is_news(now, self._told_rates[pair], LAN_SETTLED):
                self._told_rates[pair] = now
            self._fresh.add(pair)
        self.samples += 1

    def _learn_times(self, epoch: Epoch, host: str, records: list[dict[str, Any]]) -> None:
        """The host's speed is reference over observed seconds of all its work for the request; a step that took more or less
        of that time than its part has drifted by itself."""
        tier = self._truth.layout.by_name[host].tier
        references = [self._reference_s(epoch, tier, host, record) for record in records]
        expected = sum(references)
        observed = sum([record["end"] - record["start"] for record in records])
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


def _crowding(flow: Flow, rivals: Sequence[Flow]) -> float:
    """How much longer a transfer should take for these others on its links meanwhile, by the links' nominal rates (1: no
    longer)."""
    start, end, own, way = flow.start, flow.end, flow.framed_bytes, flow.way
    total = dict.fromkeys(way.links, own)
    for other in rivals:
        s, e = other.start, other.end
        if shared := way.shared(other.way):
            rival_bytes = other.framed_bytes * ((end if end < e else e) - (start if start > s else s)) / (e - s)
            for key in shared:
                total[key] += rival_bytes
    return max([total[key] / rate for key, rate in way.links.items()]) / (own / way.narrowest)


def _path(network: NetworkState, name: str) -> Path:
    """A path by its name, or by the host of the LAN that it leads to."""
    found: Path = network.lan[name] if name in network.lan else getattr(network, name)
    return found
