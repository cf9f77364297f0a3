"""When requests are made: closed loop, fixed rate, or Poisson arrivals with a random stream of each device's own, whose rate may
follow a trace.

Arrival times depend on scenario and device only, so every model and planner meets the same load.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from testbed.scenario.demand import COLUMN
from testbed.scenario.schema import Scenario
from traces.trace import Trace


def arrivals(scenario: Scenario, device: str, demand: Trace | None = None) -> Iterator[float] | None:
    """Seconds after the start at which a device makes its measured requests; None for a closed loop. `demand`: see
    `testbed.scenario.demand`."""
    requests = scenario.requests
    if requests.arrival == "closed":
        return None
    if demand is not None:
        return _varying(requests.count, demand, f"{scenario.seed}:{device}")
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


def _varying(count: int, demand: Trace, seed: str) -> Iterator[float]:
    """Arrivals of a Poisson process whose rate is piecewise constant: those of one with rate 1, on the time scale of the rate's
    integral (Lewis and Shedler, Naval Research Logistics 26, 1979)."""
    stream = random.Random(seed)
    rates = demand.columns[COLUMN]
    start, row, due = 0.0, 0, stream.expovariate(1.0)
    cycle = 0.0
    while count:
        last = row == len(rates) - 1
        end = cycle + (demand.period_s if last else demand.times_s[row + 1])
        held = last and not demand.loop
        expected = float("inf") if held else rates[row] * (end - start)
        while count and due <= expected:
            start += due / rates[row]
            expected = expected if held else rates[row] * (end - start)
            yield start
            count -= 1
            due = stream.expovariate(1.0)
        due -= expected
        start, row = end, 0 if last else row + 1
        cycle += demand.period_s if last else 0.0


def input_seed(scenario: Scenario, number: int) -> int:
    """Seed of the image of a device's request `number` (0, 1, ...): the distinct inputs in turn."""
    return scenario.seed + number % scenario.requests.distinct_inputs


def input_seeds(scenario: Scenario) -> list[int]:
    """Seeds of all distinct inputs that are used."""
    used = min(scenario.requests.distinct_inputs, max(scenario.requests.count, scenario.requests.warmup))
    return [input_seed(scenario, i) for i in range(used)]
