"""Estimates from the requests' own transfers and times: right in the mean, quick to follow, not fooled by crowds."""

from __future__ import annotations

from typing import Any

import pytest
from orchestration import chain, costs, facts, layout, site

from d3node.plan import Plan, Stack, Tile
from d3node.program import lower
from testbed.costs.network import frame_bytes
from testbed.orchestrator.account import Ledger
from testbed.orchestrator.epochs import Epoch
from testbed.orchestrator.observe import Observer
from testbed.orchestrator.truth import TrueState
from testbed.scenario.state import LinkState

WHERE = layout(devices=1, edges=3)
SITE = site(WHERE)
GRAPH = chain(4)
HOSTS = SITE.hosts


def truth() -> TrueState:
    state = TrueState(WHERE)
    for link in WHERE.links:
        fast = LinkState(10e6, 0.015) if link.role == "backbone" else LinkState(100e6, 0.0)
        state.links[link.name, "up"] = state.links[link.name, "down"] = fast
    state.shares = {host.name: 1.0 for host in WHERE.hosts}
    return state


def observer(knowledge: str = "estimated", state: TrueState | None = None, smoothing: float = 0.5) -> Observer:
    return Observer(facts(GRAPH), state or truth(), Ledger(WHERE), knowledge, smoothing)


class FakeRequest:
    def __init__(self, *reports: dict[str, Any], stacks: tuple[Stack, ...] = ()) -> None:
        plan = Plan("p", "chain", ("device", "edge", "edge", "edge", "cloud"), HOSTS, stacks, epoch=1)
        self.epoch = Epoch(plan, lower(GRAPH, plan), ("d1", "e1", "c1"), frozenset({"d1", "e1", "c1"}))
        self.reports = list(reports)
        self.recoveries = 0


def moved(peer: str, host: str, nbytes: int, start: float, rate: float, delay: float = 0.0, **more: Any) -> dict[str, Any]:
    end = start + delay + frame_bytes(nbytes) * 8 / rate
    record = {"what": "transfer", "peer": peer, "kind": "tensor", "start": start, "end": end, "bytes": nbytes, **more}
    return {"host": host, "records": [record]}


def computed(host: str, *steps: tuple[int, list[int], float], start: float = 0.0) -> dict[str, Any]:
    records = []
    for step, vertices, seconds in steps:
        records.append({"what": "compute", "step": step, "vertices": vertices, "start": start, "end": start + seconds})
        start += seconds
    return {"host": host, "records": records}


def learn(watch: Observer, *reports: dict[str, Any]) -> None:
    watch.request(FakeRequest(*reports))  # type: ignore[arg-type]


def test_before_any_transfer_the_state_at_the_start_is_believed() -> None:
    network = observer().network(SITE)
    assert (network.edge_cloud.rate_bps, network.edge_cloud.delay_s) == (10e6, 0.015)
    assert network.lan["e2"].rate_bps == 100e6


def test_the_estimate_converges_to_the_rate_of_the_path() -> None:
    watch = observer()
    errors = []
    for i in range(8):
        learn(watch, moved("e1", "c1", 500_000, 10.0 * i, 2e6, delay=0.015))
        errors.append(abs(watch.network(SITE).edge_cloud.rate_bps - 2e6))
    assert errors[0] == pytest.approx(4e6)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 2e6 * 0.02
    assert watch.network(SITE).device_edge.rate_bps == 100e6, "other paths are not touched"


def test_small_transfers_say_nothing_of_rates() -> None:
    watch = observer()
    learn(watch, moved("e1", "c1", 15_000, 0.0, 1e6, delay=0.5))
    assert watch.network(SITE).edge_cloud.rate_bps == 10e6
    assert watch.take_fresh() == set()


def test_messages_queued_behind_each_other_are_not_counted_twice() -> None:
    watch = observer(smoothing=1.0)
    nbytes = 200_000
    each = frame_bytes(nbytes) * 8 / 10e6
    one = moved("e1", "c1", nbytes, 0.0, 10e6, delay=0.015)
    two = moved("e1", "c1", nbytes, 0.001, 10e6, delay=0.015)
    two["records"][0]["end"] = 2 * each + 0.015  # written early, but behind the first on the wire
    learn(watch, {"host": "c1", "records": one["records"] + two["records"]})
    assert watch.network(SITE).edge_cloud.rate_bps == pytest.approx(10e6, rel=1e-6)


def test_tiles_scattered_at_once_do_not_look_like_a_slow_lan() -> None:
    watch = observer(smoothing=1.0)
    half = 50e6  # two tiles leave over the leader's 100 Mbit/s link at the same time
    learn(watch, moved("e1", "e2", 400_000, 0.0, half), moved("e1", "e3", 400_000, 0.0, half))
    network = watch.network(SITE)
    assert [network.lan[host].rate_bps for host in ("e2", "e3")] == pytest.approx([100e6, 100e6], rel=1e-3)


def test_a_lan_that_is_slow_is_seen_to_be_slow_even_so() -> None:
    watch = observer(smoothing=1.0)
    learn(watch, moved("e1", "e2", 400_000, 0.0, 10e6), moved("e1", "e3", 400_000, 0.0, 10e6))
    assert watch.network(SITE).lan["e2"].rate_bps == pytest.approx(20e6, rel=1e-3)


