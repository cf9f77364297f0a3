"""Seconds of every vertex on every tier, split into a fixed part (per-operator overhead) and a part that scales with work.

Whoever fills the table (a profile, a regression, a device description) is in the other modules of this package.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from d3node.plan import Tier


@dataclass(frozen=True)
class TierCosts:
    """Seconds on one tier's reference host: vertex v takes `fixed_s[v] + scaled_s[v]`; a tile fixed plus a share of scaled.

    `source` says where the figures come from (shown in manifests and tables); `power_w` is what the host draws while computing,
    None where nobody has measured it. `effects` are (vertices, factor) by rising number of vertices: a run of so many, one after
    the other without a pause, takes the sum of their times and this factor, interpolated between (none: the sum).
    """

    fixed_s: tuple[float, ...]
    scaled_s: tuple[float, ...]
    source: str = ""
    power_w: float | None = None
    effects: tuple[tuple[int, float], ...] = ()

    def effect(self, vertices: int) -> float:
        """Factor on the sum of a run of so many vertices."""
        if not self.effects:
            return 1.0
        place = bisect_left(self.effects, (vertices, 0.0))
        if place == 0 or place == len(self.effects):
            return self.effects[min(place, len(self.effects) - 1)][1]
        (fewer, low), (more, high) = self.effects[place - 1], self.effects[place]
        return low + (high - low) * (vertices - fewer) / (more - fewer)

    def seconds(self, v: int, fraction: float = 1.0) -> float:
        """Seconds of (a fraction of) one vertex."""
        return self.fixed_s[v] + self.scaled_s[v] * fraction


@dataclass(frozen=True)
class Costs:
    """Compute costs of one model: per tier, with the speed of single hosts relative to their tier's reference.

    `speed[host]` multiplies speed (0.5 = half as fast; 1.0 where absent); `factor[(v, tier)]` multiplies one vertex's time
    (an observed drift; 1.0 where absent).
    """

    tiers: dict[Tier, TierCosts]
    speed: dict[str, float] = field(default_factory=dict)
    factor: dict[tuple[int, Tier], float] = field(default_factory=dict)

    def vertex_s(self, v: int, tier: Tier, host: str | None = None, fraction: float = 1.0) -> float:
        """Seconds of (a fraction of) vertex v on a tier's reference host, or on one host of that tier."""
        seconds = self.tiers[tier].seconds(v, fraction) * self.factor.get((v, tier), 1.0)
        return seconds / self.speed.get(host, 1.0) if host is not None else seconds

    def run_s(self, vertices: Iterable[int], tier: Tier, host: str | None = None) -> float:
        """Seconds of several vertices one after the other, with the effect of running so many together."""
        times = [self.vertex_s(v, tier, host) for v in vertices]
        return sum(times) * self.tiers[tier].effect(len(times)) if self.tiers[tier].effects else sum(times)

    def with_speed(self, host: str, speed: float) -> Costs:
        """A copy with another relative speed of one host."""
        return replace(self, speed={**self.speed, host: speed})
