"""Going on with a run whose process has died: sessions that are over stay as they are, the one under way is begun again.

What is on record of how far it came is in `checkpoints.py`; taking a session over instead is `takeover.py`'s business.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.backends.base import Exact, Session
from testbed.orchestrator.checkpoints import Checkpoints
from testbed.orchestrator.folder import RunFolder
from testbed.orchestrator.walltime import now_utc
from testbed.orchestrator.world import World


@dataclass(frozen=True)
class Again:
    """A run that is gone on with, in its folder."""

    folder: RunFolder

    @property
    def checkpoints(self) -> Checkpoints:
        """How far it came."""
        return self.folder.checkpoints

    @property
    def over(self) -> int:
        """Sessions that are over."""
        return len(self.checkpoints.over)

    def note(self, world: World, how: str, why: str) -> dict[str, Any]:
        """Put it on record in the manifest that the run goes on, and with which session; for an event, too."""
        pairs = world.pairs
        model, planner = pairs[self.over] if self.over < len(pairs) else (None, None)
        entry = {
            "at": now_utc(),
            "session": self.over + 1 if model is not None else None,
            "model": None if model is None else world.models[model].label,
            "planner": planner,
            "how": how,
            "why": why,
        }
        before = self.folder.manifest.get("resumed", [])
        self.folder.save_manifest(resumed=[*before, entry])
        return {key: value for key, value in entry.items() if value is not None}


def begin_again(again: Again, world: World, session: Session, why: str) -> dict[str, Any]:
    """Take away what the session under way has left, and put on record that it is begun again. Raises RunError."""
    again.folder.rewind()
    again.checkpoints.add({"what": "again"})
    if isinstance(session, Exact) and again.over:
        why += "; the sessions before it are simulated once more, and what they come to is on record already"
    return again.note(world, "begun again", why)


def rows_of(path: Path, names: Mapping[str, str]) -> list[dict[str, str]]:
    """Rows of a table that are of one session."""
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if all(row[key] == value for key, value in names.items())]
