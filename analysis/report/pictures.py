"""Figures as inline SVG: text stays text, ids are the figure's own, and names are words, never mathematical text.

What is drawn is `analysis.figures`' business. Its figures are for white paper; the page's style turns them where it is dark.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from analysis.report.parts import Picture
from testbed.errors import InputError

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

STYLE: dict[RcKeyType, Any] = {
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.03,
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.parse_math": False,
}
WIDE_PT = 320.0
"""Figures wider than this get a row of their own."""


@contextmanager
def drawing() -> Iterator[None]:
    """Draw for a page: without a window, leaving the process's own style and windows as they were."""
    before = matplotlib.get_backend()
    plt.switch_backend("agg")
    try:
        with plt.rc_context(STYLE), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a layout without room, which a page does not mind
            yield
    finally:
        plt.switch_backend(before)


class Drawn:
    """Draws the figures of a page, in `drawing()`. What cannot be drawn from these frames is left out; `missing` says why."""

    def __init__(self) -> None:
        self.missing: list[str] = []
        self._number = 0

    def __call__(self, title: str, caption: str, draw: Callable[[], Axes | Figure | SubFigure]) -> Iterator[Picture]:
        """One figure, or none."""
        self._number += 1
        try:
            drawn = draw()
        except InputError as error:
            self.missing.append(f"{title}: {error}")
            return
        figure = drawn.get_figure(root=True) if isinstance(drawn, Axes) else drawn.figure
        assert isinstance(figure, Figure)
        try:
            text, wide = svg(figure, f"f{self._number}", title)
        finally:
            plt.close(figure)
        yield Picture(title, text, caption, wide)


def svg(figure: Figure, name: str, title: str) -> tuple[Markup, bool]:
    """A figure as an SVG element, and whether it is a wide one; `name` becomes part of its ids."""
    target = io.StringIO()
    figure.savefig(target, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = target.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    text = re.sub(r'\bd="[^"]+"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), text)  # 0.01 pt will do; hatches are long
    found = re.search(r'width="([\d.]+)pt"', text)
    wide = found is not None and float(found[1]) > WIDE_PT
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)), wide
