"""Cells of a sweep with their seeds taken together: mean and spread for every model, planner and setting of the other axes.

Works on the frame of `testbed.sweep.load`; how it is shown is for others.
"""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from testbed.sweep.columns import CELLS

FIGURES = ("mean_s", "p50_s", "p95_s", "backbone_bytes", "replans", "plan_changes", "planning_time_s", "first_planning_time_s")
"""Columns of cells whose mean over seeds is taken; of the first, the spread as well."""

_VERDICTS = ("trusted", "degraded", "rejected")


def settings(cells: pd.DataFrame) -> list[str]:
    """Columns of a sweep's frame that tell its settings apart: the trace and every parameter that has more than one value."""
    own = [str(name) for name in cells.columns if name not in CELLS and not str(name).endswith(".trace")]
    return [name for name in ("trace", *own) if cells[name].map(worded).nunique() > 1]


def aggregate(cells: pd.DataFrame) -> pd.DataFrame:
    """One row per model, setting and planner, sorted in this order, each as it comes in the plan.

    Columns: model, the settings (as text), planner; `cells`, `finished`, `failed_cells`, `failed` (requests); `FIGURES`, each the
    mean over finished cells (NaN where there is none); `spread_s`, the sample standard deviation of `mean_s` (NaN below two
    cells), with `least_s` and `most_s`; `verdict`, the worst one.
    """
    names = settings(cells)
    frame = cells.assign(**{name: cells[name].map(worded) for name in names})
    for name in ("model", *names, "planner"):  # each in the order in which it is first met
        frame[name] = pd.Categorical(frame[name], categories=list(dict.fromkeys(frame[name])), ordered=True)
    rows = []
    for key, own in frame.groupby(["model", *names, "planner"], sort=True, observed=True):
        done = own[own["status"] == "finished"]
        row: dict[str, Any] = dict(zip(["model", *names, "planner"], key if isinstance(key, tuple) else (key,), strict=True))
        row.update(cells=len(own), finished=len(done), failed_cells=int((own["status"] == "failed").sum()))
        row["failed"] = int(done["failed"].fillna(0).sum())
        row.update({name: float(done[name].astype("float64").mean()) for name in FIGURES})
        row.update(spread_s=float(done["mean_s"].std()), least_s=float(done["mean_s"].min()), most_s=float(done["mean_s"].max()))
        found = set(done["verdict"].dropna())
        row["verdict"] = next((word for word in reversed(_VERDICTS) if word in found), "")
        rows.append(row)
    return pd.DataFrame(rows)


def worded(value: Any) -> str:
    """A parameter's value as text (tables and lists as JSON)."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
