"""A run without a folder: the same experiment, its rows kept in memory and summed up at once, for many small runs (sweeps).

What is measured is the same as in a run folder, row by row; steps, events and the manifest are not kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from d3node.errors import ModelError, NodeError
from testbed.backends.base import Backend, Invariant
from testbed.errors import BackendError, RunError
from testbed.orchestrator import experiment, fidelity
from testbed.orchestrator.account import WIDE_AREA_ROLES
from testbed.orchestrator.fidelity import PairFacts
from testbed.orchestrator.journal import Journal
from testbed.orchestrator.summary import PairSummary, summarise_rows
from testbed.orchestrator.unwritten import Records, Unwritten
from testbed.orchestrator.world import World


@dataclass(frozen=True)
class Measured:
    """One run: its sessions summed up, every row of its inferences (text, as in inferences.csv), and its fidelity document."""

    pairs: list[PairSummary]
    inferences: list[dict[str, str]]
    fidelity: dict[str, Any]


def measure(world: World, backend: Backend) -> Measured:
    """Run every session of a world. Raises what `experiment.run` raises; then nothing is kept."""
    scenario = world.scenario
    support = backend.support(scenario)
    if not support.ok:
        raise BackendError(f"backend {backend.name!r} cannot run this scenario here: " + "; ".join(support.reasons))
    memory = Unwritten(scenario.faulty)
    memory.save_manifest(backend={"name": backend.name})
    journal = Journal(Records(kept=False), None)
    pairs: list[PairFacts] = []
    invariants: list[Invariant] = []
    try:
        backend.run(scenario, lambda session: experiment.main(world, session, memory, journal, pairs, invariants))
    except ModelError:
        raise
    except NodeError as error:
        raise RunError(f"the run could not be completed: {type(error).__name__}: {error}") from error
    verdict = fidelity.document(pairs, invariants, None)
    wide_area = [link.name for link in world.layout.links if link.role in WIDE_AREA_ROLES]
    found = summarise_rows(memory.inferences.rows, memory.links.rows, memory.plans.records, verdict, wide_area)
    return Measured(found, memory.inferences.rows, verdict)
