"""Several runs side by side: every figure of every model and planner, its difference from the first run, and what the runs were
asked differently."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from analysis.report.parts import Cell, Column, Grid, Section, count, difference, seconds, size, text
from analysis.report.runs import RunPart
from testbed.errors import InputError
from testbed.orchestrator.summary import PairSummary
from testbed.report.compare import differences

_FIGURES: tuple[tuple[str, Callable[[PairSummary], float], Callable[[float | None], Cell]], ...] = (
    ("Median latency", lambda pair: pair.p50_s, seconds),
    ("Mean latency", lambda pair: pair.mean_s, seconds),
    ("95th percentile of latency", lambda pair: pair.p95_s, seconds),
    ("Backbone bytes per inference", lambda pair: pair.backbone_bytes, size),
    ("Plan changes", lambda pair: float(pair.plan_changes), count),
)


def beside(parts: Sequence[RunPart]) -> Section:
    """The section that compares them."""
    found = dict.fromkeys((pair.model, pair.planner) for part in parts for pair in part.summary.pairs)
    models = list(dict.fromkeys(model for model, _ in found))
    keys = sorted(found, key=lambda key: models.index(key[0]))  # stable: planners stay in their order
    grids = [_grid(parts, keys, caption, figure, cell) for caption, figure, cell in _FIGURES]
    asked = _asked(parts)
    return Section(
        anchor="beside",
        title="Side by side",
        subtitle=f"Differences are shares of the figure of {parts[0].label}.",
        facts=[
            *((part.label, f"{part.title}, {part.verdict}") for part in parts),
            *(fact for part in parts[1:] for fact in _largest(parts[0], part)),
        ],
        notes=[] if _shared(parts) else ["No model and planner was run in all of them."],
        grids=grids,
        folded=[asked] if asked is not None else [],
    )


def _largest(first: RunPart, other: RunPart) -> Iterator[tuple[str, str]]:
    """The largest differences of a run from the first one; none where they have nothing in common."""
    try:
        found = differences(first.summary, other.summary)
    except InputError:
        return
    for name, value in (("median latency", "latency"), ("backbone bytes", "backbone")):
        known = [item for item in found if math.isfinite(getattr(item, value))]
        if known:
            worst = max(known, key=lambda item: abs(getattr(item, value)))
            figure = difference(getattr(worst, value)).text
            yield f"{name}: {other.label} differs by at most", f"{figure} ({worst.first.model} by {worst.first.planner})"


def _shared(parts: Sequence[RunPart]) -> bool:
    sets = [{(pair.model, pair.planner) for pair in part.summary.pairs} for part in parts]
    return bool(set.intersection(*sets))


def _grid(
    parts: Sequence[RunPart],
    keys: Sequence[tuple[str, str]],
    caption: str,
    figure: Callable[[PairSummary], float],
    cell: Callable[[float | None], Cell],
) -> Grid:
    columns = [Column("model", numeric=False), Column("planner", numeric=False), Column(parts[0].label)]
    for part in parts[1:]:
        columns += [Column(part.label), Column("Δ", f"difference of {part.label} from {parts[0].label}")]
    rows = []
    for model, planner in keys:
        values = [_value(part, model, planner, figure) for part in parts]
        row = [text(model), text(planner), cell(values[0])]
        for value in values[1:]:
            row += [cell(value), difference(_relative(values[0], value))]
        rows.append(row)
    return Grid(caption, columns, rows)


def _value(part: RunPart, model: str, planner: str, figure: Callable[[PairSummary], float]) -> float | None:
    return next((figure(pair) for pair in part.summary.pairs if (pair.model, pair.planner) == (model, planner)), None)


def _relative(first: float | None, second: float | None) -> float | None:
    if first is None or second is None:
        return None
    return 0.0 if first == second else (second - first) / first if first else None


def _asked(parts: Sequence[RunPart]) -> Grid | None:
    """Keys of scenario, backend and versions in which the runs differ."""
    documents = [dict(_flat(_asked_of(part))) for part in parts]
    names = dict.fromkeys(name for document in documents for name in document)
    rows = []
    for name in names:
        values = [document.get(name) for document in documents]
        if any(value != values[0] for value in values[1:]):
            rows.append(
                [text(name), *(text("–" if value is None else json.dumps(value, ensure_ascii=False)) for value in values)]
            )
    if not rows:
        return None
    columns = [Column("key", numeric=False), *(Column(part.label, numeric=False) for part in parts)]
    return Grid(f"What the runs were asked differently ({len(rows)})", columns, rows)


def _asked_of(part: RunPart) -> dict[str, Any]:
    manifest = part.summary.manifest
    return {
        **manifest["scenario"],
        "backend": part.summary.backend,
        "versions": manifest.get("versions", {}),
        "commit": (manifest.get("git") or {}).get("commit"),
    }


def _flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif name != "directory":
            yield f"{prefix}{name}", value
