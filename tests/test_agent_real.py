"""The agent with real tensors on the real clock: answers equal the whole model's, compute takes the time that it should."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from agent_rig import SECRET, Remote, Rig, data_of, rig, three_way, tiled

from d3node.agent import AgentConfig
from d3node.channel import Message
from d3node.errors import ChannelError
from d3node.graph import LayerGraph
from d3node.model import Model, ModelSpec, load_graph, load_model
from d3node.tcp import TcpTransport

SMALL = "agent_models:small?input=1x3x64x64"
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def small() -> Model:
    return load_model(ModelSpec(SMALL))


async def answer(agents: Rig, request: int, epoch: int, seed: int = 3) -> Message:
    remote = agents.remotes["d1"]
    await remote.tell("submit", request=request, epoch=epoch, input=seed, deadline_s=DEADLINE_S)
    while True:
        found = [e for e in await remote.wait() if e.fields["request"] == request]
        if found:
            assert found[0].kind == "done", found[0].fields
            return found[0]
        await asyncio.sleep(0.001)


def same_within(a: Message, b: Message, tolerance: float) -> bool:
    x, y = (np.frombuffer(data_of(m)[0], np.float32) for m in (a, b))
    return bool(np.abs(x - y).max() <= tolerance * np.abs(y).max())


def spatial_stack(graph: LayerGraph) -> tuple[int, ...]:
    """The longest run of tileable vertices from the first on."""
    return tuple(itertools.takewhile(lambda v: graph[v].spatial is not None, range(1, len(graph))))


@pytest.mark.parametrize("encoding", ["float32", "uint8"])
def test_every_cut_gives_the_whole_models_answer_to_the_bit(small: Model, encoding: str, tmp_path: Path) -> None:
    async def main() -> None:
        graph = small.graph
        async with rig(tmp_path, {graph.name: small}) as agents:
            await agents.configure(tensors="real", mode="measured", input_encoding=encoding)
            whole = await agents.remotes["c1"].ask("whole", model=graph.name, input=3)
            cuts = [(a, b) for a in range(1, len(graph) + 1) for b in range(a, len(graph) + 1)]
            for epoch, (a, b) in enumerate(cuts, start=1):
                await agents.install(graph, three_way(graph, epoch, a, b))
                assert data_of(await answer(agents, epoch, epoch)) == data_of(whole), (a, b)

    asyncio.run(main())


@pytest.mark.parametrize("encoding", ["float32", "uint8"])
def test_tiles_over_three_hosts_give_the_whole_models_answer(small: Model, encoding: str, tmp_path: Path) -> None:
    async def main() -> None:
        graph = small.graph
        vertices = spatial_stack(graph)
        assert len(vertices) >= 4
        async with rig(tmp_path, {graph.name: small}, ("d1", "e1", "e2", "e3", "c1")) as agents:
            await agents.configure(tensors="real", mode="measured", input_encoding=encoding)
            whole = await agents.remotes["c1"].ask("whole", model=graph.name, input=3)
            for epoch, count in enumerate(range(1, 4), start=1):
                await agents.install(graph, tiled(graph, vertices, ("e1", "e2", "e3")[:count], epoch))
                assert same_within(await answer(agents, epoch, epoch), whole, 1e-5)

    asyncio.run(main())


def test_modelled_compute_lasts_as_long_as_modelled_and_overruns_are_recorded(small: Model, tmp_path: Path) -> None:
    async def main() -> None:
        graph = small.graph
        async with rig(tmp_path, {graph.name: small}) as agents:
            await agents.configure(tensors="real", mode="modelled")
            await agents.install(graph, three_way(graph, 1, len(graph), len(graph)), 1.0)
            await agents.install(graph, three_way(graph, 2, len(graph), len(graph)), 1e-6)
            for epoch in (1, 2):
                await answer(agents, epoch, epoch)
            slow, fast = (e.fields["records"][0] for e in await agents.remotes["d1"].wait(2, ["report"]))
            assert slow["end"] - slow["start"] >= 1.0
            assert slow["overrun_s"] == 0.0
            assert fast["end"] - fast["start"] == pytest.approx(fast["overrun_s"] + 1e-6, abs=1e-4)
            figures = (await agents.remotes["d1"].ask("stats")).fields
            assert figures["overruns"] == 1
            assert figures["lag_p99_s"] is not None
            assert figures["resident_bytes"] > 1 << 20

    asyncio.run(main())


def test_work_that_fails_ends_its_request_with_the_reason(small: Model, tmp_path: Path) -> None:
    class Broken:
        graph = small.graph
        image, input_of, whole = small.image, small.input_of, small.whole

        def run_part(self, *_: object) -> None:
            raise RuntimeError("the accelerator is on fire")

    async def main() -> None:
        async with rig(tmp_path, {small.graph.name: small}, ("d1",)) as agents:
            await agents.start(AgentConfig("e1", "edge"), {small.graph.name: Broken()})
            await agents.start(AgentConfig("c1", "cloud"), {small.graph.name: small})
            await agents.configure(tensors="real", mode="measured")
            await agents.install(small.graph, three_way(small.graph))
            await agents.remotes["d1"].tell("submit", request=1, epoch=1, input=3, deadline_s=DEADLINE_S)
            (failed,) = await agents.remotes["d1"].wait()
            assert failed.fields["error"] == "ComputeError"
            assert "on e1: the accelerator is on fire" in failed.fields["text"]

    asyncio.run(main())


def test_an_agent_goes_on_serving_when_peers_and_orchestrators_misbehave(small: Model, tmp_path: Path) -> None:
    async def main() -> None:
        graph = small.graph
        async with rig(tmp_path, {graph.name: small}) as agents:
            await agents.configure(tensors="real", mode="measured")
            await agents.install(graph, three_way(graph))
            await answer(agents, 1, 1)
            bad = [
                Message("submit", {"request": 1, "epoch": 1, "input": 1, "deadline_s": 1.0}),
                Message("tensor", {"request": 9, "epoch": 1, "vertex": 1, "device": "d1"}),
                Message("tensor", {"request": 9, "epoch": 1, "vertex": 99, "device": "d1"}),
                Message("tile", {"request": 9, "epoch": 1, "stack": 0, "tile": 0, "leader": "mallory"}),
                Message("probe", {"id": 1, "size": 5}),
            ]
            for message in bad:
                channel = await agents.transport.connect(agents.addresses["e1"])
                await channel.send(Message("hello", {"host": "mallory"}))
                await channel.send(message)
                assert (await channel.receive()).kind == "refused"
                with pytest.raises(ChannelError):
                    await channel.receive()
                await channel.close()
            no_hello = await agents.transport.connect(agents.addresses["e1"])
            await no_hello.send(bad[1])
            assert "begins with hello" in (await no_hello.receive()).fields["text"]
            await no_hello.close()
            intruder = await agents.transport.connect(f"unix:{tmp_path}/e1-control")
            await intruder.send(Message("tensor", bad[1].fields))
            assert "no place on the control plane" in (await intruder.receive()).fields["text"]
            await intruder.close()
            await answer(agents, 2, 1)

    asyncio.run(main())


# -- processes ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    return path


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    running: list[subprocess.Popen[str]] = []
    yield running
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def d3node(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "d3node.cli", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def arguments(host: str, level: str, tmp_path: Path, secret: Path, **more: str) -> list[str]:
    given = {"name": host, "tier": level, "listen": "127.0.0.1:0", "control": f"unix:{tmp_path}/{host}.control", **more}
    return ["serve", "--secret-file", str(secret), *(x for key, value in given.items() for x in (f"--{key}", value))]


def address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert " serves " in line, (line, process.stderr.read() if process.stderr else "")
    return line.split(" on ")[1].split(",")[0]


@pytest.mark.slow
def test_alexnet_over_processes_equals_the_whole_model(
    tmp_path: Path, secret: Path, processes: list[subprocess.Popen[str]]
) -> None:
    names = {"d1": "device", "e1": "edge", "e2": "edge", "e3": "edge", "c1": "cloud"}
    for name, tier in names.items():
        processes.append(d3node(*arguments(name, tier, tmp_path, secret, model="alexnet")))
    peers = {name: address(process) for name, process in zip(names, processes, strict=True)}
    graph = load_graph(ModelSpec("alexnet"))

    async def main() -> None:
        agents = Rig(tmp_path)
        for name in names:
            agents.remotes[name] = Remote(name, await agents.transport.connect(f"unix:{tmp_path}/{name}.control"))
        agents.addresses = peers
        await agents.configure(tensors="real", mode="measured", input_encoding="uint8")
        whole = await agents.remotes["d1"].ask("whole", model="alexnet", input=3)
        assert len(data_of(whole)[0]) == 4000
        await agents.install(graph, three_way(graph, 1, 4, 4))
        await agents.install(graph, three_way(graph, 2, 2, 7))
        await agents.install(graph, tiled(graph, (1, 2, 3, 4, 5), ("e1", "e2", "e3"), 3))
        assert data_of(await answer(agents, 1, 1)) == data_of(whole)
        assert data_of(await answer(agents, 2, 2)) == data_of(whole)
        assert same_within(await answer(agents, 3, 3), whole, 1e-5)
        # a process that is killed outright: its request fails in bounded time, and a plan without it works
        modelled = {"mode": "modelled", "tensors": "real"}
        await agents.configure(**modelled)
        await agents.install(graph, tiled(graph, (1, 2, 3, 4, 5), ("e1", "e2", "e3"), 4), 2.0)
        await agents.remotes["d1"].tell("submit", request=4, epoch=4, input=3, deadline_s=60.0)
        await asyncio.sleep(0.5)
        processes[3].kill()
        failed = (await agents.remotes["d1"].wait(4))[3]
        assert (failed.kind, failed.fields["error"]) == ("failed", "PeerLost")
        assert "e3" in failed.fields["text"]
        assert failed.fields["done_at"] - failed.fields["submitted_at"] < 30.0  # its deadline is after 60 s
        del agents.remotes["e3"]
        await agents.install(graph, tiled(graph, (1, 2, 3, 4, 5), ("e1", "e2"), 5), 0.01)
        assert same_within(await answer(agents, 5, 5), whole, 1e-5)
        for remote in agents.remotes.values():
            await remote.ask("shutdown")
        await agents.close()

    asyncio.run(main())
    for place, process in enumerate(processes):
        assert process.wait(30) == (-signal.SIGKILL if place == 3 else 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_an_agent_cleanly(
    number: signal.Signals, tmp_path: Path, secret: Path, processes: list[subprocess.Popen[str]]
) -> None:
    processes.append(d3node(*arguments("e1", "edge", tmp_path, secret)))
    address(processes[0])
    processes[0].send_signal(number)
    _, errors = processes[0].communicate(timeout=120)
    assert (processes[0].returncode, errors) == (0, "")
    assert not (tmp_path / "e1.control").exists()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"model": "no-such-net"}, "no-such-net"),
        ({"tier": "fog"}, "choose device, edge or cloud"),
        ({"listen": "nowhere"}, '"host:port"'),
        ({"secret-file": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"weights": "alexnet=x.safetensors"}, "give MODEL=FILE"),
        ({"time-scale": "0"}, "above 0"),
        ({"congestion-control": "carrier-pigeon"}, "it offers"),
    ],
)
def test_bad_input_ends_with_code_2_and_a_reason(
    changes: dict[str, str], text: str, tmp_path: Path, secret: Path, processes: list[subprocess.Popen[str]]
) -> None:
    processes.append(d3node(*arguments("e1", "edge", tmp_path, secret, **changes)))
    _, errors = processes[0].communicate(timeout=120)
    assert processes[0].returncode == 2
    assert text in errors
    assert "Traceback" not in errors


def test_a_port_in_use_is_said(tmp_path: Path, secret: Path, processes: list[subprocess.Popen[str]]) -> None:
    processes.append(d3node(*arguments("e1", "edge", tmp_path, secret)))
    taken = address(processes[0])
    processes.append(d3node(*arguments("e2", "edge", tmp_path, secret, listen=taken)))
    _, errors = processes[1].communicate(timeout=120)
    assert processes[1].returncode == 2
    assert f"{taken} is in use" in errors


def test_strangers_are_refused_by_a_running_agent(tmp_path: Path, secret: Path, processes: list[subprocess.Popen[str]]) -> None:
    processes.append(d3node(*arguments("e1", "edge", tmp_path, secret)))
    where = address(processes[0])

    async def main() -> None:
        with pytest.raises(ChannelError, match="does not know this run's secret"):
            await TcpTransport(b"not the secret of this run").connect(where)
        channel = await TcpTransport(SECRET).connect(where)
        await channel.close()

    asyncio.run(main())


def test_help_names_every_option() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "d3node.cli", "serve", "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"},
    )
    assert done.returncode == 0
    for option in ("--listen", "--control", "--secret-file", "--model", "--tier", "--name", "--threads"):
        assert option in done.stdout
