"""A long run takes no more memory than a short one: the benchmark `soak` in small."""

from __future__ import annotations

import pytest

from benchmarks.soak import scenario, soak

REQUESTS = 10_000
GROWTH = 2.0
"""Blocks of memory per request over the second half. A request that is held anywhere takes ten and more; what grows up to a bound
(samples of how late timers were, one for each computation) is not quite there by then."""

pytestmark = pytest.mark.long


def test_ten_thousand_requests_under_changing_plans_leave_nothing_behind() -> None:
    found = soak(scenario(REQUESTS))
    assert (found.looks[-1].requests, found.failed) == (REQUESTS + 2, 0)
    assert found.plans > 500
    assert found.growth(lambda look: look.blocks) < GROWTH, found.looks


def test_ten_thousand_requests_of_which_most_are_too_late_leave_nothing_behind() -> None:
    found = soak(scenario(REQUESTS, requests={"rate": "25 /s", "deadline": "1 s"}))
    assert found.failed > REQUESTS / 4
    assert found.growth(lambda look: look.blocks) < GROWTH, found.looks
