"""Which structure of a plan is best where: maps over access and backbone rate, edge speed, encoding of the input, and load.

A *structure* is the set of tiers that compute: three single tiers, three pairs, all three. For a point of a map the exact optimum
(`optimal`: a minimum cut) is compared with the exact optimum of every single tier and every pair of tiers, and with HPA's plan,
all by D3's objective, the sum of compute and transfer seconds. Under load it is the busiest host or link that counts
(`optimal-throughput`), with tiles it is `optimal-tiles` and `d3`. Maps are drawn in `figures/structures.py`; `phase.py` asks any
planner about the two rates of one scenario.

Nothing is run: these are plans and their prices, on the cost models that runs use.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import product

import numpy as np
import pandas as pd

from d3node.graph import INPUT, LayerGraph
from d3node.model import ModelSpec, load_graph
from d3node.plan import TIERS, Tier
from testbed.costs import devices
from testbed.costs.network import NetworkState, Path
from testbed.costs.table import Costs
from testbed.orchestrator.world import travelling_input
from testbed.planners.base import Problem
from testbed.planners.d3 import D3
from testbed.planners.evaluate import critical_path
from testbed.planners.hpa import Hpa
from testbed.planners.loads import busy, loads
from testbed.planners.mincut import minimum_cut
from testbed.planners.optimal import OptimalThroughput, OptimalTiles
from testbed.planners.placement import ranks_of
from testbed.planners.prices import CLOUD, DEVICE, EDGE, Prices, make_plan, prices
from testbed.planners.throughput import smallest, smallest_bound

SINGLES: dict[str, tuple[int, ...]] = {"device": (DEVICE,), "edge": (EDGE,), "cloud": (CLOUD,)}
PAIRS: dict[str, tuple[int, ...]] = {
    "device + edge": (DEVICE, EDGE),
    "edge + cloud": (EDGE, CLOUD),
    "device + cloud": (DEVICE, CLOUD),
}
THREE = "device + edge + cloud"
TIERS_OF: dict[str, tuple[int, ...]] = {**SINGLES, **PAIRS, THREE: (DEVICE, EDGE, CLOUD)}
STRUCTURES = tuple(TIERS_OF)
"""Names of structures, the simpler ones first."""

EXACT = 1e-6
"""Share within which two sums are the same: a cut counts in whole nanoseconds."""

_PRICED_OUT_S = 1e4
"""Seconds of a vertex on a tier that must not be used: more than any plan, and far from 64-bit nanoseconds."""


@dataclass(frozen=True)
class Setting:
    """One point: profiles of the three tiers, rates in Mbit/s, one-way delays in seconds, the edge's speed relative to its
    profile (all edge hosts), and how many edge hosts there are on a 1 Gbit/s LAN."""

    device: str = "raspberry-pi-4"
    edge: str = "desktop-6core"
    cloud: str = "rtx-2080-ti"
    access_mbps: float = 84.95
    backbone_mbps: float = 18.88
    access_delay_s: float = 0.001
    backbone_delay_s: float = 0.010
    edge_speed: float = 1.0
    edge_hosts: int = 1


def over(base: Setting, **axes: Iterable[float]) -> list[Setting]:
    """All combinations of values of some fields, the last one changing fastest."""
    names = list(axes)
    return [replace(base, **dict(zip(names, values, strict=True))) for values in product(*axes.values())]  # type: ignore[arg-type]


def log_steps(low: float, high: float, count: int) -> list[float]:
    """Values from low to high at equal ratios, both ends included."""
    return [float(value) for value in np.geomspace(low, high, count)]


@lru_cache(maxsize=64)
def graph_of(model: str, encoding: str = "float32") -> LayerGraph:
    """A model's graph, its input as it travels ("float32" or "uint8"); the same object every time, so that what planners keep
    on it is kept."""
    return travelling_input(load_graph(ModelSpec(model)), encoding)


@lru_cache(maxsize=256)
def _costs(model: str, encoding: str, setting: Setting) -> Costs:
    graph = graph_of(model, encoding)
    profiles: dict[Tier, str] = {"device": setting.device, "edge": setting.edge, "cloud": setting.cloud}
    return Costs({tier: devices.tier_costs(profile, graph) for tier, profile in profiles.items()})


def problem_at(model: str, encoding: str, setting: Setting) -> Problem:
    """What planners are asked at one point."""
    rateless = replace(setting, access_mbps=0.0, backbone_mbps=0.0, edge_speed=1.0, edge_hosts=1)
    costs = _costs(model, encoding, rateless)
    edges = tuple(f"e{i + 1}" for i in range(setting.edge_hosts))
    if setting.edge_speed != 1.0:
        costs = replace(costs, speed=dict.fromkeys(edges, setting.edge_speed))
    access = Path(setting.access_mbps * 1e6, setting.access_delay_s)
    backbone = Path(setting.backbone_mbps * 1e6, setting.backbone_delay_s)
    back = Path(min(access.rate_bps, backbone.rate_bps), access.delay_s + backbone.delay_s)
    network = NetworkState(access, backbone, back, {host: Path(1e9, 1e-4) for host in edges[1:]})
    return Problem(graph_of(model, encoding), costs, network, {"device": "d1", "edge": "e1", "cloud": "c1"}, edges)


def best_on(problem: Problem, priced: Prices, tiers: Sequence[int]) -> list[int]:
    """Ranks of the optimum of D3's sum among the placements that compute on some tiers only."""
    if len(tiers) == 1:
        return [DEVICE, *[tiers[0]] * (len(problem.graph) - 1)]
    return minimum_cut(problem.graph, _only(priced, tiers))[0]


