"""Segmentation offload of network interfaces: switched by ioctl, and read back.

With offload on, one "packet" that queues and captures see may be 64 kB, and interface counters leave out the headers that the
real frames would have had.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct

FEATURES = {"tso": (0x1E, 0x1F), "gso": (0x23, 0x24), "gro": (0x2B, 0x2C)}
"""Name -> (get, set) command of linux/ethtool.h: segmentation by the sender's device, by its stack; merging at the receiver."""

_SIOCETHTOOL = 0x8946
_GTXCSUM, _STXCSUM = 0x16, 0x17


def read(interface: str) -> dict[str, bool]:
    """Which features are on. The interface is looked for in the calling thread's network namespace. Raises OSError."""
    return {name: bool(_command(interface, get)) for name, (get, _) in FEATURES.items()}


def switch(interface: str, on: bool) -> dict[str, bool]:
    """Switch all features on or off and return what is in force after that. Raises OSError."""
    for _, change in FEATURES.values():
        _command(interface, change, int(on))
    return read(interface)


def checksum(interface: str) -> None:
    """Have the kernel compute the checksum of every frame before it leaves through an interface. Raises OSError."""
    _command(interface, _STXCSUM, 0)
    if _command(interface, _GTXCSUM):
        raise OSError(f"{interface} cannot be made to send frames with their checksums")


def _command(interface: str, command: int, value: int = 0) -> int:
    """struct ethtool_value {command, data}, passed by address in struct ifreq."""
    data = array.array("B", struct.pack("II", command, value))
    address, _ = data.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCETHTOOL, struct.pack("16sP16x", interface.encode(), address))
    return int(struct.unpack("II", data.tobytes())[1])
