"""Real sockets as a `Transport`: "host:port" and "unix:/path" addresses, TCP_NODELAY, chosen congestion control.

What travels on a connection, and the handshake that opens it, are in `d3node.stream`. Refused peers never reach the handler.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Literal

from d3node.admission import Admission, Budget
from d3node.auth import Handshake
from d3node.channel import Handler, attend
from d3node.errors import AuthenticationError, ChannelClosed, ChannelError, WrongRole
from d3node.stream import TcpChannel
from d3node.tls import Tls, TlsLayer
from d3node.wire import Limits

log = logging.getLogger("d3node.tcp")
BACKLOG: Final = 128
KEEPALIVE_S: Final = 30.0
"""For the control plane between machines: who orchestrates may lose its power or its network without a word."""


class TcpTransport:
    """Makes and accepts channels whose peers know `secret`.

    `congestion_control`: a name such as "cubic" for every TCP connection; None leaves the system's default. `sizes`: tensors
    without data may be sent, as bytes that mean nothing, and arrive without data. `tls`: certificates for every TCP connection
    (Unix sockets never use TLS); a server's certificate must be for the name or address that is dialled. `keepalive_s`: a TCP
    peer whose machine has not been heard of for about so long is lost, also where nothing is said; None leaves that to the
    system (hours, or never). `admits`: the role that the certificates of those who dial must name (`d3node.tls`). Raises
    AuthenticationError for an empty secret.
    """

    def __init__(
        self,
        secret: bytes,
        congestion_control: str | None = None,
        limits: Limits | None = None,
        sizes: bool = False,
        tls: Tls | None = None,
        keepalive_s: float | None = None,
        admits: str | None = None,
    ) -> None:
        if not secret:
            raise AuthenticationError("the run's secret is empty")
        self._secret = secret
        self._keepalive_s = keepalive_s
        self._congestion_control = congestion_control
        self._limits = limits or Limits()
        self._sizes = sizes
        self._tls = tls
        self._admits = admits
        self._budget = Budget(self._limits.all_buffered_bytes)

    async def connect(self, address: str, *, deadline_s: float = 10.0) -> TcpChannel:
        """Dial an address. Raises ChannelError (unreachable, late), AuthenticationError or ProtocolError (refused)."""
        loop = asyncio.get_running_loop()
        limits = replace(self._limits, handshake_s=min(deadline_s, self._limits.handshake_s))

        def make() -> TcpChannel:
            handshake, tls = Handshake("client", self._secret), self._layer("client", address)
            return TcpChannel(handshake, limits, peer=address, sizes=self._sizes, tls=tls, budget=self._budget)

        channel: TcpChannel | None = None
        try:
            async with asyncio.timeout(deadline_s):
                if address.startswith("unix:"):
                    _, channel = await loop.create_unix_connection(make, _path(address))
                else:
                    host, port = split_address(address)
                    sock = await self._dial(host, port)
                    _, channel = await loop.create_connection(make, sock=sock)
                await channel.ready
        except TimeoutError:
            if channel is not None:
                channel.abort()
            raise ChannelError(f"{address} did not answer within {deadline_s:g} s") from None
        except OSError as error:
            raise ChannelError(f"cannot connect to {address}: {error.strerror or error}") from error
        except ValueError as error:  # a name that cannot be one, for the resolver or in a path
            raise ChannelError(f"cannot connect to {address!r}: {error}") from error
        except BaseException:
            if channel is not None:
                channel.abort()
            raise
        return channel

    async def listen(self, address: str, handler: Handler) -> TcpListener:
        """Accept channels; `handler` runs once for each peer that passed the handshake, which is closed when it returns.

        Port 0 takes a free port: the listener's `address` has it. Raises ChannelError when the address is in use or not ours.
        """
        listener = TcpListener(handler, self._limits)
        loop = asyncio.get_running_loop()

        def make() -> TcpChannel:
            handshake, tls = Handshake("server", self._secret), self._layer("server", address)
            more = {"sizes": self._sizes, "tls": tls, "budget": self._budget, "role": self._admits}
            return TcpChannel(handshake, self._limits, on_made=listener.accept, **more)  # type: ignore[arg-type]

        try:
            if address.startswith("unix:"):
                path = _path(address)
                _clear_stale(path)
                listener.server = await loop.create_unix_server(make, path, backlog=BACKLOG)
                os.chmod(path, stat.S_IRUSR | stat.S_IWUSR)
                listener.address, listener.path = address, path
            else:
                host, port = split_address(address)
                listener.server = await self._serve(loop, make, host, port)
                bound = listener.server.sockets[0].getsockname()
                listener.address = f"[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"{bound[0]}:{bound[1]}"
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ChannelError(f"{address} is in use: stop what listens there, or choose another address") from error
            raise ChannelError(f"cannot listen on {address}: {error.strerror or error}") from error
        except ValueError as error:
            raise ChannelError(f"cannot listen on {address!r}: {error}") from error
        return listener

    def _layer(self, role: Literal["client", "server"], address: str) -> TlsLayer | None:
        if self._tls is None or address.startswith("unix:"):
            return None
        return TlsLayer(self._tls, role, split_address(address)[0] if role == "client" else None)

    async def _dial(self, host: str, port: int) -> socket.socket:
        loop = asyncio.get_running_loop()
        last: OSError | None = None
        for family, kind, protocol, _, where in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            sock = socket.socket(family, kind, protocol)
            try:
                sock.setblocking(False)
                self._prepare(sock)
                await loop.sock_connect(sock, where)
            except OSError as error:
                sock.close()
                last = error
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        raise last or OSError(f"no address for {host}")

    async def _serve(
        self, loop: asyncio.AbstractEventLoop, make: Callable[[], TcpChannel], host: str, port: int
    ) -> asyncio.Server:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, where = found[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._prepare(sock)
            sock.bind(where)
            return await loop.create_server(make, sock=sock, backlog=BACKLOG)
        except BaseException:
            sock.close()
            raise

    def _prepare(self, sock: socket.socket) -> None:
        """Options of a TCP socket; accepted connections inherit them from the listening one."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._keepalive_s is not None:
            _keep_alive(sock, self._keepalive_s)
        if self._congestion_control is None:
            return
        option = getattr(socket, "TCP_CONGESTION", None)
        if option is None:
            raise ChannelError("this system cannot choose a connection's congestion control; leave it out")
        try:
            sock.setsockopt(socket.IPPROTO_TCP, option, self._congestion_control.encode())
        except OSError as error:
            raise ChannelError(
                f"this kernel does not let us use congestion control {self._congestion_control!r} ({error.strerror});"
                f" it offers: {_offered()}"
            ) from error


