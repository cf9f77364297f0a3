"""The orchestrator's end of the control plane: one client per agent, and all of them together as a fleet.

Speaks the vocabulary of `d3node.protocol`; what is asked of agents, and when, is decided elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from itertools import count
from typing import Any

from d3node.channel import Channel, Message, take_all
from d3node.errors import ChannelError, NodeError
from testbed.backends.base import Session
from testbed.errors import AgentError
from testbed.orchestrator.overload import in_flight, windows
from testbed.scenario.schema import Scenario

CALL_DEADLINE_S = 120.0
"""Loop seconds an agent may take to answer a call (running a whole model for verification is the longest)."""

Push = Callable[[str, Message], None]
"""Called with the host's name and each message that is not a reply: done, failed, report."""


class AgentClient:
    """One agent. Calls are matched to replies by id; all else goes to `push`; the end of the channel to `lost`."""

    def __init__(self, host: str, channel: Channel, push: Push, lost: Callable[[str, str], None]) -> None:
        self.host = host
        self._channel = channel
        self._push = push
        self._lost = lost
        self._ids = count(1)
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._lock = asyncio.Lock()
        self._gone: str | None = None
        self._closing = False
        self._reader = asyncio.create_task(self._read(), name=f"control-{host}")

    @property
    def alive(self) -> bool:
        """False once the channel has ended."""
        return self._gone is None

    async def send(self, kind: str, fields: dict[str, Any]) -> None:
        """Send a message that has no reply. Raises AgentError when the agent is gone."""
        if self._gone is not None:
            raise AgentError(self._gone)
        try:
            async with self._lock:
                await self._channel.send(Message(kind, fields))
        except ChannelError as error:
            self._end(str(error))
            raise AgentError(self._gone) from error

    async def call(self, kind: str, fields: dict[str, Any] | None = None, deadline_s: float = CALL_DEADLINE_S) -> Message:
        """Send a message and wait for its reply. Raises AgentError when the agent refuses, is gone, or does not answer."""
        number = next(self._ids)
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            await self.send(kind, {"id": number, **(fields or {})})
            async with asyncio.timeout(deadline_s):
                reply = await future
        except TimeoutError as error:
            raise AgentError(f"agent {self.host} did not answer {kind!r} within {deadline_s:g} s") from error
        finally:
            del self._waiting[number]
            if future.done() and not future.cancelled():
                future.exception()  # it may go unread
        if reply.kind == "refused":
            raise AgentError(f"agent {self.host} refused {kind!r}: {reply.fields.get('error')}: {reply.fields.get('text')}")
        return reply

    def fence(self, reason: str) -> None:
        """Take the agent for dead: whatever it may still say is not heard."""
        self._reader.cancel()
        self._channel.abort()
        self._end(reason)

    def drop(self) -> None:
        """End the connection at once, as if the orchestrator had died."""
        self._closing = True
        self._gone = self._gone or f"the orchestrator has left agent {self.host}"
        self._reader.cancel()
        self._channel.abort()
        self._fail_calls(self._gone)

    async def close(self) -> None:
        """End the connection without asking the agent to stop (its backend owns it)."""
        self._closing = True
        self._reader.cancel()
        with suppress(asyncio.CancelledError):
            await self._reader
        with suppress(NodeError, OSError):
            await self._channel.close()

    async def _read(self) -> None:
        try:
            await take_all(self._channel, self._take)
        except NodeError as error:
            self._end(str(error) or type(error).__name__)
        except (KeyError, TypeError, ValueError, AttributeError) as error:  # nobody would read the next one
            self.fence(f"what it said makes no sense: {error!r}")

    def _take(self, message: Message) -> None:
        if message.kind in ("ok", "refused"):
            future = self._waiting.get(message.fields.get("id", 0))
            if future is not None and not future.done():
                future.set_result(message)
        else:
            self._push(self.host, message)

    def _end(self, reason: str) -> None:
        if self._gone is not None or self._closing:
            return
        self._gone = f"agent {self.host} is gone: {reason}"
        self._fail_calls(self._gone)
        self._lost(self.host, self._gone)

    def _fail_calls(self, reason: str) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(AgentError(reason))


