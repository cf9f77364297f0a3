"""Jitter in scenarios; and frames that a full queue dropped are told apart from those that a link lost as it was asked to."""

from __future__ import annotations

from typing import Any

import pytest

from testbed import registry
from testbed.backends import invariants, netem
from testbed.backends.base import LinkCounters
from testbed.backends.mininet import MininetBackend
from testbed.backends.netspec import EmulationSpec, NetworkSpec, queue_bytes, scaled
from testbed.backends.sim import SimBackend
from testbed.errors import ScenarioError
from testbed.scenario.links import links_of
from testbed.scenario.schema import Scenario
from testbed.scenario.state import LinkState
from testbed.verify.bare import scenario
from topologies.layout import Layout


def with_backbone(**keys: Any) -> Scenario:
    return scenario({"rate": "10 Mbit/s", "delay": "10 ms", **keys}, seed=7)


def test_jitter_reaches_the_link_both_ways_and_what_the_kernel_is_told() -> None:
    asked = with_backbone(jitter="3 ms")
    layout = registry.layout(asked.topology)
    assert links_of(asked, layout)["backbone"].up == LinkState(10e6, 0.01, 0.0, 0.003)
    spec = MininetBackend().spec(asked, layout, b"secret").network
    assert (spec.states["backbone", "down"].jitter_s, spec.seed) == (0.003, 7)
    again = EmulationSpec.from_dict(EmulationSpec(spec).to_dict()).network
    assert (again.states, again.seed) == (spec.states, spec.seed)
    assert scaled(LinkState(10e6, 0.01, 0.1, 0.003), 10.0) == LinkState(1e6, 0.1, 0.1, 0.03)
    told = netem.get_parameters({"rate": 125, "delay_ns": 10, "jitter_ns": 3, "loss": 0.5, "limit": 9, "seed": None})
    assert dict(told["attrs"])["TCA_NETEM_JITTER64"] == 3
    assert (told["loss"], told["limit"]) == (2**31, 9)


def test_jitter_beyond_the_delay_is_refused_with_its_key() -> None:
    asked = with_backbone(jitter="11 ms")
    with pytest.raises(ScenarioError, match=r"links\.backbone\.jitter"):
        links_of(asked, registry.layout(asked.topology))


def test_the_flow_model_refuses_jitter_and_says_how_to_take_it_away() -> None:
    support = SimBackend().support(with_backbone(jitter="3 ms"))
    assert not support.ok
    assert "--set links.backbone.jitter='0 s'" in support.reasons[0]
    assert SimBackend().support(with_backbone(jitter="0 s")).ok


def test_each_direction_of_each_link_draws_with_a_seed_of_its_own() -> None:
    seeds = {netem.seed_of(seed, link, way) for seed in (0, 1) for link in ("backbone", "access-d1") for way in ("up", "down")}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**64 for seed in seeds)


def network(queue: int) -> NetworkSpec:
    keys = [("backbone", "up"), ("backbone", "down")]
    state = LinkState(10e6, 0.01, 0.02)
    return NetworkSpec(Layout("x", (), (), ()), dict.fromkeys(keys, state), dict.fromkeys(keys, queue))  # type: ignore[arg-type]


def test_losses_that_were_asked_for_are_no_drops_and_drops_are_judged_also_where_losses_were_asked_for() -> None:
    def judged(drops: int, lost: int) -> Any:
        counters = {("backbone", "up"): LinkCounters(1, 10_000, drops, lost), ("backbone", "down"): LinkCounters(1, 10, 0)}
        return invariants.drops(counters, network(15_140))  # type: ignore[arg-type]

    fine = judged(0, 200)
    assert (fine.level, fine.value) == ("ok", 0.0)
    assert "200 frames were lost as asked" in fine.detail
    assert (judged(20, 0).level, judged(1000, 200).level) == ("degraded", "rejected")
    assert "backbone up, whose queue holds 15140 B" in judged(20, 0).detail


def test_a_queue_that_is_not_given_holds_the_round_trip_and_200_ms() -> None:
    assert queue_bytes(10e6, 0.05) == 375_000
    assert queue_bytes(1e5, 0.0) == 100 * 1514
    asked = with_backbone()
    spec = MininetBackend().spec(asked, registry.layout(asked.topology), b"").network
    assert spec.queues["backbone", "up"] == queue_bytes(10e6, 0.01)
    given = with_backbone(queue="20 kB")
    assert MininetBackend().spec(given, registry.layout(given.topology), b"").network.queues["backbone", "up"] == 20_000
