"""Tables over the frames of `analysis.load`: figures per model and planner, speed-ups, regrets, one request's steps.

They take inferences of runs or cells of sweeps alike, and are what the bar charts in `analysis.figures` draw.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.frames import answered
from testbed.errors import InputError
from testbed.names import suggestion

By = Sequence[str]


def summary(inferences: pd.DataFrame, by: By = ("model", "planner")) -> pd.DataFrame:
    """A row per combination of the columns `by`, as index: requests, failed, mean_s, p50_s, p95_s, backbone_bytes (mean per
    answered
    request), all_correct (every answer that promises it is the whole model's; empty where none does), accuracy."""
    _known(inferences, by)
    measured = inferences[~inferences["warmup"].fillna(False).astype(bool)]
    keys = list(by)
    requests = measured.groupby(keys, sort=False).size()
    groups = answered(inferences).groupby(keys, sort=False)
    table = pd.DataFrame(
        {
            "requests": requests,
            "failed": requests - groups.size().reindex(requests.index, fill_value=0),
            "mean_s": groups["latency_s"].mean(),
            "p50_s": groups["latency_s"].median(),
            "p95_s": groups["latency_s"].quantile(0.95),
            "backbone_bytes": groups["backbone_bytes"].mean(),
            "all_correct": groups["correct"].all().where(groups["correct"].count() > 0),
            "accuracy": groups["label_correct"].mean(),
        }
    )
    return table.loc[requests.index]


def means(frame: pd.DataFrame, value: str = "mean_s", by: By = ("model", "planner")) -> pd.DataFrame:
    """Mean of a column over answered requests (inferences) or finished cells, a row per combination of `by`.

    "mean_s" and "p50_s" of inferences are the mean and the median of `latency_s`. Raises InputError for unknown columns.
    """
    if "latency_s" in frame.columns:
        rows = answered(frame)
        column, how = {"mean_s": ("latency_s", "mean"), "p50_s": ("latency_s", "median")}.get(value, (value, "mean"))
    else:
        rows, column, how = frame[frame["status"] == "finished"], value, "mean"
    _known(rows, [*by, column])
    table = rows.groupby(list(by), sort=False, dropna=False)[column].agg(how).rename(value).reset_index()
    if table.empty:
        raise InputError("no answered request and no finished cell: nothing to take a mean of")
    return table


def speedups(frame: pd.DataFrame, base: str = "cloud-only", by: By = ("model",)) -> pd.DataFrame:
    """How many times as fast every planner is as `base`, by mean latency: columns `by`, planner, mean_s, speedup.

    Raises InputError where `base` was not run, or not in every combination of `by`.
    """
    table, reference = _against(frame, base, by)
    table["speedup"] = reference / table["mean_s"]
    return table


def regrets(frame: pd.DataFrame, optimum: str = "optimal", by: By = ("model",)) -> pd.DataFrame:
    """By which share every planner's mean latency is above that of `optimum`: columns `by`, planner, mean_s, regret.

    Negative where a planner is faster than the yardstick: "optimal" knows no tiles, and minimises D3's objective.
    """
    table, reference = _against(frame, optimum, by)
    table["regret"] = table["mean_s"] / reference - 1.0
    return table


def one_request(steps: pd.DataFrame, model: str, planner: str, request: int = 0, device: str | None = None) -> pd.DataFrame:
    """The steps of one measured request of one run, in time order, as `figures.gantt` wants them.

    `device` may be left out where only one makes requests. Raises InputError where there is no such request, or several.
    """
    found = steps[~steps["warmup"].fillna(False).astype(bool)]
    wanted: dict[str, object] = {"model": model, "planner": planner, "request": request}
    if device is not None:
        wanted["device"] = device
    for column, value in wanted.items():
        there = found[column].dropna().unique().tolist()
        found = found[(found[column] == value).fillna(False)]
        if found.empty:
            raise InputError(f"no steps of {column} {value!r}{suggestion(str(value), map(str, there), 'there are')}")
    for column in ("run", "device"):
        if found[column].nunique() > 1:
            raise InputError(
                f"steps of several {column}s ({', '.join(found[column].unique())}): choose one with only({column}=...)"
            )
    return found.sort_values(["start_s", "end_s"], kind="stable").reset_index(drop=True)


def _against(frame: pd.DataFrame, base: str, by: By) -> tuple[pd.DataFrame, pd.Series]:
    """Mean latencies by `by` and planner, and beside each the base planner's of the same combination."""
    table = means(frame, "mean_s", [*by, "planner"])
    there = table["planner"].unique().tolist()
    if base not in there:
        raise InputError(f"planner {base!r} was not run{suggestion(base, there, 'there are')}")
    own = table[table["planner"] == base].drop(columns="planner").rename(columns={"mean_s": "base_s"})
    if by:
        reference = table.merge(own, how="left", on=list(by))["base_s"]
    else:
        reference = pd.Series(float(own["base_s"].iloc[0]), index=table.index)
    if reference.isna().any():
        where = table.loc[reference.isna(), list(by)].iloc[0].to_dict()
        raise InputError(f"planner {base!r} has no figure for " + ", ".join(f"{key} {value!r}" for key, value in where.items()))
    return table, reference


def _known(frame: pd.DataFrame, columns: By) -> None:
    for name in columns:
        if name not in frame.columns:
            raise InputError(f"no column {name!r}{suggestion(name, map(str, frame.columns), 'there are')}")
