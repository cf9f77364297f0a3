"""What the flow model makes of single transfers, beside what Linux makes of them: the same few sends in `sim` and in `vkernel`.

`run()` gives a row per transfer; `python -m benchmarks.transfers [CASE...]` prints them all. The cases are what a request meets:
a cold connection, a rate that steps, an outage, rivals, tiles that fan out and in, loss. Needs the time-travel kernel.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any

from testbed.backends.base import Carried, Session
from testbed.backends.sim import SimBackend
from testbed.backends.vkernel import VkernelBackend
from testbed.orchestrator.control import Fleet
from testbed.scenario.plain import from_plain, to_plain
from testbed.scenario.schema import Scenario
from testbed.scenario.state import LinkState

TITLE = "single transfers: sim against vkernel"
MBIT = 1e6
Row = dict[str, Any]
QUEUE_BYTES = 400_000
"""Queue of the backbone in each direction: 320 ms at 10 Mbit/s."""


def scenario(devices: int, slow_start_after_idle: bool = False) -> Scenario:
    """One backbone for all; every device has an unused connection to the cloud."""
    return Scenario.model_validate(
        {
            "name": "transfers",
            "model": {"names": ["alexnet"]},
            "topology": {"name": "three_tier", "devices": devices, "edges": 4},
            "links": {
                "access": {"rate": "1 Gbit/s"},
                "lan": {"rate": "1 Gbit/s"},
                "backbone": {"rate": "10 Mbit/s", "delay": "10 ms", "queue": f"{QUEUE_BYTES} B"},
            },
            "compute": {"tensors": "sizes"},
            "network": {"slow_start_after_idle": slow_start_after_idle},
        }
    )


class Lab:
    """A session, and the things that cases do with it. Transfers are noted as (case, what, bytes, seconds one way)."""

    def __init__(self, session: Session, fleet: Fleet) -> None:
        self.notes: list[tuple[str, str, int, float]] = []
        self.case = ""
        self._session = session
        self._fleet = fleet
        self._devices = (f"d{k}" for k in count(1))

    def fresh(self) -> str:
        """A device that has not sent anything yet."""
        return next(self._devices)

    async def link(self, rate: float, delay: float = 0.01, loss: float = 0.0) -> None:
        """Change the backbone, both directions."""
        for direction in ("up", "down"):
            await self._session.apply_link("backbone", direction, LinkState(rate, delay, loss))

    async def send(self, what: str, source: str, size: int, target: str = "c1", after: float = 0.0) -> None:
        """One transfer. `what` empty: it is not noted."""
        await asyncio.sleep(after)
        answer = await self._fleet.clients[source].call("probe", {"peer": target, "size": size})
        if what:
            self.notes.append((self.case, what, size, float(answer.fields["one_way_s"])))

    async def warm(self, source: str, target: str = "c1") -> None:
        """Open the connection's window wide."""
        for _ in range(4):
            await self.send("", source, 400_000, target)
        await asyncio.sleep(1.0)

    async def later(self, after: float, rate: float, delay: float = 0.01) -> None:
        """Change the backbone in a while."""
        await asyncio.sleep(after)
        await self.link(rate, delay)


Case = Callable[[Lab], Awaitable[None]]


async def cold(lab: Lab) -> None:
    """A new connection, at several rates and delays: three messages, a second apart."""
    for rate, delay in ((1, 0.005), (1, 0.05), (10, 0.005), (10, 0.05), (100, 0.005), (100, 0.05)):
        await lab.link(rate * MBIT, delay)
        device = lab.fresh()
        for size in (10_000, 100_000, 600_000, 600_000):
            await lab.send(f"{rate} Mbit/s, {delay * 1e3:g} ms", device, size)
            await asyncio.sleep(1.0)


async def steps(lab: Lab) -> None:
    """The rate changes while a message is on its way, and just before."""
    device = lab.fresh()
    await lab.link(10 * MBIT)
    await lab.warm(device)
    for before, after, when in ((10, 2, 0.3), (2, 10, 0.5), (10, 40, 0.2), (10, 2, 0.0), (2, 10, 0.0)):
        await lab.link(before * MBIT)
        sent = lab.send(f"{before} to {after} Mbit/s after {when:g} s", device, 600_000)
        await asyncio.gather(sent, lab.later(when, after * MBIT))
        await asyncio.sleep(1.0)
    await lab.link(10 * MBIT)


async def outages(lab: Lab) -> None:
    """The rate is 0 for a while."""
    for size in (600_000, 16_000):
        for lasting in (0.15, 0.5, 1.0, 3.0):
            await lab.link(10 * MBIT)
            device = lab.fresh()
            await lab.warm(device)

            async def outage(begins: float, lasts: float) -> None:
                await lab.later(begins, 0.0)
                await lab.later(lasts, 10 * MBIT)

            begins = 0.2 if size > 100_000 else 0.0
            after = 0.0 if size > 100_000 else 0.1
            what = f"outage of {lasting:g} s {'in the middle' if size > 100_000 else 'since 0.1 s'}"
            await asyncio.gather(lab.send(what, device, size, after=after), outage(begins, lasting))
            await lab.send(f"next, after {lasting:g} s", device, 100_000)
            await asyncio.sleep(2.0)


