"""Trace files mean what their formats' publishers say, and a damaged file is refused with its line number."""

from __future__ import annotations

from pathlib import Path

import pytest

from traces.errors import TraceFormatError
from traces.format import Format
from traces.load import formats, load, parse
from traces.trace import Trace


def bits(trace: Trace) -> float:
    """Bits of one period."""
    ends = (*trace.times_s[1:], trace.period_s)
    rates = trace.columns["rate_bps"]
    return sum(rate * (end - start) for rate, start, end in zip(rates, trace.times_s, ends, strict=True))


def refused(text: str, format: str | None = None) -> TraceFormatError:
    with pytest.raises(TraceFormatError) as caught:
        parse(text, "file", format)
    return caught.value


# mahimahi


def test_mahimahi_lines_are_1500_bytes_each_whatever_the_bin():
    text = "0\n0\n5\n99\n100\n101\n250\n"
    for width in ("1ms", "7ms", "100ms", "1s"):
        trace = parse(text, "file", f"mahimahi:bin={width}")
        assert bits(trace) == pytest.approx(7 * 12000, rel=1e-12)
        assert trace.period_s == 0.25


def test_mahimahi_opportunity_counts_for_the_bin_that_it_closes():
    trace = parse("0\n100\n101\n250\n", "file")
    assert trace.times_s == (0.0, 0.1, 0.2)
    assert trace.columns["rate_bps"] == pytest.approx((2 * 12000 / 0.1, 12000 / 0.1, 12000 / 0.05))


def test_mahimahi_gap_is_an_outage_also_before_the_first_line_of_every_cycle():
    trace = parse("637\n1000\n", "file")
    assert trace.at(0.3) == trace.at(1.3) == {"rate_bps": 0.0}
    assert trace.at(0.65)["rate_bps"] > 0.0
    assert trace.at(0.8)["rate_bps"] == 0.0


def test_mahimahi_repeats_after_its_last_line():
    trace = parse("1\n" * 16, "file")
    assert trace.period_s == 0.001
    assert trace.at(12345.0)["rate_bps"] == pytest.approx(192e6)
    assert parse("1\n", "file").at(0.0)["rate_bps"] == pytest.approx(12e6)


def test_mahimahi_without_final_newline_and_with_leading_blanks_or_sign_is_fine():
    assert parse("5\n 7\n+9", "file") == parse("5\n7\n9\n", "file")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("5\r\n9\r\n", 1, "CRLF"),
        ("5\n7.5\n", 2, "decimal"),
        ("5.0\n7\n", 1, "decimal"),
        ("5\n-7\n", 2, "negative"),
        ("-5\n7\n", 1, "negative"),
        ("5\n9\n8\n", 3, "8 ms comes after 9 ms"),
        ("0\n0\n", 2, "above 0"),
        ("5\n\n9\n", 2, "empty line"),
        ("5\n9\n\n", 3, "empty line"),
        ("5\n9 # end\n", 2, "not a whole number"),
        ("5\n9 \n", 2, "trailing blanks"),
        ("5\nx\n", 2, "not a whole number"),
    ],
)
def test_mahimahi_damage_is_named_with_its_line(text: str, line: int, words: str):
    error = refused(text)
    assert error.line == line
    assert words in str(error)
    assert str(error).startswith(f"file, line {line}: ")


@pytest.mark.parametrize("option", ["bin=0.1ms", "bin=fast", "bin=-1s", "width=1s"])
def test_mahimahi_bad_options_are_refused(option: str):
    assert "bin" in str(refused("5\n", f"mahimahi:{option}"))


# pairs


def test_pairs_solis_rates_hold_from_their_time_on():
    trace = parse("0.0\t31.2\n1.0\t9.5\n2.0\t0.0\n3.0\t11.8\n", "file")
    assert trace.times_s == (0.0, 1.0, 2.0, 3.0)
    assert trace.columns["rate_bps"] == (31.2e6, 9.5e6, 0.0, 11.8e6)
    assert trace.period_s == 4.0


