"""Whether memory stays flat over 100,000 simulated requests of a run that writes its folder as any other (target: no growth).

Memory is looked at every twentieth of a run, behind a garbage collection: what the process has in RAM, and what Python has
allocated, in blocks. What grows up to a bound does so in the first half (samples of lateness, a plan cache); the figures for
growth are those of the second.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d3node.stats import resident_bytes
from testbed.backends.sim import SimBackend
from testbed.orchestrator import run as run_scenario
from testbed.scenario.schema import Scenario

TITLE = "Soak: memory over many requests in sim, sizes only (target: flat)"
BASE: dict[str, Any] = {
    "name": "soak",
    "model": {"names": ["resnet18"]},
    "topology": {"devices": 2, "edges": 3},
    "links": {
        "access": {"rate": "84.95 Mbit/s"},
        "backbone": {
            "trace": "lte-like",
            "trace_scale": 2.0,
            "trace_loop": True,
            "trace_direction": "up",
            "rate_down": "40 Mbit/s",
            "delay": "10 ms",
        },
    },
    "hosts": {"device": {"profile": "raspberry-pi-4"}, "edge": {"profile": "jetson-tx2"}, "cloud": {"profile": "tesla-t4"}},
    "compute": {"tensors": "sizes"},
    "requests": {"arrival": "poisson", "rate": "4 /s", "deadline": "5 s"},
    "planning": {"planners": ["d3"], "knowledge": "true", "samples": 1},
}
LOOKS = 20
GROWTH = 0.2
"""Blocks per request that a run may take more, over its second half."""


@dataclass(frozen=True)
class Look:
    """Memory after so many requests."""

    requests: int
    bytes: int
    blocks: int


@dataclass(frozen=True)
class Soaked:
    """A run, and what memory it took. `plans`: rows of its plans.jsonl."""

    looks: tuple[Look, ...]
    failed: int
    plans: int
    verdict: str

    def growth(self, what: Callable[[Look], int]) -> float:
        """Per request, over the second half."""
        first, last = self.looks[len(self.looks) // 2 - 1], self.looks[-1]
        return (what(last) - what(first)) / (last.requests - first.requests)


def scenario(count: int, **tables: Mapping[str, Any]) -> Scenario:
    """So many requests, half of them of each device; `tables` on top of the base."""
    raw = {key: {**value, **tables.get(key, {})} if isinstance(value, dict) else value for key, value in BASE.items()}
    raw["requests"]["count"] = count // raw["topology"]["devices"]
    return Scenario.model_validate({**raw, **{key: value for key, value in tables.items() if key not in raw}})


def soak(asked: Scenario) -> Soaked:
    """Run it, with `LOOKS` looks at memory."""
    looks: list[Look] = []

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "progress" and event["done"] * LOOKS // event["total"] > len(looks):
            gc.collect()
            looks.append(Look(event["done"], resident_bytes(), sys.getallocatedblocks()))

    with tempfile.TemporaryDirectory() as folder:
        summary = run_scenario(asked, SimBackend(), Path(folder) / "run", listen)
        plans = (Path(folder) / "run" / "plans.jsonl").read_bytes().count(b"\n")
    return Soaked(tuple(looks), sum(pair.failed for pair in summary.pairs), plans, summary.verdict)


CASES: dict[str, Callable[[], Scenario]] = {
    "a new plan every few seconds": lambda: scenario(100_000),
    "overload: most requests are too late": lambda: scenario(100_000, requests={"rate": "25 /s", "deadline": "1 s"}),
}


def run() -> list[dict[str, Any]]:
    """A row for each case."""
    rows = []
    for what, make in CASES.items():
        begun = time.perf_counter()
        found = soak(make())
        last, growth = found.looks[-1], found.growth(lambda look: look.blocks)
        assert growth < GROWTH, f"{what}: {growth:.3f} blocks of memory per request: {found.looks}"
        rows.append(
            {
                "what": what,
                "requests": f"{last.requests:,}",
                "failed": f"{found.failed:,}",
                "plans": f"{found.plans:,}",
                "MiB at the first look": round(found.looks[0].bytes / 2**20, 1),
                "halfway": round(found.looks[LOOKS // 2 - 1].bytes / 2**20, 1),
                "at the end": round(last.bytes / 2**20, 1),
                "growth, B/request": round(found.growth(lambda look: look.bytes), 2),
                "blocks/request": round(growth, 4),
                "wall s": round(time.perf_counter() - begun),
            }
        )
    return rows
