"""Reads a run folder back and sums it up: per model and planner latency, traffic, plan changes, and the verdict.

Plain data for whoever shows it; drawing tables and figures is left to `testbed.report` and `analysis`.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from statistics import fmean, median
from typing import Any

from testbed.errors import InputError
from testbed.orchestrator.overload import REFUSED


@dataclass(frozen=True)
class PairSummary:
    """One (model, planner). Latencies in seconds over measured requests that succeeded (NaN where there is none).

    `speedup[other]`: the other planner's mean latency over this one's. `touched_vertices` and `planning_time_s` (median) are
    over re-plans, `first_planning_time_s` over first plans; `backbone_bytes` per inference are the application's,
    `backbone_wire_bytes` what the backend counted over the whole session, warm-up included (None where it cannot).
    `weights_bytes`: of models, uploaded to servers, on the link that carried most of them.

    Over answers: `accuracy` is the share that finds the input's label (NaN without a data set), `agreement` the share of a lossy
    planner's that agree with the whole model's best class, `local_share` and `exit_shares` where those of plans with exits were
    made; `fallbacks` were the device's own because the others took too long. `shed`: those of the `failed` that were refused
    because there were too many.
    """

    model: str
    planner: str
    requests: int
    failed: int
    p50_s: float
    p95_s: float
    mean_s: float
    speedup: dict[str, float]
    backbone_bytes: float
    backbone_wire_bytes: int | None
    replans: int
    plan_changes: int
    touched_vertices: int
    vertices: int
    planning_time_s: float
    first_planning_time_s: float
    wrong: int
    max_rel_error: float
    verdict: str
    weights_bytes: int = 0
    lossy: bool = False
    accuracy: float = math.nan
    agreement: float = math.nan
    local_share: float = math.nan
    exit_shares: dict[str, float] = field(default_factory=dict)
    fallbacks: int = 0
    shed: int = 0


@dataclass(frozen=True)
class RunSummary:
    """A whole run. `status`: finished, failed or interrupted ("running" if it was killed); `failing` names broken invariants."""

    folder: Path
    scenario: str
    backend: str
    seed: int
    status: str
    verdict: str
    failing: list[str]
    pairs: list[PairSummary]
    manifest: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types (without the manifest)."""
        found = asdict(self)
        del found["manifest"]
        found["folder"] = str(self.folder)
        for pair in found["pairs"]:
            for key, value in pair.items():
                if isinstance(value, float) and not math.isfinite(value):
                    pair[key] = None
        return found


_TOLD = ("exit", "local_answer", "fallback", "agrees", "label_correct")
"""Columns of inferences.csv that only some planners and models fill."""


def percentile(ordered: Sequence[float], share: float) -> float:
    """Value at a share (0..1) of an ascending sequence, interpolated linearly; NaN for an empty one."""
    if not ordered:
        return math.nan
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


@dataclass
class _Pair:
    latencies: list[float] = field(default_factory=list)
    backbone: list[int] = field(default_factory=list)
    failed: int = 0
    shed: int = 0
    wrong: int = 0
    max_rel_error: float = 0.0
    told: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in _TOLD})
    wire: int | None = None
    weights: int = 0
    plans: list[Mapping[str, Any]] = field(default_factory=list)


def summarise(folder: Path | str) -> RunSummary:
    """Sum up a run folder, finished or not. Raises InputError for one that is not there or not readable."""
    folder = Path(folder)
    manifest = _document(folder / "manifest.json")
    fidelity = _document(folder / "fidelity.json") if (folder / "fidelity.json").exists() else {}
    return RunSummary(
        folder=folder,
        scenario=manifest["scenario"]["name"],
        backend=manifest["backend"]["name"],
        seed=manifest["seed"],
        status=manifest["status"],
        verdict=fidelity.get("verdict", "rejected"),
        failing=list(fidelity.get("failing", ["the run was cut off before its verdict"])),
        pairs=summarise_rows(
            _rows(folder / "inferences.csv"),
            _rows(folder / "links.csv"),
            _lines(folder / "plans.jsonl"),
            fidelity,
            manifest.get("wide_area_links", []),
        ),
        manifest=manifest,
    )


def summaries(folder: Path) -> dict[str, RunSummary]:
    """The runs that lie in a folder and have begun to measure, by the names of their folders, in the order of their starts."""
    found = [summarise(path.parent) for path in folder.glob("*/manifest.json")]
    found.sort(key=lambda run: (str(run.manifest.get("started")), run.folder.name))
    return {run.folder.name: run for run in found if run.pairs}


_GRADES = ("trusted", "degraded", "rejected")


