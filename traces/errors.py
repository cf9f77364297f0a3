"""Errors of trace files and trace specifications.

TraceFormatError        what cannot be read, where (file and line), and what would be right
"""

from __future__ import annotations


class TraceFormatError(ValueError):
    """A trace that cannot be read: `name` is the file or specification, `line` the 1-based line, or None for the whole."""

    def __init__(self, name: str, line: int | None, problem: str) -> None:
        where = name if line is None else f"{name}, line {line}"
        super().__init__(f"{where}: {problem}")
        self.name = name
        self.line = line
        self.problem = problem
