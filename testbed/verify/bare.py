"""A scenario's network without agents: what `testbed verify` measures links on, with the backends' own code and no other.

Messages and flows over it are `testbed.verify.flows`'.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from testbed.backends.mininet import MininetBackend
from testbed.backends.netspec import EmulationSpec
from testbed.backends.vkernel_guest import GuestBackend
from testbed.scenario.schema import Scenario
from topologies.layout import Layout

SOURCE, TARGET, LINK = "d1", "c1", "backbone"
"""Messages go from the device to the cloud; the link between the two switches is the one that is measured."""

FAST_BPS = 10e9
"""Rate of the other links of the path, which have no delay: a full frame takes 1.2 microseconds on each."""


class BareMininet(MininetBackend):
    """Mininet on this kernel, without agents."""

    def spec(self, scenario: Scenario, layout: Layout, secret: bytes) -> EmulationSpec:
        """What is built for a scenario."""
        return replace(MininetBackend.spec(self, scenario, layout, secret), agents=None)


class BareGuest(GuestBackend):
    """Mininet in the time-travel kernel that this process runs in, without agents."""

    def spec(self, scenario: Scenario, layout: Layout, secret: bytes) -> EmulationSpec:
        """What is built for a scenario."""
        return replace(MininetBackend.spec(self, scenario, layout, secret), agents=None)


def scenario(backbone: dict[str, Any], **tables: Any) -> Scenario:
    """One device, one edge host, a cloud; only the backbone is slow. The model is never loaded, but a scenario must name one."""
    fast = {"rate": f"{FAST_BPS / 1e9:g} Gbit/s", "queue": "16 MiB"}
    links = {"access": fast, "lan": fast, "core": fast, LINK: backbone}
    topology = {"name": "three_tier", "devices": 1, "edges": 1}
    return Scenario.model_validate(
        {"name": "verify", "model": {"names": ["alexnet"]}, "topology": topology, "links": links, **tables}
    )
