"""Records the frames that leave one or two ports into a pcap file, and knows how many it missed.

A process of its own (`python -m testbed.backends.capture FILE PORT...`) with packet sockets that see outgoing frames only, after
the queue: what the HTB class of that port counts. The kernel's own drop count of the sockets is part of its report, so that no
frame is missing unnoticed. SIGTERM ends it; the last line on its standard output is the report in JSON.
Reading the file is in `testbed.backends.pcap`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

KEPT_BYTES = 128
"""Bytes kept of each frame: all headers, and the first words of the payload."""

_ETH_P_ALL = 3
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_RECEIVE_BUFFER = 64 * 1024 * 1024
_OUTGOING = (
    (0x28, 0, 0, 0xFFFFF004),  # ldh [SKF_AD_OFF + SKF_AD_PKTTYPE]
    (0x15, 0, 1, 4),  # jeq PACKET_OUTGOING
    (0x06, 0, 0, 0x40000),  # accept, whole
    (0x06, 0, 0, 0),  # drop
)
"""Classic BPF: frames that leave through the port."""


def main(arguments: Sequence[str]) -> int:
    """Capture until SIGTERM; prints "ready" once every socket is open, and the report at the end."""
    path, *ports = arguments
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop, wake = os.pipe()
    signal.signal(signal.SIGTERM, lambda *_: os.write(wake, b"x"))
    selector = selectors.DefaultSelector()
    selector.register(stop, selectors.EVENT_READ)
    sockets = [_open(port) for port in ports]
    for one in sockets:
        selector.register(one, selectors.EVENT_READ)
    with Path(path).open("wb", buffering=1 << 20) as file:
        file.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, KEPT_BYTES, 1))  # nanosecond pcap, Ethernet
        file.flush()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        frames = _record(selector, file, stop)
    missed = sum(struct.unpack("II", one.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))[1] for one in sockets)
    sys.stdout.write(json.dumps({"frames": frames, "missed": missed}) + "\n")
    return 0


def _open(port: str) -> socket.socket:
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    with contextlib.suppress(PermissionError):  # root of a user namespace only: the system's limit for buffers holds
        packets.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    code = b"".join(struct.pack("HBBI", *step) for step in _OUTGOING)
    program = ctypes.create_string_buffer(code, len(code))
    packets.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_OUTGOING), ctypes.addressof(program)))
    packets.bind((port, _ETH_P_ALL))
    packets.setblocking(False)
    return packets


def _record(selector: selectors.BaseSelector, file: IO[bytes], stop: int) -> int:
    """Write frames until the stop pipe is readable and all sockets are empty; how many there were."""
    buffer = bytearray(KEPT_BYTES)
    view = memoryview(buffer)
    header = struct.Struct("<IIII").pack
    clock = time.time_ns
    frames = 0
    while True:
        ready = selector.select()
        stopping = any(key.fd == stop for key, _ in ready)
        packets = [key.fileobj for key in selector.get_map().values() if key.fd != stop]
        for source in packets:
            assert isinstance(source, socket.socket)
            while True:
                try:
                    length, _ = source.recvfrom_into(buffer, KEPT_BYTES, socket.MSG_TRUNC)
                except BlockingIOError:
                    break
                now = clock()
                kept = min(length, KEPT_BYTES)
                file.write(header(now // 1_000_000_000, now % 1_000_000_000, kept, length))
                file.write(view[:kept])
                frames += 1
        if stopping:
            return frames


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
