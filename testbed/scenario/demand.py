"""How often requests come, by a scenario: a fixed rate, or one that follows a trace (the load of a day, say).

When single requests come is drawn in `testbed.orchestrator.loads`.
"""

from __future__ import annotations

from dataclasses import replace

from testbed.errors import TraceError
from testbed.scenario.links import trace_of
from testbed.scenario.schema import Scenario
from traces.trace import Trace

COLUMN = "requests_per_s"


def demand_of(scenario: Scenario) -> Trace | None:
    """The trace of a device's requests per second, in the scenario's own time; None where the rate is fixed, or the loop closed.

    Raises TraceError for a trace that is missing, cannot be read, has no such column, or never has a request (any more).
    """
    requests = scenario.requests
    if requests.trace is None:
        return None
    trace = trace_of(scenario, requests.trace, None, "requests.trace", (COLUMN,))
    rates = trace.columns[COLUMN]
    if not (any(rates) if trace.loop else rates[-1]):
        raise TraceError(f"requests.trace: trace {requests.trace!r} has no requests in the end: a run would never be over")
    return replace(
        trace.scaled(COLUMN, requests.trace_scale),
        times_s=tuple(time_s / requests.trace_speed for time_s in trace.times_s),
        period_s=trace.period_s / requests.trace_speed,
    )


def mean_rate(scenario: Scenario, demand: Trace | None) -> float | None:
    """Requests of a device per second, over all; None for a closed loop."""
    if demand is None:
        return scenario.requests.rate
    ends = (*demand.times_s[1:], demand.period_s)
    total = sum(rate * (end - start) for rate, start, end in zip(demand.columns[COLUMN], demand.times_s, ends, strict=True))
    return total / demand.period_s
