"""Whole files have the mean rate, period and outages that are published or stated for them.

The shipped traces are always checked. Recorded ones are not ours to ship: put a copy into a folder and name it in D3_TRACE_DIR
(or keep it in any `traces` folder of a sibling of this checkout), and they are checked as well.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from traces.load import DATA, load

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Stated:
    """What a file's table says: mean in Mbit/s, duration in s, share of 1 s steps below max(0.05 Mbit/s, 5 % of the mean)."""

    file: str
    mean_mbps: float
    duration_s: float
    outage_share: float


SHIPPED = (
    Stated("lte-like.csv", 12.0, 60.0, 0.033),
    Stated("lte-like-mahimahi.up", 4.0, 20.0, 0.0),
    Stated("wifi-office-like.txt", 14.82, 120.0, 0.05),
)
RECORDED = (
    Stated("mahimahi/Verizon-LTE-short.up", 5.95, 140.0, 0.007),
    Stated("mahimahi/Verizon-LTE-short.down", 5.03, 140.0, 0.0),
    Stated("mahimahi/ATT-LTE-driving-2016.up", 1.91, 120.0, 0.067),
    Stated("mahimahi/TMobile-UMTS-driving.up", 0.94, 931.2, 0.048),
    Stated("nyc-cellular/trace-3201711-timessquare", 3.97, 128.1, 0.016),
    Stated("solis-wifi/wifi_campus_231115-192852.txt", 72.39, 200.0, 0.0),
    Stated("solis-wifi/wifi_office_231114-160442.txt", 12.81, 200.0, 0.045),
    Stated("solis-wifi/wifi_cafe_231115-151422.txt", 7.86, 200.0, 0.0),
    Stated("lumos5g/5g_trace_9_walking", 587.6, 749.0, 0.060),
    Stated("hsdpa-norway/norway_bus_1?format=pairs:pensieve", 2.92, 154.76, 0.0),
    Stated("fcc/trace_10322_http---edition.cnn.com?format=pairs:pensieve", 0.89, 1500.0, 0.0),
    Stated("oboe/trace_0.txt", 2.63, 176.1, 0.0),
    Stated("ugent-4g/report_foot_0006.log", 22.14, 584.1, 0.038),
    Stated("ucc-5g/B_2020.02.27_20.35.57.csv", 28.16, 850.0, 0.215),
    Stated("sigcomm21-5g/ELDERBERRY_374-run15657-iPerf.csv", 66.99, 1299.0, 0.0),
    Stated("sigcomm21-5g/S20UPM-run20070-iPerf.csv", 25.60, 1086.0, 0.133),  # 1081 intervals, and five that are missing
    Stated("opennetlab/4G_3mbps.json?format=opennetlab:cap=0", 30.20, 60.9, 0.133),
    Stated("opennetlab/5G_12mbps.json", 11.64, 61.0, 0.0),
    Stated("opennetlab/WIRED_35mbps.json?format=opennetlab:cap=0", 352.6, 61.4, 0.016),
    Stated("opennetlab/trace_example.json", 0.39, 106.0, 0.0),
)


def recordings() -> Path | None:
    """The folder of recorded traces, if there is one."""
    named = os.environ.get("D3_TRACE_DIR")
    if named:
        return Path(named)
    found = sorted(ROOT.parent.glob(f"*/traces/{RECORDED[0].file}"))
    return found[0].parent.parent if found else None


def cases() -> list[tuple[Path, Stated]]:
    folder = recordings()
    return [(DATA, stated) for stated in SHIPPED] + [(folder, stated) for stated in RECORDED if folder is not None]


@pytest.mark.parametrize(("folder", "stated"), cases(), ids=lambda value: getattr(value, "file", ""))
def test_mean_duration_and_outages_are_as_stated(folder: Path, stated: Stated):
    trace = load(stated.file, folder)
    assert trace.period_s == pytest.approx(stated.duration_s, abs=0.06)
    ends = (*trace.times_s[1:], trace.period_s)
    rows = list(zip(trace.columns["rate_bps"], trace.times_s, ends, strict=True))
    mean_mbps = sum(rate * (end - start) for rate, start, end in rows) / trace.period_s / 1e6
    assert mean_mbps == pytest.approx(stated.mean_mbps, rel=0.01)
    seconds = [0.0] * int(trace.period_s)
    for rate, start, end in rows:
        for second in range(int(start), min(int(end) + 1, len(seconds))):
            seconds[second] += rate * max(0.0, min(end, second + 1) - max(start, second))
    threshold = max(0.05e6, 0.05e6 * mean_mbps)
    share = sum(rate < threshold for rate in seconds) / len(seconds)
    assert share == pytest.approx(stated.outage_share, abs=0.02)
