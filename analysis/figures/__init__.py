"""Figures over the frames of `analysis.load`, for print: each takes frames and, if given, draws on your Axes (docs/analysis.md).

Nothing is saved and nothing shown: `save(ax, "mine.pdf")` does that.
"""

from analysis.figures.bars import backbone_bars, breakdown, gain_dots, regret_bars, speedup_bars
from analysis.figures.gantt import gantt
from analysis.figures.grids import fidelity_matrix, halo_lines, phase_diagram, scaling
from analysis.figures.latency import latency_cdf, latency_timeline
from analysis.figures.panels import panels
from analysis.figures.structures import cut_savings, ratio_maps, structure_maps
from analysis.figures.style import COLUMN_IN, PAGE_IN, context, look, save
from analysis.figures.topology import topology

__all__ = [
    "COLUMN_IN",
    "PAGE_IN",
    "backbone_bars",
    "breakdown",
    "context",
    "cut_savings",
    "fidelity_matrix",
    "gain_dots",
    "gantt",
    "halo_lines",
    "latency_cdf",
    "latency_timeline",
    "look",
    "panels",
    "phase_diagram",
    "ratio_maps",
    "regret_bars",
    "save",
    "scaling",
    "speedup_bars",
    "structure_maps",
    "topology",
]
