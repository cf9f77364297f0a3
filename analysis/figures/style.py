"""One look for all figures: print sizes, seaborn's colour-blind safe palette, and for every planner, tier and leg the same colour
everywhere. What is drawn is left to the other files.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from testbed.errors import InputError

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

COLUMN_IN = 3.5
"""Width of a figure for one column of a two-column paper, in inches."""
PAGE_IN = 7.2
"""Width of one over both columns."""
SMALL = 6.5
"""Size of text inside a figure, in points; axes have 8, ticks and legends 7."""

PALETTE: tuple[str, ...] = tuple(sns.color_palette("colorblind").as_hex())
BLUE, ORANGE, GREEN, VERMILION, PURPLE, BROWN, PINK, GREY, YELLOW, SKY = PALETTE

TIERS = {"device": GREEN, "edge": BLUE, "cloud": ORANGE}
LEGS = {"access": "#7fccb6", "lan": "#8fc3e0", "backbone": "#f2cb80", "return": "#c9c9c9"}
"""A message has a lighter tint of the tier that it feeds; answers, and tensors that come back, are grey."""
QUEUE = "#5a5a5a"
INK, LINE, FAINT = "0.15", "0.35", "0.82"
"""Text and strong lines, weaker ones, and what lies behind the data."""
LEVELS = {"ok": "#dcebf5", "degraded": "#f5d27a", "rejected": VERMILION}

DASHES = ("-", "--", ":", "-.")
HATCHES = ("", "/////", "\\\\\\\\\\", "xxxxx")
MARKERS = "osD^vPX<>p"


@dataclass(frozen=True)
class Look:
    """How a planner is drawn: its colour, and which of the four dashes of lines and hatches of bars."""

    colour: str
    dash: int = 0

    @property
    def line(self) -> dict[str, Any]:
        """Keywords for a line."""
        marker = MARKERS[PALETTE.index(self.colour)] if self.colour in PALETTE else "*"
        return {"color": self.colour, "linestyle": DASHES[self.dash], "marker": marker, "markersize": 2.6}

    @property
    def bar(self) -> dict[str, Any]:
        """Keywords for a bar."""
        return {"facecolor": self.colour, "hatch": HATCHES[self.dash], "edgecolor": "white", "linewidth": 0.4}


LOOKS: dict[str, Look] = {
    "d3": Look(BLUE),
    "hpa": Look(SKY),
    "hpa-throughput": Look(SKY, 1),
    "capacitated": Look(BLUE, 1),
    "optimal": Look(GREEN, 1),
    "optimal-tiles": Look(GREEN, 2),
    "optimal-throughput": Look(GREEN, 3),
    "optimal-critical-path": Look(GREEN),
    "exhaustive": Look(YELLOW, 1),
    "device-only": Look(YELLOW),
    "edge-only": Look(BROWN),
    "cloud-only": Look(GREY),
    "greedy": Look(GREY, 1),
    "random": Look(GREY, 2),
    "neurosurgeon": Look(ORANGE),
    "dads": Look(VERMILION),
    "qdmp": Look(PURPLE),
    "dina": Look(PINK),
    "ionn": Look(PINK, 1),
    "ionn-all": Look(PINK, 2),
    "modnn": Look(ORANGE, 1),
    "aofl": Look(VERMILION, 1),
    "deepthings": Look(PURPLE, 1),
    "coedge": Look(BROWN, 1),
    "spinn": Look(ORANGE, 2),
    "edgent": Look(VERMILION, 2),
    "ddnn": Look(PURPLE, 2),
}
"""Registered planners; no two look the same. The optimum is dashed: who reaches it can be seen beneath."""


def look(planner: str) -> Look:
    """How a planner is drawn, in every figure; one that is not registered gets black or dark grey, by its name."""
    if planner in LOOKS:
        return LOOKS[planner]
    number = zlib.crc32(planner.encode())
    return Look(("#000000", "#454545")[number % 2], number // 2 % len(DASHES))


def looks(values: Iterable[str], column: str) -> dict[str, Look]:
    """Looks of the values of a column: a planner's own, else the palette's colours in turn."""
    if column == "planner":
        return {value: look(value) for value in values}
    return {value: Look(PALETTE[i % 10], i // 10 % len(DASHES)) for i, value in enumerate(values)}


OWN = "own"
"""The gid of figures that were made here."""

DRAWING: dict[RcKeyType, Any] = {
    **sns.axes_style("whitegrid"),
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.2,
    "axes.edgecolor": "0.3",
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.5,
    "grid.color": "0.88",
    "lines.linewidth": 1.2,
    "hatch.linewidth": 0.6,
    "xtick.major.pad": 2.0,
    "ytick.major.pad": 2.0,
    "figure.dpi": 120,
}
SAVING: dict[RcKeyType, Any] = {
    "savefig.dpi": 300,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.03,
    "pdf.fonttype": 42,
    "svg.hashsalt": "d3-testbed",
}


@contextmanager
def context() -> Iterator[None]:
    """The look as a context, for own drawing beside these figures."""
    with _settings(DRAWING):
        yield


def save(drawn: Axes | Figure | SubFigure, path: str | Path) -> None:
    """Save a figure (or that of an Axes) as PDF, SVG or PNG by the path's ending: trimmed, 300 dpi, the same bytes for the same
    figure. Raises InputError for a path that cannot be written, and for an unknown ending."""
    figure = drawn.get_figure(root=True) if isinstance(drawn, Axes) else drawn.figure
    metadata = {"Date": None} if str(path).endswith(".svg") else {"CreationDate": None} if str(path).endswith(".pdf") else None
    try:
        with _settings(SAVING):
            cast(Figure, figure).savefig(path, metadata=metadata)
    except (OSError, ValueError) as error:
        raise InputError(f"the figure cannot be saved as {path}: {error}") from error


@contextmanager
def _settings(chosen: dict[RcKeyType, Any]) -> Iterator[None]:
    """Matplotlib's settings for a while. Only those: its own context also undoes what a notebook sets meanwhile."""
    before = {name: plt.rcParams[name] for name in chosen}
    plt.rcParams.update(chosen)
    try:
        yield
    finally:
        plt.rcParams.update(before)


