"""The control channel to an agent on another machine: the orchestrator's own, but that times come out by its clock.

The one place where times of other clocks are corrected: those in done, failed and report, and in answers to probes and uploads. A
model that the agent knows by another file's place is called as the agent calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from d3node.channel import Channel, Message, Spoiling
from d3node.errors import ChannelError
from testbed.hosts.clocks import HostClock


class HostChannel:
    """A `Channel` around another. `models`: names on that host by the scenario's; `lost` is told why the channel has ended.
    `begun`: hosts that this run has configured before; at the first time an agent forgets what another run has left with it.
    `run`: what tells this run from others."""

    def __init__(
        self,
        host: str,
        inner: Channel,
        clocks: Mapping[str, HostClock],
        models: Mapping[str, str],
        lost: Callable[[str, str], None],
        begun: set[str],
        run: str | None = None,
    ) -> None:
        self.peer = inner.peer
        self._host = host
        self._inner = inner
        self._clocks = clocks
        self._models = models
        self._lost = lost
        self._begun = begun
        self._run = run
        self._asked: dict[Any, tuple[str, str]] = {}

    @property
    def bytes_sent(self) -> int:
        """See `Channel`."""
        return self._inner.bytes_sent

    @property
    def bytes_received(self) -> int:
        """See `Channel`."""
        return self._inner.bytes_received

    async def send(self, message: Message) -> None:
        """See `Channel`."""
        fields = message.fields
        if message.kind in ("probe", "upload"):
            self._asked[fields["id"]] = message.kind, str(fields["peer"])
        await self._inner.send(Message(message.kind, self._outgoing(message.kind, fields), message.payloads))

    async def receive(self) -> Message:
        """See `Channel`; with times by our clock."""
        try:
            message = await self._inner.receive()
        except ChannelError as error:
            self._lost(self._host, str(error))
            raise
        return self._timed(message)

    def spoil(self, how: Spoiling) -> None:
        """See `Channel`."""
        self._inner.spoil(how)

    async def close(self) -> None:
        """See `Channel`."""
        await self._inner.close()

    def abort(self) -> None:
        """See `Channel`."""
        self._inner.abort()

    def _outgoing(self, kind: str, fields: dict[str, Any]) -> dict[str, Any]:
        if kind == "configure":
            fresh = {} if self._host in self._begun else {"fresh": True}
            self._begun.add(self._host)
            return {**fields, **fresh, **({} if self._run is None else {"run": self._run})}
        if fields.get("model") in self._models:
            return {**fields, "model": self._models[fields["model"]]}
        plan = fields.get("plan")
        if isinstance(plan, dict) and plan.get("model") in self._models:
            return {**fields, "plan": {**plan, "model": self._models[plan["model"]]}}
        return fields

    def _timed(self, message: Message) -> Message:
        fields, here = message.fields, self._clocks[self._host].here
        if message.kind in ("done", "failed"):
            fields["submitted_at"], fields["done_at"] = here(fields["submitted_at"]), here(fields["done_at"])
        elif message.kind == "report":
            for record in fields["records"]:
                sender = record.get("peer", self._host)
                begun = (self._clocks[sender].here if sender in self._clocks else here)(record["start"])
                record["end"] = here(record["end"])
                record["start"] = min(begun, record["end"])  # clocks are known to within their uncertainty only
        elif message.kind in ("ok", "refused") and (asked := self._asked.pop(fields.get("id"), None)) is not None:
            kind, peer = asked
            if message.kind == "ok" and peer in self._clocks:
                there = self._clocks[peer].here
                if kind == "probe":
                    begun, end = here(fields["end"] - fields["one_way_s"]), there(fields["end"])
                    fields["one_way_s"], fields["end"] = max(0.0, end - begun), end
                else:
                    fields["end"] = there(fields["end"])
                    fields["start"] = min(here(fields["start"]), fields["end"])
        return message
