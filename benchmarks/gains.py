"""D3's gain in latency and backbone bytes over every other system, for five DNNs, four backbones and two kinds of edge.

`topologies/paper.toml` in `sim`, sizes only, one request at a time on a steady network: a system is judged by its plan, and all
of them know the network. `make bench ONLY=gains` sums it up, `python -m benchmarks.gains` prints every case.
The paper claims up to 3.4 times in time, and up to 3.68 times less on the backbone, over the state of the art.

The cases, and what is left out: `analysis/comparison.py`.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from analysis.comparison import BACKBONES, EDGES, planners, ratio, settings
from testbed.backends.sim import SimBackend
from testbed.orchestrator import run as run_scenario
from testbed.orchestrator.summary import PairSummary
from testbed.scenario.load import load

TITLE = "D3's gain over the others (paper.toml, sim, sizes only): time of the other / time of D3; bytes on the backbone likewise"
SCENARIO = Path(__file__).resolve().parent.parent / "topologies" / "paper.toml"

HEADING = {
    "device-only": "device",
    "edge-only": "edge o.",
    "cloud-only": "cloud",
    "neurosurgeon": "neuros.",
    "deepthings": "deepth.",
    "optimal-tiles": "opt.-tiles",
}


@dataclass(frozen=True)
class Cell:
    """One planner on one model, edge and backbone: mean latency in seconds, application bytes per inference on the backbone."""

    edge: str
    backbone: str
    model: str
    planner: str
    latency_s: float
    backbone_bytes: float


def measure(edge: str, backbone: str, names: Iterable[str], *overrides: str) -> list[Cell]:
    """Every model by every planner, on one edge and backbone. Raises ValueError for a run that is not to be trusted."""
    chosen = [*settings(edge, backbone, names), *overrides]
    with tempfile.TemporaryDirectory() as folder:
        summary = run_scenario(load(str(SCENARIO), chosen), SimBackend(), Path(folder) / "run")
    if summary.verdict != "trusted":
        raise ValueError(f"the run is {summary.verdict}: {summary.failing}")
    return [_cell(edge, backbone, pair) for pair in summary.pairs]


def _cell(edge: str, backbone: str, pair: PairSummary) -> Cell:
    return Cell(edge, backbone, pair.model, pair.planner, pair.mean_s, pair.backbone_bytes)


def gains(names: Iterable[str] | None = None, *overrides: str) -> list[Cell]:
    """Every cell of the comparison."""
    chosen = tuple(names or planners())
    return [cell for edge in EDGES for backbone in BACKBONES for cell in measure(edge, backbone, chosen, *overrides)]


def by_case(cells: Iterable[Cell]) -> dict[tuple[str, str, str], dict[str, Cell]]:
    """Cells by (edge, backbone, model) and planner."""
    table: dict[tuple[str, str, str], dict[str, Cell]] = {}
    for cell in cells:
        table.setdefault((cell.edge, cell.backbone, cell.model), {})[cell.planner] = cell
    return table


def lines(cells: Iterable[Cell]) -> list[dict[str, Any]]:
    """Two lines per edge, backbone and model, of time and of bytes: D3's own figure, and every other's over it."""
    cells = list(cells)
    others = [name for name in dict.fromkeys(cell.planner for cell in cells) if name != "d3"]
    rows = []
    for (edge, backbone, model), by_name in by_case(cells).items():
        own = by_name["d3"]
        for what in ("time", "bytes"):
            row: dict[str, Any] = {"edge": edge, "backbone": backbone, "model": model, "of": what}
            row["D3"] = f"{own.latency_s * 1e3:.1f} ms" if what == "time" else f"{own.backbone_bytes / 1e3:.0f} kB"
            for name in others:
                figures = [(c.latency_s if what == "time" else c.backbone_bytes) for c in (by_name[name], own)]
                row[HEADING.get(name, name)] = _times(figures[0], figures[1])
            rows.append(row)
    return rows


def _times(other: float, own: float) -> str:
    found = ratio(other, own)
    return "all" if math.isinf(found) else f"{found:.2f}"


def claims(cells: Iterable[Cell]) -> list[dict[str, Any]]:
    """A line per other system: D3's gain over it, and how often the paper's figures are reached."""
    cells = list(cells)
    found = []
    for name in (name for name in dict.fromkeys(cell.planner for cell in cells) if name != "d3"):
        pairs = [(by[name], by["d3"]) for by in by_case(cells).values()]
        times = sorted(ratio(other.latency_s, own.latency_s) for other, own in pairs)
        sizes = [ratio(other.backbone_bytes, own.backbone_bytes) for other, own in pairs]
        found.append(
            {
                "D3 against": name,
                "time, worst": times[0],
                "median": median(times),
                "best": times[-1],
                "slower than it": sum(t < 0.995 for t in times),
                "3.4 reached": sum(t >= 3.4 for t in times),
                "bytes: 3.68 reached": sum(s >= 3.68 for s in sizes),
                "as many": sum(0.995 <= s <= 1.005 for s in sizes),
                "more than it": sum(s < 0.995 for s in sizes),
                "cases": len(pairs),
            }
        )
    return found


def run() -> list[dict[str, Any]]:
    """A line per other system; `python -m benchmarks.gains` also prints every case."""
    return claims(gains())


def main() -> None:
    """Both tables, and the cells as JSON in build/gains.json."""
    from rich.console import Console

    from benchmarks.__main__ import table

    cells = gains()
    target = Path("build/gains.json")
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps([asdict(cell) for cell in cells], indent=1) + "\n")
    console = Console(width=230)
    console.print(table(TITLE, lines(cells)))
    console.print(table(TITLE, claims(cells)))


if __name__ == "__main__":
    main()
