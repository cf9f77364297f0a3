"""A sweep's folder: `cells.csv` (a row per cell, appended and synced as it ends), `plan.csv`, `manifest.json`; and reading it.

Only one process writes to a folder at a time. What cells are, and how they are run, is for others.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from testbed.errors import InputError
from testbed.lock import locked
from testbed.orchestrator.results import write_json, writing
from testbed.sweep.columns import CELLS, PLAN, TEXT
from testbed.sweep.plan import Cell, Plan

FORMAT = 1
"""Version of the folder's format, in the manifest."""
KIND = "sweep"


class SweepFolder:
    """The folder of one sweep, new or to go on with. Raises InputError for a folder that holds something else, or that another
    process writes to."""

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            begun = any(entry.name not in ("lock", "manifest.json.tmp") for entry in path.iterdir())
            self.manifest = _manifest(path) if begun else {}
            self._lock = locked(path / "lock", f"{path}: another process runs this sweep; wait for it, or choose another folder")
        except OSError as error:
            raise InputError(f"the sweep folder {path} cannot be used: {error.strerror or error}") from error
        try:
            if self.manifest and self.manifest.get("name") != plan.spec.name:
                raise InputError(
                    f"{path} holds the sweep {self.manifest.get('name')!r}, not {plan.spec.name!r}; choose another with --out"
                )
            if not self.manifest:
                self.save_manifest(name=plan.spec.name, status="running")  # first of all: it says whose folder this is
            self.latest = _latest(_mended(path / "cells.csv"))
            _write_plan(path / "plan.csv", plan.cells)
            self._cells = _appended(path / "cells.csv")
        except BaseException:
            self._lock.close()
            raise

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a cell's row; it is on the disk when this returns."""
        text = _line(["" if row.get(name) is None else row[name] for name in CELLS])
        with writing(self.path / "cells.csv"):
            self._cells.write(text)
            self._cells.flush()
            os.fsync(self._cells.fileno())
        self.latest[str(row["key"])] = {name: str(value) for name, value in row.items() if value is not None}

    def save_manifest(self, **facts: Any) -> None:
        """Add facts to the manifest and write it."""
        self.manifest.update(facts)
        write_json(self.path / "manifest.json", {"format": FORMAT, "kind": KIND, **self.manifest})

    def close(self) -> None:
        """Close the table and let others write."""
        with suppress(OSError):
            self._cells.close()
        self._lock.close()


def load(folder: str | Path) -> pd.DataFrame:
    """The cells of a sweep, one row each in the order of the plan, with a column per parameter (by key path); `status` is
    "finished", "failed", or "pending" for one that is still to be run. Columns are those of `columns.CELLS`.

    Rows of cells that the sweep file no longer has, or of other versions of the packages, are left out. Raises InputError.
    """
    path = Path(folder)
    _manifest(path)
    plan, latest = _rows(path / "plan.csv"), _latest(_rows(path / "cells.csv") if (path / "cells.csv").is_file() else [])
    rows = [{**latest.get(cell["key"], {"status": "pending"}), **cell} for cell in plan]
    frame = pd.DataFrame(rows, columns=list(CELLS), dtype="string")
    for name in CELLS:
        if name not in TEXT:
            frame[name] = pd.to_numeric(frame[name], errors="coerce").astype("float64")
    for name in ("seed", "requests", "failed", "replans", "plan_changes", "touched_vertices", "vertices", "wrong", "fallbacks"):
        frame[name] = frame[name].astype("Int64")
    parameters = [json.loads(row["parameters"]) for row in plan]
    for place, name in enumerate(dict.fromkeys(key for given in parameters for key in given), list(CELLS).index("parameters")):
        frame.insert(place, name, [given.get(name) for given in parameters])
    return frame.drop(columns="parameters")


def is_sweep(folder: str | Path) -> bool:
    """Whether a folder says that it is a sweep's (and not a run's)."""
    try:
        found = json.loads((Path(folder) / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("kind") == KIND


def cell_columns(cell: Cell) -> dict[str, Any]:
    """What a row says of the cell itself."""
    return {
        "key": cell.key,
        "model": cell.model,
        "planner": cell.planner,
        "trace": cell.trace or "none",
        "seed": cell.seed,
        "parameters": json.dumps(dict(cell.parameters), ensure_ascii=False),
    }


def _manifest(path: Path) -> dict[str, Any]:
    try:
        found = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is not the folder of a sweep: it has no manifest.json; choose an empty or new one") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: manifest.json cannot be read: {error}") from error
    if not isinstance(found, dict) or found.get("kind") != KIND:
        raise InputError(f"{path} is not the folder of a sweep (its manifest is that of a run?)")
    if found.get("format") != FORMAT:
        raise InputError(f"{path}: a sweep of format {found.get('format')}; this version reads {FORMAT}")
    return found


def _mended(path: Path) -> list[dict[str, str]]:
    """Rows of the table; a last line that an abrupt end cut short is taken away."""
    if not path.is_file():
        return []
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with path.open("r+b") as file:
            file.truncate(whole)
    if whole == 0:
        path.unlink()
        return []
    return _rows(path)


def _rows(path: Path) -> list[dict[str, str]]:
    """Whole lines of a table (another process may be writing the last one)."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
    missing = [name for name in ("key", "model", "parameters") if name not in (reader.fieldnames or ())]
    if missing:
        raise InputError(f"{path}: column {missing[0]!r} is missing; was it written by another version?")
    rows = list(reader)
    if any(None in row or None in row.values() for row in rows):
        raise InputError(f"{path}: a row has not as many values as there are columns; the file is damaged")
    return rows


def _latest(rows: Sequence[dict[str, str]]) -> dict[str, dict[str, str]]:
    """The last row of every key: a cell that was retried counts as it ended last."""
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        found[row["key"]] = row
    return found


def _appended(path: Path) -> Any:
    new = not path.is_file()
    file = path.open("a", encoding="utf-8", newline="")
    if new:
        file.write(_line(CELLS))
        file.flush()
        os.fsync(file.fileno())
    return file


def _write_plan(path: Path, cells: Sequence[Cell]) -> None:
    scratch = path.with_name(path.name + ".tmp")
    with writing(path), scratch.open("w", encoding="utf-8", newline="") as file:
        file.write(_line(PLAN))
        for cell in cells:
            columns = cell_columns(cell)
            file.write(_line([columns[name] for name in PLAN]))
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)


def _line(values: Any) -> str:
    """One line of CSV: values hold no line breaks, so that a row is whole exactly when its line is."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([_flat(value) for value in values])
    return text.getvalue()


def _flat(value: Any) -> Any:
    if isinstance(value, str):
        return " ".join(value.splitlines())
    return "" if isinstance(value, float) and not math.isfinite(value) else value


def finished_keys(path: Path, plan: Plan) -> set[str]:
    """Keys of the plan's cells that a folder has rows of (failed ones too); nothing is changed. Raises InputError for a folder
    that holds something else; one that is not there has none."""
    if not path.exists() or not any(path.iterdir()):
        return set()
    manifest = _manifest(path)
    if manifest.get("name") != plan.spec.name:
        raise InputError(f"{path} holds the sweep {manifest.get('name')!r}, not {plan.spec.name!r}; choose another with --out")
    rows = _rows(path / "cells.csv") if (path / "cells.csv").is_file() else []
    return {row["key"] for row in rows} & {cell.key for cell in plan.cells}
