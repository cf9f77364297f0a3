"""Asks the kernel for one queue discipline or class, by interface and handle, in the calling thread's network namespace.

pyroute2 can only list them: the kernel then describes those of every interface there is, which on a network of 32 hosts takes
longer than all else. What the answers mean is `testbed.backends.shaping`'s.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

from pyroute2.netlink.rtnl import RTM_GETQDISC, RTM_GETTCLASS
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

_REQUEST, _ECHO = 0x1, 0x8  # with "echo" the answer comes to the asker
_HEADER, _MESSAGE = struct.Struct("=IHHII"), struct.Struct("=BxxxiIII")  # struct nlmsghdr; struct tcmsg
_ANSWER_BYTES = 1 << 16
_MARSHAL = MarshalRtnl()


def qdisc(interface: int, handle: int) -> Any:
    """A queue discipline as pyroute2 describes it. Raises OSError where there is none."""
    return _ask(RTM_GETQDISC, interface, handle)


def tclass(interface: int, handle: int) -> Any:
    """A class of a queue discipline as pyroute2 describes it. Raises OSError where there is none."""
    return _ask(RTM_GETTCLASS, interface, handle)


def _ask(what: int, interface: int, handle: int) -> Any:
    length = _HEADER.size + _MESSAGE.size
    request = _HEADER.pack(length, what, _REQUEST | _ECHO, 1, 0) + _MESSAGE.pack(socket.AF_UNSPEC, interface, handle, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.send(request)
        answer = next(iter(_MARSHAL.parse(kernel.recv(_ANSWER_BYTES))))
    if answer["event"] == "NLMSG_ERROR":
        raise OSError(-answer["error"], f"interface {interface} has no queue or class {handle:#x}")
    return answer
