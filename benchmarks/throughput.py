"""Which plan answers first, and which answers most: the same planners at light load and under load, in `sim`, sizes only.

Three cases of hosts around the shipped `under_load.toml`. Light load is a request every ten seconds. Under load requests come at
random (Poisson), first halfway from what the latency-optimal plan sustains to what the throughput-optimal plan does, then at
twice the latter, where "answered" (answers over the time from the first arrival to the last answer) is the most that each plan
can do. "grows": mean latency of the last fifth of the requests over that of the first; where a queue grows it is far above 1.
"""

from __future__ import annotations

import csv
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any

from testbed.backends.sim import SimBackend
from testbed.orchestrator import run as run_scenario
from testbed.orchestrator.world import prepare
from testbed.report.forecast import Forecast, forecasts
from testbed.scenario.load import load
from testbed.scenario.schema import Scenario

TITLE = "One request at a time, and many (under_load.toml, sim, sizes only)"
SCENARIO = Path(__file__).resolve().parent.parent / "topologies" / "under_load.toml"
PLANNERS = ("edge-only", "cloud-only", "hpa", "d3", "optimal", "hpa-throughput", "optimal-throughput")
REQUESTS = 400
CASES: dict[str, tuple[str, ...]] = {
    "alexnet: small GPU, CPU edge": ("model.names=alexnet",),
    "resnet18: small GPU, TX2 edge, 8 Mbit/s": (
        "model.names=resnet18",
        "hosts.edge.profile=jetson-tx2",
        'links.backbone.rate="8 Mbit/s"',
    ),
    "inception_v4: Pi, Pi edge, 18 Mbit/s": (
        "model.names=inception_v4",
        "model.input_encoding=float32",
        "hosts.device.profile=raspberry-pi-4",
        "hosts.edge.profile=raspberry-pi-4-tuned",
        'links.backbone.rate="18 Mbit/s"',
    ),
}


@dataclass(frozen=True)
class Seen:
    """Measured of one planner in one run, in seconds and 1/s."""

    p50_s: float
    p95_s: float
    answered_per_s: float
    growth: float


def scenario(words: tuple[str, ...], *more: str) -> Scenario:
    """The scenario of a case."""
    names = ", ".join(f'"{name}"' for name in PLANNERS)
    return load(
        str(SCENARIO), [f"planning.planners=[{names}]", f"requests.count={REQUESTS}", "requests.deadline=500 s", *words, *more]
    )


def measured(chosen: Scenario) -> dict[str, Seen]:
    """Run it; what each planner's requests took. Raises ValueError for a request that failed."""
    with tempfile.TemporaryDirectory() as folder:
        run_scenario(chosen, SimBackend(), Path(folder) / "run")
        rows: dict[str, list[tuple[float, float]]] = {}
        with (Path(folder) / "run" / "inferences.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["error"]:
                    raise ValueError(f"request {row['request']} of {row['planner']} failed: {row['error_text']}")
                if row["warmup"] == "false":
                    rows.setdefault(row["planner"], []).append((float(row["submitted_s"]), float(row["latency_s"])))
    return {planner: seen(sorted(found)) for planner, found in rows.items()}


def seen(requests: list[tuple[float, float]]) -> Seen:
    """Figures of requests given as (submitted, latency), in the order of submission."""
    latencies = [latency for _, latency in requests]
    fifth = max(len(latencies) // 5, 1)
    cuts = quantiles(latencies, n=20, method="inclusive")
    last = max(submitted + latency for submitted, latency in requests)
    return Seen(cuts[9], cuts[18], len(requests) / (last - requests[0][0]), fmean(latencies[-fifth:]) / fmean(latencies[:fifth]))


def loads(planned: dict[str, Forecast]) -> list[float]:
    """The two heavy loads of a case, in requests a second."""
    first, most = (1.0 / planned[name].prediction.bottleneck_s for name in ("optimal", "optimal-throughput"))
    return [first + (most - first) / 2.0, 2.0 * most]


def run() -> list[dict[str, Any]]:
    """Rows by case, load and planner."""
    rows = []
    for name, words in CASES.items():
        planned = {item.planner: item for item in forecasts(prepare(scenario(words)))}
        light = ("requests.arrival=fixed", 'requests.rate="0.1 /s"', "requests.count=20")
        runs = [("light", scenario(words, *light))]
        runs += [(f"{rate:.3g} /s", scenario(words, f'requests.rate="{rate:.6f} /s"')) for rate in loads(planned)]
        for load_name, chosen in runs:
            found = measured(chosen)
            for planner in PLANNERS:
                item, figures = planned[planner], found[planner]
                rows.append(
                    {
                        "case": name,
                        "load": load_name,
                        "planner": planner,
                        "layers d/e/c": "/".join(str(len(item.vertices(tier))) for tier in ("device", "edge", "cloud")),
                        "sustains /s": round(1.0 / item.prediction.bottleneck_s, 1),
                        "p50 ms": round(figures.p50_s * 1e3, 1),
                        "p95 ms": round(figures.p95_s * 1e3, 1),
                        "answered /s": round(figures.answered_per_s, 1),
                        "grows": round(figures.growth, 1),
                    }
                )
    return rows


if __name__ == "__main__":
    from rich.console import Console

    from benchmarks.__main__ import table

    Console(width=160).print(table(TITLE, run()))