class TcpListener:
    """A listening endpoint; every accepted channel has a task that runs the handler and then closes it."""

    def __init__(self, handler: Handler, limits: Limits) -> None:
        self.address = ""
        self.path: str | None = None
        self.server: asyncio.Server | None = None
        self._handler = handler
        self._admission = Admission(limits)
        self._tasks: set[asyncio.Task[None]] = set()

    def accept(self, channel: TcpChannel) -> None:
        """Called by the channel once its connection is made."""
        loop = asyncio.get_running_loop()
        if (reason := self._admission.enter(channel.address, loop.time())) is not None:
            channel.refuse_handshake(reason)
            return
        task = loop.create_task(self._attend(channel))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _attend(self, channel: TcpChannel) -> None:
        proved = False
        try:
            await channel.ready
            proved = True
        except ChannelError as error:
            log.log(logging.WARNING if isinstance(error, WrongRole) else logging.INFO, "refused %s: %s", channel.peer, error)
            if not isinstance(error, ChannelClosed):  # who is slow, or goes away, has done nothing wrong
                self._admission.refused(channel.address, asyncio.get_running_loop().time())
        except asyncio.CancelledError:
            channel.abort()
            raise
        finally:
            self._admission.settled(channel.address, proved)
            if not proved:
                self._admission.leave(channel.address)
        if proved:
            try:
                await attend(self._handler, channel)
            finally:
                self._admission.leave(channel.address)

    async def close(self) -> None:
        """Stop accepting and end every handler."""
        if self.server is not None:
            self.server.close()
        if self.path is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
            self.path = None
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def split_address(address: str) -> tuple[str, int]:
    """ "host:port" or "[v6]:port" as (host, port). Raises ChannelError for anything else."""
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ChannelError(f'{address!r} is not an address: give "host:port" or "unix:/path"')
    return host, int(port)


def _keep_alive(sock: socket.socket, silent_s: float) -> None:
    """Have the kernel ask a silent peer three times in `silent_s`, and give up sending after that; as far as this system can."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    each_s = max(1, round(silent_s / 3.0))
    figures = {"TCP_KEEPIDLE": each_s, "TCP_KEEPINTVL": each_s, "TCP_KEEPCNT": 2, "TCP_USER_TIMEOUT": round(silent_s * 1e3)}
    for name, figure in figures.items():
        if (option := getattr(socket, name, None)) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, figure)


def _path(address: str) -> str:
    path = address.removeprefix("unix:")
    if not path or "\0" in path or len(os.fsencode(path)) > 107:
        raise ChannelError(f"{address!r}: a Unix socket needs a path of 1 to 107 bytes, none of them zero")
    return path


def _clear_stale(path: str) -> None:
    """Remove the socket file of a dead listener; leave a live one's (asyncio would take its place silently)."""
    if not os.path.exists(path):
        return
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(path)
    except ConnectionRefusedError:
        os.unlink(path)
    else:
        raise OSError(errno.EADDRINUSE, "in use")
    finally:
        probe.close()


def _offered() -> str:
    try:
        with open("/proc/sys/net/ipv4/tcp_available_congestion_control") as file:
            return file.read().strip()
    except OSError:
        return "(unknown)"
