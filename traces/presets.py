"""Statistics of real links, for the generator; each preset names the public data it was computed from.

`mean` in bit/s; `sigma` and `phi` are the standard deviation and lag-1-second autocorrelation of ln(rate / trace mean), rates
floored at 2 % of the mean; `cap` is 1.5 x p95 / mean; an outage second has less than 5 % of the mean; `levels[a][b]` is the
probability per second to go from level a to b, where low is below half the mean and high above 1.5 times the mean. All on a 1 s grid.
"""

from __future__ import annotations

from dataclasses import dataclass

Levels = tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True)
class Preset:
    """What the generator imitates. `levels` None means that the auto-regression alone decides."""

    name: str
    source: str
    mean_bps: float
    sigma: float
    phi: float
    cap: float
    outage_share: float = 0.0
    outage_mean_s: float = 1.0
    levels: Levels | None = None


_ALL = (
    Preset(
        name="lte",
        source="4G LTE uplink, driving, US: 3 traces of ravinet/mahimahi (Verizon, T-Mobile, AT&T)",
        mean_bps=7.32e6,
        sigma=0.76,
        phi=0.71,
        cap=1.5 * 24.68 / 7.32,
        outage_share=0.027,
        outage_mean_s=1.7,
        levels=((0.70, 0.25, 0.05), (0.09, 0.83, 0.08), (0.02, 0.27, 0.71)),
    ),
    Preset(
        name="wifi",
        source="Wi-Fi 5 uplink, busy office: 19 traces of GreenLv/Solis-WiFi-Trace",
        mean_bps=14.82e6,
        sigma=0.87,
        phi=0.49,
        cap=1.5 * 34.41 / 14.82,
        outage_share=0.048,
        outage_mean_s=1.8,
        levels=((0.53, 0.36, 0.11), (0.08, 0.82, 0.11), (0.04, 0.58, 0.38)),
    ),
    Preset(
        name="wifi-good",
        source="Wi-Fi 5 uplink, campus: 20 traces of GreenLv/Solis-WiFi-Trace",
        mean_bps=63.81e6,
        sigma=0.68,
        phi=0.68,
        cap=1.5 * 94.22 / 63.81,
        outage_share=0.031,
        outage_mean_s=1.8,
        levels=((0.68, 0.31, 0.01), (0.04, 0.91, 0.05), (0.04, 0.70, 0.26)),
    ),
    Preset(
        name="3g",
        source="3G uplink, driving, US: 2 traces of ravinet/mahimahi",
        mean_bps=0.89e6,
        sigma=0.97,
        phi=0.80,
        cap=1.5 * 1.42 / 0.89,
        outage_share=0.047,
        outage_mean_s=3.2,
        levels=((0.73, 0.27, 0.01), (0.06, 0.88, 0.07), (0.01, 0.60, 0.39)),
    ),
    Preset(
        name="5g",
        source="5G NSA uplink, walking, Verizon: 10 runs of SIGCOMM21-5G/artifact",
        mean_bps=60.40e6,
        sigma=0.55,
        phi=0.48,
        cap=1.5 * 114.0 / 60.40,
        outage_share=0.031,
        outage_mean_s=1.5,
        levels=((0.67, 0.31, 0.02), (0.08, 0.86, 0.06), (0.02, 0.31, 0.67)),
    ),
    Preset(
        name="5g-sa",
        source="5G SA low-band uplink, walking, T-Mobile US: 5 runs of SIGCOMM21-5G/artifact",
        mean_bps=28.00e6,
        sigma=0.93,
        phi=0.59,
        cap=1.5 * 52.40 / 28.00,
        outage_share=0.058,
        outage_mean_s=2.1,
        levels=((0.50, 0.43, 0.07), (0.12, 0.71, 0.17), (0.08, 0.63, 0.29)),
    ),
    Preset(
        name="fibre",
        source="assumed: a wide-area fibre path with a coefficient of variation below 0.05 and no outages (no measured pool)",
        mean_bps=1e9,
        sigma=0.03,
        phi=0.5,
        cap=1.2,
    ),
)
PRESETS: dict[str, Preset] = {preset.name: preset for preset in _ALL}
