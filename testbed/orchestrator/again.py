"""Going on with a run whose process has died: sessions that are over stay as they are, the one under way is begun again.

What is on record of how far it came is in `checkpoints.py`. Where the network itself is gone and repeats to the byte (`sim`), the
sessions that are over are carried out once more in memory, so that the next one finds the network as it would have been.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from testbed.backends.base import Exact, Session
from testbed.errors import RunError
from testbed.orchestrator.checkpoints import Checkpoints
from testbed.orchestrator.fidelity import PairFacts
from testbed.orchestrator.folder import RunFolder
from testbed.orchestrator.journal import Journal
from testbed.orchestrator.pair import PairRun
from testbed.orchestrator.stage import Stage
from testbed.orchestrator.unwritten import Records, Unwritten
from testbed.orchestrator.walltime import now_utc
from testbed.orchestrator.world import World


@dataclass(frozen=True)
class Again:
    """A run that is gone on with. `folder` is its folder, `over` how many of its sessions are over."""

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


def begin_again(again: Again, world: World, session: Session, why: str = "") -> dict[str, Any]:
    """Take away what the session under way has left, and put on record that it is begun again. Raises RunError."""
    again.folder.rewind()
    why = why or "its network and agents ended with the process that ran it"
    if isinstance(session, Exact) and again.over:
        why += "; the sessions before it are simulated once more, and what they come to is on record already"
    return again.note(world, "begun again", why)


async def repeat(stage: Stage, model: str, planner: str, kept: PairFacts, folder: Path) -> None:
    """Carry a session out that is over and on record. Raises RunError where it does not come to the same rows."""
    unwritten = Unwritten(stage.world.scenario.faulty)
    unseen = replace(stage, folder=unwritten, journal=Journal(Records(kept=False), None), facts=[])
    await PairRun(unseen, model, planner).run()
    names = {"model": kept.model, "planner": kept.planner}
    same = unseen.facts == [kept] and _rows(folder / "inferences.csv", names) == unwritten.inferences.rows
    if not same or _rows(folder / "links.csv", names) != unwritten.links.rows:
        raise RunError(
            f"{folder}: {kept.model} by {kept.planner} does not come to what is on record of it, with this machine's versions of"
            " the packages; carry the run out anew: testbed run " + str(folder)
        )


def _rows(path: Path, names: Mapping[str, str]) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if all(row[key] == value for key, value in names.items())]
