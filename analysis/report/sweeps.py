"""A sweep's folder as a section of the page: who wins where, with seeds taken together, and what failed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.report.parts import Cell, Column, Grid, Headline, Section, count, number, seconds, size, text
from analysis.report.winners import fastest, headline
from testbed.report import units
from testbed.sweep import load
from testbed.sweep.aggregate import aggregate, settings

MOST_ROWS = 2000
"""Rows of the long table; a larger sweep is read with `testbed.sweep.load`."""


class SweepPart:
    """One sweep's folder, read once. Raises InputError for one that cannot be read."""

    def __init__(self, path: Path, label: str) -> None:
        self.path, self.label = path, label
        self.cells: pd.DataFrame = load(path)
        self.settings = settings(self.cells)
        self.means = aggregate(self.cells)
        self.manifest: dict[str, Any] = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        self.planners = [str(name) for name in dict.fromkeys(self.cells["planner"])]

    @property
    def verdict(self) -> str:
        """The worst verdict of a cell; "failed" where a cell has none because it failed."""
        words = set(self.cells["verdict"].dropna())
        if (self.cells["status"] == "failed").any():
            return "failed"
        return next((word for word in ("rejected", "degraded", "trusted") if word in words), "unfinished")

    @property
    def title(self) -> str:
        """What it is called."""
        return f"Sweep {self.manifest.get('name', self.label)}"

    @property
    def description(self) -> str:
        """What the sweep file says of itself."""
        return str(self.manifest.get("spec", {}).get("description") or "")

    def asked(self) -> str:
        """What was run, in a sentence."""
        axes = self.manifest.get("axes", {})
        spans = ", ".join(
            f"{len(values)} {name}s" if name in ("model", "planner", "seed") else f"{len(values)} values of {name}"
            for name, values in axes.items()
            if len(values) > 1
        )
        done = int((self.cells["status"] == "finished").sum())
        backend = self.manifest.get("spec", {}).get("backend", "?")
        return f"{done} of {len(self.cells)} cells on {backend}" + (f": {spans}" if spans else "")

    def headlines(self, where: str) -> list[Headline]:
        """For each model: who has the shortest mean in how many settings, and over all of them."""
        found = []
        for model, own in self.means.groupby("model", sort=False):
            wins: dict[str, int] = {}
            places = 0
            for _, place in own.groupby(self.settings or ["model"], sort=False):
                first = fastest(_by_planner(place, "mean_s"))
                places += bool(first)
                for planner in first:
                    wins[planner] = wins.get(planner, 0) + 1
            overall = own.groupby("planner", sort=False)["mean_s"].mean().to_dict()
            made = headline(str(model), {str(k): float(v) for k, v in overall.items()}, where, "mean over all settings")
            if made is not None:
                least = ", ".join(f"{planner} in {n}" for planner, n in sorted(wins.items(), key=lambda item: -item[1]))
                words = made.words + (f"; shortest mean of {places} settings: {least}" if places > 1 else "")
                found.append(Headline(made.about, made.winner, made.figure, words, where))
        return found

    def section(self, number: int) -> Section:
        """All of it."""
        manifest = self.manifest
        spec = manifest.get("spec", {})
        status = self.cells["status"].value_counts().to_dict()
        facts = [(name, ", ".join(str(value) for value in values)) for name, values in manifest.get("axes", {}).items()]
        facts += [(f"set {name}", str(value)) for name, value in spec.get("set", {}).items()]
        facts += [
            ("scenario", str(spec.get("scenario", "?"))),
            ("backend", str(spec.get("backend", "?"))),
            ("cells", ", ".join(f"{n} {word}" for word, n in status.items())),
            ("folder", str(self.path)),
        ]
        notes = []
        if n := int(status.get("pending", 0)):
            notes.append(f"{n} cells are still to be run: the same sweep command goes on.")
        if rejected := int((self.cells["verdict"] == "rejected").sum()):
            notes.append(f"{rejected} finished cells have the verdict rejected: their figures must not be used.")
        pivots = [
            self._pivot(f"Mean latency, {_seeds(self.means)}", "mean_s", units.seconds, "spread_s"),
            self._pivot("Backbone bytes per inference", "backbone_bytes", units.size),
        ]
        grids = [*pivots, self._long(), self._failures()]
        return Section(
            anchor=f"sweep-{number}",
            title=self.title,
            subtitle=f"{self.label}: {self.description}" if self.description else self.label,
            verdict=self.verdict,
            facts=facts,
            notes=notes,
            grids=[grid for grid in grids if grid is not None],
            manifest=json.dumps(manifest, indent=2, ensure_ascii=False),
        )

    def _pivot(self, caption: str, figure: str, worded: Any, spread: str | None = None) -> Grid:
        """A row for each model and setting, a column for each planner; the smallest value of a row is marked."""
        columns = [Column(name, numeric=False) for name in ("model", *self.settings)]
        columns += [Column(planner) for planner in self.planners]
        rows = []
        places = list(self.means.groupby(["model", *self.settings], sort=False, dropna=False))
        for place, own in places[:MOST_ROWS]:
            found = _by_planner(own, figure)
            spreads = _by_planner(own, spread) if spread and (self.means[spread] > 0.0).any() else {}
            best = fastest(found) if spread else [p for p, value in found.items() if value == _least(found.values())]
            rows.append(
                [
                    *(text(value) for value in place),
                    *(_with_spread(found, spreads, planner, worded, best) for planner in self.planners),
                ]
            )
        return Grid(caption, columns, rows, notes=_beyond(len(places)))

    def _long(self) -> Grid:
        """A row for each model, setting and planner."""
        names = ("model", *self.settings, "planner")
        columns = [
            *(Column(name, numeric=False) for name in names),
            Column("seeds", "finished cells that the figures are taken over"),
            Column("mean", "mean latency, mean over seeds"),
            Column("spread", "sample standard deviation of it over seeds"),
            Column("least"),
            Column("most"),
            Column("p50"),
            Column("p95"),
            Column("backbone", "application bytes per inference"),
            Column("plan changes", "mean over seeds"),
            Column("re‑plans", "mean over seeds"),
            Column("re‑plan time", "wall clock, mean of medians"),
            Column("failed requests"),
            Column("verdict", "the worst of the cells", numeric=False),
        ]
        rows = [
            [
                *(text(row[name]) for name in names),
                Cell(f"{row['finished']} of {row['cells']}", row["finished"], "bad" if row["failed_cells"] else ""),
                *(seconds(row[name]) for name in ("mean_s", "spread_s", "least_s", "most_s", "p50_s", "p95_s")),
                size(row["backbone_bytes"]),
                number(row["plan_changes"], _short),
                number(row["replans"], _short),
                seconds(row["planning_time_s"]),
                count(row["failed"], "bad" if row["failed"] else ""),
                text(row["verdict"] or "–", str(row["verdict"])),
            ]
            for row in self.means.head(MOST_ROWS).to_dict(orient="records")
        ]
        return Grid("Every model, setting and planner", columns, rows, notes=_beyond(len(self.means)))

    def _failures(self) -> Grid | None:
        failed = self.cells[self.cells["status"] == "failed"]
        if not len(failed):
            return None
        names = ["model", *self.settings, "planner", "seed"]
        columns = [
            *(Column(name, numeric=False) for name in names),
            Column("error", numeric=False),
            Column("reason", numeric=False),
        ]
        rows = [
            [*(text(row[name]) for name in names), text(row["error"], "bad"), text(row["error_text"], "words")]
            for row in failed.head(MOST_ROWS).to_dict(orient="records")
        ]
        return Grid(f"Failed cells ({len(failed)})", columns, rows, notes=_beyond(len(failed)))


def _by_planner(rows: pd.DataFrame, name: str) -> dict[str, float]:
    return {str(planner): float(value) for planner, value in zip(rows["planner"], rows[name], strict=True)}


def _with_spread(
    found: Mapping[str, float], spreads: Mapping[str, float], planner: str, worded: Any, best: Sequence[str]
) -> Cell:
    cell = number(found.get(planner), worded, "best" if planner in best and len(found) > 1 else "")
    spread = spreads.get(planner, math.nan)
    return (
        Cell(f"{cell.text} ± {worded(spread)}", cell.sort, cell.kind) if math.isfinite(spread) and cell.sort is not None else cell
    )


def _seeds(means: pd.DataFrame) -> str:
    """What the spread is of."""
    if (means["spread_s"] > 0.0).any():
        return "± standard deviation over seeds"
    return "the same for all seeds" if means["spread_s"].notna().any() else "one seed"


def _beyond(rows: int) -> tuple[str, ...]:
    return (f"The first {MOST_ROWS} of {rows} rows; testbed.sweep.load reads all of them.",) if rows > MOST_ROWS else ()


def _least(values: Any) -> float:
    return min((value for value in values if math.isfinite(value)), default=math.nan)


def _short(value: float) -> str:
    return f"{value:.3g}"
