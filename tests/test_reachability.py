"""What lost hosts and broken paths leave a device to plan with; what faults lay over links; which links part two groups."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from orchestration import chain, layout, site, virtual

from d3node.plan import Plan
from testbed.costs.network import NetworkState, Path
from testbed.errors import AgentError
from testbed.orchestrator.faults import cut
from testbed.orchestrator.liveness import Liveness
from testbed.orchestrator.overlay import Overlay
from testbed.orchestrator.reach import Reach, View
from testbed.scenario.state import LinkState
from topologies.layout import Layout

SITE = site(layout(edges=3))
NETWORK = NetworkState(Path(5e7, 0.002), Path(2e7, 0.01), Path(2e7, 0.012))


def view(*dead: str, broken: tuple[tuple[str, str], ...] = ()) -> View:
    reach = Reach({host: f"{host} died" for host in dead})
    for pair in broken:
        reach.asked(pair, 0.0)
    assert reach.overdue(1.0, lambda _pair: 0.6) == list(broken)
    return reach.view(SITE)


def test_with_everybody_there_nothing_changes() -> None:
    assert view() == View(SITE)


def test_an_edge_host_that_died_is_left_out() -> None:
    found = view("e2")
    assert (found.site.edge_hosts, found.site.route, dict(found.missing)) == (("e1", "e3"), "relay", {"e2": "e2 died"})
    assert found.seen(NETWORK) == NETWORK


def test_the_next_edge_host_leads_after_the_leader() -> None:
    assert view("e1").site.leader == "e2"
    assert view("e1", "e2").site.edge_hosts == ("e3",)


def test_without_edge_hosts_the_device_talks_to_the_cloud_itself() -> None:
    found = view("e1", "e2", "e3")
    assert found.site.route == "direct"
    seen = found.seen(NETWORK)
    assert (seen.device_edge.rate_bps, seen.edge_cloud.rate_bps, seen.device_cloud) == (0.0, 0.0, NETWORK.device_cloud)


def test_without_the_cloud_both_ways_there_are_shut() -> None:
    for found in (view("c1"), view(broken=(("d1", "c1"),))):
        seen = found.seen(NETWORK)
        assert (seen.device_edge, seen.edge_cloud.rate_bps, seen.device_cloud.rate_bps) == (NETWORK.device_edge, 0.0, 0.0)
        assert "c1" in found.missing
        assert found.site.route == "relay"


def test_a_leader_that_does_not_reach_the_cloud_is_replaced_by_one_that_does() -> None:
    assert view(broken=(("e1", "c1"),)).site.edge_hosts == ("e2", "e3", "e1")


def test_hosts_that_the_leader_does_not_reach_get_no_tiles() -> None:
    assert view(broken=(("e1", "e3"),)).site.edge_hosts == ("e1", "e2")


def test_a_path_is_broken_from_its_oldest_unanswered_probe_until_an_answer() -> None:
    reach = Reach({})
    pair = ("d1", "e1")
    reach.asked(pair, 1.0)
    reach.asked(pair, 1.5)
    assert reach.overdue(1.5, lambda _pair: 0.6) == []
    assert reach.overdue(1.7, lambda _pair: 0.6) == [pair]
    assert reach.overdue(1.8, lambda _pair: 0.6) == [], "told once"
    assert not reach.ok("e1", "d1")
    assert reach.answered(pair, 0.1)
    assert reach.ok("e1", "d1")
    assert not reach.answered(pair, 0.1)


def test_a_plan_is_refused_for_a_missing_host_or_a_broken_path_that_it_needs() -> None:
    graph = chain(2)
    hosts = {"device": "d1", "edge": "e1", "cloud": "c1"}
    both = Plan("t", "chain", ("device", "edge", "cloud"), hosts)  # type: ignore[arg-type]
    local = Plan("t", "chain", ("device",) * 3, hosts)  # type: ignore[arg-type]
    assert view().lacking(graph, both) is None
    assert "needs e1: e1 died" in (view("e1").lacking(graph, both) or "")
    assert "path from e1 to c1" in (view(broken=(("e1", "c1"),)).lacking(graph, both) or "")
    assert view("e1", "e2", "e3", "c1").lacking(graph, local) is None


def test_faults_lie_over_one_another() -> None:
    overlay, key = Overlay(), ("backbone", "up")
    state = LinkState(1e6, 0.01, loss=0.1)
    overlay.losses[key] = [0.5]  # type: ignore[index]
    assert overlay.link(key, state).loss == pytest.approx(0.55)  # type: ignore[arg-type]
    overlay.down[key] += 2  # type: ignore[index]
    overlay.down[key] -= 1  # type: ignore[index]
    assert overlay.link(key, state).rate_bps == 0.0, "another outage is in force"  # type: ignore[arg-type]
    overlay.factors["e1"] = [4.0, 2.0]
    assert overlay.share("e1", 0.8) == pytest.approx(0.1)
    overlay.clear()
    assert overlay.link(key, state) == state  # type: ignore[arg-type]


def parted(where: Layout, links: list[str], a: str, b: str) -> bool:
    return any(link.name in links for link, _ in where.path(a, b))


@pytest.mark.parametrize("group", [{"d1"}, {"e2"}, {"c1"}, {"d1", "d2"}, {"e1", "e2"}, {"d1", "e1"}])
def test_a_partition_parts_the_group_from_all_others_and_leaves_the_others_together(group: set[str]) -> None:
    where = layout(devices=2, edges=3)
    links = cut(where, group)
    others = [host.name for host in where.hosts if host.name not in group]
    assert all(parted(where, links, a, b) for a in group for b in others)
    assert not any(parted(where, links, a, b) for a in others for b in others if a != b)


def test_a_host_that_did_not_hear_of_requests_that_are_over_hears_of_them_with_the_last_word() -> None:
    """The orchestrator was away when it said so, and the session ended before the next heartbeat (chaos found it)."""
    heard: list[list[int]] = []

    class Client:
        alive = False

        async def call(self, kind: str, fields: dict[str, Any], deadline_s: float) -> None:
            if not self.alive:
                raise AgentError("the orchestrator has left")
            heard.append(fields["over"])

    async def main() -> None:
        client = Client()
        fleet: Any = SimpleNamespace(clients={"e1": client}, dead={}, present=asyncio.Event())
        fleet.present.set()
        liveness = Liveness(fleet, ["e1"], 0.2, 0.6, lambda host: None)
        liveness.over["e1"].append(7)
        await liveness._ping("e1")
        liveness.over["e1"].append(8)
        client.alive = True
        await asyncio.sleep(5.0)
        await liveness.whole(1.0)
        assert heard == [[7, 8]]

    virtual(main())
