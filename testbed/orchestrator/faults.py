"""The faults of a session: each begun at its time or with its request, undone when it is over, and put on record.

What a fault does to links and hosts is laid over their traces (`overlay.py`); what is done about it is `recovery.py`'s business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from testbed.errors import AgentError, RunError
from testbed.orchestrator.beside import together
from testbed.orchestrator.replay import DIRECTIONS, sleep_until
from testbed.orchestrator.results import seconds
from testbed.orchestrator.stage import Stage
from testbed.orchestrator.truth import LinkKey
from testbed.scenario.faults import FaultTable
from topologies.layout import Layout


@dataclass
class Happening:
    """One fault of one session. Times are scenario seconds, None for what did not come about: `noticed_s` is when the first host
    was taken for lost or out of reach because of it, `replanned_s` when plans without it were in force; `resumed` requests went
    on after it."""

    number: int
    fault: FaultTable
    begin_s: float | None = None
    end_s: float | None = None
    noticed_s: float | None = None
    replanned_s: float | None = None
    resumed: int = 0

    @property
    def on_links(self) -> bool:
        """Whether it is hosts behind a link that are lost with it."""
        return self.fault.link is not None or self.fault.hosts is not None


@dataclass
class Outage:
    """How the orchestrator itself goes and comes back (kind `orchestrator`)."""

    leave: Callable[[], Awaitable[None]]
    come_back: Callable[[], Awaitable[None]]


class Faults:
    """Carries out the faults of one session. `names` are the session's, for events and rows."""

    def __init__(self, stage: Stage, names: dict[str, str], outage: Outage) -> None:
        self._stage = stage
        self._names = names
        self._outage = outage
        self._loop = asyncio.get_running_loop()
        self._start = 0.0
        faults = stage.world.scenario.fault
        self.happenings = [Happening(number, fault) for number, fault in enumerate(faults, 1)]
        self._due = {fault.request: asyncio.Event() for fault in faults if fault.request is not None}
        self._in_force: list[Happening] = []
        self._holding: dict[tuple[str, str], set[int]] = {}

    async def run(self, start: float) -> None:
        """Let everything go wrong that should; `start` is the loop time of scenario second 0. May be cancelled: `undo` then ends
        what is in force."""
        self._start = start
        await together(*(self._happen(happening) for happening in self.happenings))

    def submitted(self, number: int) -> None:
        """A device has submitted its measured request of this number."""
        if (event := self._due.get(number)) is not None:
            event.set()

    async def undo(self) -> None:
        """The session is over, and with it all faults."""
        for happening in reversed(self._in_force[:]):
            await self._end(happening)

    def noticed(self, host: str, unreachable: bool) -> None:
        """A host is lost, or out of reach: that goes to the account of the latest fault that can have done it."""
        for happening in reversed(self.happenings):
            mine = happening.on_links if unreachable else host in (happening.fault.host, happening.fault.peer)
            if mine and happening.begin_s is not None and happening.noticed_s is None:
                happening.noticed_s = self._now()
                return

    def replanned(self) -> None:
        """Plans fit for what was noticed are in force."""
        for happening in self.happenings:
            if happening.noticed_s is not None and happening.replanned_s is None:
                happening.replanned_s = self._now()

    def resumed(self) -> None:
        """A request goes on: on account of what was noticed last."""
        known = [happening for happening in self.happenings if happening.noticed_s is not None]
        if known:
            max(known, key=lambda happening: happening.noticed_s or 0.0).resumed += 1

    def write(self) -> None:
        """A row in faults.csv for each."""
        if (sink := self._stage.folder.faults) is None:
            return
        for happening in self.happenings:
            times = ("begin_s", "end_s", "noticed_s", "replanned_s")
            told = {name: seconds(value) for name in times if (value := getattr(happening, name)) is not None}
            row = {"fault": happening.number, "kind": happening.fault.kind, "target": happening.fault.target}
            sink.add({**self._names, **row, **told, "resumed": happening.resumed})

    async def _happen(self, happening: Happening) -> None:
        fault = happening.fault
        if fault.at is not None:
            await sleep_until(self._start + fault.at)
        else:
            await self._due[fault.request or 0].wait()
        begun = self._loop.time()
        happening.begin_s = begun - self._start
        self._in_force.append(happening)
        self._tell(happening, "begin")
        if fault.period is not None and fault.lasts is not None:
            await self._flap(happening, begun, fault.period, begun + fault.lasts)
        else:
            await self._begin(happening)
        if fault.peer is not None:  # one frame, and it is over
            await self._end(happening)
        elif fault.lasts is not None:
            await sleep_until(begun + fault.lasts)
            await self._end(happening)

    async def _flap(self, happening: Happening, begun: float, period: float, until: float) -> None:
        turn = 0
        while (due := begun + turn * period) < until:
            await sleep_until(due)
            await self._begin(happening)
            await sleep_until(min(due + period / 2.0, until))
            await self._undo(happening)
            turn += 1

    async def _end(self, happening: Happening) -> None:
        self._in_force.remove(happening)
        await self._undo(happening)
        happening.end_s = self._now()
        self._tell(happening, "end")

    def _held(self, kind: str, host: str) -> set[int]:
        """Faults of one kind that keep a host as it is: the last one that ends undoes it."""
        return self._holding.setdefault((kind, host), set())

    async def _begin(self, happening: Happening) -> None:
        session, overlay, fault = self._stage.session, self._stage.replay.overlay, happening.fault
        if fault.kind in ("kill", "hang", "orchestrator"):
            self._held(fault.kind, fault.target).add(happening.number)
        if fault.kind == "orchestrator":
            await self._outage.leave()
        elif fault.kind in ("corrupt", "truncate"):
            await self._spoil(fault)
        elif fault.kind == "kill":
            self._held("hang", fault.target).clear()  # who hung is dead
            await session.kill(_named(fault.host))
        elif fault.kind == "hang":
            await session.hang(_named(fault.host))
        elif fault.kind == "slow":
            overlay.factors.setdefault(_named(fault.host), []).append(fault.factor or 1.0)
            await self._overlaid(fault)
        else:
            for key in links_of(self._stage.world.layout, fault):
                if fault.loss is not None:
                    overlay.losses.setdefault(key, []).append(fault.loss)
                else:
                    overlay.down[key] += 1
            await self._overlaid(fault)

    async def _undo(self, happening: Happening) -> None:
        session, overlay, fault = self._stage.session, self._stage.replay.overlay, happening.fault
        if fault.kind in ("kill", "hang", "orchestrator"):
            held = self._held(fault.kind, fault.target)
            held.discard(happening.number)
            if held:
                return
        if fault.kind == "orchestrator":
            await self._outage.come_back()
        elif fault.kind == "kill":
            await session.restart(_named(fault.host))
        elif fault.kind == "hang":
            await session.wake(_named(fault.host))
        elif fault.kind == "slow":
            overlay.factors.get(_named(fault.host), []).remove(fault.factor or 1.0)
            await self._overlaid(fault)
        elif fault.kind not in ("corrupt", "truncate"):
            for key in links_of(self._stage.world.layout, fault):
                if fault.loss is not None:
                    overlay.losses[key].remove(fault.loss)
                elif overlay.down[key] > 0:
                    overlay.down[key] -= 1
            await self._overlaid(fault)

    async def _overlaid(self, fault: FaultTable) -> None:
        layout = self._stage.world.layout
        names = {fault.host} if fault.kind == "slow" else {link for link, _ in links_of(layout, fault)}
        await self._stage.replay.overlaid({name for name in names if name is not None}, self._now())

    async def _spoil(self, fault: FaultTable) -> None:
        host = _named(fault.host)
        if host in self._stage.fleet.dead:
            self._stage.journal.emit("warning", text=f"no frame of {host} is spoiled: it is gone", **self._names)
            return
        client = self._stage.fleet.clients[host]
        try:
            await client.call("spoil", {"peer": fault.peer, "how": fault.kind})
        except AgentError as error:
            if client.alive:
                raise RunError(f"fault {fault.kind!r} of {host}: {error}") from error
            self._stage.journal.emit("warning", text=f"no frame of {host} is spoiled: {error}", **self._names)

    def _tell(self, happening: Happening, phase: str) -> None:
        fields = {"fault": happening.number, "kind": happening.fault.kind, "target": happening.fault.target, "phase": phase}
        self._stage.journal.emit("fault", **self._names, at_s=self._now(), **fields)

    def _now(self) -> float:
        return self._loop.time() - self._start


