"""Whether the answers of lossy plans are those of the exits that were taken: the network itself is asked again, here.

A plan with exits promises its exit's class scores, and that the exits before it were not sure enough; of several devices' views
those that were not waited for may be blank. Coded tensors are rounded on their way, and so are their answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain, combinations
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from d3node.channel import Payload
from d3node.exits import measured
from d3node.model import ModelSpec, load_model
from d3node.numerics import payload_of
from d3node.plan import Plan
from testbed.orchestrator import rows
from testbed.orchestrator.tracker import Request
from testbed.planners.ddnn import views_of

ROUNDED = 0.1
"""How far scores may be from those without coding, as a share of the largest; another exit's or image's differ by more."""

Scores = npt.NDArray[np.float64]


class Witness:
    """Takes note of what is wrong with answers of lossy plans while it is the context. `wrong`: in words."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.seen = 0

    def __enter__(self) -> Witness:
        row = rows.inference

        def looked_at(model: str, planner: str, request: Request, *rest: Any, **more: Any) -> list[object]:
            plan = request.epoch.plan
            if not request.error and not plan.lossless and all(p.data is not None for p in request.answer):
                self.seen += 1
                if (what := trouble(model, request)) is not None:
                    self.wrong.append(f"{planner}, request {request.number} of {request.device}: {what}")
            return row(model, planner, request, *rest, **more)

        self._patch = patch.object(rows, "inference", looked_at)
        self._patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.stop()


def trouble(model: str, request: Request) -> str | None:
    """What is wrong with a request's answer; None where nothing is."""
    plan, answer = request.epoch.plan, request.answer
    graph = load(model).graph
    if not plan.exits:
        given = [_scores(p) for p in answer]
        wanted = whole(model, request.input, ())
        return None if all(_close(a, b, plan) for a, b in zip(given, wanted, strict=True)) else "is not the model's answer"
    if request.exit is None or len(answer) != 1:
        return f"came by no exit, with {len(answer)} tensors"
    order = list(graph.outputs)
    least = float("inf")
    for blanks in _blanks(plan, request.absent, model):
        scores = whole(model, request.input, blanks)
        wanted = scores[order.index(plan.exits[request.exit].vertex)]
        least = min(least, float(np.max(np.abs(_scores(answer[0]) - wanted)) / np.max(np.abs(wanted))))
        if _close(_scores(answer[0]), wanted, plan):
            break
    else:
        return f"is not exit {request.exit}'s answer; off by {least:.2g} of the largest score, without {request.absent}"
    if plan.coding == "int8-shuffle-deflate" or request.fallback or request.absent:
        return None  # what earlier exits saw is not known to the bit
    for number, exit_ in enumerate(plan.exits[: request.exit + 1]):
        scores = whole(model, request.input, ())
        sure = float(measured(scores[order.index(exit_.vertex)], exit_.metric).item())
        if exit_.answers(sure) != (number == request.exit):
            return f"came by exit {request.exit}, but exit {number} has {exit_.metric} {sure:.4f} of {exit_.threshold}"
    return None


def _close(given: Scores, wanted: Scores, plan: Plan) -> bool:
    allowed = ROUNDED if plan.coding == "int8-shuffle-deflate" else 0.0
    return given.shape == wanted.shape and bool(np.max(np.abs(given - wanted)) <= allowed * np.max(np.abs(wanted)))


def _blanks(plan: Plan, absent: Sequence[str], model: str) -> Iterator[tuple[int, ...]]:
    """Views that may have been blank: any of those of absent devices (one may have been lost after its last tensor)."""
    views = views_of(load(model).graph)
    gone = [d for d, part in enumerate(views) if any(plan.host_of(v) in absent and plan.tiers[v] == "device" for v in part)]
    return chain.from_iterable(combinations(gone, n) for n in range(len(gone) + 1))


@cache
def load(model: str) -> Any:
    """The model, with weights."""
    return load_model(ModelSpec(model))


@cache
def whole(model: str, seed: int, blanks: tuple[int, ...]) -> tuple[Scores, ...]:
    """All outputs for an image with some views blank."""
    import torch

    found = load(model)
    image = found.image(seed).clone()
    for view in blanks:
        image[:, view] = 0
    with torch.inference_mode():
        return tuple(_scores(payload_of(tensor)) for tensor in found.whole(found.input_of(image)))


def _scores(payload: Payload) -> Scores:
    assert payload.data is not None
    return np.frombuffer(payload.data, dtype=payload.dtype).astype(np.float64).reshape(payload.shape)
