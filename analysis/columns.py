"""The columns of the frames that `analysis.load` returns, with units in their names: the list that frames, docs and tests share.

What run folders and sweeps write is listed in `testbed.orchestrator.columns` and `testbed.sweep.columns`.
"""

from __future__ import annotations

from testbed.orchestrator.columns import FAULTS as _FAULTS
from testbed.orchestrator.columns import INFERENCES as _INFERENCES
from testbed.orchestrator.columns import LINKS as _LINKS
from testbed.orchestrator.columns import RECOVERED as _RECOVERED
from testbed.orchestrator.columns import STEPS as _STEPS
from testbed.sweep.columns import CELLS as _CELLS

RUN: dict[str, str] = {
    "run": "name of the folder, or the one given with `names`",
    "backend": "sim, vkernel, mininet or hosts",
}
"""The first columns of every frame of runs."""

_NAMES = ("model", "planner", "link", "direction")
_STATE = ("late_s", "rate_bps", "delay_s", "loss")

INFERENCES = RUN | _INFERENCES | _RECOVERED

FAULTS = RUN | _FAULTS

STEPS = (
    RUN
    | _STEPS
    | {
        "offset_s": "`start_s` less the request's `submitted_s`: seconds into the request",
        "duration_s": "`end_s` less `start_s`",
    }
)

LINKS = (
    RUN
    | {name: _LINKS[name] for name in _NAMES}
    | {
        "at_s": "scenario seconds from which the direction had this state",
        "until_s": "to when: its next state, or the end of the session",
    }
    | {name: _LINKS[name] for name in _STATE}
)

LINK_TOTALS = (
    RUN
    | {name: _LINKS[name] for name in _NAMES}
    | {"duration_s": "scenario seconds that the session's replay took"}
    | {name: text for name, text in _LINKS.items() if name not in (*_NAMES, *_STATE, "kind", "at_s")}
)

PLANS: dict[str, str] = RUN | {
    "model": "name of the DNN",
    "planner": "name of the planner",
    "device": "whose plan",
    "at_s": "scenario seconds of the decision; 0 for first plans",
    "epoch": "the plan in force after it",
    "reason": "first, change, weights, hosts or orchestrator",
    "replan": "full, partial, joint, cache, or kept (there was no plan within the planner's limits)",
    "installed": "true where the plan differs from the one before and was installed",
    "held": "true where hysteresis kept another plan from being installed",
    "change": "what had left its band, in words: paths, hosts, vertices",
    "touched_vertices": "vertices that were decided anew",
    "vertices": "vertices of the model's graph",
    "device_vertices": "vertices on the device after the decision, the input left out",
    "edge_vertices": "on the edge",
    "cloud_vertices": "in the cloud",
    "tiled_vertices": "of those on the edge, in stacks that several hosts compute in tiles",
    "tile_hosts": "hosts that have a tile of some stack",
    "structure": "the placement in short, `D6 E12x4 C5`: vertices by tier, and over how many hosts the edge's are tiled",
    "planning_time_s": "wall-clock seconds that the planner took; differs from run to run",
    "objective_s": "D3's sum of compute and transfer, as the planner saw it",
    "predicted_latency_s": "what the plan should give, as the planner saw the world",
    "predicted_backbone_bytes": "likewise",
}

EVENTS: dict[str, str] = RUN | {
    "event": "kind of event: run, session, plan, probe, share, upload, fault, host_lost, resumed, warning, session_end, ...",
    "model": "name of the DNN; empty where the event is not a session's",
    "planner": "name of the planner; likewise",
    "at_s": "scenario seconds; empty where the event has none",
    "text": "what a warning says",
    "fields": "all other fields, as a mapping; `Results.events_of` makes columns of them",
}

FIDELITY: dict[str, str] = RUN | {
    "model": "session's DNN; empty for what the backend says of the whole run",
    "planner": "session's planner; likewise",
    "invariant": "name of the invariant (docs/fidelity.md)",
    "level": "ok, degraded or rejected",
    "value": "its figure, in the invariant's own unit",
    "bound": "what it is held against",
    "detail": "more, in words",
}

CELLS = {"sweep": "name of the sweep's folder, or the one given with `names`"} | {
    name: text for name, text in _CELLS.items() if name != "parameters"
}
"""Behind `seed` follows one column for each parameter that the sweep varies, named by its key path."""

FRAMES: dict[str, dict[str, str]] = {
    "inferences": INFERENCES,
    "steps": STEPS,
    "links": LINKS,
    "link_totals": LINK_TOTALS,
    "faults": FAULTS,
    "plans": PLANS,
    "events": EVENTS,
    "fidelity": FIDELITY,
    "cells": CELLS,
}
"""Every frame of `Results`, with its columns."""
