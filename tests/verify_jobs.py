"""Jobs that the tests of `testbed.verify` run in a guest: messages over a link that loses, shakes or has a short queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from testbed.verify.bare import LINK, SOURCE, TARGET, BareGuest, scenario
from testbed.verify.flows import Connection
from topologies.addresses import address

Emit = Callable[..., None]


def messages(emit: Emit, links: list[dict[str, Any]], pause_s: float = 0.5) -> list[dict[str, Any]]:
    """For each backbone of `links` ("seed", "congestion" and "sizes" beside its own keys): seconds of messages on one connection,
    counters of the backbone's way up, segments sent again, and what the session says of itself."""
    found = []
    for given in links:
        link = dict(given)
        seed, congestion, sizes = link.pop("seed", 1), link.pop("congestion", "cubic"), link.pop("sizes")

        async def main(session: Any, congestion: str = congestion, sizes: list[int] = sizes) -> dict[str, Any]:
            where = address(session.layout, TARGET, SOURCE)
            connection = Connection.open(await session.namespaces(), SOURCE, TARGET, where, congestion)
            seconds = []
            for size in sizes:
                seconds.append(connection.message(size))
                await asyncio.sleep(pause_s)
            counted = (await session.counters())[LINK, "up"]
            return {
                "seconds": seconds,
                "counters": asdict(counted),
                "resent": connection.resent,
                "congestion": connection.congestion,
                "facts": session.describe(),
            }

        wanted = scenario(link, network={"congestion_control": congestion}, seed=seed)
        found.append(BareGuest({}).run(wanted, main))
    return found
