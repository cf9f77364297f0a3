"""The simulator's channels and real sockets keep the same contract."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from certificates import Authority

from conformance.channel_checks import CHECKS, Check, a_writer_hears_that_the_peer_is_gone
from d3node.clock import ScaledLoop, VirtualLoop, run
from d3node.tcp import TcpTransport
from testbed.backends.flow import FlowNetwork
from testbed.backends.sim_channels import Fabric
from testbed.backends.sim_transport import SimTransport
from testbed.scenario.state import LinkState
from topologies.layout import Host, Layout, Link

LAYOUT = Layout("pair", (Host("d1", "device"), Host("c1", "cloud")), (), (Link("wire", "backbone", "d1", "c1"),))
checks = pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)


async def in_simulation(check: Check, client: str, server: str, strict: bool, free: bool) -> None:
    states = {("wire", "up"): LinkState(8e6, 0.01), ("wire", "down"): LinkState(8e6, 0.01)}
    fabric = Fabric(FlowNetwork(asyncio.get_running_loop(), LAYOUT, states), strict)
    await check(SimTransport(fabric, server, free), SimTransport(fabric, client, free), f"sim:{server}")
    assert fabric.sent_bytes == fabric.received_bytes + fabric.dropped_bytes + fabric.in_flight_bytes


@checks
@pytest.mark.parametrize("strict", [False, True])
def test_sim_over_a_link(check: Check, strict: bool) -> None:
    run(VirtualLoop(), in_simulation(check, "d1", "c1", strict, free=False))


@pytest.mark.parametrize(
    "check",
    [check for check in CHECKS if check is not a_writer_hears_that_the_peer_is_gone],  # nothing takes time, so nobody waits
    ids=lambda check: check.__name__,
)
def test_sim_within_a_host(check: Check) -> None:
    run(VirtualLoop(), in_simulation(check, "d1", "d1", strict=False, free=False))


@checks
@pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
def test_sockets(check: Check, kind: str, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/listener" if kind == "unix" else "127.0.0.1:0"
    transport = TcpTransport(b"secret", tls=Authority(tmp_path).tls("host") if kind == "tls" else None)
    run(ScaledLoop(1.0), check(transport, transport, address))
