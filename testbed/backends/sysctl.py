"""Settings of a network namespace under /proc/sys/net: those every namespace of an emulated network has, and a way to set any."""

from __future__ import annotations

from pathlib import Path

from testbed.errors import BackendError

QUIET = {
    "net.ipv6.conf.all.disable_ipv6": "1",  # neighbour discovery would put frames on links that nobody asked for
    "net.ipv6.conf.default.disable_ipv6": "1",
    "net.ipv4.igmp_link_local_mcast_reports": "0",  # a bridge that comes up would tell all hosts of its groups
}
"""Settings of every namespace."""


def sysctl(name: str, value: str) -> None:
    """Set a setting of the calling thread's network namespace. Raises BackendError unless it is in force then."""
    path = Path("/proc/sys") / name.replace(".", "/")
    try:
        path.write_text(value)
        found = path.read_text().strip()
    except OSError as error:
        if "ipv6" in name and not path.parent.exists():
            return  # a kernel without IPv6 has nothing to switch off
        raise BackendError(f"cannot set {name} = {value} in a network namespace: {error}") from error
    if found != value:
        raise BackendError(f"{name} should be {value}, the kernel says {found}")
