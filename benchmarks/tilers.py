"""Maps cut over edge hosts: VSM beside MoDNN, DeepThings, AOFL and CoEdge, VGG-16 on 1 to 6 hosts, by latency and LAN bytes.

Runs in `sim` with sizes only, on modelled Raspberry Pi 4 hosts as in the papers; everybody has the whole network on the edge tier
(VSM's stacks too: HPA's split would hide the tiles). "mixed" hosts have 1, 0.5, 1.5, 1, 0.75 and 1.25 times the profile's speed.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis import tiles
from testbed.backends.sim import SimBackend
from testbed.orchestrator import run as run_scenario
from testbed.scenario.schema import Scenario

TITLE = "VGG-16's maps over edge hosts (Raspberry Pi 4, all on the edge): latency in ms (LAN MB), and of it against one host"
MIXED = (1.0, 0.5, 1.5, 1.0, 0.75, 1.25)
HOSTS = range(1, 7)
LANS = {"1 Gbit/s": "1 Gbit/s", "50 Mbit/s": "50 Mbit/s"}
FINE = {"deepthings_rows": 5, "deepthings_columns": 5}
SYSTEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "VSM": (f"{tiles.__file__}:Vsm", {}),
    "MoDNN": ("modnn", {}),
    "MoDNN, whole maps": ("modnn", {"modnn_exchange": "maps"}),
    "AOFL": ("aofl", {}),
    "AOFL, borders": ("aofl", {"aofl_exchange": "borders"}),
    "DeepThings 3x3, 16 layers": ("deepthings", {}),
    "DeepThings 3x3, 14 layers": ("deepthings", {"deepthings_depth": 14}),
    "DeepThings 5x5, 14 layers": ("deepthings", {**FINE, "deepthings_depth": 14}),
    "same without reuse": ("deepthings", {**FINE, "deepthings_depth": 14, "reuse": "off"}),
    "CoEdge": ("coedge", {}),
}


def run() -> list[dict[str, Any]]:
    """One row for each system, LAN and kind of hosts."""
    rows = []
    for lan in LANS:
        for kind, speeds in (("equal", (1.0,) * len(MIXED)), ("mixed", MIXED)):
            for label, (planner, options) in SYSTEMS.items():
                found = [measure(planner, options, lan, speeds[:n]) for n in HOSTS]
                alone = found[0][0]
                row: dict[str, Any] = {"LAN": lan, "hosts": kind, "system": label}
                row |= {f"{n} hosts": f"{s * 1e3:.0f} ({b / 1e6:.1f})" for n, (s, b) in zip(HOSTS, found, strict=True)}
                best = min(s for s, _ in found)
                rows.append({**row, "at best": f"{alone / best:.2f}x"})
    return rows


def measure(planner: str, options: dict[str, Any], lan: str, speeds: Sequence[float]) -> tuple[float, int]:
    """(seconds, LAN bytes) of one inference on an idle network."""
    scenario = Scenario.model_validate(
        {
            "name": "tilers",
            "model": {"names": ["vgg16"]},
            "topology": {"edges": len(speeds)},
            "links": {"access": {"rate": "84.95 Mbit/s"}, "lan": {"rate": lan}, "backbone": {"rate": "30 Mbit/s"}},
            "hosts": {
                "device": {"profile": "raspberry-pi-4"},
                "edge": {"profile": "raspberry-pi-4"},
                "cloud": {"profile": "tesla-t4"},
                **{f"e{i + 1}": {"speed": speed} for i, speed in enumerate(speeds)},
            },
            "compute": {"tensors": "sizes"},
            "requests": {"count": 1, "warmup": 1},
            "planning": {"planners": [planner], "replan": "never", "options": options},
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        summary = run_scenario(scenario, SimBackend(), Path(folder) / "run")
        assert summary.verdict == "trusted", summary.failing
        with (Path(folder) / "run" / "inferences.csv").open(newline="") as file:
            (row,) = (row for row in csv.DictReader(file) if row["warmup"] == "false")
        return float(row["latency_s"]), int(row["lan_bytes"])
