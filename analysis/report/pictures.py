"""Figures of `analysis` as inline SVG that follows the page: text and lines take the page's colour, light or dark; ids are the
figure's own; names are words, never mathematical text. What is drawn is `analysis.figures`' business.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from analysis.report.parts import Picture

INK, FAINT = "#010203", "#040506"
"""Colours that no palette has: they become the page's own."""

STYLE: dict[str, Any] = {
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "font.family": "sans-serif",
    "font.size": 10.0,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "hatch.color": INK,
    "legend.facecolor": "none",
    "legend.edgecolor": FAINT,
    "legend.labelcolor": INK,
    "patch.edgecolor": FAINT,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}


@contextmanager
def drawing() -> Iterator[None]:
    """Draw for a page: without a window, in its style, leaving the process's own style as it was."""
    before = matplotlib.get_backend()
    plt.switch_backend("agg")
    try:
        with plt.rc_context():
            yield
    finally:
        plt.switch_backend(before)


def picture(number: int, title: str, caption: str, draw: Callable[[], Figure]) -> Picture:
    """Draw one figure; `number` tells it from the page's others. Call it within `drawing()`."""
    plt.rcParams.update(STYLE)
    figure = draw()
    try:
        return Picture(title, svg(figure, f"f{number}", title), caption)
    finally:
        plt.close(figure)


def svg(figure: Figure, name: str, title: str) -> Markup:
    """A figure as an SVG element; `name` becomes part of its ids."""
    target = io.StringIO()
    figure.savefig(target, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = target.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    text = text.replace(INK, "var(--ink)").replace(FAINT, "var(--line)")
    text = re.sub(r"font: ([^;\"']*)'[^\"]*?sans-serif", r"font: \1sans-serif", text)
    label = Markup.escape(title)
    text = re.sub(r"<svg ", f'<svg role="img" aria-label="{label}" ', text, count=1)
    return Markup(text)
