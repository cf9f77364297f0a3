"""What a page is made of, as plain data for the templates: cells, tables, figures, and sections of them.

Texts are plain and are escaped by the templates; only a figure's SVG is markup.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from testbed.report import units


@dataclass(frozen=True)
class Cell:
    """One cell: its text, what it is sorted by (None: last, whichever way), and CSS classes."""

    text: str
    sort: float | str | None = None
    kind: str = ""


@dataclass(frozen=True)
class Column:
    """A column; `note` explains it (as a tooltip, and in the legend below the table)."""

    heading: str
    note: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Grid:
    """A sortable table; the first cell of a row names it, `notes` stand below."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Picture:
    """A figure as inline SVG."""

    title: str
    svg: Markup
    caption: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Check:
    """One invariant of a verdict."""

    where: str
    name: str
    level: str
    figure: str
    bound: str
    detail: str


@dataclass(frozen=True)
class Section:
    """A run, a comparison or a sweep: what the page shows of it, from the top down."""

    anchor: str
    title: str
    subtitle: str = ""
    verdict: str = ""
    facts: Sequence[tuple[str, str]] = ()
    against: Sequence[str] = ()
    notes: Sequence[str] = ()
    grids: Sequence[Grid] = ()
    pictures: Sequence[Picture] = ()
    missing: Sequence[str] = ()
    checks: Sequence[Check] = ()
    folded: Sequence[Grid] = ()
    manifest: str = ""


@dataclass(frozen=True)
class Headline:
    """One sentence of the summary on top: what it is about, who won, by how much."""

    about: str
    winner: str
    figure: str
    words: str
    where: str = ""


@dataclass(frozen=True)
class Entry:
    """One folder in the summary: its name, what was run in a sentence, its verdict with what is said against it, and where its
    section is."""

    label: str
    asked: str
    verdict: str
    anchor: str
    against: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    """Everything that the template shows."""

    title: str
    lead: str
    parts: Sequence[Entry]
    headlines: Sequence[Headline]
    sections: Sequence[Section]
    made: str


def text(value: object, kind: str = "") -> Cell:
    """A cell of words."""
    return Cell(str(value), str(value).lower(), kind)


def number(value: float | None, worded: Callable[[float], str], kind: str = "") -> Cell:
    """A cell of a figure; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return Cell("–", None, kind)
    return Cell(worded(value), float(value), kind)


def seconds(value: float | None, kind: str = "") -> Cell:
    """A duration."""
    return number(value, units.seconds, kind)


def size(value: float | None, kind: str = "") -> Cell:
    """Bytes."""
    return number(value, units.size, kind)


def count(value: float | None, kind: str = "") -> Cell:
    """A whole number."""
    return number(value, lambda found: f"{found:,.0f}".replace(",", " "), kind)


def times(value: float | None, kind: str = "") -> Cell:
    """A ratio."""
    return number(value, lambda found: f"{found:.2f}×", kind)


def difference(value: float | None, better: int = -1) -> Cell:
    """A relative difference with its sign, coloured where it is a per cent and more; `better` is the sign of what is wanted."""
    if value is None or not math.isfinite(value):
        return Cell("–", None)
    if abs(value) < 5e-5:
        return Cell("0", 0.0)
    kind = "" if abs(value) < 0.01 else "good" if value * better > 0 else "bad"
    return Cell(f"{value * 100:+.2f} %".replace("-", "−"), value, kind)
