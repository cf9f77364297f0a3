"""Whether answers are the whole model's: bit-equal, or within a stated tolerance where parts of maps were computed in tiles; and
for models with a data set, whether they are right. Lossy plans promise neither: of theirs it is told how often they agree.

The whole model's answers come from an agent, before the run and off the record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from d3node.channel import Payload
from testbed.errors import AgentError
from testbed.orchestrator.control import Fleet

TILED_TOLERANCE = 1e-5
"""Largest absolute difference, relative to the answer's largest magnitude, that tiles may make in float32."""

TOP = 5


@dataclass(frozen=True, slots=True)
class Verdict:
    """One answer against the whole model's. `max_rel_error` is 0.0 for a bit-equal one."""

    correct: bool
    max_rel_error: float


@dataclass(frozen=True, slots=True)
class Class:
    """The best class of an answer: whether it is that of the whole model's last output, the input's label, and whether that was
    found. None where there is nothing to tell it by."""

    agrees: bool | None = None
    label: int | None = None
    right: bool | None = None


@dataclass
class Verifier:
    """Answers of the whole models by (model, input seed), and labels of the inputs; empty where only sizes travel. `tolerance`:
    what hosts that do not round alike may differ by, relative to an answer's largest magnitude."""

    tolerance: float = 0.0
    wanted: dict[tuple[str, int], tuple[Payload, ...]] = field(default_factory=dict)
    labels: dict[tuple[str, int], int] = field(default_factory=dict)

    async def fetch(self, fleet: Fleet, host: str, model: str, seeds: Sequence[int]) -> None:
        """Ask one agent for the whole model's answers. Raises AgentError."""
        for seed in seeds:
            if (model, seed) not in self.wanted:
                reply = await fleet.clients[host].call("whole", {"model": model, "input": seed})
                if not reply.payloads or any(p.data is None for p in reply.payloads):
                    raise AgentError(f"agent {host} gave no answer of the whole model {model!r} to compare with")
                self.wanted[model, seed] = reply.payloads
                if (label := reply.fields.get("label")) is not None:
                    self.labels[model, seed] = label

    def check(self, model: str, seed: int, answer: Sequence[Payload], tiled: bool) -> Verdict | None:
        """Judge an answer; None where there is nothing to compare with."""
        wanted = self.wanted.get((model, seed))
        return None if wanted is None else compare(wanted, answer, tiled, self.tolerance)

    def classify(self, model: str, seed: int, answer: Sequence[Payload]) -> Class:
        """Which class an answer's last (or only) output tells."""
        wanted = self.wanted.get((model, seed))
        ours, theirs = (None if not wanted else _best(wanted[-1])), (None if not answer else _best(answer[-1]))
        label = self.labels.get((model, seed))
        return Class(
            agrees=None if ours is None or theirs is None else ours == theirs,
            label=label,
            right=None if label is None or theirs is None else theirs == label,
        )


def _best(payload: Payload) -> int | None:
    """The best class, of scores for one image."""
    if payload.data is None or len(payload.shape) != 2 or payload.shape[0] != 1:
        return None
    return int(np.argmax(_array(payload)))


def compare(wanted: Sequence[Payload], answer: Sequence[Payload], tiled: bool, tolerance: float = 0.0) -> Verdict:
    """Compare all outputs of a model. Another shape, type or number of outputs is wrong by an infinite error."""
    if len(wanted) != len(answer):
        return Verdict(False, float("inf"))
    worst = 0.0
    correct = True
    for ours, theirs in zip(wanted, answer, strict=True):
        if ours.dtype != theirs.dtype or ours.shape != theirs.shape or ours.data is None or theirs.data is None:
            return Verdict(False, float("inf"))
        if ours.data == theirs.data or bytes(ours.data) == bytes(theirs.data):
            continue
        a, b = _array(ours), _array(theirs)
        largest = float(np.max(np.abs(a)))
        difference = float(np.max(np.abs(a - b)))
        error = difference / largest if largest > 0.0 else float("inf")
        if not np.isfinite(error):
            return Verdict(False, float("inf"))
        worst = max(worst, error)
        allowed = max(TILED_TOLERANCE if tiled else 0.0, tolerance)
        correct = correct and error <= allowed and _same_top(a, b)
    return Verdict(correct, worst)


def _array(payload: Payload) -> npt.NDArray[np.float64]:
    assert payload.data is not None
    flat: npt.NDArray[np.float64] = np.frombuffer(payload.data, dtype=np.dtype(payload.dtype)).astype(np.float64)
    return flat.reshape(payload.shape)


def _same_top(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> bool:
    """Same five best classes in every row; only for class scores (one row of numbers for each image)."""
    if a.ndim != 2:
        return True
    first, second = (np.argsort(-x, axis=1, kind="stable")[:, :TOP] for x in (a, b))
    return bool(np.array_equal(first, second))
