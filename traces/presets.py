"""Statistics of real links, for the generator; each preset names the public data it was computed from.

All on a 1 s grid. `mean_bps` over all seconds of a pool of traces; `cv` is the coefficient of variation of the rate, outages
included, `autocorrelation_1s` and `_5s` its autocorrelation one and five seconds later, medians over the pool's traces. In an
outage second the rate is below 5 % of the mean; `cap` is 1.5 x p95 / mean. `phi` is the lag-1-second autocorrelation of ln rate,
which only the simpler model (`model=ar1`) uses. How well the generator meets them: `testbed traces presets`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """What the generator imitates. With `slot_s` the slow part of the rate is drawn anew on a grid of so many seconds (a
    satellite terminal is scheduled anew), and `autocorrelation_5s` follows from it."""

    name: str
    source: str
    mean_bps: float
    cv: float
    autocorrelation_1s: float
    autocorrelation_5s: float
    cap: float
    phi: float
    outage_share: float = 0.0
    outage_mean_s: float = 1.0
    slot_s: float = 0.0


_ALL = (
    Preset(
        name="3g",
        source="3G uplink, driving, US: 2 traces of ravinet/mahimahi",
        mean_bps=0.89e6,
        cv=0.44,
        autocorrelation_1s=0.79,
        autocorrelation_5s=0.51,
        phi=0.80,
        cap=1.5 * 1.42 / 0.89,
        outage_share=0.047,
        outage_mean_s=3.2,
    ),
    Preset(
        name="lte",
        source="4G LTE uplink, driving, US: 3 traces of ravinet/mahimahi (Verizon, T-Mobile, AT&T)",
        mean_bps=7.32e6,
        cv=0.60,
        autocorrelation_1s=0.74,
        autocorrelation_5s=0.27,
        phi=0.71,
        cap=1.5 * 24.68 / 7.32,
        outage_share=0.027,
        outage_mean_s=1.7,
    ),
    Preset(
        name="5g",
        source="5G NSA uplink, walking, Verizon: 10 runs of SIGCOMM21-5G/artifact",
        mean_bps=60.40e6,
        cv=0.44,
        autocorrelation_1s=0.53,
        autocorrelation_5s=0.49,
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
        autocorrelation_1s=0.25,
        autocorrelation_5s=0.27,
        phi=0.59,
        cap=1.5 * 52.40 / 28.00,
        outage_share=0.058,
        outage_mean_s=2.1,
    ),
    Preset(
        name="wifi",
        source="Wi-Fi 5 uplink, busy office: 19 traces of GreenLv/Solis-WiFi-Trace",
        mean_bps=14.82e6,
        cv=0.54,
        autocorrelation_1s=0.46,
        autocorrelation_5s=0.10,
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
        autocorrelation_1s=0.54,
        autocorrelation_5s=0.28,
        phi=0.68,
        cap=1.5 * 94.22 / 63.81,
        outage_share=0.031,
        outage_mean_s=1.8,
    ),
    Preset(
        name="fibre",
        source="assumed: a wide-area fibre path with a coefficient of variation of 0.05 and no outages (no measured pool)",
        mean_bps=1e9,
        cv=0.05,
        autocorrelation_1s=0.5,
        autocorrelation_5s=0.03,
        phi=0.5,
        cap=1.2,
    ),
    Preset(
        name="satellite",
        source="Starlink uplink: mean between Ookla's US medians of 2021 (13.9) and 2023 (9.7), slots of 15 s (arXiv "
        "2310.09242); variation, autocorrelation and outages (0.5 to 3 s, one in 35 s: some obstruction) are assumed",
        mean_bps=12.0e6,
        cv=0.50,
        autocorrelation_1s=0.60,
        autocorrelation_5s=0.36,
        phi=0.6,
        cap=2.5,
        outage_share=0.05,
        outage_mean_s=1.8,
        slot_s=15.0,
    ),
)
PRESETS: dict[str, Preset] = {preset.name: preset for preset in _ALL}
