"""Re-planning beyond D3: cumulative sums instead of samples in a row, hysteresis, and plans kept by state."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, ClassVar

import pytest
from orchestration import scenario, swinging

from d3node.plan import Plan
from testbed.backends.sim import SimBackend
from testbed.orchestrator import run
from testbed.orchestrator.plan_cache import PlanCache
from testbed.orchestrator.trigger import Cusum, Key
from testbed.planners.base import Change
from testbed.scenario.load import load

RATE: Key = ("rate", "edge_cloud")
SPEED: Key = ("speed", "e2")


class TestCusum:
    def watch(self, samples: int = 2) -> Cusum:
        made = Cusum(0.2, samples)
        made.reset({RATE: 10e6, SPEED: 1.0})
        return made

    def test_noise_around_the_reference_cancels_out(self) -> None:
        watch = self.watch()
        assert all(watch.sample({RATE: value}) is None for value in [12.5e6, 8e6] * 50)

    def test_a_small_shift_that_lasts_is_found_though_no_sample_leaves_the_band(self) -> None:
        watch = self.watch()
        found = [watch.sample({RATE: 11.9e6}) for _ in range(6)]
        assert found[:3] == [None] * 3
        assert found[-1] == Change(paths=frozenset({"edge_cloud"}))

    @pytest.mark.parametrize("value", [40e6, 2.5e6])
    def test_a_large_step_either_way_is_told_at_once(self, value: float) -> None:
        assert self.watch().sample({RATE: value}) == Change(paths=frozenset({"edge_cloud"}))

    def test_after_a_plan_the_sums_start_again(self) -> None:
        watch = self.watch()
        for _ in range(3):
            watch.sample({RATE: 11.9e6})
        watch.reset({RATE: 11.9e6})
        assert not watch.watching
        assert watch.sample({RATE: 11.9e6}) is None

    def test_an_outage_is_finite(self) -> None:
        assert self.watch().sample({RATE: 0.0}) is not None


class TestPlanCache:
    values: ClassVar = {RATE: 10e6, SPEED: 1.0}

    def plan(self, name: str) -> Plan:
        return Plan(name, "m", ("device",), {})  # type: ignore[arg-type]

    def test_a_state_in_the_same_cell_finds_the_plan_and_another_does_not(self) -> None:
        cache = PlanCache(4, 0.2)
        step = math.log1p(0.2)
        middle = math.exp(round(math.log(10e6) / step) * step)
        cache.keep({**self.values, RATE: middle}, self.plan("a"))
        found = [cache.find({**self.values, RATE: middle * factor}) for factor in (1.05, 0.95, 1.15, 0.85)]
        assert [plan.planner if plan else None for plan in found] == ["a", "a", None, None]
        assert cache.find({**self.values, RATE: middle, SPEED: 0.5}) is None

    def test_the_least_recently_used_is_forgotten_first(self) -> None:
        cache = PlanCache(2, 0.2)
        states = [{RATE: rate} for rate in (1e6, 10e6, 100e6)]
        for k in (0, 1):
            cache.keep(states[k], self.plan(str(k)))
        assert cache.find(states[0]) is not None
        cache.keep(states[2], self.plan("2"))
        assert [cache.find(state) is not None for state in states] == [True, False, True]

    def test_size_0_keeps_nothing(self) -> None:
        cache = PlanCache(0, 0.2)
        cache.keep(self.values, self.plan("a"))
        assert cache.find(self.values) is None


def decisions(tmp_path: Path, **planning: Any) -> list[dict[str, Any]]:
    """Records of a run whose backbone swings between 60 and 1 Mbit/s three times."""
    asked = scenario(
        model={"names": ["alexnet"]},
        links={
            "access": {"rate": "80 Mbit/s", "delay": "2 ms"},
            "backbone": {"delay": "10 ms", "trace": swinging(tmp_path), "trace_loop": True},
        },
        requests={"count": 60, "arrival": "fixed", "rate": "2 /s"},
        planning={"planners": ["optimal"], "probe_interval": "0.5 s", "smoothing": 1.0, "samples": 1, **planning},
    )
    out = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
    run(asked, SimBackend(), out)
    return [json.loads(line) for line in (out / "plans.jsonl").read_text().splitlines()]


def test_a_state_that_comes_back_is_answered_from_the_cache_with_the_same_plans(tmp_path: Path) -> None:
    plain = decisions(tmp_path)
    cached = decisions(tmp_path, plan_cache=16)
    assert {record["replan"] for record in plain} == {"full", "partial"}
    hits = [record for record in cached if record["replan"] == "cache"]
    assert hits
    assert all(record["touched"] == [] for record in hits)
    assert [r["plan"]["tiers"] for r in cached if r["installed"]] == [r["plan"]["tiers"] for r in plain if r["installed"]]


def test_devices_in_the_same_state_share_plans_each_with_the_hosts_of_its_own_site(tmp_path: Path) -> None:
    def first_plans(cache: int) -> dict[str, dict[str, Any]]:
        words = ["topology.sites=3", "topology.devices=2", "requests.count=1", f"planning.plan_cache={cache}"]
        out = tmp_path / f"cache{cache}"
        run(load("fleet", [*words, "planning.planners=d3", "model.names=vgg16", "links.backbone.trace=3g"]), SimBackend(), out)
        records = [json.loads(line) for line in (out / "plans.jsonl").read_text().splitlines()]
        return {record["device"]: record for record in records if record["reason"] == "first"}

    alone, shared = first_plans(0), first_plans(8)
    assert [record["replan"] for record in shared.values()] == ["full", *["cache"] * 5]
    for device, record in shared.items():
        assert {**record["plan"], "epoch": 0, "notes": {}} == {**alone[device]["plan"], "epoch": 0, "notes": {}}
        edges = {record["plan"]["hosts"]["edge"], *(tile["host"] for s in record["plan"]["stacks"] for tile in s["tiles"])}
        assert len(edges) > 1
        assert all(host.startswith(f"e{device[1]}-") for host in edges)


def test_hysteresis_holds_plans_back_that_gain_too_little_and_lets_the_others_pass(tmp_path: Path) -> None:
    plain = decisions(tmp_path)
    assert not any(record["held"] for record in plain)
    held = decisions(tmp_path, hysteresis=0.99)
    assert [record["reason"] for record in held if record["installed"]] == ["first"]
    assert any(record["held"] for record in held)
    small = decisions(tmp_path, hysteresis=0.01)
    assert sum(record["installed"] for record in small) > 1


def test_the_detector_is_chosen_by_the_scenario(tmp_path: Path) -> None:
    band, cusum = decisions(tmp_path, samples=2), decisions(tmp_path, samples=2, detector="cusum")
    first = [next(r["at_s"] for r in records if r["reason"] == "change") for records in (band, cusum)]
    assert first[1] < first[0]  # a step of 60 to 1 is worth two samples at once
