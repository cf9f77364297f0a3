"""Peak memory of the quickstart's VGG-16 over Mininet: six agents that share one copy of the weights.

Beside it: what the six would take if each held its own copy, from the resident size of one process that has loaded the model.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

TITLE = "Peak memory: VGG-16 on six agents over Mininet (proportional set size, all processes of the run)"
COMMAND = ("run", "quickstart", "--backend", "mininet", "--planner", "d3", "--set", 'model.names=["vgg16"]')
CHANGES = ("run.time_scale=10", "requests.count=2", "links.backbone.delay=0 ms")
MIB = 2**20


def _parents() -> dict[int, int]:
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    return found


def _family(root: int) -> set[int]:
    parents, family = _parents(), {root}
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in family} - family
        family |= more
        grown = bool(more)
    return family


def _field(pid: int, name: str, file: str = "smaps_rollup") -> int:
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def run() -> list[dict[str, Any]]:
    """One row. Needs root (or user namespaces) and Mininet."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "testbed.cli", *COMMAND, "--out", str(Path(folder) / "run")]
        for change in CHANGES:
            command += ["--set", change]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        peak = largest = 0
        done = threading.Event()

        def watch() -> None:
            nonlocal peak, largest
            while not done.wait(0.5):
                family = _family(process.pid)
                peak = max(peak, sum(_field(pid, "Pss") for pid in family))
                largest = max(largest, *(_field(pid, "VmRSS", "status") for pid in family))

        watcher = threading.Thread(target=watch)
        watcher.start()
        output, _ = process.communicate()
        done.set()
        watcher.join()
        if process.returncode not in (0, 3):  # 3: finished, but timing was rejected, which does not matter here
            raise RuntimeError(f"the run failed with exit code {process.returncode}:\n{output[-2000:]}")
    return [
        {
            "peak of the whole run, MiB": round(peak / MIB),
            "largest single process, MiB": round(largest / MIB),
            "six separate processes would take, MiB": round(6 * largest / MIB),
            "target, MiB": 3072,
        }
    ]


if __name__ == "__main__":
    from rich.console import Console

    from benchmarks.__main__ import table

    Console().print(table(TITLE, run()))