def test_pairs_pensieve_rates_hold_up_to_their_time_and_the_first_is_not_used():
    trace = parse("0.0 4.0\n0.5 5.0\n1.5 6.0\n4.0 7.0\n", "file", "pairs:pensieve")
    assert trace.times_s == (0.0, 0.5, 1.5)
    assert trace.columns["rate_bps"] == (5e6, 6e6, 7e6)
    assert trace.period_s == 4.0
    assert trace.at(4.1) == {"rate_bps": 5e6}


def test_pairs_that_do_not_begin_at_zero():
    text = "1.0 37\n2.0 80\n3.0 139\n"
    pensieve = parse(text, "file", "pairs:pensieve")
    assert (pensieve.times_s, pensieve.period_s) == ((0.0, 2.0), 3.0)  # as Pensieve's simulator: back to time 0, row 1
    solis = parse(text, "file", "pairs:solis")
    assert (solis.times_s, solis.period_s) == ((0.0, 1.0, 2.0), 3.0)


def test_pairs_with_irregular_steps_end_after_the_median_step():
    trace = parse("0 1\n0.58 2\n2.0 3\n3.0 4\n", "file")
    assert trace.period_s == pytest.approx(4.0)


def test_pairs_may_be_split_by_any_blanks_and_have_windows_line_ends():
    assert parse("0  1\r\n1 \t2\r\n", "file") == parse("0 1\n1 2\n", "file")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("0 1\n1 x\n", 2, "not a pair of numbers"),
        ("0 1\n1 2 3\n", 2, "3 column(s)"),
        ("0 1\n1\n", 2, "1 column(s)"),
        ("0 1\n\n1 2\n", 2, "empty line"),
        ("0 1\n1 -2\n", 2, "negative rate"),
        ("-1 1\n1 2\n", 1, "negative time"),
        ("0 1\n1 2\n1 3\n", 3, "times must rise"),
        ("0 1\n1 nan\n", 2, "finite"),
        ("0 1\n1 inf\n", 2, "finite"),
    ],
)
def test_pairs_damage_is_named_with_its_line(text: str, line: int, words: str):
    error = refused(text, "pairs")
    assert error.line == line
    assert words in str(error)


def test_pairs_pensieve_needs_two_rows():
    assert "two rows" in str(refused("0 1\n", "pairs:pensieve"))
    assert parse("0 1\n", "file", "pairs:solis").period_s == 1.0


def test_pairs_takes_one_convention():
    assert "one of" in str(refused("0 1\n1 2\n", "pairs:solis,pensieve"))


def test_oboe_files_are_not_mistaken_for_pairs():
    oboe = "15.0 3168.6\n474.0 3168.6\n514.0 3183.2\n905.0 3183.2\n950.0 3100.1\n1400.0 3100.1\n"
    assert parse(oboe, "file").columns["rate_bps"][0] == pytest.approx(3.1686e6)
    assert parse("0 8\n1 8\n2 5\n3 5\n4 8\n5 8\n", "steps held for two rows").period_s == 6.0
    assert parse("0 8\n30 8\n60 8\n", "slow and constant").period_s == 90.0


# CSV


def test_csv_carries_every_column_in_si():
    text = "# made by hand\ntime_s, rate_mbps, delay_ms, loss, cpu_share\n0,10,20,0.01,1\n2.5,0,0,0,0.5\n4,,,,\n"
    trace = parse(text, "file")
    assert trace.times_s == (0.0, 2.5)
    assert trace.columns == {"rate_bps": (1e7, 0.0), "delay_s": (0.02, 0.0), "loss": (0.01, 0.0), "cpu_share": (1.0, 0.5)}
    assert trace.period_s == 4.0


