"""Plots of what `testbed.verify` measured, as PNG files. Needs matplotlib (the extra "analysis"); says so where it is absent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from testbed.errors import InputError
from testbed.report import units

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from testbed.verify.links import Matrix
    from testbed.verify.replay import Followed

_COLOURS = ("#0173b2", "#de8f05", "#029e73", "#cc78bc", "#ca9161", "#56b4e9", "#949494")
"""Distinguishable for the colour-blind (seaborn's "colorblind")."""

_LEAST = 1e-7
"""Where a logarithmic axis of errors begins."""


def available() -> bool:
    """Whether matplotlib is there."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("plots need matplotlib: pip install 'd3-testbed[analysis]'") from error
    return Figure(figsize=(width, height), layout="constrained", dpi=150)


def links(matrix: Matrix, path: Path) -> None:
    """Absolute errors over message size, a line for each rate, a panel for each delay; warm above, cold below."""
    from testbed.verify.links import WORST_LIMIT

    delays = sorted({cell.delay_s for cell in matrix.cells})
    rates = sorted({cell.rate_bps for cell in matrix.cells})
    figure = _figure(3.4 * len(delays), 5.6)
    panels = figure.subplots(2, len(delays), sharex=True, sharey=True, squeeze=False)
    for row, start in enumerate(("warm", "cold")):
        for column, delay in enumerate(delays):
            axes = panels[row][column]
            for colour, rate in zip(_COLOURS * len(rates), rates, strict=False):
                cells = [cell for cell in matrix.of(start) if (cell.rate_bps, cell.delay_s) == (rate, delay)]
                points = [max(abs(cell.error), _LEAST) for cell in cells]
                axes.plot([cell.size_bytes for cell in cells], points, "o-", color=colour, markersize=4, label=units.rate(rate))
            if start == "warm":
                axes.axhline(WORST_LIMIT, color="#d55e00", linestyle="--", linewidth=1)
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_title(f"{start}, {units.seconds(delay)} one way", fontsize=9)
            axes.grid(True, which="major", linewidth=0.4, alpha=0.6)
    for axes in panels[1]:
        axes.set_xlabel("message [bytes]")
    for line in panels:
        line[0].set_ylabel("relative error of completion")
    panels[0][0].legend(fontsize=7)
    figure.suptitle(f"Links of backend {matrix.backend}: measured against ideal completion (dashed: limit)", fontsize=10)
    figure.savefig(path)


def replay(followed: Followed, path: Path) -> None:
    """What a greedy flow delivered in each window, over what the trace allowed; below, the cumulative difference."""
    figure = _figure(8.0, 4.6)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    width = followed.window_s
    moments = [k * width for k in range(len(followed.allowed))]
    to_mbit = 8e-6 / width
    above.step(moments, [x * to_mbit for x in followed.allowed], where="post", color="#949494", label="trace", linewidth=2.0)
    above.step(
        moments, [x * to_mbit for x in followed.delivered], where="post", color="#0173b2", label="delivered", linewidth=0.9
    )
    above.set_ylabel("payload [Mbit/s]")
    above.legend(fontsize=8)
    above.set_title(f"{followed.trace}: greedy {followed.congestion} flow", fontsize=10)
    allowed = delivered = 0.0
    gaps = []
    for one, other in zip(followed.allowed, followed.delivered, strict=True):
        allowed, delivered = allowed + one, delivered + other
        gaps.append((delivered - allowed) / 1e3)
    below.plot(moments, gaps, color="#de8f05", linewidth=0.9)
    below.axhline(0.0, color="black", linewidth=0.5)
    below.set_ylabel("behind [kB]")
    below.set_xlabel("seconds")
    figure.savefig(path)
