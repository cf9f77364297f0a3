"""From the bytes of a stream to messages: frames are parsed as they come in, tensors are received into memory of their own.

Sans I/O: `d3node.stream` brings the bytes. Small things (prefixes, headers, small tensors) pass through one staging buffer; the
rest of a large tensor is put where it stays. Its memory is asked for after the header was validated, and with the caller's leave.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from d3node import wire
from d3node.channel import Payload

STAGE_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Frame:
    """A whole frame: its header, its tensors, and its bytes on the wire."""

    header: wire.Header
    payloads: tuple[Payload, ...]
    size: int


class FrameReader:
    """`room()` is where the stream's next bytes belong, `took` says how many are there now, `next` gives what is complete.

    `grant(bytes)`: leave to take that much memory for a frame, once its header is known; without it the frame waits. Where only
    sizes matter (`sizes`) bytes of tensors are nobody's: they come in where those of all readers do, and are not checked.
    """

    def __init__(self, limits: wire.Limits, grant: Callable[[int], bool], sizes: bool = False) -> None:
        self._limits = limits
        self._grant = grant
        self._sizes = sizes
        self._stage = memoryview(bytearray(STAGE_BYTES))
        self._start = self._end = 0
        self._target: memoryview | None = None
        self._filled = 0
        self._lengths: wire.Lengths | None = None
        self._header: wire.Header | None = None
        self._header_room: bytearray | None = None
        self._checksum = wire.Checksum()
        self._granted = False
        self._buffers: list[memoryview] = []

    @property
    def middle(self) -> bool:
        """Whether a frame has begun and is not complete."""
        return self._lengths is not None or self._end > self._start

    @property
    def tensor_room(self) -> memoryview | None:
        """What is left of the memory of the tensor (or the long header) that is being received; None between them."""
        return None if self._target is None else self._target[self._filled :]

    def room(self) -> memoryview:
        """Where the next bytes belong; never empty unless a frame waits for leave."""
        return self._stage[self._end :] if self._target is None else self._target[self._filled :]

    def took(self, nbytes: int) -> bool:
        """So many bytes lie in the room now; True where `next` may have something."""
        if self._target is None:
            self._end += nbytes
            return True
        before = self._filled
        self._filled += nbytes
        self._count(self._target[before : self._filled])
        if self._filled < len(self._target):
            return False
        self._target = None
        return True

    def staged(self) -> bytes:
        """Bytes that came in before the first frame, taken out again: a handshake's."""
        data = bytes(self._stage[self._start : self._end])
        self._start = self._end = 0
        return data

    def put(self, data: bytes) -> None:
        """Bytes from elsewhere, before any others: what came in behind a handshake."""
        self._stage[self._end : self._end + len(data)] = data
        self._end += len(data)

    def next(self) -> Frame | None:
        """The next whole frame, None when more bytes or leave are needed. Raises ProtocolError for what is no frame."""
        if self._target is not None:
            return None
        frame = self._parse()
        if frame is None and self._target is None and self._start:
            kept = self._end - self._start
            if kept:
                self._stage[:kept] = self._stage[self._start : self._end]
            self._start, self._end = 0, kept
        return frame

    def drop(self) -> None:
        """Forget everything: nothing more will be parsed."""
        self._target, self._start, self._end = None, 0, 0
        self._lengths, self._header, self._header_room, self._buffers, self._granted = None, None, None, [], False

    def _parse(self) -> Frame | None:
        if self._lengths is None:
            if self._end - self._start < wire.PREFIX_BYTES:
                return None
            self._lengths = wire.decode_prefix(self._stage[self._start : self._start + wire.PREFIX_BYTES], self._limits)
            self._checksum = self._lengths.begin()
            self._start += wire.PREFIX_BYTES
        if self._header is None and not self._read_header(self._lengths):
            return None
        assert self._header is not None
        if not self._granted:
            self._granted = self._grant(wire.PREFIX_BYTES + self._lengths.header + self._lengths.payload)
        if not self._granted or not self._read_payloads(self._header):
            return None
        self._checksum.hold_against(self._lengths, self._sizes)
        return self._done(self._header, self._lengths)

    def _read_header(self, lengths: wire.Lengths) -> bool:
        if self._header_room is None and self._end - self._start >= lengths.header:
            data: memoryview | bytearray = self._stage[self._start : self._start + lengths.header]
            self._checksum.add_header(data)
            self._start += lengths.header
        elif lengths.header + wire.PREFIX_BYTES <= STAGE_BYTES:
            return False  # it will fit behind what is staged already
        elif self._header_room is None:
            self._header_room = bytearray(lengths.header)
            return self._fill(memoryview(self._header_room)) and self._read_header(lengths)
        else:
            data = self._header_room
        self._header = wire.decode_header(data, lengths.payload, self._limits)
        self._header_room = None
        self._buffers = []
        return True

    def _read_payloads(self, header: wire.Header) -> bool:
        while len(self._buffers) < len(header.payloads):
            spec = header.payloads[len(self._buffers)]
            room = nobodys(spec.nbytes) if self._sizes else memoryview(np.empty(spec.nbytes, np.uint8))  # type: ignore[arg-type]
            self._buffers.append(room)
            if spec.nbytes and not self._fill(room):
                return False
        return True

    def _fill(self, room: memoryview) -> bool:
        """Start filling `room`, first from the stage; False when the stream has to bring the rest."""
        staged = min(self._end - self._start, len(room))
        room[:staged] = self._stage[self._start : self._start + staged]
        self._start += staged
        self._count(room[:staged])
        if staged == len(room):
            return True
        self._target, self._filled = room, staged
        self._start = self._end = 0
        return False

    def _count(self, data: memoryview) -> None:
        """The next bytes of a long header or of a tensor have come: they count for the checksum."""
        if self._header is None:
            self._checksum.add_header(data)
        elif not self._sizes:
            self._checksum.add(data)

    def _done(self, header: wire.Header, lengths: wire.Lengths) -> Frame:
        payloads = tuple(
            Payload(spec.dtype, spec.shape, spec.nbytes, None if self._sizes else room)
            for spec, room in zip(header.payloads, self._buffers, strict=True)
        )
        self._lengths, self._header, self._buffers, self._granted = None, None, [], False
        return Frame(header, payloads, wire.PREFIX_BYTES + lengths.header + lengths.payload)


_room = memoryview(bytearray())


def nobodys(nbytes: int) -> memoryview:
    """That much of the memory in which bytes come and go that mean nothing."""
    global _room
    if len(_room) < nbytes:
        _room = memoryview(bytearray(nbytes))
    return _room[:nbytes]
