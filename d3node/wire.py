"""How a message is laid out in bytes: fixed prefix, typed header, raw tensor bytes. No I/O and no torch here.

Sockets are `d3node.tcp`'s business, what the kinds mean is in `d3node.protocol`. A frame, all integers big-endian:

| offset | bytes | field                                                                                    |
|--------|-------|------------------------------------------------------------------------------------------|
| 0      | 4     | magic "D3NF"                                                                             |
| 4      | 2     | protocol version (`d3node.protocol.VERSION`)                                             |
| 6      | 2     | checksum: CRC-32 of prefix (with zero here), header and payload; upper half xor lower    |
| 8      | 4     | header length H                                                                          |
| 12     | 8     | payload length P                                                                         |
| 20     | H     | header: msgpack array [kind, sent_at, fields, [[dtype, [dim, ..]], ..]]                  |
| 20+H   | P     | the tensors' C-contiguous bytes, little-endian, in the header's order, without padding   |

`sent_at` is the sender's clock as a 64-bit float, always 9 bytes in msgpack: a frame's size does not depend on the clock, so byte
counts repeat exactly. `wire_size` says what a frame takes without building it; `sim` counts with it what `tcp` sends.

The checksum is against accidents (faulty memory, a bad driver, a fault that was asked for); TLS is against attackers. Where only
sizes of tensors travel, it leaves out the payload, whose bytes mean nothing: hosts with tensors and with sizes refuse each other.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from d3node.channel import Message
from d3node.errors import ProtocolError
from d3node.protocol import VERSION, check_fields

MAGIC: Final = b"D3NF"
PREFIX: Final = struct.Struct(">4sHHIQ")
PREFIX_BYTES: Final = PREFIX.size
ITEM_BYTES: Final[dict[str, int]] = {
    "float32": 4,
    "float64": 8,
    "float16": 2,
    "bfloat16": 2,
    "uint8": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
}
"""The dtypes that may travel, and the size of an item."""
_DEPTH: Final = 12


@dataclass(frozen=True, slots=True)
class Limits:
    """What a receiver accepts; checked before memory is allocated.

    `stall_s`: a peer that stops in the middle of a frame for this long is cut off. `buffered_bytes`: messages received but not
    yet taken by the agent; above it the connection is not read (one message may always be in the making); `all_buffered_bytes`:
    the same for all connections of a transport. `messages_per_s`, `messages_at_once`: a connection that brings more is not read
    for a while. `connections`: of a listener; there are limits for one address, too, also on how
    fast it connects. `refusals`: failed handshakes in a row after which an address has to stay away, for `backoff_s`
    at first and twice as long after each further one, `longest_backoff_s` at most. Unix sockets have no addresses.
    """

    header_bytes: int = 1 << 20
    payload_bytes: int = 1 << 30
    payloads: int = 256
    dimensions: int = 8
    buffered_bytes: int = 256 << 20
    all_buffered_bytes: int = 2 << 30
    messages_per_s: float = 100_000.0
    messages_at_once: float = 100_000.0
    handshake_s: float = 10.0
    stall_s: float = 60.0
    pending_handshakes: int = 64
    pending_per_address: int = 48
    connections: int = 1024
    connections_per_address: int = 256
    connects_per_s: float = 50.0
    connects_at_once: float = 256.0
    refusals: int = 8
    backoff_s: float = 1.0
    longest_backoff_s: float = 60.0


@dataclass(frozen=True, slots=True)
class PayloadSpec:
    """dtype, shape and size of one tensor that follows the header."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """A decoded header."""

    kind: str
    sent_at: float
    fields: dict[str, Any]
    payloads: tuple[PayloadSpec, ...]


class Checksum:
    """The checksum of a frame in the making."""

    __slots__ = ("_crc", "_head")

    def __init__(self, crc: int = 0) -> None:
        self._crc = self._head = crc

    def add_header(self, data: bytes | bytearray | memoryview) -> None:
        """The header's bytes, all at once."""
        self._crc = self._head = zlib.crc32(data, self._crc)

    def add(self, data: bytes | memoryview) -> None:
        """The next bytes of the payload."""
        self._crc = zlib.crc32(data, self._crc)

    def folded(self) -> int:
        """The 16 bits that travel."""
        return _fold(self._crc)

    def hold_against(self, lengths: Lengths, sizes: bool) -> None:
        """Raise ProtocolError unless the frame is what was sent."""
        if self.folded() == lengths.checksum:
            return
        if sizes and lengths.payload:
            raise ProtocolError("a frame does not match its checksum: it was damaged, or the peer runs with tensors, not sizes")
        if lengths.payload and _fold(self._head) == lengths.checksum:
            raise ProtocolError("the peer runs with sizes only, this side with tensors: give both the same")
        raise ProtocolError("a frame does not match its checksum: it was damaged on the way")


@dataclass(frozen=True, slots=True)
class Lengths:
    """What a prefix says: bytes of header and payload, and the frame's checksum."""

    header: int
    payload: int
    checksum: int

    def begin(self) -> Checksum:
        """The checksum of a frame of these lengths, its header and payload to be added."""
        return Checksum(zlib.crc32(PREFIX.pack(MAGIC, VERSION, 0, self.header, self.payload)))


def _fold(crc: int) -> int:
    return (crc ^ crc >> 16) & 0xFFFF


_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack


