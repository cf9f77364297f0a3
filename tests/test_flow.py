"""The flow-level network against examples worked by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import repeat
from math import inf, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d3node.clock import VirtualLoop, run
from testbed.backends import fairshare
from testbed.backends.fairshare import FlowLink, component, max_min
from testbed.backends.flow import FlowNetwork
from testbed.backends.flow_job import SEGMENT
from testbed.backends.flow_stream import Stream
from testbed.costs.network import frame_bytes
from testbed.scenario.state import LinkState
from topologies import fleet
from topologies.layout import Direction, Host, Layout, Link
from topologies.mininet_topo import Sizes

PAIR = Layout("pair", (Host("d1", "device"), Host("c1", "cloud")), (), (Link("wire", "backbone", "d1", "c1"),))
TWO_HOPS = Layout(
    "two-hops",
    (Host("d1", "device"), Host("d2", "device"), Host("c1", "cloud")),
    ("s1",),
    (Link("near1", "access", "d1", "s1"), Link("near2", "access", "d2", "s1"), Link("far", "backbone", "s1", "c1")),
)
MBIT = 1e6


class Net:
    """A network whose link states are given by name (both directions alike), and when each message arrived."""

    def __init__(self, layout: Layout, states: dict[str, LinkState], **options: bool | dict[str, int | None]) -> None:
        self.loop = asyncio.get_running_loop()
        both = {(name, direction): state for name, state in states.items() for direction in ("up", "down")}
        self.network = FlowNetwork(self.loop, layout, both, **options)  # type: ignore[arg-type]

    def stream(self, source: str, target: str) -> Stream:
        return self.network.connect(source, target)[0]

    async def send(self, stream: Stream, size: int, after: float = 0.0) -> tuple[float, float]:
        """Moments at which a message had left and had arrived."""
        await asyncio.sleep(after)
        sent, arrived = self.loop.create_future(), self.loop.create_future()
        stream.send(size, lambda: sent.set_result(self.loop.time()), lambda: arrived.set_result(self.loop.time()))
        return await sent, await arrived

    def at(self, moment: float, link: str, rate_bps: float, delay_s: float = 0.0, direction: Direction = "up") -> None:
        self.loop.call_at(moment, self.network.apply, link, direction, LinkState(rate_bps, delay_s))


def simulate(main: Callable[[], object]) -> object:
    return run(VirtualLoop(), main())  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 160, 1448, 1449, 10_000, 602_112, 10_000_000])
@pytest.mark.parametrize("rate", [1 * MBIT, 30 * MBIT, 1000 * MBIT])
def test_one_message_on_an_idle_link_takes_wire_bits_over_rate_plus_delay(size: int, rate: float) -> None:
    async def main() -> tuple[float, float]:
        net = Net(PAIR, {"wire": LinkState(rate, 0.0)})
        return await net.send(net.stream("d1", "c1"), size)

    segments = -(-size // 1448)
    seconds = (size + 66 * segments) * 8 / rate
    assert simulate(main) == pytest.approx((seconds, seconds), rel=1e-12)


def test_delay_is_paid_once_and_not_by_the_sender() -> None:
    async def main() -> tuple[float, float]:
        net = Net(PAIR, {"wire": LinkState(8 * MBIT, 0.02)})
        return await net.send(net.stream("d1", "c1"), 10 * 1448)

    assert simulate(main) == pytest.approx((0.01514, 0.03514), rel=1e-12)


def test_hops_store_and_forward_one_packet_at_a_time() -> None:
    async def main() -> list[float]:
        net = Net(TWO_HOPS, {"near1": LinkState(80 * MBIT), "near2": LinkState(80 * MBIT), "far": LinkState(8 * MBIT)})
        up, down = net.network.connect("d1", "c1")
        results = [(await net.send(up, 100 * 1448 - 448))[1]]
        start = net.loop.time()
        results.append((await net.send(down, 100 * 1448 - 448))[1] - start)
        return results

    last = 1000 + 66
    body = 99 * 1514 + last
    # Up: the first packet crosses the fast hop before the slow one starts. Down: the last packet crosses it in the end.
    assert simulate(main) == pytest.approx([(1514 / 10 + body) / MBIT, (body + last / 10) / MBIT], rel=1e-9)


def test_a_rate_step_in_the_middle_of_a_message_gives_the_exact_new_finish() -> None:
    async def main() -> tuple[float, float]:
        net = Net(PAIR, {"wire": LinkState(8 * MBIT)})
        net.at(0.25, "wire", 32 * MBIT)
        net.at(0.30, "wire", 4 * MBIT)
        return await net.send(net.stream("d1", "c1"), 1_000_000)

    left = frame_bytes(1_000_000) - 0.25e6 - 0.05 * 4e6  # bytes that are left for the last rate, 0.5 MB/s
    assert simulate(main)[1] == pytest.approx(0.30 + left / 0.5e6, rel=1e-12)  # type: ignore[index]


def test_an_outage_stalls_a_message_and_the_rest_goes_when_the_rate_returns() -> None:
    async def main() -> list[tuple[float, float]]:
        net = Net(PAIR, {"wire": LinkState(8 * MBIT)})
        net.at(0.1, "wire", 0.0)
        net.at(5.1, "wire", 8 * MBIT)
        stream = net.stream("d1", "c1")
        return list(await asyncio.gather(net.send(stream, 144_800), net.send(stream, 144_800, after=3.0)))

    first = 0.1514 + 5.0
    assert simulate(main) == [pytest.approx((first, first)), pytest.approx((first + 0.1514, first + 0.1514))]


def test_a_message_that_ends_with_the_outage_is_not_held_back_by_rounding() -> None:
    async def main() -> float:
        net = Net(PAIR, {"wire": LinkState(7.7 * MBIT)})
        wire = frame_bytes(1_234_567)
        net.at(wire / 3 * 8 / (7.7 * MBIT), "wire", 0.77 * MBIT)
        end = wire / 3 * 8 / (7.7 * MBIT) + wire * 2 / 3 * 8 / (0.77 * MBIT)
        net.at(end, "wire", 0.0)
        return (await net.send(net.stream("d1", "c1"), 1_234_567))[1] - end

    assert simulate(main) == pytest.approx(0.0, abs=1e-9)


def test_two_messages_share_a_link_and_the_second_then_has_it_alone() -> None:
    async def main() -> list[tuple[float, float]]:
        net = Net(PAIR, {"wire": LinkState(8 * MBIT)})
        a, b = net.stream("d1", "c1"), net.stream("d1", "c1")
        return list(await asyncio.gather(net.send(a, 300 * 1448), net.send(b, 200 * 1448, after=0.1)))

    # a alone for 0.1 s (100 kB), then half each; b's 302.8 kB against a's remaining 354.2 kB: b ends first.
    b_end = 0.1 + 2 * 0.3028
    a_end = b_end + (0.4542 - 0.1 - 0.3028)
    assert simulate(main) == [pytest.approx((a_end, a_end)), pytest.approx((b_end, b_end))]


def test_shares_are_max_min_fair_over_every_link_of_the_paths() -> None:
    """Link x (10) carries a and b, link y (4) carries b and c: b and c get 2 each, a what b leaves of x."""
    x, y = (FlowLink(name, "up", LinkState(rate * 8.0), None, 0.0) for name, rate in [("x", 10.0), ("y", 4.0)])
    streams = _crossings([(x,), (x, y), (y,)])
    assert max_min(streams) == [8.0, 2.0, 2.0]


def test_shares_go_by_what_streams_have_in_the_queue() -> None:
    """Of link y (4) b gets three times as much as c; a gets what b leaves of x."""
    x, y = (FlowLink(name, "up", LinkState(rate * 8.0), None, 0.0) for name, rate in [("x", 10.0), ("y", 4.0)])
    streams = _crossings([(x,), (x, y), (y,)], weights=[1, 3, 1])
    assert max_min(streams) == [7.0, 3.0, 1.0]


@given(
    rates=st.lists(st.floats(0.0, 1e9) | st.just(inf), min_size=1, max_size=6),
    paths=st.lists(st.sets(st.integers(0, 5), min_size=1, max_size=4), min_size=1, max_size=8),
    weights=st.lists(st.integers(1, 1_000_000), min_size=8, max_size=8),
)
def test_every_stream_has_a_full_link_on_which_nobody_gets_more_for_its_weight(
    rates: list[float], paths: list[set[int]], weights: list[int]
) -> None:
    links = [FlowLink(f"l{i}", "up", LinkState(8.0 * rate), None, 0.0) for i, rate in enumerate(rates)]
    crossings = _crossings(
        [tuple(links[i % len(links)] for i in sorted({i % len(links) for i in path})) for path in paths], weights
    )
    shares = dict(zip(crossings, max_min(crossings), strict=True))
    for link in links:
        assert sum(shares[s] for s in link.streams) <= link.rate * (1 + 1e-9) + 1e-6  # type: ignore[index]
    for stream, share in shares.items():
        assert any(
            share >= max(shares[s] / s.weight for s in link.streams) * stream.weight * (1 - 1e-6) - 1e-3  # type: ignore[index]
            and sum(shares[s] for s in link.streams) >= link.rate * (1 - 1e-6) - 1e-3  # type: ignore[index]
            for link in stream.forward
        )


class _Crossing:
    def __init__(self, forward: tuple[FlowLink, ...], weight: int) -> None:
        self.forward = forward
        self.weight = weight

    def set_rate(self, rate: float, now: float) -> None:
        raise AssertionError("shares are only asked for")


def _crossings(paths: Iterable[tuple[FlowLink, ...]], weights: Iterable[int] = repeat(1)) -> list[_Crossing]:
    found = [_Crossing(path, weight) for path, weight in zip(paths, weights, strict=False)]
    for crossing in found:
        for link in crossing.forward:
            link.streams[crossing] = None
    return found


# RTT 100 ms, 80 Mbit/s: a packet takes 0.1514 ms, so a round is 100.1514 ms and rounds carry 10, 20, 40, ... packets. From the
# second on the first acknowledgement waits for a second packet.
SLOW_START = [(1, 0), (10, 0), (11, 1), (30, 1), (31, 2), (70, 2), (71, 3), (150, 3), (151, 4), (310, 4)]


@pytest.mark.parametrize(("packets", "waits"), SLOW_START)
def test_a_cold_connection_doubles_its_window_every_round_trip(packets: int, waits: int) -> None:
    async def main() -> float:
        net = Net(PAIR, {"wire": LinkState(80 * MBIT, 0.05)})
        return (await net.send(net.stream("d1", "c1"), packets * 1448))[0]

    packet = 1514 * 8 / (80 * MBIT)
    sent_before = 10 * (2**waits - 1)
    waiting_s = waits * (0.1 + packet) + max(0, waits - 1) * packet
    assert simulate(main) == pytest.approx(waiting_s + (packets - sent_before) * packet, rel=1e-9)


def test_slow_start_ends_when_the_window_fills_the_pipe_and_the_connection_stays_warm() -> None:
    async def main() -> list[float]:
        net = Net(PAIR, {"wire": LinkState(8 * MBIT, 0.025)})
        stream = net.stream("d1", "c1")
        cold = await net.send(stream, 1000 * 1448)
        await asyncio.sleep(30.0)
        start = net.loop.time()
        warm = await net.send(stream, 1000 * 1448)
        return [cold[0], warm[0] - start]

    # The pipe holds 50 kB + 1 packet = 34.02 packets: rounds of 10 and 20 wait, the third (40) does not.
    rounds_s = 2 * (0.05 + 1514e-6) + 1514e-6
    assert simulate(main) == pytest.approx([rounds_s + 970 * 1514e-6, 1.514], rel=1e-9)


def test_an_idle_connection_starts_again_slowly_only_if_asked() -> None:
    async def main(after_idle: bool) -> float:
        net = Net(PAIR, {"wire": LinkState(80 * MBIT, 0.05)}, slow_start_after_idle=after_idle)
        stream = net.stream("d1", "c1")
        await net.send(stream, 5_000 * 1448)
        await asyncio.sleep(20.0)
        start = net.loop.time()
        return (await net.send(stream, 30 * 1448))[0] - start

    packet = 1514 * 8 / (80 * MBIT)
    assert run(VirtualLoop(), main(False)) == pytest.approx(30 * packet)
    assert run(VirtualLoop(), main(True)) == pytest.approx(0.1 + packet + 20 * packet)


def test_a_window_that_was_not_used_does_not_grow() -> None:
    async def main() -> float:
        net = Net(PAIR, {"wire": LinkState(80 * MBIT, 0.05)})
        stream = net.stream("d1", "c1")
        for _ in range(50):
            await net.send(stream, 2 * 1448)
            await asyncio.sleep(0.2)
        return stream.cwnd

    assert simulate(main) == 10 * SEGMENT


def test_connection_opening_packets_leave_the_initial_window_alone() -> None:
    async def main() -> float:
        net = Net(PAIR, {"wire": LinkState(80 * MBIT, 0.05)})
        there, back = net.network.connect("d1", "c1")
        opened = net.loop.create_future()
        there.signal(lambda: back.signal(lambda: opened.set_result(None), 74), 74)
        await opened
        start = net.loop.time()
        assert start == pytest.approx(0.1 + 2 * 74 * 8 / (80 * MBIT))
        return (await net.send(there, 11 * 1448))[0] - start

    packet = 1514 * 8 / (80 * MBIT)
    assert simulate(main) == pytest.approx(0.1 + packet + packet)


def test_loss_costs_a_long_transfer_what_cubic_in_its_friendly_region_makes_of_it() -> None:
    """AIMD(0.53, 0.7): on average sqrt(0.53 * 1.7 / (2 * 0.3 * p)) segments a round (RFC 9438, 4.3), as with Reno."""
    p, rtt = 0.01, 0.04

    async def main() -> tuple[float, int, int]:
        net = Net(PAIR, {"wire": LinkState(800 * MBIT, rtt / 2, p)})
        _, arrived = await net.send(net.stream("d1", "c1"), 50_000 * 1448)
        counters = net.network.counters()["wire", "up"]
        return 50_000 / arrived, counters.lost, counters.packets

    goodput, lost, packets = simulate(main)  # type: ignore[misc]
    assert goodput == pytest.approx(sqrt(0.53 * 1.7 / (0.6 * p)) / rtt, rel=0.2)
    assert packets == 50_000 + lost
    assert lost == pytest.approx(500, rel=0.15)


def test_counters_hold_every_byte_sent_half_sent_messages_and_acks_included() -> None:
    async def main() -> None:
        net = Net(PAIR, {"wire": LinkState(8 * MBIT)})
        stream = net.stream("d1", "c1")
        task = asyncio.create_task(net.send(stream, 100 * 1448))
        await asyncio.sleep(0.0757)
        half = net.network.counters()
        assert half["wire", "up"].wire_bytes == pytest.approx(75_700, abs=1)
        assert half["wire", "up"].message_bytes == pytest.approx(72_400, abs=1)
        await task
        whole = net.network.counters()
        assert (whole["wire", "up"].wire_bytes, whole["wire", "up"].packets) == (151_400, 100)
        assert (whole["wire", "up"].message_bytes, whole["wire", "up"].drops) == (144_800, 0)
        acks = 16 + 42  # the first ones quickly, the others for two packets each
        assert (whole["wire", "down"].wire_bytes, whole["wire", "down"].packets) == (acks * 66, acks)
        assert net.network.utilisation() == (pytest.approx(1.0), "wire up")

    simulate(main)


def test_a_reset_forgets_what_has_not_left_and_tells_the_peer() -> None:
    async def main() -> None:
        net = Net(PAIR, {"wire": LinkState(8 * MBIT, 0.01)})
        stream = net.stream("d1", "c1")
        arrived: list[str] = []
        stream.send(5 * 1448, None, lambda: arrived.append("first"))
        stream.send(500 * 1448, None, lambda: arrived.append("second"))
        await asyncio.sleep(0.1)
        stream.reset(lambda: arrived.append("reset"))
        await asyncio.sleep(10.0)
        assert arrived == ["first", "reset"]
        assert net.network.counters()["wire", "up"].wire_bytes <= 0.1 * MBIT + 66
        assert not net.network.links["wire", "up"].streams

    simulate(main)


@given(
    steps=st.lists(st.tuples(st.floats(0.001, 0.5), st.sampled_from([0.0, 0.5, 2.0, 7.7, 30.0])), max_size=12),
    size=st.integers(1, 2_000_000),
)
def test_a_message_takes_exactly_the_area_under_the_rate(steps: list[tuple[float, float]], size: int) -> None:
    async def main() -> float:
        net = Net(PAIR, {"wire": LinkState(3 * MBIT)})
        moment = 0.0
        for pause, rate in steps:
            moment += pause
            net.at(moment, "wire", rate * MBIT)
        net.at(moment + 1.0, "wire", 3 * MBIT)
        return (await net.send(net.stream("d1", "c1"), size))[0]

    left, moment, rate = frame_bytes(size) * 8, 0.0, 3 * MBIT
    for pause, following in [*steps, (1.0, 3.0)]:
        if left - rate * pause <= 1e-6:
            break
        left, moment, rate = left - rate * pause, moment + pause, following * MBIT
    assert run(VirtualLoop(), main()) == pytest.approx(moment + left / rate, rel=1e-9)


def test_arrivals_keep_their_order_when_the_delay_drops() -> None:
    async def main() -> list[float]:
        net = Net(PAIR, {"wire": LinkState(8 * MBIT, 0.5)})
        net.at(0.01, "wire", 8 * MBIT, 0.0)
        stream = net.stream("d1", "c1")
        return [arrived for _, arrived in await asyncio.gather(net.send(stream, 1448), net.send(stream, 1448, after=0.02))]

    first, second = simulate(main)  # type: ignore[misc]
    assert first == pytest.approx(0.501514)
    assert second >= first


def test_the_same_events_give_the_same_times_to_the_last_bit() -> None:
    async def main() -> list[tuple[float, float]]:
        states = {
            "near1": LinkState(84.95 * MBIT, 0.002),
            "near2": LinkState(33 * MBIT, 0.003),
            "far": LinkState(18.75 * MBIT, 0.02),
        }
        net = Net(TWO_HOPS, states)
        streams = [net.stream("d1", "c1"), net.stream("d2", "c1"), net.stream("c1", "d2"), net.stream("d2", "d1")]
        for i in range(40):
            net.at(i * 0.05, "far", (i * 7 % 11) * 3 * MBIT, 0.02)
        net.at(2.1, "far", 10 * MBIT, 0.02)
        jobs = [net.send(streams[i % 4], 10_000 + 37_777 * (i % 9), after=0.013 * i) for i in range(60)]
        return list(await asyncio.gather(*jobs))

    assert simulate(main) == simulate(main)


def test_links_that_cannot_bind_are_left_out_of_shares_and_nothing_else_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten sites behind one wide core, which is narrow for a while: all messages arrive as if every link had been looked at."""
    sites = fleet.layout(Sizes(devices=2, edges=1, sites=10))
    rates = {"access": 80 * MBIT, "lan": 1000 * MBIT, "backbone": 50 * MBIT, "core": 1000 * MBIT}
    looked: list[int] = []

    async def main() -> list[float]:
        net = Net(sites, {link.name: LinkState(rates[link.role], 0.0) for link in sites.links})
        senders = [net.stream(host.name, "c1") for host in sites.tier("device")]
        net.at(0.30, "core-c1", 100 * MBIT)
        net.at(0.60, "core-c1", 1000 * MBIT)
        jobs = [net.send(stream, 400_000 + 70_000 * k, 0.013 * k) for k, stream in enumerate(senders)]
        net.loop.call_at(0.25, lambda: looked.append(len(component([net.network.links["backbone-7", "up"]]))))
        net.loop.call_at(0.35, lambda: looked.append(len(component([net.network.links["backbone-7", "up"]]))))
        return [arrived for _, arrived in await asyncio.gather(*jobs)]

    fast = simulate(main)
    monkeypatch.setattr(fairshare, "MANY", 1000)
    assert simulate(main) == pytest.approx(fast, rel=1e-9)
    assert looked[0] <= 2 < looked[1] == looked[3]
    assert looked[2] > 2
