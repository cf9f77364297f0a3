"""From a link's published statistics to the random process that has them: the parameters behind `generate.py`.

The process: y = sqrt(w) u + sqrt(1 - w) e, where u is slow (a first-order auto-regression, or drawn anew for every slot), e is
drawn anew every second, both with variance 1; rate = min(exp(mu + sigma y), cap), and 0 in an outage, which is a two-state Markov
chain. Its moments are integrals of the normal distribution, so that parameters are found by bisection, without any sampling.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from traces.presets import Preset

_POINTS = 120
_REACH = 6.0
"""Integrals over a standard normal variable: so many points from minus to plus so many standard deviations."""

SLOWEST = 0.99
"""Largest autocorrelation of the slow part at one second: a measured one can be larger at 5 s than at 1 s."""


@dataclass(frozen=True)
class Process:
    """Parameters of the process for a mean of 1 (see above). `phi`: autocorrelation of u after one second; 0 with slots."""

    mu: float
    sigma: float
    cap: float
    phi: float
    weight: float


def simple(preset: Preset) -> Process:
    """The simpler model (`model=ar1`): no fast part, the published autocorrelation of ln rate, and no thought of the cap."""
    sigma = math.sqrt(math.log((1.0 + preset.cv**2) * (1.0 - preset.outage_share)))
    return Process(mu=0.0, sigma=sigma, cap=preset.cap, phi=preset.phi, weight=1.0)


@lru_cache(maxsize=256)
def solve(preset: Preset) -> Process:
    """The process with a preset's coefficient of variation and autocorrelations. Raises ValueError where the cap allows no such
    variation."""
    up = 1.0 - preset.outage_share
    second = (1.0 + preset.cv**2) / up  # of the rate outside outages, whose mean is 1 / up
    if second >= preset.cap / up:  # all of a rate between 0 and the cap is at most that
        raise ValueError(f"preset {preset.name!r}: rates below {preset.cap:g} times the mean cannot vary by {preset.cv:g}")

    def level(sigma: float) -> float:
        return _bisect(lambda mu: _mean(mu, sigma, preset.cap), 1.0 / up, -20.0, 10.0)

    def square(sigma: float) -> float:
        mu = level(sigma)
        return _square(mu, sigma, preset.cap)

    sigma = _bisect(square, second, 1e-6, 4.0)
    mu = level(sigma)

    def alike(target: float, lag_s: float) -> float:
        """Autocorrelation of y with which the whole rate, outages included, has the target's."""
        stay = 1.0 - _leave(preset) - _enter(preset)
        both_up = up * up + up * preset.outage_share * stay**lag_s
        wanted = (target * preset.cv**2 + 1.0) / both_up
        return _bisect(lambda rho: _product(mu, sigma, preset.cap, rho), wanted, 0.0, 1.0)

    after_1s = alike(preset.autocorrelation_1s, 1.0)
    if preset.slot_s:
        weight = min(1.0, after_1s / max(1.0 - 1.0 / preset.slot_s, 1e-9))
        return Process(mu, sigma, preset.cap, 0.0, weight)
    after_5s = alike(preset.autocorrelation_5s, 5.0)
    phi = min((after_5s / after_1s) ** 0.25, SLOWEST) if after_1s > 0.0 else 0.0
    weight = (after_1s / phi + after_5s / phi**5) / 2.0 if phi > 0.0 else 0.0  # the same, unless phi is at its limit
    return Process(mu, sigma, preset.cap, phi, min(1.0, weight))


def _leave(preset: Preset) -> float:
    """Chance that an outage ends within a second."""
    return min(1.0, 1.0 / preset.outage_mean_s)


def _enter(preset: Preset) -> float:
    """Chance that an outage begins within a second."""
    return min(1.0, _leave(preset) * preset.outage_share / (1.0 - preset.outage_share))


def _bisect(function: Callable[[float], float], target: float, low: float, high: float) -> float:
    """Where a rising function takes a value, or the nearer end."""
    for _ in range(40):
        middle = (low + high) / 2.0
        if function(middle) < target:
            low = middle
        else:
            high = middle
    return (low + high) / 2.0


def _below(z: float) -> float:
    """Standard normal distribution function."""
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


def _mean(mu: float, sigma: float, cap: float) -> float:
    """Mean of min(exp(mu + sigma z), cap) for a standard normal z."""
    if sigma <= 0.0:
        return min(math.exp(mu), cap)
    edge = (math.log(cap) - mu) / sigma
    return math.exp(mu + sigma * sigma / 2.0) * _below(edge - sigma) + cap * _below(-edge)


def _square(mu: float, sigma: float, cap: float) -> float:
    """Mean of its square."""
    return _mean(2.0 * mu, 2.0 * sigma, cap * cap)


def _product(mu: float, sigma: float, cap: float, rho: float) -> float:
    """Mean of the product of two such rates whose z have correlation rho."""
    rest = sigma * math.sqrt(max(0.0, 1.0 - rho * rho))
    step = 2.0 * _REACH / _POINTS
    total = weights = 0.0
    for k in range(_POINTS + 1):
        z = -_REACH + k * step
        density = math.exp(-z * z / 2.0)
        weights += density
        total += density * min(math.exp(mu + sigma * z), cap) * _mean(mu + sigma * rho * z, rest, cap)
    return total / weights
