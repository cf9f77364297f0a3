"""What the flow model has of Linux's TCP: losses that a seed decides, queues that rivals stand in, windows that grow."""

from __future__ import annotations

import asyncio
from statistics import mean, median

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_flow import MBIT, PAIR, TWO_HOPS, Net, simulate

from testbed.backends.flow_job import SEGMENT
from testbed.backends.flow_tcp import Losses, hystart_bytes, repair_s
from testbed.scenario.state import LinkState


@given(seed=st.integers(0, 1000), p=st.floats(0.0, 0.5), parts=st.lists(st.integers(1, 400), min_size=1, max_size=6))
def test_the_seed_decides_which_segments_are_lost_however_they_are_cut_into_messages(
    seed: int, p: float, parts: list[int]
) -> None:
    whole = Losses(seed, 3).draw(sum(parts), p)
    one, found, before = Losses(seed, 3), [], 0
    for part in parts:
        found += [before + position for position in one.draw(part, p)]
        before += part
    assert found == whole
    assert whole == sorted(set(whole))
    assert all(0 <= position < sum(parts) for position in whole)


def test_as_many_are_lost_as_the_link_says_and_streams_do_not_lose_alike() -> None:
    one, other = (Losses(1, number).draw(100_000, 0.02) for number in (1, 2))
    assert len(one) == pytest.approx(2000, rel=0.1)
    assert len(set(one) & set(other)) < 100
    assert Losses(1, 1).draw(1000, 0.0) == []
    assert Losses(1, 1).draw(5, 1.0) == [0, 1, 2, 3, 4]


def test_a_loss_far_from_the_end_costs_no_time_and_one_at_the_end_a_probe() -> None:
    assert repair_s(behind=100, segment_s=0.001, round_s=0.02) == 0.0
    assert repair_s(behind=10, segment_s=0.001, round_s=0.02) == pytest.approx(0.015)
    assert repair_s(behind=0, segment_s=0.001, round_s=0.02) == pytest.approx(0.04)


def test_a_short_message_without_a_loss_takes_what_it_takes_without_loss() -> None:
    """16 kB over 1 % of loss: nine in ten messages lose nothing. Both the typical and the mean time show it."""

    async def times(loss: float) -> list[float]:
        net = Net(PAIR, {"wire": LinkState(10 * MBIT, 0.01, loss)})
        stream = net.stream("d1", "c1")
        found = []
        for _ in range(300):
            begun = net.loop.time()
            found.append((await net.send(stream, 16_000))[1] - begun)
            await asyncio.sleep(0.5)
        return found[5:]

    clean, lossy = (simulate(lambda loss=loss: times(loss)) for loss in (0.0, 0.01))  # type: ignore[misc]
    assert median(lossy) == pytest.approx(median(clean), rel=1e-9)  # type: ignore[type-var]
    assert mean(clean) * 1.03 < mean(lossy) < mean(clean) * 1.5  # type: ignore[operator, type-var]


def test_a_lossy_network_repeats_itself_to_the_last_bit() -> None:
    async def main(seed: int) -> list[float]:
        net = Net(PAIR, {"wire": LinkState(10 * MBIT, 0.01, 0.03)}, seed=seed)  # type: ignore[arg-type]
        stream = net.stream("d1", "c1")
        return [(await net.send(stream, 100_000))[1] for _ in range(20)]

    first, again, other = (simulate(lambda seed=seed: main(seed)) for seed in (1, 1, 2))  # type: ignore[misc]
    assert first == again
    assert first != other


def test_a_small_message_waits_in_the_queue_of_a_large_one() -> None:
    """16 kB behind 600 kB that fill the queue: far longer than its fair half would let it take, and the link stays full."""

    async def main() -> tuple[float, float, float]:
        net = Net(TWO_HOPS, {"near1": LinkState(1000 * MBIT), "near2": LinkState(1000 * MBIT), "far": LinkState(10 * MBIT, 0.01)})
        large, small = net.stream("d1", "c1"), net.stream("d2", "c1")
        for stream in (large, small):
            await net.send(stream, 600_000)
            await asyncio.sleep(1.0)
        begun = net.loop.time()
        (_, first), (_, second) = await asyncio.gather(net.send(large, 600_000), net.send(small, 16_000, after=0.1))
        return first - begun, second - begun - 0.1, (600_000 + 66 * 415 + 16_000 + 66 * 12) * 8 / (10 * MBIT)

    large_s, small_s, both_s = simulate(main)  # type: ignore[misc]
    assert 0.05 < small_s < 0.15
    assert large_s == pytest.approx(both_s + 0.01, rel=0.01)


def test_the_window_of_a_message_grows_by_all_that_was_acknowledged() -> None:
    """10, 20 and 40 packets, of which the last 40 are all there are: in the end as many as were sent, and the first ten."""

    async def main() -> float:
        net = Net(PAIR, {"wire": LinkState(80 * MBIT, 0.05)})
        stream = net.stream("d1", "c1")
        await net.send(stream, 50 * 1448)
        await asyncio.sleep(1.0)
        await net.send(stream, 1448)
        return stream.cwnd / SEGMENT

    assert simulate(main) == pytest.approx(60.0)


def test_slow_start_ends_at_the_pipe_where_acks_come_in_trains_and_beyond_it_where_they_do_not() -> None:
    fast, slow = 100e6 / 8, 5e6 / 8
    assert hystart_bytes(fast, 0.02) == pytest.approx(1.25 * fast * 0.02)
    assert hystart_bytes(slow, 0.02) == pytest.approx(3.0 * slow * 0.024)
    assert hystart_bytes(slow, 0.2) == pytest.approx(3.0 * slow * 0.216)
