"""Why a plan cuts where it cuts: what crosses at each boundary, what that costs, and what the nearest other cuts would cost.

All figures are the planner's own view (the costs it was told, the idle network). Two neighbours of every crossing are priced:
"earlier" moves the producer up to its consumer's tier, "later" the first consumer down to its producer's; what one-way flow
makes follow moves with them, and a stack that loses a vertex is no stack any more. The drawing is in `drawing.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from d3node.errors import PlanError
from d3node.graph import INPUT
from d3node.plan import RANK, TIERS, Plan, Tier
from testbed.errors import CapacityError
from testbed.planners.base import Problem
from testbed.planners.evaluate import critical_path, objective_s
from testbed.planners.limited import moved
from testbed.planners.memory import check_capacities
from testbed.report import units
from testbed.report.forecast import Crossing, Forecast


@dataclass(frozen=True)
class Shift:
    """A neighbour of a plan: `vertex` moves to `tier`, `others` with it; what the sum, the critical path and the bottleneck would
    be longer by (below 0: shorter), in seconds; `fits` is False where a memory limit forbids it."""

    vertex: int
    tier: Tier
    others: int
    objective_s: float
    latency_s: float
    bottleneck_s: float
    fits: bool


@dataclass(frozen=True)
class Boundary:
    """One tensor that crosses, and the cuts before and behind it; None where there is none (the input stays on the device)."""

    number: int
    crossing: Crossing
    consumer: int
    earlier: Shift | None
    later: Shift | None


@dataclass(frozen=True)
class Explanation:
    """A plan's boundaries, and the sums of doing everything on one tier, for comparison."""

    forecast: Forecast
    boundaries: tuple[Boundary, ...]
    single_s: dict[Tier, float]


def explain(forecast: Forecast) -> Explanation:
    """Explain a plan."""
    problem, plan = forecast.told, forecast.decision.plan
    graph = problem.graph
    boundaries = []
    for number, crossing in enumerate(forecast.crossings(), start=1):
        u = crossing.vertex
        readers = [w for w in graph.successors[u] if plan.tiers[w] == crossing.target]
        first = min(readers or [w for w in graph.successors[u] if plan.tiers[w] != plan.tiers[u]], default=None)
        if first is None:
            continue
        earlier = None if u == INPUT or plan.tiers[u] != crossing.source else _shift(problem, plan, u, plan.tiers[first])
        later = _shift(problem, plan, first, crossing.source)
        boundaries.append(Boundary(number, crossing, first, earlier, later))
    single = {}
    for tier in TIERS:
        whole = replace(plan, tiers=("device", *[tier] * (len(graph) - 1)), stacks=())
        single[tier] = objective_s(problem, whole)
    return Explanation(forecast, tuple(boundaries), single)


def _shift(problem: Problem, plan: Plan, v: int, tier: Tier) -> Shift | None:
    """The neighbour with v on a tier; None where the plan's other parts do not allow it (exits, parts on other devices)."""
    graph = problem.graph
    ranks = moved(graph, [RANK[t] for t in plan.tiers], v, RANK[tier])
    tiers = tuple(TIERS[rank] for rank in ranks)
    stacks = tuple(stack for stack in plan.stacks if all(tiers[w] == "edge" for w in stack.vertices))
    other = replace(plan, tiers=tiers, stacks=stacks)
    fits = True
    try:
        other.check(graph)
        check_capacities(problem, other)
    except PlanError:
        return None
    except CapacityError:
        fits = False
    now, then = critical_path(problem, plan), critical_path(problem, other)
    return Shift(
        vertex=v,
        tier=tier,
        others=sum(a != b for a, b in zip(plan.tiers, tiers, strict=True)) - 1,
        objective_s=objective_s(problem, other) - objective_s(problem, plan),
        latency_s=then.latency_s - now.latency_s,
        bottleneck_s=then.bottleneck_s - now.bottleneck_s,
        fits=fits,
    )


def sentences(found: Explanation) -> list[str]:
    """The explanation in words: the whole, then a line for each boundary."""
    forecast = found.forecast
    graph, plan = forecast.problem.graph, forecast.decision.plan
    singles = ", ".join(f"{tier} {units.seconds(seconds)}" for tier, seconds in found.single_s.items())
    own = objective_s(forecast.told, plan)
    lines = [f"sum of compute and transfer {units.seconds(own)}; all on one tier: {singles}"]
    notes = plan.notes
    if "bottleneck" in notes:
        busy = f"{notes['bottleneck']}, {units.seconds(notes['bottleneck_s'])} a request"
        lines.append(f"busiest: {busy}; no placement can do with less than {units.seconds(notes['bottleneck_bound_s'])}")
    if not found.boundaries:
        lines.append("nothing crosses: all on the device")
    for boundary in found.boundaries:
        crossing = boundary.crossing
        lines.append(
            f"({boundary.number}) {crossing.source} → {crossing.target}: {crossing.name}"
            f" for {graph[boundary.consumer].name}, {units.size(crossing.payload_bytes)}, {units.seconds(crossing.seconds)}."
            f" Cut one vertex earlier: {_words(found, boundary.earlier)}; later: {_words(found, boundary.later)}"
        )
    return lines


def _words(found: Explanation, shift: Shift | None) -> str:
    if shift is None:
        return "not possible"
    graph = found.forecast.problem.graph
    what = f"{graph[shift.vertex].name} to the {shift.tier}"
    more = f" with {shift.others} more" if shift.others else ""
    if not shift.fits:
        return f"{what}{more} does not fit into memory"
    figures = (("sum", shift.objective_s), ("latency", shift.latency_s), ("bottleneck", shift.bottleneck_s))
    return f"{what}{more}: " + ", ".join(f"{name} {signed(seconds)}" for name, seconds in figures)


def signed(seconds: float) -> str:
    """Seconds with their sign."""
    if abs(seconds) < 5e-7:
        return "±0"
    return ("+" if seconds > 0 else "−") + units.seconds(abs(seconds))