class Fleet:
    """All agents of a session. `on_push` may be replaced at any time; `dead` maps a lost host to the reason, until it is back.

    Where the scenario recovers from faults (`recovery`), a lost host may come back, and what it missed is told it then: last of
    all by `welcome(host)`, before it counts as back.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.clients: dict[str, AgentClient] = {}
        self.dead: dict[str, str] = {}
        self.on_push: Push = lambda _host, _message: None
        self.on_lost: Callable[[str], None] = lambda _host: None
        self.welcome: Callable[[str], Awaitable[None]] = _say_nothing
        self.recovery = False
        self._detect_s = 0.0
        self._planned: set[str] = set()
        self.present = asyncio.Event()
        self._fields: dict[str, dict[str, Any]] = {}
        self._shares: dict[str, float] = {}

    async def open(self, scenario: Scenario) -> dict[str, dict[str, Any]]:
        """Connect to every agent and configure it; returns their answers by host. Raises AgentError."""
        self.recovery = scenario.recovers != "none"
        self._detect_s = scenario.recovery.detect
        hosts = [host.name for host in self.session.layout.hosts]
        for host in hosts:
            await self._dial(host)
        peers = self._peers()
        self._fields = {host: self._configuration(host, peers[host], scenario) for host in hosts}
        replies = await self.call_all(hosts, "configure", self._fields)
        self.present.set()
        return {host: {k: v for k, v in reply.fields.items() if k != "id"} for host, reply in replies.items()}

    async def connect(self, host: str, fresh: bool) -> None:
        """Connect to an agent again. A `fresh` one forgets what it had to do. Raises AgentError; may be cancelled."""
        self.clients[host].drop()
        client = await self._dial(host)
        try:
            await client.call("configure", {**self._fields[host], **({"fresh": True} if fresh else {})})
            if (share := self._shares.get(host, 1.0)) != 1.0:
                await client.send("share", {"cpu_share": share})
            await self.welcome(host)
        except BaseException:
            client.drop()
            raise
        self.dead.pop(host, None)

    def leave(self) -> None:
        """End all control channels, as if the orchestrator had died."""
        self.present.clear()
        for client in self.clients.values():
            client.drop()

    async def come_back(self) -> None:
        """Connect to every agent that is not known to be dead; one that cannot be reached is dead from now on."""
        await asyncio.gather(*(self._again(host) for host in self.clients if host not in self.dead))
        self.present.set()

    async def _again(self, host: str) -> None:
        try:
            async with asyncio.timeout(self._detect_s):
                await self.connect(host, fresh=False)
                if host in self._planned and not (await self.clients[host].call("stats")).fields["epochs"]:
                    self.clients[host].drop()
                    raise AgentError(f"agent {host} is gone: who answers in its place knows of no plan")
        except AgentError as error:
            self._lost(host, str(error))
        except TimeoutError:
            self._lost(host, f"agent {host} is gone: it did not answer within {self._detect_s:g} s")

    async def _dial(self, host: str) -> AgentClient:
        try:
            channel = await self.session.control(host)
        except (NodeError, OSError) as error:
            raise AgentError(f"agent {host} cannot be reached on the control plane: {error}") from error
        client = self.clients[host] = AgentClient(host, channel, self._pushed, self._lost)
        return client

    def _peers(self) -> dict[str, list[str]]:
        """Hosts that a host may have to do with: those of its site, and the cloud's; the cloud's with everybody."""
        everyone = [host.name for host in self.session.layout.hosts]
        clouds = [host.name for host in self.session.layout.tier("cloud")]
        sites: dict[str, list[str]] = {}
        for host in self.session.layout.hosts:
            sites.setdefault(host.site, []).append(host.name)
        return {
            host.name: everyone if host.tier == "cloud" else list(dict.fromkeys((*sites[host.site], *clouds)))
            for host in self.session.layout.hosts
        }

    def _configuration(self, host: str, peers: Iterable[str], scenario: Scenario) -> dict[str, Any]:
        known = self.session.layout.by_name
        return {
            "peers": {peer: self.session.address(peer, host) for peer in peers if peer != host},
            "mode": scenario.compute.mode,
            "tensors": scenario.compute.tensors,
            "route": scenario.network.route,
            "input_encoding": scenario.model.input_encoding,
            **({"recovery": True} if self.recovery else {}),
            **in_flight(scenario, known[host]),
            **windows(scenario, known[host], (known[peer] for peer in peers)),
        }

    async def call_all(self, hosts: Iterable[str], kind: str, fields: Mapping[str, dict[str, Any]]) -> dict[str, Message]:
        """The same kind of call to several agents at once; all of them have answered when this returns."""
        names = list(hosts)
        self._planned.update(names if kind == "install" else ())
        replies = await asyncio.gather(*(self.clients[name].call(kind, fields[name]) for name in names), return_exceptions=True)
        for reply in replies:
            if isinstance(reply, BaseException):
                raise reply
        return dict(zip(names, (r for r in replies if isinstance(r, Message)), strict=True))

    async def share(self, host: str, cpu_share: float) -> None:
        """Set a host's CPU share. One that is lost, and may come back, is told then."""
        self._shares[host] = cpu_share
        try:
            await self.clients[host].send("share", {"cpu_share": cpu_share})
        except AgentError:
            if not self.recovery:
                raise

    async def close(self) -> None:
        """Close all control channels."""
        for client in self.clients.values():
            await client.close()

    def _pushed(self, host: str, message: Message) -> None:
        self.on_push(host, message)

    def _lost(self, host: str, reason: str) -> None:
        if host in self.dead:
            return  # it was dialled in vain
        self.dead[host] = reason
        self.on_lost(host)


async def _say_nothing(_host: str) -> None:
    """A host that is back needs to be told nothing but its configuration."""
