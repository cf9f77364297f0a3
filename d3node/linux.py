"""The few Linux calls that Python 3.11 lacks: namespaces, and dying with one's parent.

What namespaces are used for is left to `d3node.zygote` and to the emulating backends.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
_PR_SET_PDEATHSIG = 1


def call(name: str, *arguments: object) -> int:
    """Call a function of the C library that answers below 0 on failure. Raises OSError with its errno."""
    result = int(getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    """Move the calling thread to new namespaces. Raises OSError."""
    call("unshare", ctypes.c_int(flags))


def enter(namespace: Path | str) -> None:
    """Move the calling thread into an existing namespace, given by its file under /proc. Raises OSError."""
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        call("setns", ctypes.c_int(descriptor), ctypes.c_int(0))
    finally:
        os.close(descriptor)


@contextmanager
def within(namespace: Path | str) -> Iterator[None]:
    """Run a block (of this thread) in another network namespace; sockets made there stay there. Raises OSError."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(namespace)
        yield
    finally:
        enter(f"/proc/self/fd/{own}")
        os.close(own)


def die_with_parent() -> None:
    """Have the kernel send SIGKILL to this process when the thread that forked it ends."""
    call("prctl", ctypes.c_int(_PR_SET_PDEATHSIG), ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