def pooled(runs: Sequence[RunSummary], folder: Path) -> RunSummary:
    """Runs of one scenario, with other seeds or traces, as if they were one: statistics over all their requests together, counts
    and bytes of whole sessions as sums, verdicts the worst of each. `folder` is where the runs' folders lie."""
    sessions: dict[tuple[str, str], str] = {}
    for pair in (pair for run in runs for pair in run.pairs):
        key = (pair.model, pair.planner)
        sessions[key] = max(pair.verdict, sessions.get(key, "trusted"), key=_GRADES.index)
    return replace(
        runs[0],
        folder=folder,
        status="finished" if all(run.status == "finished" for run in runs) else "incomplete",
        verdict=max((run.verdict for run in runs), key=_GRADES.index),
        failing=[f"{run.folder.name}: {text}" for run in runs for text in run.failing],
        pairs=summarise_rows(
            chain.from_iterable(_rows(run.folder / "inferences.csv") for run in runs),
            chain.from_iterable(_rows(run.folder / "links.csv") for run in runs),
            chain.from_iterable(_lines(run.folder / "plans.jsonl") for run in runs),
            {"sessions": [{"model": m, "planner": p, "verdict": verdict} for (m, p), verdict in sessions.items()]},
            runs[0].manifest.get("wide_area_links", []),
        ),
    )


def summarise_rows(
    inferences: Iterable[Mapping[str, str]],
    links: Iterable[Mapping[str, str]],
    plans: Iterable[Mapping[str, Any]],
    fidelity: Mapping[str, Any],
    wide_area_links: Sequence[str],
) -> list[PairSummary]:
    """The sessions of a run, from the rows of its tables (as text, as CSV has them), wherever these are kept."""
    pairs: dict[tuple[str, str], _Pair] = {}
    for row in inferences:
        pair = pairs.setdefault((row["model"], row["planner"]), _Pair())
        if row["warmup"] == "true":
            continue
        if row["error"]:
            pair.failed += 1
            pair.shed += row["error"] in REFUSED
            continue
        pair.latencies.append(float(row["latency_s"]))
        pair.backbone.append(int(row["backbone_bytes"]))
        pair.wrong += row["correct"] == "false"
        for name in _TOLD:
            if value := row.get(name):
                pair.told[name].append(value)
        pair.max_rel_error = max(pair.max_rel_error, float(row["max_rel_error"] or 0.0))
    for row in links:
        if row["kind"] == "total" and int(row.get("weights_bytes") or 0):
            pair = pairs.setdefault((row["model"], row["planner"]), _Pair())
            pair.weights = max(pair.weights, int(row["weights_bytes"]))
        if row["kind"] == "total" and row["direction"] == "up" and row["link"] in wide_area_links and row["wire_bytes"]:
            pair = pairs.setdefault((row["model"], row["planner"]), _Pair())
            pair.wire = (pair.wire or 0) + int(row["wire_bytes"])
    for record in plans:
        pairs.setdefault((record["model"], record["planner"]), _Pair()).plans.append(record)
    verdicts = {(s["model"], s["planner"]): s["verdict"] for s in fidelity.get("sessions", [])}
    means = {key: fmean(pair.latencies) if pair.latencies else math.nan for key, pair in pairs.items()}
    return [_summary(key, pair, means, verdicts.get(key, "rejected")) for key, pair in pairs.items()]


def _summary(key: tuple[str, str], pair: _Pair, means: dict[tuple[str, str], float], verdict: str) -> PairSummary:
    model, planner = key
    ordered = sorted(pair.latencies)
    again = [plan for plan in pair.plans if plan["reason"] != "first"]
    first = [plan for plan in pair.plans if plan["reason"] == "first"]
    return PairSummary(
        model=model,
        planner=planner,
        requests=len(ordered) + pair.failed,
        failed=pair.failed,
        p50_s=percentile(ordered, 0.5),
        p95_s=percentile(ordered, 0.95),
        mean_s=means[key],
        speedup={other: mean / means[key] for (m, other), mean in means.items() if m == model and other != planner},
        backbone_bytes=fmean(pair.backbone) if pair.backbone else math.nan,
        backbone_wire_bytes=pair.wire,
        replans=len(again),
        plan_changes=sum(plan["installed"] for plan in again),
        touched_vertices=sum(len(plan["touched"]) for plan in again),
        vertices=first[0]["vertices"] if first else 0,
        planning_time_s=median(plan["planning_time_s"] for plan in again) if again else math.nan,
        first_planning_time_s=median(plan["planning_time_s"] for plan in first) if first else math.nan,
        wrong=pair.wrong,
        max_rel_error=pair.max_rel_error,
        verdict=verdict,
        weights_bytes=pair.weights,
        lossy=bool(pair.told["agrees"] or pair.told["exit"]),
        accuracy=_share(pair.told["label_correct"]),
        agreement=_share(pair.told["agrees"]),
        local_share=_share(pair.told["local_answer"]),
        exit_shares={e: pair.told["exit"].count(e) / len(pair.told["exit"]) for e in sorted(set(pair.told["exit"]))},
        fallbacks=pair.told["fallback"].count("true"),
        shed=pair.shed,
    )


def _share(truths: Sequence[str]) -> float:
    return truths.count("true") / len(truths) if truths else math.nan


def _document(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path.parent} is not a run folder: {path.name} cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise InputError(f"{path.parent} is not a run folder: {path.name} holds no object")
    return found


def _rows(path: Path) -> Iterator[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)
    except OSError as error:
        raise InputError(f"{path.parent} is not a run folder: {path.name} cannot be read ({error})") from error


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)
    except (OSError, ValueError) as error:
        raise InputError(f"{path.parent} is not a run folder: {path.name} cannot be read ({error})") from error
