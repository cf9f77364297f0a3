"""Agents that may shape, in a network namespace of their own: `unshare -n python tests/shaped_machines.py FOLDER`; prints JSON.

What must come out is in `test_hosts_shaping.py`.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from machines import SMALL, machines

from testbed.backends.base import Session
from testbed.backends.hosts import HostsBackend
from testbed.orchestrator import run
from testbed.orchestrator.control import Fleet
from testbed.scenario.schema import Scenario
from testbed.scenario.state import LinkState

RATE_BPS = 4e6
SIZE = 200_000


def scenario(**more: Any) -> Scenario:
    given: dict[str, Any] = {
        "name": "shaped",
        "model": {"names": [SMALL]},
        "topology": {"edges": 2},
        "links": {"backbone": {"rate": "4 Mbit/s"}, "access": {"rate": "400 Mbit/s"}},
        "compute": {"mode": "measured"},
        "requests": {"count": 3},
        "planning": {"planners": ["cloud-only"]},
    }
    return Scenario.model_validate(given | more)


async def measured(session: Session) -> dict[str, Any]:
    fleet = Fleet(session)
    await fleet.open(scenario())
    found: dict[str, Any] = {}

    async def probe(source: str, target: str, size: int = SIZE) -> float:
        return float((await fleet.clients[source].call("probe", {"peer": target, "size": size})).fields["one_way_s"])

    try:
        await probe("e1", "c1", 1)
        before = await session.counters()
        found["up_s"] = [await probe("e1", "c1") for _ in range(3)]
        after = await session.counters()
        found["counted"] = after["backbone", "up"].wire_bytes - before["backbone", "up"].wire_bytes
        found["lan_s"] = await probe("e1", "e2")
        await session.apply_link("backbone", "up", LinkState(4 * RATE_BPS))
        found["faster_s"] = [await probe("e1", "c1") for _ in range(3)]
        await session.apply_link("backbone", "up", LinkState(0.0))
        try:
            await asyncio.wait_for(probe("e1", "c1"), 1.0)
            found["outage"] = "let through"
        except TimeoutError:
            found["outage"] = "held"
        await session.apply_link("backbone", "up", LinkState(RATE_BPS))
        found["after_s"] = await probe("e1", "c1", 1000)
        found["invariants"] = {one.name: [one.level, one.detail] for one in await session.invariants()}
    finally:
        await fleet.close()
    return found


def disciplines() -> str:
    shown = subprocess.run(["tc", "qdisc", "show", "dev", "lo"], capture_output=True, text=True, check=True)
    return shown.stdout.split("refcnt")[0]


def main(folder: Path) -> dict[str, Any]:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    found: dict[str, Any] = {"before": disciplines()}
    # one interface for all here, so one agent shapes; the others' leave is only claimed
    with machines(folder / "lab", 3, options={"e1": ["--allow-shaping", "lo"]}) as lab:
        text = lab.inventory.read_text()
        lab.inventory.write_text(text.replace('links = "real"', 'links = "shaped"'))
        found["refused"] = HostsBackend(lab.inventory).support(scenario()).reasons
        lab.inventory.write_text(lab.inventory.read_text().replace("[[host]]", "[[host]]\nshaping = true"))
        try:
            HostsBackend(lab.inventory).run(scenario(), measured)
        except Exception as error:
            found["unable"] = str(error)
    for host in ("d1", "e2", "c1"):
        subprocess.run(["ip", "link", "add", f"own-{host}", "type", "veth", "peer", "name", f"far-{host}"], check=True)
    shaping = {host: ["--allow-shaping", "lo" if host == "e1" else f"own-{host}"] for host in lab.hosts}
    with machines(folder / "all", 4, options=shaping) as lab:
        text = lab.inventory.read_text().replace('links = "real"', 'links = "shaped"')
        lab.inventory.write_text(text.replace("[[host]]", "[[host]]\nshaping = true"))
        found.update(HostsBackend(lab.inventory).run(scenario(), measured))
        found["released"] = disciplines()
        traced = {"backbone": {"trace": "lte-like", "trace_direction": "up", "rate_down": "4 Mbit/s"}}
        summary = run(scenario(links=traced), HostsBackend(lab.inventory), folder / "run")
        found["errors"] = [pair.planner for pair in summary.pairs if pair.failed or pair.wrong]
        lab.processes["e1"].terminate()
        found["ended"] = lab.processes["e1"].wait(30)
    found["restored"] = disciplines()
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
