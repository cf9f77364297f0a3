"""Who is alive: a heartbeat to every agent, and a new connection to those that were lost, as soon as they answer.

An agent is lost at once when its control channel ends, and fenced when it is silent for too long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress

from testbed.errors import AgentError
from testbed.orchestrator.beside import together
from testbed.orchestrator.control import Fleet
from testbed.orchestrator.replay import sleep_until


class Liveness:
    """Watches all agents of a session. `back(host)`: a lost host is there again, knows nothing, and is configured.

    `over[host]`: requests that have ended since the host was last told.
    """

    def __init__(
        self, fleet: Fleet, hosts: Iterable[str], heartbeat_s: float, detect_s: float, back: Callable[[str], None]
    ) -> None:
        self._fleet = fleet
        self._heartbeat_s = heartbeat_s
        self._detect_s = detect_s
        self._back = back
        self._loop = asyncio.get_running_loop()
        self._heard = dict.fromkeys(hosts, self._loop.time())
        self.over: dict[str, list[int]] = {host: [] for host in self._heard}

    async def run(self) -> None:
        """Watch until cancelled."""
        now = self._loop.time()
        self._heard = dict.fromkeys(self._heard, now)
        await together(*(self._watch(host) for host in self._heard))

    async def whole(self, patience_s: float) -> None:
        """Have every agent back: dial those that are lost, and tell all of the last requests that have ended. Raises AgentError
        for one that does not come back in time."""
        now = self._loop.time()
        self._heard = dict.fromkeys(self._heard, now)
        await asyncio.gather(*(self._ping(host) for host, over in self.over.items() if over and host not in self._fleet.dead))
        until = self._loop.time() + patience_s
        for host in list(self._fleet.dead):
            while host in self._fleet.dead:
                await self._dial(host)
                if host in self._fleet.dead:
                    if self._loop.time() >= until:
                        raise AgentError(f"{host} did not come back within {patience_s:g} s: {self._fleet.dead[host]}")
                    await asyncio.sleep(self._heartbeat_s)

    async def _watch(self, host: str) -> None:
        while True:
            if not self._fleet.present.is_set():
                await self._fleet.present.wait()
                self._heard[host] = self._loop.time()
            begun = self._loop.time()
            if host in self._fleet.dead:
                await self._dial(host)
            else:
                await self._ping(host)
            await sleep_until(begun + self._heartbeat_s)

    async def _ping(self, host: str) -> None:
        client = self._fleet.clients[host]
        over, self.over[host] = self.over[host], []
        patience_s = self._detect_s - (self._loop.time() - self._heard[host])
        try:
            await client.call("ping", {"over": over}, max(patience_s, 0.0))
            self._heard[host] = self._loop.time()
        except AgentError:
            self.over[host] = [*over, *self.over[host]]
            if client.alive:
                client.fence(f"no answer to a heartbeat for {self._detect_s:g} s")
            self._heard[host] = self._loop.time()

    async def _dial(self, host: str) -> None:
        with suppress(AgentError, TimeoutError):
            async with asyncio.timeout(self._detect_s):
                await self._fleet.connect(host, fresh=True)
            self._heard[host] = self._loop.time()
            self._back(host)
