"""TCP connections between two hosts of an emulated network, with both ends in this process, so that one clock times both.

A message's time is from before its first byte is given to the kernel to after its last byte was read at the other end: one way,
without a reply. In virtual time everything that this process does in between costs some nanoseconds.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from d3node.linux import within
from testbed.errors import RunError

PORT = 5900
_CHUNK = 1 << 18
_PATIENCE_S = 600.0
"""Seconds without a byte after which a transfer is given up; the slowest message of a matrix needs them for its frames."""


class Connection:
    """One open connection; `sender` is on the source host, `receiver` on the target."""

    def __init__(self, sender: socket.socket, receiver: socket.socket) -> None:
        self.sender, self.receiver = sender, receiver
        for end in (sender, receiver):
            end.settimeout(_PATIENCE_S)
        self._buffer = bytearray(_CHUNK)

    @classmethod
    def open(cls, namespaces: Mapping[str, Path], source: str, target: str, address: str, congestion: str) -> Connection:
        """Connect two hosts; returns when the handshake is over. Raises OSError."""
        with within(namespaces[target]):
            listener = socket.socket()
        with listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
            listener.bind((address, 0))
            listener.listen(1)
            with within(namespaces[source]):
                sender = socket.socket()
            sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
            sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sender.settimeout(_PATIENCE_S)
            sender.connect((address, listener.getsockname()[1]))
            receiver, _ = listener.accept()
        return cls(sender, receiver)

    def message(self, size: int) -> float:
        """Send a message when nothing else is on its way; seconds until its last byte was read. Raises RunError, OSError."""
        ends: list[float] = []
        reading = threading.Thread(target=self._read, args=(size, ends))
        payload = memoryview(bytes(size))
        reading.start()
        start = time.monotonic()
        self.sender.sendall(payload)
        reading.join()
        if not ends:
            raise RunError(f"a message of {size} bytes did not arrive within {_PATIENCE_S:g} s")
        return ends[0] - start

    def _read(self, left: int, ends: list[float]) -> None:
        try:
            while left > 0:
                count = self.receiver.recv_into(self._buffer, min(left, _CHUNK))
                if count == 0:
                    return
                left -= count
        except TimeoutError:
            return
        ends.append(time.monotonic())

    def greedy(self, seconds: float, arrived: Callable[[float, int], None]) -> None:
        """Send as fast as the network takes it for so long, and call `arrived` with moment and bytes of every read."""
        end = time.monotonic() + seconds

        def read() -> None:
            while count := self.receiver.recv_into(self._buffer):
                arrived(time.monotonic(), count)

        reading = threading.Thread(target=read)
        reading.start()
        payload = memoryview(bytes(_CHUNK))
        self.sender.settimeout(1.0)  # an outage may be longer than that
        while (left := end - time.monotonic()) > 0.0:
            try:
                self.sender.settimeout(left)
                self.sender.send(payload)
            except TimeoutError:
                break
        arrived(time.monotonic(), 0)
        self.close()
        reading.join()

    @property
    def congestion(self) -> str:
        """The congestion control that the sender uses."""
        return self.sender.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()

    @property
    def window(self) -> int:
        """The congestion window, in segments."""
        return self._info(80)

    @property
    def resent(self) -> int:
        """Segments that were sent again since the connection began."""
        return self._info(100)

    def _info(self, offset: int) -> int:
        """A field of Linux's struct tcp_info."""
        data = self.sender.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        return int(struct.unpack_from("I", data, offset)[0])

    def close(self) -> None:
        """End it at once; what is on its way is dropped by the receiver."""
        self.sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sender.close()
        self.receiver.shutdown(socket.SHUT_RD)


class Arrived:
    """Counts the bytes of all frames that a host has received; a look at it costs one read of a file."""

    def __init__(self, namespace: Path) -> None:
        with within(namespace):
            self._file = open("/proc/thread-self/net/dev", "rb", buffering=0)  # noqa: SIM115 (it stays that namespace's)

    @property
    def bytes(self) -> int:
        """Total since the host began."""
        self._file.seek(0)
        lines = (line.split(b":") for line in self._file.read().splitlines() if b":" in line)
        return sum(int(fields.split()[0]) for name, fields in lines if name.strip() != b"lo")

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
