"""Replay of link and host traces: every step at its exact time, in time order, with its lateness on record.

The steps themselves come from `testbed.scenario.links`; carrying one out is the session's and the control channels' business.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from testbed.orchestrator.overlay import Overlay
from testbed.orchestrator.truth import TrueState
from testbed.scenario.links import ResolvedHost, ResolvedLink
from testbed.scenario.state import LinkState
from topologies.layout import Direction

DIRECTIONS: tuple[Direction, Direction] = ("up", "down")

ApplyLink = Callable[[str, Direction, LinkState], Awaitable[None]]
ApplyShare = Callable[[str, float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Step:
    """One change, due `at_s` after the start of the replay: of a link direction (`state`), or of a host (`share`)."""

    at_s: float
    name: str
    direction: Direction | None = None
    state: LinkState | None = None
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """A step that was carried out, and how late (seconds behind its time, when it was in force)."""

    step: Step
    late_s: float


def link_steps(link: ResolvedLink, direction: Direction) -> Iterator[Step]:
    """Steps of one direction of a link after time 0; endless where the trace loops and ever changes."""
    for at_s, state in link.steps(direction):
        yield Step(at_s, link.name, direction, state=state)


def host_steps(host: ResolvedHost) -> Iterator[Step]:
    """Steps of a host's CPU share after time 0."""
    if host.trace is None:
        return
    for moment, values in host.trace.steps(host.trace_offset_s):
        if moment > host.trace_offset_s:
            yield Step(moment - host.trace_offset_s, host.name, share=values["cpu_share"])


def timeline(links: Mapping[str, ResolvedLink], hosts: Mapping[str, ResolvedHost]) -> Iterator[Step]:
    """All steps in time order; at equal times links before hosts, each in the layout's order."""
    sources = [link_steps(link, direction) for link in links.values() for direction in DIRECTIONS if link.traced(direction)]
    sources += [host_steps(host) for host in hosts.values() if host.trace is not None]
    return heapq.merge(*sources, key=lambda step: step.at_s)


def first_steps(links: Mapping[str, ResolvedLink], hosts: Mapping[str, ResolvedHost]) -> list[Step]:
    """The state of everything at time 0, as steps."""
    found = [Step(0.0, link.name, direction, state=link.state(direction)) for link in links.values() for direction in DIRECTIONS]
    for host in hosts.values():
        share = 1.0 if host.trace is None else host.trace.at(host.trace_offset_s)["cpu_share"]
        found.append(Step(0.0, host.name, share=share))
    return found


async def sleep_until(when: float) -> None:
    """Wait for a moment of the event loop's time (exact in virtual time; at once if it is past)."""
    loop = asyncio.get_running_loop()
    if when <= loop.time():
        return
    waiter = loop.create_future()
    timer = loop.call_at(when, lambda: None if waiter.done() else waiter.set_result(None))
    try:
        await waiter
    finally:
        timer.cancel()


@dataclass
class Replay:
    """Drives the truth along its traces. `done` holds the steps carried out since the last `reset`, in order, unless somebody has
    taken them; `on_step` is told of each when it is in force. What lies in `overlay` is part of every state; who changes it calls
    `overlaid`."""

    links: Mapping[str, ResolvedLink]
    hosts: Mapping[str, ResolvedHost]
    truth: TrueState
    apply_link: ApplyLink
    apply_share: ApplyShare
    done: list[Done] = field(default_factory=list)
    on_step: Callable[[Step], None] = lambda _step: None
    overlay: Overlay = field(default_factory=Overlay)
    _reached: dict[tuple[str, Direction | None], Step] = field(default_factory=dict)
    _changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def reset(self) -> None:
        """Put every link and host into its state at time 0; what is in it already is left alone."""
        self.done = []
        self.overlay.clear()
        for step in first_steps(self.links, self.hosts):
            self._reached[step.name, step.direction] = step
            if not self._in_force(step):
                await self._carry_out(step)
            self.done.append(Done(step, 0.0))
            self.on_step(step)

    async def run(self, start: float) -> None:
        """Carry out all later steps; loop time `start` is scenario time 0. Ends with the last step, or by cancellation."""
        for step in timeline(self.links, self.hosts):
            due = start + step.at_s
            await sleep_until(due)
            async with self._changing:
                self._reached[step.name, step.direction] = step
                await self._put(self._laid_over(step), due)

    async def overlaid(self, names: Collection[str], at_s: float) -> None:
        """The overlay of these links and hosts has changed, `at_s` after the start: put them into the state that results."""
        due = asyncio.get_running_loop().time()
        for key in [key for key in self._reached if key[0] in names]:
            async with self._changing:
                laid = replace(self._laid_over(self._reached[key]), at_s=at_s)
                if not self._in_force(laid):
                    await self._put(laid, due)

    def _in_force(self, step: Step) -> bool:
        if step.state is not None and step.direction is not None:
            return self.truth.links.get((step.name, step.direction)) == step.state
        return self.truth.shares.get(step.name) == step.share

    def _laid_over(self, step: Step) -> Step:
        if step.state is not None and step.direction is not None:
            return replace(step, state=self.overlay.link((step.name, step.direction), step.state))
        return replace(step, share=None if step.share is None else self.overlay.share(step.name, step.share))

    async def _put(self, step: Step, due: float) -> None:
        await self._carry_out(step)
        self.done.append(Done(step, max(0.0, asyncio.get_running_loop().time() - due)))
        self.on_step(step)

    async def _carry_out(self, step: Step) -> None:
        if step.state is not None and step.direction is not None:
            await self.apply_link(step.name, step.direction, step.state)
            self.truth.set_link(step.name, step.direction, step.state)
        elif step.share is not None:
            await self.apply_share(step.name, step.share)
            self.truth.set_share(step.name, step.share)
