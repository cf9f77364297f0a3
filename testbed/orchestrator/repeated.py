"""Sessions that are over, carried out once more in memory, where the network is gone and repeats to the byte (`sim`).

The session that follows then finds it as it would have been.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from testbed.errors import RunError
from testbed.orchestrator.again import rows_of
from testbed.orchestrator.fidelity import PairFacts
from testbed.orchestrator.journal import Journal
from testbed.orchestrator.pair import PairRun
from testbed.orchestrator.stage import Stage
from testbed.orchestrator.unwritten import Records, Unwritten


async def repeat(stage: Stage, model: str, planner: str, kept: PairFacts, folder: Path) -> None:
    """Carry a session out that is over and on record. Raises RunError where it does not come to the same rows."""
    unwritten = Unwritten(stage.world.scenario.faulty)
    unseen = replace(stage, folder=unwritten, journal=Journal(Records(kept=False), None), facts=[])
    await PairRun(unseen, model, planner).run()
    names = {"model": kept.model, "planner": kept.planner}
    same = unseen.facts == [kept] and rows_of(folder / "inferences.csv", names) == unwritten.inferences.rows
    if not same or rows_of(folder / "links.csv", names) != unwritten.links.rows:
        raise RunError(
            f"{folder}: {kept.model} by {kept.planner} does not come to what is on record of it, with this machine's versions of"
            " the packages; carry the run out anew: testbed run " + str(folder)
        )
