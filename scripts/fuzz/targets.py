"""What is fuzzed: each target takes any bytes, and may do nothing but refuse them. Seeds are what honest peers send.

A target raises AssertionError (or whatever escapes) where a promise is broken: only a ChannelError may come out of a parser,
nobody gets through a handshake without the secret, and what is kept of the input is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Callable, Iterator
from typing import Any

import d3node.frames
from d3node import auth, wire
from d3node.channel import Message, Payload
from d3node.errors import ChannelError, ProtocolError
from d3node.frames import FrameReader
from d3node.protocol import VERSION
from d3node.stream import TcpChannel

SECRET = b"a secret that no input holds"
STAGE_BYTES = 512
LIMITS = wire.Limits(header_bytes=1 << 17, payload_bytes=1 << 16, payloads=8, dimensions=4, buffered_bytes=1 << 17)
Target = Callable[[bytes], None]


def handshake(data: bytes) -> None:
    """Either end of a handshake, by pieces, without the secret. The first byte says which end, and how long the pieces are."""
    if not data:
        return
    end = auth.Handshake("server" if data[0] & 1 else "client", SECRET, bytes(32))
    try:
        if data[0] & 2:
            end.feed(auth.message(auth.HELLO if end.role == "server" else auth.SERVER_PROOF, data[1:65].ljust(64, b"\0")[:32]))
        for piece in _pieces(data[1:], 1 + (data[0] >> 2)):
            end.feed(piece)
            assert len(end.rest) <= auth.HEAD.size + auth.TEXT_BYTES + len(piece)
    except ChannelError:
        assert len(end.last_words) <= auth.HEAD.size + auth.TEXT_BYTES
    assert not end.done


@contextlib.contextmanager
def _small_stage() -> Iterator[None]:
    """Headers that are longer than the staging buffer, without inputs that are as long as it is."""
    before, d3node.frames.STAGE_BYTES = d3node.frames.STAGE_BYTES, STAGE_BYTES
    try:
        yield
    finally:
        d3node.frames.STAGE_BYTES = before


@_small_stage()
def frames(data: bytes) -> None:
    """Bytes of a stream behind the handshake, by pieces."""
    if not data:
        return
    _read(data[1:], 1 + 37 * (data[0] >> 1), bool(data[0] & 1))


@_small_stage()
def headers(data: bytes) -> None:
    """A frame whose prefix and checksum are right: what lies behind them."""
    length, _, rest = data.partition(b"|")
    payload = min(int.from_bytes(length[:2], "big"), LIMITS.payload_bytes)
    lengths = wire.Lengths(len(rest), payload, 0)
    checksum = lengths.begin()
    checksum.add_header(rest)
    body = bytes(payload)
    checksum.add(body)
    prefix = wire.PREFIX.pack(wire.MAGIC, VERSION, checksum.folded(), len(rest), payload)
    _read(prefix + rest + body, 4096, False)


class _Wire:
    """asyncio's transport, as far as a channel looks at it."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.reading = True
        self.closing = False

    def write(self, data: bytes) -> None:
        self.written += data
        assert len(self.written) < 4096

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.closing = True

    close = write_eof = abort

    def get_extra_info(self, name: str) -> Any:
        return None


