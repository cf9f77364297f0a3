"""How tensors are coded to cross a boundary between hosts, where a plan asks for it: fewer bytes for less exact values.

| name                 | a float32 tensor becomes                                                     | loss            |
|----------------------|------------------------------------------------------------------------------|-----------------|
| float32              | its bytes                                                                    | none            |
| int8-shuffle-deflate | 8-bit linear quantisation over its range, bits transposed, zlib (SPINN: LZ4) | half a step     |
| sign-bits            | one bit per value: +1 above zero, else -1 (DDNN's binary features)           | none if all +-1 |

A tensor of another dtype (an image) is shuffled and deflated without quantisation. With sign-bits only feature maps (four
dimensions) are coded: class scores and images go as they are. When something is coded is `d3node.gate`'s business; it takes no
modelled time.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from d3node.channel import Payload
from d3node.codings import CODINGS as CODINGS
from d3node.codings import Coding as Coding
from d3node.errors import ProtocolError
from d3node.wire import ITEM_BYTES

LEVEL = 6
"""zlib's effort. Its output may differ by some bytes between zlib versions; answers do not depend on it."""


def encode(payload: Payload, coding: Coding) -> tuple[Payload, dict[str, Any]]:
    """The coded tensor (uint8, one dimension) and what a receiver has to know beside dtype and shape."""
    if payload.data is None:
        raise ProtocolError("a tensor without data cannot be coded")
    raw = np.frombuffer(payload.data, dtype=np.uint8)
    what: dict[str, Any] = {"name": coding}
    if coding == "sign-bits":
        if payload.dtype != "float32" or _stays(payload):
            return payload, {"name": "float32"}
        return _plain(np.packbits(raw.view(np.float32) > 0.0)), what
    if payload.dtype == "float32":
        values = raw.view(np.float32)
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
        step = (high - low) / 255.0
        raw = (
            np.rint((values.astype(np.float64) - low) / step).astype(np.uint8) if step > 0.0 else np.zeros(values.size, np.uint8)
        )
        what |= {"zero": low, "step": step}
    return _plain(np.frombuffer(zlib.compress(shuffled(raw).tobytes(), LEVEL), dtype=np.uint8)), what


def decode(payload: Payload, what: dict[str, Any], expected: Payload) -> Payload:
    """The tensor that was coded, like `expected` in dtype and shape. Raises ProtocolError for what is no coded tensor."""
    coding = what.get("name")
    if coding not in CODINGS:
        raise ProtocolError(f"a tensor is coded in an unknown way: {str(coding)[:40]!r}")
    if coding == "float32":
        return payload
    if payload.data is None:
        return expected
    count = expected.nbytes // ITEM_BYTES[expected.dtype]
    if coding == "sign-bits":
        bits = np.frombuffer(payload.data, dtype=np.uint8)
        if expected.dtype != "float32" or bits.size != -(-count // 8):
            raise ProtocolError(f"{bits.size} bytes of signs do not make a tensor of {count} values")
        return _like(expected, np.unpackbits(bits, count=count).astype(np.float32) * np.float32(2.0) - np.float32(1.0))
    items = count if expected.dtype == "float32" else expected.nbytes
    padded = -(-items // 8) * 8
    try:
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(payload.data, padded + 1)  # never more than the tensor can be
    except zlib.error as error:
        raise ProtocolError(f"a coded tensor cannot be inflated: {error}") from None
    if len(text) != padded or not unpacker.eof:
        raise ProtocolError(f"a coded tensor inflates to another size than the {padded} bytes that it should have")
    codes = unshuffled(np.frombuffer(text, dtype=np.uint8))[:items]
    if expected.dtype != "float32":
        return _like(expected, codes)
    zero, step = what.get("zero"), what.get("step")
    if not isinstance(zero, float) or not isinstance(step, float):
        raise ProtocolError("a quantised tensor comes with its zero and step")
    return _like(expected, (codes.astype(np.float64) * step + zero).astype(np.float32))


def coded_bytes(count: int, coding: Coding) -> int:
    """Bytes of a float32 tensor of so many values where only sizes travel and nothing was measured: without deflation."""
    return {"float32": 4 * count, "int8-shuffle-deflate": count, "sign-bits": -(-count // 8)}[coding]


def shuffled(codes: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Bit-shuffle: all highest bits first, then all second ones, ...; padded with zeros to a multiple of 8 bytes."""
    padded = np.zeros(-(-codes.size // 8) * 8, dtype=np.uint8)
    padded[: codes.size] = codes
    return np.packbits(np.unpackbits(padded).reshape(-1, 8).T)


def unshuffled(planes: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The reverse of `shuffled`, padding included."""
    return np.packbits(np.unpackbits(planes).reshape(8, -1).T)


def _stays(payload: Payload) -> bool:
    """Class scores and the like: too small to be features, and no signs."""
    return len(payload.shape) < 4


def _plain(values: np.ndarray[Any, np.dtype[np.uint8]]) -> Payload:
    data = np.ascontiguousarray(values)
    return Payload("uint8", (data.size,), data.size, _memory(data))


def _like(expected: Payload, values: np.ndarray[Any, Any]) -> Payload:
    data = np.ascontiguousarray(values)
    return Payload(expected.dtype, expected.shape, expected.nbytes, _memory(data.reshape(-1).view(np.uint8)))


def _memory(values: Any) -> memoryview:
    return memoryview(values)
