"""What an agent answers about the machine that it runs on: `about`, `clock`, and where its operator allows it, `shape`.

For the testbed's `hosts` backend; the facts are gathered in `d3node.facts`, the shaping is `d3node.egress`'.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from d3node.channel import Message
from d3node.egress import Egress, PathState, ShapingError
from d3node.links import Outbox
from d3node.protocol import VERSION

KINDS: Final = ("about", "clock", "shape", "carried")


class Site:
    """One machine. `facts`: those of `d3node.facts.gather`; `egress`: None where nothing may be shaped."""

    def __init__(self, facts: Mapping[str, Any] | None = None, egress: Egress | None = None) -> None:
        self._facts = dict(facts or {"protocol": VERSION})
        self._egress = egress
        self._shaped_for: Outbox | None = None

    def answer(self, outbox: Outbox, message: Message, **of_agent: Any) -> None:
        """Answer one message of `KINDS`. Raises ShapingError."""
        kind, fields = message.kind, message.fields
        reply: dict[str, Any] = {"id": fields["id"]}
        if kind == "about":
            reply |= {**self._facts, **of_agent}
        elif kind == "clock":
            reply["received_at"] = message.transfer.received_at if message.transfer is not None else 0.0
        elif kind == "shape":
            state = PathState(*(float(fields[name]) for name in ("rate_bps", "delay_s", "jitter_s", "loss")))
            self._allowed().shape(fields["address"], state)
            self._shaped_for = outbox
        else:
            reply["addresses"] = {address: list(found) for address, found in self._allowed().counters().items()}
        outbox.post(Message("ok", reply))

    def gone(self, outbox: Outbox) -> None:
        """A control connection has ended; what was shaped for it is no more."""
        if self._egress is not None and self._shaped_for is outbox:
            self._egress.restore()
            self._shaped_for = None

    def _allowed(self) -> Egress:
        if self._egress is None:
            raise ShapingError("this agent's operator does not let it shape traffic: d3node serve --allow-shaping INTERFACE")
        return self._egress
