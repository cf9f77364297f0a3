"""The regression recovers planted coefficients, states its errors, and predicts models that it has not seen."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from d3node.graph import LayerGraph, Spatial, Vertex
from testbed.costs.features import COLUMNS, KINDS, Features, Kind, features_of
from testbed.costs.predict import Predictor, Sample, compare, cross_validated, fit, load
from testbed.costs.table import TierCosts
from testbed.errors import InputError

PLANTED = {
    "operators": 5e-6,
    "input_elements": 2e-9,
    "output_elements": 3e-9,
    "filter_work": 4e-8,
    "window_reads": 1e-9,
    "flops": 5e-11,
    "parameter_bytes": 1e-10,
}


def drawn(draw: random.Random, kind: Kind) -> Features:
    return Features(
        kind=kind,
        operators=draw.randint(1, 3),
        input_elements=draw.randint(1_000, 1_000_000),
        output_elements=draw.randint(1_000, 1_000_000),
        filter_work=float(draw.choice([1, 9, 25]) * draw.randint(8, 512)),
        window_reads=draw.randint(1_000, 5_000_000),
        flops=draw.randint(10_000, 500_000_000),
        parameter_bytes=draw.randint(100, 50_000_000),
    )


def planted(feature_set: str, per_kind: int = 60, noise: float = 0.0, model: str = "m") -> list[Sample]:
    draw = random.Random(f"{feature_set} {model}")
    samples = []
    for kind in KINDS:
        for _ in range(per_kind):
            features = drawn(draw, kind)
            columns = columns_of(feature_set, kind)
            seconds = sum(PLANTED[column] * x for column, x in zip(columns, features.row(columns), strict=True))
            samples.append(Sample(model, features, seconds * (1.0 + draw.uniform(-noise, noise))))
    return samples


def columns_of(feature_set: str, kind: Kind) -> tuple[str, ...]:
    return COLUMNS[feature_set][kind]  # type: ignore[index]


@pytest.mark.parametrize("feature_set", ["published", "extended"])
def test_planted_coefficients_are_recovered(feature_set: str):
    predictor = fit(planted(feature_set), feature_set)  # type: ignore[arg-type]
    assert set(predictor.kinds) == set(KINDS)
    for model in predictor.kinds.values():
        for column, coefficient in zip(model.columns, model.coefficients, strict=True):
            assert coefficient == pytest.approx(PLANTED[column], rel=1e-6)
        assert model.r2 == pytest.approx(1.0)
        assert model.mape == pytest.approx(0.0, abs=1e-9)
        assert model.samples == 60


def test_noise_shows_in_the_stated_errors_and_coefficients_stay_non_negative():
    predictor = fit(planted("extended", noise=0.2))
    for model in predictor.kinds.values():
        assert 0.03 < model.mape < 0.2
        assert 0.5 < model.r2 < 1.0
        assert min(model.coefficients) >= 0.0


def test_a_cost_that_falls_with_size_does_not_make_a_negative_coefficient():
    draw = random.Random(1)
    base = drawn(draw, "other")
    samples = [Sample("m", replace(base, input_elements=n * 1000, output_elements=1), 1e-3 - n * 1e-6) for n in range(1, 100, 7)]
    assert min(fit(samples, "published").kinds["other"].coefficients) >= 0.0


def test_the_published_features_miss_what_the_extended_ones_catch():
    samples = planted("extended")
    assert fit(samples, "published").kinds["conv"].mape > 5 * fit(samples, "extended").kinds["conv"].mape + 0.05


def test_models_are_predicted_from_the_others():
    samples = [*planted("extended", model="a"), *planted("extended", model="b")]
    found = cross_validated(samples)
    assert set(found) == {"a", "b"}
    assert set(found["a"].mape) == set(KINDS)
    assert max(found["a"].mape.values()) < 1e-6
    assert found["b"].total_error == pytest.approx(0.0, abs=1e-9)
    assert cross_validated(planted("extended")) == {}


def test_a_predictor_survives_its_file(tmp_path: Path):
    predictor = fit(planted("extended", noise=0.1))
    path = tmp_path / "regression.json"
    path.write_text(predictor.to_json())
    assert load(path) == predictor
    for text in ("{}", "[]", "x", predictor.to_json().replace('"version": 1', '"version": 2')):
        with pytest.raises(InputError, match="not a predictor file"):
            Predictor.from_json(text)


def graph() -> LayerGraph:
    window = Spatial("window", kernel=(3, 3), stride=(2, 2), padding=(1, 1))
    return LayerGraph(
        "g",
        (
            Vertex(0, "input", "input", (), (1, 3, 8, 8), 768),
            Vertex(1, "c", "conv2d", (0,), (1, 16, 4, 4), 1024, flops=13_824, parameter_bytes=1792, spatial=window),
            Vertex(2, "p", "max_pool2d", (1,), (1, 16, 2, 2), 256, spatial=Spatial("window", kernel=(2, 2), stride=(2, 2))),
            Vertex(3, "g", "adaptive_avg_pool2d", (2,), (1, 16, 1, 1), 64),
            Vertex(4, "f", "linear", (3,), (1, 10), 40, flops=320, parameter_bytes=680),
            Vertex(5, "a", "add", (4,), (1, 10), 40, flops=10),
        ),
        (5,),
    )


def test_features_are_the_published_ones():
    g = graph()
    convolution = features_of(g, 1)
    assert convolution.kind == "conv"
    assert convolution.input_elements == 192
    assert convolution.filter_work == 9 / 4 * 16  # (filter / stride)^2 x filters
    assert [features_of(g, v).kind for v in range(1, 6)] == ["conv", "pool", "pool", "dense", "other"]
    assert features_of(g, 2).window_reads == 64 * 4
    assert features_of(g, 3).window_reads == 64  # a global pool reads everything once
    with pytest.raises(ValueError, match="input"):
        features_of(g, 0)


def test_predicted_costs_split_into_overhead_and_work():
    costs = fit(planted("extended")).tier_costs(graph())
    assert costs.seconds(0) == 0.0
    assert costs.fixed_s[1:] == pytest.approx((5e-6,) * 5)
    assert costs.scaled_s[5] == pytest.approx(10 * 2e-9 + 10 * 3e-9 + 10 * 5e-11)
    assert "extended" in costs.source


def test_a_kind_that_was_never_measured_is_refused():
    without = [sample for sample in planted("extended") if sample.features.kind != "pool"]
    with pytest.raises(InputError, match="no samples of kind 'pool'"):
        fit(without).tier_costs(graph())
    with pytest.raises(InputError, match="no vertices"):
        fit([])


def test_predicted_against_measured_has_a_row_per_vertex_and_a_sum():
    measured = TierCosts((0.0,) * 6, (0.0, 1.0, 2.0, 0.0, 4.0, 0.0))
    predicted = TierCosts((0.0, 0.5, 0.0, 0.0, 0.0, 1.0), (0.0, 1.0, 1.0, 0.0, 4.0, 0.0))
    rows = compare(graph(), predicted, measured)
    assert [row.name for row in rows] == ["c", "p", "g", "f", "a", "sum"]
    assert [row.error for row in rows] == pytest.approx([0.5, -0.5, 0.0, 0.0, float("inf"), 0.5 / 7.0])
