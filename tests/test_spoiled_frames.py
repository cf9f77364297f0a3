"""Frames that are spoilt on their way: the checksum finds every one, and whoever waits for it hears of it by name."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from agent_rig import LIMITS, SECRET, chain, payload, rig, three_way
from hypothesis import given
from hypothesis import strategies as st

from d3node import wire
from d3node.channel import Message
from d3node.errors import ProtocolError
from d3node.frames import Frame, FrameReader
from d3node.tcp import TcpTransport

FIELDS: dict[str, Any] = {"request": 7, "epoch": 2, "vertex": 3, "device": "d1"}
GRAPH = chain()


def read(data: bytes, piece: int = 1 << 16, sizes: bool = False) -> list[Frame]:
    reader = FrameReader(wire.Limits(), lambda size: True, sizes)
    frames = []
    while data:
        room = reader.room()
        count = min(piece, len(room), len(data))
        room[:count], data = data[:count], data[count:]
        reader.took(count)
        while (frame := reader.next()) is not None:
            frames.append(frame)
    return frames


def framed(*tensors: bytes, extra: str = "") -> bytes:
    message = Message("tensor", {**FIELDS, "extra": extra}, tuple(payload(data) for data in tensors))
    return wire.encode_head(message, 1.0) + b"".join(tensors)


@given(st.lists(st.binary(max_size=300), max_size=3), st.integers(0, 70_000), st.integers(1, 70_000))
def test_frames_are_read_whatever_pieces_they_come_in(tensors: list[bytes], filler: int, piece: int) -> None:
    frame = framed(*tensors, extra="x" * filler)
    found = read(frame * 2, max(piece, len(frame) // 50))
    assert [[bytes(p.data or b"") for p in one.payloads] for one in found] == [tensors] * 2
    assert [one.size for one in found] == [len(frame)] * 2


@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=2), st.data())
def test_any_change_of_up_to_sixteen_neighbouring_bits_is_found(tensors: list[bytes], data: st.DataObject) -> None:
    """A CRC finds every burst up to its own length; folding keeps that for bursts within 16 bits."""
    frame = framed(*tensors)
    number = int.from_bytes(frame, "big")
    burst = data.draw(st.integers(1, 0xFFFF))
    place = data.draw(st.integers(0, 8 * (len(frame) - wire.PREFIX_BYTES) - 16))
    changed = (number ^ burst << place).to_bytes(len(frame), "big")
    with pytest.raises(ProtocolError):
        read(changed)


@given(st.binary(min_size=1, max_size=200), st.integers(0, 8 * wire.PREFIX_BYTES - 1))
def test_a_changed_prefix_is_never_taken_for_a_message(tensor: bytes, bit: int) -> None:
    changed = bytearray(framed(tensor))
    changed[bit // 8] ^= 1 << bit % 8
    try:
        assert read(bytes(changed)) == []  # longer than it was: the rest is waited for
    except ProtocolError:
        return


def test_sizes_leave_the_payload_out_of_the_checksum() -> None:
    message = Message("tensor", FIELDS, (payload(b"abcd"),))
    head = wire.encode_head(message, 1.0, sizes=True)
    assert len(head) == len(wire.encode_head(message, 1.0)) == wire.header_bytes(message)
    (frame,) = read(head + b"any ", sizes=True)
    assert [(p.nbytes, p.data) for p in frame.payloads] == [(4, None)]


@pytest.mark.parametrize("how", ["corrupt", "truncate"])
def test_a_spoilt_tensor_ends_its_request_by_name_and_the_next_one_is_answered(how: str, tmp_path: Path) -> None:
    async def main() -> None:
        transport = TcpTransport(SECRET, limits=LIMITS, sizes=True)
        async with rig(tmp_path, {"chain": GRAPH}, transport=transport, faults=True) as made:
            await made.configure()
            await made.install(GRAPH, three_way(GRAPH))
            device = made.remotes["d1"]
            assert (await device.ask("spoil", peer="e1", how=how)).kind == "ok"
            await device.tell("submit", request=1, epoch=1, input=0, deadline_s=30.0)
            (failed,) = await device.wait(1)
            assert (failed.kind, failed.fields["error"]) == ("failed", "PeerLost")
            await device.tell("submit", request=2, epoch=1, input=0, deadline_s=30.0)
            assert (await device.wait(2))[1].kind == "done"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("config", "fields", "text"),
    [
        ({}, {"peer": "e1", "how": "corrupt"}, "not started for faults"),
        ({"faults": True}, {"peer": "e1", "how": "eat"}, "not one of corrupt, truncate"),
        ({"faults": True}, {"peer": "e7", "how": "corrupt"}, "no address of 'e7'"),
    ],
)
def test_frames_are_spoilt_only_where_that_was_allowed(config: dict[str, Any], fields: dict[str, str], text: str) -> None:
    from d3node.clock import VirtualLoop, run

    async def main() -> None:
        async with rig(None, {"chain": GRAPH}, **config) as made:
            await made.configure()
            answer = await made.remotes["d1"].ask("spoil", **fields)
            assert answer.kind == "refused"
            assert text in answer.fields["text"]

    run(VirtualLoop(), main())