def _only(priced: Prices, tiers: Sequence[int]) -> Prices:
    """Prices with the other tiers priced out; the input stays where it is."""
    size = len(priced.compute[DEVICE])
    out = [0.0, *[_PRICED_OUT_S] * (size - 1)]
    device, edge, cloud = (row if rank in tiers else out for rank, row in enumerate(priced.compute))
    return replace(priced, compute=(device, edge, cloud))


def structure_of(ranks: Sequence[int]) -> str:
    """The structure of a placement: which tiers compute at least one vertex (the input is not computed)."""
    used = tuple(sorted(set(ranks[INPUT + 1 :])))
    return next(name for name, tiers in TIERS_OF.items() if tiers == used)


def cuts(model: str, encoding: str, setting: Setting) -> pd.DataFrame:
    """Which cuts can pay between two tiers, whatever the rate: a row for each pair of tiers and graph layer behind which is cut.

    `given_up`: share of what the higher tier would save on the whole model that is lost when the lower one does the layers in
    front. `sent`: bytes that cross, over those of the float32 input. `delay`: the pair's one-way delay over that saving. On a
    chain some rate makes a cut faster than both tiers alone if and only if sent < `most` = input x (1 - given_up - delay) /
    (1 - delay): it must be slower to send the input than the cut's tensor and the work in front, and slower to stay. `ratio` is
    sent / most, infinite where no rate will do.
    """
    problem = problem_at(model, encoding, setting)
    graph, compute, network = problem.graph, prices(problem).compute, problem.network
    full = graph_of(model)[INPUT].output_bytes
    across = {pair: sum(path.delay_s for path in network.hops(TIERS[low], TIERS[high])) for pair, (low, high) in PAIRS.items()}
    rows = []
    for pair, (low, high) in PAIRS.items():
        saving = [slow - fast for slow, fast in zip(compute[low], compute[high], strict=True)]
        delay = across[pair] / sum(saving) if sum(saving) > across[pair] else 1.0
        for level in range(max(graph.levels)):
            before = [v for v in range(len(graph)) if graph.levels[v] <= level]
            crossing = [v for v in before if any(graph.levels[w] > level for w in graph.successors[v])]
            given_up = sum(saving[v] for v in before) / sum(saving)
            found = {
                "layer": level,
                "given_up": given_up,
                "sent": sum(graph[v].output_bytes for v in crossing) / full,
                "delay": delay,
                "most": graph[INPUT].output_bytes / full * max(1 - given_up - delay, 0.0) / (1 - delay) if delay < 1.0 else 0.0,
            }
            rows.append({"model": model, "encoding": encoding, "pair": pair, **found})
    frame = pd.DataFrame(rows)
    return frame.assign(ratio=frame["sent"] / frame["most"])


def latency_map(model: str, encoding: str, settings: Iterable[Setting]) -> pd.DataFrame:
    """A row for each point: model, encoding, the setting, seconds of the best plan within every structure (columns named as in
    STRUCTURES; within a pair both single tiers count, too) and of HPA's plan (`hpa`, `hpa_structure`, and `hpa_loss`: its ratio
    to the optimum), and what `judged` adds."""
    rows = []
    for setting in settings:
        problem = problem_at(model, encoding, setting)
        priced = prices(problem)
        seconds = {name: priced.objective(best_on(problem, priced, tiers)) for name, tiers in TIERS_OF.items()}
        greedy = Hpa().plan(problem)
        found = {
            "hpa": greedy.objective_s,
            "hpa_structure": structure_of(ranks_of(problem.graph, greedy.plan.tiers)),
            "hpa_loss": greedy.objective_s / seconds[THREE],
        }
        rows.append({"model": model, "encoding": encoding, **asdict(setting), **seconds, **found})
    return judged(pd.DataFrame(rows))


def judged(frame: pd.DataFrame) -> pd.DataFrame:
    """A map with two ratios more, `over_single` and `over_pair` (the best single tier's seconds, and those of the best within any
    pair, over the optimum's), and `structure`, the simplest that is optimal."""
    best = frame[THREE]
    single, pair = frame[[*SINGLES]].min(axis=1) / best, frame[[*PAIRS]].min(axis=1) / best
    return frame.assign(over_single=single, over_pair=pair, structure=simplest(frame))


def simplest(frame: pd.DataFrame, share: float = EXACT) -> pd.Series:
    """For each point the simplest structure within a share of the optimum: one tier before two before three, the faster among
    equals. With share = 0.1 a split must be worth a tenth to be named."""
    enough = frame[THREE] * (1.0 + share)
    found: pd.Series = pd.Series([THREE] * len(frame), index=frame.index)
    for group in (PAIRS, SINGLES):
        within = frame[[*group]].min(axis=1) <= enough
        found[within] = frame.loc[within, [*group]].idxmin(axis=1).to_numpy()
    return found


