"""The contract of a backend: it gives the orchestrator a started network of agents under some clock.

The orchestrator asks only the running event loop for time; so `sim` (virtual), `mininet` (real, perhaps slowed) and others
carry the same coroutine.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

from d3node.channel import Channel
from testbed.costs.network import LinkState
from testbed.scenario.schema import Scenario
from topologies.layout import Direction, Layout

T = TypeVar("T")
Level = Literal["ok", "degraded", "rejected"]


@dataclass(frozen=True, slots=True)
class LinkCounters:
    """Totals of one direction of a link since the start: bytes as shaped (frames without preamble), packets, packets dropped on a
    full queue, packets lost at random as the link was asked to, and, where the backend can tell, the bytes of application
    messages among them."""

    wire_bytes: int
    packets: int
    drops: int
    lost: int = 0
    message_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Invariant:
    """One thing that must hold for a run to be trusted, with the figure found and the bound it was held against."""

    name: str
    level: Level
    value: float | None
    bound: float | None
    detail: str = ""


class Session(Protocol):
    """A started network. `control` channels are not on the shaped links; they speak the messages of `d3node.agent`."""

    layout: Layout

    def address(self, host: str, peer: str) -> str:
        """Data-plane address of `host` as `peer` must dial it (a device's cellular path may need another one)."""
        ...

    async def control(self, host: str) -> Channel: ...

    async def apply_link(self, link: str, direction: Direction, state: LinkState) -> None:
        """Change a link in place; returns when it is in force."""
        ...

    async def counters(self) -> dict[tuple[str, Direction], LinkCounters]: ...

    async def invariants(self) -> list[Invariant]:
        """What this backend can know about its own fidelity so far."""
        ...

    async def kill(self, host: str) -> None:
        """End a host's agent at once and without last words, as if its process had died. One that has ended stays so.

        A death that was asked for counts against no invariant.
        """
        ...

    async def restart(self, host: str) -> None:
        """Start a host's agent anew, without memory of what was; returns when it listens. One that runs or hangs is killed first.

        Raises TestbedError if it does not start.
        """
        ...

    async def hang(self, host: str) -> None:
        """Make a host's agent stand still (SIGSTOP) until `wake`: it answers nothing, while its connections stay open.

        Time goes on for it: a modelled computation that ends in the meantime is over on waking. One that has ended stays so.
        """
        ...

    async def wake(self, host: str) -> None:
        """Let a hung agent go on (SIGCONT); it finds what has come in and come due. Any other is left as it is."""
        ...

    def describe(self) -> dict[str, Any]:
        """Facts for the manifest: kernel, qdiscs, offload, congestion control, time scale."""
        ...


@runtime_checkable
class Settles(Protocol):
    """A session under a clock whose ticks can show in the results."""

    async def settle(self) -> None:
        """Wait until these ticks lie as they did when any other measurement began."""
        ...


@runtime_checkable
class Exact(Protocol):
    """A session that repeats to the byte, and whose network remembers: what a model and planner find there (warm connections,
    say) depends on those that came before them."""

    repeats_exactly: Literal[True]


@runtime_checkable
class Outliving(Protocol):
    """A session whose agents are there before the orchestrator and go on without it: another one may take their requests over."""

    def begin(self, run: str) -> None:
        """Before any `control`: the run that agents work for from now on. They forget what they had to do before."""
        ...

    def take_over(self) -> None:
        """Behind `begin`: let agents keep what they have to do for this run."""
        ...

    def gone(self, run: str) -> str:
        """Why agents cannot go on with a run that another orchestrator has begun; empty where they can."""
        ...


@runtime_checkable
class LimitsCpu(Protocol):
    """A session that can limit the CPU time of hosts (`hosts.TIER.cpus`)."""

    async def cpu_share(self, host: str, share: float) -> None:
        """Leave a host this share of its CPUs from now on, where it is limited. Raises BackendError."""
        ...

    def throttling(self) -> dict[str, dict[str, float]]:
        """Of each limited host: periods in which it ran, how many it was throttled in, and for how many seconds."""
        ...


@runtime_checkable
class ManyMachines(Protocol):
    """A session whose hosts have clocks of their own, and processors that may not round alike."""

    answer_tolerance: float
    """Largest difference of answers, relative to the largest magnitude, that this alone explains; 0.0 where all round alike."""

    def clock_facts(self) -> dict[str, Any]:
        """Offset, drift and uncertainty of each host's clock, for the manifest."""
        ...


@dataclass(frozen=True)
class Support:
    """Whether a backend can run a scenario here; if not, why, and the ways out."""

    ok: bool
    reasons: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Carried:
    """A run that is carried to another kernel: "module:function" there, called with a function that sends events (name,
    **fields) and these arguments (plain JSON). `folder` is the only place of this machine that it may write to."""

    call: str
    arguments: dict[str, Any]
    folder: Path
    wall_limit_s: float | None = None


@runtime_checkable
class Carrier(Protocol):
    """A backend whose clock is another kernel's, so that the whole run goes there: it has no `run` of its own use here."""

    name: str

    def support(self, scenario: Scenario) -> Support: ...

    def carry(self, scenario: Scenario, job: Carried, listener: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Run the job to its end and pass its events on as they arise; facts for the manifest. Raises what the job raises."""
        ...

    def shared(self) -> AbstractContextManager[Carrier]:
        """The same backend, which within the block keeps that kernel on from one job to the next."""
        ...


class Backend(Protocol):
    """A kind of network and clock. `run` owns everything it starts: nothing outlives it, whatever happens."""

    name: str

    def support(self, scenario: Scenario) -> Support: ...

    def run(self, scenario: Scenario, main: Callable[[Session], Awaitable[T]]) -> T: ...
