"""How much a host takes on and keeps for others, and what it has counted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long and how much a host keeps for others. Seconds of the event loop.

    `park`: tensors that came before their plan; `request_s`: a part of a request that nobody ends; `retired_s`: a retired plan;
    `images`: inputs made of seeds; `cancelled`: requests known to be over. `requests`: parts of requests at a time; more are
    refused (`Overloaded`). `kept`: tensors that were sent on, for requests that may have to go on from them; `backlog`: messages
    for an orchestrator that is not connected. When a bound is reached, the oldest goes.
    """

    park_s: float = 10.0
    park_bytes: int = 256 << 20
    request_s: float = 600.0
    retired_s: float = 120.0
    images: int = 16
    cancelled: int = 4096
    requests: int = 16384
    kept_s: float = 120.0
    kept_bytes: int = 256 << 20
    kept_requests: int = 1024
    backlog: int = 16384


@dataclass(slots=True)
class RequestTotals:
    """Counts since the start of the agent."""

    done: int = 0
    failed: int = 0
    served: int = 0
    dropped: int = 0
