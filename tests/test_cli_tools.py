"""The verbs beside running: models, traces, profiles and checks come as tables and JSON."""

from __future__ import annotations

import json
import sys

import pytest
from cli_words import refused, said


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")


def test_models_lists_the_zoo_and_the_layers_of_one(capsys):
    out, _ = said(capsys, "models", "--json", code=0)
    assert [model["name"] for model in json.loads(out)] == ["alexnet", "vgg16", "resnet18", "darknet53", "inception_v4"]
    out, _ = said(capsys, "models", "resnet18", code=0)
    assert "conv+bn+relu" in out
    assert "435/32" in out  # the receptive field of the last convolution
    out, _ = said(capsys, "models", "vgg16", "--json", code=0)
    found = json.loads(out)
    assert len(found["layers"]) == found["vertices"] + 1
    assert found["flops"] == sum(layer["flops"] for layer in found["layers"])
    assert "did you mean 'alexnet'" in refused(capsys, "models", "alexnt")


def test_traces_are_listed_shown_and_converted(capsys, tmp_path):
    out, _ = said(capsys, "traces", "list", "--json", code=0)
    assert "lte-like" in json.loads(out)["shipped"]
    out, _ = said(capsys, "traces", "show", "lte-like", code=0)
    assert "█" in out
    assert "12.0 Mbit/s" in out
    target = tmp_path / "made.csv"
    said(capsys, "traces", "convert", "generate:wifi?seed=3&duration=10", "--out", target, code=0)
    out, _ = said(capsys, "traces", "show", target, "--json", code=0)
    assert json.loads(out)["period_s"] == 10.0


def test_a_trace_is_generated_and_presets_are_shown_beside_their_targets(capsys, tmp_path):
    target = tmp_path / "made.up"
    options = ("--seed", 3, "--duration", 10, "--mean", "8Mbit", "--no-outages", "--to", "mahimahi", "--out", target)
    said(capsys, "traces", "generate", "lte", *options, code=0)
    out, _ = said(capsys, "traces", "show", target, "--json", code=0)
    assert json.loads(out)["columns"]["rate_bps"]["mean"] == pytest.approx(8e6, rel=1e-3)
    assert "did you mean 'lte'?" in refused(capsys, "traces", "generate", "lt")
    out, _ = said(capsys, "traces", "presets", "--duration", 2000, "--json", code=0)
    satellite = json.loads(out)["satellite"]
    assert satellite["target"].keys() < satellite["generated"].keys()
    out, _ = said(capsys, "traces", "presets", "--duration", 2000, code=0)
    assert "satellite" in out


def test_traces_are_cut_scaled_and_drawn(capsys, tmp_path):
    part, double, picture = tmp_path / "part.json", tmp_path / "double.txt", tmp_path / "both.png"
    said(capsys, "traces", "cut", "lte-like", "--from", 10, "--until", 20, "--to", "opennetlab", "--out", part, code=0)
    said(capsys, "traces", "scale", part, "--by", 2, "--to", "ghent", "--out", double, code=0)
    out, _ = said(capsys, "traces", "show", part, double, "--png", picture, "--json", code=0)
    first, second = json.loads(out)
    assert first["period_s"] == pytest.approx(second["period_s"]) == pytest.approx(10.0)
    assert second["columns"]["rate_bps"]["mean"] == pytest.approx(2 * first["columns"]["rate_bps"]["mean"], rel=1e-3)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert 'did you mean "ghent"' in refused(capsys, "traces", "convert", "lte-like", "--to", "gent")
    assert "there is nothing from 50 s to 70 s" in refused(capsys, "traces", "cut", "lte-like", "--from", 50, "--until", 70)
    assert "has rate_bps" in refused(capsys, "traces", "scale", "lte-like", "--by", 2, "--column", "delay")


@pytest.mark.slow
def test_profiles_are_measured_shown_fitted_and_compared(capsys, tmp_path):
    (tmp_path / "tiny.py").write_text(
        "import torch.nn as nn\n"
        "def net():\n"
        "    made = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 15 * 15, 10))\n"
        "    made.input_shape = (1, 3, 32, 32)\n"
        "    return made\n"
    )
    file = tmp_path / "here.json"
    sys.path.insert(0, str(tmp_path))
    try:
        said(capsys, "profile", "measure", "tiny:net", "--out", file, "--rounds", "2", "--warmup", "0", code=0)
        out, _ = said(capsys, "profile", "show", file, "--json", code=0)
        assert json.loads(out)["models"]["tiny:net"]["whole_s"] > 0.0
        said(capsys, "profile", "fit", file, "--out", tmp_path / "predictor.json", code=0)
        out, _ = said(capsys, "profile", "compare", file, "tiny:net", "--with", tmp_path / "predictor.json", "--json", code=0)
        assert json.loads(out)[-1]["name"] == "sum"
        out, _ = said(capsys, "profile", "compare", file, "tiny:net", "--with", "raspberry-pi-4", "--layers", code=0)
        assert "sum" in out
        assert "no host's" not in refused(capsys, "profile", "measure", "tiny:net", "--out", tmp_path / "tiny.py")
    finally:
        sys.path.remove(str(tmp_path))
    out, _ = said(capsys, "profile", "devices", "--json", code=0)
    assert "jetson-tx2" in {device["name"] for device in json.loads(out)}
    out, _ = said(capsys, "profile", "devices", "raspberry-pi-4", code=0)
    assert "Scission" in out


@pytest.mark.slow
def test_verify_reports_what_it_checked(capsys):
    out, _ = said(capsys, "verify", "alexnet", "--json", code=0)
    found = json.loads(out)
    assert {item["check"] for item in found} >= {"cuts", "tiles, float32", "tiles, float64"}
    assert all(item["failures"] == [] and item["count"] > 0 for item in found)
