"""Round trips over an emulated network before anything else uses it, beside what its delays and rates say.

A datagram and its echo between two hosts, sent and received by this one process with a socket in each host's namespace: no
program is started, and no scheduling of a second process is measured. Runs in the process that holds the network.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

from testbed.backends.netspec import NetworkSpec
from topologies.addresses import address
from topologies.layout import Layout

PAYLOAD = b"idle"
FRAME_BITS = (14 + 20 + 8 + len(PAYLOAD)) * 8
TRIES, MORE_TRIES = 3, 9
"""Round trips for each pair; and more, while even the shortest is longer than `LATE_S` beyond what it should be: a real machine
has other work."""
LATE_S = 0.001
PATIENCE_S = 1.0
"""How long an echo may be late before it is taken for lost."""


class Network(Protocol):
    """What is needed of `testbed.backends.emulated.EmulatedNetwork`."""

    spec: NetworkSpec
    layout: Layout

    def inside(self, host: str) -> AbstractContextManager[None]: ...


def covering_pairs(layout: Layout) -> list[tuple[str, str]]:
    """Pairs of hosts whose paths cross every link that lies on a path between two hosts, few pairs first found."""
    wanted = {link.name for link in layout.links}
    pairs: list[tuple[str, str]] = []
    names = [host.name for host in layout.hosts]
    for first in names:
        for second in reversed(names):
            if first != second and wanted & (links := _links(layout, first, second)):
                wanted -= links
                pairs.append((first, second))
    return pairs


def _links(layout: Layout, first: str, second: str) -> set[str]:
    try:
        return {link.name for link, _ in layout.path(first, second)}
    except KeyError:
        return set()


def expected_s(layout: Layout, spec: NetworkSpec, first: str, second: str) -> float | None:
    """Seconds of a round trip on an idle network: delays, and one small frame at each link's rate; None through an outage."""
    hops = (*layout.path(first, second), *layout.path(second, first))
    states = [spec.states[link.name, direction] for link, direction in hops]
    if any(state.rate_bps <= 0.0 for state in states):
        return None
    return sum(state.delay_s + FRAME_BITS / state.rate_bps for state in states)


def measure(network: Network) -> list[dict[str, Any]]:
    """The shortest of some round trips for each covering pair: {"hosts", "expected_s", "found_s" (None where none came back)}."""
    found = []
    for first, second in covering_pairs(network.layout):
        expected = expected_s(network.layout, network.spec, first, second)
        if expected is not None:
            found.append(
                {"hosts": [first, second], "expected_s": expected, "found_s": _shortest(network, first, second, expected)}
            )
    return found


def _shortest(network: Network, first: str, second: str, expected: float) -> float | None:
    """Seconds of the shortest round trip; None where none came back."""
    trips: list[float] = []
    for tries, trip in enumerate(_round_trips(network, first, second, expected + PATIENCE_S), start=1):
        trips += [] if trip is None else [trip]
        if tries >= TRIES and (not trips or min(trips) <= expected + LATE_S):
            break
    return min(trips, default=None)


def _round_trips(network: Network, first: str, second: str, patience_s: float) -> Iterator[float | None]:
    with _socket(network, first, second) as near, _socket(network, second, first) as far:
        for _ in range(TRIES + MORE_TRIES):
            begun = time.perf_counter()
            near.sendto(PAYLOAD, far.getsockname())
            if not select.select([far], [], [], patience_s)[0]:
                yield None
                continue
            _, back = far.recvfrom(64)
            far.sendto(PAYLOAD, back)
            if select.select([near], [], [], patience_s)[0]:
                near.recvfrom(64)
                yield time.perf_counter() - begun
            else:
                yield None


def _socket(network: Network, host: str, peer: str) -> socket.socket:
    with network.inside(host):
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((address(network.layout, host, peer), 0))
    return made
