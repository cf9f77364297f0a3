"""Measured logs in seven more formats mean what their publishers say, survive being written and read, and name what is wrong."""

from __future__ import annotations

import json

import pytest

from traces.errors import TraceFormatError
from traces.load import formats, load, parse
from traces.trace import Trace
from traces.write import WRITERS

STEPS = Trace(
    "steps",
    (0.0, 1.0, 3.0),
    {"rate_bps": (8e6, 0.0, 4e6), "delay_s": (0.02, 0.03, 0.01), "loss": (0.0, 0.5, 0.01)},
    6.0,
)


def refused(text: str, format: str | None = None) -> str:
    with pytest.raises(TraceFormatError) as caught:
        parse(text, "file", format)
    return str(caught.value)


# every format


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_what_is_written_is_recognised_and_read_back(name: str) -> None:
    everything = name in ("csv", "opennetlab", "starlink")
    held = ["rate_bps", "delay_s", "loss"] if everything else ["delay_s"] if name == "rtt" else ["rate_bps"]
    again = parse(WRITERS[name](STEPS), "again", "starlink:down" if name == "starlink" else None)
    assert set(again.columns) == set(held)
    if name == "pairs":  # the last row lasts for the median step
        again = again.cut(0.0, 4.0)
    if name == "rtt":  # the first sample lasts for its own RTT
        assert again.columns["delay_s"] == pytest.approx(STEPS.columns["delay_s"])
        assert again.period_s == pytest.approx(0.04 + 5.0)
        return
    assert again.period_s == pytest.approx(4.0 if name == "pairs" else 6.0, abs=0.03)
    for column in held:
        step = again.resampled(column, 0.5)
        expected = STEPS.resampled(column, 0.5)[: len(step)]
        if name == "mahimahi":  # whole packets
            assert sum(step) == pytest.approx(sum(expected), rel=0.01)
        else:
            assert step == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_every_format_has_a_writer() -> None:
    assert set(WRITERS) == set(formats())


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_trace_without_the_column_cannot_be_written(name: str) -> None:
    bare = Trace("bare", (0.0,), {"cpu_share": (0.5,)}, 1.0)
    if name == "csv":
        assert "cpu_share" in WRITERS[name](bare)
    else:
        with pytest.raises(ValueError, match=r"trace 'bare' has no (column 'rate_bps'|rate|delay)"):
            WRITERS[name](bare)


# oboe


def test_oboe_counts_in_ms_and_kbit_and_a_gap_carries_the_mean() -> None:
    trace = parse("15.0 3000\n515 3000\n615 1000\n1015 1000\n1015 2000\n1515 2000\n", "file")
    assert trace.times_s == pytest.approx((0.0, 0.5, 0.6, 1.0))
    assert trace.columns["rate_bps"] == (3e6, 2e6, 1e6, 2e6)
    assert trace.period_s == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0 1000\n500 1000\n500 900\n", "line 3: the last chunk has a start and no end"),
        ("0 1000\n500 1001\n", "line 2: a chunk has one rate"),
        ("500 1000\n0 1000\n", "line 2: times must not fall"),
        ("0 1000\n500 -3\n", "line 2: rate: -3 must be"),
        ("0 1000 7\n", "line 1: a time in ms and a rate"),
        ("0 1000\n0 1000\n", "no row has a length"),
    ],
)
def test_oboe_damage_is_named(text: str, says: str) -> None:
    assert says in refused(text, "oboe")


# ghent


GHENT = "1453199702879 81 51.05 3.73 0 81\n1453199703878 1080 51.05 3.73 2421684 0999\n1453199704878 2080 0 0 0 1000\n"


def test_ghent_rows_say_what_came_before_their_time() -> None:
    trace = parse(GHENT, "file")
    assert trace.times_s == pytest.approx((0.0, 0.081, 1.08))
    assert trace.columns["rate_bps"] == pytest.approx((0.0, 2421684 * 8 / 0.999, 0.0))
    assert trace.period_s == pytest.approx(2.08)


def test_ghent_rows_without_an_interval_are_left_out() -> None:
    assert parse(GHENT + "1453199704878 2080 0 0 77 0\n", "file") == parse(GHENT, "file")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("1453199705878 3080 51.0 3.7 5", "line 4: 5 column(s)"),
        ("1453199705878 1080 51.0 3.7 5 1000", "line 4: elapsed times must not fall"),
        ("1453199705878 3080 51.0 3.7 x 1000", "line 4: bytes: 'x' is not a number"),
    ],
)
def test_ghent_damage_is_named(row: str, says: str) -> None:
    assert says in refused(GHENT + row + "\n")


