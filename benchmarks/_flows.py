"""Messages over a warm TCP connection between two hosts of an emulated network, timed from first byte sent to last byte received.

Both ends read the same clock (one machine), so one-way times need no reply.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from testbed.backends.emulated import EmulatedNetwork
from topologies.addresses import address

PORT = 5900
_CHUNK = 1 << 18


def ideal_s(size: int, rate_bps: float) -> float:
    """Seconds of a message at a rate: 1448 bytes of payload in each frame of 1514."""
    return size * 8.0 / (rate_bps * 1448.0 / 1514.0)


@dataclass(frozen=True)
class Flow:
    """A connection that is about to carry messages: see `open_flow`."""

    sender: int
    receiver: int
    results: int

    def times_s(self) -> list[float]:
        """Wait for the end; seconds of every message."""
        with os.fdopen(self.results) as pipe:
            found = [float(x) for x in json.load(pipe)]
        for pid in (self.sender, self.receiver):
            if os.waitpid(pid, 0)[1] != 0:
                raise RuntimeError("a benchmark's end failed")
        return found


def open_flow(
    network: EmulatedNetwork, source: str, target: str, sizes: Sequence[int], congestion_control: str = "cubic"
) -> Flow:
    """Start a flow of messages, one after the other: each is sent when the one before has arrived and the link is idle."""
    ready, tell = os.pipe()
    results, write = os.pipe()

    def receive() -> None:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("0.0.0.0", PORT))
            listener.listen()
            os.write(tell, b"r")
            connection, _ = listener.accept()
        buffer = bytearray(_CHUNK)
        times = []
        with connection:
            for size in sizes:
                start = struct.unpack("d", _exactly(connection, 8))[0]
                left = size - 8
                while left > 0:
                    count = connection.recv_into(buffer, min(left, _CHUNK))
                    if count == 0:
                        raise EOFError
                    left -= count
                times.append(time.monotonic() - start)
                connection.sendall(b"k")
        os.write(write, json.dumps(times).encode())

    def send() -> None:
        with socket.socket() as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion_control.encode())
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.connect((address(network.layout, target, source), PORT))
            for size in sizes:
                time.sleep(0.02)  # the queue and the bucket are idle again
                message = bytearray(size)
                struct.pack_into("d", message, 0, time.monotonic())
                connection.sendall(message)
                _exactly(connection, 1)

    receiver = _fork(network, target, receive, (ready, results))
    os.close(tell)
    os.close(write)
    os.read(ready, 1)
    os.close(ready)
    sender = _fork(network, source, send, (results,))
    return Flow(sender, receiver, results)


def _fork(network: EmulatedNetwork, host: str, function: Callable[[], None], unused: Sequence[int]) -> int:
    def run() -> None:
        for descriptor in unused:
            os.close(descriptor)
        function()

    return network.fork(host, run)


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data
