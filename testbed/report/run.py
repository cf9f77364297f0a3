"""A run folder as data frames: what notebooks, plots and tables work on. Columns are listed in `orchestrator.columns`.

    run = testbed.report.load("runs/quickstart-...")
    run.answered.groupby(["model", "planner"]).latency_s.median()

Folders of interrupted runs can be read; what they lack is empty.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from testbed.errors import InputError
from testbed.orchestrator.columns import FAULTS, INFERENCES, LINKS, RECOVERED, STEPS

_NAMES = ("model", "planner", "device", "error", "error_text", "tiles", "link", "direction", "kind", "target")
_STEP_NAMES = ("what", "host", "tier", "peer", "leg", "vertices")
_TRUTHS = ("warmup", "correct", "local_answer", "fallback", "agrees", "label_correct")
_WHOLE = ("request", "epoch", "input", "exit", "absent_devices", "label", "stack", "tile", "recoveries", "fault", "resumed")
_LATER = frozenset(("exit", "local_answer", "fallback", "absent_devices", "agrees", "label", "label_correct", *RECOVERED))
"""Columns that runs of earlier versions lack, and those that only runs with faults or recovery have."""
_TEXT = frozenset((*_NAMES, *_STEP_NAMES, *_TRUTHS, *_WHOLE))


@dataclass(frozen=True)
class Run:
    """One run. `inferences`, `steps`, `links`, `faults` are the CSV files; `plans` and `events` the JSON lines, one row a record;
    `manifest` and `fidelity` the documents. Runs of earlier versions have no steps."""

    path: Path
    manifest: dict[str, Any]
    inferences: pd.DataFrame
    steps: pd.DataFrame
    links: pd.DataFrame
    faults: pd.DataFrame
    plans: pd.DataFrame
    events: pd.DataFrame
    fidelity: dict[str, Any]

    @cached_property
    def measured(self) -> pd.DataFrame:
        """Inferences behind the warm-up."""
        return self.inferences[~self.inferences["warmup"].fillna(False).astype(bool)]

    @cached_property
    def answered(self) -> pd.DataFrame:
        """Measured inferences that have an answer."""
        return self.measured[self.measured["latency_s"].notna()]

    @property
    def verdict(self) -> str:
        """trusted, degraded or rejected; "unfinished" where the run wrote none."""
        return str(self.fidelity.get("verdict", "unfinished"))


def load(path: str | Path) -> Run:
    """Read a run folder. Raises InputError for a folder that is none, or a file in it that is damaged."""
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such run folder")
    if not (folder / "manifest.json").is_file():
        raise InputError(f"{folder} is not a run folder: it has no manifest.json")
    return Run(
        path=folder,
        manifest=_document(folder / "manifest.json"),
        inferences=_table(folder / "inferences.csv", INFERENCES | RECOVERED),
        steps=_table(folder / "steps.csv", STEPS),
        links=_table(folder / "links.csv", LINKS),
        faults=_table(folder / "faults.csv", FAULTS),
        plans=_records(folder / "plans.jsonl"),
        events=_records(folder / "events.jsonl"),
        fidelity=_document(folder / "fidelity.json") if (folder / "fidelity.json").is_file() else {},
    )


def _document(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: not a JSON object")
    return found


def _table(path: Path, columns: dict[str, str]) -> pd.DataFrame:
    types = {name: "float64" for name in columns if name not in _TEXT}
    types |= {name: "string" for name in columns if name in _TEXT}
    if not path.is_file():
        return _typed(pd.DataFrame({name: pd.Series(dtype=types[name]) for name in columns}))
    try:
        frame = pd.read_csv(path, dtype=types)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    for name in (name for name in columns if name in _LATER and name not in frame.columns):
        frame[name] = pd.Series(None, index=frame.index, dtype=types[name])
    if missing := [name for name in columns if name not in frame.columns]:
        raise InputError(f"{path}: column {missing[0]!r} is missing; was it written by another version?")
    return _typed(frame)


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    for name in _TRUTHS:
        if name in frame.columns:
            text = frame[name].str.lower().map({"true": True, "false": False, "1": True, "0": False})
            frame[name] = text.astype("boolean")
    for name in _WHOLE:
        if name in frame.columns:
            frame[name] = pd.to_numeric(frame[name]).astype("Int64")
    return frame


def _records(path: Path) -> pd.DataFrame:
    """One row a line; a last line that an abrupt end cut short is left out."""
    if not path.is_file():
        return pd.DataFrame()
    lines = path.read_text(encoding="utf-8").split("\n")
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):
                break
            raise InputError(f"{path}, line {number}: not JSON: {error}") from error
    return pd.DataFrame(found)
