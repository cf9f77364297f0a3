"""Device descriptions state their sources and predict what their figures were fitted to."""

from __future__ import annotations

from pathlib import Path

import pytest

from d3node.graph import LayerGraph, Operator, Vertex
from d3node.model import ModelSpec, load_graph
from testbed.costs.build import DEFAULT_PROFILE
from testbed.costs.devices import describe, known, tier_costs
from testbed.errors import InputError

PREDICTED_MS = {
    "raspberry-pi-4": {"alexnet": 228, "vgg16": 2341, "resnet18": 264, "darknet53": 1295, "inception_v4": 1782},
    "desktop-6core": {"alexnet": 31, "vgg16": 112, "resnet18": 10.2, "darknet53": 41.8, "inception_v4": 69.1},
    "desktop-6core-tuned": {"alexnet": 15, "vgg16": 78},
    "jetson-tx2": {"alexnet": 42, "vgg16": 171, "resnet18": 25, "darknet53": 92, "inception_v4": 168},
    "rtx-2080-ti": {"alexnet": 1.8, "vgg16": 5.8, "resnet18": 3.8, "darknet53": 10.7, "inception_v4": 26.2},
    "rtx-2080-ti-fast-host": {"alexnet": 1.3, "vgg16": 4.8, "resnet18": 2.0, "darknet53": 6.1, "inception_v4": 14.1},
    "tesla-t4": {"alexnet": 2.8, "vgg16": 14.1, "resnet18": 5.3, "darknet53": 16.7, "inception_v4": 36.5},
}
"""What the figures gave with hand-counted operators (22, 40, 69, 182, 482), in ms; rounded to two or three digits."""

TOLERANCE = 0.05
"""Our capture counts 183 operators in Darknet-53 and 494 in Inception-v4 (3 % of an overhead-bound sum); the rest is rounding."""

SLOW = ("darknet53", "inception_v4")


@pytest.mark.parametrize("model", ["alexnet", "vgg16", "resnet18", *(pytest.param(m, marks=pytest.mark.slow) for m in SLOW)])
def test_whole_models_take_what_the_figures_were_published_to_give(model: str):
    graph = load_graph(ModelSpec(model))
    for device, expected in PREDICTED_MS.items():
        if model in expected:
            costs = tier_costs(device, graph)
            total_ms = 1e3 * sum(costs.seconds(v.index) for v in graph)
            assert total_ms == pytest.approx(expected[model], rel=TOLERANCE), device


@pytest.mark.parametrize("model", ["alexnet", "vgg16", "resnet18", pytest.param("inception_v4", marks=pytest.mark.slow)])
def test_errors_stated_in_the_files_are_those_of_our_graphs(model: str):
    graph = load_graph(ModelSpec(model))
    checked = 0
    for name in known():
        for fitted in describe(name).fit.models:
            if fitted.model == model and "rtx" not in name:  # stated for o = 50 us against a fit with another F
                total_ms = 1e3 * sum(tier_costs(name, graph).seconds(v.index) for v in graph)
                error = 100.0 * (total_ms / fitted.published_ms - 1.0)
                assert error == pytest.approx(fitted.error_percent, abs=3.0), name
                checked += 1
    assert checked >= 1


def test_every_figure_has_a_source_and_every_file_its_own_name():
    assert len(known()) >= 10
    for name, path in known().items():
        device = describe(name)
        assert device.name == name
        for figure in (device.convolution, device.dense, device.operator):
            assert len(figure.source) >= 10
        assert device.fit.models or device.basis != "fitted"
        assert path.read_text(encoding="utf-8").isascii()


def test_defaults_of_the_tiers_are_described():
    assert set(DEFAULT_PROFILE.values()) <= set(known())


def test_cost_is_overhead_per_operator_plus_work():
    operators = (Operator("c", "conv", (1, 2), 3_000_000), Operator("r", "relu", (1, 2), 0))
    graph = LayerGraph(
        "two",
        (
            Vertex(0, "input", "input", (), (1, 4), 16),
            Vertex(1, "c", "conv2d", (0,), (1, 2), 8, flops=3_000_000, parameter_bytes=700_000, operators=operators),
            Vertex(2, "f", "linear", (1,), (1, 2), 8, flops=2_000, parameter_bytes=1_750_000),
        ),
        (2,),
    )
    costs = tier_costs("raspberry-pi-4", graph)
    assert costs.fixed_s == pytest.approx((0.0, 600e-6, 300e-6))
    assert costs.scaled_s == pytest.approx((0.0, 3e6 / 15e9, 1e-3))  # weights count for dense layers only
    assert "raspberry-pi-4" in costs.source


def test_an_unknown_device_names_the_nearest_one():
    with pytest.raises(InputError, match='did you mean "raspberry-pi-4"'):
        describe("rasberry-pi4")


def test_a_description_of_ones_own_is_checked(tmp_path: Path):
    text = known()["jetson-tx2"].read_text(encoding="utf-8")
    good = tmp_path / "board.toml"
    good.write_text(text.replace("333.0", "400.0"))
    assert describe(good).convolution.gflop_per_s == 400.0
    cases = {
        "negative.toml": (text.replace("333.0", "-1.0"), "convolution.gflop_per_s"),
        "unknown.toml": (text.replace("gbyte_per_s", "gb"), "dense"),
        "broken.toml": ("name = ", "broken.toml"),
        "source.toml": (text.replace("[dense]\n", "[dense]\nwhy = 1\n"), "dense.why"),
    }
    for name, (wrong, words) in cases.items():
        (tmp_path / name).write_text(wrong)
        with pytest.raises(InputError, match=words):
            describe(tmp_path / name)
    with pytest.raises(InputError, match="No such file"):
        describe(tmp_path / "absent.toml")
