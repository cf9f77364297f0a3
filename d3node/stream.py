"""A channel over one socket: the handshake, then frames, tensors received straight into memory of their own.

The handshake's rules are in `d3node.auth`, how bytes become frames in `d3node.frames`; making and accepting connections is
`d3node.tcp`'s business. The kernel writes large tensors into the memory that they keep, which is committed by the operating
system as it fills. With TLS (`d3node.tls`) everything passes through its memory first; the contract stays the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from d3node import wire
from d3node.admission import Budget, address_of
from d3node.auth import Handshake, refusal
from d3node.channel import Message, Spoiling, Transfer
from d3node.direct import LARGE_BYTES, DirectSocket
from d3node.errors import AuthenticationError, ChannelClosed, ChannelError, ProtocolError, WrongRole
from d3node.frames import Frame, FrameReader, nobodys
from d3node.inbox import Inbox
from d3node.tls import TlsLayer

ENCRYPTED_AT_ONCE: Final = 1 << 18
LINGER_S: Final = 2.0


class TcpChannel(asyncio.BufferedProtocol):
    """`d3node.channel.Channel` over a stream socket (TCP or Unix).

    `ready` is set once the handshake is through; it raises AuthenticationError, ProtocolError or ChannelClosed otherwise.
    `names` and `roles` are those of the peer's certificate, None without TLS. `role`: what a peer with a certificate must be.
    """

    def __init__(
        self,
        handshake: Handshake,
        limits: wire.Limits,
        peer: str = "",
        on_made: Callable[[TcpChannel], None] | None = None,
        sizes: bool = False,
        tls: TlsLayer | None = None,
        budget: Budget | None = None,
        role: str | None = None,
    ) -> None:
        self.peer = peer
        self.address = ""
        self.names: frozenset[str] | None = None
        self.roles: frozenset[str] | None = None
        self._role = role
        self._tls = tls
        self._cipher = memoryview(bytearray(ENCRYPTED_AT_ONCE)) if tls is not None else None
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
        self._inbox = Inbox(limits, budget or Budget(limits.buffered_bytes), self._stop_reading, self._go_on)
        self._reader = FrameReader(limits, self._inbox.grant, sizes)
        self._progress = 0
        self._seen_progress = 0
        self._waiter: asyncio.Future[None] | None = None
        self._error: ChannelError | None = None
        # writing
        self._writing = asyncio.Lock()
        self._spoil: Spoiling | None = None
        self._socket: DirectSocket | None = None

    # -- the Channel contract ------------------------------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        """Hand a message to the network in full. Raises ChannelClosed when the peer is gone, ProtocolError for illegal fields."""
        async with self._writing:
            sock = self._usable()
            head = wire.encode_head(message, self._loop.time(), self._sizes)
            size = len(head)
            views = [memoryview(head)]
            for payload in message.payloads:
                if payload.nbytes:
                    if payload.data is not None:
                        views.append(memoryview(payload.data).cast("B"))
                    elif self._sizes:
                        views.append(nobodys(payload.nbytes))
                    else:
                        raise ProtocolError("a tensor has no data to send: one host runs with tensors, another with sizes only")
                    size += payload.nbytes
            spoil, self._spoil = self._spoil, None
            if spoil is not None:
                views = [spoiled(views, spoil, self._sizes)]
            try:
                await (sock.write(views) if self._tls is None else self._write_encrypted(sock, self._tls, views, size))
            except (ChannelClosed, asyncio.CancelledError):
                self.abort()  # half a frame may be out: nothing that follows could be understood
                raise
            if spoil == "truncate":
                self.abort()
                raise ChannelClosed(f"the connection with {self.peer} was cut in the middle of a message, as asked")
            self.bytes_sent += size

    def spoil(self, how: Spoiling) -> None:
        """Fault injection: the next frame is corrupted, or half of it is sent and the connection aborted."""
        self._spoil = how

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
        return self._inbox.take()

    async def close(self) -> None:
        """Let what was sent arrive, then close; waits a short while for the peer to close its side too."""
        transport = self._transport
        self._inbox.release()
        if transport is None or self._closed.done():
            return
        self._end(ChannelClosed(f"the connection with {self.peer} was closed on this side"))
        if not transport.is_closing():
            timer = self._loop.call_later(LINGER_S, transport.abort)
            if self._tls is not None and not self._writing.locked():
                transport.write(self._tls.goodbye())
            transport.write_eof()
            # what still comes in is read and dropped: closing with unread bytes would reset the connection and lose what was sent
            self._inbox.clear()
            self._wake()
            self._inbox.retry()
            try:
                await asyncio.shield(self._closed)
            finally:
                timer.cancel()
                transport.abort()

    def abort(self) -> None:
        """Close at once; what was sent may be lost."""
        self._end(ChannelClosed(f"the connection with {self.peer} was aborted on this side"))
        self._inbox.release()
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    # -- callbacks of asyncio ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._socket = DirectSocket(self._loop, transport.get_extra_info("socket").fileno())
        self.address = address_of(transport.get_extra_info("peername"))
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
        return self._reader.room() if self._cipher is None else self._cipher

    def buffer_updated(self, nbytes: int) -> None:
        self._progress += 1
        if self._error is not None:
            self._reader.drop()
        elif self._tls is None or self._cipher is None:
            if not self._took(nbytes) and self._socket is not None and (room := self._reader.tensor_room) is not None:
                self._took(self._socket.read_more(room))
        else:
            if self._socket is not None and nbytes < len(self._cipher):
                nbytes += self._socket.read_more(self._cipher[nbytes:])
            self._tls.feed(self._cipher[:nbytes])
            self._decrypt()

    def _took(self, nbytes: int) -> bool:
        """So many bytes of the stream lie in their room now; whether that made something complete."""
        if not self._reader.took(nbytes):
            return False
        try:
            self._parse()
        except ChannelError as error:
            self._refuse(error)
        return True

    def eof_received(self) -> bool:
        middle = self._reader.middle
        self._fail(ChannelClosed(f"{self.peer} closed the connection" + (" in the middle of a message" if middle else "")))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(ChannelClosed(f"the connection with {self.peer} was lost" + (f": {exc}" if exc else "")))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._reader.drop()
        self._inbox.end()
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
                self.names, self.roles = tls.names, tls.roles
                if self._handshake is not None:
                    self._handshake.bind(tls.binding)
                self._open()
            while not self._inbox.paused and self._error is None:
                count = tls.read_into(self._reader.room())
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
        """Go as far as the received bytes reach: handshake, then frame after frame."""
        if self._handshake is not None:
            self._shake(self._handshake)
            if self._handshake is not None:
                return
        while not self._inbox.paused and self._error is None and (frame := self._reader.next()) is not None:
            self._deliver(frame)
        if self._timer is None and not self._inbox.paused and self._reader.middle:
            self._seen_progress = self._progress
            self._timer = self._loop.call_later(self._limits.stall_s, self._stalled)

    def _shake(self, handshake: Handshake) -> None:
        if self._role is not None and self.roles is not None and self._role not in self.roles:
            names = ", ".join(sorted(self.names or ()))
            raise WrongRole(f"the certificate of {names[:200]} does not say {self._role}: testbed hosts init --renew makes one")
        reply = handshake.feed(self._reader.staged())
        if reply:
            self._put(reply)
        if handshake.done:
            self._handshake = None
            self._reader.put(handshake.rest)
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if not self.ready.done():
                self.ready.set_result(None)

    def _deliver(self, frame: Frame) -> None:
        header = frame.header
        transfer = Transfer(sent_at=header.sent_at, received_at=self._loop.time(), wire_bytes=frame.size)
        self.bytes_received += frame.size
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._inbox.put(Message(header.kind, header.fields, frame.payloads, transfer), frame.size)
        self._wake()

    def _stop_reading(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def _go_on(self) -> None:
        """Nothing stops reading any more: what has come in already is looked at first."""
        if self._error is None:
            try:
                self._parse()
            except ChannelError as error:
                self._refuse(error)
            if self._tls is not None:
                self._decrypt()
        if not self._inbox.paused and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _stalled(self) -> None:
        self._timer = None
        if self._error is not None or self._inbox.paused:
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
        self._refuse(ChannelClosed(f"no handshake within {self._limits.handshake_s:g} s"))

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
            self._end(error)
            self._reader.drop()
        if not self.ready.done():
            self.ready.set_exception(error)
        self._wake()

    def _end(self, error: ChannelError) -> None:
        """From now on every call raises this error, or the first one."""
        if self._error is None:
            self._error = error
            self._inbox.ended = True

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


def spoiled(views: list[memoryview], how: Spoiling, sizes: bool) -> memoryview:
    """A frame as fault injection sends it: half of it, or all of it with one byte changed that its checksum covers."""
    head = len(views[0])
    frame = bytearray(b"".join(views))
    if how == "truncate":
        return memoryview(frame)[: len(frame) // 2]
    place = (wire.PREFIX_BYTES + head) // 2 if sizes or len(frame) == head else (head + len(frame)) // 2
    frame[place] ^= 0xFF
    return memoryview(frame)
