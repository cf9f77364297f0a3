"""Two runs of one scenario side by side: what each says of every model and planner, and how far they are apart.

On the level of a run's summary; requests one by one are `testbed verify backends`' business.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.markup import escape
from rich.table import Table

from testbed.errors import InputError
from testbed.orchestrator.summary import PairSummary, RunSummary
from testbed.report import units


@dataclass(frozen=True)
class Difference:
    """One (model, planner) that both runs have. `latency` and `backbone` are shares of the first run's figure (NaN for none)."""

    first: PairSummary
    second: PairSummary

    @property
    def latency(self) -> float:
        """Relative difference of the median latencies."""
        return _relative(self.first.p50_s, self.second.p50_s)

    @property
    def backbone(self) -> float:
        """Relative difference of the application bytes per inference."""
        return _relative(self.first.backbone_bytes, self.second.backbone_bytes)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types: both figures, first run's first, and their difference (None where there is none)."""
        pairs = (self.first, self.second)
        return {
            "model": self.first.model,
            "planner": self.first.planner,
            "p50_s": [_finite(pair.p50_s) for pair in pairs],
            "p50_difference": _finite(self.latency),
            "backbone_bytes": [_finite(pair.backbone_bytes) for pair in pairs],
            "backbone_difference": _finite(self.backbone),
            "plan_changes": [pair.plan_changes for pair in pairs],
        }


def differences(first: RunSummary, second: RunSummary) -> list[Difference]:
    """What two runs have in common, in the first one's order. Raises InputError where that is nothing."""
    others = {(pair.model, pair.planner): pair for pair in second.pairs}
    found = [Difference(p, others[p.model, p.planner]) for p in first.pairs if (p.model, p.planner) in others]
    if not found:
        raise InputError(f"{first.folder} and {second.folder} have no model and planner in common: nothing to compare")
    return found


def labels(first: RunSummary, second: RunSummary) -> tuple[str, str]:
    """What the two runs are called: by backend where that tells them apart, else by folder."""
    if first.backend != second.backend:
        return first.backend, second.backend
    return first.folder.name, second.folder.name


def compare_table(first: RunSummary, second: RunSummary) -> Table:
    """A row per model and planner: median latency, bytes per inference and plan changes of both runs, with their differences."""
    one, two = labels(first, second)
    table = Table(title=f"{first.scenario}: {one} and {two} side by side", title_justify="left", title_style="bold", box=None)
    table.pad_edge, table.padding = False, (0, 2, 0, 0)
    table.add_column("", no_wrap=True)
    for heading in (f"p50\n{one}", f"\n{two}", "\nΔ", f"backbone\n{one}", f"\n{two}", "\nΔ", f"changes\n{one}", f"\n{two}"):
        table.add_column(heading, justify="right", vertical="bottom", no_wrap=True, header_style="dim")
    model = ""
    for found in differences(first, second):
        if found.first.model != model:
            model = found.first.model
            table.add_row(f"[bold]{escape(model)}[/]")
        pairs = (found.first, found.second)
        table.add_row(
            escape(f"  {found.first.planner}"),
            *(_shown(pair.p50_s, units.seconds) for pair in pairs),
            _signed(found.latency),
            *(_shown(pair.backbone_bytes, units.size) for pair in pairs),
            _signed(found.backbone),
            *(str(pair.plan_changes) for pair in pairs),
        )
    return table


def compare_lines(first: RunSummary, second: RunSummary) -> Iterator[str]:
    """The largest differences, in words, and the verdicts."""
    one, two = labels(first, second)
    found = differences(first, second)
    for name, value in (("median latency", "latency"), ("backbone bytes", "backbone")):
        known = [item for item in found if not math.isnan(getattr(item, value))]
        if known:
            worst = max(known, key=lambda item: abs(getattr(item, value)))
            where = f"{worst.first.model} by {worst.first.planner}"
            yield f"largest difference of {name}: {_signed(getattr(worst, value))} ({escape(where)})"
    yield f"verdicts: {one} {first.verdict}, {two} {second.verdict}"


def _relative(first: float, second: float) -> float:
    if math.isnan(first) or math.isnan(second):
        return math.nan
    if first == second:
        return 0.0
    return (second - first) / first if first else math.inf


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _shown(value: float, worded: Callable[[float], str]) -> str:
    return "–" if math.isnan(value) else worded(value)


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else "0" if abs(value) < 5e-5 else f"{value * 100:+.2f} %"
