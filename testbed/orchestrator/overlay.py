"""What faults put on top of the traces: outages, losses and slowness, laid over whatever state a replay has reached."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from testbed.orchestrator.truth import LinkKey
from testbed.scenario.state import LinkState


@dataclass
class Overlay:
    """Faults in force. Several may hit the same link or host: an outage lasts as long as any of them, losses are independent,
    factors multiply."""

    down: Counter[LinkKey] = field(default_factory=Counter)
    losses: dict[LinkKey, list[float]] = field(default_factory=dict)
    factors: dict[str, list[float]] = field(default_factory=dict)

    def link(self, key: LinkKey, state: LinkState) -> LinkState:
        """The state of a link direction, with what lies over it."""
        kept = 1.0
        for loss in self.losses.get(key, ()):
            kept *= 1.0 - loss
        if kept < 1.0:
            state = replace(state, loss=1.0 - (1.0 - state.loss) * kept)
        return replace(state, rate_bps=0.0) if self.down[key] > 0 else state

    def share(self, host: str, share: float) -> float:
        """The CPU share of a host, with what lies over it."""
        for factor in self.factors.get(host, ()):
            share /= factor
        return share

    def clear(self) -> None:
        """Nothing lies over anything."""
        self.down.clear()
        self.losses.clear()
        self.factors.clear()
