"""Frames: what is sent arrives unchanged, sizes are known beforehand, and nothing illegal gets through."""

from __future__ import annotations

import math
import struct
from typing import Any

import msgpack
import pytest
from agent_rig import payload
from hypothesis import given
from hypothesis import strategies as st

from d3node import wire
from d3node.channel import Message, Payload
from d3node.errors import ProtocolError
from d3node.protocol import CONTROL_KINDS, DATA_KINDS, FIELDS, VERSION

LIMITS = wire.Limits(header_bytes=4096, payload_bytes=1 << 20, payloads=4, dimensions=5)
FIELDS_OF_A_TENSOR: dict[str, Any] = {"request": 7, "epoch": 2, "vertex": 3, "device": "d1"}

shapes = st.lists(st.integers(0, 6), max_size=5).map(tuple)
payloads = st.builds(
    lambda dtype, shape: payload(bytes(math.prod(shape) * wire.ITEM_BYTES[dtype]), dtype, shape),
    st.sampled_from(sorted(wire.ITEM_BYTES)),
    shapes,
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


def decoded(frame: bytes, limits: wire.Limits = LIMITS) -> wire.Header:
    lengths = wire.decode_prefix(frame[: wire.PREFIX_BYTES], limits)
    return wire.decode_header(frame[wire.PREFIX_BYTES : wire.PREFIX_BYTES + lengths.header], lengths.payload, limits)


def framed(header: Any, payload_length: int = 0) -> bytes:
    packed = msgpack.packb(header)
    return wire.PREFIX.pack(wire.MAGIC, VERSION, 0, len(packed), payload_length) + packed


@given(st.lists(payloads, max_size=4), plain, st.floats(0, 1e9))
def test_a_frame_says_what_was_sent(tensors: list[Payload], extra: Any, now: float) -> None:
    message = Message("tensor", {**FIELDS_OF_A_TENSOR, "extra": extra}, tuple(tensors))
    header = decoded(wire.encode_head(message, now))
    assert (header.kind, header.sent_at, header.fields) == ("tensor", now, message.fields)
    assert [(s.dtype, s.shape, s.nbytes) for s in header.payloads] == [(p.dtype, p.shape, p.nbytes) for p in tensors]


@given(st.floats(0, allow_infinity=False, allow_nan=False), st.lists(payloads, max_size=4))
def test_a_frames_size_does_not_depend_on_the_clock(now: float, tensors: list[Payload]) -> None:
    message = Message("tensor", FIELDS_OF_A_TENSOR, tuple(tensors))
    assert len(wire.encode_head(message, now)) == wire.header_bytes(message)
    assert wire.wire_size(message) == wire.header_bytes(message) + sum(p.nbytes for p in tensors)


@given(st.binary(min_size=wire.PREFIX_BYTES, max_size=wire.PREFIX_BYTES))
def test_noise_is_no_prefix(noise: bytes) -> None:
    if noise.startswith(wire.MAGIC):
        return
    with pytest.raises(ProtocolError, match="not a frame"):
        wire.decode_prefix(noise, LIMITS)


@given(st.binary(max_size=200), st.integers(0, 1 << 20))
def test_noise_is_no_header(noise: bytes, length: int) -> None:
    with pytest.raises(ProtocolError):
        wire.decode_header(noise, length, LIMITS)


@given(st.lists(plain, max_size=5) | plain)
def test_any_other_msgpack_is_no_header(value: Any) -> None:
    with pytest.raises(ProtocolError):
        decoded(framed(value))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"version": VERSION + 1}, "version"),
        ({"header": 0}, "header"),
        ({"header": LIMITS.header_bytes + 1}, "at most 4096"),
        ({"payload": LIMITS.payload_bytes + 1}, "at most 1048576"),
    ],
)
def test_prefix_limits(fields: dict[str, int], text: str) -> None:
    values = {"version": VERSION, "checksum": 0, "header": 1, "payload": 0, **fields}
    data = struct.pack(">4sHHIQ", wire.MAGIC, *values.values())
    with pytest.raises(ProtocolError, match=text):
        wire.decode_prefix(data, LIMITS)


@pytest.mark.parametrize(
    ("header", "length", "text"),
    [
        (["tensor", 1.0, FIELDS_OF_A_TENSOR, [["float32", [2]]]], 4, "add up"),
        (["tensor", 1.0, FIELDS_OF_A_TENSOR, [["float32", [-2]]]], 0, "whole numbers"),
        (["tensor", 1.0, FIELDS_OF_A_TENSOR, [["float32", [True]]]], 4, "whole numbers"),
        (["tensor", 1.0, FIELDS_OF_A_TENSOR, [["float32", [2.0]]]], 8, "whole numbers"),
        (["tensor", 1.0, FIELDS_OF_A_TENSOR, [["object", [1]]]], 8, "not accepted"),
        (["tensor", 1.0, FIELDS_OF_A_TENSOR, [["uint8", [1] * 6]]], 1, "dimensions"),
        (["tensor", 1.0, FIELDS_OF_A_TENSOR, [["uint8", [1]]] * 5], 5, "tensors in a message"),
        (["tensor", 1, FIELDS_OF_A_TENSOR, []], 0, "sent_at"),
        (["tensor", math.nan, FIELDS_OF_A_TENSOR, []], 0, "sent_at"),
        (["tensor", 1.0, {**FIELDS_OF_A_TENSOR, "epoch": "2"}, []], 0, "epoch"),
        (["tensor", 1.0, {**FIELDS_OF_A_TENSOR, "epoch": True}, []], 0, "epoch"),
        (["tensor", 1.0, {**FIELDS_OF_A_TENSOR, "more": math.inf}, []], 0, "finite"),
        (["tensor", 1.0, {**FIELDS_OF_A_TENSOR, "more": b"raw"}, []], 0, "not accepted"),
        (["tensor", 1.0, {**FIELDS_OF_A_TENSOR, "more": msgpack.ExtType(5, b"x")}, []], 0, "not accepted"),
        (["tensor", 1.0, {"request": 1}, []], 0, "epoch"),
        (["launch", 1.0, {}, []], 0, "unknown kind"),
        (["tensor", 1.0, {**FIELDS_OF_A_TENSOR, "more": [[[[[[[[[[[[[[]]]]]]]]]]]]]]}, []], 0, "nested"),
    ],
)
def test_illegal_headers_are_named(header: Any, length: int, text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        decoded(framed(header, length))


def test_every_kind_has_its_fields_written_down() -> None:
    assert set(FIELDS) == {*CONTROL_KINDS, *DATA_KINDS}


def test_fields_that_msgpack_does_not_know_are_not_sent() -> None:
    with pytest.raises(ProtocolError, match="cannot be sent"):
        wire.wire_size(Message("stats", {"id": 1, "what": object()}))
