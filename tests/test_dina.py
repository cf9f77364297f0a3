"""DINA: stable matchings and how far they are from the best, partitions over fog nodes, expected waits."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import Any

import pytest
from orchestration import chain, costs
from planner_problems import HOSTS, random_costs, spatial_graph

from d3node.graph import LayerGraph
from testbed.costs.network import NetworkState
from testbed.costs.network import Path as NetworkPath
from testbed.planners.base import Problem
from testbed.planners.dina import Dina, Game
from testbed.planners.dina_partition import on_nodes, partition, savings, strips
from testbed.planners.dominators import dominators
from testbed.planners.evaluate import critical_path
from testbed.planners.matching import Market, Match, blocking, exhaustive, propose, settle
from testbed.planners.objective import objective_s
from testbed.planners.prices import CLOUD, DEVICE, EDGE, make_plan
from testbed.planners.vsm import build, offers, pick

# -- matching ----------------------------------------------------------------------------------------------------------------


def random_market(seed: int) -> tuple[Market, Any, Any]:
    """Up to four users and nodes; a user's cost falls with its nodes, and rises with others there, in its own way."""
    rng = random.Random(seed)
    users = [f"u{i}" for i in range(rng.randint(2, 4))]
    nodes = tuple(f"n{i}" for i in range(rng.randint(2, 4)))
    wanted = rng.randint(1, max(1, len(nodes) - 1))
    room = -(-wanted * len(users) // len(nodes)) + rng.randint(0, 1)
    market = Market(
        dict.fromkeys(users, nodes),
        dict.fromkeys(users, wanted),
        dict.fromkeys(users, min(len(nodes), wanted + rng.randint(0, 1))),
        dict.fromkeys(nodes, room),
    )
    pace = {(u, n): rng.uniform(1.0, 10.0) for u in users for n in nodes}
    harm = {(u, v): rng.uniform(0.0, 3.0) for u in users for v in users}

    def cost(user: str, match: Match) -> float:
        own = 1.0 / sum(1.0 / pace[user, n] for n in match[user])
        return own + max(sum(harm[user, v] for v in match if v != user and n in match[v]) for n in match[user])

    return market, lambda user, node: pace[user, node], cost


def within_quotas(market: Market, match: Match) -> bool:
    return all(1 <= len(match[u]) <= market.most[u] and match[u] <= set(market.nodes[u]) for u in market.nodes) and all(
        sum(node in held for held in match.values()) <= room for node, room in market.quota.items()
    )


@pytest.mark.parametrize("seed", range(60))
def test_a_settled_matching_is_stable_and_no_better_than_the_best(seed: int) -> None:
    market, alone, cost = random_market(seed)
    start, proposals = propose(market, alone)
    found = settle(market, alone, cost)
    assert within_quotas(market, found.match)
    assert blocking(market, found.match, cost) == []
    assert found.rounds >= 1
    assert found.proposals == proposals >= len(start)
    assert (found.swaps == 0) == (found.match == start)
    before = sum(cost(u, start) for u in start)
    assert found.total_s <= before
    if found.swaps:
        assert blocking(market, start, cost) != []
    _, least = exhaustive(market, cost)
    assert found.total_s >= least * (1.0 - 1e-9)
    again = settle(market, alone, cost)
    assert (again.match, again.swaps, again.rounds) == (found.match, found.swaps, found.rounds)


def test_proposals_alone_are_a_stable_assignment_in_the_classical_sense() -> None:
    """Without externalities and with one piece each: no user and node would both rather have each other."""
    for seed in range(40):
        market, alone, _ = random_market(seed)
        market = replace(market, wanted=dict.fromkeys(market.nodes, 1), quota=dict.fromkeys(market.quota, 2))
        match, _ = propose(market, alone)
        for user, node in itertools.product(market.nodes, market.quota):
            (mine,) = match[user]
            there = [other for other in match if node in match[other]]
            rather = alone(user, node) < alone(user, mine)
            room = len(there) < 2 or any(alone(other, node) > alone(user, node) for other in there)
            assert not (rather and room and node != mine), (seed, user, node)


def test_the_worked_example_a_stable_matching_need_not_be_the_best() -> None:
    """Node n1 serves a sooner than b, so b is left with n2, which is bad for b; a would lose by an exchange and declines."""
    pace = {("a", "n1"): 1.0, ("a", "n2"): 2.0, ("b", "n1"): 1.5, ("b", "n2"): 10.0}
    users, nodes = ("a", "b"), ("n1", "n2")
    market = Market(dict.fromkeys(users, nodes), dict.fromkeys(users, 1), dict.fromkeys(users, 1), dict.fromkeys(nodes, 1))

    def cost(user: str, match: Match) -> float:
        (node,) = match[user]
        return pace[user, node]

    found = settle(market, lambda user, node: pace[user, node], cost)
    assert found.match == {"a": frozenset({"n1"}), "b": frozenset({"n2"})}
    assert (found.total_s, found.swaps, found.rounds) == (11.0, 0, 1)
    assert exhaustive(market, cost)[1] == 3.5


def test_the_worked_example_a_crowded_node_is_left_by_whom_it_helps() -> None:
    """Both would be best off on n1 alone, and it has room for both; together they wait for each other, so one moves."""
    users, nodes = ("a", "b"), ("n1", "n2")
    market = Market(dict.fromkeys(users, nodes), dict.fromkeys(users, 1), dict.fromkeys(users, 1), dict.fromkeys(nodes, 2))
    pace = {("a", "n1"): 2.0, ("a", "n2"): 5.0, ("b", "n1"): 3.0, ("b", "n2"): 4.0}

    def cost(user: str, match: Match) -> float:
        (node,) = match[user]
        return pace[user, node] + sum(pace[v, node] for v in match if v != user and node in match[v])

    start, _ = propose(market, lambda user, node: pace[user, node])
    assert start == {"a": frozenset({"n1"}), "b": frozenset({"n1"})}
    found = settle(market, lambda user, node: pace[user, node], cost)
    assert found.match == {"a": frozenset({"n1"}), "b": frozenset({"n2"})}
    assert (found.swaps, found.rounds, found.total_s) == (1, 2, 6.0)


# -- partitions and waits ----------------------------------------------------------------------------------------------------


def site(graph: LayerGraph, seed: int, *, nodes: int = 3, device: str = "d1", rate: float | None = None) -> Problem:
    """A device and a few fog nodes of different speeds, links between all of them different too."""
    rng = random.Random(seed)
    names = tuple(f"e{i + 1}" for i in range(nodes))
    table = random_costs(rng, len(graph))
    table = replace(table, speed={**table.speed, device: rng.uniform(0.5, 2.0), **{n: rng.uniform(0.4, 2.0) for n in names}})

    def network(leader: str) -> NetworkState:
        lan = {n: NetworkPath(rng.uniform(2e8, 1e9), 1e-4) for n in names if n != leader}
        return NetworkState(NetworkPath(rng.uniform(2e7, 1e8), 1e-3), NetworkPath(1e7, 0.01), NetworkPath(1e7, 0.011), lan)

    leaders = {name: network(name) for name in names}
    hosts: Any = {**HOSTS, "device": device}
    return Problem(graph, table, leaders["e1"], hosts, names, {}, rate, leaders=leaders)


@pytest.mark.parametrize("cloud", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_the_partition_is_the_best_of_all_pairs_of_cuts(seed: int, cloud: bool) -> None:
    graph = spatial_graph(random.Random(seed), 4)
    problem = site(graph, seed)
    found = partition(problem, ("e2", "e1", "e3"), cloud, "dina")
    own = on_nodes(problem, ("e2", "e1", "e3"))
    plan = found.plan
    plan.check(graph)
    assert plan.hosts["edge"] == "e2"
    assert found.alone_s == critical_path(own, plan).latency_s
    priced = offers(own, strips(graph, 3))
    last = len(graph) - 1
    ends = [v for v in dominators(graph) if v != last] + [last]

    def total(first: int, second: int) -> float:
        ranks = [DEVICE if v <= first else EDGE if v <= second else CLOUD for v in range(len(graph))]
        picked, _ = pick(priced, [rank == EDGE for rank in ranks])
        way = make_plan("x", own, ranks, tuple(build(graph, offer) for offer in picked))
        back = {"device": 0.0, "edge": own.network.device_edge, "cloud": own.network.device_cloud}[way.tiers[last]]
        answer = back.transfer_s(graph[last].output_bytes) if isinstance(back, NetworkPath) else 0.0
        return objective_s(own, way) + answer

    ways = [(a, b) for a in ends for b in ends if a <= b and (cloud or b == last)]
    mine = max((v for v in range(len(graph)) if plan.tiers[v] == "device"), default=0)
    fog = max((v for v in range(len(graph)) if plan.tiers[v] != "cloud"), default=0)
    assert total(mine, fog) == pytest.approx(min(total(a, b) for a, b in ways))
    assert cloud or "cloud" not in plan.tiers


@pytest.mark.parametrize("seed", range(10))
def test_savings_are_those_of_the_best_stacks(seed: int) -> None:
    graph = spatial_graph(random.Random(seed), 5)
    found = offers(site(graph, seed), strips(graph, 3))
    for start in range(1, len(graph)):
        saved = savings(found, start, len(graph))
        for end in range(start, len(graph)):
            assert saved[end] == pytest.approx(pick(found, [start <= v <= end for v in range(len(graph))])[1])


def test_a_partition_that_its_own_requests_would_overload_is_passed_over() -> None:
    """Three layers of 10 ms on the node, 40 ms on the device: all on the node is best, and keeps up with 33 requests a second."""
    problem = two_users(None)[0].problems["d1"]

    def tiers(rate: float | None, device_speed: float = 1.0) -> tuple[str, ...]:
        known = replace(problem, costs=problem.costs.with_speed("d1", device_speed), requests_per_s=rate)
        return partition(known, ("e1",), False, "dina").plan.tiers

    on_node, shared = ("device", "edge", "edge", "edge"), ("device", "device", "edge", "edge")
    assert tiers(None) == tiers(30.0) == on_node
    assert tiers(34.0) == on_node  # one layer on the device keeps up with 25 only: nothing keeps up, so the fastest
    assert tiers(30.0, 3.0) == on_node
    assert tiers(34.0, 3.0) == shared


def test_strips_run_along_the_larger_side_of_the_input() -> None:
    graph = spatial_graph(random.Random(1), 2)
    first = graph[0]
    for shape, word in (((1, 3, 32, 32), "rows"), ((1, 3, 48, 32), "rows"), ((1, 3, 32, 48), "columns")):
        other = LayerGraph("g", (replace(first, output_shape=shape), *graph.vertices[1:]), graph.outputs)
        assert strips(other, 4)["grids"] == word


def two_users(rate: float | None) -> tuple[Game, Match]:
    """Two devices, one fog node at 10 ms a layer, everything on it."""
    graph = chain(3)
    table = costs(graph)
    path = NetworkPath(1e9)
    network = NetworkState(path, path, path)
    problems = {
        d: Problem(graph, table, network, {"device": d, "edge": "e1", "cloud": "c1"}, ("e1",), {}, rate, leaders={"e1": network})
        for d in ("d1", "d2")
    }
    game = Game(problems, {"dina_pieces": 0, "dina_quota": 0, "dina_cloud": "off"}, "dina")
    return game, {"d1": frozenset({"e1"}), "d2": frozenset({"e1"})}


def test_expected_waits_are_those_of_queueing_theory() -> None:
    game, match = two_users(5.0)
    busy = game.partition("d1", frozenset({"e1"})).busy_s["e1"]
    assert busy == pytest.approx(0.03)
    load = 2 * 5.0 * busy
    assert game.queueing_s("d1", match) == pytest.approx(2 * 5.0 * busy**2 / (2 * (1 - load)))
    alone_s = game.partition("d1", frozenset({"e1"})).alone_s
    assert game.cost("d1", match) == pytest.approx(alone_s + game.queueing_s("d1", match))
    game, match = two_users(20.0)  # 1.2 s of work a second
    assert game.queueing_s("d1", match) == pytest.approx(1200.0)
    game, match = two_users(None)
    alone_s = game.partition("d1", frozenset({"e1"})).alone_s
    assert game.queueing_s("d1", match) == pytest.approx(max(busy**2 / (2 * alone_s), 2 * busy - alone_s))
    assert game.queueing_s("d1", {"d1": frozenset({"e1"})}) == 0.0


@pytest.mark.parametrize("seed", range(16))
def test_the_game_ends_stable_and_near_the_best_matching(seed: int) -> None:
    """Two or three devices on two to four nodes; `exhaustive` tries every matching that the quotas allow."""
    rng = random.Random(seed)
    graph = spatial_graph(rng, 4)
    rate = rng.choice((None, 1.0))
    nodes = rng.randint(2, 4)
    base = site(graph, seed, nodes=nodes, rate=rate)
    problems = {}
    for i in range(rng.randint(2, 3)):
        device = f"d{i + 1}"
        own = replace(base.costs, speed={**base.costs.speed, device: rng.uniform(0.1, 1.0)})
        problems[device] = replace(base, costs=own, hosts={**base.hosts, "device": device})
    game = Game(problems, {"dina_pieces": 0, "dina_quota": 0, "dina_cloud": "off"}, "dina")
    found = game.settle()
    assert blocking(game.market, found.match, game.cost) == []
    assert within_quotas(game.market, found.match)
    _, least = exhaustive(game.market, game.cost)
    assert least * (1 - 1e-9) <= found.total_s < 1.5 * least
    decisions = Dina().plan_jointly(problems)
    for device, decision in decisions.items():
        assert decision.plan.hosts["device"] == device
        assert set(decision.plan.notes["nodes"]) == found.match[device]
        assert decision.plan.hosts["edge"] in found.match[device]
        used = {tile.host for stack in decision.plan.stacks for tile in stack.tiles}
        assert used <= found.match[device]
        assert decision.plan.notes["expected_s"] == pytest.approx(game.cost(device, found.match))


def test_alone_a_device_gets_all_nodes_and_without_word_of_other_leaders_keeps_its_own() -> None:
    problem = site(spatial_graph(random.Random(3), 5), 3)
    assert Dina().plan(problem).plan.notes["nodes"] == ["e1", "e2", "e3"]
    bare = replace(problem, leaders={})
    decision = Dina().plan(bare)
    assert decision.plan.hosts["edge"] == "e1"
    assert decision.objective_s == pytest.approx(objective_s(bare, decision.plan))
