"""The other side of `carried.py`: where the clock is, the experiment with its events sent on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from d3node import graph_cache
from d3node.graph import LayerGraph
from testbed.backends.vkernel_guest import GuestBackend
from testbed.kernel import stopwatch
from testbed.orchestrator import experiment, walltime
from testbed.scenario.plain import from_plain


def run(
    emit: Callable[..., None],
    scenario: dict[str, Any],
    folder: str,
    capture_dir: str | None,
    models: dict[str, str],
    ticks_per_s: float,
    graphs: dict[str, str],
    resumed: bool = False,
) -> str:
    """Carry a scenario out, in a process of its own; the verdict. With `resumed` the folder's run is gone on with. Raises as
    `experiment.run` does."""
    for name, text in graphs.items():
        graph_cache.hold(name, LayerGraph.from_json(text))
    walltime.Stopwatch.now = wall = stopwatch.Stopwatch(ticks_per_s)
    asked = from_plain(scenario)
    own = asked.run.model_copy(update={"wall_limit": None, "time_scale": 1.0})  # the host has the clock on the wall
    backend = GuestBackend(models, capture_dir, wall)

    def listen(event: dict[str, Any]) -> None:
        emit(**event)

    return experiment.carry_out(asked.model_copy(update={"run": own}), backend, Path(folder), listen, None, resumed).verdict
