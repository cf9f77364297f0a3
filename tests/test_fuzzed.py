"""Unauthenticated and malformed input, many thousands of times: no crash, no hang, no growth. `make fuzz` does more of it.

What is fuzzed, and what must hold, is in scripts/fuzz/targets.py; here inputs are honest ones that a seeded generator changes.
"""

from __future__ import annotations

import asyncio
import random
import resource
import sys
from pathlib import Path
from typing import Any

import pytest
from agent_rig import Rig, chain, rig, three_way, timed
from hypothesis import given, settings
from hypothesis import strategies as st

from d3node import wire
from d3node.channel import Message, Payload
from d3node.clock import VirtualLoop, run
from d3node.errors import ChannelError, ProtocolError
from d3node.protocol import CONTROL_KINDS, DATA_KINDS, FIELDS

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts" / "fuzz"))
import targets

SHARE = {"handshake": 20_000, "frames": 14_000, "headers": 10_000, "channels": 6_000}
GROWTH_MB = 200


def changed(seeds: list[bytes], generator: random.Random) -> bytes:
    """One or two honest inputs after some accidents."""
    data = bytearray(generator.choice(seeds))
    for _ in range(generator.randint(1, 6)):
        place = generator.randrange(len(data) + 1)
        kind = generator.randrange(6)
        if kind == 0 and place < len(data):
            data[place] ^= 1 << generator.randrange(8)
        elif kind == 1:
            data[place:place] = generator.randbytes(generator.randint(1, 8))
        elif kind == 2:
            del data[place : place + generator.randint(1, 8)]
        elif kind == 3:
            data[place : place + 4] = generator.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1"))
        elif kind == 4:
            other = generator.choice(seeds)
            data[place:] = other[generator.randrange(len(other)) :]
        elif place < len(data):
            data[place] = generator.randrange(256)
    return bytes(data)


@pytest.mark.parametrize("name", sorted(targets.TARGETS))
def test_thousands_of_changed_inputs_are_refused_and_leave_nothing_behind(name: str) -> None:
    generator, seeds, target = random.Random(name), targets.seeds()[name], targets.TARGETS[name]
    for seed in seeds:
        target(seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(SHARE[name]):
        data = changed(seeds, generator)
        try:
            target(data)
        except BaseException as error:
            error.add_note(f"input {number} of {name}: {data!r}")
            raise
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < GROWTH_MB


# -- a live agent ------------------------------------------------------------------------------------------------------------

GRAPH = chain()
PLAN = three_way(GRAPH).to_dict()
numbers = st.sampled_from([-(2**63), -1, 0, 1, 2, 3, 2**32, 2**63]) | st.integers(0, 4)
words = st.sampled_from(["d1", "e1", "c1", "x", "", "chain", "real", "sizes", "modelled", "measured", "corrupt", "../../etc"])
anything = st.recursive(
    st.none() | numbers | words | st.floats(allow_nan=False, allow_infinity=False) | st.just(PLAN),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
of_type = {int: numbers, str: words, float: st.floats(-1e9, 1e9), dict: st.dictionaries(words, anything, max_size=3)}
of_type |= {list: st.lists(anything, max_size=3), tuple: st.lists(anything, max_size=3)}


more = st.sampled_from(["id", "exit", "codec", "reply", "given", "keep", "absent", "size"])
orders = tuple(kind for kind in CONTROL_KINDS if kind != "shutdown")


@st.composite
def messages(draw: st.DrawFn, kinds: tuple[str, ...]) -> Message:
    """A message of some kind whose fields have the right types and any values, with others beside them and any tensors."""
    kind = draw(st.sampled_from(kinds))
    fields: dict[str, Any] = {name: draw(of_type[draw(st.sampled_from(types))]) for name, types in FIELDS.get(kind, {}).items()}
    if draw(st.integers(0, 3)) == 0:
        fields |= draw(
            st.dictionaries(st.sampled_from(["id", "exit", "codec", "reply", "given", "keep", "absent", "size"]), anything)
        )
    if kind == "install" and draw(st.booleans()):
        fields |= {**timed(GRAPH, three_way(GRAPH, draw(numbers)), 0.0)}
    sizes = draw(st.lists(st.integers(0, 2000), max_size=3))
    dtype = draw(st.sampled_from(["uint8", "float32"]))
    tensors = tuple(Payload(dtype, (size,), size * wire.ITEM_BYTES[dtype]) for size in sizes)
    return Message(kind, fields, tensors)


hostile = st.lists(
    st.tuples(st.just("data"), messages(DATA_KINDS)) | st.tuples(st.just("control"), messages(orders)),
    max_size=12,
)


def as_the_wire_has_it(message: Message) -> Message | None:
    """What would arrive; None for what the wire refuses."""
    try:
        head = wire.encode_head(message, 0.0)
        lengths = wire.decode_prefix(head[: wire.PREFIX_BYTES], wire.Limits())
        header = wire.decode_header(head[wire.PREFIX_BYTES :], lengths.payload, wire.Limits())
    except ProtocolError:
        return None
    return Message(header.kind, header.fields, message.payloads)


async def attack(made: Rig, host: str, steps: list[tuple[str, Message]], hello: str) -> None:
    data = await made.transport.connect(made.addresses[host])
    control = await made.transport.connect(made.addresses[host].replace("-data", "-control"))
    channels = {"data": data, "control": control}
    try:
        await data.send(Message("hello", {"host": hello}))
        for plane, message in steps:
            arrives = as_the_wire_has_it(message)
            if arrives is not None:
                try:
                    await channels[plane].send(arrives)
                except ChannelError:
                    break
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
    finally:
        for channel in channels.values():
            channel.abort()


@settings(max_examples=150)
@given(st.sampled_from(["d1", "e1", "c1"]), st.lists(hostile, max_size=3), st.sampled_from(["e1", "d1", "nobody"]))
def test_an_agent_outlives_any_sequence_of_messages(host: str, attacks: list[list[tuple[str, Message]]], hello: str) -> None:
    """Whatever peers and orchestrators say to it: it answers the next orchestrator, and nothing of the rest is kept for ever."""
    ended: list[str] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: ended.append(str(context)))
        async with rig(None, {"chain": GRAPH}, delay_s=0.001) as made:
            await made.configure()
            await made.install(GRAPH, three_way(GRAPH))
            for steps in attacks:
                await attack(made, host, steps, hello)
            await asyncio.sleep(200.0)
            await made.configure(fresh=True)
            await made.install(GRAPH, three_way(GRAPH, 2**20))
            await made.remotes["d1"].tell("submit", request="after", epoch=2**20, input=0, deadline_s=30.0)
            found = [e for e in await made.remotes["d1"].wait(1) if e.fields["request"] == "after"]
            while not found:
                await asyncio.sleep(1.0)
                found = [e for e in made.remotes["d1"].events if e.kind in ("done", "failed") and e.fields["request"] == "after"]
            assert found[0].kind == "done", found[0].fields
            stats = (await made.remotes[host].ask("stats")).fields
            assert (stats["active"], stats["parked"], stats["queued"], stats["kept"]) == (0, 0, 0, 0), stats
            assert not made.tasks[host].done()

    run(VirtualLoop(), main())
    assert not ended