# gnettrack

GNET = """Timestamp,Operatorname,DL_bitrate,UL_bitrate
2020.02.27_20.35.57,B,200,-
2020.02.27_20.35.57,B,400,9
2020.02.27_20.36.00,B,0,3
"""


def test_gnettrack_averages_a_second_and_holds_it_over_missing_ones() -> None:
    trace = parse(GNET, "file")
    assert (trace.times_s, trace.period_s) == ((0.0, 3.0), 4.0)
    assert trace.columns["rate_bps"] == (300e3, 0.0)
    assert parse(GNET, "file", "gnettrack:up").columns["rate_bps"] == (9e3, 3e3)
    assert parse(GNET.replace("\n", "\r\n"), "file") == trace


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("20.36.00", "20:36:00", "line 4: Timestamp: '2020.02.27_20:36:00' is not"),
        ("2020.02.27_20.36.00", "2020.02.27_20.30.00", "line 4: timestamps must not fall"),
        ("B,0,3", "B,0", "line 4: 3 cell(s)"),
        ("B,0,3", "B,-5,3", "line 4: DL_bitrate: -5 must be"),
    ],
)
def test_gnettrack_damage_is_named(old: str, new: str, says: str) -> None:
    assert says in refused(GNET.replace(old, new))


def test_gnettrack_without_a_value_is_refused() -> None:
    assert "no row has a DL_bitrate" in refused("Timestamp,DL_bitrate\n2020.02.27_20.35.57,-\n")


# iperf

IPERF = "parent,_start,_end,bits_per_second\nx,2.01,3.01,108000000.0\nx,3.01,4.01,0.0\nx,6.01,7.01,5e6\nx,6.01,7.01,5e6\n"


def test_iperf_holds_over_missing_intervals_and_takes_a_repeated_one_once() -> None:
    trace = parse(IPERF, "file")
    assert trace.times_s == pytest.approx((0.0, 1.0, 4.0))
    assert trace.columns["rate_bps"] == (108e6, 0.0, 5e6)
    assert trace.period_s == pytest.approx(5.0)


def test_iperf_json_says_the_same() -> None:
    reports = [{"sum": {"start": a, "end": a + 1, "bits_per_second": r}} for a, r in ((0, 108e6), (1, 0.0), (4, 5e6))]
    text = json.dumps({"start": {"version": "iperf 3.12"}, "intervals": reports})
    assert parse(text, "x").columns == parse(IPERF, "x").columns
    assert "iperf3 reported an error" in refused('{"start": {"version": "iperf 3"}, "error": "unable to connect"}')
    assert "interval 0: no object" in refused('{"intervals": [{}], "start": {"version": "iperf 3"}}')


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("x,6.5,7.5,1", "line 6: intervals must not overlap"),
        ("x,8,8,1", "line 6: an interval from 8 to 8 s has no length"),
        ("x,8,9,fast", "line 6: bits per second: 'fast' is not a number"),
        ("x,8,9", "line 6: 3 cell(s)"),
    ],
)
def test_iperf_damage_is_named(row: str, says: str) -> None:
    assert says in refused(IPERF + row + "\n")


# opennetlab


def segments(*rows: dict[str, float]) -> str:
    return json.dumps({"uplink": {"trace_pattern": list(rows)}, "downlink": {}})


def test_opennetlab_has_segments_with_delay_and_loss() -> None:
    rows = ({"duration": 500, "capacity": 300, "rtt": 80, "loss": 5}, {"duration": 250, "capacity": 0, "rtt": 100, "loss": 0})
    trace = parse(segments(*rows), "file")
    assert (trace.times_s, trace.period_s) == ((0.0, 0.5), 0.75)
    assert trace.columns == {"rate_bps": (300e3, 0.0), "delay_s": (0.04, 0.05), "loss": (0.05, 0.0)}
    assert 'no segments in "downlink"' in refused(segments(*rows), "opennetlab:downlink")


