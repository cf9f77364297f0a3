"""Statistics of real links, for the generator; each preset names the public data it was computed from.

`mean` in bit/s; `cv` is the coefficient of variation of the rate, outages included; `phi` the lag-1-second autocorrelation of
ln rate; `cap` is 1.5 x p95 / mean; an outage second has less than 5 % of the mean. All on a 1 s grid; `cv` and `phi` are medians
over the traces of a pool.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """What the generator imitates."""

    name: str
    source: str
    mean_bps: float
    cv: float
    phi: float
    cap: float
    outage_share: float = 0.0
    outage_mean_s: float = 1.0


_ALL = (
    Preset(
        name="lte",
        source="4G LTE uplink, driving, US: 3 traces of ravinet/mahimahi (Verizon, T-Mobile, AT&T)",
        mean_bps=7.32e6,
        cv=0.60,
        phi=0.71,
        cap=1.5 * 24.68 / 7.32,
        outage_share=0.027,
        outage_mean_s=1.7,
    ),
    Preset(
        name="wifi",
        source="Wi-Fi 5 uplink, busy office: 19 traces of GreenLv/Solis-WiFi-Trace",
        mean_bps=14.82e6,
        cv=0.54,
        phi=0.49,
        cap=1.5 * 34.41 / 14.82,
        outage_share=0.048,
        outage_mean_s=1.8,
    ),
    Preset(
        name="wifi-good",
        source="Wi-Fi 5 uplink, campus: 20 traces of GreenLv/Solis-WiFi-Trace",
        mean_bps=63.81e6,
        cv=0.34,
        phi=0.68,
        cap=1.5 * 94.22 / 63.81,
        outage_share=0.031,
        outage_mean_s=1.8,
    ),
    Preset(
        name="3g",
        source="3G uplink, driving, US: 2 traces of ravinet/mahimahi",
        mean_bps=0.89e6,
        cv=0.44,
        phi=0.80,
        cap=1.5 * 1.42 / 0.89,
        outage_share=0.047,
        outage_mean_s=3.2,
    ),
    Preset(
        name="5g",
        source="5G NSA uplink, walking, Verizon: 10 runs of SIGCOMM21-5G/artifact",
        mean_bps=60.40e6,
        cv=0.44,
        phi=0.48,
        cap=1.5 * 114.0 / 60.40,
        outage_share=0.031,
        outage_mean_s=1.5,
    ),
    Preset(
        name="5g-sa",
        source="5G SA low-band uplink, walking, T-Mobile US: 5 runs of SIGCOMM21-5G/artifact",
        mean_bps=28.00e6,
        cv=0.70,
        phi=0.59,
        cap=1.5 * 52.40 / 28.00,
        outage_share=0.058,
        outage_mean_s=2.1,
    ),
    Preset(
        name="fibre",
        source="assumed: a wide-area fibre path with a coefficient of variation below 0.05 and no outages (no measured pool)",
        mean_bps=1e9,
        cv=0.05,
        phi=0.5,
        cap=1.2,
    ),
)
PRESETS: dict[str, Preset] = {preset.name: preset for preset in _ALL}
