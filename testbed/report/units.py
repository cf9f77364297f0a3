"""Quantities as people read them: bytes, rates, seconds, operations."""

from __future__ import annotations


def _scaled(value: float, steps: tuple[str, ...], base: float, digits: int = 3) -> str:
    step = 0
    while abs(value) >= base * (1 - 0.5 * 10**-digits) and step < len(steps) - 1:
        value /= base
        step += 1
    decimals = 0 if step == 0 and float(value).is_integer() else max(0, digits - len(str(int(abs(value)))))
    return f"{value:.{decimals}f} {steps[step]}"


def size(count: float) -> str:
    """Bytes, in powers of 1000 as links count them."""
    return _scaled(count, ("B", "kB", "MB", "GB"), 1000.0)


def rate(bps: float) -> str:
    """Bits per second."""
    return _scaled(bps, ("bit/s", "kbit/s", "Mbit/s", "Gbit/s"), 1000.0)


def seconds(value: float) -> str:
    """Seconds, as µs, ms or s."""
    if value == 0.0:
        return "0 s"
    if abs(value) < 1e-3:
        return f"{value * 1e6:.0f} µs"
    return f"{_decimals(value * 1e3)} ms" if abs(value) < 1.0 else f"{_decimals(value)} s"


def operations(flops: float) -> str:
    """Floating-point operations (2 per multiply-accumulate)."""
    return _scaled(flops, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP"), 1000.0)


def percent(share: float) -> str:
    """A share of one."""
    return f"{share * 100:.1f} %"


def _decimals(value: float) -> str:
    return f"{value:.{max(0, 3 - len(str(int(abs(value)))))}f}"
