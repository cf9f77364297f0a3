"""A measured profile survives its file, gives costs that add up to the measured whole, and is refused where it does not fit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from d3node.capture import capture
from d3node.model import Model
from testbed.costs import profile as profiles
from testbed.costs.measure import measure
from testbed.costs.profile import Profile, load, save, scaled
from testbed.costs.table import Costs
from testbed.errors import InputError


def model() -> Model:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    return Model(capture(layers, (1, 3, 24, 24), "tiny"))


@pytest.fixture(scope="module")
def tiny() -> Model:
    return model()


@pytest.fixture(scope="module")
def measured(tiny: Model) -> Profile:
    return measure(tiny, "tiny", rounds=5, warmup=1)


def test_every_vertex_the_whole_and_doubling_groups_are_measured(tiny: Model, measured: Profile):
    times = measured.models["tiny"]
    assert [vertex.name for vertex in times.vertices] == [vertex.name for vertex in tiny.graph]
    assert times.vertices[0].seconds == 0.0
    assert all(vertex.seconds > 0.0 and vertex.features for vertex in times.vertices[1:])
    assert all(low <= vertex.seconds <= high for vertex in times.vertices for low, high in [vertex.quartiles_s])
    last = len(tiny.graph) - 1
    runs = {(group.first, group.last) for group in times.groups}
    assert {(1, 2), (3, 4), (1, 4), (1, last)} <= runs
    for group in times.groups:
        alone = sum(times.vertices[v].seconds for v in range(group.first, group.last + 1))
        assert group.sum_of_vertices_s == pytest.approx(alone)
    assert times.whole_s == times.groups[-1].seconds
    assert times.group_effect == times.groups[-1].effect


def test_the_effect_of_a_group_is_that_of_its_rounds(tiny: Model, monkeypatch: pytest.MonkeyPatch):
    """A machine that is ten times slower in most rounds, but in all of a round, has the same group effect."""
    clock = iter(fake_moments(len(tiny.graph) - 1, slow_rounds=(False, True, True)))
    monkeypatch.setattr("testbed.costs.measure.time.perf_counter", lambda: next(clock))
    times = measure(tiny, "tiny", rounds=3, warmup=0).models["tiny"]
    assert times.group_effect == pytest.approx(0.5)


def fake_moments(vertices: int, slow_rounds: tuple[bool, ...]) -> Iterator[float]:
    """Clock readings before and after each run: 2 s for a vertex alone, 1 s per vertex in a group; then the tiny operators."""
    now = 0.0
    for slow in slow_rounds:
        runs = [2.0] * vertices + [float(vertices)]
        length = 1 << (vertices - 1).bit_length() >> 1
        while length >= 2:
            runs += [float(length)] * (vertices // length)
            length //= 2
        for seconds in (*runs, 1e-3):
            yield now
            now += seconds * (10.0 if slow else 1.0)
            yield now


def test_machine_facts_are_kept_and_threads_restored(tiny: Model):
    before = torch.get_num_threads()
    machine = measure(tiny, "tiny", threads=2, rounds=1, warmup=0).machine
    assert torch.get_num_threads() == before
    assert (machine.threads, machine.device, machine.torch) == (2, "cpu", torch.__version__)
    assert machine.cpu
    assert machine.cores >= 1


def test_progress_is_told_after_every_round(tiny: Model):
    seen: list[tuple[int, int]] = []
    measure(tiny, "tiny", rounds=2, warmup=1, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_senseless_figures_are_refused(tiny: Model):
    for rounds, warmup, threads in ((0, 1, 1), (1, -1, 1), (1, 1, 0)):
        with pytest.raises(InputError, match="cannot measure"):
            measure(tiny, "tiny", rounds=rounds, warmup=warmup, threads=threads)


def test_a_missing_gpu_is_refused_in_words(tiny: Model, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="--device cpu"):
        measure(tiny, "tiny", device="cuda")


def test_costs_add_up_to_the_whole_or_to_the_single_vertices(tiny: Model, measured: Profile):
    times = measured.models["tiny"]
    whole = measured.tier_costs("tiny", tiny.graph)
    single = measured.tier_costs("tiny", tiny.graph, calibration="single")
    everything = range(len(tiny.graph))
    assert sum(whole.seconds(v) for v in everything) == pytest.approx(times.sum_of_vertices_s * times.group_effect)
    assert sum(single.seconds(v) for v in everything) == pytest.approx(times.sum_of_vertices_s)
    assert whole.seconds(0) == 0.0
    assert all(fixed >= 0.0 and work >= 0.0 for fixed, work in zip(whole.fixed_s, whole.scaled_s, strict=True))
    assert sum(whole.fixed_s) > 0.0


def test_a_profile_survives_its_file(measured: Profile, tmp_path: Path):
    path = tmp_path / "folder" / "here.json"
    save(measured, path)
    assert load(path) == measured


def test_a_file_gathers_models_of_one_machine(measured: Profile, tmp_path: Path):
    path = tmp_path / "here.json"
    save(measured, path)
    other = measured.models["tiny"].model_copy(update={"model": "other"})
    save(measured.model_copy(update={"models": {"other": other}}), path)
    assert set(load(path).models) == {"tiny", "other"}
    elsewhere = measured.model_copy(update={"machine": measured.machine.model_copy(update={"threads": 7})})
    save(elsewhere, path)
    assert load(path) == elsewhere


def test_a_faster_machine_takes_less_time_everywhere(tiny: Model, measured: Profile):
    fast = scaled(measured, 4.0)
    before, after = (p.tier_costs("tiny", tiny.graph) for p in (measured, fast))
    for v in range(len(tiny.graph)):
        assert after.seconds(v) == pytest.approx(before.seconds(v) / 4.0)
        assert after.fixed_s[v] == pytest.approx(before.fixed_s[v] / 4.0)
    assert fast.models["tiny"].group_effect == pytest.approx(measured.models["tiny"].group_effect)
    with pytest.raises(ValueError, match="times as fast"):
        scaled(measured, 0.0)


def test_a_model_that_was_not_measured_or_changed_is_refused(tiny: Model, measured: Profile):
    with pytest.raises(InputError, match='did you mean "tiny"'):
        measured.tier_costs("tinny", tiny.graph)
    other = capture(nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)), (1, 3, 8, 8), "tiny").graph
    with pytest.raises(InputError, match="measure it again"):
        measured.tier_costs("tiny", other)


def test_damaged_files_are_refused_with_file_and_key(measured: Profile, tmp_path: Path):
    raw = json.loads(measured.to_json())
    cases = {
        "text.json": ("hello", "not JSON"),
        "other.json": ("{}", "not a profile file"),
        "list.json": ("[]", "not a profile file"),
        "new.json": (json.dumps({**raw, "version": profiles.VERSION + 1}), "version 2 is not 1"),
        "short.json": (json.dumps({**raw, "machine": {}}), "key machine.cpu"),
        "extra.json": (json.dumps({**raw, "more": 1}), "key more"),
    }
    for name, (text, words) in cases.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=words) as caught:
            load(tmp_path / name)
        assert name in str(caught.value)
    with pytest.raises(InputError, match=r"absent\.json: No such file"):
        load(tmp_path / "absent.json")


def test_runs_take_what_groups_of_their_length_were_measured_to_take(tiny: Model, measured: Profile):
    """Four vertices measured at 0.8 of their sum, all of them at 0.5: times are calibrated to the whole."""
    times = measured.models["tiny"]
    last = len(tiny.graph) - 1
    effects = {(1, 2): 0.9, (3, 4): 0.7, (1, 4): 0.8, (1, last): 0.5}
    groups = tuple(
        group.model_copy(update={"effect": effects[group.first, group.last]})
        for group in times.groups
        if (group.first, group.last) in effects
    )
    known = measured.model_copy(update={"models": {"tiny": times.model_copy(update={"groups": groups})}})
    whole = Costs({"edge": known.tier_costs("tiny", tiny.graph)})  # type: ignore[arg-type]
    single = Costs({"edge": known.tier_costs("tiny", tiny.graph, "single")})  # type: ignore[arg-type]
    alone = [vertex.seconds for vertex in times.vertices]
    for costs in (whole, single):
        assert costs.run_s([1, 2, 3, 4], "edge") == pytest.approx(0.8 * sum(alone[1:5]))
        assert costs.run_s([2, 3], "edge") == pytest.approx(0.8 * sum(alone[2:4]))  # the median of 0.9 and 0.7
        assert costs.run_s([1, 2, 3], "edge") == pytest.approx(0.8 * sum(alone[1:4]))  # between two and four
        assert costs.run_s([3], "edge") == pytest.approx(alone[3])
        assert costs.run_s(range(1, last + 1), "edge") == pytest.approx(0.5 * sum(alone))
