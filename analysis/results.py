"""`load`: run folders and sweep folders, one or several, as tidy pandas frames with documented columns (docs/analysis.md).

Reading single files is the business of `testbed.report` and `testbed.sweep`; here their rows become frames that can be put
side by side.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pandas as pd

from analysis import frames
from analysis.columns import FRAMES
from testbed import sweep
from testbed.errors import InputError
from testbed.names import suggestion
from testbed.report import Run
from testbed.report import load as load_run


class UnfinishedWarning(UserWarning):
    """A folder was read that has not everything: the run or sweep was cut off, is still running, or some of it failed."""


@dataclass(frozen=True)
class Results:
    """What was read. The frames have the columns of `analysis.columns.FRAMES`; those that the folders have no rows for are empty.

    `manifests`: each folder's manifest by its name (column `run`, or `sweep`); `notes`: what is missing, a sentence each.
    """

    inferences: pd.DataFrame
    steps: pd.DataFrame
    links: pd.DataFrame
    link_totals: pd.DataFrame
    faults: pd.DataFrame
    plans: pd.DataFrame
    events: pd.DataFrame
    fidelity: pd.DataFrame
    cells: pd.DataFrame
    manifests: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def manifest(self) -> Mapping[str, Any]:
        """The manifest, where one folder was read. Raises InputError for several: their manifests are in `manifests`."""
        if len(self.manifests) != 1:
            raise InputError(f"{len(self.manifests)} folders were read: take results.manifests[name], {_known(self.manifests)}")
        return next(iter(self.manifests.values()))

    @property
    def answered(self) -> pd.DataFrame:
        """Inferences behind the warm-up that have an answer: what latencies are taken from."""
        return frames.answered(self.inferences)

    @property
    def models(self) -> list[str]:
        """Models, in the order in which they come."""
        return self._named("model")

    @property
    def planners(self) -> list[str]:
        """Planners, in the order in which they come."""
        return self._named("planner")

    def only(self, **wanted: object) -> Results:
        """The rows with these values of these columns (one value, or a list of them), in every frame that has the column.

        `results.only(model="vgg16", planner=["d3", "hpa"])`. Raises InputError for a column that no frame has, and for a value
        that stands in none.
        """
        kept: dict[str, pd.DataFrame] = {name: getattr(self, name) for name in FRAMES}
        for column, value in wanted.items():
            values = list(value) if isinstance(value, list | tuple | set) else [value]
            having = {name: frame for name, frame in kept.items() if column in frame.columns}
            if not having:
                raise InputError(f"no frame has a column {column!r}")
            present = {item for frame in having.values() for item in frame[column].dropna().unique()}
            for item in values:
                if item not in present:
                    raise InputError(f"no row has {column} {item!r}{suggestion(str(item), map(str, present), 'there are')}")
            kept |= {name: frame[frame[column].isin(values).fillna(False)] for name, frame in having.items()}
        return replace(self, **cast(dict[str, Any], kept))

    def events_of(self, event: str) -> pd.DataFrame:
        """The events of one kind, with a column for each of their fields."""
        rows = self.events[self.events["event"] == event]
        plain = rows.drop(columns="fields").reset_index(drop=True)
        return pd.concat([plain, pd.DataFrame(list(rows["fields"]))], axis="columns")

    def _named(self, column: str) -> list[str]:
        held = [frame[column] for frame in (self.inferences, self.plans, self.cells) if len(frame)]
        return [str(name) for name in pd.concat(held).dropna().unique()] if held else []


def load(*paths: str | Path, names: Sequence[str] | None = None, runs: bool = False) -> Results:
    """Read run folders and sweep folders, as many as are given. They need not be finished: what is missing is said in
    `Results.notes`, and in an UnfinishedWarning for each folder.

    `names`: what the folders are called in the columns `run` and `sweep`, instead of their own names. `runs`: also read the run
    folder that a sweep kept of each cell (`--keep-runs`), where column `run` is the cell's key.
    Raises InputError for a folder that is neither, for a damaged file (named), and for two folders of one name.
    """
    folders = [Path(path) for path in paths]
    if not folders:
        raise InputError("give at least one run folder or sweep folder to load")
    if names is not None and len(names) != len(folders):
        raise InputError(f"{len(names)} names for {len(folders)} folders")
    labels = list(names) if names is not None else _labels(folders)
    if len(set(labels)) != len(labels):
        raise InputError(f"two folders would have one name: {', '.join(labels)}; call them apart with names=[...]")
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in FRAMES}
    manifests: dict[str, Mapping[str, Any]] = {}
    notes: list[str] = []
    for label, folder in zip(labels, folders, strict=True):
        if _is_sweep(folder):
            cells, missing, manifests[label] = _sweep(folder, label)
            parts["cells"].append(cells)
            for key in cells.loc[cells["status"] == "finished", "key"] if runs else ():
                if not (folder / "runs" / key).is_dir():
                    raise InputError(
                        f"{folder}: no run folder of cell {key}; run the sweep with --keep-runs, or load it without runs=True"
                    )
                missing += _run(load_run(folder / "runs" / key), str(key), parts)
        else:
            run = load_run(folder)
            manifests[label] = run.manifest
            missing = _run(run, label, parts)
        if missing:
            warnings.warn("; ".join(missing), UnfinishedWarning, stacklevel=2)
        notes += missing
    found = {name: _joined(parts[name], columns) for name, columns in FRAMES.items()}
    return Results(**found, manifests=manifests, notes=tuple(notes))


def _labels(folders: Sequence[Path]) -> list[str]:
    """Folders by their own names; where these are equal, with the folder that they are in."""
    short = [folder.resolve().name for folder in folders]
    return [name if short.count(name) == 1 else "/".join(f.resolve().parts[-2:]) for name, f in zip(short, folders, strict=True)]


def _is_sweep(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # what is wrong with it is said by reading it as a run
    return isinstance(manifest, dict) and manifest.get("kind") == "sweep"


def _sweep(folder: Path, label: str) -> tuple[pd.DataFrame, list[str], Mapping[str, Any]]:
    cells = sweep.load(folder)
    cells.insert(0, "sweep", label)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    counts = cells["status"].value_counts()
    told = {"pending": "still to be run", "failed": "failed (columns error and error_text say why)"}
    notes = [f"{folder}: {counts[status]} of {len(cells)} cells {words}" for status, words in told.items() if status in counts]
    return cells, notes, manifest


def _run(run: Run, label: str, parts: dict[str, list[pd.DataFrame]]) -> list[str]:
    """Add one run's rows to the frames; what it lacks."""
    backend = str(run.manifest.get("backend", {}).get("name", ""))
    made = {
        "inferences": run.inferences,
        "steps": frames.steps(run),
        "links": frames.links(run),
        "link_totals": frames.link_totals(run),
        "faults": run.faults,
        "plans": frames.plans(run),
        "events": frames.events(run),
        "fidelity": frames.fidelity(run),
    }
    for name, frame in made.items():
        named = frame.copy()
        named.insert(0, "run", pd.Series(label, index=named.index, dtype="string"))
        named.insert(1, "backend", pd.Series(backend, index=named.index, dtype="string"))
        parts[name].append(named)
    return list(_lacks(run))


def _lacks(run: Run) -> Iterable[str]:
    status = run.manifest.get("status")
    if status != "finished":
        reason = run.manifest.get("reason")
        state = {"running": "is still running, or was killed"}.get(str(status), str(status))
        yield f"{run.path}: the run {state}" + (f" ({reason})" if reason else "") + f"; it has {len(run.inferences)} rows"
    elif not run.fidelity:
        yield f"{run.path}: no fidelity.json, so no verdict on its figures"
    if len(run.inferences) and run.steps.empty:
        yield f"{run.path}: no steps.csv (a run of an earlier version), so no Gantt chart"


def _joined(parts: list[pd.DataFrame], columns: Mapping[str, str]) -> pd.DataFrame:
    """Frames below one another, in the documented order of columns (a sweep's parameters stay where they are)."""
    if not parts:
        return pd.DataFrame({name: pd.Series(dtype="string" if name in ("run", "sweep") else "object") for name in columns})
    filled = [part for part in parts if len(part)] or parts[:1]
    return pd.concat(filled, ignore_index=True)


def _known(manifests: Mapping[str, object]) -> str:
    return "with one of " + ", ".join(map(repr, manifests))
