"""Requests wait where they come from when a host has as many in hand as it takes: it stays bounded, and no two wait for each
other."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from agent_rig import LIMITS, SECRET, Rig, chain, rig, three_way, tiled, timed
from test_agent_exits import CHAIN as EXITS
from test_agent_exits import VIEWS, joined, passing
from test_resume_plans import dag, placed
from tile_rig import fetched, handed_over

from d3node.agent import AgentConfig
from d3node.channel import Channel, Message
from d3node.clock import VirtualLoop, run
from d3node.graph import LayerGraph
from d3node.install import compile_epoch
from d3node.plan import Plan, Tier
from d3node.program import Route, lower_all
from d3node.request import Request
from d3node.requests import Requests
from d3node.tcp import TcpTransport
from d3node.windows import Windows

GRAPH = chain(7, size=32)
NAMES = ("d1", "d2", "e1", "e2", "c1")
TIERS: dict[str, Tier] = {"d": "device", "e": "edge", "c": "cloud"}
HIGHER = {"d": ("e", "c"), "e": ("c",), "c": ()}


@pytest.fixture
def peaks(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """By host, the most parts of requests that it had in hand as a leader at any time."""
    found: dict[str, int] = defaultdict(int)
    register = Requests.register

    def counted(self: Requests, table: Any, request: Request) -> None:
        register(self, table, request)
        found[self.name] = max(found[self.name], len(self.leads))

    monkeypatch.setattr(Requests, "register", counted)
    return found


def simulate(test: Callable[[Rig], Awaitable[None]], *graphs: LayerGraph, names: tuple[str, ...] = NAMES) -> None:
    async def main() -> None:
        models = {graph.name: graph for graph in graphs or (GRAPH,)}
        async with rig(None, models, names, 0.01, inline_compute=True, tensors="sizes") as agents:
            await test(agents)

    run(VirtualLoop(), main())


async def configure(agents: Rig, window: int, only: tuple[str, ...] = (), **more: Any) -> None:
    """Every host takes so many requests of each host below it at a time."""
    for name, remote in agents.remotes.items():
        limits = {peer: window for peer in agents.addresses if peer[0] in HIGHER[name[0]] and peer in (only or agents.addresses)}
        fields = {"peers": agents.addresses, "mode": "modelled", "tensors": "sizes", "windows": limits, **more}
        assert (await remote.ask("configure", **fields)).kind == "ok"


async def install(agents: Rig, graph: LayerGraph, plan: Plan, seconds: float, route: Route = "relay") -> None:
    steps = {p.tier: [seconds] * len(p.steps) for p in lower_all(graph, plan, route)}
    steps |= {p.host: [seconds] * len(p.steps) for p in lower_all(graph, plan, route) if p.host not in plan.hosts.values()}
    tiles = [[seconds] * len(stack.tiles) for stack in plan.stacks]
    hosts = [{tile.host for tile in stack.tiles} for stack in plan.stacks]
    rates = [{h: [[seconds, 0.0]] * len(s.vertices) for h in on} for on, s in zip(hosts, plan.stacks, strict=True)]
    fields = {"plan": plan.to_dict(), "steps_s": steps, "tiles_s": tiles, "vertices_s": rates, "route": route, "seed": 1}
    for name in sorted({p.host for p in lower_all(graph, plan, route)} | set().union(*hosts)):
        reply = await agents.remotes[name].ask("install", **fields)
        assert reply.kind == "ok", reply


async def submit(agents: Rig, device: str, request: int, epoch: int = 1, deadline_s: float = 10_000.0) -> None:
    await agents.remotes[device].tell("submit", request=request, epoch=epoch, input=0, deadline_s=deadline_s)


async def ends(agents: Rig, device: str, count: int) -> list[Message]:
    """Ends of requests, waited for in virtual time; a deadlock shows as requests that end with DeadlineExceeded."""
    remote = agents.remotes[device]
    while len(found := [e for e in remote.events if e.kind in ("done", "failed")]) < count:
        await asyncio.sleep(1.0)
    return found


async def nothing_is_left(agents: Rig) -> None:
    await asyncio.sleep(20)
    for name, remote in agents.remotes.items():
        figures = (await remote.ask("stats")).fields
        assert [figures[key] for key in ("active", "queued", "parked", "waiting")] == [0] * 4, (name, figures)


# -- bounded -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 2, 5])
def test_what_a_slow_edge_has_no_room_for_waits_on_the_device(window: int, peaks: dict[str, int]) -> None:
    async def test(agents: Rig) -> None:
        await configure(agents, window)
        await install(agents, GRAPH, three_way(GRAPH, 1, 1, 7), 1.0)
        for request in range(30):
            await submit(agents, "d1", request)
        await asyncio.sleep(5)
        assert (await agents.remotes["d1"].ask("stats")).fields["waiting"] >= 30 - 5 - window
        done = await ends(agents, "d1", 30)
        assert [e.fields["request"] for e in done] == list(range(30))  # in order
        assert {e.kind for e in done} == {"done"}
        assert peaks["e1"] == window
        await nothing_is_left(agents)

    simulate(test)


def test_the_window_of_a_slow_cloud_reaches_back_to_the_device(peaks: dict[str, int]) -> None:
    async def test(agents: Rig) -> None:
        await configure(agents, 3)
        for epoch, device in enumerate(("d1", "d2"), 1):
            plan = three_way(GRAPH, epoch, 2, 4, device)
            await install(agents, GRAPH, plan, 0.01)
        await agents.remotes["c1"].tell("share", cpu_share=0.001)
        for request in range(40):
            await submit(agents, "d1", request, 1)
            await submit(agents, "d2", 100 + request, 2)
        assert {e.kind for d in ("d1", "d2") for e in await ends(agents, d, 40)} == {"done"}
        assert peaks["c1"] == 3  # of one sender, the edge
        assert peaks["e1"] == 6  # of two devices
        await nothing_is_left(agents)

    simulate(test)


def test_without_windows_everything_is_taken_at_once_and_messages_are_as_ever(peaks: dict[str, int]) -> None:
    sent: dict[bool, list[int]] = {}

    async def test(agents: Rig, window: int | None) -> None:
        await (agents.configure() if window is None else configure(agents, window))
        await install(agents, GRAPH, three_way(GRAPH, 1, 1, 7), 1.0)
        for request in range(20):
            await submit(agents, "d1", request)
        await ends(agents, "d1", 20)
        sent[window is None] = [(await agents.remotes[n].ask("stats")).fields["bytes_sent"] for n in NAMES]

    for window in (None, 100):
        simulate(lambda agents, window=window: test(agents, window))
    assert peaks["e1"] == 20
    word, mark = len(b"opens") + 2, sent[False][2] - sent[True][2]
    assert sent[False][0] - sent[True][0] == 20 * word
    assert mark > 0  # as many words that there is room
    assert sent[False][1] == sent[True][1]


def test_over_sockets_too(tmp_path: Path, peaks: dict[str, int]) -> None:
    async def main() -> None:
        transport = TcpTransport(SECRET, limits=LIMITS, sizes=True)
        async with rig(tmp_path, {GRAPH.name: GRAPH}, ("d1", "e1", "c1"), transport=transport, tensors="sizes") as agents:
            await configure(agents, 2)
            await install(agents, GRAPH, three_way(GRAPH, 1, 2, 4), 0.002)
            for request in range(60):
                await submit(agents, "d1", request)
            done = await agents.remotes["d1"].wait(60)
            assert {e.kind for e in done} == {"done"}
            assert peaks["e1"] <= 2
            assert peaks["c1"] <= 2
            figures = [(await remote.ask("stats")).fields for remote in agents.remotes.values()]
            for key in ("active", "waiting"):
                assert [f[key] for f in figures] == [0, 0, 0]

    asyncio.run(main())


# -- no two wait for one another ---------------------------------------------------------------------------------------------


def drawn(seed: int) -> list[tuple[LayerGraph, Plan, Route]]:
    """Random plans for two devices and two leaders, one way or two ways, by random routes."""
    rng = random.Random(seed)
    found: list[tuple[LayerGraph, Plan, Route]] = []
    for epoch in range(1, 5):
        device, leader = rng.choice(("d1", "d2")), rng.choice(("e1", "e2"))
        hosts: Any = {"device": device, "edge": leader, "cloud": "c1"}
        route: Route = rng.choice(("relay", "direct"))
        graph = dag(rng.randrange(1000), rng.randint(3, 9))
        plan = placed(graph, rng.randrange(1000))
        if rng.random() < 0.3:
            higher = rng.choice(("edge", "cloud"))
            tiers = ("device", *(rng.choice(("device", higher)) for _ in range(len(graph) - 1)))
            plan = replace(plan, tiers=tiers, two_way=True)
            route = "direct"
        found.append((replace(graph, name=f"g{epoch}"), replace(plan, model=f"g{epoch}", hosts=hosts, epoch=epoch), route))
    return found


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("seed", range(40))
def test_random_plans_of_several_devices_at_once_all_end(seed: int, window: int) -> None:
    plans = drawn(seed)

    async def test(agents: Rig) -> None:
        await configure(agents, window)
        rng = random.Random(seed)
        for graph, plan, route in plans:
            await install(agents, graph, plan, rng.choice((0.01, 0.1, 1.0)), route)
        asked = {"d1": 0, "d2": 0}
        for request in range(60):
            _, plan, _ = plans[request % len(plans)]
            asked[plan.hosts["device"]] += 1
            await submit(agents, plan.hosts["device"], request, plan.epoch)
        for device, count in asked.items():
            assert {e.kind for e in await ends(agents, device, count)} <= {"done"}
        await nothing_is_left(agents)

    simulate(test, *(graph for graph, _, _ in plans))


def tiles(kind: str, epoch: int, device: str, leader: str, others: tuple[str, ...]) -> Plan:
    hosts = (leader, *others)
    if kind == "tiles":
        plan = tiled(GRAPH, (2, 3, 4), hosts, epoch, device=2)
    elif kind == "stealing":
        plan = fetched(GRAPH, (2, 3, 4), hosts, (3, 2), epoch, stealing=True)
    else:
        plan = handed_over(GRAPH, (2, 3, 4), dict.fromkeys(hosts, 1.0), "relay" if kind == "borders" else "neighbours", epoch)
    return replace(plan, hosts={"device": device, "edge": leader, "cloud": "c1"})  # type: ignore[arg-type]


@pytest.mark.parametrize("first", ["tiles", "stealing", "borders", "neighbours"])
@pytest.mark.parametrize("second", ["tiles", "stealing", "borders", "neighbours"])
def test_two_leaders_that_compute_tiles_for_each_other_never_wait_for_each_other(
    first: str, second: str, peaks: dict[str, int]
) -> None:
    async def test(agents: Rig) -> None:
        await configure(agents, 1)
        await install(agents, GRAPH, tiles(first, 1, "d1", "e1", ("e2",)), 0.3)
        await install(agents, GRAPH, tiles(second, 2, "d2", "e2", ("e1",)), 0.2)
        for request in range(25):
            await submit(agents, "d1", request, 1)
            await submit(agents, "d2", 100 + request, 2)
        assert {e.kind for d in ("d1", "d2") for e in await ends(agents, d, 25)} == {"done"}
        assert peaks["e1"] == peaks["e2"] == 1
        assert peaks["c1"] <= 2
        await nothing_is_left(agents)

    simulate(test)


def test_requests_with_exits_all_end(peaks: dict[str, int]) -> None:
    async def test(agents: Rig) -> None:
        await configure(agents, 1)
        await install(agents, EXITS, passing((0.3, 0.5)), 0.5)
        for request in range(40):
            await submit(agents, "d1", request)
        done = await ends(agents, "d1", 40)
        assert {e.kind for e in done} == {"done"}
        assert {e.fields["exit"] for e in done} == {0, 1, 2}
        assert peaks["e1"] == peaks["c1"] == 1
        await nothing_is_left(agents)

    simulate(test, EXITS, names=("d1", "e1", "c1"))


def test_views_of_each_other_s_devices_are_not_waited_for(peaks: dict[str, int]) -> None:
    """Each of two devices contributes to the other's requests: with windows for them, each could wait for the other's."""

    async def test(agents: Rig) -> None:
        await configure(agents, 1)
        there = joined(0.5, patience_s=None)
        back = replace(there, epoch=2, hosts={**there.hosts, "device": "d2"}, placed=((2, "d1"), (4, "d1")))
        for plan in (there, back):
            await install(agents, VIEWS, plan, 0.1)
        for request in range(20):
            for device, epoch in (("d1", 1), ("d2", 2), ("d1", 2), ("d2", 1)):
                await submit(agents, device, request, epoch)
        assert {e.kind for d in ("d1", "d2") for e in await ends(agents, d, 20)} == {"done"}
        await nothing_is_left(agents)

    simulate(test, VIEWS)


def test_one_host_opens_a_request_on_each_other() -> None:
    """By the direct route device and edge both send to the cloud; only the edge, which comes last, waits for room there."""
    graph = dag(3)
    hosts: Any = {"device": "d1", "edge": "e1", "cloud": "c1"}
    for seed in range(200):
        plan = replace(placed(graph, seed), hosts=hosts)
        for route in ("relay", "direct"):
            programs = lower_all(graph, plan, route)  # type: ignore[arg-type]
            openers: dict[str, list[str]] = defaultdict(list)
            for program in programs:
                epoch = compile_epoch(
                    plan,
                    graph,
                    program.host,
                    route=route,
                    encoding="float32",
                    steps_s=None,
                    tiles_s=None,  # type: ignore[arg-type]
                )
                for host in epoch.doors:
                    openers[host].append(program.host)
            assert {host: len(found) for host, found in openers.items()} == {p.host: 1 for p in programs if p.tier != "device"}
            if sum(send.host == "c1" for p in programs if p.host == "e1" for send in p.sends):
                assert openers["c1"] == ["e1"]


# -- what goes wrong ---------------------------------------------------------------------------------------------------------


def test_a_request_that_ends_while_it_waits_leaves_its_place_and_was_never_sent(peaks: dict[str, int]) -> None:
    async def test(agents: Rig) -> None:
        await configure(agents, 1)
        await install(agents, GRAPH, three_way(GRAPH, 1, 1, 7), 10.0)
        for request, deadline_s in enumerate((100.0, 5.0, 100.0)):
            await submit(agents, "d1", request, deadline_s=deadline_s)
        late, first, last = await ends(agents, "d1", 3)
        assert (late.kind, late.fields["error"], late.fields["request"]) == ("failed", "DeadlineExceeded", 1)
        assert [(e.kind, e.fields["request"]) for e in (first, last)] == [("done", 0), ("done", 2)]
        assert sum(e.kind == "report" for e in agents.remotes["e1"].events) == 2
        await nothing_is_left(agents)

    simulate(test)


def test_a_request_that_is_turned_away_gives_its_room_back() -> None:
    """Its plan never comes: after ten seconds the edge says so, and the next one takes its place."""

    async def test(agents: Rig) -> None:
        await configure(agents, 1)
        plan = three_way(GRAPH, 1, 1, 7)
        for name in ("d1", "c1"):
            assert (await agents.remotes[name].ask("install", **timed(GRAPH, plan, 0.1))).kind == "ok"
        for request in range(3):
            await submit(agents, "d1", request)
        failed = await ends(agents, "d1", 3)
        assert {(e.kind, e.fields["error"]) for e in failed} == {("failed", "PlanError")}
        assert (await agents.remotes["e1"].ask("install", **timed(GRAPH, plan, 0.1))).kind == "ok"
        await submit(agents, "d1", 9)
        assert (await ends(agents, "d1", 4))[-1].kind == "done"
        await nothing_is_left(agents)

    simulate(test)


def test_a_cancelled_request_gives_its_room_back_whatever_overtakes_what() -> None:
    async def test(agents: Rig) -> None:
        await configure(agents, 1)
        await install(agents, GRAPH, three_way(GRAPH, 1, 2, 4), 1.0)
        for request in range(20):
            await submit(agents, "d1", request, deadline_s=2.0 + request * 0.37)
        await ends(agents, "d1", 20)
        await submit(agents, "d1", 99)
        assert (await ends(agents, "d1", 21))[-1].kind == "done"
        await nothing_is_left(agents)

    simulate(test)


@pytest.mark.parametrize("lost", ["e1", "c1"])
@pytest.mark.parametrize("recovery", [False, True])
def test_a_host_that_dies_with_a_full_window_holds_nobody_up(lost: str, recovery: bool) -> None:
    async def test(agents: Rig) -> None:
        await configure(agents, 1, recovery=recovery)
        await install(agents, GRAPH, three_way(GRAPH, 1, 2, 4), 1.0)
        for request in range(12):
            await submit(agents, "d1", request, deadline_s=40.0)
        await asyncio.sleep(3.5)
        await agents.kill(lost)
        found = await ends(agents, "d1", 12)
        assert {e.fields.get("error") for e in found} <= {None, "PeerLost", "DeadlineExceeded"}
        agents.remotes.pop(lost)
        await agents.start(AgentConfig(name=lost, tier=TIERS[lost[0]], inline_compute=True, tensors="sizes"), {GRAPH.name: GRAPH})
        await configure(agents, 1, recovery=recovery)
        await install(agents, GRAPH, three_way(GRAPH, 2, 2, 4), 1.0)
        for request in range(20, 28):
            await submit(agents, "d1", request, 2)
        assert [e.kind for e in (await ends(agents, "d1", 20))[12:]] == ["done"] * 8
        await nothing_is_left(agents)

    simulate(test)


def test_a_host_that_begins_anew_lets_those_below_it_know() -> None:
    async def test(agents: Rig) -> None:
        await configure(agents, 1, recovery=True)
        await install(agents, GRAPH, three_way(GRAPH, 1, 1, 7), 5.0)
        for request in range(3):
            await submit(agents, "d1", request, deadline_s=60.0)
        await asyncio.sleep(1)
        fields = {"peers": agents.addresses, "mode": "modelled", "tensors": "sizes", "fresh": True, "recovery": True}
        assert (await agents.remotes["e1"].ask("configure", **fields)).kind == "ok"
        await install(agents, GRAPH, three_way(GRAPH, 2, 1, 7), 5.0)
        await submit(agents, "d1", 9, 2)
        while not any(e.kind == "done" and e.fields["request"] == 9 for e in agents.remotes["d1"].events):
            await asyncio.sleep(1.0)

    simulate(test)


def test_a_host_that_begins_anew_gives_the_room_of_tensors_that_came_before_their_plan() -> None:
    async def test(agents: Rig) -> None:
        await configure(agents, 1)
        plan = three_way(GRAPH, 1, 1, 7)
        for name in ("d1", "c1"):
            assert (await agents.remotes[name].ask("install", **timed(GRAPH, plan, 0.1))).kind == "ok"
        await submit(agents, "d1", 0, deadline_s=5.0)
        await submit(agents, "d1", 1, deadline_s=50.0)
        await asyncio.sleep(1)
        fields = {"peers": agents.addresses, "mode": "modelled", "tensors": "sizes", "fresh": True}
        assert (await agents.remotes["e1"].ask("configure", **fields)).kind == "ok"
        assert (await agents.remotes["e1"].ask("install", **timed(GRAPH, plan, 0.1))).kind == "ok"
        late, done = sorted(await ends(agents, "d1", 2), key=lambda e: e.fields["request"])
        assert (late.kind, done.kind) == ("failed", "done")
        await nothing_is_left(agents)

    simulate(test)


class Lead:
    """A request as `Windows` sees it."""

    def __init__(self, request: int, *doors: str) -> None:
        self.key = (1, request)
        self.epoch = SimpleNamespace(doors=doors, below=frozenset({"d1"}))
        self.let_in = self.ended = False
        self.sizes: list[int] = []

    def sent(self, wire_bytes: int) -> None:
        self.sizes.append(wire_bytes)


class Posts:
    """Windows, and what they have let through."""

    def __init__(self, **limits: int) -> None:
        self.posted: list[tuple[str, int, bool, Any]] = []
        self.windows = Windows(self.keep)
        self.windows.configure(limits)

    def keep(self, host: str, message: Message, sender: Any) -> None:
        self.posted.append((host, message.fields["request"], "opens" in message.fields, sender))

    def send(self, host: str, lead: Lead, kind: str = "tensor") -> None:
        self.windows.post(host, Message(kind, {"request": lead.key[1], "epoch": 1}), lead)  # type: ignore[arg-type]

    def take(self) -> list[tuple[str, int, bool]]:
        found = [post[:3] for post in self.posted]
        self.posted.clear()
        return found


def test_a_request_opens_each_host_with_its_first_tensor_and_in_its_turn() -> None:
    posts = Posts(e1=1, c1=2)
    first, second, third = Lead(1, "e1", "c1"), Lead(2, "c1"), Lead(3, "e1")
    for lead in (first, second, third):
        for host in (*lead.epoch.doors, *lead.epoch.doors):
            posts.send(host, lead)
    sent = [("e1", 1, True), ("c1", 1, True), ("e1", 1, False), ("c1", 1, False), ("c1", 2, True), ("c1", 2, False)]
    assert posts.take() == sent
    posts.send("d1", third)
    posts.send("e2", third, "tile")
    assert posts.take() == [("d1", 3, False), ("e2", 3, False)]  # what others wait for is never kept back
    assert len(posts.windows) == 1
    fourth, fifth = Lead(4, "e1", "c1"), Lead(5, "c1")
    posts.send("c1", fourth)
    posts.send("c1", fifth)
    posts.windows.room("c1", (1, 1))
    assert posts.take() == []  # there is room for the fifth, but it does not overtake the fourth
    posts.windows.room("e1", (1, 1))
    assert posts.take() == [("e1", 3, True), ("e1", 3, False)]
    posts.windows.room("e1", (1, 3))
    assert posts.take() == [("c1", 4, True)]
    posts.windows.room("c1", (1, 2))
    posts.windows.room("c1", (1, 2))  # said twice, counted once
    assert posts.take() == [("c1", 5, True)]
    posts.send("e1", fourth)  # there was room for it all the time
    assert posts.take() == [("e1", 4, True)]


def test_room_of_what_never_left_is_free_again_and_of_what_has_left_is_not() -> None:
    posts = Posts(e1=1)
    first, second, third = (Lead(request, "e1") for request in (1, 2, 3))
    posts.send("e1", first)
    posts.send("e1", second)
    ((*_, opening),) = posts.posted
    assert not opening.ended
    first.ended = True
    assert opening.ended  # so that it is dropped where it waits to be written
    posts.windows.ended(first)  # type: ignore[arg-type]
    assert [post[1] for post in posts.posted] == [1, 2]
    posts.posted[1][3].sent(100)
    assert second.sizes == [100]
    posts.send("e1", third)
    posts.windows.ended(second)  # type: ignore[arg-type]
    assert len(posts.windows) == 1
    posts.windows.lost("e1")
    assert [post[1] for post in posts.posted] == [1, 2, 3]
    assert len(posts.windows) == 0


@pytest.mark.parametrize("windows", [{"e1": 0}, {"e1": True}, {"e1": "many"}, [1], {"e1": 1.5}])
def test_windows_that_make_no_sense_are_refused(windows: object) -> None:
    async def test(agents: Rig) -> None:
        fields = {"peers": agents.addresses, "mode": "modelled", "tensors": "sizes", "windows": windows}
        reply = await agents.remotes["d1"].ask("configure", **fields)
        assert reply.kind == "refused"
        assert "a whole number from 1 on is needed for each host" in reply.fields["text"]

    simulate(test)


def test_words_of_room_that_make_no_sense_end_the_connection_and_nothing_else() -> None:
    opened: list[Message] = []

    async def impostor(channel: Channel) -> None:
        assert (await channel.receive()).kind == "hello"
        for request in (0, 1):
            opened.append(await channel.receive())
            await channel.send(Message("room", {"epoch": 1, "request": 77 + request}))  # nobody asked: nothing changes
            await channel.send(Message("room", {"epoch": 1, "request": request}))
        opened.append(await channel.receive())
        await channel.send(Message("room", {"request": []}))
        await asyncio.sleep(100)

    async def test(agents: Rig) -> None:
        agents.addresses["e1"] = "memory:impostor"
        await agents.transport.listen("memory:impostor", impostor)
        await configure(agents, 1)
        plan = three_way(GRAPH, 1, 1, 7)
        assert (await agents.remotes["d1"].ask("install", **timed(GRAPH, plan, 0.1))).kind == "ok"
        for request in range(4):
            await submit(agents, "d1", request)
        failed = await ends(agents, "d1", 4)
        assert {e.fields["error"] for e in failed} == {"PeerLost"}
        assert "'room' message needs a field" in failed[0].fields["text"]
        assert [m.fields["request"] for m in opened[:3]] == [0, 1, 2]
        assert all(m.fields["opens"] for m in opened)

    simulate(test, names=("d1", "c1"))
