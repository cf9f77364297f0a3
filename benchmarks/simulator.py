"""How fast the simulator is: simulated inferences per second of whole runs, sizes only (target 1,000/s), and what its layers do.

Wall-clock and CPU seconds are given side by side: on a shared machine they differ. `python -m benchmarks.simulator --profile`
shows where the time of the tiled run goes.
"""

from __future__ import annotations

import asyncio
import cProfile
import pstats
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from d3node.clock import VirtualLoop
from d3node.clock import run as run_loop
from testbed.backends.flow import FlowNetwork
from testbed.backends.sim import SimBackend
from testbed.orchestrator import run as run_scenario
from testbed.scenario.load import load
from testbed.scenario.schema import Scenario, TopologyTable
from testbed.scenario.state import LinkState
from topologies.three_tier import layout

TITLE = "Simulator speed, sizes only (target: 1,000 simulated inferences/s)"
QUICKSTART = Path(__file__).resolve().parent.parent / "topologies" / "quickstart.toml"
SCENARIO: dict[str, Any] = {
    "name": "simulator-speed",
    "model": {"names": ["vgg16"]},
    "topology": {"edges": 4},
    "links": {
        "access": {"rate": "84.95 Mbit/s"},
        "backbone": {"trace": "lte-like", "trace_direction": "up", "rate_down": "40 Mbit/s", "delay": "15 ms"},
    },
    "hosts": {"device": {"profile": "raspberry-pi-4"}, "edge": {"profile": "desktop-6core"}, "cloud": {"profile": "rtx-2080-ti"}},
    "compute": {"tensors": "sizes"},
}
RUNS: tuple[tuple[str, str, int, str], ...] = (
    ("vgg16, cloud-only, 1 device", "cloud-only", 1, "never"),
    ("vgg16, hpa, 1 device, fixed plan", "hpa", 1, "never"),
    ("vgg16, d3 (tiles on 4 edge hosts), 1 device, fixed plan", "d3", 1, "never"),
    ("vgg16, d3, 4 devices at once, fixed plan", "d3", 4, "never"),
    ("vgg16, d3, 1 device, partial re-planning", "d3", 1, "partial"),
)
INFERENCES = 1000
MESSAGES = 20_000
TIMERS = 100_000


def run() -> list[dict[str, Any]]:
    """Each figure once, after a short warm-up of the same code."""
    rows = []
    for what, planner, devices, replan in RUNS:
        _inferences(_scenario(planner, devices, replan, 20))
        scenario = _scenario(planner, devices, replan, INFERENCES // devices)
        rows.append(_row(what, "inferences", partial(_inferences, scenario)))
    quickstart = load(str(QUICKSTART), ['compute.tensors="sizes"', "requests.count=125"])
    rows.append(_row("quickstart as shipped (2 models, 4 planners)", "inferences", partial(_inferences, quickstart)))
    rows.append(_row("flow network: messages that never compete", "messages", lambda: _messages(streams=1)))
    rows.append(_row("flow network: messages of 3 streams on one link", "messages", lambda: _messages(streams=3)))
    rows.append(_row("virtual loop: sleeps of 100 tasks", "sleeps", _sleeps))
    return rows


def _row(what: str, unit: str, work: Callable[[], tuple[int, float]]) -> dict[str, Any]:
    wall, processor = time.perf_counter(), time.process_time()
    count, virtual_s = work()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return {
        "what": what,
        "count": f"{count:,} {unit}",
        "virtual s": round(virtual_s, 1),
        "wall s": round(wall, 2),
        "CPU s": round(processor, 2),
        "per wall s": round(count / wall),
        "per CPU s": round(count / processor),
    }


def _scenario(planner: str, devices: int, replan: str, count: int) -> Scenario:
    topology = {**SCENARIO["topology"], "devices": devices}
    planning = {"planners": [planner], "replan": replan}
    return Scenario.model_validate({**SCENARIO, "topology": topology, "planning": planning, "requests": {"count": count}})


def _inferences(scenario: Scenario) -> tuple[int, float]:
    """A run as `testbed run` does it, control loop, traces and run folder included; (requests, seconds that devices waited)."""
    with tempfile.TemporaryDirectory() as folder:
        summary = run_scenario(scenario, SimBackend(), Path(folder) / "run")
        assert summary.verdict == "trusted", summary.failing
        done = sum(pair.requests - pair.failed for pair in summary.pairs)
        return done, sum(pair.mean_s * pair.requests for pair in summary.pairs) / scenario.topology.devices


def _messages(streams: int) -> tuple[int, float]:
    """Messages of 100 kB, one after the other on each of some streams that cross the same backbone."""

    loop = VirtualLoop()

    async def main() -> float:
        network_layout = layout(TopologyTable(devices=streams))
        directions: Any = ("up", "down")
        states = {(link.name, d): LinkState(50e6, 0.005) for link in network_layout.links for d in directions}
        network = FlowNetwork(loop, network_layout, states)
        over = loop.create_future()
        left = [MESSAGES]

        def start(number: int) -> None:
            stream, _ = network.connect(f"d{number}", "c1")

            def again() -> None:
                left[0] -= 1
                if left[0] > 0:
                    stream.send(100_000, None, again)
                elif not over.done():
                    over.set_result(None)

            stream.send(100_000, None, again)

        for number in range(1, streams + 1):
            start(number)
        await over
        return loop.time()

    return MESSAGES, run_loop(loop, main())


def _sleeps() -> tuple[int, float]:
    async def sleeper(period: float) -> None:
        for _ in range(TIMERS // 100):
            await asyncio.sleep(period)

    async def main() -> float:
        await asyncio.gather(*(sleeper(0.001 * (1 + i)) for i in range(100)))
        return asyncio.get_running_loop().time()

    return TIMERS, run_loop(VirtualLoop(), main())


def profile() -> None:
    """Print the functions that take most of the tiled run."""
    _inferences(_scenario("d3", 1, "never", 20))
    profiler = cProfile.Profile()
    profiler.enable()
    _inferences(_scenario("d3", 1, "never", INFERENCES))
    profiler.disable()
    pstats.Stats(profiler).strip_dirs().sort_stats("tottime").print_stats(40)


if __name__ == "__main__":
    if sys.argv[1:] == ["--profile"]:
        profile()
    else:
        from rich.console import Console

        from benchmarks.__main__ import table

        Console().print(table(TITLE, run()))
