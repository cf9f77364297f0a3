"""DINA beside planners that know of one device only, and its stable matching beside the best one.

`topologies/fog.toml` in `sim`, sizes only: two to six devices on two to four unequal fog hosts, each device making its next
request when it has the answer. "sum / best": the sum of expected times of the stable matching over that of the best among all
matchings that the quotas allow (tried one by one).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from testbed.backends.sim import SimBackend
from testbed.orchestrator import run as run_scenario
from testbed.orchestrator.walltime import timed
from testbed.orchestrator.world import World, prepare
from testbed.planners.base import Problem
from testbed.planners.dina import Game
from testbed.planners.matching import exhaustive
from testbed.planners.options import read
from testbed.report.forecast import problems_at
from testbed.scenario.load import load
from testbed.scenario.schema import Scenario

TITLE = "DINA: several devices on a few fog hosts (fog.toml, sim, sizes only); mean latency in ms"
SIZES = ((2, 2), (2, 4), (3, 4), (4, 4), (6, 4), (4, 2))
"""(devices, fog hosts)."""


def scenario(devices: int, edges: int, model: str, *overrides: str) -> Scenario:
    """The shipped scenario at some size; hosts that are not there have no table."""
    wanted = load("fog", [f"topology.devices={devices}", "requests.count=30", *overrides])
    hosts = {name: table for name, table in wanted.hosts.items() if not name.startswith("e") or name in _named(edges)}
    topology = wanted.topology.model_copy(update={"edges": edges})
    models = wanted.model.model_copy(update={"names": (model,)})
    return wanted.model_copy(update={"hosts": hosts, "topology": topology, "model": models})


def _named(edges: int) -> set[str]:
    return {"edge", *(f"e{i + 1}" for i in range(edges))}


def matching(world: World, model: str) -> dict[str, Any]:
    """Swaps, rounds and seconds of the stable matching, and how far its sum is from the best."""
    problems: dict[str, Problem] = problems_at(world, model)
    values = read(next(iter(problems.values())), "dina")
    game = Game(problems, values, "dina")
    stable, seconds = timed(game.settle)
    _, least = exhaustive(game.market, game.cost)
    return {
        "swaps": stable.swaps,
        "rounds": stable.rounds,
        "plan ms": seconds * 1e3,
        "sum / best": round(stable.total_s / least, 3),
    }


def row(devices: int, edges: int, model: str) -> dict[str, Any]:
    """One size and model."""
    wanted = scenario(devices, edges, model)
    cloud = scenario(devices, edges, model, 'planning.planners=["dina"]', "planning.options.dina_cloud=on")
    means = {**means_ms(wanted), "dina, cloud": means_ms(cloud)["dina"]}
    return {"model": model, "devices": devices, "fog hosts": edges, **means, **matching(prepare(wanted), model)}


def means_ms(wanted: Scenario) -> dict[str, float]:
    """Mean latency of every planner of a scenario."""
    with tempfile.TemporaryDirectory() as folder:
        summary = run_scenario(wanted, SimBackend(), Path(folder) / "run")
    if summary.verdict != "trusted":
        raise ValueError(f"the run is {summary.verdict}: {summary.failing}")
    return {pair.planner: round(pair.mean_s * 1e3, 1) for pair in summary.pairs}


def run() -> list[dict[str, Any]]:
    """All sizes and models."""
    return [row(devices, edges, model) for model in ("vgg16", "resnet18") for devices, edges in SIZES]
