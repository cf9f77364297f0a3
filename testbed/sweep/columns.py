"""The columns of a sweep's tables: the one list that writers, readers and docs share."""

from __future__ import annotations

CELLS: dict[str, str] = {
    "key": "digest of all that decides the cell's figures",
    "status": "finished, or failed (then error says why); a later row of the same key replaces an earlier one",
    "model": "name of the DNN",
    "planner": "name of the planner",
    "trace": "traces of the links",
    "seed": "of arrivals, input images and loss",
    "parameters": "values of the other axes by key path, as JSON; `load` makes columns of them",
    "verdict": "trusted, degraded or rejected, as in fidelity.json",
    "requests": "measured requests, those that failed included",
    "failed": "requests that failed",
    "mean_s": "mean latency of answered requests; figures are empty where nothing was answered",
    "p50_s": "their median",
    "p95_s": "their 95th percentile",
    "queue_s": "mean per answered request, as the next nine: see inferences.csv",
    "compute_device_s": "device computing",
    "compute_edge_s": "edge hosts computing",
    "compute_cloud_s": "cloud computing",
    "transfer_access_s": "device to edge",
    "transfer_lan_s": "between edge hosts",
    "transfer_backbone_s": "to the cloud",
    "transfer_return_s": "back to the device",
    "access_bytes": "application bytes from the device to the edge",
    "lan_bytes": "application bytes between edge hosts",
    "backbone_bytes": "application bytes to the cloud, mean per answered request",
    "backbone_wire_bytes": "bytes that the backend counted up the wide-area links, whole session, warm-up included",
    "weights_bytes": "of models uploaded to servers, on the link that carried most",
    "replans": "plans made after the first",
    "plan_changes": "of these, installed",
    "touched_vertices": "vertices that re-planning looked at, summed",
    "vertices": "of the model's graph",
    "wrong": "answers that are not the whole model's (real tensors)",
    "max_rel_error": "largest relative error of an answer (real tensors)",
    "accuracy": "share of answers that find the input's label (models with a data set)",
    "agreement": "lossy planners: share of answers that agree with the whole model's",
    "local_share": "plans with exits: share of answers from a local exit",
    "fallbacks": "answers that the device gave by itself because the others took too long",
    "first_planning_time_s": "wall-clock time of the first plan (median over devices); depends on the machine and its load",
    "planning_time_s": "wall-clock time of a re-plan (median); likewise",
    "wall_s": "wall-clock time that the cell took",
    "worker": "machine and process that carried it out",
    "ended": "date and time (UTC)",
    "error": "name of the error of a failed cell",
    "error_text": "what it says",
}

PLAN: dict[str, str] = {name: CELLS[name] for name in ("key", "model", "planner", "trace", "seed", "parameters")}
"""Columns of plan.csv: every cell that the sweep has now, in the order of the plan."""

TEXT = ("key", "status", "model", "planner", "trace", "parameters", "verdict", "worker", "ended", "error", "error_text")
WALL_CLOCK = ("first_planning_time_s", "planning_time_s", "wall_s", "worker", "ended")
"""Columns that a repetition does not reproduce; all others are the same byte by byte in `sim`."""