class _Channel(TcpChannel):
    """A channel without a socket under it."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport


class _Loop(asyncio.SelectorEventLoop):
    """Time stands still, and timers never come."""

    def call_later(self, *_: Any, **__: Any) -> Any:
        return _Timer()

    def time(self) -> float:
        return 0.0


class _Timer:
    def cancel(self) -> None: ...


_loop = _Loop()


@_small_stage()
def channels(data: bytes) -> None:
    """A whole channel: the handshake (through it where the first byte says so), frames, pauses, a reader that may be slow."""
    if not data:
        return
    asyncio.set_event_loop(None)
    asyncio._set_running_loop(_loop)
    try:
        transport = _Wire()
        channel = _Channel(auth.Handshake("server", SECRET), LIMITS, peer="fuzz", sizes=bool(data[0] & 1))
        channel.connection_made(transport)
        if data[0] & 2:
            shake = channel._handshake
            assert shake is not None
            shake.done, shake.rest = True, b""
            channel._handshake = None
        for piece in _pieces(data[1:], 1 + 61 * (data[0] >> 3)):
            left = piece
            while left and transport.reading and not transport.closing:
                room = channel.get_buffer(len(left))
                assert len(room)
                count = min(len(room), len(left))
                room[:count], left = left[:count], left[count:]
                channel.buffer_updated(count)
            if data[0] & 4:
                while channel._inbox:
                    _step(channel.receive())
            assert channel._inbox.nbytes <= LIMITS.buffered_bytes + LIMITS.payload_bytes + LIMITS.header_bytes
        channel.eof_received()
        channel.connection_lost(None)
        if not data[0] & 2:
            assert channel.ready.exception() is not None  # nobody got through
        elif channel.ready.done():
            channel.ready.exception()
        channel.abort()
        assert channel._inbox.held == 0
        assert channel._inbox._budget.taken == 0
    finally:
        asyncio._set_running_loop(None)
        _loop._ready.clear()


def _step(coroutine: Any) -> None:
    """Run a coroutine that does not wait."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("a message that is there was waited for")


def _read(data: bytes, piece: int, sizes: bool) -> None:
    granted = 0

    def grant(size: int) -> bool:
        nonlocal granted
        granted = size
        return True

    reader = FrameReader(LIMITS, grant, sizes)
    try:
        for part in _pieces(data, piece):
            left = part
            while left:
                room = reader.room()
                assert len(room)
                count = min(len(room), len(left))
                room[:count], left = left[:count], left[count:]
                if reader.took(count):
                    while (frame := reader.next()) is not None:
                        assert frame.size == granted
                        assert sum(payload.nbytes for payload in frame.payloads) <= LIMITS.payload_bytes
                        wire.encode_header(Message(frame.header.kind, frame.header.fields), 0.0)
            assert granted <= wire.PREFIX_BYTES + LIMITS.header_bytes + LIMITS.payload_bytes
    except ProtocolError:
        return


def _pieces(data: bytes, size: int) -> list[bytes]:
    size = max(size, len(data) // 64)
    return [data[i : i + size] for i in range(0, len(data), size)]


TARGETS: dict[str, Target] = {"handshake": handshake, "frames": frames, "headers": headers, "channels": channels}


def seeds() -> dict[str, list[bytes]]:
    """What honest peers send, for every target."""
    plain = {"request": 7, "epoch": 2, "vertex": 3, "device": "d1"}
    coded = {"request": "r", "epoch": 1, "vertex": 0, "device": "d", "codec": {"name": "float32"}}
    found: list[bytes] = []
    for fields, sizes in ((plain, ()), (coded, (0, 5, 300))):
        payloads = tuple(Payload("uint8", (size,), size, memoryview(bytes(size))) for size in sizes)
        found.append(wire.encode_head(Message("tensor", dict(fields), payloads), 1.0) + bytes(sum(sizes)))
    for text in ("gone", "gone" * STAGE_BYTES):
        found.append(wire.encode_head(Message("lost", {"host": "e1", "text": text}), 0.5))
    client, server = auth.Handshake("client", SECRET, bytes(32)), auth.Handshake("server", SECRET, bytes(32))
    hello = client.start()
    proof = server.feed(hello)
    shakes = [hello, proof, auth.message(auth.CLIENT_PROOF, bytes(32)), auth.message(auth.WELCOME), auth.refusal("no")]
    pieces = bytes([0]), bytes([1]), bytes([200]), bytes([255])
    header_of = struct.Struct(">H")
    return {
        "handshake": [start + one for start in pieces for one in (*shakes, b"".join(shakes))],
        "frames": [start + one for start in pieces for one in (*found, b"".join(found))],
        "headers": [header_of.pack(305 if b"codec" in one else 0) + b"|" + one[wire.PREFIX_BYTES :][:500] for one in found],
        "channels": [start + one for start in (b"\x82", b"\x83", b"\x86", b"\x81", b"\x02") for one in (*found, *shakes)],
    }
