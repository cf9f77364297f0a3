"""A run on a backend whose clock is another kernel's: the experiment goes there as a whole, its events and its folder come back.

This is this side, `carried_inside.py` the other; the experiment itself is `experiment.py`, there as everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from d3node.model import ModelSpec, load_graph
from testbed.backends.base import Carried, Carrier
from testbed.errors import InputError, TestbedError
from testbed.kernel import stopwatch
from testbed.orchestrator import checkpoints, provenance, walltime
from testbed.orchestrator.journal import Listener
from testbed.orchestrator.results import write_json
from testbed.orchestrator.summary import RunSummary, summarise
from testbed.orchestrator.walltime import now_utc
from testbed.orchestrator.world import prepare
from testbed.scenario.plain import to_plain
from testbed.scenario.schema import Scenario


def run(
    scenario: Scenario, backend: Carrier, out_dir: Path | str, listener: Listener | None, resumed: bool = False
) -> RunSummary:
    """Carry a run to where its clock is; one that is to be gone on with where `resumed`. Raises as `experiment.run` does; the
    manifest then says why, in both cases."""
    prepare(scenario)  # the user's mistakes are found before anything is started
    folder = Path(out_dir)
    if not resumed and folder.exists() and any(entry.name != "capture" for entry in folder.iterdir()):
        raise InputError(f"{folder} is not empty: results of a run go to a folder of their own, choose another with --out")
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    with checkpoints.hold(folder):  # locks of the other kernel are not this one's
        return _carry(scenario, backend, folder, listener, resumed)


def _carry(scenario: Scenario, backend: Carrier, folder: Path, listener: Listener | None, resumed: bool) -> RunSummary:
    capture_dir = getattr(backend, "capture_dir", None)
    arguments = {
        "scenario": to_plain(scenario),
        "graphs": {name: load_graph(_spec(scenario, name)).to_json() for name in scenario.model.names},
        "folder": str(folder),
        "ticks_per_s": stopwatch.ticks_per_s(),
        "capture_dir": None if capture_dir is None else str(Path(capture_dir).resolve()),
        "resumed": resumed,
    }
    before = _manifest(folder) if resumed else {}
    began, reason = now_utc(), ""
    facts: dict[str, Any] = {}
    marks = _Marks(listener or (lambda _event: None))
    try:
        job = Carried("testbed.orchestrator.carried_inside:run", arguments, folder, scenario.run.wall_limit)
        facts = backend.carry(scenario, job, marks)
    except KeyboardInterrupt:
        reason = "the run was interrupted"
        raise
    except TestbedError as error:
        reason = str(error)
        raise
    finally:
        _complete(folder, before, began, reason, facts, marks)
    return summarise(folder)


def _spec(scenario: Scenario, name: str) -> ModelSpec:
    return ModelSpec(name, scenario.model.seed, scenario.model.weights.get(name))


class _Marks:
    """Passes events on, and remembers the moment on the wall at which each kind came first."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._begun = walltime.Stopwatch.now()
        self._first: dict[str, float] = {}

    def __call__(self, event: dict[str, Any]) -> None:
        self._first.setdefault(event["event"], walltime.Stopwatch.now() - self._begun)
        self._listener(event)

    def wall(self, guest: Mapping[str, Any], inside: Mapping[str, float]) -> dict[str, float]:
        """Seconds that the parts of a run took: see docs/run_folder.md. `guest`: facts of it, `inside`: what it measured."""
        first = self._first
        found = {"boot_s": guest["boot_s"]} if "booting" in first and "boot_s" in guest else {}
        if {"booting", "loading", "loaded"} <= first.keys():
            found["prepare_s"] = first["loading"] - first["booting"] - guest.get("boot_s", 0.0)
            found["imports_s"] = first["loaded"] - first["loading"]
        found.update(inside)
        if "progress" in first:
            found["first_request_s"] = first["progress"]
        found["total_s"] = walltime.Stopwatch.now() - self._begun
        return {name: round(value, 3) for name, value in found.items()}


def _manifest(folder: Path) -> dict[str, Any]:
    """That of a run which is gone on with."""
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return found


def _complete(folder: Path, before: Mapping[str, Any], began: str, reason: str, facts: Mapping[str, Any], marks: _Marks) -> None:
    """What only this side knows: dates, this machine, the guest's figures, and how the run ended if it could not say so."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # it had not begun
    backend = {**manifest.get("backend", {}), "guest": {key: value for key, value in facts.items() if key != "result"}}
    backend["wall"] = marks.wall(facts, backend.get("wall", {}))
    manifest.update(
        started=before.get("started", began),
        ended=now_utc(),
        machine=provenance.machine(),
        git=provenance.git_state(),
        backend=backend,
    )
    for entry in manifest.get("resumed", [])[len(before.get("resumed", [])) :]:
        entry["at"] = began
    if reason:
        manifest["reason"] = reason
        if manifest.get("status") == "running":
            manifest["status"] = "failed"
    write_json(path, manifest)
