"""What a service manager wants of `d3node serve`: to be told when it is ready, and when it stops (systemd's Type=notify)."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> bool:
    """Tell the service manager ("READY=1", "STOPPING=1"); False where there is none."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect("\0" + address[1:] if address.startswith("@") else address)
            sock.sendall(state.encode())
        except OSError:
            return False
    return True
