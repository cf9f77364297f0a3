"""What was measured of a network with exits on its calibration digits: how sure and how right each exit is, and coded sizes.

Plain numpy, so that planners can ask it anything: what share ends where at which thresholds, and how accurate the whole then is.
Where the figures come from is `d3node.train`'s business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from d3node import train
from d3node.exits import Metric, measured


@dataclass(frozen=True, eq=False)
class Outcome:
    """What some exits at some thresholds do. `rates[i]`: share, of the requests that reach exit i, which end there; `shares[i]`:
    of all requests; `accuracy`: share of all that end with the right class."""

    rates: tuple[float, ...]
    shares: tuple[float, ...]
    accuracy: float


@dataclass(frozen=True, eq=False)
class Calibration:
    """`scores` (samples, exits, classes) are logits, exits in the order of the model's outputs; `coded` has the mean bytes of
    every vertex's tensor as `int8-shuffle-deflate`."""

    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    coded: tuple[int, ...] = ()

    @cached_property
    def right(self) -> npt.NDArray[np.bool_]:
        """(samples, exits): whether the exit's best class is the label."""
        found: npt.NDArray[np.bool_] = self.scores.argmax(axis=2) == self.labels[:, None]
        return found

    @cached_property
    def _measured(self) -> dict[Metric, npt.NDArray[np.float64]]:
        return {"confidence": measured(self.scores, "confidence"), "entropy": measured(self.scores, "entropy")}

    def accuracies(self) -> tuple[float, ...]:
        """Accuracy of each exit, were it the only one."""
        return tuple(float(share) for share in self.right.mean(axis=0))

    def outcome(self, exits: Sequence[int], metric: Metric, thresholds: Sequence[float | None]) -> Outcome:
        """What these exits (numbers in the model's outputs, ascending) do at these thresholds; None answers in any case."""
        left = np.ones(len(self.labels), dtype=bool)
        rates, shares, hits = [], [], 0
        for exit_, threshold in zip(exits, thresholds, strict=True):
            values = self._measured[metric][:, exit_]
            sure = (
                np.ones_like(left)
                if threshold is None
                else values >= threshold
                if metric == "confidence"
                else values <= threshold
            )
            ends = left & sure
            rates.append(float(ends.sum() / left.sum()) if left.any() else 0.0)
            shares.append(float(ends.mean()))
            hits += int((ends & self.right[:, exit_]).sum())
            left &= ~ends
        return Outcome(tuple(rates), tuple(shares), hits / len(self.labels))


def load(source: str, seed: int, weights: str | None) -> Calibration:
    """The calibration of a trained network; it is trained now if it has not been."""
    from safetensors.numpy import load_file

    found = load_file(train.ensure(source, seed, weights))
    return Calibration(
        found["calibration.scores"], found["calibration.labels"], tuple(int(n) for n in found["calibration.coded"])
    )
