"""One figure of several: the same drawing for every value of a column, side by side, with one legend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.style import PAGE_IN, columns_that_fit, labels_of, styled
from testbed.errors import InputError


@styled
def panels(
    draw: Callable[..., Any],
    frame: pd.DataFrame,
    *,
    by: str = "model",
    height: float = 2.3,
    width: float = PAGE_IN,
    columns: int = 4,
    same_x: bool = False,
    same_y: bool = True,
    **options: Any,
) -> Figure:
    """`draw(rows, ax=..., legend=False, **options)` for the rows of every value of column `by`, which titles its panel.

    `columns`: panels in a row at most; `height`: of one row of panels, in inches; `same_x`, `same_y`: whether the panels share a
    scale. The legend has every label once. Raises InputError for an unknown column, or one without values.
    """
    if by not in frame.columns:
        raise InputError(f"panels: there is no column {by!r}")
    values = list(frame[by].dropna().unique())
    if not values:
        raise InputError(f"panels: column {by!r} has no values to draw")
    across = min(columns, len(values))
    down = -(-len(values) // across)
    figure, axes = plt.subplots(
        down, across, figsize=(width, height * down + 0.3), sharex=same_x, sharey=same_y, squeeze=False, layout="constrained"
    )
    handles: dict[str, Any] = {}
    for i, ax in enumerate(axes.flat):
        if i >= len(values):
            ax.set_axis_off()
            continue
        draw(frame[frame[by] == values[i]], ax=ax, legend=False, **options)
        ax.set_title(str(values[i]))
        if i % across and same_y:
            ax.set_ylabel("")
        handles = labels_of(ax) | handles
    if handles:
        figure.legend(
            list(handles.values()), list(handles), ncols=columns_that_fit(list(handles), width), loc="outside upper center"
        )
    return figure
