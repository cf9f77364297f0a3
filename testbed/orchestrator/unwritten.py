"""A run's results in memory: a `Recorder` without files, for small runs, and for sessions whose results are on record already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from testbed.orchestrator.columns import FAULTS, INFERENCES, LINKS, RECOVERED
from testbed.orchestrator.fidelity import PairFacts
from testbed.orchestrator.results import plain


class Rows:
    """Rows as their text in a CSV file would be read back."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = tuple(columns)
        self.rows: list[dict[str, str]] = []

    def add(self, row: Mapping[str, object]) -> None:
        """Append a row; columns that it does not name stay empty."""
        self.add_values([row.get(column, "") for column in self._columns])

    def add_values(self, values: list[object]) -> None:
        """Append a row given in the order of the columns."""
        self.rows.append({name: str(value) for name, value in zip(self._columns, values, strict=True)})


class Records:
    """Records as their JSON would be read back; unless `kept`, none."""

    def __init__(self, kept: bool = True) -> None:
        self._kept = kept
        self.records: list[dict[str, Any]] = []

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a record."""
        if self._kept:
            self.records.append(plain(record))


class Unwritten:
    """A `Recorder` without files. Steps are not kept."""

    def __init__(self, recovery: bool) -> None:
        self.inferences = Rows(tuple(INFERENCES | (RECOVERED if recovery else {})))
        self.faults = Rows(tuple(FAULTS)) if recovery else None
        self.steps = None
        self.links = Rows(tuple(LINKS))
        self.plans = Records()
        self.manifest: dict[str, Any] = {}

    def save_manifest(self, **facts: Any) -> None:
        """Add facts to the manifest."""
        self.manifest.update(facts)

    def session_over(self, facts: PairFacts, epoch: int) -> None:
        """Nobody goes on with what is in memory only."""
