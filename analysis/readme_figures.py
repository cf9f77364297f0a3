"""The pictures of the README, from runs made for them: `python -m analysis.readme_figures` in the project's folder.

A network with D3's plan on it, AlexNet under D3 while an LTE-like backbone changes, and speed-ups over cloud-only on two
backbones (`benchmarks.gains`). All in `sim` with sizes only, so the same pictures come out again.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from analysis import figures, tables
from analysis.comparison import BACKBONES
from analysis.results import load as load_results
from testbed import registry
from testbed.errors import TestbedError
from testbed.orchestrator import run
from testbed.orchestrator.world import prepare
from testbed.report.forecast import forecasts
from testbed.scenario.load import load

IMAGES = Path("docs/images")

PLANNERS = ("cloud-only", "edge-only", "neurosurgeon", "dads", "hpa", "d3", "optimal-tiles")
"""Of the chart of speed-ups."""


def topology() -> Axes:
    """The quickstart's network, and where D3 puts VGG-16 at its start."""
    world = prepare(load("quickstart", ['model.names=["vgg16"]', 'planning.planners=["d3"]']))
    plan = next(forecasts(world)).decision.plan
    return figures.topology(world.layout, world.links, world.hosts, plan=plan)


def timeline(requests: int = 84) -> Figure | SubFigure:
    """AlexNet in the scenario `replan`, 1.4 requests a second."""
    settings = [
        'model.names=["alexnet"]',
        'planning.planners=["cloud-only", "edge-only", "d3"]',
        "compute.tensors=sizes",
        "requests.rate=1.4 /s",
        f"requests.count={requests}",
    ]
    with tempfile.TemporaryDirectory() as folder:
        run(load("replan", settings), registry.backend("sim"), Path(folder) / "replan")
        found = load_results(Path(folder) / "replan")
    return figures.latency_timeline(found.inferences, found.links, found.plans, log=True)


def speedups(backbones: Sequence[str] = ("Wi-Fi", "5G"), *overrides: str) -> Figure:
    """Mean latency of cloud-only over each planner's, five DNNs on two backbones of docs/comparison.md, Jetsons as edge."""
    from benchmarks import gains

    cells = [cell for name in backbones for cell in gains.measure("jetson", name, PLANNERS, *overrides)]
    rows = {
        "status": "finished",
        "model": [cell.model for cell in cells],
        "planner": [cell.planner for cell in cells],
        "mean_s": [cell.latency_s for cell in cells],
        "backbone": [f"{cell.backbone}, {BACKBONES[cell.backbone][0]}" for cell in cells],
    }
    table = tables.speedups(pd.DataFrame(rows), by=("model", "backbone"))
    return figures.panels(figures.speedup_bars, table, by="backbone", height=2.2)


PICTURES: dict[str, Callable[[], Axes | Figure | SubFigure]] = {
    "topology": topology,
    "timeline": timeline,
    "speedup": speedups,
}


def main() -> int:
    """Write the pictures named on the command line (all without a name), as SVG."""
    wanted = sys.argv[1:] or list(PICTURES)
    if unknown := [name for name in wanted if name not in PICTURES]:
        print(f"error: no picture {unknown[0]!r}; there are {', '.join(PICTURES)}", file=sys.stderr)
        return 2
    matplotlib.use("agg")
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        target = IMAGES / f"{name}.svg"
        try:
            figures.save(PICTURES[name](), target)
        except (TestbedError, ImportError) as error:
            print(f"error: {error} (run this in the project's folder)", file=sys.stderr)
            return 1
        plt.close("all")
        print(f"{target}: {target.stat().st_size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
