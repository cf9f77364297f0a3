"""A channel over one socket: frames are parsed as they come in, tensors are received straight into memory of their own.

The handshake's rules are in `d3node.auth`, the layout of frames in `d3node.wire`; making and accepting connections is
`d3node.tcp`'s business.

Small things (prefixes, headers, small tensors) pass through one staging buffer; the rest of a large tensor is read by the kernel
into the memory that the tensor keeps. That memory is asked for after the header has been validated and is committed by the
operating system as it fills. Where only the sizes of tensors matter (`sizes`), their bytes travel all the same, but are nobody's:
they come from, and go to, one piece of memory that all channels of the process share.

With TLS (`d3node.tls`) everything passes through its memory first; the contract stays the same.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

import numpy as np

from d3node import wire
from d3node.auth import Handshake, refusal
from d3node.channel import Message, Payload, Transfer
from d3node.direct import LARGE_BYTES, DirectSocket
from d3node.errors import AuthenticationError, ChannelClosed, ChannelError, ProtocolError
from d3node.tls import TlsLayer

STAGE_BYTES: Final = 1 << 16
ENCRYPTED_AT_ONCE: Final = 1 << 18
LINGER_S: Final = 2.0


class TcpChannel(asyncio.BufferedProtocol):
    """`d3node.channel.Channel` over a stream socket (TCP or Unix).

    `ready` is set once the handshake is through; it raises AuthenticationError, ProtocolError or ChannelClosed otherwise.
    `names` are those of the peer's certificate, None without TLS.
    """

    def __init__(
        self,
        handshake: Handshake,
        limits: wire.Limits,
        peer: str = "",
        on_made: Callable[[TcpChannel], None] | None = None,
        sizes: bool = False,
        tls: TlsLayer | None = None,
    ) -> None:
        self.peer = peer
        self.names: frozenset[str] | None = None
        self._tls = tls
        self._cipher = memoryview(bytearray(STAGE_BYTES)) if tls is not None else None
        self._sizes = sizes
        self.bytes_sent = 0
        self.bytes_received = 0
        self._loop = asyncio.get_running_loop()
        self._limits = limits
        self._handshake: Handshake | None = handshake
        self._on_made = on_made
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.ready.add_done_callback(_retrieve)
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        # reading
        self._stage = bytearray(STAGE_BYTES)
        self._view = memoryview(self._stage)
        self._start = self._end = 0
        self._target: memoryview | None = None
        self._filled = 0
        self._lengths: tuple[int, int] | None = None
        self._header: wire.Header | None = None
        self._header_room: bytearray | None = None
        self._buffers: list[memoryview] = []
        self._progress = 0
        self._seen_progress = 0
        # messages
        self._inbox: deque[tuple[Message, int]] = deque()
        self._inbox_bytes = 0
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._error: ChannelError | None = None
        # writing
        self._writing = asyncio.Lock()
        self._socket: DirectSocket | None = None

    # -- the Channel contract ------------------------------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        """Hand a message to the network in full. Raises ChannelClosed when the peer is gone, ProtocolError for illegal fields."""
        async with self._writing:
            sock = self._usable()
            head = wire.encode_head(message, self._loop.time())
            size = len(head)
            views = [memoryview(head)]
            for payload in message.payloads:
                if payload.nbytes:
                    if payload.data is not None:
                        views.append(memoryview(payload.data).cast("B"))
                    elif self._sizes:
                        views.append(_nobodys(payload.nbytes))
                    else:
                        raise ProtocolError("a tensor has no data to send: one host runs with tensors, another with sizes only")
                    size += payload.nbytes
            try:
                await (sock.write(views) if self._tls is None else self._write_encrypted(sock, self._tls, views, size))
            except (ChannelClosed, asyncio.CancelledError):
                self.abort()  # half a frame may be out: nothing that follows could be understood
                raise
            self.bytes_sent += size

    async def _write_encrypted(self, sock: DirectSocket, tls: TlsLayer, views: list[memoryview], size: int) -> None:
        if size <= ENCRYPTED_AT_ONCE:
            views = [memoryview(b"".join(views))]
        for view in views:
            for start in range(0, len(view), ENCRYPTED_AT_ONCE):
                await sock.push([memoryview(tls.encrypt(view[start : start + ENCRYPTED_AT_ONCE]))])
        if size >= LARGE_BYTES:
            await sock.settle()

    async def receive(self) -> Message:
        """Next message. Raises ChannelClosed at the end of the stream and ProtocolError on an illegal frame."""
        while not self._inbox:
            if self._error is not None:
                raise type(self._error)(str(self._error))
            if self._waiter is not None:
                raise RuntimeError("a channel has one reader at a time")
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        message, size = self._inbox.popleft()
        self._inbox_bytes -= size
        if self._paused:
            self._resume()
        return message

    async def close(self) -> None:
        """Let what was sent arrive, then close; waits a short while for the peer to close its side too."""
        transport = self._transport
        if transport is None or self._closed.done():
            return
        if self._error is None:
            self._error = ChannelClosed(f"the connection with {self.peer} was closed on this side")
        if not transport.is_closing():
            timer = self._loop.call_later(LINGER_S, transport.abort)
            if self._tls is not None and not self._writing.locked():
                transport.write(self._tls.goodbye())
            transport.write_eof()
            # what still comes in is read and dropped: closing with unread bytes would reset the connection and lose what was sent
            self._inbox.clear()
            self._inbox_bytes = 0
            self._wake()
            if self._paused:
                self._resume()
            try:
                await asyncio.shield(self._closed)
            finally:
                timer.cancel()
                transport.abort()

    def abort(self) -> None:
        """Close at once; what was sent may be lost."""
        if self._error is None:
            self._error = ChannelClosed(f"the connection with {self.peer} was aborted on this side")
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    # -- callbacks of asyncio ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._socket = DirectSocket(self._loop, transport.get_extra_info("socket").fileno())
        if not self.peer:
            self.peer = _name(transport.get_extra_info("peername"))
        if self._tls is None:
            self._open()
        else:
            self._decrypt()
        self._timer = self._loop.call_later(self._limits.handshake_s, self._handshake_late)
        if self._on_made is not None:
            self._on_made(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._room() if self._cipher is None else self._cipher

    def buffer_updated(self, nbytes: int) -> None:
        self._progress += 1
        if self._error is not None:
            self._target, self._start, self._end = None, 0, 0
        elif self._tls is None or self._cipher is None:
            self._took(nbytes)
        else:
            self._tls.feed(self._cipher[:nbytes])
            self._decrypt()

    def _room(self) -> memoryview:
        """Where the stream's next bytes belong."""
        return self._view[self._end :] if self._target is None else self._target[self._filled :]

    def _took(self, nbytes: int) -> None:
        """So many bytes of the stream lie in their room now."""
        if self._target is None:
            self._end += nbytes
        else:
            self._filled += nbytes
            if self._filled < len(self._target) and self._socket is not None and self._tls is None:
                self._filled += self._socket.read_more(self._target[self._filled :])
            if self._filled < len(self._target):
                return
            self._target = None
        try:
            self._parse()
        except ChannelError as error:
            self._refuse(error)

    def eof_received(self) -> bool:
        middle = self._lengths is not None or self._end > self._start
        self._fail(ChannelClosed(f"{self.peer} closed the connection" + (" in the middle of a message" if middle else "")))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(ChannelClosed(f"the connection with {self.peer} was lost" + (f": {exc}" if exc else "")))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._target, self._buffers, self._header_room, self._header = None, [], None, None
        if not self._closed.done():
            self._closed.set_result(None)
        if self._socket is not None:
            self._socket.close(str(self._error))

    # -- TLS -----------------------------------------------------------------------------------------------------------------

    def _decrypt(self) -> None:
        """Go as far as the received bytes reach: TLS's handshake, then what it carries."""
        tls = self._tls
        assert tls is not None
        assert self._transport is not None
        try:
            if not tls.established:
                try:
                    through = tls.shake()
                finally:
                    if out := tls.take():
                        self._transport.write(out)
                if not through:
                    return
                self.names = tls.names
                if self._handshake is not None:
                    self._handshake.bind(tls.binding)
                self._open()
            while not self._paused and self._error is None:
                count = tls.read_into(self._room())
                if count is None:
                    break
                if count == 0:
                    self.eof_received()
                    self._transport.close()
                    break
                self._took(count)
        except ChannelError as error:
            self._refuse(error)

    def _open(self) -> None:
        """Begin the handshake with the run's secret."""
        if self._handshake is not None and (opening := self._handshake.start()):
            self._put(opening)

    def _put(self, data: bytes) -> None:
        """Send bytes of the handshake."""
        if self._transport is not None:
            self._transport.write(data if self._tls is None else self._tls.encrypt(data))

    # -- reading -------------------------------------------------------------------------------------------------------------

    def _parse(self) -> None:
        """Go as far as the received bytes reach: handshake, then prefix, header, tensors of frame after frame."""
        if self._handshake is not None:
            self._shake(self._handshake)
            if self._handshake is not None:
                return
        while not self._paused and self._error is None:
            if self._lengths is None:
                if self._end - self._start < wire.PREFIX_BYTES:
                    break
                self._lengths = wire.decode_prefix(self._view[self._start : self._start + wire.PREFIX_BYTES], self._limits)
                self._start += wire.PREFIX_BYTES
            if self._header is None and not self._read_header(*self._lengths):
                break
            if not self._read_payloads():
                break
            self._deliver()
        if self._target is None and self._start:
            kept = self._end - self._start
            if kept:
                self._view[:kept] = self._view[self._start : self._end]
            self._start, self._end = 0, kept
        if self._timer is None and not self._paused and (self._lengths is not None or self._end):
            self._seen_progress = self._progress
            self._timer = self._loop.call_later(self._limits.stall_s, self._stalled)

    def _shake(self, handshake: Handshake) -> None:
        data = bytes(self._view[self._start : self._end])
        self._start = self._end = 0
        reply = handshake.feed(data)
        if reply:
            self._put(reply)
        if handshake.done:
            self._handshake = None
            self._end = len(handshake.rest)
            self._view[: self._end] = handshake.rest
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if not self.ready.done():
                self.ready.set_result(None)

    def _read_header(self, length: int, payload_length: int) -> bool:
        if self._header_room is None and self._end - self._start >= length:
            data: memoryview | bytearray = self._view[self._start : self._start + length]
            self._start += length
        elif length + wire.PREFIX_BYTES <= STAGE_BYTES:
            return False  # it will fit behind what is staged already
        elif self._header_room is None:
            self._header_room = bytearray(length)
            return self._fill(memoryview(self._header_room)) and self._read_header(length, payload_length)
        else:
            data = self._header_room
        header = wire.decode_header(data, payload_length, self._limits)
        if self._inbox_bytes and self._inbox_bytes + payload_length > self._limits.buffered_bytes:
            self._pause()
        self._header = header
        self._header_room = None
        self._buffers = []
        return not self._paused

    def _read_payloads(self) -> bool:
        assert self._header is not None
        while len(self._buffers) < len(self._header.payloads):
            spec = self._header.payloads[len(self._buffers)]
            room = _nobodys(spec.nbytes) if self._sizes else memoryview(np.empty(spec.nbytes, np.uint8))  # type: ignore[arg-type]
            self._buffers.append(room)
            if spec.nbytes and not self._fill(room):
                return False
        return True

    def _fill(self, room: memoryview) -> bool:
        """Start filling `room`, first from the stage; False when the socket has to bring the rest."""
        staged = min(self._end - self._start, len(room))
        room[:staged] = self._view[self._start : self._start + staged]
        self._start += staged
        if staged == len(room):
            return True
        self._start = self._end = 0
        self._target, self._filled = room, staged
        return False

    def _deliver(self) -> None:
        assert self._header is not None
        assert self._lengths is not None
        header = self._header
        size = wire.PREFIX_BYTES + self._lengths[0] + self._lengths[1]
        payloads = tuple(
            Payload(spec.dtype, spec.shape, spec.nbytes, None if self._sizes else room)
            for spec, room in zip(header.payloads, self._buffers, strict=True)
        )
        transfer = Transfer(sent_at=header.sent_at, received_at=self._loop.time(), wire_bytes=size)
        self._inbox.append((Message(header.kind, header.fields, payloads, transfer), size))
        self._inbox_bytes += size
        self.bytes_received += size
        self._lengths, self._header, self._buffers = None, None, []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._inbox_bytes >= self._limits.buffered_bytes:
            self._pause()
        self._wake()

    def _pause(self) -> None:
        self._paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._inbox_bytes >= self._limits.buffered_bytes:
            return
        if self._inbox and self._lengths is not None and self._inbox_bytes + self._lengths[1] > self._limits.buffered_bytes:
            return
        self._paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
        if self._error is None:
            try:
                self._parse()
            except ChannelError as error:
                self._refuse(error)
            if self._tls is not None:
                self._decrypt()

    def _stalled(self) -> None:
        self._timer = None
        if self._error is not None or self._paused:
            return
        if self._progress != self._seen_progress:
            self._seen_progress = self._progress
            self._timer = self._loop.call_later(self._limits.stall_s, self._stalled)
            return
        error = ProtocolError(f"{self.peer} stopped in the middle of a message for {self._limits.stall_s:g} s")
        self._fail(error)
        if self._transport is not None:
            self._transport.abort()

    # -- ends ----------------------------------------------------------------------------------------------------------------

    def _handshake_late(self) -> None:
        self._timer = None
        self._refuse(AuthenticationError(f"no handshake within {self._limits.handshake_s:g} s"))

    def refuse_handshake(self, text: str) -> None:
        """Turn a peer away before it has proved anything."""
        self._refuse(AuthenticationError(text))

    def _refuse(self, error: ChannelError) -> None:
        """The peer broke a rule: stop listening to it. In the handshake it gets the reason; later the agent tells it."""
        handshake = self._handshake
        self._fail(error)
        transport = self._transport
        if handshake is None or transport is None or transport.is_closing():
            return
        if handshake.role == "server" and (self._tls is None or self._tls.established):
            self._put(handshake.last_words or refusal(str(error)))
        transport.close()

    def _fail(self, error: ChannelError) -> None:
        if self._error is None:
            self._error = error
            self._target, self._start, self._end = None, 0, 0
            self._buffers, self._header_room = [], None
        if not self.ready.done():
            self.ready.set_exception(error)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _usable(self) -> DirectSocket:
        if self._socket is None or self._transport is None or self._transport.is_closing() or self._closed.done():
            raise ChannelClosed(str(self._error or f"the connection with {self.peer} is closed"))
        if isinstance(self._error, ChannelClosed):
            raise ChannelClosed(str(self._error))
        return self._socket


def _name(address: object) -> str:
    if isinstance(address, tuple) and len(address) >= 2:
        return f"{address[0]}:{address[1]}"
    return str(address or "a local peer")


def _retrieve(future: asyncio.Future[None]) -> None:
    """Mark an unawaited failure as seen."""
    if not future.cancelled():
        future.exception()


_room = memoryview(bytearray())


def _nobodys(nbytes: int) -> memoryview:
    """That much of the memory in which bytes come and go that mean nothing."""
    global _room
    if len(_room) < nbytes:
        _room = memoryview(bytearray(nbytes))
    return _room[:nbytes]
