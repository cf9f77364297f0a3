"""From one run's files to tidy frames: one kind of row each, nothing nested but an event's odd fields.

`results.py` puts the frames of several runs below one another; their columns are listed in `columns.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from analysis.columns import EVENTS, FIDELITY, LINK_TOTALS, LINKS, PLANS, RUN, STEPS
from testbed.report import Run

SESSION = ["model", "planner"]
REQUEST = [*SESSION, "device", "request", "warmup"]


def answered(inferences: pd.DataFrame) -> pd.DataFrame:
    """Inferences behind the warm-up that have an answer."""
    measured = ~inferences["warmup"].fillna(False).astype(bool)
    return inferences[measured & inferences["latency_s"].notna()]


def steps(run: Run) -> pd.DataFrame:
    """Computations and messages of all requests, with their place in the request."""
    frame = run.steps.merge(run.inferences[[*REQUEST, "submitted_s"]], how="left", on=REQUEST)
    frame["offset_s"] = frame["start_s"] - frame["submitted_s"]
    frame["duration_s"] = frame["end_s"] - frame["start_s"]
    return frame[_own(STEPS)]


def links(run: Run) -> pd.DataFrame:
    """States of link directions, each with its end."""
    frame = run.links[run.links["kind"] == "state"].copy()
    totals = run.links[run.links["kind"] == "total"]
    way = [*SESSION, "link", "direction"]
    frame = frame.sort_values([*way, "at_s"], kind="stable").sort_index()
    ends = totals.set_index(way)["at_s"]
    frame["until_s"] = frame.groupby(way, sort=False)["at_s"].shift(-1)
    last = frame["until_s"].isna()
    frame.loc[last, "until_s"] = [ends.get(tuple(key)) for key in frame.loc[last, way].itertuples(index=False)]
    frame["until_s"] = frame["until_s"].astype("float64")
    return frame[_own(LINKS)]


def link_totals(run: Run) -> pd.DataFrame:
    """Counters of link directions over whole sessions."""
    frame = run.links[run.links["kind"] == "total"].rename(columns={"at_s": "duration_s"})
    return frame[_own(LINK_TOTALS)]


def plans(run: Run) -> pd.DataFrame:
    """Decisions, each with the shape of the plan that is in force after it."""
    shapes: dict[tuple[str, ...], dict[str, Any]] = {}
    rows = []
    for record in run.plans.to_dict(orient="records"):
        whose = tuple(str(record[name]) for name in (*SESSION, "device"))
        if isinstance(record.get("plan"), dict):
            shapes[whose] = shape(record["plan"])
        row = {name: record.get(name) for name in _own(PLANS)}
        row |= {"touched_vertices": len(record["touched"]), "change": _change(record.get("change")), **shapes.get(whose, {})}
        rows.append(row)
    frame = pd.DataFrame(rows, columns=_own(PLANS))
    for name in _own(PLANS):
        if name in ("installed", "held"):
            frame[name] = frame[name].astype("boolean")
        elif name.endswith("vertices") or name in ("epoch", "tile_hosts"):
            frame[name] = frame[name].astype("Int64")
        elif name.endswith(("_s", "_bytes")):
            frame[name] = frame[name].astype("float64")
        else:
            frame[name] = frame[name].astype("string")
    return frame


def shape(plan: Mapping[str, Any]) -> dict[str, Any]:
    """A plan (its JSON) in figures: how many vertices each tier has, the input left out, and how many of them are tiled."""
    tiers = list(plan["tiers"])[1:]
    counts = {tier: tiers.count(tier) for tier in ("device", "edge", "cloud")}
    stacks = plan.get("stacks") or []
    tiled = {vertex for stack in stacks for vertex in stack["vertices"]}
    hosts = {tile["host"] for stack in stacks for tile in stack["tiles"]}
    words = []
    for letter, (tier, count) in zip("DEC", counts.items(), strict=True):
        if count:
            words.append(f"{letter}{count}" + (f"x{len(hosts)}" if tier == "edge" and len(hosts) > 1 else ""))
    found: dict[str, Any] = {f"{tier}_vertices": count for tier, count in counts.items()}
    return {**found, "tiled_vertices": len(tiled), "tile_hosts": len(hosts), "structure": " ".join(words)}


def events(run: Run) -> pd.DataFrame:
    """Events: what all have as columns, the rest as a mapping."""
    common = [name for name in _own(EVENTS) if name != "fields"]
    rows = []
    for record in run.events.to_dict(orient="records"):
        told = {name: value for name, value in record.items() if not (isinstance(value, float) and pd.isna(value))}
        row = {name: told.pop(name, None) for name in common}
        rows.append({**row, "fields": told})
    frame = pd.DataFrame(rows, columns=_own(EVENTS))
    frame["at_s"] = pd.to_numeric(frame["at_s"]).astype("float64")
    for name in (name for name in common if name != "at_s"):
        frame[name] = frame[name].astype("string")
    return frame


def fidelity(run: Run) -> pd.DataFrame:
    """Invariants: those of the backend, then those of each session."""
    frame = pd.DataFrame(list(_invariants(run.fidelity)), columns=_own(FIDELITY))
    for name in _own(FIDELITY):
        frame[name] = frame[name].astype("float64" if name in ("value", "bound") else "string")
    return frame


def _invariants(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for session in ({"invariants": document.get("backend", [])}, *document.get("sessions", [])):
        named = {name: session.get(name) for name in SESSION}
        for invariant in session["invariants"]:
            rest = {name: invariant.get(name) for name in ("level", "value", "bound", "detail")}
            yield {**named, "invariant": invariant["name"], **rest}


def _change(change: object) -> str | None:
    """`{"paths": [["edge", "cloud"]], "hosts": []}` as "paths: edge-cloud"."""
    if not isinstance(change, Mapping):
        return None
    parts = []
    for what, items in change.items():
        if items:
            listed = items if isinstance(items, list | tuple) else [items]
            names = ["-".join(map(str, item)) if isinstance(item, list | tuple) else str(item) for item in listed]
            parts.append(f"{what}: {' '.join(names)}")
    return "; ".join(parts) or None


def _own(columns: Mapping[str, str]) -> list[str]:
    """Columns that a run's own frame has; those of `RUN` come when runs are put together."""
    return [name for name in columns if name not in RUN]
