"""Small runs and a sweep for the tests of `analysis`: sizes only, made in `sim`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestration import swinging

from testbed import registry, sweep
from testbed.orchestrator import run
from testbed.scenario.load import build
from testbed.sweep.cell import run_cell
from testbed.sweep.folder import SweepFolder, cell_columns

SCENARIO: dict[str, Any] = {
    "name": "tiny",
    "topology": {"edges": 3},
    "compute": {"tensors": "sizes"},
    "hosts": {"edge": {"profile": "jetson-tx2"}},
    "requests": {"count": 5, "warmup": 1, "arrival": "fixed", "rate": "0.25 /s"},
}


def make_run(path: Path, **tables: Any) -> Path:
    """A run of AlexNet and VGG-16 by four planners, over a backbone that swings between 60 and 1 Mbit/s every 6 s."""
    path.parent.mkdir(exist_ok=True)
    raw = {
        **SCENARIO,
        "model": {"names": ["alexnet", "vgg16"]},
        "links": {"backbone": {"trace": swinging(path.parent), "delay": "5 ms"}},
        "planning": {"planners": ["cloud-only", "hpa", "d3", "optimal"], "probe_interval": "0.5 s"},
        **tables,
    }
    run(build(raw), registry.backend("sim"), path)
    return path


SWEEP = """
name = "edges"
scenario = "quickstart"
[set]
"compute.tensors" = "sizes"
"requests.count" = 2
"links.backbone.trace" = "none"
[axes]
models = ["alexnet"]
planners = ["cloud-only", "d3"]
seeds = 2
[axes.parameters]
"topology.edges" = [1, 3]
"links.backbone.rate" = ["4 Mbit/s", "40 Mbit/s"]
"""


def make_sweep(path: Path) -> Path:
    """16 cells in this process: one and three edge hosts, two backbones, two seeds; the last one is not run."""
    file = path.parent / "edges.toml"
    file.write_text(SWEEP)
    plan = sweep.plan(sweep.read(file))
    folder = SweepFolder(path, plan)
    try:
        for cell in plan.cells[:-1]:
            folder.add({**run_cell(cell.task(), "sim", None), **cell_columns(cell)})
    finally:
        folder.close()
    return path
