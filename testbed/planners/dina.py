"""DINA (Mohammed, Joe-Wong, Babbar, Di Francesco, INFOCOM 2020): several users share several fog nodes, by matching with swaps.

DINA-P (`dina_partition.py`) shares a user's model out over itself and the nodes it is given; DINA-O decides who gets which nodes:
users rank nodes and nodes rank users by expected compute, transmission and queueing time, and pieces are swapped until no swap
gains (`matching.py`). A user's expected time under a matching is that of its partition on idle nodes, plus the longest wait for
the other users at any of its nodes: with arrivals at known rates the mean wait of an M/G/1 queue; with one request a user at a
time what is left of a request that is met there, but at least what a full server makes everybody wait.

Restrictions, kept: users and fog nodes (the cloud by option), one matching for all. Our choices, for want of the paper's text:
every user asks for nodes / users pieces (at least one) and may be given one more of a node that is left over, nodes serve equal
numbers of pieces, of a user's nodes the one that would be best alone leads; utilities are expected seconds. Users are grouped by
the nodes that they can reach: sites do not mix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from d3node.plan import Plan
from testbed.planners.base import Change, Decision, Problem
from testbed.planners.dina_partition import Partition, on_nodes, partition
from testbed.planners.matching import Market, Match, Stable, settle
from testbed.planners.objective import objective_s
from testbed.planners.options import read

OVERLOADED_S = 1e3
"""Seconds that a node with more work than time counts for, times its load: worse than any node that keeps up."""


class Game:
    """One group of users and the nodes that all of them can reach: partitions, expected times, and their market."""

    def __init__(self, problems: Mapping[str, Problem], values: Mapping[str, Any], name: str) -> None:
        self.problems = problems
        self.market = _market(problems, values)
        self._cloud = values["dina_cloud"] == "on"
        self._name = name
        self._known: dict[tuple[str, frozenset[str]], Partition] = {}

    def partition(self, user: str, nodes: frozenset[str]) -> Partition:
        """The user's partition over some nodes; the one that would be best alone leads."""
        key = (user, nodes)
        if key not in self._known:
            order = sorted(nodes, key=lambda node: (self.alone_s(user, node), node)) if len(nodes) > 1 else list(nodes)
            self._known[key] = partition(self.problems[user], order, self._cloud, self._name)
        return self._known[key]

    def alone_s(self, user: str, node: str) -> float:
        """Expected seconds of the user's requests with a node to themselves."""
        return self.cost(user, {user: frozenset({node})})

    def cost(self, user: str, match: Match) -> float:
        """Expected seconds of a user's request: its own time and the wait for others."""
        return self.partition(user, match[user]).alone_s + self.queueing_s(user, match)

    def queueing_s(self, user: str, match: Match) -> float:
        """The longest expected wait at any of the nodes that the user computes on."""
        own = self.partition(user, match[user])
        return max((self._wait_s(user, node, match) for node in match[user] if own.busy_s.get(node, 0.0) > 0.0), default=0.0)

    def _wait_s(self, user: str, node: str, match: Match) -> float:
        work = {other: self.partition(other, held) for other, held in match.items() if node in held}
        busy = {other: found.busy_s.get(node, 0.0) for other, found in work.items()}
        rates = {other: self.problems[other].requests_per_s for other in busy}
        known = {other: rate for other, rate in rates.items() if rate is not None}
        if len(known) == len(busy):  # open arrivals: Pollaczek-Khinchine, the user's own earlier requests included
            load = sum(rate * busy[other] for other, rate in known.items())
            if load >= 1.0:
                return OVERLOADED_S * load
            return sum(rate * busy[other] ** 2 for other, rate in known.items()) / (2.0 * (1.0 - load))
        # one request a user: what is left of another's work where it is met, or the bound of a server that is never idle
        met = sum(busy[other] ** 2 / (2.0 * found.alone_s) for other, found in work.items() if other != user)
        return max(met, sum(busy.values()) - work[user].alone_s)

    def settle(self) -> Stable:
        """The stable matching."""
        return settle(self.market, self.alone_s, self.cost)


class Dina:
    """All devices at once; alone a device gets all fog nodes of its site."""

    name = "dina"

    def plan(self, problem: Problem) -> Decision:
        """The plan of a device that has the fog nodes to itself."""
        device = problem.hosts["device"]
        if not problem.leaders:  # nobody said what the network is like with another leader
            values = read(problem, self.name)
            nodes = (problem.hosts["edge"], *(node for node in problem.edge_hosts if node != problem.hosts["edge"]))
            plan = partition(problem, nodes, values["dina_cloud"] == "on", self.name).plan
            return Decision(plan, objective_s(problem, plan), frozenset(range(len(problem.graph))))
        return self.plan_jointly({device: problem})[device]

    def replan(self, problem: Problem, current: Plan, change: Change) -> Decision:
        """DINA has no partial form."""
        return self.plan(problem)

    def plan_jointly(self, problems: Mapping[str, Problem]) -> dict[str, Decision]:
        """Plans of all devices. Raises PlannerError."""
        groups: dict[frozenset[str], dict[str, Problem]] = {}
        for device, problem in problems.items():
            groups.setdefault(frozenset(_leaders(problem)), {})[device] = problem
        found: dict[str, Decision] = {}
        for group in groups.values():
            values = read(next(iter(group.values())), self.name)
            game = Game(group, values, self.name)
            stable = game.settle()
            for device in group:
                found[device] = self._decision(game, device, stable)
        return {device: found[device] for device in problems}

    def _decision(self, game: Game, device: str, stable: Stable) -> Decision:
        nodes = stable.match[device]
        plan = game.partition(device, nodes).plan
        notes = {
            "nodes": sorted(nodes),
            "expected_s": game.cost(device, stable.match),
            "queueing_s": game.queueing_s(device, stable.match),
            "proposals": stable.proposals,
            "swaps": stable.swaps,
            "rounds": stable.rounds,
        }
        problem = on_nodes(game.problems[device], (plan.hosts["edge"], *sorted(nodes - {plan.hosts["edge"]})))
        plan = replace(plan, notes=notes)
        return Decision(plan, objective_s(problem, plan), frozenset(range(len(problem.graph))))


def _leaders(problem: Problem) -> frozenset[str]:
    """The nodes of which it is known what the network is like when they lead."""
    return frozenset(problem.leaders) or frozenset({problem.hosts["edge"]})


def _market(problems: Mapping[str, Problem], values: Mapping[str, Any]) -> Market:
    """Pieces and quotas: nodes are shared out evenly, what is left over goes to whom it helps."""
    nodes = tuple(sorted(_leaders(next(iter(problems.values())))))
    users = len(problems)
    asked = int(values["dina_pieces"])
    wanted = min(asked or max(1, len(nodes) // users), len(nodes))
    most = wanted if asked else max(1, -(-len(nodes) // users))
    room = max(int(values["dina_quota"]) or -(-wanted * users // len(nodes)), -(-users // len(nodes)))
    return Market(
        nodes=dict.fromkeys(problems, nodes),
        wanted=dict.fromkeys(problems, wanted),
        most=dict.fromkeys(problems, most),
        quota=dict.fromkeys(nodes, room),
    )
