"""Seeded made-up link traces with the statistics of real ones (`presets.py`).

Model: y = ln(rate / mean) follows an auto-regression, y' = phi y + sigma sqrt(1 - phi^2) N(0, 1); where the preset has them, a
three-state chain draws the next level (low, medium, high) and the innovation is drawn from the part of its distribution that
lands in that level; rates are capped; outages (rate 0) with geometric lengths are laid over; the result is scaled to the mean
asked for, exactly. Same specification, same trace, on every platform (only `random.Random` and math are used).
"""

from __future__ import annotations

import difflib
import math
import random
from dataclasses import replace
from statistics import NormalDist

from traces.errors import TraceFormatError
from traces.presets import PRESETS, Preset
from traces.quantity import duration_s, rate_bps
from traces.trace import Trace

PREFIX = "generate:"
_NORMAL = NormalDist()
_LEVELS = ((-math.inf, math.log(0.5)), (math.log(0.5), math.log(1.5)), (math.log(1.5), math.inf))


def generate(preset: Preset, seed: int = 0, duration_s: float = 60.0, step_s: float = 1.0, name: str | None = None) -> Trace:
    """A trace of `duration_s` in rows of `step_s` (the last may be shorter), with the preset's mean exactly.

    Steps other than 1 s use the preset's per-second figures brought to that step (phi ** step, exits per second times step);
    levels are drawn only for steps of 1 s or less. Raises ValueError for a step or duration that makes no row.
    """
    if not 0.0 < step_s <= duration_s:
        raise ValueError(f"a step of {step_s} s does not fit into a duration of {duration_s} s")
    draw = random.Random(f"d3-testbed {preset.name} {seed}")
    rows = math.ceil(duration_s / step_s - 1e-9)
    times = tuple(round(k * step_s, 9) for k in range(rows))
    widths = [b - a for a, b in zip(times, (*times[1:], duration_s), strict=True)]
    logs = _logs(preset, draw, rows, step_s)
    rates = [min(math.exp(y), preset.cap) for y in logs]
    dark = _outages(preset, draw, rows, step_s)
    rates = [0.0 if out else rate for out, rate in zip(dark, rates, strict=True)]
    total = sum(rate * width for rate, width in zip(rates, widths, strict=True))
    if total == 0.0:  # a short trace that is one outage has no mean to scale to
        rates, total = [1.0] * rows, duration_s
    scale = preset.mean_bps * duration_s / total
    return Trace(
        name=name or f"{PREFIX}{preset.name}?seed={seed}",
        times_s=times,
        columns={"rate_bps": tuple(rate * scale for rate in rates)},
        period_s=duration_s,
    )


def _logs(preset: Preset, draw: random.Random, rows: int, step_s: float) -> list[float]:
    phi = preset.phi**step_s
    spread = preset.sigma * math.sqrt(1.0 - phi * phi)
    chain = preset.levels if step_s <= 1.0 else None
    y = draw.gauss(0.0, preset.sigma)
    level = next(k for k, (_, top) in enumerate(_LEVELS) if y < top)
    logs: list[float] = []
    for _ in range(rows):
        logs.append(y)
        centre = phi * y
        if chain is None:
            y = draw.gauss(centre, spread)
        else:
            level = _next_level(chain[level], level, draw, step_s)
            y = _between(draw, centre, spread, *_LEVELS[level])
    return logs


def _next_level(row: tuple[float, float, float], level: int, draw: random.Random, step_s: float) -> int:
    leaving = [share * step_s if k != level else 0.0 for k, share in enumerate(row)]
    return draw.choices(range(3), weights=[*leaving[:level], max(0.0, 1.0 - sum(leaving)), *leaving[level + 1 :]])[0]


def _between(draw: random.Random, centre: float, spread: float, low: float, high: float) -> float:
    """A normal value, given that it lies in [low, high); the nearer end where that is all but impossible."""
    bottom, top = (_NORMAL.cdf((edge - centre) / spread) for edge in (low, high))
    share = bottom + (top - bottom) * draw.random()
    if not 1e-12 < share < 1.0 - 1e-12:
        return low if centre < low else high
    return min(max(centre + spread * _NORMAL.inv_cdf(share), low), high)


def _outages(preset: Preset, draw: random.Random, rows: int, step_s: float) -> list[bool]:
    share, mean_s = preset.outage_share, preset.outage_mean_s
    if share == 0.0:
        return [False] * rows
    leave = min(1.0, step_s / mean_s)
    enter = min(1.0, leave * share / (1.0 - share))
    dark = False
    found: list[bool] = []
    for _ in range(rows):
        dark = draw.random() >= leave if dark else draw.random() < enter
        found.append(dark)
    return found


def from_spec(spec: str) -> Trace:
    """The trace of "generate:PRESET?seed=3&duration=60&mean=8Mbit&step=1s&outages=no". Raises TraceFormatError in words."""
    head, _, query = spec.partition("?")
    preset_name = head.removeprefix(PREFIX)
    if preset_name not in PRESETS:
        near = difflib.get_close_matches(preset_name, PRESETS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise TraceFormatError(spec, None, f"no preset {preset_name!r}{hint} (known: {', '.join(PRESETS)})")
    preset = PRESETS[preset_name]
    options = parse_query(spec, query, ("seed", "duration", "mean", "step", "outages"))
    try:
        if "mean" in options:
            preset = replace(preset, mean_bps=rate_bps(options["mean"]))
        if options.get("outages", "yes") not in ("yes", "no"):
            raise ValueError("outages is yes or no")
        if options.get("outages") == "no":
            preset = replace(preset, outage_share=0.0)
        return generate(
            preset,
            seed=int(options.get("seed", "0")),
            duration_s=duration_s(options.get("duration", "60")),
            step_s=duration_s(options.get("step", "1")),
            name=spec,
        )
    except ValueError as error:
        raise TraceFormatError(spec, None, str(error)) from error


def parse_query(spec: str, query: str, known: tuple[str, ...]) -> dict[str, str]:
    """Options of "a=1&b=2". Raises TraceFormatError for an option that is not known, has no value, or comes twice."""
    options: dict[str, str] = {}
    for item in filter(None, query.split("&")):
        key, equals, value = item.partition("=")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TraceFormatError(spec, None, f"unknown option {key!r}{hint} (known: {', '.join(known)})")
        if not equals or not value or key in options:
            raise TraceFormatError(spec, None, f"option {key!r} needs one value, as in {key}=...")
        options[key] = value
    return options
