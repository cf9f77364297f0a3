"""How exact the links of the Mininet backend are: one message over a warm connection against rate x 1448/1514.

`run()` measures in namespaces of its own and returns rows; `python -m benchmarks.links` prints them, and `--bursts` also compares
bursts of the token bucket. The error is that of the median of several messages.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from testbed.backends import isolation

TITLE = "Mininet backend: one message over a warm connection against rate x 1448/1514"
RATES_MBIT = (1, 10, 100, 500)
SIZES = (10_000, 100_000, 10_000_000)
BURSTS_S = (0.00005, 0.0001, 0.0002, 0.0005, 0.001)
LONGEST_S = 10.0
"""Messages that would take longer are left out (10 MB at 1 Mbit/s takes 84 s)."""

Row = dict[str, Any]


def run(bursts: bool = False) -> list[Row]:
    """Rows with rate_mbit, size_bytes, burst_bytes, ideal_s, median_s, error (relative), spread_s. Raises BackendError."""
    command = [sys.executable, "-m", "benchmarks.links", "--inside", *(["--bursts"] if bursts else [])]
    inside = isolation.start(command, stdout=subprocess.PIPE)
    output, _ = inside.supervisor.communicate()
    if inside.supervisor.returncode != 0:
        raise RuntimeError(f"the measurement ended with status {inside.supervisor.returncode}")
    return list(json.loads(output))


def _always(burst: int) -> Callable[[float], int]:
    return lambda _rate_bps: burst


def measure(bursts: bool) -> list[Row]:
    """Runs inside the namespaces."""
    from benchmarks._flows import ideal_s, open_flow
    from testbed.backends.emulated import EmulatedNetwork
    from testbed.backends.netspec import DIRECTIONS, NetworkSpec, burst_bytes, queue_bytes
    from testbed.scenario.state import LinkState
    from topologies.mininet_topo import Sizes
    from topologies.three_tier import layout

    plan = layout(Sizes(1, 1))
    states = {(link, direction): LinkState(10e9) for link in plan.link_names for direction in DIRECTIONS}
    network = EmulatedNetwork(NetworkSpec(plan, states, {key: queue_bytes(1e9, 0.0) for key in states}))
    shaper = network.shapers["backbone", "up"]
    rows = []
    for rate_mbit in RATES_MBIT:
        rate = rate_mbit * 1e6
        choices = [*(int(rate * s / 8) for s in BURSTS_S), 1514, 15_000] if bursts else [burst_bytes(rate)]
        for burst in sorted(set(choices)):
            shaper.burst = _always(burst)
            network.apply("backbone", "up", LinkState(rate))
            for size in SIZES:
                ideal = ideal_s(size, rate)
                if ideal > (2.0 if bursts else LONGEST_S):
                    continue
                rounds = 1 if ideal > 2.0 else 3 if ideal > 0.5 else 9
                times = open_flow(network, "d1", "c1", [size] * (rounds + 1)).times_s()[1:]
                median = statistics.median(times)
                rows.append(
                    {
                        "rate_mbit": rate_mbit,
                        "size_bytes": size,
                        "burst_bytes": burst,
                        "ideal_s": ideal,
                        "median_s": median,
                        "error": median / ideal - 1.0,
                        "spread_s": max(times) - min(times),
                    }
                )
    return rows


def show(rows: list[Row]) -> None:
    table = Table(title=TITLE)
    for name in ("rate", "message", "burst", "ideal", "measured", "error"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            f"{row['rate_mbit']} Mbit/s",
            f"{row['size_bytes'] / 1000:g} kB",
            f"{row['burst_bytes']} B",
            f"{row['ideal_s'] * 1e3:.3f} ms",
            f"{row['median_s'] * 1e3:.3f} ms",
            f"{row['error'] * 100:+.1f} %",
        )
    Console().print(table)


if __name__ == "__main__":
    if "--inside" in sys.argv:
        sys.stdout.write(json.dumps(measure("--bursts" in sys.argv)))
    else:
        show(run("--bursts" in sys.argv))
