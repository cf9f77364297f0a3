"""Packet sockets of another process: how many bytes of frames the kernel keeps for it while it waits for a CPU.

A switch in user space reads its ports' frames from such sockets and has no setting for their size; a frame that finds one full is
lost. So they are borrowed from it (`pidfd_getfd`, Linux 5.6) and widened. Which process, and by how much, is left to the caller.
"""

from __future__ import annotations

import ctypes
import os
import socket
from contextlib import closing, suppress
from pathlib import Path

from d3node.linux import call

ROOM_BYTES = 4 << 20
"""For a port of a switch: 1800 full frames, 0.2 s at 100 Mbit/s. The kernel's default, 90 of them, is full in the 10 ms that a
process may wait for a busy CPU."""

_SYS_PIDFD_GETFD = 438
_SO_RCVBUFFORCE = 33
_INODE = 8
"""Column of /proc/net/packet."""


def widen(pid: int, room_bytes: int = ROOM_BYTES) -> int | None:
    """Give a process's packet sockets in the caller's network namespace room for so many bytes (the kernel counts a full frame as
    2304); the room that the smallest has then: less than asked where only the machine's root may have more than
    `net.core.rmem_max`. None, and they stay as they are, where this kernel or user may not borrow them.
    """
    try:
        return min(_widened(pid, descriptor, room_bytes) for descriptor in _descriptors(pid))
    except OSError:
        return None


def _widened(pid: int, descriptor: int, room_bytes: int) -> int:
    process = os.pidfd_open(pid)
    try:
        borrowed = call("syscall", ctypes.c_long(_SYS_PIDFD_GETFD), process, descriptor, 0)
    finally:
        os.close(process)
    with closing(socket.socket(fileno=borrowed)) as made:
        for option in (socket.SO_RCVBUF, _SO_RCVBUFFORCE):
            with suppress(PermissionError):
                made.setsockopt(socket.SOL_SOCKET, option, room_bytes // 2)  # the kernel doubles it
        return made.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def _descriptors(pid: int) -> list[int]:
    """Those of a process's that are packet sockets of the calling thread's network namespace."""
    lines = Path("/proc/thread-self/net/packet").read_text(encoding="ascii").splitlines()[1:]
    known = {f"socket:[{line.split()[_INODE]}]" for line in lines}
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed by now
            if os.readlink(entry) in known:
                found.append(int(entry.name))
    return found
