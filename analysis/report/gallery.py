"""Which figures of `analysis` a page shows, with their captions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count

from matplotlib.figure import Figure

from analysis import figures
from analysis.report.parts import Picture
from analysis.report.pictures import picture
from analysis.report.runs import RunPart
from analysis.report.sweeps import SweepPart


class Numbered:
    """Draws figures with numbers of their own on the page."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def __call__(self, title: str, caption: str, draw: Callable[[], Figure]) -> Picture:
        return picture(next(self._numbers), title, caption, draw)


def of_run(part: RunPart, drawn: Numbered) -> Iterator[Picture]:
    """Those of one run."""
    run = part.run
    if not len(run.answered):
        return
    for model in dict.fromkeys(run.answered["model"]):
        yield drawn(f"{model}: latency over the replay", "", lambda model=model: figures.timeline(run, model))
    yield drawn("Where the time goes", "Mean parts of a latency. They may overlap in time.", lambda: figures.breakdown(run))


def of_runs(parts: Sequence[RunPart], drawn: Numbered) -> Iterator[Picture]:
    """Those that compare runs."""
    yield from ()


def of_sweep(part: SweepPart, drawn: Numbered) -> Iterator[Picture]:
    """Those of a sweep."""
    yield from ()