async def rivals(lab: Lab) -> None:
    """Messages of several connections on the backbone at once."""
    await lab.link(10 * MBIT)
    one, two = lab.fresh(), lab.fresh()
    await asyncio.gather(
        lab.send("cold, first of two", one, 600_000), lab.send("cold, second, 0.1 s later", two, 600_000, after=0.1)
    )
    await asyncio.sleep(1.0)
    for device in (one, two):
        await lab.warm(device)
    await asyncio.gather(lab.send("warm, first of two", one, 600_000), lab.send("warm, second, at once", two, 600_000))
    await asyncio.sleep(1.0)
    await asyncio.gather(
        lab.send("warm, first of two", one, 600_000), lab.send("warm, second, 0.1 s later", two, 600_000, after=0.1)
    )
    await asyncio.sleep(1.0)
    await asyncio.gather(lab.send("warm, large", one, 600_000), lab.send("small, 0.1 s later", two, 16_000, after=0.1))
    await asyncio.sleep(1.0)
    await asyncio.gather(lab.send("up", one, 600_000), lab.send("down at once", "c1", 600_000, target=one))


async def tiles(lab: Lab) -> None:
    """One edge host scatters to three, and gathers from three, again and again."""
    for size in (20_000, 150_000, 500_000):
        for turn in (1, 2, 3):
            out = (lab.send(f"scatter to {host}, turn {turn}", "e1", size, target=host) for host in ("e2", "e3", "e4"))
            await asyncio.gather(*out)
            await asyncio.sleep(0.5)
            back = (lab.send(f"gather from {host}, turn {turn}", host, size // 2, target="e1") for host in ("e2", "e3", "e4"))
            await asyncio.gather(*back)
            await asyncio.sleep(1.0)


async def loss(lab: Lab) -> None:
    """One percent of the packets is lost."""
    await lab.link(10 * MBIT, 0.01, 0.01)
    device = lab.fresh()
    for size, times in ((16_000, 20), (100_000, 20), (600_000, 10)):
        for _ in range(times):
            await lab.send("1 % loss", device, size)
            await asyncio.sleep(0.5)


async def idle(lab: Lab) -> None:
    """Messages after a rest, with `slow_start_after_idle`."""
    await lab.link(10 * MBIT, 0.02)
    device = lab.fresh()
    await lab.warm(device)
    for rest in (0.1, 0.5, 1.0, 3.0):
        await asyncio.sleep(rest)
        await lab.send(f"after {rest:g} s of rest", device, 400_000)


CASES: dict[str, tuple[Case, int, bool]] = {
    "cold": (cold, 6, False),
    "steps": (steps, 1, False),
    "outages": (outages, 8, False),
    "rivals": (rivals, 2, False),
    "tiles": (tiles, 1, False),
    "loss": (loss, 1, False),
    "idle": (idle, 1, True),
}
"""Cases by name, with the devices they use up, and whether windows are forgotten after a rest."""

Notes = list[tuple[str, str, int, float]]


async def play(session: Session, asked: Scenario, names: list[str]) -> Notes:
    """Go through cases on a started session."""
    fleet = Fleet(session)
    try:
        await fleet.open(asked)
        lab = Lab(session, fleet)
        for name in names:
            lab.case = name
            await CASES[name][0](lab)
            await asyncio.sleep(5.0)
        return lab.notes
    finally:
        await fleet.close()


def scenes(names: list[str]) -> list[tuple[Scenario, list[str]]]:
    """Cases that can share a session, with the scenario of it."""
    found = []
    for forgets in (False, True):
        together = [name for name in names if CASES[name][2] is forgets]
        if together:
            found.append((scenario(max(1, sum(CASES[name][1] for name in together)), forgets), together))
    return found


def inside(emit: Callable[..., None], models: dict[str, str], names: list[str]) -> Notes:
    """In the guest."""
    from testbed.backends import vkernel_guest

    notes: Notes = []
    for asked, together in scenes(names):
        backend = vkernel_guest.GuestBackend(models)
        notes += backend.run(from_plain(to_plain(asked)), lambda session, a=asked, t=together: play(session, a, t))  # type: ignore[misc]
        emit("played", cases=together)
    return notes


def simulated(names: list[str]) -> Notes:
    """In this process."""
    notes: Notes = []
    for asked, together in scenes(names):
        notes += SimBackend().run(asked, lambda session, a=asked, t=together: play(session, a, t))  # type: ignore[misc]
    return notes


def run(names: list[str] | None = None) -> list[Row]:
    """Rows with case, transfer, bytes, the seconds that it took in both, and the difference in percent of the kernel's."""
    wanted = names or list(CASES)
    with tempfile.TemporaryDirectory() as folder:
        job = Carried("benchmarks.transfers:inside", {"names": wanted}, Path(folder))
        real = VkernelBackend().carry(scenes(wanted)[0][0], job, lambda _event: None)["result"]
    rows = []
    theirs_of: dict[tuple[str, str, int], list[float]] = {}
    for case, what, size, seconds in real:
        theirs_of.setdefault((case, what, size), []).append(seconds)
    for case, what, size, seconds in simulated(wanted):
        theirs = theirs_of[case, what, size].pop(0)  # rivals may end in another order
        rows.append(
            {
                "case": case,
                "transfer": what,
                "bytes": size,
                "vkernel_ms": theirs * 1e3,
                "sim_ms": seconds * 1e3,
                "difference_percent": (seconds - theirs) / theirs * 100.0,
            }
        )
    return rows


if __name__ == "__main__":
    from rich.console import Console

    from benchmarks.__main__ import table

    Console().print(table(TITLE, run(sys.argv[1:] or None)))
