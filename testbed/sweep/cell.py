"""One cell carried out in a worker process: its row of figures, or the reason why there is none.

Graphs, costs and resolved traces are kept between the cells of a worker, and so is a kernel that was booted; the network is new
for every cell, so that a cell's figures do not depend on which others ran before it, or where.
"""

from __future__ import annotations

import atexit
import math
import os
import platform
import shutil
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from d3node.errors import NodeError
from testbed import registry
from testbed.backends.base import Backend, Carrier
from testbed.errors import TestbedError
from testbed.orchestrator import experiment
from testbed.orchestrator.memory import measure
from testbed.orchestrator.summary import PairSummary
from testbed.orchestrator.walltime import timed
from testbed.orchestrator.world import World, for_session, prepare
from testbed.report import load as load_run
from testbed.scenario.plain import from_plain
from testbed.scenario.schema import Scenario

MEANS = (
    "queue_s",
    "compute_device_s",
    "compute_edge_s",
    "compute_cloud_s",
    "transfer_access_s",
    "transfer_lan_s",
    "transfer_backbone_s",
    "transfer_return_s",
    "access_bytes",
    "lan_bytes",
)
"""Columns of inferences.csv whose means over answered requests are a cell's figures."""

FIGURES = (
    "requests",
    "failed",
    "mean_s",
    "p50_s",
    "p95_s",
    "backbone_bytes",
    "backbone_wire_bytes",
    "weights_bytes",
    "replans",
    "plan_changes",
    "touched_vertices",
    "vertices",
    "wrong",
    "max_rel_error",
    "accuracy",
    "agreement",
    "local_share",
    "fallbacks",
    "first_planning_time_s",
    "planning_time_s",
)
"""Fields of `PairSummary` that are a cell's figures."""

_KEPT = 256
_worlds: OrderedDict[tuple[str, str], World] = OrderedDict()
_booted: dict[str, Carrier] = {}
_held = ExitStack()
_ending = threading.Lock()


def run_cell(task: Mapping[str, Any], backend: str, runs: str | None) -> dict[str, Any]:
    """Carry out a cell (see `Cell.task`); its row, as plain JSON. Never raises for a cell that cannot be carried out: its row
    says why. `runs`: folder that gets a run folder, named by the key, for every cell; None keeps rows in memory only."""
    row: dict[str, Any] = {"key": task["key"], "worker": f"{platform.node()}:{os.getpid()}"}
    try:
        scenario = from_plain(task["scenario"])
        found, wall_s = timed(lambda: _figures(scenario, str(task["setting"]), backend, runs, str(task["key"])))
        row.update(found, status="finished", wall_s=round(wall_s, 4))
    except (TestbedError, NodeError, OSError) as error:
        row.update(status="failed", error=type(error).__name__, error_text=" | ".join(str(error).splitlines()))
    except Exception as error:  # a planner's own bug must not end the sweep
        text = " | ".join(str(error).splitlines())
        row.update(status="failed", error=type(error).__name__, error_text=f"{text} (unexpected; `testbed run` shows where)")
    row["ended"] = datetime.now(UTC).isoformat(timespec="seconds")
    return row


def _figures(scenario: Scenario, setting: str, backend: str, runs: str | None, key: str) -> dict[str, Any]:
    chosen: Backend | Carrier = _booted.get(backend) or registry.backend(backend)
    if isinstance(chosen, Carrier) and backend not in _booted:
        chosen = _booted[backend] = _held.enter_context(chosen.shared())
    if runs is None and not isinstance(chosen, Carrier):
        found = measure(_world(scenario, setting), chosen)
        rows = [row for row in found.inferences if row["warmup"] != "true" and not row["error"]]
        return _row(found.pairs[0], {name: [float(row[name]) for row in rows] for name in MEANS})
    folder = Path(runs or ".", key)
    shutil.rmtree(folder, ignore_errors=True)  # of a cell that was cut off
    pair = experiment.run(scenario, chosen, folder).pairs[0]
    answered = load_run(folder).answered
    return _row(pair, {name: [float(value) for value in answered[name]] for name in MEANS})


def let_go() -> None:
    """Switch off what cells of this process have booted and left on for the next one. Any thread may ask, also several."""
    with _ending:
        _booted.clear()
        _held.close()


atexit.register(let_go)


def _world(scenario: Scenario, setting: str) -> World:
    """The resolved scenario; made once for every setting and model."""
    place = (setting, scenario.model.names[0])
    if place not in _worlds:
        _worlds[place] = prepare(scenario)
        while len(_worlds) > _KEPT:
            _worlds.popitem(last=False)
    _worlds.move_to_end(place)
    return for_session(_worlds[place], scenario)


def _row(pair: PairSummary, columns: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    row = {name: getattr(pair, name) for name in FIGURES} | {name: fmean(v) if v else math.nan for name, v in columns.items()}
    finite = {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()}
    return {**finite, "verdict": pair.verdict}
