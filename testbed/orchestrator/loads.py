"""When requests are made: closed loop, fixed rate, or Poisson arrivals with a random stream of each device's own.

Arrival times depend on scenario and device only, so every model and planner meets the same load.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from testbed.scenario.schema import Scenario


def arrivals(scenario: Scenario, device: str) -> Iterator[float] | None:
    """Seconds after the start at which a device makes its measured requests; None for a closed loop."""
    requests = scenario.requests
    if requests.arrival == "closed":
        return None
    assert requests.rate is not None, "the scenario's schema sees to it"
    if requests.arrival == "fixed":
        return _fixed(requests.count, requests.rate)
    return _poisson(requests.count, requests.rate, f"{scenario.seed}:{device}")


def _fixed(count: int, rate: float) -> Iterator[float]:
    for i in range(count):
        yield i / rate


def _poisson(count: int, rate: float, seed: str) -> Iterator[float]:
    stream = random.Random(seed)
    moment = 0.0
    for _ in range(count):
        moment += stream.expovariate(rate)
        yield moment


def input_seed(scenario: Scenario, number: int) -> int:
    """Seed of the image of a device's request `number` (0, 1, ...): the distinct inputs in turn."""
    return scenario.seed + number % scenario.requests.distinct_inputs


def input_seeds(scenario: Scenario) -> list[int]:
    """Seeds of all distinct inputs that are used."""
    used = min(scenario.requests.distinct_inputs, max(scenario.requests.count, scenario.requests.warmup))
    return [input_seed(scenario, i) for i in range(used)]
