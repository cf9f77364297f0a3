"""Neurosurgeon's regression: finds the form and the coefficients that were planted, saturates, and stands as a host's profile."""

from __future__ import annotations

import random
from dataclasses import replace
from math import log
from pathlib import Path

import pytest
from orchestration import SMALL, scenario
from planner_problems import HOSTS, random_problem
from test_latency_regression import drawn, graph
from typer.testing import CliRunner

from d3node.model import ModelSpec, load_graph
from testbed import registry
from testbed.cli import app
from testbed.costs.build import load_profile, predicted
from testbed.costs.features import KINDS, Kind
from testbed.costs.measure import profile_model
from testbed.costs.predict import Sample
from testbed.costs.predict_rate import VARIABLES, RatePredictor, fit
from testbed.costs.profile import save
from testbed.errors import InputError
from testbed.planners.base import Problem
from testbed.planners.neurosurgeon import Neurosurgeon


def planted(kind: Kind, form: str, count: int = 60, noise: float = 0.0) -> list[Sample]:
    """Rates of 1e9 plus a term per variable: growing with its size, or with its logarithm."""
    draw = random.Random(f"{kind} {form}")
    samples = []
    for _ in range(count):
        features = drawn(draw, kind)
        terms = features.row(VARIABLES[kind])
        rate = 1e9 + sum(2e3 * x if form == "linear" else 3e8 * log(x) for x in terms)
        samples.append(Sample("m", features, features.flops / rate * (1.0 + draw.uniform(-noise, noise))))
    return samples


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["linear", "logarithmic"])
def test_the_planted_form_and_its_coefficients_are_found(kind: Kind, form: str) -> None:
    model = fit(planted(kind, form)).kinds[kind]
    assert model.form == form
    assert model.coefficients == pytest.approx([2e3 if form == "linear" else 3e8] * len(VARIABLES[kind]), rel=1e-6)
    assert model.intercept == pytest.approx(1e9, rel=1e-5)
    assert model.mape == pytest.approx(0.0, abs=1e-9)
    assert model.held_out is not None
    assert model.other_form is not None
    assert model.held_out < model.other_form


def test_the_variables_are_the_published_ones() -> None:
    assert VARIABLES["conv"] == ("input_elements", "filter_work")
    assert VARIABLES["pool"] == VARIABLES["dense"] == ("input_elements", "output_elements")
    assert VARIABLES["other"] == ("input_elements",)


def test_no_rate_beyond_those_measured_is_predicted() -> None:
    samples = planted("conv", "linear")
    rates = [sample.features.flops / sample.seconds for sample in samples]
    huge = replace(samples[0].features, input_elements=10**12, flops=10**9)
    assert fit(samples).seconds(huge) == pytest.approx(10**9 / max(rates))
    falling = [
        Sample("m", replace(s.features, input_elements=i * 1000), s.features.flops / (1e10 - 1e8 * i))
        for i, s in enumerate(samples)
    ]
    assert fit(falling).seconds(replace(falling[0].features, input_elements=10**9)) > 0.0


def test_kinds_that_count_no_flop_are_rated_by_their_input() -> None:
    samples = [
        replace(s, features=replace(s.features, flops=0), seconds=s.features.input_elements / 4e9)
        for s in planted("pool", "linear")
    ]
    predictor = fit(samples)
    assert not predictor.kinds["pool"].counts_flop
    assert predictor.seconds(samples[0].features) == pytest.approx(samples[0].seconds)


def test_noise_shows_in_the_stated_errors() -> None:
    model = fit(planted("conv", "logarithmic", noise=0.2)).kinds["conv"]
    assert 0.03 < model.mape < 0.2
    assert model.held_out is not None
    assert model.held_out > model.mape * 0.9


def test_a_single_sample_is_its_own_rate_and_a_missing_kind_is_refused(tmp_path: Path) -> None:
    (sample, *_) = planted("conv", "linear")
    predictor = fit([sample])
    assert predictor.kinds["conv"].held_out is None
    assert predictor.seconds(sample.features) == pytest.approx(sample.seconds)
    with pytest.raises(InputError, match="no samples of kind 'pool'"):
        predictor.tier_costs(graph())
    with pytest.raises(InputError, match="no vertices"):
        fit([])


def test_it_survives_its_file() -> None:
    predictor = fit([sample for kind in KINDS for sample in planted(kind, "linear", 7)])
    assert RatePredictor.from_json(predictor.to_json()) == predictor
    for text in ("{}", "[]", "x", predictor.to_json().replace('"version": 1', '"version": 2')):
        with pytest.raises(InputError, match="not a rate predictor file"):
            RatePredictor.from_json(text)


def test_neurosurgeon_plans_on_its_own_regression_of_a_measured_profile(tmp_path: Path) -> None:
    """From `testbed profile` to a plan: measured on this machine, fitted, named as what planners are told."""
    measured, fitted = tmp_path / "measured.json", tmp_path / "rates.json"
    save(profile_model(ModelSpec(SMALL), threads=1, rounds=2, warmup=0), measured)
    done = CliRunner().invoke(app, ["profile", "fit", str(measured), "--out", str(fitted), "--form", "rate"])
    assert done.exit_code == 0, done.output
    layers = load_graph(ModelSpec(SMALL))
    costs = load_profile(str(fitted), ".", SMALL, layers)
    assert costs.source.startswith("Neurosurgeon's regression on fitted to")
    assert costs.seconds(0) == 0.0
    assert all(costs.seconds(v) > 0.0 for v in range(1, len(layers)))
    known = scenario(hosts={tier: {"planner_profile": str(fitted)} for tier in ("device", "cloud")})
    told = predicted(known, SMALL, layers, registry.layout(known.topology))
    assert told.tiers["device"] == costs
    network = random_problem(1).network
    decision = Neurosurgeon().plan(Problem(layers, told, network, dict(HOSTS), ("e1",)))  # type: ignore[arg-type]
    decision.plan.check(layers)
    wrong = CliRunner().invoke(app, ["profile", "fit", str(measured), "--out", str(fitted), "--form", "cubic"])
    assert wrong.exit_code != 0
