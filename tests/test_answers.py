"""Answers against the whole model's: bit-equal without tiles; with tiles a stated tolerance and the same best classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from d3node.channel import Payload
from testbed.orchestrator.verify import compare

SCORES = np.linspace(-3.0, 5.0, 10, dtype=np.float32).reshape(1, 10)


def payload(values: np.ndarray) -> Payload:
    data = np.ascontiguousarray(values)
    return Payload(str(data.dtype), data.shape, data.nbytes, memoryview(data).cast("B"))


@pytest.mark.parametrize("tiled", [False, True])
def test_equal_bits_are_correct(tiled: bool) -> None:
    found = compare([payload(SCORES)], [payload(SCORES.copy())], tiled)
    assert (found.correct, found.max_rel_error) == (True, 0.0)


def test_without_tiles_the_smallest_difference_is_wrong() -> None:
    other = SCORES.copy()
    other[0, 0] = np.nextafter(other[0, 0], np.float32(0))
    found = compare([payload(SCORES)], [payload(other)], tiled=False)
    assert not found.correct
    assert 0.0 < found.max_rel_error < 1e-6
    assert compare([payload(SCORES)], [payload(other)], tiled=True).correct


def test_beyond_the_tolerance_tiles_are_wrong_too() -> None:
    other = SCORES.copy()
    other[0, 0] += 2e-4
    found = compare([payload(SCORES)], [payload(other)], tiled=True)
    assert (found.correct, found.max_rel_error) == (False, pytest.approx(4e-5, rel=0.01))


def test_another_ranking_is_wrong_however_small_the_difference() -> None:
    close = SCORES.copy()
    close[0, 8] = np.nextafter(close[0, 9], np.float32(0))
    swapped = close.copy()
    swapped[0, [8, 9]] = close[0, [9, 8]]
    found = compare([payload(close)], [payload(swapped)], tiled=True)
    assert found.max_rel_error < 1e-6
    assert not found.correct


@pytest.mark.parametrize("change", ["nan", "shape", "dtype", "count", "no data"])
def test_what_cannot_be_compared_is_wrong_by_an_infinite_error(change: str) -> None:
    right = payload(SCORES)
    answer = {
        "nan": [payload(np.full_like(SCORES, np.nan))],
        "shape": [replace(right, shape=(10, 1))],
        "dtype": [payload(SCORES.astype(np.float64))],
        "count": [right, right],
        "no data": [replace(right, data=None)],
    }[change]
    found = compare([right], answer, tiled=True)
    assert (found.correct, found.max_rel_error) == (False, float("inf"))
