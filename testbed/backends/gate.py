"""The token bucket that stops a link in an outage, as pyroute2 has to be taught it: with its burst in bytes.

pyroute2 gives the kernel a bucket's size as the time it takes to fill, which the kernel cuts off at 4.3 s: at the rate of a shut
gate that is less than a frame, and every frame that comes would be dropped instead of waiting. What the gate is for is
`testbed.backends.shaping`'s business.
"""

from __future__ import annotations

import sys
from typing import Any

from pyroute2.netlink.rtnl.tcmsg import plugins, sched_tbf

parent = sched_tbf.parent
fix_request = sched_tbf.fix_request


class options(sched_tbf.options):  # type: ignore[misc]  # noqa: N801 - pyroute2 looks for this name
    """A TBF's attributes, those that came later included."""

    nla_map = (
        *sched_tbf.options.nla_map,
        ("TCA_TBF_RATE64", "uint64"),
        ("TCA_TBF_PRATE64", "uint64"),
        ("TCA_TBF_BURST", "uint32"),
        ("TCA_TBF_PBURST", "uint32"),
    )


def get_parameters(given: dict[str, Any]) -> dict[str, Any]:
    """Called by pyroute2 with the options of a request: rate, burst and limit, in bytes.

    The kernel takes the burst from its own attribute, so what is told of it in time does not count; nor does the table of times
    for sizes, which has no room for a rate of a byte per second, and is left out.
    """
    found: dict[str, Any] = sched_tbf.get_parameters({**given, "burst": 1})
    kept = [attribute for attribute in found["attrs"] if attribute[0] != "TCA_TBF_RTAB"]
    return {"attrs": [*kept, ["TCA_TBF_BURST", int(given["burst"])]]}


def teach() -> None:
    """Let pyroute2 use this."""
    plugins["tbf"] = sys.modules[__name__]
