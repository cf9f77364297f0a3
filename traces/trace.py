"""A trace: piecewise-constant columns over time, repeated for ever or held at the end.

Readers of file formats build it; the orchestrator replays it. Values are SI: bit/s, seconds, shares of one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace

COLUMNS = ("rate_bps", "delay_s", "loss", "cpu_share", "requests_per_s")
"""Columns a trace may carry: link rate, one-way delay, loss probability (0..1), share of a host's CPU that is free (0..1],
requests of a device per second."""


@dataclass(frozen=True)
class Trace:
    """`times_s[i]` is where row i starts (first 0, strictly rising); row values hold until the next row or `period_s`.

    `columns[name][i]` is the value in row i. With `loop` the trace starts again at `period_s`, else the last row holds.
    A rate of 0 is an outage.
    """

    name: str
    times_s: tuple[float, ...]
    columns: dict[str, tuple[float, ...]]
    period_s: float
    loop: bool = True

    def __post_init__(self) -> None:
        if not self.times_s or self.times_s[0] != 0.0:
            raise ValueError(f"trace {self.name!r}: the first row must start at 0 s")
        if any(b <= a for a, b in zip(self.times_s, self.times_s[1:], strict=False)) or self.period_s <= self.times_s[-1]:
            raise ValueError(f"trace {self.name!r}: times must rise, and the period must lie behind the last of them")
        for column, values in self.columns.items():
            if column not in COLUMNS or len(values) != len(self.times_s):
                raise ValueError(f"trace {self.name!r}: bad column {column!r} (known: {', '.join(COLUMNS)}; one value a row)")

    def rates(self) -> list[tuple[float, float, float]]:
        """(start s, end s, bit/s) of every row. Raises ValueError for a trace without a rate."""
        if "rate_bps" not in self.columns:
            raise ValueError(f"trace {self.name!r} has no rate to write")
        return list(zip(self.times_s, (*self.times_s[1:], self.period_s), self.columns["rate_bps"], strict=True))

    def at(self, time_s: float) -> dict[str, float]:
        """Values in force at a time >= 0."""
        if self.loop:
            time_s %= self.period_s
        row = bisect_right(self.times_s, time_s) - 1
        return {column: values[row] for column, values in self.columns.items()}

    def steps(self, start_s: float = 0.0) -> Iterator[tuple[float, dict[str, float]]]:
        """(time, values) of every change of value from `start_s` on, the state at `start_s` first; endless when looping."""
        last = self.at(start_s)
        yield start_s, last
        if len(set(zip(*self.columns.values(), strict=True))) <= 1:  # a constant trace has no change to wait for
            return
        cycle = int(start_s // self.period_s) if self.loop else 0
        while True:
            for time_s in self.times_s:
                moment = cycle * self.period_s + time_s
                if moment > start_s:
                    values = self.at(time_s)
                    if values != last:
                        last = values
                        yield moment, values
            if not self.loop:
                return
            cycle += 1

    def shifted(self, offset_s: float) -> Trace:
        """The trace as seen from `offset_s` >= 0 on: rotated when looping, else with its beginning cut off."""
        if self.loop:
            offset_s %= self.period_s
        if offset_s == 0.0:
            return self
        first = bisect_right(self.times_s, offset_s) - 1
        order = [*range(first, len(self.times_s)), *(range(first + 1) if self.loop else ())]
        starts = [self.times_s[row] - offset_s for row in range(first, len(self.times_s))]
        starts[0] = 0.0
        if self.loop:
            starts += [self.times_s[row] + self.period_s - offset_s for row in range(first + 1)]
        period_s = self.period_s if self.loop else max(self.period_s - offset_s, starts[-1] + 1.0)
        kept = [k for k, start in enumerate(starts) if start < period_s]
        columns = {column: tuple(values[order[k]] for k in kept) for column, values in self.columns.items()}
        return replace(self, times_s=tuple(starts[k] for k in kept), columns=columns, period_s=period_s)

    def resampled(self, column: str, step_s: float) -> list[float]:
        """Mean of a column over each step of one period; a last step that is not whole is left out (unless it is the only one).

        Raises ValueError for a column that is not there.
        """
        if column not in self.columns:
            raise ValueError(f"trace {self.name!r} has no column {column!r}")
        count = max(1, int(self.period_s / step_s + 1e-9))
        sums, lengths = [0.0] * count, [0.0] * count
        ends = (*self.times_s[1:], self.period_s)
        for start, end, value in zip(self.times_s, ends, self.columns[column], strict=True):
            for step in range(int(start / step_s), min(int(end / step_s) + 1, count)):
                shared = min(end, (step + 1) * step_s) - max(start, step * step_s)
                if shared > 0.0:
                    sums[step] += value * shared
                    lengths[step] += shared
        return [total / length for total, length in zip(sums, lengths, strict=True)]

    def cut(self, start_s: float, end_s: float) -> Trace:
        """The rows between two moments of one period, from time 0 on. Raises ValueError unless 0 <= start < end <= period."""
        if not 0.0 <= start_s < end_s <= self.period_s + 1e-9:
            raise ValueError(f"trace {self.name!r} lasts {self.period_s:g} s: there is nothing from {start_s:g} s to {end_s:g} s")
        first = bisect_right(self.times_s, start_s) - 1
        rows = [row for row in range(first, len(self.times_s)) if self.times_s[row] < end_s]
        times = tuple(max(0.0, self.times_s[row] - start_s) for row in rows)
        columns = {column: tuple(values[row] for row in rows) for column, values in self.columns.items()}
        return replace(self, times_s=times, columns=columns, period_s=end_s - start_s)

    def scaled(self, column: str, factor: float) -> Trace:
        """The same trace with one column multiplied."""
        values = {**self.columns, column: tuple(v * factor for v in self.columns[column])}
        return replace(self, columns=values)
