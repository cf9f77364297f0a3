"""A run without a folder: the same experiment, its rows kept in memory and summed up at once, for many small runs (sweeps).

What is measured is the same as in a run folder, row by row; steps, events and the manifest are not kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from d3node.errors import ModelError, NodeError
from testbed.backends.base import Backend, Invariant
from testbed.errors import BackendError, RunError
from testbed.orchestrator import experiment, fidelity
from testbed.orchestrator.account import WIDE_AREA_ROLES
from testbed.orchestrator.columns import FAULTS, INFERENCES, LINKS, RECOVERED
from testbed.orchestrator.fidelity import PairFacts
from testbed.orchestrator.journal import Journal
from testbed.orchestrator.results import plain
from testbed.orchestrator.summary import PairSummary, summarise_rows
from testbed.orchestrator.world import World


class _Rows:
    """Rows as their text in a CSV file would be read back."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = tuple(columns)
        self.rows: list[dict[str, str]] = []

    def add(self, row: Mapping[str, object]) -> None:
        self.add_values([row.get(column, "") for column in self._columns])

    def add_values(self, values: list[object]) -> None:
        self.rows.append({name: str(value) for name, value in zip(self._columns, values, strict=True)})


class _Records:
    def __init__(self, kept: bool = True) -> None:
        self._kept = kept
        self.records: list[dict[str, Any]] = []

    def add(self, record: Mapping[str, Any]) -> None:
        if self._kept:
            self.records.append(plain(record))


class _Memory:
    """A `Recorder` without files."""

    def __init__(self, recovery: bool) -> None:
        self.inferences = _Rows(tuple(INFERENCES | (RECOVERED if recovery else {})))
        self.faults = _Rows(tuple(FAULTS)) if recovery else None
        self.steps = None
        self.links = _Rows(tuple(LINKS))
        self.plans = _Records()
        self.manifest: dict[str, Any] = {}

    def save_manifest(self, **facts: Any) -> None:
        self.manifest.update(facts)


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
    memory = _Memory(scenario.faulty)
    memory.save_manifest(backend={"name": backend.name})
    journal = Journal(_Records(kept=False), None)
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
