"""Probes: small messages to a peer and back, that measure the way. Who asks for them, and what follows from them, is the
orchestrator's business (`testbed.orchestrator.observe`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from d3node.channel import Message, Payload
from d3node.errors import ProtocolError
from d3node.links import Outbox

MOST_BYTES = 64 << 20


class Probes:
    """The probes of one agent that are under way; each is answered within `late_s` seconds, or refused."""

    def __init__(self, name: str, post: Callable[[str, Message], None], late_s: float) -> None:
        self._name = name
        self._post = post
        self._late_s = late_s
        self._loop = asyncio.get_running_loop()
        self._count = 0
        self._waiting: dict[int, tuple[Outbox, int | str, float, asyncio.TimerHandle]] = {}

    def send(self, outbox: Outbox, fields: dict[str, Any], real: bool) -> None:
        """Send one to `fields["peer"]`, with bytes where tensors are `real`. Raises ProtocolError for a size out of bounds."""
        peer, size = str(fields["peer"]), fields["size"]
        if not 0 <= size <= MOST_BYTES:
            raise ProtocolError(f"probe: a size of {size!r} bytes; 0 to 64 MiB are possible")
        self._count += 1
        number = self._count
        timer = self._loop.call_later(self._late_s, self._late, number, peer)
        self._waiting[number] = (outbox, fields["id"], self._loop.time(), timer)
        data = memoryview(bytearray(size)) if real else None
        what = {"id": number, "size": size, "reply": False, "start": 0.0, "end": 0.0, "bytes": 0, "gap": 0.0}
        self._post(peer, Message("probe", what, (Payload("uint8", (size,), size, data),)))

    def data(self, peer: str, message: Message, before: Message) -> None:
        """Send a probe back, or report one that came back. `before` is what came in on the connection before it."""
        fields, transfer = message.fields, message.transfer
        if not fields["reply"]:
            start, end, size = (transfer.sent_at, transfer.received_at, transfer.wire_bytes) if transfer else (0.0, 0.0, 0)
            gap = end - before.transfer.received_at if before.transfer else end
            reply = {"id": fields["id"], "size": 0, "reply": True, "start": start, "end": end, "bytes": size, "gap": gap}
            self._post(peer, Message("probe", reply))
            return
        if (probe := self._waiting.pop(fields["id"], None)) is not None:
            outbox, identity, begun, timer = probe
            timer.cancel()
            answer = {
                "rtt_s": self._loop.time() - begun,
                "one_way_s": fields["end"] - fields["start"],
                "bytes": fields["bytes"],
                "end": fields["end"],
                "gap_s": fields["gap"],
            }
            outbox.post(Message("ok", {"id": identity, **answer}))

    def close(self) -> None:
        """Nothing comes due any more."""
        for _, _, _, timer in self._waiting.values():
            timer.cancel()

    def _late(self, number: int, peer: str) -> None:
        outbox, identity, _, _ = self._waiting.pop(number)
        text = f"no answer of {peer} to a probe within {self._late_s:g} s"
        outbox.post(Message("refused", {"id": identity, "error": "DeadlineExceeded", "text": text}))
