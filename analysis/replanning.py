"""What re-planning is worth while the backbone follows a trace: ways to re-plan, and the best that any of them could do.

`topologies/replan.toml` in `sim`, sizes only: every way meets the same requests at the same moments of the trace.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from analysis import experiments
from analysis.results import Results
from d3node.plan import Plan
from testbed import registry
from testbed.costs.network import Path
from testbed.planners.base import Change, Decision, Planner, Problem

WAYS: Mapping[str, tuple[str, ...]] = {
    "never": ("planning.replan=never",),
    "full": ("planning.replan=full",),
    "partial (D3)": (),
    "hysteresis 3 %": ("planning.hysteresis=0.03",),
    "hysteresis 10 %": ("planning.hysteresis=0.1",),
    "cusum": ("planning.detector=cusum",),
    "32 plans kept": ("planning.plan_cache=32",),
    "clairvoyant": ("planning.knowledge=true",),
}
"""Settings of each way; all but the first two re-plan partially. The clairvoyant one knows every state as it begins."""

RATES_MBPS = (1.0, 7.0, 13.0, 30.0)
"""Backbones for which plans are fixed: one for each pair of plans that AlexNet and VGG-16 have in this scenario."""


class Fixed:
    """A planner that takes the backbone to have one rate for ever."""

    def __init__(self, planner: Planner, rate_bps: float) -> None:
        self.name = planner.name
        self._planner = planner
        self._rate_bps = rate_bps

    def plan(self, problem: Problem) -> Decision:
        """The planner's plan for that rate."""
        network = problem.network
        path = Path(self._rate_bps, network.edge_cloud.delay_s)
        return self._planner.plan(replace(problem, network=network.with_path("edge_cloud", path)))

    def replan(self, problem: Problem, current: Plan, change: Change) -> Decision:
        """The same again."""
        return self.plan(problem)


def _settings(trace: str, requests: int, more: Sequence[str]) -> list[str]:
    return [f"links.backbone.trace={trace}", "compute.tensors=sizes", f"requests.count={requests}", *more]


def runs(trace: str, requests: int, ways: Mapping[str, tuple[str, ...]] = WAYS) -> dict[str, Results]:
    """A run of every way over one trace of the backbone (as a scenario names it), by way."""
    return {way: experiments.run("replan", *_settings(trace, requests, words)) for way, words in ways.items()}


def bound(trace: str, requests: int, planner: str = "d3") -> pd.DataFrame:
    """The least that each request takes under any one plan that is fixed for the whole trace, in hindsight: columns `model`,
    `request`, `latency_s`. No way to choose among these plans can be better, but for requests that meet in a queue."""
    words = _settings(trace, requests, ["planning.replan=never"])
    found = [
        experiments.run("replan", *words, planners={planner: Fixed(registry.planner(planner), rate * 1e6)}).answered
        for rate in RATES_MBPS
    ]
    return pd.concat(found).groupby(["model", "request"], sort=False)["latency_s"].min().reset_index()


def summary(by_way: Mapping[str, Results], least: pd.DataFrame) -> pd.DataFrame:
    """A row for each model and way: mean and 95th percentile in ms, `over_bound` (mean over that of `bound`), and of the
    re-planning: how often the planner was asked, plans installed, vertices touched."""
    rows = []
    for way, results in by_way.items():
        for model in results.models:
            one = results.only(model=model)
            seconds = one.answered["latency_s"]
            again = one.plans[one.plans["reason"] != "first"]
            rows.append(
                {
                    "model": model,
                    "way": way,
                    "mean_ms": seconds.mean() * 1e3,
                    "p95_ms": seconds.quantile(0.95) * 1e3,
                    "over_bound": seconds.mean() / least.loc[least["model"] == model, "latency_s"].mean(),
                    "asked": len(again),
                    "installed": int(again["installed"].sum()),
                    "touched": int(again["touched_vertices"].sum()),
                }
            )
    return pd.DataFrame(rows).sort_values("model", kind="stable", ignore_index=True)
