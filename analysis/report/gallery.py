"""Which figures of `analysis` a page shows, with their captions."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import analysis
from analysis import figures, tables
from analysis.report.parts import Picture
from analysis.report.pictures import Drawn
from analysis.report.runs import RunPart
from analysis.report.sweeps import SweepPart
from analysis.report.winners import fastest

MOST_MODELS = 6
"""Models that have figures of their own."""
MOST_SETTINGS = 8
"""Settings of a sweep that stand side by side in one figure."""
WRAPPED = 18


def of_run(part: RunPart, drawn: Drawn) -> Iterator[Picture]:
    """Those of one run: latencies, where they come from, traffic, one request of the winner, the verdict."""
    results = _loaded(part.path)
    rows = results.inferences
    models, planners = list(dict.fromkeys(results.answered["model"])), list(dict.fromkeys(results.answered["planner"]))
    if not models:
        return
    yield from drawn("Distribution of latencies", "", lambda: _by_model(figures.latency_cdf, rows, models))
    yield from drawn(
        "Where the time goes",
        "Mean parts of a latency; they may overlap in time.",
        lambda: _by_model(figures.breakdown, rows, models),
    )
    if len(planners) > 1:
        base = part.summary.pairs[0].planner
        speedups = "Speed-up", f"Mean latency of {base} over the planner's own."
        yield from drawn(*speedups, lambda: figures.speedup_bars(tables.speedups(rows, base)))
        yield from drawn(
            "Backbone bytes", "Application bytes to the cloud for an inference.", lambda: figures.backbone_bars(rows)
        )
    for model in models[:MOST_MODELS]:
        yield from _of_model(part, results, model, drawn)
    yield from drawn(
        "Fidelity", "Figures that are not 0; see below for their bounds.", lambda: figures.fidelity_matrix(results.fidelity)
    )


def _of_model(part: RunPart, results: analysis.Results, model: str, drawn: Drawn) -> Iterator[Picture]:
    own = results.only(model=model)
    for link in [str(name) for name in part.summary.manifest.get("wide_area_links", [])][:1]:
        yield from drawn(
            f"{model} over the replay",
            f"Latency of every request, the plans in force (D, E, C: vertices on device, edge, cloud; x: over so many hosts), "
            f"and the rate of link {link}. A dotted line marks a new plan.",
            partial(figures.latency_timeline, own.inferences, own.links, own.plans, link=link),
        )
    first = fastest({pair.planner: pair.mean_s for pair in part.summary.pairs if pair.model == model})
    if first and len(own.steps):
        one = own.answered[own.answered["planner"] == first[0]].sort_values("latency_s")
        middle = one.iloc[(len(one) - 1) // 2]
        number, device = int(middle["request"]), str(middle["device"])
        yield from drawn(
            f"{model}: one request by {first[0]}",
            f"Request {number} of {device}, the median of its latencies: who computed, and what was on its way.",
            lambda: figures.gantt(tables.one_request(own.steps, model, first[0], number, device)),
        )


def of_runs(parts: Sequence[RunPart], drawn: Drawn) -> Iterator[Picture]:
    """Those that compare runs: the latencies of each model, a panel for each planner that more than one run has."""
    results = _loaded(*(part.path for part in parts), names=[part.label for part in parts])
    for model in results.models[:MOST_MODELS]:
        rows = results.inferences[results.inferences["model"] == model]
        shared = rows.groupby("planner")["run"].nunique()
        rows = rows[rows["planner"].isin(shared[shared > 1].index)]
        if len(rows):
            title = f"{model}: distribution of latencies, run by run"
            yield from drawn(title, "", partial(figures.panels, _cdf_of_runs, rows, by="planner"))


def _cdf_of_runs(frame: pd.DataFrame, **options: Any) -> Axes:
    return figures.latency_cdf(frame, by="run", **options)


def of_sweep(part: SweepPart, drawn: Drawn) -> Iterator[Picture]:
    """Those of a sweep: speed-ups and traffic where its settings fit side by side, and latency over every parameter that is a
    number with three values and more."""
    cells = part.cells[part.cells["status"] == "finished"]
    if not len(cells):
        return
    models = list(dict.fromkeys(cells["model"]))[:MOST_MODELS]
    words = cells[part.settings].astype(str).agg(", ".join, axis="columns") if part.settings else cells["model"]
    frame = cells[cells["model"].isin(models)].assign(setting=words.map(lambda text: textwrap.fill(text, WRAPPED)))
    if frame["setting"].nunique() <= MOST_SETTINGS and len(part.planners) > 1:
        base = str(frame["planner"].iloc[0])
        speedups = "Speed-up", f"Mean latency of {base} over the planner's own, by setting."

        def bars() -> Figure:
            table = tables.speedups(frame, base, ["model", "setting"])
            return figures.panels(figures.speedup_bars, table, by="model", x="setting", columns=1)

        yield from drawn(*speedups, bars)
        yield from drawn(
            "Backbone bytes",
            "Application bytes to the cloud for an inference, by setting.",
            lambda: figures.panels(figures.backbone_bars, frame, by="model", x="setting", columns=1),
        )
    for name in part.settings:
        numbers = pd.to_numeric(frame[name], errors="coerce")
        if numbers.notna().all() and numbers.nunique() > 2:
            scaled = frame.assign(**{name: numbers})
            yield from drawn(
                f"Latency over {name}",
                "Mean over all other settings; the shade spans seeds.",
                partial(figures.panels, figures.scaling, scaled, by="model", x=name),
            )


def _by_model(draw: Any, rows: pd.DataFrame, models: Sequence[str]) -> Any:
    """One figure for a single model, else a panel for each."""
    shown = rows[rows["model"].isin(models)]
    return draw(shown) if len(models) == 1 else figures.panels(draw, shown, by="model", columns=2)


def _loaded(*paths: Path, names: Sequence[str] | None = None) -> analysis.Results:
    """What the folders have; the page says by itself what they lack."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", analysis.UnfinishedWarning)
        return analysis.load(*paths, names=names)
