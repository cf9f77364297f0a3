"""Looks whether a kernel is what the testbed needs: boots it, and tries its queues, links and clock from the inside.

`trial` runs in the guest, `verify` on the host; what to do about a kernel that fails is for the caller.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from testbed.kernel import guest
from testbed.kernel.boot import Job
from testbed.kernel.cache import Kernel
from testbed.kernel.guest import Limits

SLEEP_S = 10.0
"""Virtual seconds that the trial sleeps."""

SLEEP_COSTS_S = 1.0
"""Wall seconds that this may take."""

QDISCS: dict[str, dict[str, Any]] = {
    "netem": {"rate": 125_000, "delay_ns": 1_000_000, "jitter_ns": 0, "loss": 0.0, "limit": 1000, "seed": 1},
    "htb": {"default": 1},
    "tbf": {"rate": 125_000, "burst": 1514, "limit": 15_140},
    "bfifo": {"limit": 15_140},
}
_HANDLE = 0x10000


def trial(emit: Callable[..., None]) -> dict[str, Any]:
    """In the guest: what there is. Values are None where it works, else the kernel's words."""
    from pyroute2 import IPRoute

    from testbed.backends import shaping

    assert shaping  # teaches pyroute2 about bfifo and netem's newer options
    found: dict[str, Any] = {
        "congestion_control": Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
    }
    with IPRoute() as netlink:
        found["bridge"] = _words(lambda: netlink.link("add", kind="bridge", ifname="bridge"))
        found["veth"] = _words(lambda: netlink.link("add", kind="veth", ifname="trial0", peer={"ifname": "trial1"}))
        for name in QDISCS:
            found[name] = _words(partial(_queue, netlink, name))
    emit("sleeping")
    start = time.monotonic()
    time.sleep(SLEEP_S)
    found["slept_s"] = time.monotonic() - start
    emit("slept")
    return found


def _queue(netlink: Any, name: str) -> None:
    """A queue on an interface of its own."""
    netlink.link("add", kind="veth", ifname=f"{name}0", peer={"ifname": f"{name}1"})
    netlink.tc("add", name, netlink.link_lookup(ifname=f"{name}0")[0], handle=_HANDLE, **QDISCS[name])


def _words(call: Callable[[], Any]) -> str | None:
    try:
        call()
    except Exception as error:  # pyroute2 raises errors of its own and the system's
        return str(error) or type(error).__name__
    return None


def verify(kernel: Kernel) -> dict[str, Any]:
    """Boot a kernel and try it: facts, with "problems" (sentences; empty for a kernel that will do). Raises BackendError."""
    moments: dict[str, float] = {}
    begun = time.monotonic()
    outcome = guest.run(
        kernel,
        Job("testbed.backends.vkernel_check:trial", memory_mib=512),
        lambda event: moments.update({event["event"]: time.monotonic()}),
        Limits(wall_s=120.0),
    )
    tried = outcome.result
    costs_s = moments["slept"] - moments["sleeping"]
    problems = [f"{name} does not work: {tried[name]}" for name in ("veth", "bridge", *QDISCS) if tried[name] is not None]
    problems += [f"TCP has no {name}" for name in ("cubic", "bbr") if name not in tried["congestion_control"]]
    if costs_s > SLEEP_COSTS_S or not SLEEP_S <= tried["slept_s"] <= SLEEP_S + 0.01:
        problems.append(
            f"time does not travel: a sleep of {SLEEP_S:g} s took {tried['slept_s']:.3f} s inside and {costs_s:.3f} s outside"
        )
    return {
        "path": str(kernel.program),
        **kernel.facts,
        **outcome.facts,
        "works": [name for name in ("veth", "bridge", *QDISCS) if tried[name] is None],
        "congestion_control": tried["congestion_control"],
        "sleep_virtual_s": round(tried["slept_s"], 6),
        "sleep_wall_s": round(costs_s, 3),
        "check_s": round(time.monotonic() - begun, 2),
        "problems": problems,
    }