def encode_header(message: Message, sent_at: float) -> bytes:
    """The msgpack header of a message. Raises ProtocolError for fields that msgpack does not know."""
    specs = [(payload.dtype, payload.shape) for payload in message.payloads]
    try:
        packed: bytes = _pack((message.kind, float(sent_at), message.fields, specs))
    except (TypeError, ValueError, OverflowError) as error:
        raise ProtocolError(f"a {message.kind!r} message has fields that cannot be sent: {error}") from error
    return packed


def encode_head(message: Message, sent_at: float, sizes: bool = False) -> bytes:
    """Prefix and header of a message; its payloads' bytes follow on the wire as they are. `sizes`: they mean nothing."""
    header = encode_header(message, sent_at)
    length = payload_bytes(message)
    checksum = Lengths(len(header), length, 0).begin()
    checksum.add_header(header)
    if not sizes:
        for payload in message.payloads:
            if payload.data is not None:
                checksum.add(payload.data)
    return PREFIX.pack(MAGIC, VERSION, checksum.folded(), len(header), length) + header


def payload_bytes(message: Message) -> int:
    """Bytes of a message's tensors."""
    total = 0
    for payload in message.payloads:
        total += payload.nbytes
    return total


def header_bytes(message: Message) -> int:
    """Bytes of prefix and header of a message, whatever the clock says."""
    return PREFIX_BYTES + len(encode_header(message, 0.0))


def wire_size(message: Message) -> int:
    """Bytes of the whole frame."""
    return PREFIX_BYTES + len(encode_header(message, 0.0)) + payload_bytes(message)


def decode_prefix(data: bytes | bytearray | memoryview, limits: Limits) -> Lengths:
    """What a prefix of 20 bytes says. Raises ProtocolError for anything else, or above the limits."""
    magic, version, checksum, header, payload = PREFIX.unpack(data)
    if magic != MAGIC:
        raise ProtocolError(f"not a frame of d3node: it starts with {bytes(magic)!r} instead of {MAGIC!r}")
    if version != VERSION:
        raise ProtocolError(f"the peer speaks version {version} of the protocol, this side version {VERSION}")
    if not 0 < header <= limits.header_bytes:
        raise ProtocolError(f"a header of {header} bytes; at most {limits.header_bytes} are accepted")
    if payload > limits.payload_bytes:
        raise ProtocolError(f"tensors of {payload} bytes; at most {limits.payload_bytes} are accepted")
    return Lengths(header, payload, checksum)


def decode_header(data: bytes | bytearray | memoryview, payload_length: int, limits: Limits) -> Header:
    """A header from its bytes, held against the prefix's payload length. Raises ProtocolError for anything illegal."""
    try:
        raw = msgpack.unpackb(data, raw=False, strict_map_key=True, use_list=True)
    except Exception as error:  # msgpack has a dozen of them, RecursionError among them
        raise ProtocolError(f"the header is not msgpack: {type(error).__name__}") from None
    if not isinstance(raw, list) or len(raw) != 4:
        raise ProtocolError("the header must be an array of kind, sent_at, fields and payloads")
    kind, sent_at, fields, specs = raw
    if not isinstance(kind, str) or not isinstance(fields, dict) or not isinstance(specs, list):
        raise ProtocolError("the header must be an array of text, float, map and array")
    if not isinstance(sent_at, float) or not math.isfinite(sent_at):
        raise ProtocolError("sent_at must be a finite 64-bit float")
    check_fields(kind, fields)
    _check_plain(fields, _DEPTH)
    if len(specs) > limits.payloads:
        raise ProtocolError(f"{len(specs)} tensors in a message; at most {limits.payloads} are accepted")
    payloads = tuple(_decode_spec(spec, limits) for spec in specs)
    if sum(spec.nbytes for spec in payloads) != payload_length:
        raise ProtocolError("the tensors' shapes do not add up to the payload length of the prefix")
    return Header(kind, sent_at, fields, payloads)


def _decode_spec(spec: Any, limits: Limits) -> PayloadSpec:
    if not isinstance(spec, list) or len(spec) != 2 or not isinstance(spec[0], str) or not isinstance(spec[1], list):
        raise ProtocolError("a tensor is described by dtype and shape")
    dtype, shape = spec
    item = ITEM_BYTES.get(dtype)
    if item is None:
        raise ProtocolError(f"tensors of dtype {dtype[:40]!r} are not accepted; known are {', '.join(ITEM_BYTES)}")
    if len(shape) > limits.dimensions:
        raise ProtocolError(f"a tensor of {len(shape)} dimensions; at most {limits.dimensions} are accepted")
    if any(type(dim) is not int or not 0 <= dim <= limits.payload_bytes for dim in shape):
        raise ProtocolError("a tensor's dimensions must be whole numbers from 0 up to the payload limit")
    return PayloadSpec(dtype, tuple(shape), math.prod(shape) * item)


def _check_plain(value: Any, depth: int) -> None:
    """JSON-like only: text keys, finite numbers, no binary, no extension types, bounded depth."""
    if isinstance(value, dict):
        if depth == 0:
            raise ProtocolError("the header's fields are nested too deeply")
        for key, item in value.items():
            if not isinstance(key, str):
                raise ProtocolError("keys of maps must be text")
            _check_plain(item, depth - 1)
    elif isinstance(value, list):
        if depth == 0:
            raise ProtocolError("the header's fields are nested too deeply")
        for item in value:
            _check_plain(item, depth - 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ProtocolError("numbers must be finite")
    elif value is not None and not isinstance(value, str | int):
        raise ProtocolError(f"fields of type {type(value).__name__} are not accepted")
