"""Reader and writer of a Starlink dish's history (`get_history`): a second for each place of its ring buffers.

One-way delay from `popPingLatencyMs`, loss from `popPingDropRate`. Where every ping was lost the latency means nothing: the last
good one holds on. Throughput is what was used, not what could have been: it is a rate only with `starlink:down` or `starlink:up`.
As the format is commonly read, place `current mod length` is the oldest. `outages` have stamps of their own and are not read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from traces.format import Format, Source
from traces.numbers import document, finite, rows_of
from traces.trace import Trace

_THROUGHPUT = {"down": "downlinkThroughputBps", "up": "uplinkThroughputBps"}


def _parse(source: Source, options: Mapping[str, str]) -> Trace:
    if len(options) > 1:
        raise source.error(None, "choose one of starlink:down and starlink:up")
    history = document(source).get("dishGetHistory")
    if not isinstance(history, dict):
        raise source.error(None, 'no object "dishGetHistory"')
    drops, latencies = _array(source, history, "popPingDropRate"), _array(source, history, "popPingLatencyMs")
    used = next((_THROUGHPUT[option] for option in options), None)
    rates = _array(source, history, used) if used else None
    if len({len(array) for array in (drops, latencies, rates or drops)}) != 1:
        raise source.error(None, "its arrays have different lengths")
    if any(drop > 1.0 for drop in drops):
        raise source.error(None, "popPingDropRate: shares above 1")
    good = [latency for latency, drop in zip(latencies, drops, strict=True) if drop < 1.0]
    if not good:
        raise source.error(None, "every ping was lost: there is no latency in it")
    first = int(finite(source, None, "current", history.get("current", 0))) % len(drops)
    pieces: list[tuple[float, dict[str, float]]] = []
    last = next(latencies[k % len(drops)] for k in range(first, first + len(drops)) if drops[k % len(drops)] < 1.0)
    for k in range(first, first + len(drops)):
        place = k % len(drops)
        last = latencies[place] if drops[place] < 1.0 else last
        values = {"delay_s": last / 2e3, "loss": drops[place]}
        if rates is not None:
            values["rate_bps"] = rates[place]
        pieces.append((1.0, values))
    return rows_of(source, pieces)


def _array(source: Source, history: Mapping[str, Any], name: str) -> list[float]:
    found = history.get(name)
    if not isinstance(found, list) or not found:
        raise source.error(None, f'no array "{name}"')
    return [finite(source, None, f"{name}[{place}]", value) for place, value in enumerate(found)]


def write(trace: Trace) -> str:
    """Whole seconds of delay and loss (and rate, as used downlink). Raises ValueError for a trace without a delay."""
    if "delay_s" not in trace.columns:
        raise ValueError(f"trace {trace.name!r} has no delay to write")
    delays = trace.resampled("delay_s", 1.0)
    history: dict[str, Any] = {
        "current": "0",
        "popPingDropRate": trace.resampled("loss", 1.0) if "loss" in trace.columns else [0.0] * len(delays),
        "popPingLatencyMs": [delay * 2e3 for delay in delays],
    }
    if "rate_bps" in trace.columns:
        history["downlinkThroughputBps"] = trace.resampled("rate_bps", 1.0)
    return json.dumps({"dishGetHistory": history}, indent=1) + "\n"


def _recognises(lines: Sequence[str]) -> bool:
    text = "\n".join(lines)
    return text.lstrip().startswith("{") and "dishGetHistory" in text


read = Format(
    name="starlink",
    summary="history of a Starlink dish (JSON): delay and loss of a second each",
    recognises=_recognises,
    parse=_parse,
    flags=("down", "up"),
)
