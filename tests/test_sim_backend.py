"""Backend `sim`: what opening a channel costs, what a dead host looks like, and that a run repeats to the last byte."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from d3node.channel import Channel, Message, Payload
from d3node.clock import VirtualLoop, run
from d3node.errors import ChannelClosed, ChannelError
from d3node.model import ModelSpec, load_graph
from testbed.backends.base import Session
from testbed.backends.flow import FlowNetwork
from testbed.backends.sim import SimBackend
from testbed.backends.sim_channels import Fabric, SimChannel
from testbed.backends.sim_transport import SimTransport
from testbed.errors import AgentError, BackendError
from testbed.scenario.schema import Scenario
from testbed.scenario.state import LinkState
from topologies.layout import Host, Layout, Link

PAIR = Layout("pair", (Host("d1", "device"), Host("c1", "cloud")), (), (Link("wire", "backbone", "d1", "c1"),))
BPS, DELAY_S = 8e6, 0.05
MODEL = "alexnet"


def fabric_of(strict: bool = False) -> Fabric:
    states = {("wire", "up"): LinkState(BPS, DELAY_S), ("wire", "down"): LinkState(BPS, DELAY_S)}
    return Fabric(FlowNetwork(asyncio.get_running_loop(), PAIR, states), strict)


async def open_pair(fabric: Fabric, client: str = "d1", server: str = "c1") -> tuple[SimChannel, SimChannel]:
    accepted: asyncio.Future[Any] = fabric.loop.create_future()

    async def attend(channel: Channel) -> None:
        accepted.set_result(channel)
        await fabric.loop.create_future()

    await SimTransport(fabric, server).listen(f"sim:{server}", attend)
    near = await SimTransport(fabric, client).connect(f"sim:{server}")
    return near, await accepted


def scenario(**tables: Any) -> Scenario:
    raw = {
        "name": "test",
        "model": {"names": [MODEL]},
        "topology": {"devices": 1, "edges": 2},
        "links": {"backbone": {"rate": "10 Mbit/s", "delay": "10 ms"}},
        "compute": {"tensors": "sizes"},
        **tables,
    }
    return Scenario.model_validate(raw)


def in_virtual_time(main: Callable[[], Awaitable[Any]]) -> Any:
    return run(VirtualLoop(), main())  # type: ignore[arg-type]


def probe(number: int, size: int) -> Message:
    what = {"id": number, "size": size, "reply": False, "start": 0.0, "end": 0.0, "bytes": 0}
    return Message("probe", what, (Payload("uint8", (size,), size),))


def test_opening_a_channel_takes_the_round_trips_of_tcp_and_of_the_proofs() -> None:
    async def main() -> float:
        fabric = fabric_of()
        await open_pair(fabric)
        return fabric.loop.time()

    frames = 74 + 74 + (66 + 42) + (66 + 74) + (66 + 42) + (66 + 10)
    assert in_virtual_time(main) == pytest.approx(6 * DELAY_S + frames * 8 / BPS)


def test_a_host_talks_to_itself_in_no_time_and_on_no_link() -> None:
    async def main() -> None:
        fabric = fabric_of()
        near, far = await open_pair(fabric, "d1", "d1")
        await near.send(probe(1, 10_000_000))
        assert (await far.receive()).payloads[0].nbytes == 10_000_000
        assert fabric.loop.time() == 0.0
        assert near.bytes_sent == far.bytes_received > 10_000_000
        assert all(counters.wire_bytes == 0 for counters in fabric.network.counters().values())

    in_virtual_time(main)


def test_send_returns_when_the_last_byte_has_left_and_transfers_tell_when_the_first_did() -> None:
    async def main() -> None:
        fabric = fabric_of()
        near, far = await open_pair(fabric)
        start = fabric.loop.time()
        sending = [asyncio.create_task(near.send(probe(i, 1448 * 5))) for i in range(2)]
        await sending[0]
        left = fabric.loop.time()
        assert left - start == pytest.approx((near.bytes_sent + 6 * 66) * 8 / BPS)
        await asyncio.gather(*sending)
        first, second = (await far.receive()).transfer, (await far.receive()).transfer
        assert first is not None
        assert second is not None
        assert (first.sent_at, first.received_at) == (start, pytest.approx(left + DELAY_S))
        assert second.sent_at == left

    in_virtual_time(main)


def test_tensors_travel_by_reference_and_strict_headers_arrive_as_a_socket_would_bring_them() -> None:
    async def main() -> None:
        for strict, shape in ((False, (1, 2)), (True, [1, 2])):
            near, far = await open_pair(fabric_of(strict))
            data = memoryview(bytearray(b"abcd"))
            await near.send(Message("stats", {"id": 1, "pair": (1, 2)}, (Payload("uint8", (4,), 4, data),)))
            got = await far.receive()
            assert got.payloads[0].data is data
            assert got.fields["pair"] == shape

    in_virtual_time(main)


def test_nobody_there_is_refused_after_a_round_trip_and_a_dead_link_after_the_deadline() -> None:
    async def main() -> None:
        fabric = fabric_of()
        transport = SimTransport(fabric, "d1")
        with pytest.raises(ChannelError, match="nobody listens there"):
            await transport.connect("sim:c1")
        assert fabric.loop.time() == pytest.approx(2 * DELAY_S, rel=0.01)
        with pytest.raises(ChannelError, match="no such host"):
            await transport.connect("sim:nobody")
        fabric.network.apply("wire", "down", LinkState(0.0, DELAY_S))
        start = fabric.loop.time()
        with pytest.raises(ChannelError, match="did not answer within 3 s"):
            await transport.connect("sim:c1", deadline_s=3.0)
        assert fabric.loop.time() - start == pytest.approx(3.0)
        assert not fabric.network.busy()

    in_virtual_time(main)


def test_a_host_that_goes_down_resets_its_connections_one_delay_later() -> None:
    async def main() -> None:
        fabric = fabric_of()
        near, far = await open_pair(fabric)
        sending = asyncio.create_task(near.send(probe(1, 10_000_000)))
        await asyncio.sleep(1.0)
        killed = fabric.loop.time()
        fabric.take_down("c1")
        with pytest.raises(ChannelClosed):
            await sending
        assert fabric.loop.time() - killed == pytest.approx(DELAY_S, rel=0.01)
        with pytest.raises(ChannelClosed):
            await far.receive()
        with pytest.raises(ChannelError, match="nobody listens there"):
            await SimTransport(fabric, "d1").connect("sim:c1")
        assert fabric.sent_bytes == fabric.received_bytes + fabric.dropped_bytes + fabric.in_flight_bytes

    in_virtual_time(main)


def test_a_session_gives_addresses_agents_counters_and_a_clean_bill() -> None:
    async def main(session: Session) -> None:
        assert session.address("e1", "d1") == "sim:e1"
        for host in session.layout.hosts:
            channel = await session.control(host.name)
            await channel.send(Message("stats", {"id": 7}))
            assert (await channel.receive()).fields["id"] == 7
            await channel.close()
        assert set(await session.counters()) == {(name, d) for name in session.layout.link_names for d in ("up", "down")}
        assert {invariant.level for invariant in await session.invariants()} == {"ok"}
        assert json.loads(json.dumps(session.describe()))["clock"] == "virtual"
        assert asyncio.get_running_loop().time() == 0.0

    SimBackend().run(scenario(), main)


def test_measured_compute_is_refused_with_the_ways_out() -> None:
    measured = scenario(compute={"mode": "measured"})
    support = SimBackend().support(measured)
    assert not support.ok
    assert "modelled" in support.reasons[0]
    assert "mininet" in support.reasons[0]
    with pytest.raises(BackendError, match="no virtual time passes"):
        SimBackend().run(measured, _nothing)


def test_what_main_raises_comes_out_and_no_agent_is_left() -> None:
    sessions: list[Any] = []

    async def main(session: Session) -> None:
        sessions.append(session)
        await asyncio.sleep(1.0)
        raise LookupError("of main's own")

    with pytest.raises(LookupError, match="of main's own"):
        SimBackend().run(scenario(), main)
    assert all(task.done() for task in sessions[0]._agents.values())


def test_an_agent_that_cannot_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(config: Any, *arguments: Any, **options: Any) -> None:
        raise OSError(f"no room for {config.name}")

    monkeypatch.setattr("testbed.backends.sim.serve", broken)
    with pytest.raises(AgentError, match=r"agent of d1 did not start: OSError: no room for d1"):
        SimBackend().run(scenario(), _nothing)


def test_an_agent_that_fails_later_takes_its_host_down_and_the_verdict_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def frail(config: Any, *arguments: Any, ready: Callable[[str, str], None], **options: Any) -> None:
        ready("", "")
        await asyncio.sleep(1.0)
        if config.name == "e2":
            raise ZeroDivisionError("in the middle of something")
        await asyncio.sleep(10.0)

    async def main(session: Session) -> list[Any]:
        await asyncio.sleep(2.0)
        with pytest.raises(ChannelError):
            await session.control("e2")
        return await session.invariants()

    monkeypatch.setattr("testbed.backends.sim.serve", frail)
    found = {invariant.name: invariant for invariant in SimBackend().run(scenario(), main)}
    assert found["agents_alive"].level == "rejected"
    assert "e2: ZeroDivisionError" in found["agents_alive"].detail


RUN = """
import sys
from pathlib import Path
from testbed.backends.sim import SimBackend
from testbed.orchestrator import run
from testbed.scenario.load import load
scenario, folder, *overrides = sys.argv[1:]
run(load(scenario, overrides), SimBackend(), Path(folder))
print("torch" in sys.modules)
"""


def test_two_processes_leave_identical_results_and_sizes_need_no_torch(tmp_path: Path) -> None:
    """Also with other hashes of strings: nothing may depend on the order of a set."""
    load_graph(ModelSpec(MODEL))  # into the cache
    quickstart = Path(__file__).parent.parent / "topologies" / "quickstart.toml"
    overrides = [
        f'model.names="{MODEL}"',
        'compute.tensors="sizes"',
        "topology.devices=3",
        "requests.count=6",
        'requests.deadline="1 s"',
        'planning.planners=["cloud-only", "d3"]',
        'planning.probe_interval="0.5 s"',
    ]
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", RUN, str(quickstart), str(tmp_path / seed), *overrides]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[-1] == "False"
    for name in ("inferences.csv", "links.csv"):
        first, second = ((tmp_path / seed / name).read_bytes() for seed in ("1", "2"))
        assert first == second
        assert first.count(b"\n") > 10


async def _nothing(session: Session) -> None:
    raise AssertionError("nothing should have started")


@pytest.mark.parametrize("late", [False, True])
def test_who_gives_up_dialling_leaves_no_connection_behind(late: bool) -> None:
    """At any moment of the handshake, and by being cancelled as well as by its deadline (chaos found it)."""

    async def main() -> None:
        fabric = fabric_of()
        attended: list[Channel] = []

        async def attend(channel: Channel) -> None:
            attended.append(channel)
            await channel.receive()

        await SimTransport(fabric, "c1").listen("sim:c1", attend)
        for turn in range(40):
            patience_s = 0.01 * turn
            dial = SimTransport(fabric, "d1").connect("sim:c1", deadline_s=patience_s + 1e-9 if late else 10.0)
            task = asyncio.ensure_future(dial)
            await asyncio.sleep(patience_s)
            if late:
                await asyncio.sleep(1e-6)
            task.cancel()
            (result,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(result, SimChannel):
                result.abort()
            await asyncio.sleep(1.0)
            assert not any(fabric.channels.values()), turn
        assert attended, "some were given up when the other side had the connection already"

    run(VirtualLoop(), main())
