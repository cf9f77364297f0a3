"""The files of one run together, new or to go on with (`results.py` has how each is written, `checkpoints.py` how far it is)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from testbed import owner
from testbed.errors import InputError, RunError
from testbed.orchestrator import checkpoints
from testbed.orchestrator.checkpoints import Checkpoints
from testbed.orchestrator.columns import FAULTS, INFERENCES, LINKS, RECOVERED, STEPS
from testbed.orchestrator.fidelity import PairFacts
from testbed.orchestrator.results import Lines, Table, write_json, writing

MANIFEST = "manifest.json"


class RunFolder:
    """The files of one run. Raises InputError for a folder that holds a run already, or that cannot be made. `recovery`: the
    scenario has faults or recovery. With `again` the folder is that of a run that did not reach its end, to go on with."""

    def __init__(self, path: Path, recovery: bool = False, again: bool = False) -> None:
        self.path = path
        self.manifest: dict[str, Any] = {}
        if not again:
            _make(path)
        self.checkpoints = Checkpoints(path)
        try:
            if again:
                self.manifest = _manifest(path)
                again = self._there(path, recovery)
            self.inferences = Table(path / "inferences.csv", INFERENCES | (RECOVERED if recovery else {}), again)
            self.steps = Table(path / "steps.csv", STEPS, again)
            self.links = Table(path / "links.csv", LINKS, again)
            self.faults = Table(path / "faults.csv", FAULTS, again) if recovery else None
            self.plans = Lines(path / "plans.jsonl", again)
            self.events = Lines(path / "events.jsonl", again)
        except OSError as error:
            self.checkpoints.close()
            raise InputError(f"the run folder {path} cannot be made: {error.strerror or error}") from error
        except RunError as error:
            self.checkpoints.close()
            raise InputError(str(error)) from error
        except BaseException:
            self.checkpoints.close()
            raise

    def begin(self) -> None:
        """The run begins, unless it has begun before."""
        if not self.checkpoints.begun:
            self.checkpoints.begin(self._sizes())

    def save_manifest(self, **facts: Any) -> None:
        """Add facts to the manifest and write it."""
        self.manifest.update(facts)
        write_json(self.path / MANIFEST, self.manifest)

    def save_fidelity(self, document: Mapping[str, Any]) -> None:
        """Write the verdict."""
        write_json(self.path / "fidelity.json", document)

    def session_over(self, facts: PairFacts, epoch: int) -> None:
        """A session is over: all that is written so far stays, whatever happens to this process. `epoch` is the number of the
        last plan so far. Raises RunError."""
        for file in self._files:
            with writing(file.path):
                os.fsync(file.fileno())
        self.checkpoints.session(facts, epoch, self._sizes())

    def rewind(self) -> None:
        """Take away what a session has left that did not come to its end. Raises RunError."""
        for name, size in self.checkpoints.sizes.items():
            with writing(self.path / name):
                os.truncate(self.path / name, size)

    def mend(self) -> None:
        """Take away last lines that an abrupt end cut short. Raises RunError."""
        for file in self._files:
            with writing(file.path):
                checkpoints.mend(file.path)

    def close(self) -> None:
        """Close all files."""
        for file in self._files:
            file.close()
        self.checkpoints.close()
        owner.give_all(self.path)

    @property
    def _files(self) -> list[Table | Lines]:
        files = (self.inferences, self.steps, self.links, self.faults, self.plans, self.events)
        return [file for file in files if file is not None]

    def _sizes(self) -> dict[str, int]:
        return {file.path.name: file.path.stat().st_size for file in self._files}

    def _there(self, path: Path, recovery: bool) -> bool:
        """Whether the files of a run to go on with are there; if it died before it had them all, none is, afterwards."""
        names = ["inferences.csv", "steps.csv", "links.csv", "plans.jsonl", "events.jsonl", *(["faults.csv"] if recovery else [])]
        if not self.checkpoints.begun:
            for name in names:
                (path / name).unlink(missing_ok=True)
            return False
        sizes = self.checkpoints.sizes
        for name in names:
            if not (path / name).is_file() or (path / name).stat().st_size < sizes[name]:
                raise InputError(f"{path}: {name} lacks what its checkpoints say it has; the run cannot be gone on with")
        return True


def _make(path: Path) -> None:
    try:
        owner.make(path)
        there = [entry for entry in path.iterdir() if entry.name != "capture"]
    except OSError as error:
        raise InputError(f"the run folder {path} cannot be made: {error.strerror or error}") from error
    if any(entry.name != checkpoints.FILE or entry.stat().st_size for entry in there):
        raise InputError(f"{path} is not empty: results of a run go to a folder of their own, choose another with --out")


def _manifest(path: Path) -> dict[str, Any]:
    try:
        found = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a run folder: {MANIFEST} cannot be read ({error})") from error
    if not isinstance(found, dict) or not isinstance(found.get("scenario"), dict):
        raise InputError(f"{path} is not a run folder: its {MANIFEST} is not that of a run")
    return found
