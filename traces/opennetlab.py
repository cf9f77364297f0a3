"""Reader and writer of OpenNetLab's JSON (AlphaRTC gym): segments of capacity (kbit/s) and duration (ms), one after the other.

`uplink` (the default) or `downlink` (`opennetlab:downlink`). A capacity of 0 is an outage (the reference player drops everything
then). `rtt` in ms, where segments have it, gives a one-way delay of half of it; `loss` is a percentage, as the player hands it to
netem; `jitter` is not read. Some published files hold single segments of absurd capacity (80 Mbit/s to 32 Gbit/s in a log of
3 Mbit/s): what is above ten times the 95th percentile is cut to that, or to `opennetlab:cap=N` times; `cap=0` cuts nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from traces.format import Format, Source
from traces.numbers import document, finite, rows_of
from traces.trace import Trace

DEFAULT_CAP = 10.0


def _parse(source: Source, options: Mapping[str, str]) -> Trace:
    link = "downlink" if "downlink" in options else "uplink"
    if "downlink" in options and "uplink" in options:
        raise source.error(None, "choose one of opennetlab:uplink and opennetlab:downlink")
    cap = finite(source, None, "option cap", options["cap"]) if "cap" in options else DEFAULT_CAP
    side = document(source).get(link)
    segments = side.get("trace_pattern") if isinstance(side, dict) else None
    if not isinstance(segments, list) or not segments:
        raise source.error(None, f'no segments in "{link}": {{"trace_pattern": [...]}}')
    pieces = [_piece(source, number, segment) for number, segment in enumerate(segments)]
    for column in ("delay_s", "loss"):
        having = [column in values for _, values in pieces]
        if any(having) and not all(having):
            missing = having.index(False)
            raise source.error(None, f"segment {missing} has no {'rtt' if column == 'delay_s' else 'loss'}, others have")
    if cap:
        ordered = sorted(values["rate_bps"] for _, values in pieces)
        most = cap * ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
        pieces = [(seconds, {**values, "rate_bps": min(values["rate_bps"], most)}) for seconds, values in pieces]
    return rows_of(source, pieces)


def _piece(source: Source, number: int, segment: Any) -> tuple[float, dict[str, float]]:
    if not isinstance(segment, dict) or "capacity" not in segment or "duration" not in segment:
        raise source.error(None, f"segment {number}: needs a capacity (kbit/s) and a duration (ms), not {segment!r:.60}")

    def of(key: str) -> float:
        return finite(source, None, f"segment {number}: {key}", segment[key])

    values = {"rate_bps": of("capacity") * 1e3}
    if "rtt" in segment:
        values["delay_s"] = of("rtt") / 2e3
    if "loss" in segment:
        values["loss"] = of("loss") / 100.0
        if values["loss"] > 1.0:
            raise source.error(None, f"segment {number}: a loss of {segment['loss']} % is more than everything")
    return of("duration") / 1e3, values


def write(trace: Trace) -> str:
    """A segment of the uplink for every row, in whole kbit/s and ms. Raises ValueError for a trace without a rate."""
    segments = []
    for row, (start_s, end_s, rate) in enumerate(trace.rates()):
        duration = round(end_s * 1e3) - round(start_s * 1e3)
        segment: dict[str, Any] = {"duration": duration, "capacity": round(rate / 1e3)}
        if "delay_s" in trace.columns:
            segment["rtt"] = trace.columns["delay_s"][row] * 2e3
        if "loss" in trace.columns:
            segment["loss"] = trace.columns["loss"][row] * 100.0
        if duration > 0:
            segments.append(segment)
    return json.dumps({"uplink": {"trace_pattern": segments}}, indent=1) + "\n"


def _recognises(lines: Sequence[str]) -> bool:
    text = "\n".join(lines)
    return text.lstrip().startswith("{") and ("trace_pattern" in text or '"uplink"' in text)


read = Format(
    name="opennetlab",
    summary="JSON segments of capacity in kbit/s and duration in ms",
    recognises=_recognises,
    parse=_parse,
    flags=("uplink", "downlink"),
    options={"cap": "cut capacities above so many times the 95th percentile (10; 0: never)"},
)
