"""Writing, reading and shifting traces lose nothing."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces.load import load, parse
from traces.mahimahi import binned
from traces.trace import Trace
from traces.write import to_csv, to_mahimahi

opportunities = st.lists(st.integers(0, 700), min_size=1, max_size=200).map(sorted).filter(lambda times: times[-1] > 0)


@st.composite
def any_trace(draw: st.DrawFn, loop: bool | None = None) -> Trace:
    starts = [0, *sorted(draw(st.sets(st.integers(1, 5000), max_size=8)))]
    period = starts[-1] + draw(st.integers(1, 1000))
    rates = [draw(st.sampled_from([0.0, 1e5, 3.3e6, 12e6, 1e8])) for _ in starts]
    shares = [draw(st.floats(0.01, 1.0)) for _ in starts]
    columns = {"rate_bps": tuple(rates), "cpu_share": tuple(shares)}
    repeat = draw(st.booleans()) if loop is None else loop
    return Trace("drawn", tuple(s / 1000.0 for s in starts), columns, period / 1000.0, loop=repeat)


@given(opportunities, st.sampled_from([0.001, 0.01, 0.1, 0.25, 3.0]))
def test_mahimahi_written_and_read_keeps_the_bytes_of_a_period(times: list[int], bin_s: float):
    text = to_mahimahi(binned("drawn", times, bin_s))
    assert len(text.splitlines()) == len(times)
    assert int(text.splitlines()[-1]) == times[-1]


@given(opportunities)
def test_mahimahi_in_bins_of_1_ms_is_read_and_written_unchanged(times: list[int]):
    text = "".join(f"{max(1, t)}\n" for t in times)
    assert to_mahimahi(parse(text, "drawn", "mahimahi:bin=1ms")) == text


@given(any_trace())
def test_mahimahi_of_any_rate_keeps_period_and_bytes_within_one_opportunity(trace: Trace):
    lines = [int(line) for line in to_mahimahi(trace).splitlines()]
    assert lines[-1] == round(trace.period_s * 1000)
    ends = (*trace.times_s[1:], trace.period_s)
    bits = sum(r * (b - a) for r, a, b in zip(trace.columns["rate_bps"], trace.times_s, ends, strict=True))
    assert -1.0 <= len(lines) - bits / 12000.0 <= 1.0 + 1e-6


def test_mahimahi_cannot_be_written_without_a_rate():
    with pytest.raises(ValueError, match="no rate"):
        to_mahimahi(load("busy-edge"))


@given(any_trace(loop=True))
def test_csv_written_and_read_is_the_same_trace(trace: Trace):
    again = parse(to_csv(trace, ["a comment"]), trace.name)
    assert again.times_s == trace.times_s
    assert again.period_s == trace.period_s
    for column, values in trace.columns.items():
        assert again.columns[column] == pytest.approx(values, rel=1e-8)


@given(any_trace(), st.integers(0, 9000), st.lists(st.integers(0, 20_000), max_size=5))
def test_a_shifted_trace_is_the_trace_seen_from_later(trace: Trace, offset_ms: int, moments_ms: list[int]):
    # half a millisecond off the grid, so that rounding cannot decide on which side of a step a moment lies
    offset_s = offset_ms / 1000.0
    shifted = trace.shifted(offset_s)
    for moment_ms in moments_ms:
        moment_s = (moment_ms + 0.5) / 1000.0
        assert shifted.at(moment_s) == trace.at(offset_s + moment_s)
    assert shifted.period_s == trace.period_s or not trace.loop


def test_changes_go_on_over_the_end_of_a_looping_trace():
    trace = parse("time_s,rate_bps\n0,1\n1,2\n3,2\n4,\n", "drawn")
    steps = [(moment, values["rate_bps"]) for moment, values in islice(trace.steps(0.5), 5)]
    assert steps == [(0.5, 1.0), (1.0, 2.0), (4.0, 1.0), (5.0, 2.0), (8.0, 1.0)]


def test_a_constant_trace_has_one_state_and_no_change():
    assert list(parse("0 5\n1 5\n2 5\n", "drawn").steps()) == [(0.0, {"rate_bps": 5e6})]
    assert list(parse("1\n1\n", "drawn").steps(7.0)) == [(7.0, {"rate_bps": 24e6})]
