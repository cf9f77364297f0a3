"""A fleet in `sim`: CPU seconds that one inference costs to simulate, for 50, 200 and 1,000 devices with as many requests each.

Target: no more with more devices, but for noise. The sites grow in number (10 devices and 4 edge hosts each); the day's load, and
so the virtual time, is the same. CPU time of this process; starting and resolving the scenario is not in it.
"""

from __future__ import annotations

import time
from typing import Any

from testbed.backends.sim import SimBackend
from testbed.orchestrator.memory import measure
from testbed.orchestrator.world import prepare
from testbed.scenario.load import load

TITLE = "Fleet: CPU milliseconds an inference, by devices (target: no more than with 50)"
SITES = (5, 20, 100)


def run() -> list[dict[str, Any]]:
    """A row for each size of fleet: the shipped scenario `fleet` by D3."""
    measure(prepare(load("fleet", ["topology.sites=1", "requests.count=2"])), SimBackend())
    rows = [_row(sites) for sites in SITES]
    for row in rows:
        row["to 50 devices"] = row["CPU ms an inference"] / rows[0]["CPU ms an inference"]
    return rows


def _row(sites: int) -> dict[str, Any]:
    world = prepare(load("fleet", [f"topology.sites={sites}", "planning.planners=d3"]))
    begun = time.process_time()
    found = measure(world, SimBackend())
    used = time.process_time() - begun
    (pair,) = found.pairs
    count = len(found.inferences)
    return {
        "devices": len(world.sites),
        "inferences": count,
        "CPU s": used,
        "CPU ms an inference": 1000.0 * used / count,
        "failed": pair.failed,
        "mean latency, ms": 1000.0 * pair.mean_s,
    }
