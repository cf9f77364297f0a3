"""The matrix of `testbed.verify.links` in the flow model of `sim`: the same messages, warm and cold, in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

from d3node import clock
from testbed import registry
from testbed.backends.flow import FlowNetwork
from testbed.backends.flow_stream import Stream
from testbed.backends.netspec import DIRECTIONS
from testbed.scenario.links import links_of
from testbed.scenario.state import LinkState
from testbed.verify.bare import LINK, SOURCE, TARGET, scenario

_WARM_UPS = 60


def measure(rates_bps: list[float], delays_s: list[float], sizes: list[int]) -> list[dict[str, Any]]:
    """Rows as `testbed.verify.links_inside.measure` gives them."""
    loop = clock.VirtualLoop()
    return clock.run(loop, _measure(loop, rates_bps, delays_s, sizes))


async def _measure(
    loop: clock.VirtualLoop, rates_bps: list[float], delays_s: list[float], sizes: list[int]
) -> list[dict[str, Any]]:
    asked = scenario({"rate": "1 Mbit/s", "queue": "32 MiB"})
    layout = registry.layout(asked.topology)
    states = {(name, way): link.state(way) for name, link in links_of(asked, layout).items() for way in DIRECTIONS}
    rows = []
    for rate in rates_bps:
        for delay in delays_s:
            state = LinkState(rate, delay)
            states.update({(LINK, way): state for way in DIRECTIONS})
            network = FlowNetwork(loop, layout, states)
            warm, _ = network.connect(SOURCE, TARGET)
            for _ in range(_WARM_UPS):
                await _message(loop, warm, 100_000 + int(rate * 2 * delay))
            for start in ("cold", "warm"):
                for size in sizes:
                    stream = warm if start == "warm" else network.connect(SOURCE, TARGET)[0]
                    await asyncio.sleep(1.0)
                    took = await _message(loop, stream, size)
                    row = {"start": start, "rate_bps": rate, "delay_s": delay, "size_bytes": size, "measured_s": took}
                    rows.append(row)
    return rows


async def _message(loop: clock.VirtualLoop, stream: Stream, size: int) -> float:
    arrived = loop.create_future()
    start = loop.time()
    stream.send(size, None, lambda: arrived.set_result(loop.time()))
    return float(await arrived) - start
