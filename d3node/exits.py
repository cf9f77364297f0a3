"""Early exits: where a request may end, how sure an exit is of its answer, and what lies behind which exit.

Plain arithmetic on the layer graph and on class scores. Who carries it out is `d3node.execute`; what a plan says of exits is
checked in `d3node.plan`. Sources: BranchyNet and DDNN (normalised entropy), SPINN (top-1 softmax confidence).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from d3node.channel import Payload
    from d3node.graph import LayerGraph

Metric = Literal["confidence", "entropy"]
METRICS: tuple[Metric, ...] = get_args(Metric)


@dataclass(frozen=True, slots=True)
class Exit:
    """An output vertex whose class scores may answer the request.

    `threshold`: it answers at or above this "confidence" (largest softmax probability), or at or below this "entropy"
    (-sum p log p / log |C|, in 0..1); None: in any case, which only the last exit of a plan does, and must. `rate`: the share of
    the requests that reach it which it is expected to answer; it decides where only sizes travel. `local`: an answer here
    counts as answered locally.
    """

    vertex: int
    metric: Metric = "confidence"
    threshold: float | None = None
    rate: float = 1.0
    local: bool = False

    def answers(self, score: float) -> bool:
        """Whether a score is good enough to end the request."""
        if self.threshold is None:
            return True
        return score >= self.threshold if self.metric == "confidence" else score <= self.threshold


def stages(graph: LayerGraph, exits: Sequence[Exit]) -> tuple[int, ...]:
    """For every vertex the number of the first exit that needs it; `len(exits)` for a vertex that none needs.

    A vertex of stage s is computed only once exits 0 to s-1 have let the request pass. Without exits all vertices have stage 0.
    """
    if not exits:
        return (0,) * len(graph)
    found = [len(exits)] * len(graph)
    for number, exit_ in enumerate(exits):
        waiting = [exit_.vertex]
        while waiting:
            v = waiting.pop()
            if found[v] > number:
                found[v] = number
                waiting.extend(graph[v].inputs)
    return tuple(found)


def probabilities(scores: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Softmax over the last axis, in float64."""
    import numpy as np

    raised = np.exp(scores.astype(np.float64) - np.max(scores, axis=-1, keepdims=True).astype(np.float64))
    found: npt.NDArray[np.float64] = raised / raised.sum(axis=-1, keepdims=True)
    return found


def measured(scores: npt.NDArray[np.floating], metric: Metric) -> npt.NDArray[np.float64]:
    """The metric of class scores (logits), over the last axis."""
    import numpy as np

    p = probabilities(scores)
    if metric == "confidence":
        found: npt.NDArray[np.float64] = p.max(axis=-1)
        return found
    safe = np.where(p > 0.0, p, 1.0)
    entropy: npt.NDArray[np.float64] = -(p * np.log(safe)).sum(axis=-1) / math.log(max(2, p.shape[-1]))
    return entropy


def score(payload: Payload, metric: Metric) -> float:
    """The metric of one exit's tensor; of a batch, that of the least sure sample."""
    import numpy as np

    assert payload.data is not None
    values = measured(np.frombuffer(payload.data, dtype=payload.dtype).reshape(payload.shape), metric)
    return float(values.min() if metric == "confidence" else values.max())


def drawn(seed: int, request: int | str, exit_: Exit) -> bool:
    """Whether an exit answers where only sizes travel: at random with its expected rate, the same for the same request."""
    return exit_.threshold is None or random.Random(f"{seed}:{request}:{exit_.vertex}").random() < exit_.rate


def reaching(exits: Sequence[Exit]) -> tuple[float, ...]:
    """Expected share of requests that reach each exit; one more entry for what lies behind the last."""
    found = [1.0]
    for exit_ in exits:
        found.append(found[-1] * (0.0 if exit_.threshold is None else 1.0 - exit_.rate))
    return tuple(found)
