"""Made-up traces are repeatable and have the statistics of the links they imitate; shipped files are what their table says."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from statistics import fmean

import pytest

from traces.calibrate import solve
from traces.errors import TraceFormatError
from traces.generate import generate
from traces.load import DATA, load, shipped
from traces.presets import PRESETS
from traces.quantity import duration_s, rate_bps
from traces.statistics import statistics
from traces.write import to_mahimahi


@pytest.mark.parametrize("name", PRESETS)
def test_statistics_are_those_of_the_preset(name: str):
    """Mean exactly, variation within 0.03, autocorrelations within 0.07, outages within 0.01 and 15 %."""
    preset = PRESETS[name]
    for seed in (0, 1):
        found = statistics(generate(preset, seed=seed, duration_s=20_000))
        assert found.mean_bps == pytest.approx(preset.mean_bps, rel=1e-9)
        assert found.cv == pytest.approx(preset.cv, abs=0.03)
        assert found.autocorrelation_1s == pytest.approx(preset.autocorrelation_1s, abs=0.07)
        assert found.autocorrelation_5s == pytest.approx(preset.autocorrelation_5s, abs=0.07)
        assert found.outage_share == pytest.approx(preset.outage_share, abs=0.01)
        if preset.outage_share:
            assert found.outage_mean_s == pytest.approx(preset.outage_mean_s, rel=0.15)


def test_there_is_a_preset_for_every_technology():
    assert {"3g", "lte", "5g", "wifi", "fibre", "satellite"} <= PRESETS.keys() & shipped().keys()


def test_a_satellite_is_scheduled_anew_every_15_s():
    """What is slow steps on the grid of slots: seconds on two sides of a step are less alike than neighbours within a slot."""
    rates = load("generate:satellite?seed=2&duration=30000&outages=no").columns["rate_bps"]
    within = [abs(a - b) for k, (a, b) in enumerate(pairwise(rates), start=1) if k % 15]
    across = [abs(a - b) for k, (a, b) in enumerate(pairwise(rates), start=1) if k % 15 == 0]
    assert fmean(across) > 1.5 * fmean(within)


def test_finer_steps_keep_the_statistics_of_a_second():
    fine = statistics(generate(PRESETS["wifi"], seed=1, duration_s=4000, step_s=0.1))
    assert fine.cv == pytest.approx(PRESETS["wifi"].cv, abs=0.07)
    assert fine.autocorrelation_1s == pytest.approx(PRESETS["wifi"].autocorrelation_1s, abs=0.12)


def test_a_variation_that_the_cap_does_not_allow_is_refused():
    with pytest.raises(ValueError, match="cannot vary by 2"):
        solve(replace(PRESETS["lte"], cv=2.0, cap=1.1))


def test_the_same_specification_gives_the_same_trace_and_another_seed_another():
    assert load("generate:lte?seed=3") == load("generate:lte?seed=3")
    assert load("generate:lte?seed=3").columns != load("generate:lte?seed=4").columns


def test_a_specification_sets_mean_duration_and_step():
    trace = load("generate:wifi?seed=1&duration=10&mean=8Mbit&step=300ms")
    assert trace.period_s == 10.0
    assert trace.times_s[:3] == (0.0, 0.3, 0.6)
    assert len(trace.times_s) == 34
    ends = (*trace.times_s[1:], trace.period_s)
    total = sum(r * (b - a) for r, a, b in zip(trace.columns["rate_bps"], trace.times_s, ends, strict=True))
    assert total / 10.0 == pytest.approx(8e6)


def test_outages_can_be_left_out():
    assert min(load("generate:3g?duration=2000&outages=no").columns["rate_bps"]) > 0.0
    assert min(load("generate:3g?duration=2000").columns["rate_bps"]) == 0.0


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("generate:lt", "did you mean 'lte'?"),
        ("generate:lte?sed=3", "did you mean 'seed'?"),
        ("generate:lte?seed=x", "invalid literal"),
        ("generate:lte?mean=8", "8Mbit"),
        ("generate:lte?mean=8Mbps", "8Mbit"),
        ("generate:lte?duration=-3", "duration above 0"),
        ("generate:lte?duration=2&step=5", "does not fit"),
        ("generate:lte?outages=maybe", "yes or no"),
        ("generate:lte?model=ar2", "calibrated or ar1"),
        ("generate:lte?seed=1&seed=2", "one value"),
        ("generate:lte?seed", "one value"),
    ],
)
def test_a_bad_specification_is_refused_in_words(spec: str, words: str):
    with pytest.raises(TraceFormatError) as caught:
        load(spec)
    assert words in str(caught.value)
    assert str(caught.value).startswith(spec)


def test_quantities():
    assert rate_bps("8Mbit") == rate_bps("8 Mbit/s") == 8e6
    assert rate_bps("500kbit/s") == 5e5
    assert (duration_s("60"), duration_s("250ms"), duration_s("2 min")) == (60.0, 0.25, 120.0)
    for wrong in ("", "Mbit", "0Mbit", "1e999Mbit", "8MB"):
        with pytest.raises(ValueError, match="rate"):
            rate_bps(wrong)


def test_shipped_traces_can_be_made_again_from_the_commands_in_their_table():
    table = dict(re.findall(r"^\| `([a-z0-9-]+)` .*\| `(generate:[^`]*)`", (DATA / "README.md").read_text(), re.M))
    assert set(table) == set(shipped()) - {"busy-edge", "day"}
    for name, spec in table.items():
        kept, made = load(name), load(spec)
        assert kept.period_s == made.period_s
        if name == "lte-like-mahimahi":
            assert shipped()[name].read_text() == to_mahimahi(made)
        else:
            assert kept.times_s == made.times_s
            assert kept.columns["rate_bps"] == pytest.approx(made.columns["rate_bps"], rel=0.01)


def test_the_shipped_lte_trace_has_what_the_quickstart_shows():
    rates = load("lte-like").columns["rate_bps"]
    alive = [rate for rate in rates if rate > 0.0]
    assert 2e6 < min(alive) < 4e6
    assert 20e6 < max(alive) < 27e6
    assert 1 <= rates.count(0.0) <= 2


def test_shipped_traces_are_small_and_their_columns_known():
    for name, path in shipped().items():
        assert path.stat().st_size < 60_000
        assert load(name).columns.keys() <= {"rate_bps", "cpu_share", "requests_per_s"}
    assert load("busy-edge").at(15.0) == {"cpu_share": 0.25}
