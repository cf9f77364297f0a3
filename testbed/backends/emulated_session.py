"""The orchestrator's side of an emulated network: a `Session` that speaks with the process inside the namespaces.

The lines of JSON are described in `testbed.backends.emulation`. Times and rates are scaled here: scenario values come in,
wall-clock values go to the kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

from d3node.channel import Channel
from d3node.errors import ChannelError
from d3node.tcp import TcpTransport
from testbed.backends import invariants
from testbed.backends.base import Invariant, LinkCounters
from testbed.backends.cgroups import CpuLimits
from testbed.backends.netspec import EmulationSpec, scaled
from testbed.errors import BackendError
from testbed.scenario.state import LinkState
from topologies.addresses import address
from topologies.layout import Direction

Fields = dict[str, Any]
_LINE_BYTES = 1 << 24


class EmulatedSession:
    """A started network. Also offers what tests and reports need beside `Session`: `memory`, `deaths` (unasked)."""

    def __init__(
        self,
        spec: EmulationSpec,
        time_scale: float,
        root: Path,
        secret: bytes,
        port: int,
        settle: Callable[[], Awaitable[None]] | None = None,
        limits: CpuLimits | None = None,
    ) -> None:
        self._settle = settle
        self._limits = limits
        self.layout = spec.network.layout
        self.deaths: dict[str, str] = {}
        self._down: dict[str, str] = {}
        self._spec = spec
        self._scale = time_scale
        self._root = root
        self._port = port
        self._transport = TcpTransport(secret, sizes=spec.agents is not None and spec.agents.tensors == "sizes")
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[Fields]] = {}
        self._facts: Fields = {}
        self._ended: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self._budget = invariants.LinkBudget({k: s.rate_bps for k, s in spec.network.states.items()})
        self._stopped: Fields | None = None
        self._reader_task: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter

    async def open(self, ours: socket.socket, last_words: Callable[[], str]) -> None:
        """Send the specification and wait for the network. Raises BackendError with what went wrong inside."""
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=_LINE_BYTES)
        self._writer.write(json.dumps(self._spec.to_dict()).encode() + b"\n")
        line = await reader.readline()
        first: Fields = json.loads(line) if line else {"event": "ended"}
        if first["event"] != "ready":
            await self.close()
            if not line:
                raise BackendError(f"the emulated network ended while it was being built: {last_words() or 'without a word'}")
            raise BackendError(f"the emulated network could not be built: {first['text']}")
        self._facts = first["describe"]
        self._budget.start(asyncio.get_running_loop().time() * self._scale)
        self._reader_task = asyncio.create_task(self._read(reader, last_words))

    async def ended(self) -> BaseException:
        """Wait until the inside is gone without having been asked to go; the error to raise then."""
        return await self._ended

    async def close(self) -> None:
        """Close the connection, which ends the inside."""
        if self._reader_task is not None:
            self._reader_task.cancel()
            await asyncio.gather(self._reader_task, return_exceptions=True)
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _read(self, reader: asyncio.StreamReader, last_words: Callable[[], str]) -> None:
        while line := await reader.readline():
            fields = json.loads(line)
            if fields.get("event") == "died":
                host, text = fields["died"], fields["text"] or "it left no words"
                self._down[host] = f"agent {host!r} ended with status {fields['status']}: {text}"
                if not fields["asked"]:
                    self.deaths[host] = self._down[host]
            elif (future := self._waiting.pop(fields.get("id"), None)) is not None and not future.done():
                if "error" in fields:
                    future.set_exception(BackendError(fields["error"]))
                else:
                    future.set_result(fields["ok"])
        error = BackendError(f"the emulated network is gone: {last_words() or 'its process was killed'}")
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(error)
        if not self._ended.done():
            self._ended.set_result(error)

    async def _ask(self, what: str, **fields: Any) -> Fields:
        if self._ended.done():
            raise self._ended.result()
        number = next(self._numbers)
        future: asyncio.Future[Fields] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self._writer.write(json.dumps({"id": number, "do": what, **fields}).encode() + b"\n")
        return await future

    # -- the contract of `Session` -------------------------------------------------------------------------------------------

    def address(self, host: str, peer: str) -> str:
        """Data-plane address of `host` as `peer` must dial it."""
        return f"{address(self.layout, host, peer)}:{self._port}"

    async def control(self, host: str) -> Channel:
        """A control channel to a host's agent. Raises ChannelError where the agent has died."""
        if host in self._down:
            raise ChannelError(self._down[host])
        assert self._spec.agents is not None
        inside = self._spec.agents.control[host].removeprefix("unix:")
        return await self._transport.connect(f"unix:{self._root}{inside}")

    async def apply_link(self, link: str, direction: Direction, state: LinkState) -> None:
        """Change a link in place; in force, and read back from the kernel, on return. Raises BackendError."""
        wall = scaled(state, self._scale)
        await self._ask("apply", link=link, direction=direction, **asdict(wall))
        self._budget.change((link, direction), wall.rate_bps, asyncio.get_running_loop().time() * self._scale)

    async def settle(self) -> None:
        """Wait for what the backend wants to be waited for before something is measured; most want nothing."""
        if self._settle is not None:
            await self._settle()

    async def counters(self) -> dict[tuple[str, Direction], LinkCounters]:
        """Class counters of the kernel."""
        return _counters(await self._ask("counters"))

    async def invariants(self) -> list[Invariant]:
        """Ends the captures (if any), so that they and the counters speak of the same moment."""
        facts = await self._ask("facts")
        check = await self._ask("check")
        if self._stopped is None:
            self._stopped = await self._ask("finish")
        counters = _counters(self._stopped)
        self._budget.end(asyncio.get_running_loop().time() * self._scale)
        found = [
            invariants.idle_cpu(facts["idle_min"]),
            invariants.idle_round_trips(self._facts["idle_round_trips"]),
            invariants.read_back(check["checked"], check["wrong"]),
            invariants.agents_alive(self.deaths),
            self._budget.judge(counters),
            invariants.drops(counters, self._spec.network),
            invariants.memory(await self.memory(), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")),
        ]
        if self._limits is not None:
            limits = self._limits
            found.append(invariants.cpu_limits(limits.cpus, limits.throttling(), limits.wrong(), os.cpu_count() or 1))
        if "open_vswitch" in self._facts:
            switch = f"Open vSwitch, {self._facts['datapath']} datapath"
            found.append(invariants.forwarded(counters, self.layout, switch))
        if "switch_max" in facts:
            found.append(invariants.switch_busy(facts["switch_max"]))
        for link, path in self._spec.captures.items():
            report = self._stopped["captures"][link]
            task = asyncio.get_running_loop().run_in_executor(
                None, invariants.capture, self.layout, link, Path(path), report, counters
            )
            found.append(await task)
        return found

    def describe(self) -> dict[str, Any]:
        """Facts for the manifest."""
        release = os.uname()
        return {
            "kernel": f"{release.sysname} {release.release} {release.machine}",
            "congestion_control": self._spec.network.congestion_control,
            "slow_start_after_idle": self._spec.network.slow_start_after_idle,
            "time_scale": self._scale,
            "as_root": os.geteuid() == 0,
            "captures": dict(self._spec.captures),
            **({} if self._limits is None else {"cpu_limits": self._limits.describe()}),
            **self._facts,
        }

    async def cpu_share(self, host: str, share: float) -> None:
        """Leave a limited host this share of its CPUs from now on. Raises BackendError."""
        if self._limits is not None and host in self._limits.cpus:
            self._limits.share(host, share)

    def throttling(self) -> dict[str, dict[str, float]]:
        """Of each limited host: periods in which it ran, how many it was throttled in, and for how many seconds."""
        return {} if self._limits is None else {host: asdict(found) for host, found in self._limits.throttling().items()}

    async def kill(self, host: str) -> None:
        """Kill a host's agent, as a crash would; its sockets are the kernel's to close."""
        await self._ask("kill", host=host)

    async def restart(self, host: str) -> None:
        """Fork an agent anew; returns when it listens. Raises BackendError if it cannot."""
        await self.kill(host)
        self._down.pop(host, None)
        await self._ask("restart", host=host)

    async def hang(self, host: str) -> None:
        """SIGSTOP: the agent stands still, its sockets stay."""
        await self._ask("hang", host=host)

    async def wake(self, host: str) -> None:
        """SIGCONT."""
        await self._ask("wake", host=host)

    # -- beside it -----------------------------------------------------------------------------------------------------------

    async def memory(self) -> Fields:
        """Bytes of memory of all agents and the process that shares the weights: `pss_bytes`, `rss_bytes`, `agents`."""
        return await self._ask("memory")

    async def namespaces(self) -> dict[str, Path]:
        """The file of each host's network namespace, for measurements with sockets of their own (`testbed.verify`)."""
        files = (await self._ask("namespaces"))["files"]
        return {host: self._root / file.removeprefix("/") for host, file in files.items()}


def _counters(answer: Fields) -> dict[tuple[str, Direction], LinkCounters]:
    return {
        (link, direction): LinkCounters(wire, packets, drops, lost)
        for link, direction, wire, packets, drops, lost in answer["counters"]
    }
