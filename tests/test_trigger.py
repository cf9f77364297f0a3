"""The trigger: a relative band around what the plan was made with, left for k samples in a row."""

from __future__ import annotations

import pytest

from testbed.orchestrator.trigger import Key, Trigger
from testbed.planners.base import Change

RATE: Key = ("rate", "edge_cloud")
SPEED: Key = ("speed", "e2")
FACTOR: Key = ("factor", 7)


def trigger(samples: int = 2, band: float = 0.2) -> Trigger:
    made = Trigger(band, samples)
    made.reset({RATE: 10e6, SPEED: 1.0, FACTOR: 1.0})
    return made


@pytest.mark.parametrize("value", [8e6, 10e6, 12e6])
def test_inside_the_band_nothing_happens(value: float) -> None:
    watch = trigger(samples=1)
    assert all(watch.sample({RATE: value}) is None for _ in range(10))


@pytest.mark.parametrize("value", [7.9e6, 12.1e6, 0.0])
def test_the_kth_sample_outside_triggers(value: float) -> None:
    watch = trigger(samples=3)
    assert [watch.sample({RATE: value}) for _ in range(3)] == [None, None, Change(paths=frozenset({"edge_cloud"}))]


def test_a_sample_inside_starts_the_count_again() -> None:
    watch = trigger(samples=2)
    assert [watch.sample({RATE: v}) for v in (5e6, 10e6, 5e6)] == [None, None, None]
    assert watch.sample({RATE: 5e6}) is not None


def test_only_fresh_samples_count() -> None:
    watch = trigger(samples=2)
    assert watch.sample({RATE: 5e6}, [RATE]) is None
    assert all(watch.sample({RATE: 5e6, SPEED: 1.0}, [SPEED]) is None for _ in range(5))
    assert watch.sample({RATE: 5e6}, [RATE]) is not None


def test_a_change_names_paths_hosts_and_vertices() -> None:
    watch = trigger(samples=1)
    found = watch.sample({RATE: 1e6, SPEED: 0.5, FACTOR: 1.5})
    assert found == Change(frozenset({"edge_cloud"}), frozenset({"e2"}), frozenset({7}))


def test_after_a_plan_the_band_lies_around_the_new_values() -> None:
    watch = trigger(samples=1)
    assert watch.sample({RATE: 5e6}) is not None
    watch.reset({RATE: 5e6})
    assert watch.sample({RATE: 5.5e6}) is None
    assert watch.sample({RATE: 10e6}) is not None


def test_an_outage_is_a_change_once_and_so_is_its_end() -> None:
    watch = trigger(samples=1)
    watch.reset({RATE: 0.0})
    assert watch.sample({RATE: 0.0}) is None
    assert watch.sample({RATE: 8e6}) is not None


def test_a_value_first_seen_is_its_own_reference() -> None:
    watch = trigger(samples=1)
    assert watch.sample({("factor", 9): 3.0}) is None
    assert watch.sample({("factor", 9): 1.0}) == Change(vertices=frozenset({9}))


def test_a_partial_decision_moves_only_the_bands_it_acted_on() -> None:
    watch = trigger(samples=1)
    found = watch.sample({RATE: 5e6, SPEED: 0.85, FACTOR: 1.0})
    assert found == Change(paths=frozenset({"edge_cloud"}))
    watch.reset({RATE: 5e6, SPEED: 0.85, FACTOR: 1.0}, found)
    assert watch.sample({RATE: 5e6, SPEED: 0.85}) is None
    assert watch.sample({RATE: 5e6, SPEED: 0.75}) == Change(hosts=frozenset({"e2"})), "a quarter slower than the plan knows"