def test_csv_without_an_end_row_ends_after_the_median_step():
    assert parse("time_s,rate_bps\n0,8\n1,9\n3,7\n4,6\n", "file").period_s == 5.0


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("time_s,rate_mpbs\n0,1\n", 1, "did you mean 'rate_mbps'?"),
        ("time,rate_mbps\n0,1\n", 1, "did you mean 'time_s'?"),
        ("rate_mbps,loss\n0,1\n", 1, "no column time_s"),
        ("time_s,rate_mbps,rate_bps\n0,1,1\n", 1, "keep one"),
        ("time_s,loss,loss\n0,1,1\n", 1, "twice"),
        ("time_s,rate_mbps\n", 1, "no rows"),
        ("# why\ntime_s,rate_mbps\n0,1\n1,fast\n", 4, "rate_mbps: 'fast' is not a number"),
        ("time_s,rate_mbps\n0,1\n1,2,3\n", 3, "3 cell(s)"),
        ("time_s,rate_mbps\n0,1\n0,2\n", 3, "times must rise"),
        ("time_s,rate_mbps\n1,1\n", 2, "must start at 0 s"),
        ("time_s,rate_mbps\n0,-1\n", 2, "0 or more"),
        ("time_s,rate_mbps\n0,nan\n", 2, "finite"),
        ("time_s,loss\n0,5\n", 2, "write 5 % as 0.05"),
        ("time_s,cpu_share\n0,0\n", 2, "small share"),
        ("time_s,rate_mbps,loss\n0,1,0\n1,,0\n", 3, "'' is not a number"),
        ("time_s,rate_mbps\n0,1\n2,\n3,4\n", 4, "ends the period"),
    ],
)
def test_csv_damage_is_named_with_its_line(text: str, line: int, words: str):
    error = refused(text, "csv")
    assert error.line == line
    assert words in str(error)


# loading


def test_formats_are_found_by_their_entry_points():
    found = formats()
    assert set(found) >= {"mahimahi", "pairs", "csv"}
    assert all(isinstance(reader, Format) for reader in found.values())


@pytest.mark.parametrize("text", ["", "\n\n", "  \n"])
@pytest.mark.parametrize("format", [None, "mahimahi", "pairs", "csv"])
def test_an_empty_file_is_refused_by_every_format(text: str, format: str | None):
    assert "empty" in str(refused(text, format))


def test_a_file_of_no_known_format_is_refused_with_the_known_ones():
    message = str(refused("{\n"))
    assert all(name in message for name in ("csv", "mahimahi", "pairs", "?format="))


def test_an_unknown_format_names_the_nearest_one():
    assert "did you mean 'mahimahi'?" in str(refused("1\n", "mahimah"))


def test_files_are_relative_to_the_folder_and_take_their_format_in_the_name(tmp_path: Path):
    (tmp_path / "a.txt").write_text("0 1\n1 2\n2 3\n")
    assert load("a.txt", tmp_path).period_s == 3.0
    assert load("a.txt?format=pairs:pensieve", tmp_path).period_s == 2.0
    assert load("a.txt", tmp_path, format="pairs:pensieve").period_s == 2.0
    with pytest.raises(TraceFormatError, match=r"a\.txt, line 1: .*not a whole number"):
        load("a.txt?format=mahimahi", tmp_path)
    with pytest.raises(TraceFormatError, match="did you mean 'format'"):
        load("a.txt?fromat=pairs", tmp_path)


def test_a_file_wins_over_a_shipped_trace_of_the_same_name(tmp_path: Path):
    (tmp_path / "lte-like").write_text("1\n")
    assert load("lte-like", tmp_path).period_s == 0.001
    assert load("lte-like").period_s == 60.0


def test_a_missing_trace_names_the_nearest_shipped_one(tmp_path: Path):
    with pytest.raises(TraceFormatError, match="Did you mean 'lte-like'"):
        load("lte-lik", tmp_path)


def test_a_binary_file_is_refused(tmp_path: Path):
    (tmp_path / "b").write_bytes(b"\x80\x81\xff\n")
    with pytest.raises(TraceFormatError, match="not a text file"):
        load("b", tmp_path)


def test_a_folder_is_no_trace(tmp_path: Path):
    with pytest.raises(TraceFormatError, match="no such trace"):
        load(str(tmp_path))


def test_carriage_returns_in_a_file_reach_the_reader(tmp_path: Path):
    (tmp_path / "dos.up").write_bytes(b"1\r\n2\r\n")
    with pytest.raises(TraceFormatError, match="CRLF"):
        load("dos.up", tmp_path)
