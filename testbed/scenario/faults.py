"""The tables `[[fault]]` and `[recovery]` of a scenario, and what their names mean for a layout.

When a fault begins and how it is carried out is `testbed.orchestrator.faults`' business.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from pydantic import ConfigDict, Field, field_validator, model_validator

from testbed.errors import ScenarioError
from testbed.names import suggestion
from testbed.scenario.table import Table
from testbed.scenario.units import Duration, Share
from topologies.layout import Layout

FaultKind = Literal["kill", "hang", "slow", "down", "flap", "loss", "partition", "corrupt", "truncate", "orchestrator"]

Mode = Literal["resume", "restart", "none"]

NEEDS: Mapping[FaultKind, tuple[str, ...]] = {
    "kill": ("host",),
    "hang": ("host",),
    "slow": ("host", "factor"),
    "down": ("link",),
    "flap": ("link", "for", "period"),
    "loss": ("link", "loss"),
    "partition": ("hosts",),
    "corrupt": ("host", "peer"),
    "truncate": ("host", "peer"),
    "orchestrator": ("for",),
}
"""Keys that a kind of fault needs, besides `at` or `when`."""

TAKES: Mapping[FaultKind, tuple[str, ...]] = {
    "kill": ("for",),
    "hang": ("for",),
    "slow": ("for",),
    "down": ("for", "direction"),
    "flap": ("direction",),
    "loss": ("for", "direction"),
    "partition": ("for",),
    "corrupt": (),
    "truncate": (),
    "orchestrator": (),
}
"""Keys that it may have besides."""

_WHEN = re.compile(r"^\s*request\s+([0-9]+)\s*$")


class FaultTable(Table):
    """`[[fault]]`: something that goes wrong, at a time or on a condition."""

    model_config = ConfigDict(populate_by_name=True)

    kind: FaultKind = Field(description="what goes wrong; see [faults.md](faults.md)")
    at: Duration | None = Field(default=None, description="when, in scenario seconds of every session; or else `when`")
    when: str | None = Field(
        default=None, description='`"request 20"`: as soon as a device submits its request of that number; or else `at`'
    )
    lasts: Duration | None = Field(
        default=None, gt=0.0, alias="for", description="undone after this long (needed by flap and orchestrator); never if absent"
    )
    host: str | None = Field(default=None, description="kill, hang, slow: which host; corrupt, truncate: the sender")
    peer: str | None = Field(default=None, description="corrupt, truncate: the receiver")
    link: str | None = Field(default=None, description="down, flap, loss: which link")
    direction: Literal["up", "down", "both"] | None = Field(default=None, description="of the link; both if absent")
    hosts: tuple[str, ...] | None = Field(default=None, description="partition: these hosts are cut off from all others")
    factor: float | None = Field(default=None, gt=1.0, description="slow: the host computes this many times slower")
    loss: Share | None = Field(default=None, gt=0.0, lt=1.0, description="loss: share of packets lost on top of the link's own")
    period: Duration | None = Field(default=None, gt=0.0, description="flap: down for half of it, up for the other half")

    @field_validator("hosts", mode="before")
    @classmethod
    def _one_is_enough(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _says_what_its_kind_needs(self) -> FaultTable:
        if (self.at is None) == (self.when is None):
            raise ValueError('a fault has exactly one of at (such as "12 s") and when (such as "request 20")')
        if self.when is not None and not _WHEN.match(self.when):
            raise ValueError(f'when is "request N", N a request\'s number from 0; got {self.when!r}')
        values = {key: getattr(self, "lasts" if key == "for" else key) for key in KEYS}
        known = (*NEEDS[self.kind], *TAKES[self.kind])
        for key in NEEDS[self.kind]:
            if values[key] is None:
                raise ValueError(f'kind = "{self.kind}" needs {key}, such as {EXAMPLES[key]}')
        for key, value in values.items():
            if value is not None and key not in known:
                raise ValueError(f'{key} does nothing with kind = "{self.kind}", which takes {", ".join(known)}')
        if self.hosts is not None and not self.hosts:
            raise ValueError("hosts names nobody: a partition cuts off one host at least")
        if self.host is not None and self.host == self.peer:
            raise ValueError(f"host and peer are both {self.host}: no frame travels from a host to itself")
        return self

    @property
    def request(self) -> int | None:
        """Number of the request that it waits for."""
        found = None if self.when is None else _WHEN.match(self.when)
        return None if found is None else int(found.group(1))

    @property
    def target(self) -> str:
        """What is hit, in a word."""
        if self.hosts is not None:
            return " ".join(self.hosts)
        if self.peer is not None:
            return f"{self.host} {self.peer}"
        return self.host or self.link or "orchestrator"


KEYS = ("for", "host", "peer", "link", "direction", "hosts", "factor", "loss", "period")
EXAMPLES: Mapping[str, str] = {
    "for": 'for = "5 s"',
    "host": 'host = "e2"',
    "peer": 'peer = "c1"',
    "link": 'link = "backbone"',
    "hosts": 'hosts = ["d1"]',
    "factor": "factor = 4",
    "loss": 'loss = "30 %"',
    "period": 'period = "2 s"',
}


class RecoveryTable(Table):
    """`[recovery]`: what is done about hosts that are lost."""

    mode: Mode | None = Field(
        default=None,
        description="go on from the last tensors that are still held, start lost requests again from their input, or nothing: "
        "a host that is lost ends the session; `resume` if absent and the scenario has faults, else `none`",
    )
    heartbeat: Duration = Field(
        default=0.2, gt=0.0, description="period of the heartbeat on the control plane", validate_default=False
    )
    detect: Duration = Field(
        default=0.6, gt=0.0, description="a host that is silent for so long is taken for dead", validate_default=False
    )
    attempts: int = Field(default=3, ge=1, description="a request goes on so many times at most; then it has failed")

    @model_validator(mode="after")
    def _a_heartbeat_may_be_late(self) -> RecoveryTable:
        if self.detect <= self.heartbeat:
            raise ValueError(
                f"detect ({self.detect:g} s) is not longer than heartbeat ({self.heartbeat:g} s):"
                " every host would be taken for dead"
            )
        return self


def check_faults(faults: Sequence[FaultTable], layout: Layout) -> None:
    """Raise ScenarioError for a host or link that the layout does not have, or a partition of everything from nothing."""
    hosts, links = tuple(layout.by_name), layout.link_names
    for number, fault in enumerate(faults):
        named = [("host", fault.host), ("peer", fault.peer), *(("hosts", host) for host in fault.hosts or ())]
        for key, name in named:
            if name is not None and name not in hosts:
                raise _unknown(number, key, "host", name, hosts, layout)
        if fault.link is not None and fault.link not in links:
            raise _unknown(number, "link", "link", fault.link, links, layout)
        if fault.hosts is not None and set(fault.hosts) == set(hosts):
            raise ScenarioError(f"fault {number + 1}, hosts: all hosts of the topology; a partition needs hosts on both sides")
        if fault.host is not None and fault.peer is not None and not layout.meet(fault.host, fault.peer):
            raise ScenarioError(
                f"fault {number + 1}, peer: {fault.host} and {fault.peer} are of different sites and send each other nothing"
            )


def _unknown(number: int, key: str, what: str, name: str, known: Sequence[str], layout: Layout) -> ScenarioError:
    hint = suggestion(name, list(known), f"it has the {what}s")
    return ScenarioError(f"fault {number + 1}, {key}: topology {layout.name!r} as sized here has no {what} {name!r}{hint}")


assert set(NEEDS) == set(TAKES) == set(get_args(FaultKind))
