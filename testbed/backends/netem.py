"""netem for pyroute2, with what its own plug-in (0.9) lacks: delays in nanoseconds, and a seed, so that losses and jitter repeat.

A kernel before 6.6 passes over the seed: what it holds is read back by `testbed.backends.shaping`.
"""

from __future__ import annotations

import hashlib
import sys
from typing import Any

from pyroute2.netlink.rtnl import TC_H_ROOT
from pyroute2.netlink.rtnl.tcmsg import plugins, sched_htb, sched_netem

parent = TC_H_ROOT
fix_request = sched_htb.fix_request
"""Keeps `rate` out of the message itself, where pyroute2 0.9 would put it too."""

_ALL_LOST = 2**32 - 1


def get_parameters(asked: dict[str, Any]) -> dict[str, Any]:
    """Options of a request: `rate` (bytes/s), `delay_ns`, `jitter_ns`, `loss` (share), `limit` (frames), `seed` or None."""
    if "limit" not in asked:  # a removal has no options
        return {"attrs": []}
    attributes: list[tuple[str, Any]] = [
        ("TCA_NETEM_RATE", {"rate": min(asked["rate"], 2**32 - 1), "packet_overhead": 0, "cell_size": 0, "cell_overhead": 0}),
        ("TCA_NETEM_RATE64", asked["rate"]),
        ("TCA_NETEM_LATENCY64", asked["delay_ns"]),
        ("TCA_NETEM_JITTER64", asked["jitter_ns"]),
    ]
    if asked["seed"] is not None:
        attributes.append(("TCA_NETEM_PRNG_SEED", asked["seed"]))
    lost = round(asked["loss"] * _ALL_LOST)
    old = {"delay": 0, "jitter": 0, "gap": 0, "duplicate": 0}
    return {**old, "limit": asked["limit"], "loss": lost, "attrs": attributes}


class options(sched_netem.options):  # type: ignore[misc]  # noqa: N801 - pyroute2 looks for this name
    """linux/pkt_sched.h: the attributes up to the seed."""

    nla_map = (
        *sched_netem.options.nla_map,
        ("TCA_NETEM_ECN", "uint32"),
        ("TCA_NETEM_RATE64", "uint64"),
        ("TCA_NETEM_PAD", "none"),
        ("TCA_NETEM_LATENCY64", "uint64"),
        ("TCA_NETEM_JITTER64", "uint64"),
        ("TCA_NETEM_SLOT", "none"),
        ("TCA_NETEM_SLOT_DIST", "none"),
        ("TCA_NETEM_PRNG_SEED", "uint64"),
    )


SOME: dict[str, Any] = {"rate": 125_000, "delay_ns": 1_000_000, "jitter_ns": 0, "loss": 0.0, "limit": 1000, "seed": None}
"""Options of a netem for trials."""


def seed_of(seed: int, link: str, direction: str) -> int:
    """A seed of its own for each direction of each link, from the scenario's."""
    return int.from_bytes(hashlib.sha256(f"{seed} {link} {direction}".encode()).digest()[:8], "big")


def teach() -> None:
    """Let pyroute2 use this."""
    plugins["netem"] = sys.modules[__name__]
