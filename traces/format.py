"""What a trace format is: how it is recognised, which options it takes, and how its text becomes a `Trace`.

A new format is one module with one `Format` object, registered as an entry point of group "testbed.traces"; `load.py` finds
it there. Readers get text and never touch the file system.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from traces.errors import TraceFormatError
from traces.trace import Trace


@dataclass(frozen=True)
class Source:
    """The text of a trace file. `lines` is split at "\\n" only, so that a stray carriage return is seen and not swallowed."""

    name: str
    text: str

    @property
    def lines(self) -> list[str]:
        """Lines without their newline; a final newline makes no extra line, an empty last line does."""
        lines = self.text.split("\n")
        if lines[-1] == "":
            lines.pop()
        return lines

    def error(self, line: int | None, problem: str) -> TraceFormatError:
        """The error for a 1-based line of this file."""
        return TraceFormatError(self.name, line, problem)


@dataclass(frozen=True)
class Format:
    """A registered reader. Calling it reads a `Source`.

    `recognises(lines)` looks at the file's first lines (up to 50) and answers whether this format is meant, damaged or not;
    exactly one format may say yes. `flags` are option words without a value (`pairs:solis`), `options` those with one
    (`mahimahi:bin=50ms`).
    """

    name: str
    summary: str
    recognises: Callable[[Sequence[str]], bool]
    parse: Callable[[Source, Mapping[str, str]], Trace]
    flags: tuple[str, ...] = ()
    options: dict[str, str] = field(default_factory=dict)

    def __call__(self, source: Source, options: Mapping[str, str] | None = None) -> Trace:
        """Read a file. `options` maps an option to its text (a flag to ""). Raises TraceFormatError with file and line."""
        options = dict(options or {})
        for option in options:
            if option not in self.options and option not in self.flags:
                known = ", ".join((*self.flags, *(f"{name}=" for name in self.options))) or "none"
                raise source.error(None, f"format {self.name!r} has no option {option!r}; it knows: {known}")
        if not source.text.strip():
            raise source.error(None, "the file is empty")
        return self.parse(source, options)


def held_rows(
    source: Source, times_s: Sequence[float], columns: Mapping[str, Sequence[float]], end_s: float | None = None
) -> Trace:
    """A trace of rows that hold from their time to the next row's.

    The last row holds up to `end_s`, or, without it, for the median step of the file (1 s if there is one row only).
    `times_s` starts at 0 and rises (the reader has checked that, with line numbers).
    """
    if end_s is None:
        steps = sorted(b - a for a, b in pairwise(times_s))
        end_s = times_s[-1] + (steps[len(steps) // 2] if steps else 1.0)
    return Trace(
        name=source.name,
        times_s=tuple(times_s),
        columns={column: tuple(values) for column, values in columns.items()},
        period_s=end_s,
    )