def shares(frame: pd.DataFrame, by: str | Sequence[str] = "model", share: float = EXACT) -> pd.DataFrame:
    """Per cent of a map's points on which each structure is the simplest within a share of the optimum."""
    keys = [by] if isinstance(by, str) else list(by)
    table = frame.assign(structure=simplest(frame, share)).groupby([*keys, "structure"], sort=False).size().unstack(fill_value=0)
    return 100.0 * table.div(table.sum(axis=1), axis=0).reindex(columns=list(STRUCTURES), fill_value=0)


def agreement(model: str, encoding: str, settings: Iterable[Setting]) -> pd.DataFrame:
    """How the sum's verdict stands by the critical path (overlap, and the answer's way back counted): for each point the sum's
    structure, the structure of the first answer among the best plans of each, and how much later the sum's answer is."""
    rows = []
    for setting in settings:
        problem = problem_at(model, encoding, setting)
        priced = prices(problem)
        plans = [best_on(problem, priced, tiers) for tiers in TIERS_OF.values()]
        first = [critical_path(problem, make_plan("optimal", problem, ranks)).latency_s for ranks in plans]
        fastest = plans[int(np.argmin(first))]
        found = {"by_sum": structure_of(plans[-1]), "by_critical_path": structure_of(fastest), "later": first[-1] / min(first)}
        rows.append({"model": model, "encoding": encoding, **found})
    return pd.DataFrame(rows)


def load_map(model: str, encoding: str, settings: Iterable[Setting], effort: float = 2.0) -> pd.DataFrame:
    """The same as `latency_map` for many requests: seconds are those for which a request keeps the busiest host or link busy, at
    least (the rate that a structure sustains is their inverse). Also `proven`, and what the plan of least sum sustains and
    how much larger than the least the sum of the most sustaining plan is (`least_sum_s`, `slower`)."""
    rows = []
    for setting in settings:
        problem = problem_at(model, encoding, setting)
        priced = prices(problem)
        resources = busy(problem, priced)
        least = best_on(problem, priced, TIERS_OF[THREE])
        best = smallest(problem, priced, effort)
        seconds = {
            name: loads(resources, priced, best_on(problem, priced, tiers)).bottleneck_s for name, tiers in SINGLES.items()
        }
        bounds = {name: smallest_bound(problem, _only(priced, tiers), effort) for name, tiers in PAIRS.items()}
        seconds |= {name: bound for name, (bound, _) in bounds.items()} | {THREE: best.loads.bottleneck_s}
        found = {
            "proven": best.proven and all(reached for _, reached in bounds.values()),
            "least_sum_s": loads(resources, priced, least).bottleneck_s,
            "slower": best.sum_s / priced.objective(least),
            "bottleneck": best.loads.bottleneck,
        }
        rows.append({"model": model, "encoding": encoding, **asdict(setting), **seconds, **found})
    return judged(pd.DataFrame(rows))


def demand_map(model: str, encoding: str, settings: Iterable[Setting], rates_per_s: Sequence[float]) -> pd.DataFrame:
    """A row for each point and rate of requests: the `structure` of the plan with the least sum among those that sustain the
    rate ("none" where no plan does), and its `seconds`."""
    rows = []
    for setting in settings:
        problem = problem_at(model, encoding, setting)
        for rate in rates_per_s:
            asked = replace(problem, options={"rate": rate, "effort": 2.0})
            decision = OptimalThroughput().plan(asked)
            ranks = ranks_of(problem.graph, decision.plan.tiers)
            structure = structure_of(ranks) if decision.plan.notes["sustained"] else "none"
            found = {"per_s": rate, "structure": structure, "seconds": decision.objective_s}
            rows.append({"model": model, "encoding": encoding, **asdict(setting), **found})
    return pd.DataFrame(rows)


def tiles_map(model: str, encoding: str, settings: Iterable[Setting]) -> pd.DataFrame:
    """A row for each point: seconds of the optimum without and with tiles (`untiled`, `tiled`) and of D3's plan (`d3`);
    `tile_gain` and `d3_loss` are the ratios of the first and the last to `tiled`, `structure` is the tiled optimum's."""
    rows = []
    for setting in settings:
        problem = problem_at(model, encoding, setting)
        priced = prices(problem)
        best, own = OptimalTiles().plan(problem), D3().plan(problem)
        untiled = priced.objective(best_on(problem, priced, TIERS_OF[THREE]))
        seconds = {"untiled": untiled, "tiled": best.objective_s, "d3": own.objective_s}
        ratios = {"tile_gain": untiled / best.objective_s, "d3_loss": own.objective_s / best.objective_s}
        structure = structure_of(ranks_of(problem.graph, best.plan.tiers))
        facts = {"structure": structure, "proven": best.plan.notes["proven"]}
        rows.append({"model": model, "encoding": encoding, **asdict(setting), **seconds, **ratios, **facts})
    return pd.DataFrame(rows)