def links_of(layout: Layout, fault: FaultTable) -> list[LinkKey]:
    """Link directions that a fault of links is about."""
    if fault.hosts is not None:
        return [(link, direction) for link in cut(layout, set(fault.hosts)) for direction in DIRECTIONS]
    hit = [direction for direction in DIRECTIONS if fault.direction in (None, "both", direction)]
    return [(_named(fault.link), direction) for direction in hit]


def cut(layout: Layout, group: set[str]) -> list[str]:
    """Links whose outage parts a group of hosts from all others: those that only pairs across use. Where these do not part a pair
    (hosts on one switch), the link of the group's host goes as well, and with it what the group has among itself."""
    found: dict[str, None] = {}
    inner = {link for a, b in _pairs(layout) if (a in group) == (b in group) for link in _links(layout, a, b)}
    across = [(a, b) for a, b in _pairs(layout) if a in group and b not in group]
    for a, b in across:
        found.update(dict.fromkeys(link for link in _links(layout, a, b) if link not in inner))
    for a, b in across:
        links = _links(layout, a, b)
        if not any(link in found for link in links):
            found[links[0]] = None
    return list(found)


def _pairs(layout: Layout) -> Iterator[tuple[str, str]]:
    names = [host.name for host in layout.hosts]
    return ((a, b) for a in names for b in names if a != b)


def _links(layout: Layout, a: str, b: str) -> list[str]:
    return [link.name for link, _ in layout.path(a, b)]


def _named(name: str | None) -> str:
    assert name is not None, "checked by the scenario"
    return name