P = ParamSpec("P")
R = TypeVar("R")


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """A figure function that draws in this look."""

    @wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with context():
            return draw(*args, **kwargs)

    return inside


def axes_of(ax: Axes | None, width: float = COLUMN_IN, height: float = 2.3) -> Axes:
    """The given Axes, or those of a new figure."""
    if ax is not None:
        return ax
    return own_figure(1, width, height)[0]


def own_figure(rows: int, width: float, height: float, **options: Any) -> list[Axes]:
    """Axes below one another, in a new figure of these inches."""
    figure, axes = plt.subplots(rows, 1, figsize=(width, height), layout="constrained", squeeze=False, **options)
    figure.set_gid(OWN)
    return list(axes.flat)


def single(frame: pd.DataFrame, column: str, what: str) -> str:
    """The one value of a column. Raises InputError for several, which the figure cannot tell apart, and for an empty frame."""
    found = frame[column].dropna().unique().tolist()
    if not found:
        raise InputError(f"{what}: there is nothing to draw (no rows)")
    if len(found) > 1:
        names = ", ".join(map(str, found))
        raise InputError(
            f"{what} draws one {column}, and there are {names}: choose with results.only({column}=...), or use panels()"
        )
    return str(found[0])


def labels_of(ax: Axes) -> dict[str, Any]:
    """Labels of an Axes' artists, each once, with the last artist that has it (of bars: all of one colour together)."""
    handles, labels = ax.get_legend_handles_labels()
    return dict(zip(labels, handles, strict=True))


def legend_above(ax: Axes, handles: Mapping[str, Any] | None = None) -> None:
    """The legend above the drawing, where it covers nothing, in as few rows as its width allows. `handles`: artists by label,
    instead of those that the Axes knows. A figure of our own has it over its whole width."""
    found = labels_of(ax) if handles is None else handles
    if not found:
        return
    figure = ax.figure
    if figure.get_gid() == OWN:
        across = columns_that_fit(list(found), inches_wide(ax))
        figure.legend(list(found.values()), list(found), ncols=across, loc="outside upper center", borderaxespad=0.2)
        return
    across = columns_that_fit(list(found), ax.get_window_extent().width / figure.dpi)
    ax.legend(list(found.values()), list(found), ncols=across, loc="lower center", bbox_to_anchor=(0.5, 1.0), borderaxespad=0.2)


def inches_wide(ax: Axes) -> float:
    """Width of the whole figure that an Axes is in."""
    return cast(Figure, ax.get_figure(root=True)).get_figwidth()


def columns_that_fit(labels: Sequence[str], width: float) -> int:
    """How many columns of a legend (filled from top to bottom) fit into `width` inches."""
    for across in range(len(labels), 1, -1):
        rows, longer = divmod(len(labels), across)  # the first so many columns have a row more
        starts = [column * rows + min(column, longer) for column in range(across + 1)]
        widest = [max(map(len, labels[start:end])) for start, end in pairwise(starts)]
        if sum(0.5 + 0.058 * letters for letters in widest) <= width:
            return across
    return 1


def thickness(place: int, lines: int) -> float:
    """Width of one of several lines: those drawn first are thicker, so that equal lines stay visible."""
    return 1.1 + 0.3 * min(lines - 1 - place, 4)
