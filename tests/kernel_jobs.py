"""Jobs that the tests of the time-travel kernel run in a guest."""

from __future__ import annotations

import asyncio
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from d3node.clock import ScaledLoop, run
from testbed.errors import ScenarioError

Emit = Callable[..., None]


def echo(emit: Emit, **arguments: Any) -> dict[str, Any]:
    emit("said", words=arguments)
    return {"arguments": arguments, "uid": os.getuid(), "release": os.uname().release, "threads": os.environ["OMP_NUM_THREADS"]}


def nap(emit: Emit, naps: list[float]) -> list[float]:
    """Sleep; compute a little between naps; the moments at which they ended."""
    start, moments = time.monotonic(), []
    for seconds in naps:
        time.sleep(seconds)
        moments.append(time.monotonic() - start)
        emit("awake", at_s=moments[-1])
        sum(range(200_000))
    return moments


def timers(emit: Emit, delays: list[float]) -> list[float]:
    """How late an event loop's timers are, in seconds, each on a loop of its own."""

    async def lateness(delay: float) -> float:
        loop = asyncio.get_running_loop()
        due = loop.time() + delay
        done = loop.create_future()
        loop.call_at(due, lambda: done.set_result(loop.time()))
        return float(await done - due)

    return [run(ScaledLoop(), lateness(delay)) for delay in delays]


def files(emit: Emit, inside: str, outside: str) -> dict[str, Any]:
    """Write to a writable folder and try to write beside it."""
    Path(inside, "written").write_text("by the guest")
    refused = {}
    for place in (outside, "/usr", "/"):
        try:
            Path(place, "d3-must-not-be").write_text("x")
        except OSError as error:
            refused[place] = os.strerror(error.errno or 0)
    Path("/dev/shm/own").write_text("x")
    return refused


def refuse(emit: Emit) -> None:
    raise ScenarioError("links.backbone: wrong")


def stumble(emit: Emit) -> None:
    raise ZeroDivisionError("by nothing")


def die(emit: Emit) -> None:
    os._exit(7)


def spin(emit: Emit) -> None:
    emit("spinning")
    while True:
        pass


def wait_for_ever(emit: Emit) -> None:
    emit("waiting")
    time.sleep(1e9)


def interrupted(emit: Emit, folder: str) -> None:
    """Wait until interrupted, then tidy up."""
    emit("waiting")
    try:
        while True:
            time.sleep(0.5)
            sum(range(300_000))
    except KeyboardInterrupt:
        Path(folder, "tidied").write_text("yes")
        raise


def children(emit: Emit) -> None:
    """Leave processes behind."""
    for _ in range(3):
        if os.fork() == 0:
            time.sleep(1e6)
            os._exit(0)
    emit("forked")
    time.sleep(1e6)


def words_of(emit: Emit, path: str, places: list[int]) -> list[str]:
    """Eight bytes at each of some places of a file, by mapping all of it."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ) as memory:
        return [memory[place : place + 8].decode() for place in places]


def state(emit: Emit, models: dict[str, str]) -> dict[str, float]:
    """Free memory of the guest in MiB, and its time."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return {"free_mib": free / 1024, "virtual_s": time.monotonic()}