def test_a_busy_host_is_seen_by_its_times() -> None:
    watch = observer()
    for _ in range(10):
        learn(watch, computed("e1", (0, [1], 0.02), (1, [2, 3], 0.04)))
    assert watch.costs().speed["e1"] == pytest.approx(0.5, rel=0.01)
    assert watch.values(SITE)["speed", "e1"] == watch.costs().speed["e1"]
    assert not [key for key in watch.values(SITE) if key[0] == "factor"], "no single vertex has drifted"


def test_a_single_step_that_drifts_is_told_from_its_host() -> None:
    watch = observer()
    for _ in range(12):
        learn(watch, computed("e1", (0, [1], 0.01), (1, [2], 0.03), (2, [3], 0.01)))
    costs_now = watch.costs()
    told = [costs_now.vertex_s(v, "edge", "e1") for v in (1, 2, 3)]
    assert told == pytest.approx([0.01, 0.03, 0.01], rel=0.02)
    assert ("factor", 2) in watch.values(SITE)
    assert costs_now.vertex_s(2, "cloud", "c1") == costs(GRAPH).vertex_s(2, "cloud", "c1")


def test_tiles_tell_the_speed_of_their_host() -> None:
    watch = observer(smoothing=1.0)
    stack = Stack((1, 2), (2, 1), (Tile("e1", (0, 8), (0, 16)), Tile("e2", (8, 16), (0, 16))))
    seconds = (0.001 + 0.009 * 9 / 16) + (0.001 + 0.009 * 0.5)
    record = {"what": "compute", "stack": 0, "tile": 1, "vertices": [1, 2], "start": 0.0, "end": 4 * seconds}
    watch.request(FakeRequest({"host": "e2", "records": [record]}, stacks=(stack,)))  # type: ignore[arg-type]
    assert watch.costs().speed["e2"] == pytest.approx(0.25)


def test_a_probe_is_a_sample_too() -> None:
    watch = observer(smoothing=1.0)
    watch.probe("e1", "c1", 65_536, frame_bytes(65_536) * 8 / 3e6 + 0.030)
    assert watch.network(SITE).edge_cloud.rate_bps == pytest.approx(3e6)
    assert watch.keys(SITE, watch.take_fresh() or set()) == [("rate", "edge_cloud")]


def test_clairvoyance_knows_links_and_shares_at_once_and_learns_nothing() -> None:
    state = truth()
    watch = observer("true", state)
    assert watch.changed
    assert not watch.changed
    state.set_link("backbone", "up", LinkState(1e6, 0.2))
    state.set_share("e2", 0.3)
    assert watch.changed
    learn(watch, moved("e1", "c1", 500_000, 0.0, 9e6))
    assert watch.network(SITE).edge_cloud.rate_bps == 1e6
    assert watch.network(SITE).edge_cloud.delay_s == pytest.approx(0.2)
    assert watch.costs().speed["e2"] == 0.3


def test_a_probe_that_queued_behind_a_tensor_says_nothing() -> None:
    watch = observer(smoothing=1.0)
    behind = frame_bytes(16_000) * 8 / 10e6
    assert not watch.probe("e1", "c1", 16_000, 0.150 + 0.030, gap_s=behind, end=0.165)
    assert watch.network(SITE).edge_cloud.rate_bps == 10e6
    assert watch.take_fresh() == set()
    assert watch.probe("e1", "c1", 16_000, 4 * behind + 0.030, gap_s=0.5, end=1.0)
    assert watch.network(SITE).edge_cloud.rate_bps == pytest.approx(2.5e6)


def test_a_tensor_that_queued_behind_a_probe_is_not_blamed_for_it() -> None:
    watch = observer(smoothing=1.0)
    probe = frame_bytes(60_000) * 8 / 10e6
    watch.probe("e1", "c1", 60_000, probe + 0.030, gap_s=1.0, end=probe + 0.015)
    tensor = moved("e1", "c1", 60_000, 0.0, 10e6, delay=0.015)  # handed to the socket at once, on the wire behind the probe
    tensor["records"][0]["end"] += probe
    learn(watch, tensor)
    assert watch.network(SITE).edge_cloud.rate_bps == pytest.approx(10e6, rel=1e-6)


def test_a_probe_after_a_tensor_does_not_hide_the_tensor() -> None:
    watch = observer(smoothing=1.0)
    watch.probe("e1", "c1", 16_000, 0.1, gap_s=1.0, end=5.0)  # heard of before the request of the tensor is over
    learn(watch, moved("e1", "c1", 500_000, 0.0, 4e6, delay=0.015))
    assert watch.network(SITE).edge_cloud.rate_bps == pytest.approx(4e6, rel=1e-6)


def test_planners_are_not_told_of_jitter() -> None:
    watch = observer()
    for jitter in (1.004, 0.997, 1.006, 0.995):
        learn(watch, computed("e1", (0, [1], 0.01 * jitter), (1, [2, 3], 0.02 * jitter)))
    assert watch.costs().speed.get("e1", 1.0) == 1.0
