"""A link shared max-min fairly: one stack, thousands at once and the events of the LAN on paper say the same; worked examples."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_problems import spatial_problem

from testbed.costs.network import MESSAGE_HEADER_BYTES, Path, frame_bytes
from testbed.planners.base import Problem
from testbed.planners.fair_link import Message, all_through_s, evenly_through_s, through_s
from testbed.planners.lan import Lan

RATE = st.sampled_from((1e6, 2e6, 5e6, 1e7))


def test_messages_that_start_together_share_evenly_and_a_slow_host_leaves_its_share_to_the_others() -> None:
    messages = [Message("a", 0.0, 1e6), Message("b", 0.0, 2e6), Message("c", 0.0, 3e6)]
    assert through_s(messages, dict.fromkeys("abc", 1e6), 1e6) == pytest.approx([3.0, 5.0, 6.0])
    slow = {"a": 1e5, "b": 1e6, "c": 1e6}  # b and c have 0.45 Mbit/s each, then c the 0.9 that a leaves
    after_b = 2e6 / 4.5e5
    ends = [10.0, after_b, after_b + 1e6 / 9e5]
    assert through_s(messages, slow, 1e6) == pytest.approx(ends)


def test_a_connection_sends_one_message_after_the_other_and_the_link_rests_until_something_is_ready() -> None:
    messages = [Message("a", 1.0, 1e6), Message("a", 1.0, 1e6), Message("b", 2.5, 1e6), Message("b", 9.0, 1e6)]
    assert through_s(messages, {"a": 1e6, "b": 1e6}, 1e6) == pytest.approx([2.0, 3.5, 4.0, 10.0])
    assert through_s([], {}, 1e6) == []


@settings(max_examples=60, deadline=None)
@given(data=st.data(), hosts=st.integers(1, 7), rows=st.integers(1, 4))
def test_many_stacks_at_once_equal_each_by_itself(data: st.DataObject, hosts: int, rows: int) -> None:
    rates = np.array([data.draw(RATE) for _ in range(hosts)])
    link = float(rates.max())
    bits = np.array([[data.draw(st.sampled_from((0.0, 1e3, 2e5, 3e5, 1e6))) for _ in range(hosts)] for _ in range(rows)])
    ready = np.array([[data.draw(st.sampled_from((0.0, 0.01, 0.3, 2.0))) for _ in range(hosts)] for _ in range(rows)])
    found = all_through_s(np.where(bits > 0.0, ready, np.inf), bits, rates, link)
    for row in range(rows):
        used = [j for j in range(hosts) if bits[row, j]]
        messages = [Message(str(j), ready[row, j], bits[row, j]) for j in used]
        assert found[row, used] == pytest.approx(through_s(messages, {str(j): rates[j] for j in used}, link), rel=1e-9)
        assert np.isinf(np.delete(found[row], used)).all()
    together = all_through_s(np.zeros_like(bits), bits, np.full(hosts, link), link)
    assert evenly_through_s(bits, link) == pytest.approx(together, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), hosts=st.integers(1, 5))
def test_the_lan_on_paper_says_the_same(data: st.DataObject, hosts: int) -> None:
    """Its events, where the leader sends to all hosts, or all send to the leader."""
    problem = spatial_problem(1, hosts=hosts + 1)
    names = [host for host in problem.edge_hosts if host != problem.hosts["edge"]]
    rates = {name: data.draw(RATE) for name in names}
    lan_of = {name: Path(rate, 0.001) for name, rate in rates.items()}
    problem = replace(problem, network=replace(problem.network, lan=lan_of))
    sizes = [(data.draw(st.sampled_from(names)), data.draw(st.integers(1, 400_000))) for _ in range(data.draw(st.integers(1, 8)))]
    messages = [Message(name, 0.0, 8.0 * frame_bytes(size + MESSAGE_HEADER_BYTES)) for name, size in sizes]
    expected = through_s(messages, rates, max(rates.values()))
    leader = problem.hosts["edge"]
    for inwards in (False, True):
        times = arrivals(problem, [((name, leader) if inwards else (leader, name), size) for name, size in sizes])
        assert [time - 0.001 for time in times] == pytest.approx(expected, rel=1e-6)


def arrivals(problem: Problem, messages: list[tuple[tuple[str, str], int]]) -> list[float]:
    """When messages (ends, payload) that are all sent at second 0 have arrived."""
    lan, times = Lan(problem), [0.0] * len(messages)

    def arrived(index: int) -> None:
        times[index] = lan.now

    for index, (ends, size) in enumerate(messages):
        lan.send(*ends, size, partial(arrived, index))
    lan.run()
    return times
