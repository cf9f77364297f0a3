"""Quantities with units in strings: "30 Mbit/s", "20 ms", "1.5 MB", "2 /s", "5 %". A bare number is an error, on purpose.

Only what comes from a manifest, which is written in SI, counts without a unit: such numbers are `Si`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator


class Si(float):
    """A number that is known to be in bit/s, seconds, bytes or /s."""


_SCALE: dict[str, dict[str, float]] = {
    "rate": {"bit/s": 1.0, "kbit/s": 1e3, "Mbit/s": 1e6, "Gbit/s": 1e9},
    "duration": {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0},
    "size": {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1024.0, "MiB": 1024.0**2, "GiB": 1024.0**3},
    "frequency": {"/s": 1.0, "/min": 1 / 60.0},
    "share": {"%": 0.01, "": 1.0},
}
_PATTERN = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*(\S*)\s*$")


def parse(kind: str, value: object) -> float:
    """SI value of a quantity string. Raises ValueError naming the units that are understood."""
    units = ", ".join(f'"{u}"' for u in _SCALE[kind] if u)
    if kind == "share" and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError(f"a {kind} is a string with a unit ({units}), such as {_EXAMPLE[kind]}; got {value!r}")
    found = _PATTERN.match(value)
    if not found or found.group(2) not in _SCALE[kind]:
        hint = _hint(kind, found.group(2)) if found else ""
        raise ValueError(f"{value!r} is not a {kind}{hint}: give a number and one of {units}, such as {_EXAMPLE[kind]}")
    number = float(found.group(1)) * _SCALE[kind][found.group(2)]
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is too large")
    return number


def _hint(kind: str, unit: str) -> str:
    """What a wrong unit probably meant, or to which quantity it belongs."""
    close = {u.casefold(): u for u in _SCALE[kind]}
    meant = _ALIASES.get(unit.casefold(), close.get(unit.casefold()))
    if meant in _SCALE[kind]:
        return f' (did you mean "{meant}"?)'
    others = [other for other, scale in _SCALE.items() if unit and unit in scale]
    return f' ("{unit}" is a unit of {others[0]})' if others else ""


_ALIASES = {
    **{f"{p}bps": f"{q}bit/s" for p, q in (("", ""), ("k", "k"), ("m", "M"), ("g", "G"))},
    **{f"{p}b/s": f"{q}bit/s" for p, q in (("", ""), ("k", "k"), ("m", "M"), ("g", "G"))},
    **{"hz": "/s", "rps": "/s", "sec": "s", "seconds": "s", "msec": "ms", "µs": "us", "kib": "KiB", "percent": "%"},
}
_EXAMPLE = {"rate": '"30 Mbit/s"', "duration": '"20 ms"', "size": '"10 MB"', "frequency": '"2 /s"', "share": '"5 %"'}


@dataclass(frozen=True)
class Quantity:
    """Marks a schema's field as a quantity; `unit` is what its validated number counts."""

    kind: str
    unit: str

    def __call__(self, value: object) -> float:
        """The validator of such a field."""
        return float(value) if isinstance(value, Si) else parse(self.kind, value)

    @property
    def example(self) -> str:
        """How one is written."""
        return _EXAMPLE[self.kind]

    @property
    def units(self) -> tuple[str, ...]:
        """Units that one may have; "" where it may do without."""
        return tuple(_SCALE[self.kind])


RATE, DURATION, SIZE = Quantity("rate", "bit/s"), Quantity("duration", "s"), Quantity("size", "B")
FREQUENCY, SHARE = Quantity("frequency", "/s"), Quantity("share", "")

Rate = Annotated[float, BeforeValidator(RATE), RATE]
Duration = Annotated[float, BeforeValidator(DURATION), DURATION]
Size = Annotated[float, BeforeValidator(SIZE), SIZE]
Frequency = Annotated[float, BeforeValidator(FREQUENCY), FREQUENCY]
Share = Annotated[float, BeforeValidator(SHARE), SHARE]
