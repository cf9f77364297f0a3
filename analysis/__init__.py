"""Run folders and sweeps as tidy frames, tables and figures over them, and notebooks (docs/analysis.md).

results = analysis.load("runs/mine")
analysis.figures.latency_cdf(results.only(model="vgg16").inferences)
"""

from analysis.results import Results, UnfinishedWarning, load

__all__ = ["Results", "UnfinishedWarning", "load"]
