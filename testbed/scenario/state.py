"""The state of one direction of a link: what a scenario fixes, a trace changes, a planner is told and a backend enforces."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinkState:
    """One direction of a link: rate in bit/s (0 is an outage), one-way delay in seconds, loss probability, and jitter in seconds
    (each frame's delay is drawn evenly from delay - jitter to delay + jitter; none overtakes another)."""

    rate_bps: float
    delay_s: float = 0.0
    loss: float = 0.0
    jitter_s: float = 0.0
