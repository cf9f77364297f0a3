"""How long it takes to recover from each kind of fault, and what going on half-way saves against beginning again.

`topologies/faults.toml` in `sim`, VGG-16 by D3, requests one after the other, one fault while the request that is under way has
tensors on several hosts. Virtual time: the same figures on every machine.
"""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path
from typing import Any

from testbed.backends.sim import SimBackend
from testbed.orchestrator import run as run_scenario
from testbed.scenario.load import load

TITLE = "Recovery (faults.toml, sim, VGG-16 by d3): ms from the fault on, latency of the request that it hit"
ONE_BY_ONE = ('requests={count = 20, deadline = "10 s"}', "planning.planners=d3")
HIT = "5"
"""The request that is under way when the fault comes."""

FAULTS: dict[str, str] = {
    "kill e2 (tiles)": 'kind = "kill", host = "e2"',
    "kill e1 (leader)": 'kind = "kill", host = "e1"',
    "kill c1": 'kind = "kill", host = "c1"',
    "hang e2": 'kind = "hang", host = "e2"',
    "hang e1": 'kind = "hang", host = "e1"',
    "hang c1": 'kind = "hang", host = "c1"',
    "backbone down": 'kind = "down", link = "backbone"',
    "lan-e2 down": 'kind = "down", link = "lan-e2"',
    "partition d1": 'kind = "partition", hosts = ["d1"]',
    "flap backbone": 'kind = "flap", link = "backbone", for = "4 s", period = "2 s"',
    "loss backbone": 'kind = "loss", link = "backbone", loss = "20 %"',
    "slow e2": 'kind = "slow", host = "e2", factor = 4',
    "corrupt d1 e1": 'kind = "corrupt", host = "d1", peer = "e1"',
    "truncate e1 c1": 'kind = "truncate", host = "e1", peer = "c1"',
    "orchestrator": 'kind = "orchestrator", for = "2 s"',
}


def rows_of(path: Path) -> list[dict[str, str]]:
    """A table of a run folder."""
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def moment() -> float:
    """When all edge hosts compute their tiles of the request."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "run")
        run_scenario(load("faults", ["fault=[]", *ONE_BY_ONE]), SimBackend(), folder)
        steps = rows_of(folder / "steps.csv")
    tiles = [row for row in steps if (row["request"], row["warmup"], row["what"]) == (HIT, "false", "compute") and row["tile"]]
    first = [row for row in tiles if row["stack"] == tiles[0]["stack"]]
    begun, over = max(float(row["start_s"]) for row in first), min(float(row["end_s"]) for row in first)
    assert begun < over, "all hosts compute at the same time"
    return round((begun + over) / 2.0, 3)


def measure(fault: str, mode: str, at_s: float) -> dict[str, Any]:
    """One run with one fault."""
    overrides = [f'fault=[{{{fault}, at = "{at_s} s"}}]', f"recovery.mode={mode}", *ONE_BY_ONE]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "run")
        run_scenario(load("faults", overrides), SimBackend(), folder)
        (told,) = rows_of(folder / "faults.csv")
        answers = [row for row in rows_of(folder / "inferences.csv") if row["warmup"] == "false"]
    assert not any(row["error"] for row in answers), "every request has an answer"
    hit = next(row for row in answers if float(row["submitted_s"]) + float(row["latency_s"]) > at_s)
    after = {key: None if not told[key] else (float(told[key]) - at_s) * 1e3 for key in ("noticed_s", "replanned_s")}
    return {**after, "latency": float(hit["latency_s"]) * 1e3, "usual": float(answers[0]["latency_s"]) * 1e3}


def run() -> list[dict[str, Any]]:
    """A row for each kind of fault."""
    rows = []
    at_s = moment()
    for name, fault in FAULTS.items():
        resumed, again = measure(fault, "resume", at_s), measure(fault, "restart", at_s)
        rows.append(
            {
                "fault": name,
                "noticed": "-" if resumed["noticed_s"] is None else f"{resumed['noticed_s']:.0f}",
                "planned around": "-" if resumed["replanned_s"] is None else f"{resumed['replanned_s']:.0f}",
                "without a fault": f"{resumed['usual']:.0f}",
                "resumed": f"{resumed['latency']:.0f}",
                "from the start": f"{again['latency']:.0f}",
            }
        )
    return rows
