"""Phase diagrams: which decomposition a planner chooses over access and backbone rates, and what it gains. Nothing is run.

Plans and latencies are those of `testbed plan` (critical path on the true costs); drawing is `figures.phase_diagram`'s business.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.frames import shape
from testbed.orchestrator.world import World, prepare
from testbed.report.forecast import Forecast, forecasts
from testbed.scenario.links import links_of
from testbed.scenario.load import load

SINGLE = ("device-only", "edge-only", "cloud-only")
"""What a decomposition is held against: one tier alone."""

GRID: dict[str, str] = {
    "model": "name of the DNN",
    "planner": "name of the planner",
    "access_bps": "rate of the links of role access, both directions, in bit/s",
    "backbone_bps": "rate of the links of role backbone, both directions, in bit/s",
    "latency_s": "predicted latency of the planner's plan, of one request on an idle network",
    "backbone_bytes": "what the plan sends to the cloud for a request",
    "tiers": "tiers that compute, joined by ` + `",
    "structure": "the placement in short, as in the frame `plans`",
    "device_vertices": "vertices on the device, the input left out",
    "edge_vertices": "on the edge",
    "cloud_vertices": "in the cloud",
    "best_single": "device-only, edge-only or cloud-only, whichever is fastest",
    "best_single_s": "its predicted latency",
    "gain": "best_single_s over latency_s",
}
"""Columns of a grid."""


def grid(
    scenario: str | Path,
    model: str,
    access_bps: Sequence[float],
    backbone_bps: Sequence[float],
    planner: str = "optimal",
    overrides: Sequence[str] = (),
) -> pd.DataFrame:
    """A row per pair of rates (bit/s), with the columns of `GRID`. The rest is as the scenario has it at second 0, without traces
    of the two links; planners know the true costs. `overrides`: `key.path=value`, as for `testbed run --set`.

    Raises InputError (ScenarioError, PlannerError) for what the scenario or the planner cannot do.
    """
    settled = [
        f"model.names={json.dumps([model])}",
        f"planning.planners={json.dumps(list(dict.fromkeys([*SINGLE, planner])))}",
        "planning.knowledge=true",
        *overrides,
    ]
    world = prepare(load(scenario, [*settled, *_rates(access_bps[0], backbone_bps[0])]))
    rows = []
    for access in access_bps:
        for backbone in backbone_bps:
            asked = load(scenario, [*settled, *_rates(access, backbone)])
            there = replace(world, scenario=asked, links=links_of(asked, world.layout))
            rows.append({"model": model, "access_bps": access, "backbone_bps": backbone, **_cell(there)})
    return pd.DataFrame(rows, columns=list(GRID))


def _rates(access: float, backbone: float) -> Iterator[str]:
    for role, rate in (("access", access), ("backbone", backbone)):
        yield f"links.{role}.trace=none"
        for key in ("rate", "rate_down"):
            yield f"links.{role}.{key}={rate:.6g} bit/s"


def _cell(world: World) -> dict[str, Any]:
    """The planner's plan (the last one's) for the first device, and the best single tier."""
    device = next(iter(world.sites))
    found = [forecast for forecast in forecasts(world) if forecast.device == device]
    own = found[-1]
    singles = [forecast for forecast in found if forecast.planner in SINGLE]
    best = min(singles, key=_latency)
    formed = shape(own.decision.plan.to_dict())
    kept = {name: value for name, value in formed.items() if name in GRID}
    tiers = " + ".join(tier for tier in ("device", "edge", "cloud") if formed[f"{tier}_vertices"])
    return {
        "planner": own.planner,
        "latency_s": _latency(own),
        "backbone_bytes": own.prediction.backbone_bytes + own.prediction.direct_bytes,
        "tiers": tiers,
        **kept,
        "best_single": best.planner,
        "best_single_s": _latency(best),
        "gain": _latency(best) / _latency(own),
    }


def _latency(forecast: Forecast) -> float:
    return forecast.prediction.latency_s