def test_opennetlab_cuts_absurd_capacities_unless_told_not_to() -> None:
    rows = [{"duration": 200, "capacity": 1000.0}] * 99 + [{"duration": 200, "capacity": 32.8e6}]
    assert max(parse(segments(*rows), "file").columns["rate_bps"]) == 10e6
    assert max(parse(segments(*rows), "file", "opennetlab:cap=0").columns["rate_bps"]) == 32.8e9


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"duration": 200}], "segment 0: needs a capacity"),
        ([{"duration": 200, "capacity": 1, "rtt": 5}, {"duration": 200, "capacity": 1}], "segment 1 has no rtt, others have"),
        ([{"duration": 200, "capacity": -1}], "segment 0: capacity: -1 must be"),
        ([{"duration": 200, "capacity": 1, "loss": 101}], "is more than everything"),
        ([{"duration": 0, "capacity": 1}], "no row has a length"),
    ],
)
def test_opennetlab_damage_is_named(rows: list[dict[str, float]], says: str) -> None:
    assert says in refused(segments(*rows))


def test_broken_json_is_named_with_its_line() -> None:
    assert "line 2: not JSON" in refused('{"uplink":\n{"trace_pattern": [}')


# rtt

RTT = "2020-04-06 18:50:12.000000_521.0,2020-04-06 18:50:12.398000_398.0,2020-04-06 18:50:12.439000_41.0"


def test_rtt_samples_end_at_their_stamps_and_the_delay_is_half() -> None:
    trace = parse(RTT, "file")
    assert trace.times_s == pytest.approx((0.0, 0.521, 0.919))
    assert trace.columns == {"delay_s": (0.2605, 0.199, 0.0205)}
    assert trace.period_s == pytest.approx(0.96)


@pytest.mark.parametrize(
    ("sample", "says"),
    [
        ("2020-04-06 18:50:11_41", "sample 4: stamps must not fall"),
        ("2020-04-06 18:50:13", "sample 4: '2020-04-06 18:50:13' is not"),
        ("2020-04-06 18:50:13_-1", "sample 4: RTT: -1 must be"),
        ("2020-04-36 18:50:13_1", "sample 4: day is out of range"),
    ],
)
def test_rtt_damage_is_named(sample: str, says: str) -> None:
    assert says in refused(f"{RTT},{sample}")


# starlink


def dish(**history: object) -> str:
    base = {
        "current": "5",
        "popPingDropRate": [0, 1, 0.5],
        "popPingLatencyMs": [40, 90, 60],
        "uplinkThroughputBps": [1e3, 2e3, 3e3],
    }
    return json.dumps({"dishGetHistory": {**base, **history}})


def test_starlink_starts_with_the_oldest_second_and_masks_the_latency_of_lost_pings() -> None:
    trace = parse(dish(), "file")  # 5 mod 3 = 2 is the oldest
    assert trace.times_s == (0.0, 1.0, 2.0)
    assert trace.columns == {"delay_s": (0.03, 0.02, 0.02), "loss": (0.5, 0.0, 1.0)}
    assert parse(dish(), "file", "starlink:up").columns["rate_bps"] == (3e3, 1e3, 2e3)


@pytest.mark.parametrize(
    ("history", "says"),
    [
        ({"popPingDropRate": [1, 1, 1]}, "every ping was lost"),
        ({"popPingDropRate": [0, 1]}, "different lengths"),
        ({"popPingDropRate": [0, 0, 2]}, "shares above 1"),
        ({"popPingLatencyMs": "none"}, 'no array "popPingLatencyMs"'),
        ({"popPingLatencyMs": [1, None, 1]}, "popPingLatencyMs[1]: None is not a number"),
    ],
)
def test_starlink_damage_is_named(history: dict[str, object], says: str) -> None:
    assert says in refused(dish(**history))


# traces


def test_a_cut_starts_at_zero_and_keeps_what_was_in_force() -> None:
    part = STEPS.cut(0.5, 3.5)
    assert (part.times_s, part.period_s) == ((0.0, 0.5, 2.5), 3.0)
    assert part.columns["rate_bps"] == (8e6, 0.0, 4e6)
    for wrong in ((3.0, 3.0), (-1.0, 2.0), (0.0, 7.0)):
        with pytest.raises(ValueError, match="lasts 6 s: there is nothing from"):
            STEPS.cut(*wrong)


def test_resampling_takes_means() -> None:
    assert STEPS.resampled("rate_bps", 2.0) == [4e6, 2e6, 4e6]
    assert len(load("lte-like").resampled("rate_bps", 1.0)) == 60
