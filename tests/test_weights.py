"""Weights over the network: what has arrived computes, what has not is refused, every byte is accounted for; data both ways."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agent_rig import Rig, data_of, rig, three_way, timed
from orchestration import chain, costs, virtual

from d3node.channel import Message, Payload
from d3node.errors import ComputeError, PlanError, ProtocolError
from d3node.graph import LayerGraph, Parameter
from d3node.model import Model, ModelSpec, load_graph, load_model
from d3node.plan import Plan
from d3node.program import lower
from d3node.weights import PIECE_BYTES, chunk_bytes, make_chunk, parameters_of, read_chunk
from testbed.costs.network import NetworkState
from testbed.costs.network import Path as NetworkPath
from testbed.planners.base import Problem
from testbed.planners.evaluate import critical_path, objective_s

SMALL = "agent_models:small?input=1x3x64x64"


@pytest.fixture(scope="module")
def small() -> Model:
    return load_model(ModelSpec(SMALL))


def placed(graph: LayerGraph, on_server: set[int], epoch: int = 1, server: str = "cloud") -> Plan:
    """These vertices on the server, all others on the device."""
    tiers = tuple(server if v in on_server else "device" for v in range(len(graph)))
    hosts: Any = {"device": "d1", "edge": "e1", "cloud": "c1"}
    return Plan("test", graph.name, tiers, hosts, (), epoch, two_way=True)  # type: ignore[arg-type]


async def answer(agents: Rig, request: int, epoch: int) -> Message:
    await agents.remotes["d1"].tell("submit", request=request, epoch=epoch, input=3, deadline_s=20.0)
    return next(e for e in await agents.remotes["d1"].wait(request) if e.fields["request"] == request)


# -- chunks ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [SMALL, "model_blocks:Residual", "model_blocks:Pools"])
def test_the_size_of_a_chunk_is_known_without_weights(source: str) -> None:
    model = load_model(ModelSpec(source))
    everything = [(v,) for v in range(len(model.graph))] + [tuple(range(len(model.graph)))]
    for vertices in everything:
        parameters = parameters_of(model.graph, vertices)
        if parameters:
            assert len(make_chunk(model.program.constants, parameters)) == chunk_bytes(parameters), vertices
    assert all(sum(p.nbytes for p in vertex.parameters) == vertex.parameter_bytes for vertex in model.graph)


def test_chunk_sizes_are_right_for_every_type_and_for_the_large_models() -> None:
    import torch

    types = ("uint8", "int8", "int16", "float16", "bfloat16", "int32", "float32", "float64", "int64", "bool")
    tensors = {f"t{i}.{'x' * (i % 3)}": torch.ones((i + 1, 3), dtype=getattr(torch, name)) for i, name in enumerate(types * 2)}
    listed = [Parameter(k, str(t.dtype).removeprefix("torch."), tuple(t.shape), t.nbytes) for k, t in tensors.items()]
    assert len(make_chunk(tensors, listed)) == chunk_bytes(listed)
    for name in ("alexnet", "resnet18"):
        graph = load_graph(ModelSpec(name))
        everything = parameters_of(graph, range(len(graph)))
        overhead = chunk_bytes(everything) - sum(p.nbytes for p in everything)
        assert 0 < overhead < 200 * len(everything)


def test_a_chunk_is_read_back_to_the_bit_and_a_wrong_one_is_refused(small: Model) -> None:
    import torch

    parameters = parameters_of(small.graph, range(len(small.graph)))
    chunk = make_chunk(small.program.constants, parameters)
    found = read_chunk(chunk, parameters)
    assert found.keys() == {p.name for p in parameters}
    assert all(torch.equal(tensor, small.program.constants[name]) for name, tensor in found.items())
    assert all(tensor.data_ptr() % 64 == 0 for tensor in found.values())
    with pytest.raises(ProtocolError, match="other shapes than expected"):
        read_chunk(chunk, parameters[:-1])
    with pytest.raises(ProtocolError, match="not a safetensors file"):
        read_chunk(chunk[:-9] + b"", parameters)


# -- agents ------------------------------------------------------------------------------------------------------------------


def test_a_server_computes_with_what_has_arrived_and_answers_are_the_whole_models(small: Model, tmp_path: Path) -> None:
    """Vertex after vertex goes over; between any two uploads all that is there runs on the server, the rest on the device."""

    async def main() -> None:
        graph, name = small.graph, small.graph.name
        async with rig(tmp_path, {name: small}, ("d1", "e1", "c1")) as agents:
            await agents.configure(tensors="real", mode="measured")
            device, cloud = agents.remotes["d1"], agents.remotes["c1"]
            whole = await cloud.ask("whole", model=name, input=3)
            assert (await cloud.ask("hold", model=name, vertices=[])).kind == "ok"
            lost = await cloud.ask("whole", model=name, input=3)
            assert (lost.kind, lost.fields["error"]) == ("refused", "ComputeError")
            assert "not on this host" in lost.fields["text"]
            free = {v.index for v in graph if v.index and not v.parameters}
            weighty = [v.index for v in graph if v.parameters]
            order = random.Random(5).sample(weighty, len(weighty))
            there: set[int] = set()
            for epoch, vertex in enumerate(order, start=1):
                refused = await cloud.ask("install", **_timed(graph, placed(graph, there | {vertex}, 100 + epoch)))
                assert (refused.kind, refused.fields["error"]) == ("refused", "PlanError")
                assert f"does not hold the weights of {graph[vertex].name!r}" in refused.fields["text"]
                kept = await device.ask("upload", peer="c1", model=name, vertices=[vertex])
                assert kept.fields["vertices"] == [vertex]
                there.add(vertex)
                await agents.install(graph, placed(graph, there | free, epoch))
                assert data_of(await answer(agents, epoch, epoch)) == data_of(whole), there
            assert data_of(await cloud.ask("whole", model=name, input=3)) == data_of(whole)
            await cloud.ask("hold", model=name, vertices=[order[0]])
            refused = await cloud.ask("install", **_timed(graph, placed(graph, there, 200)))
            assert refused.kind == "refused"
            await cloud.ask("hold", model=name, vertices=None)
            assert (await cloud.ask("install", **_timed(graph, placed(graph, there, 201)))).kind == "ok"

    asyncio.run(main())


def _timed(graph: LayerGraph, plan: Plan) -> dict[str, Any]:
    return timed(graph, plan, 0.0)


def test_uploaded_bytes_are_parameter_bytes_and_stated_framing() -> None:
    """Per vertex one safetensors file in pieces of a mebibyte; per piece one message header, and one empty message at the end."""
    graph, name = load_graph(ModelSpec("alexnet")), "alexnet"
    weighty = [v.index for v in graph if v.parameters]

    async def main() -> None:
        async with rig(None, {name: graph}, ("d1", "e1", "c1")) as agents:
            await agents.configure()
            await agents.remotes["c1"].ask("hold", model=name, vertices=[])
            reply = await agents.remotes["d1"].ask("upload", peer="c1", model=name, vertices=weighty)
            assert reply.fields["vertices"] == weighty
            chunks = [chunk_bytes(parameters_of(graph, (v,))) for v in weighty]
            messages = sum(count for _, count in reply.fields["sizes"])
            total = sum(size * count for size, count in reply.fields["sizes"])
            assert messages == sum(-(-size // PIECE_BYTES) for size in chunks) + 1
            parameters = sum(graph[v].parameter_bytes for v in weighty)
            assert parameters < sum(chunks) < parameters + 250 * len(weighty)
            assert sum(chunks) < total < sum(chunks) + 160 * messages
            stats = await agents.remotes["d1"].ask("stats")
            assert stats.fields["bytes_sent"] >= total

    virtual(main())


def test_a_stopped_upload_accounts_for_what_was_sent_and_keeps_whole_chunks_only() -> None:
    graph = load_graph(ModelSpec("alexnet"))
    weighty = [v.index for v in graph if v.parameters]

    async def main() -> None:
        async with rig(None, {"alexnet": graph}, ("d1", "e1", "c1"), delay_s=0.001) as agents:
            await agents.configure()
            await agents.remotes["c1"].ask("hold", model="alexnet", vertices=[])
            device = agents.remotes["d1"]
            upload = asyncio.create_task(device.ask("upload", peer="c1", model="alexnet", vertices=weighty))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert (await device.ask("stop")).kind == "ok"
            reply = await upload
            kept = reply.fields["vertices"]
            assert kept == weighty[: len(kept)]
            assert len(kept) < len(weighty)
            for vertices, verdict in ((kept, "ok"), (weighty, "refused")):
                plan = placed(graph, set(vertices), 7)
                assert (await agents.remotes["c1"].ask("install", **_timed(graph, plan))).kind == verdict
            assert (await device.ask("stop")).kind == "ok"

    virtual(main())


def test_an_upload_that_is_ended_at_once_leaves_nothing_behind_and_requests_alone() -> None:
    """The server says what it holds; what it lacks comes on a new connection; `fresh` ends uploads, and takes nothing away."""
    graph = load_graph(ModelSpec("alexnet"))
    weighty = [v.index for v in graph if v.parameters]
    free = {v.index for v in graph if not v.parameters}

    async def main() -> None:
        async with rig(None, {"alexnet": graph}, ("d1", "e1", "c1"), delay_s=0.001) as agents:
            await agents.configure(recovery=True)
            device, server = agents.remotes["d1"], agents.remotes["c1"]

            async def held() -> set[int]:
                reply = await server.ask("hold", model="alexnet", vertices=[], keep=True)
                return set(reply.fields["vertices"]) - free

            assert await held() == set(), "one that has not been told before holds what it is told now"
            plan = placed(graph, set(), 1)
            for agent in (device, server):
                assert (await agent.ask("install", **_timed(graph, plan))).kind == "ok"
            for ending in ({"kind": "stop", "peer": "c1"}, {"kind": "configure", "fresh": True, "recovery": True}):
                upload = asyncio.create_task(device.ask("upload", peer="c1", model="alexnet", vertices=weighty))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                if ending.pop("kind") == "stop":
                    assert (await device.ask("stop", **ending)).kind == "ok"
                else:
                    await agents.configure(**ending)
                reply = await upload
                assert (reply.kind, reply.fields["error"]) == ("refused", "PeerLost")
            await asyncio.sleep(1.0)
            assert not [event for event in (*device.events, *server.events) if event.kind == "stranded"]
            before = await held()
            assert before < set(weighty)
            reply = await device.ask("upload", peer="c1", model="alexnet", vertices=sorted(set(weighty) - before))
            assert set(reply.fields["vertices"]) == set(weighty) - before
            assert await held() == set(weighty)

    virtual(main())


def test_pieces_that_do_not_fit_are_refused_and_the_connection_ends(small: Model, tmp_path: Path) -> None:
    graph, name = small.graph, small.graph.name
    vertex = next(v.index for v in graph if v.parameters)
    size = chunk_bytes(parameters_of(graph, (vertex,)))

    async def main() -> None:
        async with rig(tmp_path, {name: small}, ("d1", "e1", "c1")) as agents:
            await agents.configure(tensors="real", mode="measured")
            await agents.remotes["c1"].ask("hold", model=name, vertices=[])
            data = memoryview(bytes(8))
            wrong: list[tuple[dict[str, Any], int]] = [
                ({"offset": 8}, 8),
                ({"vertex": len(graph)}, 8),
                ({"model": "nobody"}, 8),
                ({}, size + 1),
            ]
            for change, nbytes in wrong:
                channel = await agents.transport.connect(agents.addresses["c1"])
                await channel.send(Message("hello", {"host": "d1"}))
                fields = {"id": 1, "model": name, "vertex": vertex, "offset": 0, "size": size, "last": False, **change}
                payload = Payload("uint8", (nbytes,), nbytes, memoryview(bytes(nbytes)) if nbytes > 8 else data)
                await channel.send(Message("weights", fields, (payload,)))
                last = await channel.receive()
                assert (last.kind, last.fields["error"]) == ("refused", "ProtocolError"), change
                channel.abort()
            # a whole chunk of rubbish is not kept, and harms nobody
            channel = await agents.transport.connect(agents.addresses["c1"])
            await channel.send(Message("hello", {"host": "d1"}))
            fields = {"id": 9, "model": name, "vertex": vertex, "offset": 0, "size": size, "last": False}
            await channel.send(Message("weights", fields, (Payload("uint8", (size,), size, memoryview(bytes(size))),)))
            refused = await agents.remotes["c1"].ask("install", **_timed(graph, placed(graph, {vertex}, 3)))
            assert refused.kind == "refused"
            channel.abort()

    asyncio.run(main())


def test_an_upload_to_a_host_that_dies_is_refused(small: Model, tmp_path: Path) -> None:
    async def main() -> None:
        name = small.graph.name
        weighty = [v.index for v in small.graph if v.parameters]
        async with rig(tmp_path, {name: small}, ("d1", "e1", "c1")) as agents:
            await agents.configure(tensors="real", mode="measured")
            await agents.kill("c1")
            reply = await agents.remotes["d1"].ask("upload", peer="c1", model=name, vertices=weighty)
            assert (reply.kind, reply.fields["error"]) == ("refused", "PeerLost")
            reply = await agents.remotes["d1"].ask("upload", peer="nobody", model=name, vertices=weighty)
            assert (reply.kind, reply.fields["error"]) == ("refused", "PlanError")

    asyncio.run(main())


def test_a_model_with_missing_weights_says_so(small: Model) -> None:
    from d3node.weights import _with_constants

    bare = _with_constants(small, {})
    with pytest.raises(ComputeError, match="are not on this host"):
        bare.whole(small.input_of(small.image(1)))
    assert bare.normalisation == small.normalisation


# -- data both ways ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["cloud", "edge"])
@pytest.mark.parametrize("route", ["relay", "direct"])
def test_any_placement_on_two_tiers_gives_the_whole_models_answer(small: Model, server: str, route: str, tmp_path: Path) -> None:
    """Also such that the work changes sides again and again."""

    async def main() -> None:
        graph, name = small.graph, small.graph.name
        rng = random.Random(f"{server}{route}")
        async with rig(tmp_path, {name: small}, ("d1", "e1", "c1")) as agents:
            await agents.configure(tensors="real", mode="measured", route=route)
            whole = await agents.remotes["c1"].ask("whole", model=name, input=3)
            for epoch in range(1, 13):
                plan = placed(graph, {v for v in range(1, len(graph)) if rng.random() < 0.5}, epoch, server)
                steps = {tier: [0.0] * len(p.steps) for tier, p in lower(graph, plan, route).items()}  # type: ignore[arg-type]
                for remote in agents.remotes.values():
                    reply = await remote.ask("install", plan=plan.to_dict(), steps_s=steps, tiles_s=[])
                    assert reply.kind == "ok", reply
                done = await answer(agents, epoch, epoch)
                assert done.kind == "done", done.fields
                assert data_of(done) == data_of(whole), plan.tiers

    asyncio.run(main())


def test_only_a_plan_that_says_so_may_send_data_back_and_only_on_two_tiers() -> None:
    graph = chain(6)
    both = placed(graph, {1, 2})
    both.check(graph)
    with pytest.raises(PlanError, match="only flow device"):
        replace(both, two_way=False).check(graph)
    three = three_way(graph)
    with pytest.raises(PlanError, match="one other tier"):
        replace(three, two_way=True).check(graph)
    assert Plan.from_json(both.to_json()) == both


def test_a_tensor_that_comes_back_too_late_harms_nobody(small: Model) -> None:
    """The request's deadline passes while the server still works; its tensor comes back, and the next request is answered."""
    graph = small.graph
    name = graph.name

    async def main() -> None:
        async with rig(None, {name: graph}, ("d1", "e1", "c1"), delay_s=0.01) as agents:
            await agents.configure()
            plan = placed(graph, {1})
            await agents.install(graph, plan, 0.05)
            device = agents.remotes["d1"]
            await device.tell("submit", request=1, epoch=1, input=3, deadline_s=0.04)
            await device.tell("submit", request=2, epoch=1, input=3, deadline_s=5.0)
            ends = await device.wait(2)
            assert [(e.kind, e.fields["request"]) for e in ends] == [("failed", 1), ("done", 2)]
            stats = await device.ask("stats")
            assert stats.fields["parked"] == 0

    virtual(main())


def test_the_predicted_path_of_a_two_way_plan_adds_up() -> None:
    """A chain that goes over, comes back and goes over again: nothing overlaps, so latency is the sum of all its parts."""
    graph = chain(6)
    network = NetworkState(NetworkPath(50e6, 0.002), NetworkPath(20e6, 0.01), NetworkPath(20e6, 0.012), {}, "direct")
    problem = Problem(graph, costs(graph), network, {"device": "d1", "edge": "e1", "cloud": "c1"}, ("e1",))
    plan = placed(graph, {2, 3, 5, 6})
    move = network.device_cloud.transfer_s
    tensor = graph[1].output_bytes
    expected = 2 * 0.04 + 4 * 0.001 + 4 * move(tensor)
    assert critical_path(problem, plan).latency_s == pytest.approx(expected)
    assert objective_s(problem, plan) == pytest.approx(expected - move(tensor))  # the answer's way is not in the objective
    relayed = replace(problem, network=replace(network, route="relay"))
    hop = network.device_edge.transfer_s(tensor) + network.edge_cloud.transfer_s(tensor)
    assert critical_path(relayed, plan).latency_s == pytest.approx(expected + 2 * (hop - move(tensor)))
