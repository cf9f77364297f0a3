"""Small quantities inside trace names: "8Mbit", "250 ms", "60". Scenario files have their own, stricter units.

A duration without a unit is in seconds, because trace files count in seconds; a rate must have one.
"""

from __future__ import annotations

import math
import re

_NUMBER = re.compile(r"^\s*([+-]?[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z/]*)\s*$")
_RATES = {"bit": 1.0, "kbit": 1e3, "Mbit": 1e6, "Gbit": 1e9}
_DURATIONS = {"": 1.0, "s": 1.0, "ms": 1e-3, "min": 60.0}


def rate_bps(text: str) -> float:
    """Bit/s of "8Mbit", "8 Mbit/s", "500kbit". Raises ValueError in words."""
    number, unit = _split(text)
    unit = unit.removesuffix("/s")
    if unit not in _RATES or number <= 0.0:
        raise ValueError(f"{text!r} is not a rate above 0: give a number and one of bit, kbit, Mbit, Gbit, such as 8Mbit")
    return number * _RATES[unit]


def duration_s(text: str) -> float:
    """Seconds of "60", "60s", "250ms", "2 min". Raises ValueError in words."""
    number, unit = _split(text)
    if unit not in _DURATIONS or number <= 0.0:
        raise ValueError(f"{text!r} is not a duration above 0: give seconds, or a number and one of ms, s, min")
    return number * _DURATIONS[unit]


def _split(text: str) -> tuple[float, str]:
    found = _NUMBER.match(text)
    if not found or not math.isfinite(float(found.group(1))):
        return -1.0, "?"
    return float(found.group(1)), found.group(2)
