"""One self-contained HTML page about runs and sweeps: `testbed report FOLDER... --html`, or `analysis.report.write` from Python.

Figures are `analysis`', tables come from `testbed`'s readers; nothing is loaded from anywhere when the page is read.
"""

from analysis.report.page import write

__all__ = ["write"]
