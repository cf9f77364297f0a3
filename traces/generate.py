"""Seeded made-up link traces with the statistics of real ones (`presets.py`).

Model: ln rate is a slow process and fast noise, with the parameters that `calibrate.py` finds for the preset; rates are capped;
outages (rate 0) with geometric lengths are laid over; the result is scaled to the mean asked for, exactly. Over 20,000 s of any
preset the coefficient of variation is within 0.03 and both autocorrelations within 0.07 of the pool's, the share of outage
seconds within 0.01 and their mean length within 15 % (a test holds this). `model=ar1` is a simpler one: ln rate is a single
auto-regression. Same specification, same trace (only `random.Random` and `math` are used).
"""

from __future__ import annotations

import difflib
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from traces.calibrate import Process, simple, solve
from traces.errors import TraceFormatError
from traces.presets import PRESETS, Preset
from traces.quantity import duration_s, rate_bps
from traces.trace import Trace

PREFIX = "generate:"


def generate(
    preset: Preset,
    seed: int = 0,
    duration_s: float = 60.0,
    step_s: float = 1.0,
    name: str | None = None,
    model: Literal["calibrated", "ar1"] = "calibrated",
) -> Trace:
    """A trace of `duration_s` in rows of `step_s` (the last may be shorter), with the preset's mean exactly.

    Steps other than 1 s use the preset's per-second figures brought to that step (phi ** step, step / mean outage; what is fast
    changes once a second at most). Raises ValueError for a step or duration that makes no row.
    """
    if not 0.0 < step_s <= duration_s:
        raise ValueError(f"a step of {step_s} s does not fit into a duration of {duration_s} s")
    draw = random.Random(f"d3-testbed {preset.name} {seed}")
    rows = math.ceil(duration_s / step_s - 1e-9)
    times = tuple(round(k * step_s, 9) for k in range(rows))
    widths = [b - a for a, b in zip(times, (*times[1:], duration_s), strict=True)]
    process = simple(preset) if model == "ar1" else solve(replace(preset, mean_bps=1.0))
    logs = _logs(process, draw, times, step_s, 0.0 if model == "ar1" else preset.slot_s)
    rates = [min(math.exp(y), process.cap) for y in logs]
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


def _logs(process: Process, draw: random.Random, times_s: Sequence[float], step_s: float, slot_s: float) -> list[float]:
    """ln(rate / mean) outside outages, a value a row."""
    weight = process.weight
    slow_sigma, fast_sigma = process.sigma * math.sqrt(weight), process.sigma * math.sqrt(1.0 - weight)
    phi = process.phi**step_s
    spread = slow_sigma * math.sqrt(1.0 - phi * phi)
    slow = draw.gauss(0.0, slow_sigma)
    fast = draw.gauss(0.0, fast_sigma) if weight < 1.0 else 0.0
    logs: list[float] = []
    for time_s, following_s in zip(times_s, [*times_s[1:], times_s[-1]], strict=True):
        logs.append(process.mu + slow + fast)
        if not slot_s:
            slow = draw.gauss(phi * slow, spread)
        elif following_s // slot_s != time_s // slot_s:
            slow = draw.gauss(0.0, slow_sigma)
        if weight < 1.0 and following_s // 1.0 != time_s // 1.0:
            fast = draw.gauss(0.0, fast_sigma)
    return logs


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
    """The trace of "generate:PRESET?seed=3&duration=60&mean=8Mbit&step=1s&outages=no&model=ar1".

    Raises TraceFormatError, in words.
    """
    head, _, query = spec.partition("?")
    preset_name = head.removeprefix(PREFIX)
    if preset_name not in PRESETS:
        near = difflib.get_close_matches(preset_name, PRESETS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise TraceFormatError(spec, None, f"no preset {preset_name!r}{hint} (known: {', '.join(PRESETS)})")
    preset = PRESETS[preset_name]
    options = parse_query(spec, query, ("seed", "duration", "mean", "step", "outages", "model"))
    try:
        if "mean" in options:
            preset = replace(preset, mean_bps=rate_bps(options["mean"]))
        if options.get("outages", "yes") not in ("yes", "no"):
            raise ValueError("outages is yes or no")
        if options.get("outages") == "no":
            preset = replace(preset, outage_share=0.0)
        model = options.get("model", "calibrated")
        if model not in ("calibrated", "ar1"):
            raise ValueError("model is calibrated or ar1")
        return generate(
            preset,
            seed=int(options.get("seed", "0")),
            duration_s=duration_s(options.get("duration", "60")),
            step_s=duration_s(options.get("step", "1")),
            name=spec,
            model="ar1" if model == "ar1" else "calibrated",
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
