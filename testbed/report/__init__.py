"""Read run folders into data frames, and forecast plans; nothing here prints.

`testbed.report.load(folder)` gives a `Run` with `inferences`, `plans`, `links`, `events`, `manifest` and `fidelity`.
"""

from testbed.report.run import Run, load

__all__ = ["Run", "load"]
